"""From a proxy that goes away to a message: the probe, Debian's Prometheus and Alertmanager, our rules and examples."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import pytest

from tests.alerting import needs_alertmanager, watched
from tests.kamailio.beside import Microsoft, cause, start_probe, surroundings
from tests.kamailio.running import FQDN, PROXIES, Proxy, Start, needs_kamailio, wait_for


@pytest.mark.full
@needs_kamailio
@needs_alertmanager
def test_a_proxy_that_goes_away_becomes_a_message(start: Start) -> None:
    sbc = start(sbc_options_interval=4)
    with ExitStack() as stack:
        microsoft = Microsoft(sbc)
        stack.callback(microsoft.quiet.set)
        settings = stack.enter_context(surroundings(sbc))

        def run(process: subprocess.Popen[bytes]) -> None:
            stack.callback(process.wait)
            stack.callback(process.kill)

        run(start_probe(sbc, settings))
        assert wait_for(lambda: cause() == "proven", 60), cause()
        messages = stack.enter_context(watched(sbc.directory, "127.0.0.1:9061", sbc.directory / "resolv.conf"))

        sbc.proxies[1].close()
        sbc.proxies[1].hang_up()
        assert wait_for(lambda: bool(messages.of(PROXIES[1], "firing")), 90), messages.received
        path, alert = messages.of(PROXIES[1], "firing")[0]
        assert path == "/ticket"
        assert alert["labels"]["alertname"] == "SbcProxyGone"
        assert (alert["labels"]["customer"], alert["labels"]["fqdn"]) == ("contoso", FQDN)
        assert alert["annotations"]["summary"] == (
            f"contoso: {PROXIES[1]} is gone, others take the calls: proxy_unreachable"
        )
        assert alert["annotations"]["next_step"].startswith("Nothing listens there")
        assert alert["annotations"]["runbook"].startswith("docs/")

        again = Proxy(PROXIES[1], sbc.directory)
        stack.callback(again.close)
        assert wait_for(lambda: bool(messages.of(PROXIES[1], "resolved")), 90), messages.received
        assert {path for path, _ in messages.received} == {"/ticket"}, messages.received
