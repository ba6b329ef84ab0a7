"""Microsoft's proxies as an SBC meets them, over real TLS between loopback addresses, and their control interface."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from lab.microsoft import ca, sip, tls
from lab.microsoft.trunks import (
    Evidence,
    Fault,
    Received,
    Refused,
    Registry,
    Sent,
    Settings,
    Trunk,
    fully_qualified,
    why_not_active,
)

ROOT = Path(__file__).parents[2]
PROXIES = {
    "sip.pstnhub.microsoft.com": ("commercial", "127.0.1.1"),
    "sip2.pstnhub.microsoft.com": ("commercial", "127.0.1.2"),
    "sip3.pstnhub.microsoft.com": ("commercial", "127.0.1.3"),
    "sip.pstnhub.gov.teams.microsoft.us": ("gcc_high", "127.0.1.4"),
}
FIRST = "sip.pstnhub.microsoft.com"
COMMERCIAL = [name for name, (cloud, _) in PROXIES.items() if cloud == "commercial"]
FQDN = "sbc.contoso.example"
SBC_ADDRESS = "127.0.1.10"
OTHER = "sip.other.example"
# How long (s) a machine that is slow or busy may take; nothing waits without need.
PATIENCE = 60.0
INTERVAL = 0.2


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")


def only_tls_1_1(context: ssl.SSLContext) -> None:
    """OpenSSL itself does not do TLS 1.1 any more unless told that nothing matters."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


def quiet(sbc: Sbc, *sources: str) -> bool:
    """Whether nothing comes from these addresses, or from any, for three of Microsoft's intervals."""
    seen = len(sbc.requests)
    time.sleep(3 * INTERVAL)
    return not [source for source, _ in sbc.requests[seen:] if source in sources or not sources]


def is_active(microsoft: Microsoft, fqdn: str) -> bool:
    return bool(microsoft.view(fqdn=fqdn)["active"])


def sent_error(microsoft: Microsoft, text: str, fqdn: str = FQDN) -> bool:
    """Whether Microsoft's last own OPTIONS to the SBC failed for a cause with this text."""
    sent = microsoft.view(fqdn=fqdn)["sent"]
    return bool(sent) and text in (sent["error"] or "")


# The world around: a public CA, a name server


class PublicCa:
    """A root and an intermediate for TLS servers only, as Let's Encrypt's are."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.root = ca.Authority.make(f"{name} root")
        self.intermediate = self.root.subordinate(f"{name} R1", timedelta(days=100))
        self.root_pem = self.root.certificate.public_bytes(serialization.Encoding.PEM)
        self._key = rsa.generate_private_key(65537, 2048)

    def issue(self, *names: str, **options: Any) -> ca.Files:
        """The chain and key for `names`; the same RSA key each time unless the options say otherwise."""
        certificate, key = self.intermediate.issue(names, **({"key": self._key} | options))
        stem = f"{self.name}-{certificate.serial_number:x}"
        files = ca.Files(self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        files.certificate.write_bytes(
            b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (certificate, self.intermediate.certificate))
        )
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


class NameServer(threading.Thread):
    """Answers A queries from `zone`, over UDP."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.zone: dict[str, list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.1.53", 0))
        self.address = "{}:{}".format(*self._socket.getsockname())

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self._socket.recvfrom(4096)
                if not data:
                    return
                query = dns.message.from_wire(data)
                answer = dns.message.make_response(query)
                answer.flags |= dns.flags.AA
                name = query.question[0].name
                addresses = self.zone.get(name.to_text(omit_final_dot=True).lower())
                if addresses is None:
                    answer.set_rcode(dns.rcode.NXDOMAIN)
                elif addresses:
                    answer.answer.append(dns.rrset.from_text(name, 30, "IN", "A", *addresses))
                self._socket.sendto(answer.to_wire(), peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(PATIENCE)
        self._socket.close()


# Microsoft, in a process of its own


def free_port(*addresses: str) -> int:
    """One that is free at all of them; below those that Linux gives to whoever asks for any, so that it stays free."""
    for port in random.sample(range(20000, 30000), 100):
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for address in addresses:
                taken.enter_context(socket.create_server((address, port)))
            return port
    raise AssertionError("no port is free")


class Microsoft:
    """The process under test and its control interface."""

    def __init__(self, directory: Path, resolver: str, roots: Path, digicert: Path) -> None:
        self.roots = roots
        self.socket = directory / "microsoft.sock"
        self.config = directory / "microsoft-config.json"
        self.port = free_port(*(address for _, address in PROXIES.values()))
        self.ca, leaves = ca.prepare(directory / "microsoft-ca", PROXIES)
        proxies = [
            {
                "cloud": cloud,
                "name": name,
                "address": address,
                "port": self.port,
                "certificate": str(leaves[name].certificate),
                "key": str(leaves[name].key),
            }
            for name, (cloud, address) in PROXIES.items()
        ]
        self.config.write_text(
            json.dumps(
                {
                    "control": str(self.socket),
                    "resolver": resolver,
                    "trusted_roots": {"commercial": [str(roots), str(digicert)], "gcc_high": [str(digicert)]},
                    "faulty": {
                        kind: {"certificate": str(files.certificate), "key": str(files.key)}
                        for kind, files in ca.prepare_faulty(directory / "microsoft-ca", PROXIES, OTHER).items()
                    },
                    "state": str(directory / "state" / "microsoft.json"),
                    "options_interval": INTERVAL,
                    "timeout": PATIENCE,
                    "proxies": proxies,
                }
            )
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.microsoft", "--config", str(self.config)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._drain, daemon=True).start()
        until(self._answers, "the control interface")

    def _drain(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            print(line, end="", file=sys.stderr)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the process ended"
        with contextlib.suppress(OSError):
            return bool(self.get("/proxies"))
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def trust(self, roots: bytes) -> None:
        """Replace the file of trusted roots at once."""
        new = self.roots.with_suffix(".new")
        new.write_bytes(roots)
        new.replace(self.roots)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def get(self, path: str) -> Any:
        status, answer = self.request("GET", path)
        assert status == 200, answer
        return answer

    def register(self, fqdn: str = FQDN, **body: object) -> Any:
        status, answer = self.request("PUT", f"/trunks/{fqdn}", body)
        assert status in (200, 201), answer
        return answer

    def fault(self, proxy: str, **body: object) -> Any:
        status, answer = self.request("POST", f"/proxies/{proxy}/fault", body)
        assert status == 200, answer
        return answer

    def view(self, proxy: str = FIRST, fqdn: str = FQDN) -> Any:
        return self.get(f"/trunks/{fqdn}")["proxies"][proxy]


# An SBC, small


@dataclass
class Reply:
    """A response, with header names in lower case."""

    code: int
    phrase: str
    headers: dict[str, str]


class Line:
    """An SBC's TLS connection to a proxy."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.buffer = b""

    def reply(self) -> Reply:
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("closed")
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        _, code, phrase = status.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert headers["content-length"] == "0"
        return Reply(int(code), phrase, headers)

    def ask(self, message: bytes) -> Reply:
        self.sock.sendall(message)
        return self.reply()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Sbc:
    """Calls the proxies from its own address, and answers their OPTIONS on a port of its own."""

    microsoft: Microsoft
    files: ca.Files
    fqdn: str = FQDN
    address: str = SBC_ADDRESS
    answer: bytes | None = b"SIP/2.0 200 OK"
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Source address and text of what came."""

    def __post_init__(self) -> None:
        self.serve(self.files)
        self._listener = socket.create_server((self.address, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._listen, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        # Before the number of the socket is free: a thread about to wait would wait on whichever gets it next.
        self._acceptor.join(PATIENCE)
        self._listener.close()

    def serve(self, files: ca.Files, configure: Callable[[ssl.SSLContext], None] = lambda context: None) -> None:
        """Serve another certificate from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        configure(context)
        context.load_cert_chain(files.certificate, files.key)
        # As Kamailio with verify_client = optional_no_ca: Microsoft's own certificate has no clientAuth.
        context.verify_mode = ssl.CERT_NONE
        self._context = context

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, peer = self._listener.accept()
                threading.Thread(target=self._talk, args=(sock, peer[0]), daemon=True).start()

    def _talk(self, sock: socket.socket, source: str) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as line:
            data = b""
            while chunk := line.recv(65536):
                data += chunk
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    text = head.decode()
                    self.requests.append((source, text))
                    if self.answer:
                        copied = re.findall(r"(?im)^(?:via|from|to|call-id|cseq):.*?(?=\r|\Z)", text)
                        lines = [self.answer.decode(), *copied, f"Contact: <sip:{self.fqdn}>", "l: 0", "", ""]
                        line.sendall("\r\n".join(lines).encode())

    def connect(
        self,
        proxy: str = FIRST,
        files: ca.Files | None = None,
        configure: Callable[[ssl.SSLContext], None] = lambda context: None,
    ) -> Line:
        """Raises ssl.SSLError when the proxy refuses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.microsoft.ca.certificate)
        files = files or self.files
        context.load_cert_chain(files.certificate, files.key)
        configure(context)
        return self.connect_with(context, proxy)

    def connect_with(self, context: ssl.SSLContext, proxy: str = FIRST) -> Line:
        sock = socket.create_connection(
            (PROXIES[proxy][1], self.microsoft.port), timeout=PATIENCE, source_address=(self.address, 0)
        )
        try:
            return Line(context.wrap_socket(sock, server_hostname=proxy))
        except OSError:
            sock.close()
            raise

    def options(self, proxy: str = FIRST, contact: str | None = "", extra: str = "") -> bytes:
        """An OPTIONS to the proxy; no Contact if None, the SBC's own if empty."""
        if contact == "":
            contact = f"<sip:{self.fqdn}:{self.port};transport=tls>"
        lines = [
            f"OPTIONS sip:{proxy}:5061;transport=tls SIP/2.0",
            f"Via: SIP/2.0/TLS {self.address}:5061;branch=z9hG4bK{time.monotonic_ns()};rport",
            "Max-Forwards: 70",
            f"From: <sip:{self.fqdn}>;tag=1",
            f"To: <sip:{proxy}>",
            f"Call-ID: {time.monotonic_ns()}@{self.fqdn}",
            "CSeq: 10 OPTIONS",
            "User-Agent: an SBC",
            *([f"Contact: {contact}"] if contact else []),
            *([extra] if extra else []),
            "Content-Length: 0",
            "",
            "",
        ]
        return "\r\n".join(lines).encode()

    def ping(self, proxy: str = FIRST, contact: str | None = "", extra: str = "") -> Reply:
        with self.connect(proxy) as line:
            return line.ask(self.options(proxy, contact, extra))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("microsoft")


@pytest.fixture(scope="module")
def public_ca(directory: Path) -> PublicCa:
    return PublicCa(directory, "public")


@pytest.fixture(scope="module")
def other_ca(directory: Path) -> PublicCa:
    return PublicCa(directory, "other")


@pytest.fixture(scope="module")
def seller() -> ca.Seller:
    """The CA that all clouds trust."""
    return ca.Seller.make("Lab DigiCert Global Root")


@pytest.fixture(scope="module")
def certificate(public_ca: PublicCa) -> ca.Files:
    return public_ca.issue(FQDN)


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    server = NameServer()
    server.zone[FQDN] = [SBC_ADDRESS]
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def process(directory: Path, names: NameServer, public_ca: PublicCa, seller: ca.Seller) -> Iterator[Microsoft]:
    roots = directory / "roots.pem"
    roots.write_bytes(public_ca.root_pem)
    digicert = directory / "digicert.pem"
    digicert.write_text(seller.root.pem)
    process = Microsoft(directory, names.address, roots, digicert)
    yield process
    if process.process.poll() is None:
        assert process.stop() == 0


@pytest.fixture
def microsoft(process: Microsoft) -> Microsoft:
    """Microsoft as it was at the start: it knows nobody."""
    assert process.request("POST", "/reset")[0] == 204
    return process


@pytest.fixture
def sbc(microsoft: Microsoft, certificate: ca.Files) -> Iterator[Sbc]:
    sbc = Sbc(microsoft, certificate)
    yield sbc
    sbc.close()


# OPTIONS, both ways


def test_a_good_sbc_becomes_active_after_it_answered_microsofts_own_options(microsoft: Microsoft, sbc: Sbc) -> None:
    view = microsoft.register()
    assert (view["active"], view["enabled"], view["cloud"]) == (False, True, "commercial")
    assert {proxy["why_not"] for proxy in view["proxies"].values()} == {"no OPTIONS received"}
    for proxy in COMMERCIAL:
        reply = sbc.ping(proxy)
        assert (reply.code, reply.phrase) == (200, "OK")
        assert reply.headers["server"].startswith("Microsoft.PSTNHub.SIPProxy v.")
        assert "OPTIONS" in reply.headers["allow"].split(",")
    view = until(lambda: (view := microsoft.get(f"/trunks/{FQDN}"))["active"] and view, "Active")
    for proxy in COMMERCIAL:
        seen = view["proxies"][proxy]
        assert seen["why_not"] is None
        assert (seen["received"]["source"], seen["received"]["code"]) == (SBC_ADDRESS, 200)
        assert seen["received"]["contact"] == f"<sip:{FQDN}:{sbc.port};transport=tls>"
        assert seen["received"]["agent"] == "an SBC"
        assert (seen["sent"]["code"], seen["sent"]["address"]) == (200, SBC_ADDRESS)
        assert 0 <= seen["sent"]["age"] < PATIENCE
        leaf = x509.load_pem_x509_certificate(sbc.files.certificate.read_bytes())
        assert seen["sent"]["certificate"] == leaf.fingerprint(hashes.SHA256()).hex() == seen["received"]["certificate"]
    sources = {source for source, _ in sbc.requests}
    assert sources == {PROXIES[proxy][1] for proxy in COMMERCIAL}
    text = sbc.requests[0][1]
    assert text.startswith(f"OPTIONS sip:{FQDN}:{sbc.port};transport=tls SIP/2.0\r\n")
    assert re.search(r"(?im)^user-agent: Microsoft\.PSTNHub\.SIPProxy v\.", text)


def test_own_options_are_repeated_and_end_when_the_trunk_goes(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    sbc.ping()
    until(lambda: len(sbc.requests) >= 3, "three OPTIONS")
    assert microsoft.request("DELETE", f"/trunks/{FQDN}") == (204, None)
    assert microsoft.get("/trunks") == {}
    until(lambda: quiet(sbc), "own OPTIONS to end")
    assert sbc.ping().code == 403


@pytest.mark.parametrize(
    ("contact", "extra", "code", "reason"),
    [
        (f"<sip:{SBC_ADDRESS}:5061;transport=tls>", "", 403, f"'{SBC_ADDRESS}' is not allowed"),
        ("<sip:[2001:db8::1]:5061;transport=tls>", "", 403, "'[2001:db8::1]' is not allowed"),
        (None, "", 400, "Record-Route and Contact headers are missing"),
        ("*", "", 400, "missing"),
        ("<sip:nobody.example:5061;transport=tls>", "", 403, "'nobody.example' is not known"),
        ("<sip:fabrikam.example:5061>", "", 403, "Certificate does not carry 'fabrikam.example'"),
        (f"<sip:{FQDN}>", "Record-Route: <sip:fabrikam.example;lr>", 403, "Record-Route names fabrikam.example"),
        ("<sip:gov.example>", "", 403, "'gov.example' is not known"),
    ],
)
def test_a_bad_contact_is_refused_with_a_reason(
    microsoft: Microsoft, sbc: Sbc, contact: str | None, extra: str, code: int, reason: str
) -> None:
    microsoft.register()
    microsoft.register("fabrikam.example")
    microsoft.register("gov.example", cloud="gcc_high")
    reply = sbc.ping(contact=contact, extra=extra)
    assert reply.code == code
    assert reply.headers["reason"].startswith("Q.850;cause=63;text=")
    assert reason in reply.headers["reason"]
    assert reason in microsoft.get("/refusals")[-1]["reason"]
    assert reason in microsoft.view()["why_not"], "the trunk of the peer's certificate and address tells why"
    time.sleep(0.3)
    assert sbc.requests == []


@pytest.mark.parametrize(
    ("contact", "extra"),
    [
        ("sip:sbc.contoso.example:{port};transport=tls", ""),
        ('"An SBC, of <Contoso>" <sip:options@SBC.Contoso.Example.:{port};transport=tls>;expires=5', ""),
        (None, "Record-Route: <sip:sbc.contoso.example:{port};transport=tls;lr>, <sip:10.0.0.1;lr>"),
        ("<sip:sbc.contoso.example:{port}>", "Record-Route: <sip:10.0.0.1;lr>"),
    ],
)
def test_a_good_contact_in_other_words(microsoft: Microsoft, sbc: Sbc, contact: str | None, extra: str) -> None:
    microsoft.register()
    assert sbc.ping(contact=contact and contact.format(port=sbc.port), extra=extra.format(port=sbc.port)).code == 200


def test_an_sbc_that_microsoft_does_not_know_yet(microsoft: Microsoft, sbc: Sbc) -> None:
    reply = sbc.ping()
    assert (reply.code, f"'{FQDN}' is not known" in reply.headers["reason"]) == (403, True)
    with sbc.connect() as line:
        assert line.ask(sbc.options()).code == 403
        microsoft.register()
        assert line.ask(sbc.options()).code == 200, "on the same connection"
    until(lambda: microsoft.view()["active"], "Active")


def test_a_refusal_of_microsofts_own_options_keeps_the_sbc_inactive(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    sbc.answer = b"SIP/2.0 404 Not here"
    sbc.ping()
    why_not = until(lambda: microsoft.view()["sent"] and microsoft.view()["why_not"], "own OPTIONS")
    assert why_not == f"own OPTIONS to {FQDN}:{sbc.port} answered 404 Not here"
    sbc.answer = b"SIP/2.0 200 OK"
    until(lambda: microsoft.view()["active"], "Active")


def test_silence_and_a_closed_port_keep_the_sbc_inactive(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    sbc.ping()
    until(lambda: microsoft.view()["active"], "Active")
    microsoft.request("PUT", "/settings", {"timeout": 0.5})
    sbc.answer = None
    until(partial(sent_error, microsoft, "no answer"), "silence to be noticed")
    sbc.close()
    until(partial(sent_error, microsoft, "no connection: refused"), "the closed port to be noticed")
    assert microsoft.view()["why_not"].endswith("no connection: refused")


def test_names_that_do_not_resolve_to_one_address(microsoft: Microsoft, names: NameServer, public_ca: PublicCa) -> None:
    names.zone["two.example"] = [SBC_ADDRESS, "127.0.1.11"]
    for fqdn, reason in (("two.example", "one address is supported"), ("none.example", "no A record")):
        microsoft.request("POST", "/reset")
        microsoft.register(fqdn)
        sbc = Sbc(microsoft, public_ca.issue(fqdn), fqdn)
        assert sbc.ping().code == 200
        until(partial(sent_error, microsoft, reason, fqdn), "own OPTIONS to fail")
        sbc.close()


def test_an_sbc_is_demoted_without_options(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    sbc.ping()
    until(lambda: microsoft.view()["active"], "Active")
    microsoft.request("PUT", "/settings", {"demote_after": 0.3})
    until(lambda: re.fullmatch(r"no OPTIONS received for \d+ s", microsoft.view()["why_not"] or ""), "demotion")
    until(lambda: quiet(sbc), "own OPTIONS to end")


def test_a_disabled_trunk_is_left_alone(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register(enabled=False)
    assert sbc.ping().code == 200
    time.sleep(0.3)
    assert (sbc.requests, microsoft.view()["why_not"]) == ([], "the trunk is disabled")
    microsoft.register(enabled=True)
    sbc.ping()
    until(lambda: microsoft.view()["active"], "Active")


# TLS


def test_a_certificate_of_the_wrong_name_gets_an_alert(
    microsoft: Microsoft, sbc: Sbc, public_ca: PublicCa, certificate: ca.Files
) -> None:
    wrong = public_ca.issue("other.contoso.example")
    with sbc.connect(files=wrong) as line:
        assert line.ask(sbc.options()).code == 403, "nobody is known at this address: TLS, and a refusal"
    microsoft.register()
    with pytest.raises(ssl.SSLError, match="alert"):
        sbc.connect(files=wrong)
    expected = f"certificate names other.contoso.example, not {FQDN}"
    assert microsoft.get("/refusals")[-1]["reason"] == expected
    assert microsoft.view()["why_not"] == f"TLS handshake from {SBC_ADDRESS} failed: {expected}"
    assert sbc.ping().code == 200
    until(lambda: microsoft.view()["active"], "Active")

    sbc.serve(wrong)
    why_not = until(lambda: microsoft.view()["why_not"], "the name to be noticed")
    assert "certificate not accepted: Hostname mismatch" in why_not
    sbc.serve(certificate)
    until(lambda: microsoft.view()["active"], "Active")


def test_a_wildcard_covers_one_level(microsoft: Microsoft, names: NameServer, public_ca: PublicCa) -> None:
    fqdns = {"a.carrier.example": True, "b.a.carrier.example": False, "carrier.example": False}
    wildcard = public_ca.issue("*.carrier.example")
    for fqdn, good in fqdns.items():
        microsoft.request("POST", "/reset")
        names.zone[fqdn] = [SBC_ADDRESS]
        microsoft.register(fqdn)
        sbc = Sbc(microsoft, wildcard, fqdn)
        if good:
            assert sbc.ping().code == 200
            until(partial(is_active, microsoft, fqdn), "Active")
        else:
            with pytest.raises(ssl.SSLError, match="alert"):
                sbc.ping()
        sbc.close()


def test_a_foreign_ca_is_refused_until_it_is_trusted(
    microsoft: Microsoft, sbc: Sbc, public_ca: PublicCa, other_ca: PublicCa
) -> None:
    microsoft.register()
    foreign = other_ca.issue(FQDN)
    try:
        with pytest.raises(ssl.SSLError, match="alert unknown ca"):
            sbc.connect(files=foreign)
        assert "certificate not trusted" in microsoft.view()["why_not"]
        microsoft.trust(public_ca.root_pem + other_ca.root_pem)
        with sbc.connect(files=foreign) as line:
            assert line.ask(sbc.options()).code == 200
        microsoft.trust(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
        with sbc.connect(files=foreign) as line:
            assert line.ask(sbc.options()).code == 200, "what was trusted stays trusted"
        microsoft.roots.unlink()
        with pytest.raises(ssl.SSLError, match="alert unknown ca"):
            sbc.connect()
        until(partial(sent_error, microsoft, "certificate not accepted"), "own OPTIONS to be refused")
    finally:
        microsoft.trust(public_ca.root_pem)
    assert sbc.ping().code == 200


def test_key_usages_and_dates(microsoft: Microsoft, sbc: Sbc, public_ca: PublicCa) -> None:
    microsoft.register()
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    for usages in ([server], [server, client], []):
        with sbc.connect(files=public_ca.issue(FQDN, usages=usages)) as line:
            assert line.ask(sbc.options()).code == 200
    with pytest.raises(ssl.SSLError, match="alert"):
        sbc.connect(files=public_ca.issue(FQDN, usages=[client]))
    assert "no serverAuth" in microsoft.view()["why_not"]
    past = datetime.now(UTC) - timedelta(days=90)
    with pytest.raises(ssl.SSLError, match="alert certificate expired"):
        sbc.connect(files=public_ca.issue(FQDN, not_before=past, lifetime=timedelta(days=89)))
    assert "cert has expired" in microsoft.view()["why_not"]


def test_only_tls_1_2_with_ecdhe_rsa_and_a_certificate(microsoft: Microsoft, sbc: Sbc) -> None:
    def tls_1_3(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3

    def ecdsa(context: ssl.SSLContext) -> None:
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    def chacha(context: ssl.SSLContext) -> None:
        context.set_ciphers("ECDHE-RSA-CHACHA20-POLY1305")
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    for configure in (tls_1_3, only_tls_1_1, ecdsa, chacha):
        with pytest.raises(ssl.SSLError, match="alert"):
            sbc.connect(configure=configure)
    with sbc.connect() as line:
        cipher = line.sock.cipher()
        assert (line.sock.version(), cipher and cipher[0] in tls.CIPHERS.split(":")) == ("TLSv1.2", True)
        leaf = line.sock.getpeercert(binary_form=True)
    assert leaf
    usage = x509.load_der_x509_certificate(leaf).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(microsoft.ca.certificate)
    with pytest.raises(ssl.SSLError, match="alert"):
        sbc.connect_with(bare)
    assert "peer did not return a certificate" in microsoft.get("/refusals")[-1]["reason"]


def test_an_ecdsa_key_cannot_serve_microsoft(microsoft: Microsoft, sbc: Sbc, public_ca: PublicCa) -> None:
    microsoft.register()
    ecdsa = public_ca.issue(FQDN, key=ec.generate_private_key(ec.SECP256R1()))
    sbc.serve(ecdsa)
    assert sbc.ping().code == 200
    why_not = until(lambda: microsoft.view()["sent"] and microsoft.view()["why_not"], "own OPTIONS")
    assert "handshake" in why_not.lower()
    with pytest.raises(ssl.SSLError, match="alert"):
        sbc.connect(files=ecdsa)
    assert microsoft.get("/refusals")[-1]["reason"] == "certificate's key is not RSA"


def test_microsoft_itself_speaks_no_tls_1_1(microsoft: Microsoft, sbc: Sbc, certificate: ca.Files) -> None:
    microsoft.register()
    sbc.serve(certificate, only_tls_1_1)
    assert sbc.ping().code == 200
    why_not = until(lambda: microsoft.view()["sent"] and microsoft.view()["why_not"], "own OPTIONS")
    assert "TLS: " in why_not
    sbc.serve(certificate)
    until(lambda: microsoft.view()["active"], "Active")


# Certificates that are bought


def bought(directory: Path, seller: ca.Seller, fault: ca.Fault | None = None, *names: str) -> ca.Files:
    files = ca.Files(directory / f"bought-{fault}.pem", directory / f"bought-{fault}.key")
    chain, key = seller.sell([FQDN, *names], fault)
    files.certificate.write_text(chain)
    files.key.write_text(key)
    return files


def test_each_cloud_has_its_own_roots(microsoft: Microsoft, sbc: Sbc, directory: Path, seller: ca.Seller) -> None:
    government = "sip.pstnhub.gov.teams.microsoft.us"
    microsoft.register(cloud="gcc_high")
    with pytest.raises(ssl.SSLError, match="alert unknown ca"):
        sbc.connect(government)
    assert "certificate not trusted" in microsoft.view(government)["why_not"]
    files = bought(directory, seller)
    with sbc.connect(government, files) as line:
        assert line.ask(sbc.options(government)).code == 200
    until(lambda: "certificate not accepted" in (microsoft.view(government)["why_not"] or ""), "own OPTIONS")
    sbc.serve(files)
    until(lambda: microsoft.get(f"/trunks/{FQDN}")["active"], "Active")
    with sbc.connect(FIRST, files) as line:
        assert line.ask(sbc.options(contact="<sip:nobody.example>")).code == 403, "trusted by the commercial cloud too"


@pytest.mark.parametrize(
    ("fault", "outbound", "inbound"),
    [
        ("expired", "certificate has expired", "cert has expired"),
        ("not_yet_valid", "certificate is not yet valid", "cert not yet valid"),
        ("wrong_name", "Hostname mismatch", f"not {FQDN}"),
        ("ecdsa", "handshake", "key is not RSA"),
        ("no_intermediate", "unable to get local issuer", "certificate not trusted"),
        ("untrusted_root", "unable to get local issuer", "certificate not trusted"),
        ("no_server_auth", "unsuitable certificate purpose", "no serverAuth"),
    ],
)
def test_a_fault_of_a_bought_certificate_is_seen_in_both_directions(
    microsoft: Microsoft,
    sbc: Sbc,
    directory: Path,
    seller: ca.Seller,
    fault: ca.Fault,
    outbound: str,
    inbound: str,
) -> None:
    microsoft.register()
    files = bought(directory, seller, fault)
    sbc.serve(files)
    answer = microsoft.request("POST", "/options", {"fqdn": FQDN, "port": sbc.port})[1]
    assert outbound.lower() in answer["error"].lower()
    with pytest.raises(ssl.SSLError, match="alert"):
        sbc.connect(files=files)
    assert inbound in microsoft.get("/refusals")[-1]["reason"]


def test_a_bought_certificate_and_its_files(directory: Path, seller: ca.Seller, tmp_path: Path) -> None:
    files = bought(directory, seller, None, f"*.{FQDN}")
    leaf, intermediate = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(seller.root.certificate)
    assert tls.names_of(leaf) == {FQDN, f"*.{FQDN}"}
    mismatched = bought(directory, seller, "key_mismatch")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with pytest.raises(ssl.SSLError, match=r"(?i)key.values.mismatch"):
        context.load_cert_chain(mismatched.certificate, mismatched.key)
    made = ca.Seller.prepare(tmp_path, "a seller")
    assert ca.Seller.prepare(tmp_path, "a seller").intermediate.certificate == made.intermediate.certificate
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.key")} == {0}
    (tmp_path / "root.key").unlink()
    assert ca.Seller.prepare(tmp_path, "a seller").root.certificate != made.root.certificate


# OPTIONS on demand


def test_options_at_once_to_any_name(microsoft: Microsoft, sbc: Sbc) -> None:
    status, answer = microsoft.request("POST", "/options", {"fqdn": FQDN, "port": sbc.port})
    leaf = x509.load_pem_x509_certificate(sbc.files.certificate.read_bytes())
    assert status == 200
    assert answer == {
        "proxy": FIRST,
        "target": f"{FQDN}:{sbc.port}",
        "address": SBC_ADDRESS,
        "code": 200,
        "reason": "OK",
        "error": None,
        "contact": f"<sip:{FQDN}>",
        "certificate": {
            "names": [FQDN],
            "issuer": "CN=public R1",
            "fingerprint": leaf.fingerprint(hashes.SHA256()).hex(),
            "not_before": leaf.not_valid_before_utc.isoformat(),
            "not_after": leaf.not_valid_after_utc.isoformat(),
        },
    }
    assert microsoft.get("/trunks") == {}, "no trunk is needed, and none is made"
    [(source, text)] = sbc.requests
    assert (source, text.startswith(f"OPTIONS sip:{FQDN}:{sbc.port};transport=tls SIP/2.0")) == (
        PROXIES[FIRST][1],
        True,
    )


def test_options_to_a_tenant_show_whether_its_name_is_served(
    microsoft: Microsoft, names: NameServer, public_ca: PublicCa, sbc: Sbc
) -> None:
    names.zone["tenant.carrier.example"] = [SBC_ADDRESS]
    body = {"fqdn": "tenant.carrier.example", "port": sbc.port}
    answer = microsoft.request("POST", "/options", body)[1]
    assert (answer["code"], answer["certificate"]) == (None, None)
    assert "certificate not accepted: Hostname mismatch" in answer["error"]
    sbc.serve(public_ca.issue("carrier.example", "*.carrier.example"))
    answer = microsoft.request("POST", "/options", body)[1]
    assert (answer["code"], answer["certificate"]["names"]) == (200, ["*.carrier.example", "carrier.example"])
    sbc.answer = b"SIP/2.0 404 Not here"
    answer = microsoft.request("POST", "/options", body)[1]
    assert (answer["code"], answer["reason"], answer["error"]) == (404, "Not here", None)
    answer = microsoft.request("POST", "/options", body | {"fqdn": "absent.example"})[1]
    assert (answer["code"], answer["error"]) == (None, "absent.example: no A record")
    answer = microsoft.request("POST", "/options", {"fqdn": FQDN})[1]
    assert (answer["target"], answer["error"]) == (f"{FQDN}:5061", "no connection: refused")


def test_a_proxy_whose_ca_the_sbc_does_not_trust_says_so(microsoft: Microsoft, sbc: Sbc, certificate: ca.Files) -> None:
    microsoft.register()
    suspicious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    suspicious.load_cert_chain(certificate.certificate, certificate.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        sbc.connect_with(suspicious)
    until(lambda: "alert unknown ca" in microsoft.view()["why_not"], "the SBC's alert")


# Faults


def test_a_proxy_that_is_down_comes_back(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    with sbc.connect() as line:
        assert line.ask(sbc.options()).code == 200
        until(lambda: microsoft.view()["active"], "Active")
        assert microsoft.fault(FIRST, kind="down")["listening"] is False
        with contextlib.suppress(ConnectionError):
            assert line.sock.recv(1) == b"", "the connection is dropped"
    with pytest.raises(ConnectionRefusedError):
        sbc.connect()
    assert microsoft.view()["why_not"] == "this proxy is down"
    assert sbc.ping("sip2.pstnhub.microsoft.com").code == 200, "the others are as before"
    until(lambda: quiet(sbc, PROXIES[FIRST][1]), "own OPTIONS to end")
    assert microsoft.fault(FIRST, kind="none")["listening"] is True
    assert sbc.ping().code == 200
    until(lambda: microsoft.view()["active"], "Active")


def test_a_proxy_that_refuses_or_fails(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    microsoft.fault(FIRST, kind="refuse")
    assert sbc.ping().code == 403
    assert microsoft.view()["why_not"].startswith("OPTIONS answered 403")
    microsoft.fault(FIRST, kind="error", code=503, reason="Service Unavailable", retry_after=7)
    reply = sbc.ping()
    assert (reply.code, reply.phrase, reply.headers["retry-after"]) == (503, "Service Unavailable", "7")
    assert "reason" not in reply.headers
    assert microsoft.view()["why_not"] == "OPTIONS answered 503: Service Unavailable"
    microsoft.fault(FIRST, kind="error", code=488, reason="Not Acceptable Here", text="no media is offered")
    reply = sbc.ping()
    assert (reply.code, reply.phrase) == (488, "Not Acceptable Here")
    assert 'text="' in reply.headers["reason"]
    assert reply.headers["reason"].endswith(';no media is offered"')
    assert "retry-after" not in reply.headers
    assert sbc.requests == []


def test_a_silent_and_a_mute_proxy(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    microsoft.fault(FIRST, kind="silent")
    with sbc.connect() as line:
        line.sock.sendall(sbc.options())
        until(lambda: microsoft.view()["why_not"] == "OPTIONS received and not answered", "OPTIONS to come")
        assert select.select([line.sock], [], [], 0.4)[0] == []
        microsoft.fault(FIRST, kind="mute")
        assert line.ask(sbc.options()).code == 200
    time.sleep(0.4)
    assert sbc.requests == []
    assert microsoft.view()["why_not"] == "this proxy sends no OPTIONS"
    microsoft.fault(FIRST, kind="none")
    sbc.ping()
    until(lambda: microsoft.view()["active"], "Active")


def test_a_misnamed_proxy_has_a_good_certificate_for_another_name(microsoft: Microsoft, sbc: Sbc) -> None:
    def any_name(context: ssl.SSLContext) -> None:
        context.check_hostname = False

    def names(line: Line) -> frozenset[str]:
        der = line.sock.getpeercert(binary_form=True)
        assert der
        return tls.names_of(x509.load_der_x509_certificate(der))

    microsoft.register()
    with sbc.connect() as before, sbc.connect("sip2.pstnhub.microsoft.com") as elsewhere:
        assert before.ask(sbc.options()).code == 200
        assert names(before) == {FIRST}
        view = microsoft.fault(FIRST, kind="misnamed")
        assert (view["listening"], view["connections"]) == (True, 0)
        with contextlib.suppress(ConnectionError):
            assert before.sock.recv(1) == b"", "what the old certificate was shown on ends"
        assert elsewhere.ask(sbc.options()).code == 200, "the others are as before"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        sbc.connect()
    with sbc.connect(configure=any_name) as line:
        assert names(line) == {OTHER}, "the chain is trusted"
        assert line.ask(sbc.options()).code == 200
        until(lambda: microsoft.view()["active"], "Active: to Microsoft nothing is wrong")
        microsoft.fault(FIRST, kind="misnamed")
        assert line.ask(sbc.options()).code == 200, "the same fault again changes nothing"
        microsoft.fault(FIRST, kind="none")
        with contextlib.suppress(ConnectionError):
            assert line.sock.recv(1) == b""
    with sbc.connect() as line:
        assert names(line) == {FIRST}
        assert line.ask(sbc.options()).code == 200


@pytest.mark.parametrize(
    ("kind", "why"),
    [("expired", "certificate has expired"), ("untrusted", "unable to get local issuer certificate")],
)
def test_a_proxy_whose_certificate_is_not_to_be_trusted(microsoft: Microsoft, sbc: Sbc, kind: str, why: str) -> None:
    microsoft.register()
    with sbc.connect() as before:
        assert before.ask(sbc.options()).code == 200
        assert microsoft.fault(FIRST, kind=kind)["connections"] == 0
        with contextlib.suppress(ConnectionError):
            assert before.sock.recv(1) == b"", "what the good certificate was shown on ends"
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        sbc.connect()
    assert sbc.ping("sip2.pstnhub.microsoft.com").code == 200, "the others are as before"
    microsoft.fault(FIRST, kind="none")
    assert sbc.ping().code == 200


def test_a_proxy_that_trusts_nobody_any_more(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    with sbc.connect() as before:
        assert before.ask(sbc.options()).code == 200
        assert microsoft.fault(FIRST, kind="distrust")["connections"] == 0
    with pytest.raises(ssl.SSLError, match="unknown ca"), sbc.connect() as line:
        line.ask(sbc.options())
    assert "certificate not trusted" in microsoft.view()["why_not"]
    assert sbc.ping("sip2.pstnhub.microsoft.com").code == 200, "the others are as before"
    microsoft.fault(FIRST, kind="none")
    assert sbc.ping().code == 200


def test_a_proxy_behind_a_black_hole_hears_and_says_nothing_until_it_ends(microsoft: Microsoft, sbc: Sbc) -> None:
    def connect(timeout: float) -> socket.socket:
        return socket.create_connection((PROXIES[FIRST][1], microsoft.port), timeout, (SBC_ADDRESS, 0))

    microsoft.register()
    with sbc.connect() as line:
        assert line.ask(sbc.options()).code == 200
        microsoft.fault(FIRST, kind="blackhole")
        with pytest.raises(TimeoutError):
            connect(0.5)
        line.sock.sendall(sbc.options())
        assert select.select([line.sock], [], [], 0.5)[0] == [], "neither an answer nor an end"
        assert microsoft.view()["why_not"] == "nothing reaches this proxy"
        assert sbc.ping("sip2.pstnhub.microsoft.com").code == 200, "the others are as before"
        microsoft.fault(FIRST, kind="none")
        assert line.reply().code == 200, "what was sent before is sent again"
    connect(PATIENCE).close()


def test_a_fault_comes_and_goes_by_itself_until_it_is_taken_away(microsoft: Microsoft, sbc: Sbc) -> None:
    def codes(count: int) -> list[int]:
        """What a row of OPTIONS got, without repetitions."""
        seen: list[int] = []
        while len(seen) < count:
            code = sbc.ping().code
            if seen[-1:] != [code]:
                seen.append(code)
        return seen

    microsoft.register()
    view = microsoft.fault(FIRST, kind="refuse", period=0.3)
    assert (view["fault"]["kind"], view["fault"]["period"]) == ("refuse", 0.3)
    assert set(codes(4)) == {403, 200}
    assert microsoft.get("/proxies")[FIRST]["fault"]["kind"] == "refuse"
    microsoft.fault(FIRST, kind="none")
    assert {sbc.ping().code for _ in range(20)} == {200}
    microsoft.fault(FIRST, kind="refuse", period=0.3)
    microsoft.fault(FIRST, kind="down")
    time.sleep(0.5)
    assert microsoft.get("/proxies")[FIRST]["listening"] is False, "a new fault ends what came and went"


# The stream


def test_messages_in_any_pieces(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    with sbc.connect() as line:
        for byte in sbc.options():
            line.sock.sendall(bytes([byte]))
        assert line.reply().code == 200
        line.sock.sendall(sbc.options() * 5 + sbc.options()[:70])
        assert [line.reply().code for _ in range(5)] == [200] * 5
        line.sock.sendall(sbc.options()[70:])
        assert line.reply().code == 200
        line.sock.sendall(b"\r\n\r\n")
        assert line.sock.recv(100) == b"\r\n"
        compact = (
            f"OPTIONS sip:{FIRST} SIP/2.0\r\nv: SIP/2.0/TLS a.example;branch=z9hG4bK1\r\nV: SIP/2.0/TLS b.example\r\n"
            f"f: <sip:{FQDN}>\r\n ;tag=1\r\nt: <sip:{FIRST}>\r\ni: 1\r\nCSeq: 1 OPTIONS\r\n"
            f"m: <sip:{FQDN}:{sbc.port}>\r\nl: 4\r\n\r\nbody"
        ).encode()
        line.sock.sendall(b"\r\n" + compact)
        assert line.reply().headers["from"] == f"<sip:{FQDN}> ;tag=1"


def test_other_methods_and_answers(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    with sbc.connect() as line:
        line.sock.sendall(b"SIP/2.0 200 OK\r\nl: 0\r\n\r\n" + sbc.options().replace(b"OPTIONS", b"ACK"))
        reply = line.ask(sbc.options().replace(b"OPTIONS", b"MESSAGE"))
        assert (reply.code, "OPTIONS" in reply.headers["allow"]) == (405, True)
        reply = line.ask(f"OPTIONS sip:{FIRST} SIP/2.0\r\nm: <sip:{FQDN}>\r\n\r\n".encode())
        assert (reply.code, "via, from, to" in reply.headers["reason"]) == (400, True)


def test_rubbish_ends_only_its_own_connection(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register()
    with sbc.connect() as good, sbc.connect() as bad:
        bad.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert bad.sock.recv(1) == b""
        with socket.create_connection((PROXIES[FIRST][1], microsoft.port)) as plain:
            plain.sendall(b"rubbish, not TLS" * 50)
            plain.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                while plain.recv(100):
                    pass
        assert good.ask(sbc.options()).code == 200


def test_a_stalled_handshake_ends(microsoft: Microsoft) -> None:
    microsoft.request("PUT", "/settings", {"timeout": 0.2})
    with socket.create_connection((PROXIES[FIRST][1], microsoft.port), timeout=PATIENCE) as idle:
        assert idle.recv(1) == b""


def test_hundreds_of_trunks(microsoft: Microsoft, names: NameServer, public_ca: PublicCa) -> None:
    fqdns = [f"customer{number}.many.example" for number in range(200)]
    for fqdn in fqdns:
        names.zone[fqdn] = [SBC_ADDRESS]
        microsoft.register(fqdn)
    microsoft.request("PUT", "/settings", {"options_interval": 60})
    sbc = Sbc(microsoft, public_ca.issue("*.many.example"))
    lines = []
    for fqdn in fqdns:
        line = sbc.connect()
        lines.append(line)
        assert line.ask(sbc.options(contact=f"<sip:{fqdn}:{sbc.port};transport=tls>")).code == 200
    until(lambda: all(t["proxies"][FIRST]["active"] for t in microsoft.get("/trunks").values()), "200 Active")
    assert microsoft.get("/proxies")[FIRST]["connections"] == len(fqdns)
    for line in lines:
        line.close()
    sbc.close()
    until(lambda: microsoft.get("/proxies")[FIRST]["connections"] == 0, "the connections to end")


# Control


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/trunks/localhost", {}, 400),
        ("PUT", "/trunks/203.0.113.10", {}, 400),
        ("PUT", f"/trunks/{FQDN}", {"cloud": "private"}, 400),
        ("PUT", f"/trunks/{FQDN}", {"enabled": "yes"}, 400),
        ("PUT", f"/trunks/{FQDN}", {"colour": "blue"}, 400),
        ("PUT", f"/trunks/{FQDN}", ["enabled"], 400),
        ("GET", "/trunks/absent.example", None, 404),
        ("DELETE", "/trunks/absent.example", None, 404),
        ("POST", "/proxies/absent.example/fault", {"kind": "down"}, 404),
        ("POST", f"/proxies/{FIRST}/fault", {"kind": "tired"}, 400),
        ("POST", f"/proxies/{FIRST}/fault", {"kind": "refuse", "period": 0}, 400),
        ("POST", f"/proxies/{FIRST}/fault", {"kind": "error", "code": 200}, 400),
        ("POST", f"/proxies/{FIRST}/fault", {"kind": "error", "code": True}, 400),
        ("PUT", "/settings", {"options_interval": 0}, 400),
        ("POST", "/options", {}, 400),
        ("POST", "/options", {"fqdn": "localhost"}, 400),
        ("POST", "/options", {"fqdn": FQDN, "cloud": "private"}, 400),
    ],
)
def test_control_says_what_is_wrong(microsoft: Microsoft, method: str, path: str, body: object, status: int) -> None:
    got, answer = microsoft.request(method, path, body)
    assert (got, bool(answer["error"])) == (status, True)


def test_trunks_outlive_the_process(microsoft: Microsoft, sbc: Sbc) -> None:
    microsoft.register("SBC.Contoso.Example.", enabled=False)
    microsoft.register("gov.example", cloud="gcc_high")
    microsoft.stop(signal.SIGKILL)
    microsoft.start()
    view = microsoft.get("/trunks")
    assert {fqdn: (trunk["enabled"], trunk["cloud"]) for fqdn, trunk in view.items()} == {
        FQDN: (False, "commercial"),
        "gov.example": (True, "gcc_high"),
    }
    assert list(view["gov.example"]["proxies"]) == ["sip.pstnhub.gov.teams.microsoft.us"]
    microsoft.register(enabled=True)
    assert sbc.ping().code == 200
    until(lambda: microsoft.view()["active"], "Active")


def test_a_bad_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"proxies": []}')
    command = [sys.executable, "-m", "lab.microsoft", "--config", str(config)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (result.returncode, "KeyError: 'trusted_roots'" in result.stderr) == (2, True)


# The parts alone


def test_parser_limits() -> None:
    for rubbish in (
        b"\x00",
        b"x" * 70_000,
        b"OPTIONS sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: 999999\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nno colon\r\n\r\n",
        b"OPTIONS sip:a SIP/3.0\r\n\r\n",
    ):
        with pytest.raises(sip.SipError):
            list(sip.Parser().feed(rubbish))


def test_parser_keeps_what_is_no_utf_8() -> None:
    [message] = sip.Parser().feed(b"SIP/2.0 200 \xff OK\r\nVia: \xfe\r\n\r\n")
    assert isinstance(message, sip.Message)
    assert (message.code, message.method) == (200, None)
    assert b"VIA: \xfe" in sip.reply(message, 200, "OK", [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<sip:a.example>", sip.Uri("a.example", None)),
        ("<sips:user:secret@A.example:5061;transport=tls?x=y>;q=1", sip.Uri("a.example", 5061)),
        ("sip:a.example;expires=3", sip.Uri("a.example", None)),
        ('"a \\" <sip:b>" <sip:[::1]:5>', sip.Uri("[::1]", 5)),
        ("<tel:+15551234>", None),
        ("<sip:a.example:port>", None),
        ("<sip:>", None),
        ("*", None),
        ("", None),
        (None, None),
    ],
)
def test_uri_of(value: str | None, expected: sip.Uri | None) -> None:
    assert sip.uri_of(value) == expected


def test_covers() -> None:
    assert tls.covers({"a.example"}, "a.example")
    assert tls.covers({"*.example.com"}, "a.example.com")
    for fqdn in ("b.a.example.com", "example.com", "*"):
        assert not tls.covers({"*.example.com"}, fqdn)


def test_fully_qualified() -> None:
    assert fully_qualified("SBC.Example.") == "sbc.example"
    for name in ("sbc", "1.2.3.4", "-a.example", "a..example", "a_b.example", "a." * 130 + "example", ""):
        with pytest.raises(ValueError, match="no fully qualified"):
            fully_qualified(name)


def test_why_not_active_names_the_last_obstacle() -> None:
    now, settings, none = 1000.0, Settings(), Fault()
    received = Received(990, SBC_ADDRESS, "", None, None, 200, "OK")
    sent = Sent(995, FQDN, code=200)

    def judge(evidence: Evidence, fault: Fault = none, enabled: bool = True) -> str | None:
        return why_not_active(Trunk(FQDN, enabled, evidence={FIRST: evidence}), FIRST, fault, now, settings)

    assert judge(Evidence(received, None, sent)) is None
    assert judge(Evidence(received, Refused(980, SBC_ADDRESS, "old"), sent)) is None
    assert "failed: new" in str(judge(Evidence(received, Refused(999, SBC_ADDRESS, "new"), sent)))
    assert judge(Evidence(received)) == "own OPTIONS not sent"
    assert judge(Evidence(received, None, Sent(700, FQDN, code=200))) == "own OPTIONS not sent"
    assert "disabled" in str(judge(Evidence(received, None, sent), enabled=False))


def test_registry_forgets_what_was_seen_in_another_cloud(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "state.json")
    trunk = registry.put(FQDN, enabled=True, cloud="commercial")
    assert registry.put(FQDN, enabled=False, cloud="commercial") is trunk
    assert registry.put(FQDN, enabled=False, cloud="dod") is not trunk
    assert [trunk.cloud for trunk in Registry(tmp_path / "state.json")] == ["dod"]


def test_the_lab_ca_is_made_once(tmp_path: Path) -> None:
    root, leaves = ca.prepare(tmp_path, ["a.example", "b.example"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 6
    assert {path.stat().st_mode & 0o077 for path in before if path.suffix == ".key"} == {0}
    assert ca.prepare(tmp_path, ["a.example", "b.example"]) == (root, leaves)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    leaves["b.example"].key.write_text("rubbish")
    ca.prepare(tmp_path, ["a.example", "b.example"])
    assert leaves["a.example"].certificate.read_bytes() == before[leaves["a.example"].certificate]
    assert leaves["b.example"].certificate.read_bytes() != before[leaves["b.example"].certificate]
    root.key.unlink()
    ca.prepare(tmp_path, ["a.example"])
    assert leaves["a.example"].certificate.read_bytes() != before[leaves["a.example"].certificate]
