"""What the probe finds on real sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from by_hand import PROXIES, evidence
from cryptography.x509.oid import ExtendedKeyUsageOID
from miniature import FQDN, Authority, SipPort

from sbc_probe import wire
from sbc_probe.config import Config
from sbc_probe.findings import Cause
from sbc_probe.model import Certificate, Lookup, OptionsReply, Unread
from sbc_probe.ours import our_side
from sbc_probe.parsed import from_file, key_from_file

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


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_port_where_nobody_listens(config: Config, closed_port: int) -> None:
    port = wire.read_port(replace(config, port=closed_port))
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


class TestOwnCertificate:
    """Real ports with certificates as they come, and the verdict on what is seen there."""

    @pytest.fixture
    def issuer(self, authority: Authority, tmp_path: Path) -> Authority:
        return Authority(tmp_path, "issuer", authority)

    def causes(self, config: Config, server: SipPort, certificate: Path) -> list[Cause]:
        """What is found on our side, apart from Kamailio's own, which does not run here."""
        config = replace(
            at(config, server),
            proxies=PROXIES,
            certificate=str(certificate),
            private_key=str(certificate.with_suffix(".key")),
        )
        found = evidence(
            port=wire.read_port(config),
            on_disk=from_file(config.certificate),
            key=key_from_file(config.private_key),
            fqdn=Lookup((config.address,)),
            taken_at=time.time(),
            installed_at=time.time(),
            listening=(config.address,),
        )
        return [finding.cause for finding in our_side(config, found)]

    def test_a_chain_that_reaches_its_root(self, config: Config, open_port: OpenPort, issuer: Authority) -> None:
        good = issuer.issue("full", FQDN, chain=[issuer])
        server = open_port(good)
        port = wire.read_port(replace(at(config, server), certificate=str(good)))
        assert port.chain_flaw is None
        assert [one.subject for one in port.intermediates] == ["CN=Test issuer"]
        assert self.causes(config, server, good) == []

    def test_each_fault_has_its_own_cause(
        self, config: Config, open_port: OpenPort, authority: Authority, issuer: Authority, tmp_path: Path
    ) -> None:
        stranger = Authority(tmp_path, "stranger")
        spent = Authority(tmp_path, "spent", authority, ends=-1)
        for certificate, cause in (
            (issuer.issue("leaf", FQDN), Cause.CERTIFICATE_INCOMPLETE),
            (stranger.issue("strange", FQDN, chain=[stranger]), Cause.CERTIFICATE_UNTRUSTED),
            (issuer.issue("late", FQDN, begins=-9, ends=-1, chain=[issuer]), Cause.CERTIFICATE_EXPIRED),
            (spent.issue("spent-leaf", FQDN, chain=[spent]), Cause.CERTIFICATE_EXPIRED),
            (issuer.issue("early", FQDN, begins=1, ends=9, chain=[issuer]), Cause.CERTIFICATE_NOT_YET_VALID),
            (issuer.issue("other", "www.example.com", chain=[issuer]), Cause.CERTIFICATE_NAME),
            (issuer.issue("ecdsa", FQDN, ecdsa=True, chain=[issuer]), Cause.CERTIFICATE_KEY_TYPE),
            (
                issuer.issue("client", FQDN, usage=ExtendedKeyUsageOID.CLIENT_AUTH, chain=[issuer]),
                Cause.CERTIFICATE_USAGE,
            ),
        ):
            found = self.causes(config, open_port(certificate), certificate)
            assert found == [cause], certificate

    def test_served_is_not_what_lies_on_disk(self, config: Config, open_port: OpenPort, issuer: Authority) -> None:
        served, renewed = (issuer.issue(name, FQDN, chain=[issuer]) for name in ("served", "renewed"))
        assert self.causes(config, open_port(served), renewed) == [Cause.CERTIFICATE_NOT_LOADED]

    def test_a_key_that_belongs_to_another(self, config: Config, open_port: OpenPort, issuer: Authority) -> None:
        served, renewed, other = (issuer.issue(name, FQDN, chain=[issuer]) for name in ("old", "new", "other"))
        renewed.with_suffix(".key").write_bytes(other.with_suffix(".key").read_bytes())
        assert set(self.causes(config, open_port(served), renewed)) == {
            Cause.CERTIFICATE_KEY_MISMATCH,
            Cause.CERTIFICATE_NOT_LOADED,
        }


def test_roots_that_are_missing_are_named(
    config: Config, open_port: OpenPort, certificate: Path, tmp_path: Path
) -> None:
    flaw = wire.read_port(
        replace(at(config, open_port(certificate)), trusted_roots=str(tmp_path / "own-roots.pem"))
    ).chain_flaw
    assert flaw
    assert flaw.why == f"{tmp_path}/own-roots.pem: No such file or directory"


def test_a_private_key_is_read_by_who_may(tmp_path: Path, certificate: Path) -> None:
    key = tmp_path / "privkey.pem"
    assert key_from_file(str(key)) == Unread(f"{key}: No such file or directory")
    key.write_bytes(certificate.with_suffix(".key").read_bytes())
    on_disk = from_file(str(certificate))
    assert isinstance(on_disk, Certificate)
    assert key_from_file(str(key)) == on_disk.key_fingerprint
    key.chmod(0)
    if root := os.geteuid() == 0:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        denied = key_from_file(str(key))
    finally:
        if root:
            os.seteuid(0)
    assert isinstance(denied, Unread)
    assert denied.denied


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
    answer: str | None,
    expected: OptionsReply | Unread,
) -> None:
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

    def test_refused(self, authority: Authority, closed_port: int) -> None:
        assert self.reach(authority, closed_port)[:2] == ("refused", None)

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
