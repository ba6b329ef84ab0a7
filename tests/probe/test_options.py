"""`sbc-probe options` against real peers: each way in which an OPTIONS can end is told apart from the others."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from miniature import FQDN, Authority, SipPort

from sbc_probe import cli
from sbc_probe.model import Lookup

HOST = "p1.example.net"
FORBIDDEN = 'SIP/2.0 403 Forbidden\r\nReason: Q.850;cause=63;text="no such trunk"\r\nServer: Microsoft\r\n\r\n'


class Silent(SipPort):
    """Takes TCP and says nothing."""

    def _serve(self, client: socket.socket) -> None:
        with client:
            while client.recv(65536):
                pass


class Leaving(SipPort):
    """Completes TLS, reads a request and closes."""

    def _serve(self, client: socket.socket) -> None:
        assert self.context
        with client, self.context.wrap_socket(client, server_side=True) as tls, suppress(OSError):
            tls.recv(65536)
            tls.unwrap()


class Slow(SipPort):
    """Says 100 at once, something of its own, and the answer half a second later, in two pieces."""

    def _serve(self, client: socket.socket) -> None:
        assert self.context
        assert self.answer
        with client, self.context.wrap_socket(client, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(b"SIP/2.0 100 Trying\r\nl: 0\r\n\r\n\r\n\r\nOPTIONS sip:a@b SIP/2.0\r\nl: 2\r\n\r\nab")
            time.sleep(0.5)
            tls.sendall(self.answer[:30].encode())
            tls.sendall(self.answer[30:].encode())
            tls.recv(1)


@pytest.fixture
def ports() -> Iterator[Callable[..., SipPort]]:
    opened: list[SipPort] = []

    def open_(certificate: Path | None, kind: type[SipPort] = SipPort) -> SipPort:
        opened.append(kind("127.0.0.1", 0, certificate))
        return opened[-1]

    yield open_
    for port in opened:
        port.close()


class Asking:
    """The command, with the SBC's own certificate, for the name of a proxy."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file, self.capsys = file, capsys

    def __call__(self, port: int, *arguments: str, host: str = "127.0.0.1", timeout: str = "30") -> tuple[int, str]:
        """The exit code and what was printed."""
        code = cli.main(
            ["options", f"{host}:{port}", "--config", str(self.file), "--name", HOST, "--timeout", timeout, *arguments]
        )
        captured = self.capsys.readouterr()
        return code, captured.out + captured.err

    def document(self, port: int, *arguments: str, timeout: str = "30") -> dict[str, Any]:
        code, printed = self(port, *arguments, "--json", timeout=timeout)
        report: dict[str, Any] = json.loads(printed)
        assert report["exit_code"] == code
        return report


@pytest.fixture
def ask(tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Asking:
    file = tmp_path / "probe.json"
    file.write_text(json.dumps({**settings, "answer_timeout": 5}))
    return Asking(file, capsys)


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Path:
    return authority.issue("one-proxy", HOST)


Ports = Callable[..., SipPort]


def test_an_answer_shows_everything_on_the_way(ask: Asking, ports: Ports, proxy: Path, authority: Authority) -> None:
    server = ports(proxy)
    server.demand_client_certificate(authority.roots)
    ours = authority.issue("for-clients", FQDN, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    code, printed = ask(server.port, "--certificate", str(ours), "--key", str(ours.with_suffix(".key")))
    assert code == 0, printed
    for seen in (
        f"to 127.0.0.1:{server.port}",
        "TLSv1.2, ECDHE-RSA",
        f"verified: it carries {HOST}",
        f"its certificate: {HOST}",
        "issuer CN=Test root",
        f"asks for our certificate and gets {ours}",
        f"OPTIONS sip:{HOST}:{server.port};transport=tls SIP/2.0",
        "SIP/2.0 200 OK",
        "\n\nok: 127.0.0.1 answers 200 OK",
    ):
        assert seen in printed
    request = server.requests[0]
    assert f"\r\nFrom: <sip:{FQDN}>;tag=" in request
    assert f"\r\nContact: <sip:{FQDN}:5061;transport=tls>\r\n" in request


def test_the_sender_is_who_one_says(ask: Asking, ports: Ports, proxy: Path) -> None:
    server = ports(proxy)
    assert ask(server.port, "--from", "other.example.com")[0] == 0
    assert "\r\nContact: <sip:other.example.com:5061;transport=tls>\r\n" in server.requests[0]


def test_what_is_seen_as_json(ask: Asking, ports: Ports, proxy: Path) -> None:
    report = ask.document(ports(proxy).port)
    assert (report["schema"], report["cause"], list(report["steps"])) == (1, None, ["tcp", "tls", "request", "answer"])
    tls, answer = report["steps"]["tls"], report["steps"]["answer"]
    assert (tls["outcome"], tls["verified"], tls["asked"], tls["shown"]) == ("complete", True, False, False)
    assert tls["chain"][0]["names"] == [HOST]
    assert (answer["code"], answer["headers"][0]) == (200, ["Contact", f"<sip:{FQDN}:5061;transport=tls>"])


@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (FORBIDDEN, "proxy_forbids", 'Reason: Q.850;cause=63;text="no such trunk": it has no enabled trunk'),
        ("SIP/2.0 503 Busy\r\nRetry-After: 30\r\n\r\n", "proxy_overloaded", "Retry-After: 30"),
        ("SIP/2.0 488 Not Here\r\n\r\n", "proxy_refuses", "488 Not Here"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", None, "no SIP: 'HTTP/1.1 400 Bad Request'"),
    ],
)
def test_refusals(ask: Asking, ports: Ports, proxy: Path, answer: str, cause: str | None, words: str) -> None:
    server = ports(proxy)
    server.answer = answer
    report = ask.document(server.port)
    assert (report["cause"], report["exit_code"]) == (cause, 1)
    assert words in report["meaning"]


class TestTheirCertificate:
    def refused(self, ask: Asking, server: SipPort, cause: str, words: str) -> None:
        report = ask.document(server.port)
        assert (report["cause"], report["exit_code"]) == (cause, 1)
        assert words in report["meaning"]
        assert list(report["steps"]) == ["tcp", "tls"]
        tls = report["steps"]["tls"]
        assert (tls["outcome"], tls["verified"]) == ("unverified", False)
        assert tls["chain"], "it is shown all the same"
        assert tls["alerts"][0]["from"] == "us"
        assert server.requests == [], "nothing was sent"

    def test_each_fault_has_its_own_cause(
        self, ask: Asking, ports: Ports, authority: Authority, tmp_path: Path
    ) -> None:
        stranger = Authority(tmp_path, "stranger")
        late = ports(authority.issue("late-proxy", HOST, begins=-9, ends=-1))
        self.refused(ask, late, "proxy_certificate_expired", "expired")
        strange = ports(stranger.issue("strange-proxy", HOST, chain=[stranger]))
        self.refused(ask, strange, "proxy_certificate_untrusted", "CN=Test stranger")
        misnamed = ports(authority.issue("misnamed", "www.example.net"))
        self.refused(ask, misnamed, "proxy_certificate_name", f"for www.example.net, not for {HOST}")

    def test_it_is_asked_all_the_same_where_one_insists(self, ask: Asking, ports: Ports, authority: Authority) -> None:
        server = ports(authority.issue("another", "www.example.net"))
        code, printed = ask(server.port, "--insecure")
        assert code == 1, "an answer from whomever is no proof"
        assert f"NOT VERIFIED: its certificate is for www.example.net, not for {HOST}" in printed
        assert "proxy_certificate_name: 127.0.0.1 answers 200 OK" in printed
        assert len(server.requests) == 1


class TestOurCertificate:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_it_is_refused(
        self, ask: Asking, ports: Ports, proxy: Path, tmp_path: Path, version: ssl.TLSVersion
    ) -> None:
        """TLS 1.3 says so only after the handshake, TLS 1.2 within it."""
        server = ports(proxy)
        server.demand_client_certificate(Authority(tmp_path, "choosy").roots)
        assert server.context
        server.context.maximum_version = version
        report = ask.document(server.port)
        assert (report["cause"], report["exit_code"]) == ("proxy_tls", 1)
        assert "'unknown ca': it refuses our certificate" in report["meaning"]
        tls = report["steps"]["tls"]
        assert (tls["asked"], tls["shown"]) == (True, True)
        assert (list(report["steps"]), tls["outcome"]) == (["tcp", "tls"], "alert")
        assert {"from": "peer", "level": "fatal", "description": "unknown ca"} in tls["alerts"]
        late = version is ssl.TLSVersion.TLSv1_3
        assert f"ends TLS {'after the' if late else 'during the TLS'} handshake" in report["meaning"]
        assert (tls["version"] == "TLSv1.3") == late

    def test_a_key_that_only_others_may_read(self, ask: Asking, tmp_path: Path, certificate: Path) -> None:
        chain, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
        chain.write_bytes(certificate.read_bytes())
        key.write_bytes(certificate.with_suffix(".key").read_bytes())
        key.chmod(0)
        if root := os.geteuid() == 0:
            for directory in (tmp_path, *tmp_path.parents[:2]):
                directory.chmod(0o755)
            os.seteuid(65534)
        try:
            code, printed = ask(1, "--certificate", str(chain), "--key", str(key))
        finally:
            if root:
                os.seteuid(0)
        assert (code, printed) == (2, f"sbc-probe: {key}: Permission denied: run it as root\n")

    def test_files_that_are_no_pair(self, ask: Asking, tmp_path: Path, proxy: Path, certificate: Path) -> None:
        assert ask(1, "--key", str(tmp_path / "none")) == (
            2,
            f"sbc-probe: {tmp_path}/none: No such file or directory\n",
        )
        code, printed = ask(1, "--key", str(proxy.with_suffix(".key")))
        assert (code, "no usable pair: key values mismatch" in printed) == (2, True)
        assert ask(1, "--roots", str(certificate.with_suffix(".key")))[0] == 2


class TestNoAnswer:
    def ended(self, report: dict[str, Any], step: str, outcome: str, cause: str, words: str) -> None:
        assert list(report["steps"])[-1] == step
        assert (report["steps"][step]["outcome"], report["cause"], report["exit_code"]) == (outcome, cause, 1)
        assert words in report["meaning"]

    def test_nobody_listens(self, ask: Asking) -> None:
        self.ended(ask.document(1), "tcp", "refused", "proxy_unreachable", "refuses TCP")

    def test_tcp_without_tls(self, ask: Asking, ports: Ports, proxy: Path) -> None:
        self.ended(ask.document(ports(None).port), "tls", "closed", "proxy_tls", "hangs up during the TLS handshake")
        silent = ask.document(ports(proxy, Silent).port, timeout="0.3")
        self.ended(silent, "tls", "silent", "proxy_tls", "says nothing in TLS for 0.3 s")

    def test_silence_after_the_handshake(self, ask: Asking, ports: Ports, proxy: Path) -> None:
        server = ports(proxy)
        server.answer = None
        words = "completes TLS and does not answer within 3 s"
        self.ended(ask.document(server.port, timeout="3"), "answer", "silent", "proxy_silent", words)

    def test_it_leaves_without_an_answer(self, ask: Asking, ports: Ports, proxy: Path) -> None:
        words = "closes the connection without an answer"
        self.ended(ask.document(ports(proxy, Leaving).port), "answer", "closed", "proxy_silent", words)

    def test_a_slow_answer_is_none_to_kamailio(
        self, ask: Asking, ports: Ports, proxy: Path, settings: dict[str, Any]
    ) -> None:
        server = ports(proxy, Slow)
        assert ask.document(server.port)["cause"] is None
        ask.file.write_text(json.dumps({**settings, "answer_timeout": 0.2}))
        report = ask.document(server.port)
        self.ended(report, "answer", "answered", "proxy_silent", "Kamailio gives up after 0.2 s")
        assert report["steps"]["answer"]["code"] == 200


class TestNames:
    def test_the_first_address_is_asked(
        self, ask: Asking, ports: Ports, proxy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sbc_probe.options.lookup", lambda _name: Lookup(("127.0.0.1", "127.0.0.2")))
        code, printed = ask(ports(proxy).port, host=HOST)
        assert code == 0
        assert f"{HOST}: 127.0.0.1, 127.0.0.2" in printed
        assert f"sbc-probe options ADDRESS --name {HOST}" in printed

    def test_a_name_without_addresses(self, ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sbc_probe.options.lookup", lambda _name: Lookup((), "NXDOMAIN", True))
        code, printed = ask(5061, host=HOST)
        assert code == 1
        last = [f"proxy_dns: DNS for {HOST}: NXDOMAIN", "What to do: sbc-probe explain proxy_dns"]
        assert printed.splitlines()[-2:] == last

    def test_it_leaves_from_the_sbcs_address_or_not_at_all(self, ask: Asking, settings: dict[str, Any]) -> None:
        ask.file.write_text(json.dumps({**settings, "address": "192.0.2.1"}))
        assert ask(1) == (2, "sbc-probe: 192.0.2.1 is no address of this machine\n")

    @pytest.mark.parametrize("host", ["", ":5061", "a:b", "a:0", "a:70000", "2001:db8::1", ".a", "a b", "x" * 64])
    def test_hosts_that_make_no_sense(self, host: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["options", host])
        assert "invalid host_and_port value" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--name", "--from"])
    def test_names_that_would_be_more_than_a_name(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["options", HOST, option, "a\r\nVia: b"])
        assert "invalid host_name value" in capsys.readouterr().err
