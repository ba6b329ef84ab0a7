"""The run for a real account, in the lab: it tries what it shall, and leaves nothing behind, whatever comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from lab.__main__ import control
from tests.e2e import world

pytestmark = pytest.mark.full

CONFIRMED = ("-e", "smoke_confirmation=operator@lab.test")
NAME = "sbc-smoke"


def smoke(*arguments: str) -> world.Run:
    return world.playbook("playbooks/smoke.yml", *CONFIRMED, *arguments)


def of_smoke() -> list[str]:
    """What the account and the controller have of it."""
    found: list[Any] = [
        *world.api("GET", "droplets?per_page=200")["droplets"],
        *world.api("GET", "firewalls?per_page=200")["firewalls"],
        *world.api("GET", "account/keys?per_page=200")["ssh_keys"],
        *world.api("GET", "tags?per_page=200")["tags"],
        *world.api("GET", "domains/voip.test/records?per_page=200")["domain_records"],
    ]
    state = world.ROOT / "inventory/lab/state"
    kept = [path.name for path in state.iterdir()] + (state / "known_hosts").read_text().split()
    return [name for name in [*(each["name"] for each in found), *kept] if "smoke" in name]


@pytest.fixture
def nothing_stays(empty_lab: None) -> Any:
    yield
    control("DELETE", "faults")
    left = of_smoke()
    if left:
        smoke("-e", "smoke_only_tidy=true")
    assert left == []


def test_all_is_tried_and_nothing_stays(nothing_stays: None) -> None:
    done = smoke()
    assert done.code == 0, done.text
    said = " ".join(done.text.split())
    for expected in (
        "It costs 0.0060 USD an hour; if it were not destroyed, 4.00 USD a month",
        "The name led to it",
        "The firewall kept a port closed, and had it open",
        "one more had nothing to change",
        "version: kamailio 6.",
    ):
        assert expected in said


def test_a_failure_leaves_nothing_either(nothing_stays: None) -> None:
    control("POST", "faults", {"kind": "500", "method": "PUT", "path_glob": "/v2/firewalls/*", "count": 100})
    failed = smoke()
    assert failed.code == 2, failed.text
    assert "500" in failed.text


def test_what_a_killed_run_left_goes_with_the_next(nothing_stays: None) -> None:
    argv = ["ansible-playbook", "playbooks/smoke.yml", *CONFIRMED]
    with subprocess.Popen(
        argv,
        cwd=world.ROOT,
        env=world.environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        world.until(lambda: any(each.startswith(NAME) for each in of_smoke() if "." in each), "its droplet is there")
        os.killpg(run.pid, signal.SIGKILL)
    assert of_smoke() != []
    tidied = smoke("-e", "smoke_only_tidy=true")
    assert tidied.code == 0, tidied.text
