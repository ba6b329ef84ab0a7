"""Each fault turns verify red with its own cause, and verify is green again when it is undone."""

from __future__ import annotations

import pytest

from lab import settings
from tests.e2e import world


@pytest.mark.parametrize(
    ("kind", "cause", "words"),
    [
        ("down", "proxy_unreachable", ["sip2.pstnhub.microsoft.com", "refuses TCP"]),
        pytest.param("refuse", "proxy_forbids", ["sip2.pstnhub.microsoft.com", "403"], marks=pytest.mark.full),
        ("misnamed", "proxy_certificate_name", ["sip2.pstnhub.microsoft.com", settings.MISNAMED]),
        pytest.param("silent", "proxy_silent", ["sip2.pstnhub.microsoft.com"], marks=pytest.mark.full),
    ],
)
def test_a_proxy_fails(proven: None, kind: str, cause: str, words: list[str]) -> None:
    world.fault("sip2.pstnhub.microsoft.com", kind)
    try:
        world.red_with(cause, *words)
    finally:
        world.fault("sip2.pstnhub.microsoft.com", "none")


@pytest.mark.full
def test_port_5061_closed_in_the_cloud_firewall(proven: None) -> None:
    firewall = world.firewall()
    body = {key: firewall[key] for key in ("name", "outbound_rules", "tags", "droplet_ids")}
    open_ports = [rule for rule in firewall["inbound_rules"] if rule["ports"] != "5061"]
    world.api("PUT", f"firewalls/{firewall['id']}", body | {"inbound_rules": open_ports})
    try:
        world.red_with("theirs_missing", "52.112.0.0/14", "5061")
    finally:
        mended = world.playbook("playbooks/provision.yml")
    assert mended.code == 0, mended.text
    assert mended.recap["changed"] == 1, mended.text


@pytest.mark.full
@pytest.mark.parametrize(
    ("breaks", "mends", "cause"),
    [
        ("systemctl stop kamailio", "systemctl start kamailio", "kamailio_down"),
        (
            "kamcmd dispatcher.set_state dx 1 'sip:sip.pstnhub.microsoft.com:5061;transport=tls'",
            "kamcmd dispatcher.set_state ap 1 'sip:sip.pstnhub.microsoft.com:5061;transport=tls'",
            "destination_disabled",
        ),
    ],
)
def test_a_hand_on_the_droplet(proven: None, breaks: str, mends: str, cause: str) -> None:
    assert world.droplet(breaks).code == 0
    try:
        world.red_with(cause)
    finally:
        assert world.droplet(mends).code == 0


@pytest.mark.full
def test_port_5061_closed_on_the_droplet(proven: None) -> None:
    handle = world.droplet("nft -a list chain inet sbc input | sed -n '/5061/s/.*handle //p'").text.strip()
    assert world.droplet(f"nft delete rule inet sbc input handle {handle}").code == 0
    try:
        world.red_with("theirs_missing", "nftables")
    finally:
        assert world.droplet("nft -f /etc/nftables.conf").code == 0
