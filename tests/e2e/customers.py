"""Customers beside the lab's: each has an inventory and a key to itself, owned nothing before and leaves nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import world

CALLBACKS = Path(__file__).parent / "callbacks"


class Customer:
    """A customer whose rollout, as far as the droplet answers, may be disturbed."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.fqdn, self._list = name, f"{name}.voip.test", directory / f"{name}.tasks"
        self.inventory = world.inventory(directory / name, {name: {"sbc_fqdn": self.fqdn}})
        key = self.inventory / "state/id_ed25519"
        key.parent.mkdir(exist_ok=True)
        for half in (key, key.with_suffix(".pub")):
            half.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True)

    def provision(self, dies_before: str = "") -> world.Run:
        """playbooks/provision.yml, killed before the task of that name."""
        environment = {
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "dies",
            "DIES_LIST": str(self._list),
            "DIES_BEFORE": dies_before,
        }
        self._list.unlink(missing_ok=True)
        return world.playbook("playbooks/provision.yml", "-i", str(self.inventory), env=environment)

    def judge(self) -> None:
        """Everything is there once and leads to the droplet, SSH knows it, and another run changes nothing."""
        owned = self.owns()
        assert {kind: len(found) for kind, found in owned.items()} == dict.fromkeys(owned, 1)
        (droplet,), (record,) = owned["droplet"], owned["record"]
        assert droplet["status"] == "active"
        assert record["data"] in [each["ip_address"] for each in droplet["networks"]["v4"] if each["type"] == "public"]
        again = self.provision()
        assert again.code == 0, again.text
        # Of a droplet this young it is asked again, over SSH.
        assert re.search(rf"^TASK .*Cloud-init has finished.*\nok: \[{self.name}\]", again.text, re.MULTILINE), (
            again.text
        )
        assert re.search(rf"^{self.name} .* changed=0 ", again.text, re.MULTILINE), again.text

    def tasks(self) -> list[str]:
        """The tasks that the last run began."""
        return self._list.read_text().splitlines()

    def owns(self) -> dict[str, list[Any]]:
        """What the account has of the customer, by what it is."""
        tag, public = f"sbc:customer:{self.name}", (self.inventory / "state/id_ed25519.pub").read_text().split()[1]
        records = world.api("GET", "domains/voip.test/records?per_page=200")["domain_records"]
        return {
            "key": [
                each
                for each in world.api("GET", "account/keys?per_page=200")["ssh_keys"]
                if public in each["public_key"]
            ],
            "firewall": [
                each for each in world.api("GET", "firewalls?per_page=200")["firewalls"] if tag in each["tags"]
            ],
            "droplet": world.api("GET", f"droplets?tag_name={tag}")["droplets"],
            "record": [each for each in records if each["name"] == self.name],
        }

    def clear(self) -> None:
        """Remove it all, past the product."""
        owned = self.owns()
        for kind, path in (
            ("record", "domains/voip.test/records"),
            ("droplet", "droplets"),
            ("firewall", "firewalls"),
            ("key", "account/keys"),
        ):
            for each in owned[kind]:
                world.api("DELETE", f"{path}/{each['id']}")


@contextmanager
def customer(name: str, directory: Path) -> Iterator[Customer]:
    found = Customer(name, directory)
    try:
        yield found
    finally:
        found.clear()
