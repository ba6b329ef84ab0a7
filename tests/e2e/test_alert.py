"""From a proxy that goes away to a message, with a droplet that is open to those who watch it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.alerting import needs_alertmanager, watched
from tests.e2e import world
from tests.kamailio.running import ROOT

WATCHER = "198.19.0.2/32"
GONE = world.PROXIES[1]


def reads(address: str) -> bool:
    """Whether the probe is to be had from here."""
    return world.run("curl", "-sf", "--noproxy", "*", "-m", "5", f"http://{address}:9061/healthz").code == 0


@pytest.mark.full
@needs_alertmanager
def test_a_proxy_that_goes_away_becomes_a_message(proven: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = ROOT / "tmp" / tmp_path_factory.mktemp("alert").name
    directory.mkdir()
    address = world.address(world.CUSTOMER)
    assert not reads(address)
    try:
        opened = world.playbook("site.yml", "-e", json.dumps({"sbc_probe_networks": [WATCHER]}))
        assert opened.code == 0, opened.text
        world.until(lambda: reads(address), "the probe is read from outside")
        with watched(directory, f"{address}:9061", Path("/etc/resolv.conf")) as messages:
            world.fault(GONE, "down")
            world.until(lambda: bool(messages.of(GONE, "firing")), "the message comes")
            path, alert = messages.of(GONE, "firing")[0]
            assert path == "/ticket"
            assert (alert["labels"]["customer"], alert["labels"]["fqdn"]) == (world.CUSTOMER, world.FQDN)
            assert f"{world.CUSTOMER}: {GONE} is gone" in alert["annotations"]["summary"]
            assert alert["annotations"]["next_step"]
            world.fault(GONE, "none")
            world.until(lambda: bool(messages.of(GONE, "resolved")), "the message that it is over")
    finally:
        world.fault(GONE, "none")
        closed = world.playbook("site.yml")
        assert world.run("rm", "-rf", str(directory)).code == 0
    assert closed.code == 0, closed.text
    assert not reads(address)
