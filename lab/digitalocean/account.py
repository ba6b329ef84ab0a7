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
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lab import settings
from lab.digitalocean import backups, projects, reserved_ips
from lab.digitalocean.actions import Actions, now
from lab.digitalocean.catalogue import JSON, REGIONS, SIZES
from lab.digitalocean.domains import Domains
from lab.digitalocean.droplets import Droplet, Droplets
from lab.digitalocean.errors import ApiError, not_found, pending_event, unprocessable
from lab.digitalocean.firewalls import Firewalls
from lab.digitalocean.images import Images, Snapshot
from lab.digitalocean.machines import FirewallRules, Machines, MachineSpec, RecordsOnly
from lab.digitalocean.projects import Projects
from lab.digitalocean.reserved_ips import ReservedIp, ReservedIps
from lab.digitalocean.traffic import Traffic

log = logging.getLogger(__name__)

Zones = dict[str, list[JSON]]

USER_DATA_LIMIT = 64 * 1024
RESERVED_IP_CREATIONS_PER_MINUTE = 12
"""https://docs.digitalocean.com/products/networking/reserved-ips/details/limits/"""
_FIRST_ID = 400_000_001
_SAVE_SECONDS = 0.1
_TAG = re.compile(r"[a-zA-Z0-9_:-]{1,255}")
_DROPLET_NAME = re.compile(r"(?=.{1,255}$)[a-zA-Z0-9]?[a-z0-9A-Z.-]*[a-z0-9A-Z]")
_POWER = {"power_on": True, "power_off": False, "shutdown": False, "reboot": True, "power_cycle": True}
_BACKUPS = ("enable_backups", "disable_backups", "change_backup_policy")
# Each droplet has the same number in these two as in the public network.
_PRIVATE = ipaddress.IPv4Network("10.135.0.0/16")
_ANCHORS = ipaddress.IPv4Network(settings.ANCHORS_NETWORK)
_GIB = 1024**3


@dataclass
class Profile:
    """What the control interface may change: the account's own fields, its limits, and how slow things are.

    `boot_seconds` pass until a droplet is active, `address_seconds` more until it has an address; `action_seconds` are
    what actions take that have no machine to wait for. Limits a minute or an hour of 0 are not enforced.
    `reserved_ip_first` lists a droplet's reserved IP before its own address, since the API promises no order.
    """

    email: str = "operator@lab.test"
    uuid: str = "8f7b6d3a-1c52-4f0e-9a57-2f0d3f6f5b11"
    status: str = "active"
    status_message: str = ""
    droplet_limit: int = 25
    reserved_ip_limit: int = 3
    boot_seconds: float = 0.2
    address_seconds: float = 0.2
    action_seconds: float = 0.1
    requests_per_hour: int = 0
    requests_per_minute: int = 0
    key_reads_per_minute: int = 0
    reserved_ips_per_minute: int = RESERVED_IP_CREATIONS_PER_MINUTE
    reserved_ip_first: bool = False

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
class _Machine:
    """The side of a droplet that is not saved: is there a machine, and which rules lie on its link."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    exists: bool = False
    firewall: FirewallRules | None = None
    life: asyncio.Task[None] | None = None


class Account:
    """Everything an account has, kept in `state_file` when one is given.

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
        # Tokens with custom scopes; all others may do everything.
        self.scopes: dict[str, frozenset[str]] = {}
        self.machines: Machines = RecordsOnly()
        self._state_file = state_file
        self._network = network
        self._gateway = gateway
        self._first_domains = tuple(domains)
        self._machines: dict[int, _Machine] = {}
        self._published: int | None = None
        self._touched: set[int] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._saving: asyncio.TimerHandle | None = None
        self._committing = asyncio.Lock()
        self._last_id = _FIRST_ID - 1
        self._begin()
        if state_file and state_file.exists():
            self._load(json.loads(state_file.read_text()))

    def _begin(self) -> None:
        self.profile = Profile()
        self.keys: dict[int, Key] = {}
        # By their name in lower case, as they were first written.
        self._tags: dict[str, str] = {}
        self.droplets = Droplets(self._network)
        self.actions = Actions(self._new_id)
        self.firewalls = Firewalls()
        self.images = Images(self._new_id)
        self.reserved_ips = ReservedIps()
        self.domains = Domains(self._new_id)
        for name in self._first_domains:
            self.domains.create(name)
        self.projects = Projects(self.profile.uuid, self._urns)

    def _urns(self) -> Iterable[str]:
        return projects.urns(self.droplets.ids(), self.domains.names(), [each.ip for each in self.reserved_ips.all()])

    # Life of the account

    async def start(self, machines: Machines) -> None:
        """Put machines behind the droplets, bring back those that the state file knows, and publish the zones."""
        self.machines = machines
        for droplet in self.droplets:
            if droplet.status != "off":
                self._live(droplet, self._boot(droplet))
        for reserved in self.reserved_ips.all():
            self.actions.end("reserved_ip", reserved.number, "errored")
            if reserved.droplet_id is not None:
                await self.machines.route(reserved.ip, self.anchor_of(self.droplets.get(reserved.droplet_id)))
        await self.commit()

    async def stop(self) -> None:
        """End the tasks that carry droplets through their life; the machines stay."""
        lives = [machine.life for machine in self._machines.values() if machine.life] + list(self._working)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        if self._saving and self._state_file:
            self._saving.cancel()
            self._write(self._state_file)

    async def reset(self) -> None:
        """Destroy all machines and begin again: an empty account, no faults, no log; ids are never reused."""
        for work in list(self._working):
            work.cancel()
        for droplet_id in list(self.droplets.ids()):
            await self.destroy_droplet(droplet_id)
        for snapshot in self.images.snapshots():
            await self.delete_snapshot(snapshot.id)
        self._begin()
        self._published = None
        self.refused_tokens.clear()
        self.scopes.clear()
        self.traffic.clear()
        await self.commit()

    async def commit(self) -> None:
        """Let what was changed take effect: the state file, the zones, the firewalls of the machines."""
        async with self._committing:
            self._save()
            if self.domains.version != self._published and self.on_zones_changed:
                version = self.domains.version
                await self.on_zones_changed(self.domains.dump())
                self._published = version
            for droplet in self._with_changed_firewalls():
                machine = self._machine(droplet.id)
                if machine.exists and machine.firewall != self.firewall_of(droplet):
                    async with machine.lock:
                        if droplet.id in self.droplets:
                            await self._apply_firewall(droplet)

    def _with_changed_firewalls(self) -> list[Droplet]:
        """The droplets for which something has changed; all of them where a rule names tags or droplets."""
        ids, tags = self.firewalls.changed()
        ids |= self._touched
        self._touched = set()
        if self.firewalls.name_droplets:
            return list(self.droplets)
        chosen = {id for id in ids if id in self.droplets} | {droplet.id for droplet in self.droplets.tagged(*tags)}
        return [self.droplets.get(id) for id in sorted(chosen)]

    def dump(self) -> JSON:
        """The whole state as it is saved."""
        return {
            "last_id": self._last_id,
            "profile": asdict(self.profile),
            "keys": [asdict(key) for key in self.keys.values()],
            "tags": self.tags(),
            "droplets": self.droplets.dump(),
            "actions": self.actions.dump(),
            "images": self.images.dump(),
            "reserved_ips": self.reserved_ips.dump(),
            "domains": self.domains.dump(),
            "firewalls": self.firewalls.dump(),
            **self.projects.dump(),
        }

    def _load(self, dump: JSON) -> None:
        self._last_id = dump["last_id"]
        self.profile = Profile(**dump["profile"])
        self.keys = {key["id"]: Key(**key) for key in dump["keys"]}
        self._tags = {tag.lower(): tag for tag in dump["tags"]}
        self.droplets.load(dump["droplets"])
        self.actions.load(dump["actions"])
        self.images.load(dump["images"])
        self.reserved_ips.load(dump["reserved_ips"])
        self.domains.load(dump["domains"])
        self.firewalls.load(dump["firewalls"])
        self.projects.load(dump)

    def _save(self) -> None:
        """Write the state file soon: all changes of a moment at once, since it holds everything."""
        if self._state_file is not None and self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(_SAVE_SECONDS, self._write, self._state_file)

    def _write(self, state_file: Path) -> None:
        self._saving = None
        # user_data carries host keys.
        unfinished = state_file.with_suffix(".new")
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.dump(), file)
        unfinished.replace(state_file)

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

    def tags(self) -> list[str]:
        return list(self._tags.values())

    def tag(self, name: str) -> str:
        """A tag as it was first written; case does not tell tags apart."""
        if name.lower() not in self._tags:
            raise not_found()
        return self._tags[name.lower()]

    def spelling(self, name: str) -> str:
        """A tag as the account has it; as it is given where there is none."""
        return self._tags.get(name.lower(), name)

    def add_tag(self, name: Any) -> str:
        """Make a tag, or find it."""
        if not isinstance(name, str) or not _TAG.fullmatch(name):
            raise unprocessable("Name is invalid: letters, numbers, colons, dashes and underscores only, at most 255")
        return self._tags.setdefault(name.lower(), name)

    def delete_tag(self, name: str) -> None:
        tag = self.tag(name)
        for droplet in self.droplets.tagged(tag):
            self._set_tags(droplet, [other for other in droplet.tags if other != tag])
        self.images.forget_tag(tag)
        self.firewalls.forget_tag(tag)
        del self._tags[tag.lower()]

    def tag_resources(self, name: str, resources: Iterable[JSON], add: bool) -> None:
        """Put a tag on droplets and images, or take it off. All of them must exist."""
        tag = self.tag(name)
        chosen: list[Droplet | Snapshot] = []
        for resource in resources:
            kind, id = resource.get("resource_type"), resource.get("resource_id")
            if kind not in ("droplet", "image"):
                raise unprocessable("resource_type must be droplet or image")
            chosen.append(self.droplets.get(id) if kind == "droplet" else self.images.snapshot(id))
        for each in chosen:
            without = [other for other in each.tags if other != tag]
            tags = [*without, tag] if add else without
            if isinstance(each, Droplet):
                self._set_tags(each, tags)
            else:
                each.tags = tags

    def _set_tags(self, droplet: Droplet, tags: list[str]) -> None:
        self.droplets.set_tags(droplet, tags)
        self._touched.add(droplet.id)

    # Droplets

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
        image = self._chosen_image(body.get("image"), region, size)
        user_data = body.get("user_data") or ""
        if len(user_data) > USER_DATA_LIMIT:
            raise unprocessable("User data is too long (maximum is 64 KiB)")
        if not user_data.isascii():
            raise unprocessable("User data must be ASCII")
        public_keys = self._chosen_keys(body.get("ssh_keys") or [])
        tags = [self.add_tag(tag) for tag in body.get("tags") or []]
        if len(self.droplets) >= self.profile.droplet_limit:
            raise unprocessable("creating this/these droplet(s) will exceed your droplet limit")
        policy = backups.policy(body.get("backup_policy")) if body.get("backups") else None
        chosen = {"backups": policy, "monitoring": body.get("monitoring")}
        droplet = Droplet(
            id=self._new_id(),
            name=name,
            region=region,
            size=size["slug"],
            image=image["id"],
            disk=size["disk"],
            address=self.droplets.free_address(),
            created_at=now(),
            user_data=user_data,
            public_keys=public_keys,
            tags=list(dict.fromkeys(tags)),
            features=["droplet_agent", "private_networking", *(name for name, given in chosen.items() if given)],
            backup_policy=policy,
        )
        self.droplets.add(droplet)
        action = self._begin_action(droplet, "create")
        self._live(droplet, self._boot(droplet))
        return droplet, action

    async def destroy_droplet(self, id: Any) -> None:
        """End a droplet's machine, then forget it; its address is free only after that."""
        droplet = self.droplets.get(id)
        machine = self._machine(droplet.id)
        async with machine.lock:
            if droplet.id not in self.droplets:
                raise not_found()
            if machine.life:
                machine.life.cancel()
            await self.machines.destroy(droplet.id)
            del self._machines[droplet.id]
            self.droplets.remove(droplet)
            self.firewalls.forget_droplet(droplet.id)
            self.projects.forget(f"do:droplet:{droplet.id}")
            if reserved := self.reserved_ips.of(droplet.id):
                reserved.droplet_id = None
                await self.machines.route(reserved.ip, None)
            self.actions.end("droplet", droplet.id, "errored")

    def act(self, id: Any, body: JSON) -> JSON:
        """Begin an action on a droplet: power, rename, resize, snapshot, or one of its backups'."""
        droplet = self.droplets.get(id)
        kind = body.get("type")
        if kind not in (*_POWER, *_BACKUPS, "rename", "resize", "snapshot"):
            raise unprocessable("You specified an invalid action type.")
        if self.actions.running("droplet", droplet.id):
            raise pending_event()
        policy = None
        if kind == "rename":
            name = body.get("name")
            if not isinstance(name, str) or not _DROPLET_NAME.fullmatch(name):
                raise unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
        elif kind == "resize":
            self._check_resize(droplet, body)
        elif kind == "snapshot":
            if not isinstance(body.get("name"), str) or not body["name"]:
                raise unprocessable("Name can't be blank")
        elif kind in _BACKUPS:
            policy = self._wanted_policy(droplet, body)
        elif kind == "power_on" and droplet.status == "active":
            raise unprocessable("Droplet is already powered on.")
        elif kind != "power_on" and droplet.status == "off":
            raise unprocessable("Droplet is currently off. Please power it on to run this event.")
        action = self._begin_action(droplet, kind)
        self._live(droplet, self._perform(droplet, action, body, policy))
        return action

    @staticmethod
    def _check_resize(droplet: Droplet, body: JSON) -> None:
        size = SIZES.get(str(body.get("size")))
        if size is None or droplet.region not in size["regions"]:
            raise unprocessable("You specified an invalid size for Droplet resize.")
        if droplet.status != "off":
            raise unprocessable("Droplet is currently on. Please power it off to run this event.")
        if size["slug"] == droplet.size:
            raise unprocessable("Droplet is already this size.")
        if size["disk"] < droplet.disk:
            raise unprocessable("This size is not available because it has a smaller disk.")

    @staticmethod
    def _wanted_policy(droplet: Droplet, body: JSON) -> JSON | None:
        enabled = droplet.backup_policy is not None
        if body["type"] == "enable_backups" and enabled:
            raise unprocessable("Backups are already enabled for this Droplet.")
        if body["type"] != "enable_backups" and not enabled:
            raise unprocessable("Backups are not enabled for this Droplet.")
        if body["type"] == "change_backup_policy" and not body.get("backup_policy"):
            raise unprocessable("backup_policy can't be blank")
        return None if body["type"] == "disable_backups" else backups.policy(body.get("backup_policy"))

    def backups_document(self, droplet: Droplet) -> JSON:
        """A droplet's backup policy, as GET /v2/droplets/ID/backups/policy has it."""
        policy = droplet.backup_policy
        return {
            "droplet_id": droplet.id,
            "backup_enabled": policy is not None,
            **({"backup_policy": policy} if policy else {}),
            "next_backup_window": backups.next_window(policy),
        }

    def droplet_document(self, droplet: Droplet) -> JSON:
        """A droplet in the API's shape. Its private address comes first, as it may in reality."""
        size = SIZES[droplet.size]
        host = self.droplets.host_of(droplet)
        return {
            "id": droplet.id,
            "name": droplet.name,
            "memory": size["memory"],
            "vcpus": size["vcpus"],
            "disk": droplet.disk,
            "disk_info": [{"type": "local", "size": {"amount": droplet.disk, "unit": "gib"}}],
            "locked": bool(self.actions.running("droplet", droplet.id)),
            "status": droplet.status,
            "kernel": None,
            "created_at": droplet.created_at,
            "features": droplet.features,
            "backup_ids": [],
            "next_backup_window": backups.next_window(droplet.backup_policy),
            "snapshot_ids": [snapshot.id for snapshot in self.images.of(droplet.id)],
            "image": self.images.document(droplet.image),
            "volume_ids": [],
            "size": size,
            "size_slug": droplet.size,
            "networks": {"v4": self._networks_of(droplet, host) if droplet.has_address else [], "v6": []},
            "region": REGIONS[droplet.region],
            "tags": droplet.tags,
            "vpc_uuid": "5a4981aa-9653-4bd1-bef5-d6bff52042e4",
        }

    def _networks_of(self, droplet: Droplet, host: int) -> list[JSON]:
        """The private address, the droplet's own, and its reserved one, which nothing tells from its own."""
        reserved = self.reserved_ips.of(droplet.id)
        public = [droplet.address, *([reserved.ip] if reserved else [])]
        if self.profile.reserved_ip_first:
            public.reverse()
        return [
            {
                "ip_address": str(_PRIVATE[host]),
                "netmask": str(_PRIVATE.netmask),
                "gateway": str(_PRIVATE[1]),
                "type": "private",
            },
            *(
                {
                    "ip_address": address,
                    "netmask": str(self.droplets.network.netmask),
                    "gateway": self._gateway,
                    "type": "public",
                }
                for address in public
            ),
        ]

    def anchor_of(self, droplet: Droplet) -> str:
        """The address at which what is sent to a droplet's reserved IP arrives."""
        return str(_ANCHORS[self.droplets.host_of(droplet)])

    def machine_spec(self, droplet: Droplet) -> MachineSpec:
        image = self.images.document(droplet.image)
        return MachineSpec(
            id=droplet.id,
            name=droplet.name,
            region=droplet.region,
            size=droplet.size,
            image=image["slug"] or str(image["id"]),
            address=droplet.address,
            prefix=self.droplets.network.prefixlen,
            gateway=self._gateway,
            anchor=self.anchor_of(droplet),
            user_data=droplet.user_data,
            public_keys=tuple(droplet.public_keys),
        )

    def firewall_of(self, droplet: Droplet) -> FirewallRules | None:
        """The rules of all firewalls that select a droplet, merged."""
        return self.firewalls.effective(droplet.id, droplet.tags, self._networks)

    def _networks(self, peers: JSON) -> Iterable[str]:
        for address in peers.get("addresses", []):
            yield str(ipaddress.ip_network(address, strict=False))
        named = {droplet.id: droplet for droplet in self.droplets.tagged(*peers.get("tags", []))}
        named |= {id: self.droplets.get(id) for id in peers.get("droplet_ids", []) if id in self.droplets}
        for _, droplet in sorted(named.items()):
            yield f"{droplet.address}/32"

    def _chosen_image(self, identifier: Any, region: str, size: JSON) -> JSON:
        try:
            image = self.images.find(identifier)
        except ApiError:
            raise unprocessable("You specified an invalid image for Droplet creation.") from None
        if image["status"] != "available" or region not in image["regions"]:
            raise unprocessable("The image you specified is not available in the selected region.")
        if image["min_disk_size"] > size["disk"]:
            raise unprocessable("The size you specified is too small for the image: its disk is smaller.")
        return image

    def _chosen_keys(self, identifiers: list[str | int]) -> list[str]:
        chosen = {str(name): key for key in self.keys.values() for name in (key.id, key.fingerprint)}
        if unknown := [str(identifier) for identifier in identifiers if str(identifier) not in chosen]:
            raise unprocessable(f"{', '.join(unknown)} are invalid key identifiers for Droplet creation.")
        return list(dict.fromkeys(chosen[str(identifier)].public_key for identifier in identifiers))

    # Snapshots

    async def delete_snapshot(self, identifier: Any) -> None:
        snapshot = self.images.delete(identifier)
        await self.machines.delete_snapshot(str(snapshot.id))

    def transfer_snapshot(self, identifier: Any, region: Any) -> JSON:
        """Begin to copy a snapshot to one region more."""
        snapshot = self.images.transfer(identifier, region)
        action = self.actions.begin("transfer", "image", snapshot.id, region)
        self._later(self._end_soon("image", snapshot.id))
        return action

    # Reserved IPs

    def reserve_ip(self, body: JSON) -> tuple[ReservedIp, list[JSON]]:
        """Have one address more, for a droplet or a region; returns it with the actions that begin."""
        droplet_id, region = body.get("droplet_id"), body.get("region")
        if (droplet_id is None) == (region is None):
            raise unprocessable("One of droplet_id and region is required.")
        droplet = None if droplet_id is None else self._free_for_reserved_ip(droplet_id)
        if droplet is None and region not in REGIONS:
            raise unprocessable("Region is invalid")
        project = body.get("project_id")
        if project is not None:
            self.projects.get(project)
        reserved = self.reserved_ips.create(droplet.region if droplet else str(region), self.profile.reserved_ip_limit)
        if project is not None:
            self.projects.assign(project, [_urn(reserved)])
        return reserved, [self._begin_assignment(reserved, droplet)] if droplet else []

    async def release_ip(self, ip: str) -> None:
        """Give an address back; a droplet that has it loses it."""
        reserved = self.reserved_ips.get(ip)
        if self.actions.running("reserved_ip", reserved.number):
            raise reserved_ips.pending()
        self.reserved_ips.delete(ip)
        self.projects.forget(_urn(reserved))
        if reserved.droplet_id is not None:
            await self.machines.route(reserved.ip, None)

    def act_on_ip(self, ip: str, body: JSON) -> JSON:
        """Begin to assign a reserved IP to a droplet, also from another one, or to take it off."""
        reserved = self.reserved_ips.get(ip)
        kind = body.get("type")
        if kind not in ("assign", "unassign"):
            raise unprocessable("You specified an invalid action type.")
        if self.actions.running("reserved_ip", reserved.number):
            raise reserved_ips.pending()
        if kind == "unassign":
            if reserved.droplet_id is None:
                raise unprocessable("The reserved IP is not assigned to a Droplet.")
            return self._begin_assignment(reserved, None)
        droplet = self._free_for_reserved_ip(body.get("droplet_id"))
        if droplet.region != reserved.region:
            raise unprocessable("The reserved IP and the Droplet must be in the same region.")
        return self._begin_assignment(reserved, droplet)

    def reserved_ip_document(self, reserved: ReservedIp) -> JSON:
        """A reserved IP in the API's shape, its droplet in full."""
        droplet = None if reserved.droplet_id is None else self.droplets.get(reserved.droplet_id)
        return {
            "ip": reserved.ip,
            "region": REGIONS[reserved.region],
            "droplet": droplet and self.droplet_document(droplet),
            "locked": bool(self.actions.running("reserved_ip", reserved.number)),
            "project_id": self.projects.project_of(_urn(reserved)),
        }

    def _free_for_reserved_ip(self, droplet_id: Any) -> Droplet:
        try:
            droplet = self.droplets.get(droplet_id)
        except ApiError:
            raise unprocessable("The Droplet does not exist.") from None
        if self.actions.running("droplet", droplet.id):
            raise pending_event()
        if self.reserved_ips.of(droplet.id):
            raise unprocessable("The Droplet already has a reserved IP.")
        return droplet

    def _begin_assignment(self, reserved: ReservedIp, droplet: Droplet | None) -> JSON:
        kind = "assign_ip" if droplet else "unassign_ip"
        action = self.actions.begin(kind, "reserved_ip", reserved.number, reserved.region)
        self._later(self._assign(reserved, droplet))
        return action

    async def _assign(self, reserved: ReservedIp, droplet: Droplet | None) -> None:
        await asyncio.sleep(self.profile.action_seconds)
        status = "errored"
        try:
            if droplet is None or droplet.id in self.droplets:
                await self.machines.route(reserved.ip, None if droplet is None else self.anchor_of(droplet))
                reserved.droplet_id = None if droplet is None else droplet.id
                status = "completed"
        except Exception:
            log.exception("reserved IP %s: it could not be moved", reserved.ip)
        self.actions.end("reserved_ip", reserved.number, status)
        self._save()

    async def _end_soon(self, resource_type: str, resource_id: int) -> None:
        await asyncio.sleep(self.profile.action_seconds)
        self.actions.end(resource_type, resource_id, "completed")
        self._save()

    # A droplet's life

    def _machine(self, droplet_id: int) -> _Machine:
        return self._machines.setdefault(droplet_id, _Machine())

    def _live(self, droplet: Droplet, life: Coroutine[Any, Any, None]) -> None:
        self._machine(droplet.id).life = asyncio.create_task(life)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

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

    async def _perform(self, droplet: Droplet, action: JSON, body: JSON, policy: JSON | None) -> None:
        kind = action["type"]
        try:
            if kind in _POWER:
                await self._switch(droplet, kind)
            elif kind == "snapshot":
                await self._take_snapshot(droplet, body["name"])
            else:
                await asyncio.sleep(self.profile.action_seconds)
                self._change(droplet, body, policy)
        except Exception:
            log.exception("droplet %s: %s failed", droplet.id, kind)
            self._end_actions(droplet, "errored")
        else:
            self._end_actions(droplet, "completed")

    async def _switch(self, droplet: Droplet, kind: str) -> None:
        if kind != "power_on":
            async with self._machine(droplet.id).lock:
                await self.machines.power(droplet.id, False)
            droplet.status = "off"
        if _POWER[kind]:
            await self._start_machine(droplet)
            droplet.status = "active"

    async def _take_snapshot(self, droplet: Droplet, name: str) -> None:
        image = self.images.document(droplet.image)
        base = image["slug"] or self.images.base_of(droplet.image)
        snapshot = self.images.begin(name, droplet.id, base, droplet.region, droplet.disk)
        await asyncio.sleep(self.profile.action_seconds)
        async with self._machine(droplet.id).lock:
            size = await self.machines.snapshot(droplet.id, str(snapshot.id))
        snapshot.size_gigabytes = round(image["size_gigabytes"] + size / _GIB, 2)
        snapshot.status = "available"

    @staticmethod
    def _change(droplet: Droplet, body: JSON, policy: JSON | None) -> None:
        """What an action changes in the record alone."""
        if body["type"] == "rename":
            droplet.name = body["name"]
        elif body["type"] == "resize":
            droplet.size = body["size"]
            if body.get("disk"):
                droplet.disk = SIZES[droplet.size]["disk"]
        else:
            droplet.backup_policy = policy
            without = [feature for feature in droplet.features if feature != "backups"]
            droplet.features = [*without, "backups"] if policy else without

    async def _apply_firewall(self, droplet: Droplet) -> None:
        machine = self._machine(droplet.id)
        rules = self.firewall_of(droplet)
        await self.machines.set_firewall(droplet.id, rules)
        machine.firewall = rules

    def _begin_action(self, droplet: Droplet, kind: str) -> JSON:
        return self.actions.begin(kind, "droplet", droplet.id, droplet.region)

    def _end_actions(self, droplet: Droplet, status: str) -> None:
        self.actions.end("droplet", droplet.id, status)
        self._save()


def _urn(reserved: ReservedIp) -> str:
    return f"do:floatingip:{reserved.ip}"
