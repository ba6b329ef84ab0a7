"""What tests of replacements see of a customer's droplets."""

from __future__ import annotations

import signal
from pathlib import Path

from lab import settings
from lab.__main__ import control
from tests.e2e import world
from tests.e2e.customers import CALLBACKS

PLAYBOOK = ("playbooks/replace.yml", "--limit", world.CUSTOMER)


def replace(*arguments: str) -> world.Run:
    return world.playbook(*PLAYBOOK, *arguments)


def replace_until(task: str, directory: Path) -> None:
    """Replace, and be killed, as by `kill -9`, when it comes to a task."""
    listed = directory / "tasks"
    environment = {
        "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
        "ANSIBLE_CALLBACKS_ENABLED": "dies",
        "DIES_LIST": str(listed),
        "DIES_BEFORE": task,
    }
    done = world.playbook(*PLAYBOOK, env=environment)
    assert (done.code, listed.read_text().splitlines()[-1]) == (-signal.SIGKILL, task), done.text


def _found() -> list[dict[str, object]]:
    tag = f"sbc:customer:{world.CUSTOMER}"
    return [each for each in control("GET", "state")["droplets"] if tag in each["tags"]]


def droplets() -> dict[int, str]:
    """What each of the customer's droplets is, by its tags: droplet, successor or retired."""
    words = ("successor", "retired")
    return {
        int(str(each["id"])): next((word for word in words if f"sbc:{word}" in str(each["tags"])), "droplet")
        for each in _found()
    }


def addresses() -> dict[int, str]:
    return {int(str(each["id"])): str(each["address"]) for each in _found()}


def leads_to() -> tuple[str, int]:
    """The address that the customer's one record leads to, and its TTL."""
    path = f"domains/{settings.DOMAIN}/records?name={world.FQDN}&type=A"
    [record] = world.api("GET", path)["domain_records"]
    return record["data"], record["ttl"]


def note() -> Path:
    """What an unfinished replacement leaves to the next run."""
    return world.ROOT / "inventory/lab/state" / world.CUSTOMER / "replacement.json"


def remains() -> str:
    """Of the droplet that was there first: what is installed, since when Kamailio runs, and what certbot has."""
    looked = world.droplet(
        "find /etc/kamailio /etc/letsencrypt /etc/systemd/system /etc/sbc-probe.json -type f | sort | xargs sha256sum; "
        "systemctl show --property ExecMainStartTimestamp kamailio sbc-probe"
    )
    assert looked.code == 0, looked.text
    return looked.text
