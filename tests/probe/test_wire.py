"""What the probe finds on real sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import FQDN, Authority, SipPort

from sbc_probe import wire
from sbc_probe.certificate import from_file
from sbc_probe.config import Config
from sbc_probe.model import Certificate, Lookup, OptionsReply, Unread

OpenPort = Callable[..., SipPort]


def at(config: Config, port: SipPort) -> Config:
    return replace(config, port=port.port)


def test_a_good_port(config: Config, open_port: OpenPort, certificate: Path) -> None:
    server = open_port(certificate)
    port = wire.read_port(at(config, server))
    assert port.tcp == "open"
    assert port.certificate == from_file(str(certificate))
    assert isinstance(port.certificate, Certificate)
    assert (port.certificate.names, port.certificate.key_type, port.certificate.key_bits) == ((FQDN,), "RSA", 2048)
    assert (port.certificate.server_auth, port.certificate.client_auth) == (True, False)
    assert port.rsa_suites
    assert port.chain_flaw is None
    assert port.options == OptionsReply(200, "OK", f"<sip:{FQDN}:5061;transport=tls>")
    request = server.requests[0].split("\r\n")
    assert request[0] == f"OPTIONS sip:{FQDN}:{server.port};transport=tls SIP/2.0"
    assert request[-2:] == ["", ""]


def test_a_port_where_nobody_listens(config: Config, open_port: OpenPort, certificate: Path) -> None:
    server = open_port(certificate)
    server.close()
    port = wire.read_port(at(config, server))
    assert port.tcp == "refused"
    assert isinstance(port.certificate, Unread)


def test_an_ecdsa_certificate_is_seen_but_fails_microsofts_suites(
    config: Config, open_port: OpenPort, authority: Authority
) -> None:
    port = wire.read_port(at(config, open_port(authority.issue("ecdsa", FQDN, ecdsa=True))))
    assert isinstance(port.certificate, Certificate)
    assert port.certificate.key_type == "ECDSA"
    assert not port.rsa_suites


def test_dates_do_not_hide_the_chain(config: Config, open_port: OpenPort, authority: Authority, tmp_path: Path) -> None:
    expired = authority.issue("expired", FQDN, begins=-9, ends=-1)
    assert wire.read_port(at(config, open_port(expired))).chain_flaw is None
    stranger = Authority(tmp_path, "stranger").issue("stranger", FQDN, begins=-9, ends=-1)
    flaw = wire.read_port(at(config, open_port(stranger))).chain_flaw
    assert flaw
    assert "Test stranger" in flaw.why


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("SIP/2.0 404 Not Here\r\nContent-Length: 0\r\n\r\n", OptionsReply(404, "Not Here", None)),
        ("SIP/2.0 200 OK\r\nm: <sip:a@b>\r\n\r\n", OptionsReply(200, "OK", "<sip:a@b>")),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", Unread("no SIP answer but 'HTTP/1.1 400 Bad Request'")),
        (None, Unread("no answer")),
    ],
)
def test_what_our_options_get(
    config: Config,
    open_port: OpenPort,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    expected: OptionsReply | Unread,
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT", 0.2)
    server = open_port(certificate)
    server.answer = answer
    assert wire.read_port(at(config, server)).options == expected


def test_a_port_without_tls(config: Config, open_port: OpenPort) -> None:
    port = wire.read_port(at(config, open_port(None)))
    assert port.tcp == "open"
    assert isinstance(port.certificate, Unread)
    assert "closed the connection" in port.certificate.why


def test_a_certificate_on_disk_that_cannot_be_read(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN NOTHING-----")
    assert from_file(str(junk)) == Unread(f"{junk} holds no readable certificate")
    assert from_file(str(tmp_path / "none.pem")) == Unread(f"{tmp_path}/none.pem: No such file or directory")


class TestReach:
    HOST = "sip.example.net"

    def reach(self, authority: Authority, port: int, *addresses: str) -> tuple[str | None, str | None, str]:
        found = wire.reach(self.HOST, Lookup(addresses or ("127.0.0.1",)), port, str(authority.roots))
        return found.tcp, found.tls, found.tls_detail

    def test_no_address(self, authority: Authority) -> None:
        found = wire.reach(self.HOST, Lookup((), "NXDOMAIN", True), 5061, str(authority.roots))
        assert (found.tcp, found.tls) == (None, None)

    def test_refused(self, authority: Authority, open_port: OpenPort) -> None:
        assert self.reach(authority, 1)[:2] == ("refused", None)

    def test_a_proxy_that_wants_our_certificate(self, authority: Authority, open_port: OpenPort) -> None:
        server = open_port(authority.issue("proxy", self.HOST))
        assert self.reach(authority, server.port)[:2] == ("open", "complete")
        server.demand_client_certificate(authority.roots)
        tcp, tls, detail = self.reach(authority, server.port)
        assert (tcp, tls) == ("open", "alert")
        assert "alert" in detail

    def test_a_proxy_of_another_name(self, authority: Authority, open_port: OpenPort) -> None:
        server = open_port(authority.issue("impostor", "www.example.net"))
        tcp, tls, detail = self.reach(authority, server.port)
        assert (tcp, tls) == ("open", "untrusted")
        assert self.HOST in detail

    def test_a_proxy_that_hangs_up(self, authority: Authority, open_port: OpenPort) -> None:
        assert self.reach(authority, open_port(None).port)[:2] == ("open", "broken")
