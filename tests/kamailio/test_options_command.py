"""`sbc-probe options` with a real Kamailio at the other end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sbc_probe import cli
from tests.kamailio import handshakes
from tests.kamailio.running import ADDRESS, FQDN, PROXIES, STRANGER, Sbc, Start, needs_kamailio


def ask(sbc: Sbc, capsys: pytest.CaptureFixture[str], source: str, *arguments: str) -> dict[str, Any]:
    settings = {
        "customer": "contoso",
        "fqdn": FQDN,
        "address": source,
        "proxies": PROXIES,
        "signalling_networks": ["127.7.2.0/24"],
        "certificate": str(sbc.directory / "sbc.pem"),
        "private_key": str(sbc.directory / "sbc.key"),
        "trusted_roots": str(sbc.directory / "ca.pem"),
        "proxy_roots": str(sbc.directory / "ca.pem"),
    }
    file = sbc.directory / "probe.json"
    file.write_text(json.dumps(settings))
    code = cli.main(
        ["options", ADDRESS, "--name", FQDN, "--config", str(file), "--json", "--timeout", "60", *arguments]
    )
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == code
    return report


@needs_kamailio
def test_what_kamailio_says_to_an_options(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    sbc = start()
    handshakes.issue(sbc.directory, "sbc", FQDN, FQDN)
    sbc.rpc("tls.reload")
    report = ask(sbc, capsys, ADDRESS)
    assert (report["cause"], report["exit_code"]) == (None, 0), report
    tls, answer = report["steps"]["tls"], report["steps"]["answer"]
    assert (tls["asked"], tls["shown"], tls["verified"]) == (True, True, True)
    assert tls["chain"][0]["names"] == [FQDN]
    headers = dict(answer["headers"])
    assert (answer["code"], headers["Contact"]) == (200, f"<sip:{FQDN}:5061;transport=tls>")
    assert "OPTIONS" in headers["Allow"]

    refused = ask(sbc, capsys, ADDRESS, "--name", "sbc.fabrikam.example", "--insecure")
    assert (refused["steps"]["answer"]["code"], refused["cause"]) == (404, "proxy_refuses")

    silent = ask(sbc, capsys, STRANGER, "--timeout", "5")
    assert (silent["steps"]["answer"]["outcome"], silent["cause"]) == ("silent", "proxy_silent")

    misnamed = ask(sbc, capsys, ADDRESS, "--name", "sbc.fabrikam.example")
    assert (misnamed["cause"], list(misnamed["steps"])) == ("proxy_certificate_name", ["tcp", "tls"])
