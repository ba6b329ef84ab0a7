"""Five tenants on one SBC, a sixth that comes and goes, and what Microsoft and the other tenants see of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lab.__main__ import control
from tests.e2e import world

HERE = Path(__file__).parent
FIVE: list[str] = yaml.safe_load((HERE / "five.yml").read_text())["sbc_tenants"]
SIXTH = "wingtip.contoso.voip.test"


def rollout(tenants: str) -> world.Run:
    done = world.playbook("site.yml", "-e", f"@{HERE / tenants}")
    assert done.code == 0, done.text
    return done


def kamailio_pid() -> str:
    return world.droplet("systemctl show kamailio -p MainPID").text


@pytest.mark.parametrize("name", [world.FQDN, *FIVE])
def test_every_name_is_answered_under_its_own_certificate(name: str) -> None:
    answer = world.options(name)
    assert answer["code"] == 200, answer
    assert set(answer["certificate"]["names"]) == {world.FQDN, f"*.{world.FQDN}"}
    assert f"sip:{name}:5061" in answer["contact"]


def test_no_other_name_is_answered() -> None:
    assert world.options(SIXTH)["code"] is None
    with world.connection(FIVE[0]) as connection:
        assert connection.ask(f"stranger.{world.FQDN}")["code"] == 404
        assert connection.ask(f"deeper.{FIVE[0]}")["code"] == 404


def test_our_options_go_out_for_the_base_alone() -> None:
    world.active()
    refusals = str(control("GET", "microsoft/refusals"))
    assert not any(name in refusals for name in FIVE), "Microsoft has no trunk of a tenant's name"


def test_the_challenge_is_open_for_as_long_as_it_takes_and_no_longer() -> None:
    assert "elements" not in world.droplet("nft list set inet sbc challenge").text
    assert world.droplet("ss -Hlnu sport = :53 and not src 127.0.0.0/8").text.strip() == ""
    ports = {(rule["protocol"], rule["ports"]) for rule in world.firewall()["inbound_rules"]}
    assert {("udp", "53"), ("tcp", "53")} <= ports
    assert ("tcp", "80") not in ports


def test_a_sixth_comes_and_goes_while_a_connection_stays_up() -> None:
    with world.connection(FIVE[0]) as connection:
        assert connection.ask(FIVE[0])["code"] == 200
        before = kamailio_pid()

        rollout("six.yml")
        assert connection.ask(FIVE[0]) == {
            "up": True,
            "code": 200,
            "contact": f"<sip:{FIVE[0]}:5061;transport=tls>",
            "fingerprint": connection.fingerprint,
        }
        answer = world.options(SIXTH)
        assert answer["code"] == 200, answer
        assert answer["certificate"]["fingerprint"] == connection.fingerprint, "no new certificate was needed"

        rollout("five.yml")
        assert connection.ask(SIXTH)["code"] == 404
        assert connection.ask(FIVE[0])["code"] == 200
        assert world.options(SIXTH)["code"] is None, "its record is gone"
        assert kamailio_pid() == before
