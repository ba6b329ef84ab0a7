"""One DigitalOcean account: what it owns, how its droplets live, and where that is kept."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import settings
from lab.digitalocean.catalogue import IMAGES, JSON, REGIONS, SIZES
from lab.digitalocean.domains import Domains
from lab.digitalocean.errors import not_found, pending_event, unprocessable
from lab.digitalocean.firewalls import Firewalls
from lab.digitalocean.machines import FirewallRules, Machines, MachineSpec, RecordsOnly
from lab.digitalocean.traffic import Traffic

log = logging.getLogger(__name__)

Zones = dict[str, list[JSON]]

USER_DATA_LIMIT = 64 * 1024
FIRST_HOST = 10
_FIRST_ID = 400_000_001
_TAG = re.compile(r"[a-zA-Z0-9_:-]{1,255}")
_DROPLET_NAME = re.compile(r"(?=.{1,255}$)[a-zA-Z0-9]?[a-z0-9A-Z.-]*[a-z0-9A-Z]")
_POWER = {"power_on": True, "power_off": False, "shutdown": False, "reboot": True, "power_cycle": True}


@dataclass
class Profile:
    """What the control interface may change: the account's own fields, its limits, and how slow its droplets are.

    `boot_seconds` pass until a droplet is active, `address_seconds` more until it has an address. Limits a minute of 0
    are not enforced.
    """

    email: str = "operator@lab.test"
    uuid: str = "8f7b6d3a-1c52-4f0e-9a57-2f0d3f6f5b11"
    status: str = "active"
    status_message: str = ""
    droplet_limit: int = 25
    boot_seconds: float = 0.2
    address_seconds: float = 0.2
    requests_per_minute: int = 0
    key_reads_per_minute: int = 0

    def update(self, body: JSON) -> None:
        """Set the given fields. Raises ValueError for one that does not exist or a value of the wrong type."""
        types = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        for name, value in body.items():
            if name not in types:
                raise ValueError(f"unknown: {name}; known: {', '.join(types)}")
            allowed = (int, float) if types[name] is float else (types[name],)
            if type(value) not in allowed:
                raise ValueError(f"{name} = {value!r}: must be {types[name].__name__}")
        for name, value in body.items():
            setattr(self, name, value)


@dataclass
class Key:
    id: int
    fingerprint: str
    public_key: str
    name: str


@dataclass
class Droplet:
    id: int
    name: str
    region: str
    size: str
    image: str
    address: str
    created_at: str
    user_data: str
    public_keys: list[str]
    tags: list[str]
    features: list[str]
    status: str = "new"
    has_address: bool = False


@dataclass
class _Machine:
    """The side of a droplet that is not saved: is there a machine, and which rules lie on its link."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    exists: bool = False
    firewall: FirewallRules | None = None
    life: asyncio.Task[None] | None = None


class Account:
    """Keys, tags, droplets, actions, domains and firewalls, kept in `state_file` when one is given.

    Changes are made by its methods and take effect (machines' firewalls, DNS, the file) with `commit`. Methods raise
    ApiError as the API would answer. `domains` exist from the start and again after `reset`; `on_zones_changed` is
    called with all zones ({domain: [record]}) whenever one differs, and at the start.
    """

    def __init__(
        self,
        state_file: Path | None = None,
        *,
        network: str = settings.DROPLETS_NETWORK,
        gateway: str = settings.DROPLETS_GATEWAY,
        domains: Sequence[str] = (),
        on_zones_changed: Callable[[Zones], Awaitable[None]] | None = None,
    ) -> None:
        self.on_zones_changed = on_zones_changed
        self.traffic = Traffic()
        self.refused_tokens: set[str] = set()
        self.machines: Machines = RecordsOnly()
        self._state_file = state_file
        self._network = ipaddress.IPv4Network(network)
        self._gateway = gateway
        self._first_domains = tuple(domains)
        self._machines: dict[int, _Machine] = {}
        self._published: Zones | None = None
        self._committing = asyncio.Lock()
        self._last_id = _FIRST_ID - 1
        self._begin()
        if state_file and state_file.exists():
            self._load(json.loads(state_file.read_text()))

    def _begin(self) -> None:
        self.profile = Profile()
        self.keys: dict[int, Key] = {}
        self.tags: list[str] = []
        self.droplets: dict[int, Droplet] = {}
        self.actions: dict[int, JSON] = {}
        self.firewalls = Firewalls()
        self.domains = Domains(self._new_id)
        for name in self._first_domains:
            self.domains.create(name)

    # Life of the account

    async def start(self, machines: Machines) -> None:
        """Put machines behind the droplets, bring back those that the state file knows, and publish the zones."""
        self.machines = machines
        for droplet in self.droplets.values():
            if droplet.status != "off":
                self._live(droplet, self._boot(droplet))
        await self.commit()

    async def stop(self) -> None:
        """End the tasks that carry droplets through their life; the machines stay."""
        lives = [machine.life for machine in self._machines.values() if machine.life]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    async def reset(self) -> None:
        """Destroy all machines and begin again: an empty account, no faults, no log; ids are never reused."""
        for droplet_id in list(self.droplets):
            await self.destroy_droplet(droplet_id)
        self._begin()
        self.refused_tokens.clear()
        self.traffic.clear()
        await self.commit()

    async def commit(self) -> None:
        """Let what was changed take effect: the state file, the zones, the firewalls of the machines."""
        async with self._committing:
            self._save()
            zones = self.domains.dump()
            if zones != self._published and self.on_zones_changed:
                await self.on_zones_changed(zones)
                self._published = zones
            for droplet in list(self.droplets.values()):
                machine = self._machine(droplet.id)
                if machine.exists and machine.firewall != self.firewall_of(droplet):
                    async with machine.lock:
                        if droplet.id in self.droplets:
                            await self._apply_firewall(droplet)

    def dump(self) -> JSON:
        """The whole state as it is saved."""
        return {
            "last_id": self._last_id,
            "profile": asdict(self.profile),
            "keys": [asdict(key) for key in self.keys.values()],
            "tags": self.tags,
            "droplets": [asdict(droplet) for droplet in self.droplets.values()],
            "actions": list(self.actions.values()),
            "domains": self.domains.dump(),
            "firewalls": self.firewalls.dump(),
        }

    def _load(self, dump: JSON) -> None:
        self._last_id = dump["last_id"]
        self.profile = Profile(**dump["profile"])
        self.keys = {key["id"]: Key(**key) for key in dump["keys"]}
        self.tags = dump["tags"]
        self.droplets = {droplet["id"]: Droplet(**droplet) for droplet in dump["droplets"]}
        self.actions = {action["id"]: action for action in dump["actions"]}
        self.domains.load(dump["domains"])
        self.firewalls.load(dump["firewalls"])

    def _save(self) -> None:
        if self._state_file is None:
            return
        # user_data carries host keys.
        unfinished = self._state_file.with_suffix(".new")
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.dump(), file)
        unfinished.replace(self._state_file)

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    # Keys

    def add_key(self, name: Any, public_key: Any) -> Key:
        words = public_key.split() if isinstance(public_key, str) else []
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (IndexError, ValueError):
            raise unprocessable("Key invalid, key should be of the format `type key [comment]`") from None
        if not isinstance(name, str) or not name:
            raise unprocessable("Name can't be blank")
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(digest[i : i + 2] for i in range(0, 32, 2))
        if any(key.fingerprint == fingerprint for key in self.keys.values()):
            raise unprocessable("SSH Key is already in use on your account")
        key = Key(self._new_id(), fingerprint, public_key, name)
        self.keys[key.id] = key
        return key

    def key(self, identifier: str | int) -> Key:
        """A key by id or MD5 fingerprint."""
        for key in self.keys.values():
            if str(identifier) in (str(key.id), key.fingerprint):
                return key
        raise not_found()

    # Tags

    def tag(self, name: str) -> str:
        """A tag as it was first written; case does not tell tags apart."""
        for tag in self.tags:
            if tag.lower() == name.lower():
                return tag
        raise not_found()

    def add_tag(self, name: Any) -> str:
        """Make a tag, or find it."""
        if not isinstance(name, str) or not _TAG.fullmatch(name):
            raise unprocessable("Name is invalid: letters, numbers, colons, dashes and underscores only, at most 255")
        if name.lower() not in (tag.lower() for tag in self.tags):
            self.tags.append(name)
        return self.tag(name)

    def delete_tag(self, name: str) -> None:
        tag = self.tag(name)
        self.tags.remove(tag)
        for droplet in self.droplets.values():
            droplet.tags = [other for other in droplet.tags if other != tag]
        self.firewalls.forget_tag(tag)

    def tag_resources(self, name: str, resources: Iterable[JSON], add: bool) -> None:
        """Put a tag on droplets, or take it off. All of them must exist."""
        tag = self.tag(name)
        droplets = []
        for resource in resources:
            if resource.get("resource_type") != "droplet":
                raise unprocessable("resource_type must be droplet")
            droplets.append(self.droplet(resource.get("resource_id")))
        for droplet in droplets:
            without = [other for other in droplet.tags if other != tag]
            droplet.tags = [*without, tag] if add else without

    # Droplets

    def droplet(self, id: Any) -> Droplet:
        try:
            return self.droplets[int(id)]
        except (KeyError, TypeError, ValueError):
            raise not_found() from None

    def create_droplet(self, body: JSON) -> tuple[Droplet, JSON]:
        """Begin a droplet's life; returns it, still new and without an address, and its create action."""
        name = body.get("name")
        if not isinstance(name, str) or not _DROPLET_NAME.fullmatch(name):
            raise unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
        size = SIZES.get(str(body.get("size")))
        if size is None:
            raise unprocessable("You specified an invalid size for Droplet creation.")
        region = body.get("region") or size["regions"][0]
        if region not in REGIONS:
            raise unprocessable("You specified an invalid region for Droplet creation.")
        if not REGIONS[region]["available"]:
            raise unprocessable("Region is not available")
        if region not in size["regions"]:
            raise unprocessable("Size is not available in this region.")
        image = next((i for i in IMAGES.values() if body.get("image") in (i["slug"], i["id"])), None)
        if image is None:
            raise unprocessable("You specified an invalid image for Droplet creation.")
        user_data = body.get("user_data") or ""
        if len(user_data) > USER_DATA_LIMIT:
            raise unprocessable("User data is too long (maximum is 64 KiB)")
        if not user_data.isascii():
            raise unprocessable("User data must be ASCII")
        public_keys = self._chosen_keys(body.get("ssh_keys") or [])
        tags = [self.add_tag(tag) for tag in body.get("tags") or []]
        if len(self.droplets) >= self.profile.droplet_limit:
            raise unprocessable("creating this/these droplet(s) will exceed your droplet limit")
        features = ["droplet_agent", "private_networking"]
        droplet = Droplet(
            id=self._new_id(),
            name=name,
            region=region,
            size=size["slug"],
            image=image["slug"],
            address=self._free_address(),
            created_at=now(),
            user_data=user_data,
            public_keys=public_keys,
            tags=list(dict.fromkeys(tags)),
            features=features + (["monitoring"] if body.get("monitoring") else []),
        )
        self.droplets[droplet.id] = droplet
        action = self._begin_action(droplet, "create")
        self._live(droplet, self._boot(droplet))
        return droplet, action

    async def destroy_droplet(self, id: Any) -> None:
        """End a droplet's machine, then forget it; its address is free only after that."""
        droplet = self.droplet(id)
        machine = self._machine(droplet.id)
        async with machine.lock:
            if droplet.id not in self.droplets:
                raise not_found()
            if machine.life:
                machine.life.cancel()
            await self.machines.destroy(droplet.id)
            del self.droplets[droplet.id]
            del self._machines[droplet.id]
            self.firewalls.forget_droplet(droplet.id)
            for action in self._running_actions(droplet):
                self._end_action(action, "errored")

    def act(self, id: Any, body: JSON) -> JSON:
        """Begin an action on a droplet: one of the power actions, or rename."""
        droplet = self.droplet(id)
        kind = body.get("type")
        if kind not in (*_POWER, "rename"):
            raise unprocessable("You specified an invalid action type.")
        if self._running_actions(droplet):
            raise pending_event()
        if kind == "rename":
            name = body.get("name")
            if not isinstance(name, str) or not _DROPLET_NAME.fullmatch(name):
                raise unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
        elif kind == "power_on" and droplet.status == "active":
            raise unprocessable("Droplet is already powered on.")
        elif kind != "power_on" and droplet.status == "off":
            raise unprocessable("Droplet is currently off. Please power it on to run this event.")
        action = self._begin_action(droplet, kind)
        self._live(droplet, self._perform(droplet, action, body))
        return action

    def droplet_document(self, droplet: Droplet) -> JSON:
        """A droplet in the API's shape. Its private address comes first, as it may in reality."""
        size = SIZES[droplet.size]
        host = int(droplet.address.rsplit(".", 1)[1])
        return {
            "id": droplet.id,
            "name": droplet.name,
            "memory": size["memory"],
            "vcpus": size["vcpus"],
            "disk": size["disk"],
            "disk_info": size["disk_info"],
            "locked": bool(self._running_actions(droplet)),
            "status": droplet.status,
            "kernel": None,
            "created_at": droplet.created_at,
            "features": droplet.features,
            "backup_ids": [],
            "next_backup_window": None,
            "snapshot_ids": [],
            "image": IMAGES[droplet.image],
            "volume_ids": [],
            "size": size,
            "size_slug": droplet.size,
            "networks": {
                "v4": [
                    {
                        "ip_address": f"10.135.0.{host}",
                        "netmask": "255.255.0.0",
                        "gateway": "10.135.0.1",
                        "type": "private",
                    },
                    {
                        "ip_address": droplet.address,
                        "netmask": str(self._network.netmask),
                        "gateway": self._gateway,
                        "type": "public",
                    },
                ]
                if droplet.has_address
                else [],
                "v6": [],
            },
            "region": REGIONS[droplet.region],
            "tags": droplet.tags,
            "vpc_uuid": "5a4981aa-9653-4bd1-bef5-d6bff52042e4",
        }

    def machine_spec(self, droplet: Droplet) -> MachineSpec:
        return MachineSpec(
            id=droplet.id,
            name=droplet.name,
            region=droplet.region,
            size=droplet.size,
            image=droplet.image,
            address=droplet.address,
            prefix=self._network.prefixlen,
            gateway=self._gateway,
            user_data=droplet.user_data,
            public_keys=tuple(droplet.public_keys),
        )

    def firewall_of(self, droplet: Droplet) -> FirewallRules | None:
        """The rules of all firewalls that select a droplet, merged."""
        return self.firewalls.effective(droplet.id, droplet.tags, self._networks)

    def _networks(self, peers: JSON) -> Iterable[str]:
        for address in peers.get("addresses", []):
            yield str(ipaddress.ip_network(address, strict=False))
        tags: Collection[str] = peers.get("tags", [])
        ids: Collection[int] = peers.get("droplet_ids", [])
        for droplet in self.droplets.values():
            if droplet.id in ids or set(tags) & set(droplet.tags):
                yield f"{droplet.address}/32"

    def _chosen_keys(self, identifiers: list[str | int]) -> list[str]:
        chosen = {str(name): key for key in self.keys.values() for name in (key.id, key.fingerprint)}
        if unknown := [str(identifier) for identifier in identifiers if str(identifier) not in chosen]:
            raise unprocessable(f"{', '.join(unknown)} are invalid key identifiers for Droplet creation.")
        return list(dict.fromkeys(chosen[str(identifier)].public_key for identifier in identifiers))

    def _free_address(self) -> str:
        taken = {droplet.address for droplet in self.droplets.values()} | {self._gateway}
        for host in list(self._network.hosts())[FIRST_HOST - 1 :]:
            if str(host) not in taken:
                return str(host)
        raise unprocessable("No address is left in this region.")

    # A droplet's life

    def _machine(self, droplet_id: int) -> _Machine:
        return self._machines.setdefault(droplet_id, _Machine())

    def _live(self, droplet: Droplet, life: Coroutine[Any, Any, None]) -> None:
        self._machine(droplet.id).life = asyncio.create_task(life)

    async def _boot(self, droplet: Droplet) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await self._start_machine(droplet)
        except Exception:
            log.exception("droplet %s: no machine could be made", droplet.id)
            self._end_actions(droplet, "errored")
            return
        if droplet.status == "new":
            await asyncio.sleep(self.profile.boot_seconds - (asyncio.get_running_loop().time() - began))
            droplet.status = "active"
        self._end_actions(droplet, "completed")
        if not droplet.has_address:
            await asyncio.sleep(self.profile.address_seconds)
            droplet.has_address = True
            self._save()

    async def _start_machine(self, droplet: Droplet) -> None:
        machine = self._machine(droplet.id)
        async with machine.lock:
            if machine.exists:
                await self.machines.power(droplet.id, True)
            else:
                await self.machines.create(self.machine_spec(droplet))
                machine.exists = True
            await self._apply_firewall(droplet)

    async def _perform(self, droplet: Droplet, action: JSON, body: JSON) -> None:
        kind = action["type"]
        try:
            if kind == "rename":
                droplet.name = body["name"]
            else:
                if kind != "power_on":
                    async with self._machine(droplet.id).lock:
                        await self.machines.power(droplet.id, False)
                    droplet.status = "off"
                if _POWER[kind]:
                    await self._start_machine(droplet)
                    droplet.status = "active"
        except Exception:
            log.exception("droplet %s: %s failed", droplet.id, kind)
            self._end_actions(droplet, "errored")
        else:
            self._end_actions(droplet, "completed")

    async def _apply_firewall(self, droplet: Droplet) -> None:
        machine = self._machine(droplet.id)
        rules = self.firewall_of(droplet)
        await self.machines.set_firewall(droplet.id, rules)
        machine.firewall = rules

    def _begin_action(self, droplet: Droplet, kind: str) -> JSON:
        action: JSON = {
            "id": self._new_id(),
            "status": "in-progress",
            "type": kind,
            "started_at": now(),
            "completed_at": None,
            "resource_id": droplet.id,
            "resource_type": "droplet",
            "region": REGIONS[droplet.region],
            "region_slug": droplet.region,
        }
        self.actions[action["id"]] = action
        return action

    def _running_actions(self, droplet: Droplet) -> list[JSON]:
        return [a for a in self.actions.values() if a["resource_id"] == droplet.id and a["status"] == "in-progress"]

    def _end_actions(self, droplet: Droplet, status: str) -> None:
        for action in self._running_actions(droplet):
            self._end_action(action, status)
        self._save()

    @staticmethod
    def _end_action(action: JSON, status: str) -> None:
        action.update(status=status, completed_at=now())


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
