"""What an engineer types at three in the morning, against Microsoft's proxies and their faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import world

PROXY = world.PROXIES[1]
# What the command says of a proxy with each fault of the lab's: the cause, the last step, how that ended, words.
FAULTS = {
    "down": ("proxy_unreachable", "tcp", "refused", "refuses TCP"),
    "blackhole": ("proxy_unreachable", "tcp", "timeout", "no answer to TCP"),
    "distrust": ("proxy_tls", "tls", "alert", "it refuses our certificate"),
    "misnamed": ("proxy_certificate_name", "tls", "unverified", f"not for {PROXY}"),
    "expired": ("proxy_certificate_expired", "tls", "unverified", "expired"),
    "untrusted": ("proxy_certificate_untrusted", "tls", "unverified", "no root"),
    "refuse": ("proxy_forbids", "answer", "answered", "403 Forbidden"),
    "error": ("proxy_overloaded", "answer", "answered", "503"),
    "silent": ("proxy_silent", "answer", "silent", "does not answer"),
}


def options(*arguments: str, timeout: int = 60) -> dict[str, Any]:
    """What `sbc-probe options` saw, from the droplet."""
    done = world.droplet(f"sbc-probe options {' '.join(arguments)} --timeout {timeout} --json")
    report: dict[str, Any] = json.loads(done.text)
    assert report["exit_code"] == done.code
    return report


@pytest.fixture
def without_faults(trunk: None) -> Iterator[None]:
    yield
    world.lab("break", PROXY, "none")
    # What came and went here is none of the next test's.
    world.droplet("kamcmd htable.flush sbc_turns")
    world.proven()


def test_one_options_tells_every_fault_apart(without_faults: None) -> None:
    world.lab("break", PROXY, "none")
    good = options(PROXY)
    assert (good["cause"], good["exit_code"]) == (None, 0), good
    tls, answer = good["steps"]["tls"], good["steps"]["answer"]
    assert (tls["asked"], tls["shown"], tls["verified"], answer["code"]) == (True, True, True, 200)
    for kind, expected in FAULTS.items():
        world.lab("break", PROXY, kind)
        report = options(PROXY, timeout=5 if expected[2] in ("timeout", "silent") else 60)
        last = list(report["steps"])[-1]
        assert (report["cause"], last, report["steps"][last]["outcome"]) == expected[:3], (kind, report)
        assert expected[3] in report["meaning"]
        assert report["exit_code"] == 1
    world.lab("break", PROXY, "none")
    stranger = options(PROXY, "--from", "sbc.fabrikam.example")
    assert stranger["cause"] == "proxy_forbids", "another FQDN is not in the certificate"
    assert options(world.FQDN)["exit_code"] == 0, "the SBC itself answers, and its own roots are taken"


def test_whoever_may_not_read_the_key_is_told_so(trunk: None) -> None:
    done = world.droplet(f"runuser -u nobody -- sbc-probe options {PROXY}")
    assert done.code == 2
    assert "run it as root" in done.text


def test_the_fleet_is_written_down(trunk: None) -> None:
    world.proven()
    done = world.playbook("playbooks/status.yml")
    assert done.code == 0, done.text
    page = world.ROOT / "inventory/lab/status/status.html"
    assert f"All customers: {page}" in done.text
    status = json.loads(Path(page).with_name("status.json").read_text())
    assert [(each["customer"], each["state"]) for each in status["customers"]] == [("contoso", "proven")]
    assert "All 1 proven" in page.read_text()
