"""The lab's DNS server, asked as a resolver's client asks."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest

from lab.digitalocean.domains import Domains
from lab.dns import FAULT_TTL, NEGATIVE_TTL, NameSpace

ROOT = Path(__file__).parents[2]
CHILD = "127.0.2.53"
# How long (s) a machine that is slow or busy may take; nothing waits without need.
PATIENCE = 60.0
APEX_NS = ["ns1.digitalocean.com.", "ns2.digitalocean.com.", "ns3.digitalocean.com."]
HOSTS: dict[str, Any] = {
    "sip.pstnhub.microsoft.com": "52.112.0.1",
    "dual.lab.test": ["198.51.100.14", "198.51.100.15", "2001:db8::14"],
}


def zones() -> dict[str, list[dict[str, Any]]]:
    """Zones as the API makes them."""
    ids = iter(range(1, 1000))
    domains = Domains(lambda: next(ids))
    domains.create("voip.test", "203.0.113.9")
    domains.create("sub.voip.test")
    for record in (
        {"type": "A", "name": "sbc", "data": "203.0.113.10", "ttl": 60},
        {"type": "A", "name": "sbc", "data": "203.0.113.11"},
        {"type": "AAAA", "name": "sbc", "data": "2001:db8::10"},
        {"type": "CNAME", "name": "www", "data": "sbc.voip.test."},
        {"type": "CNAME", "name": "far", "data": "sip.pstnhub.microsoft.com."},
        {"type": "CNAME", "name": "top", "data": "@"},
        {"type": "CNAME", "name": "lost", "data": "nowhere.voip.test."},
        {"type": "CNAME", "name": "loop", "data": "loop.voip.test."},
        {"type": "TXT", "name": "_acme-challenge", "data": 'a "quoted" \\ text'},
        {"type": "TXT", "name": "long", "data": "x" * 2000},
        {"type": "MX", "name": "@", "data": "mail.voip.test.", "priority": 10},
        {"type": "SRV", "name": "_sipfed._tls", "data": "sbc.voip.test.", "priority": 1, "weight": 2, "port": 5061},
        {"type": "CAA", "name": "@", "data": "letsencrypt.org", "flags": 0, "tag": "issue"},
        {"type": "A", "name": "*.wild", "data": "203.0.113.20"},
        {"type": "A", "name": "named.wild", "data": "203.0.113.21"},
        {"type": "A", "name": "deep.below", "data": "203.0.113.22"},
        {"type": "A", "name": "carrier", "data": CHILD},
        {"type": "A", "name": "*.carrier", "data": CHILD},
        {"type": "A", "name": "own.carrier", "data": "203.0.113.23"},
        {"type": "NS", "name": "_acme-challenge.carrier", "data": "carrier.voip.test."},
        {"type": "TXT", "name": "hidden._acme-challenge.carrier", "data": "out of sight"},
        {"type": "CNAME", "name": "elsewhere", "data": "x._acme-challenge.carrier.voip.test."},
        {"type": "NS", "name": "lame", "data": "sbc.nowhere.test."},
        {"type": "NS", "name": "two", "data": "lame.voip.test."},
        {"type": "NS", "name": "two", "data": "carrier.voip.test."},
    ):
        domains.add("voip.test", record)
    domains.add("sub.voip.test", {"type": "A", "name": "x", "data": "203.0.113.30"})
    return domains.dump()


@pytest.fixture(scope="module")
def names() -> NameSpace:
    names = NameSpace()
    names.set_zones(zones())
    names.set_hosts(HOSTS)
    return names


def ask(names: NameSpace, name: str, type: str) -> tuple[str, list[str], str | None]:
    """What a query comes to: rcode, the answers' data, and the owner of the SOA in the authority section."""
    response = asyncio.run(names.answer(dns.message.make_query(name, type)))
    answers = [rdata.to_text() for rrset in response.answer for rdata in rrset]
    soa = [rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.SOA]
    return dns.rcode.to_text(response.rcode()), answers, soa[0].name.to_text() if soa else None


@pytest.mark.parametrize(
    ("name", "type", "answers"),
    [
        ("voip.test", "A", ["203.0.113.9"]),
        ("voip.test", "NS", APEX_NS),
        ("voip.test", "MX", ["10 mail.voip.test."]),
        ("voip.test", "CAA", ['0 issue "letsencrypt.org"']),
        ("sbc.voip.test", "A", ["203.0.113.10", "203.0.113.11"]),
        ("SBC.Voip.Test", "AAAA", ["2001:db8::10"]),
        ("_sipfed._tls.voip.test", "SRV", ["1 2 5061 sbc.voip.test."]),
        ("_acme-challenge.voip.test", "TXT", ['"a \\"quoted\\" \\\\ text"']),
        ("www.voip.test", "CNAME", ["sbc.voip.test."]),
        ("www.voip.test", "A", ["sbc.voip.test.", "203.0.113.10", "203.0.113.11"]),
        ("far.voip.test", "A", ["sip.pstnhub.microsoft.com.", "52.112.0.1"]),
        ("top.voip.test", "A", ["voip.test.", "203.0.113.9"]),
        ("any.wild.voip.test", "A", ["203.0.113.20"]),
        ("a.b.wild.voip.test", "A", ["203.0.113.20"]),
        ("named.wild.voip.test", "A", ["203.0.113.21"]),
        ("carrier.voip.test", "A", [CHILD]),
        ("tenant.carrier.voip.test", "A", [CHILD]),
        ("own.carrier.voip.test", "A", ["203.0.113.23"]),
        ("x.sub.voip.test", "A", ["203.0.113.30"]),
        ("sip.pstnhub.microsoft.com", "A", ["52.112.0.1"]),
        ("dual.lab.test", "A", ["198.51.100.14", "198.51.100.15"]),
        ("dual.lab.test", "AAAA", ["2001:db8::14"]),
    ],
)
def test_what_is_there_is_answered(names: NameSpace, name: str, type: str, answers: list[str]) -> None:
    rcode, got, soa = ask(names, name, type)
    assert (rcode, sorted(got), soa) == ("NOERROR", sorted(answers), None)


@pytest.mark.parametrize(
    ("name", "type", "rcode", "answers", "soa"),
    [
        ("nowhere.voip.test", "A", "NXDOMAIN", [], "voip.test."),
        ("below.sbc.voip.test", "A", "NXDOMAIN", [], "voip.test."),
        ("y.sub.voip.test", "A", "NXDOMAIN", [], "sub.voip.test."),
        ("lost.voip.test", "A", "NXDOMAIN", ["nowhere.voip.test."], "voip.test."),
        ("example.org", "A", "NXDOMAIN", [], "."),
        ("sip2.pstnhub.microsoft.com", "A", "NXDOMAIN", [], "."),
        ("sbc.voip.test", "TXT", "NOERROR", [], "voip.test."),
        ("www.voip.test", "TXT", "NOERROR", ["sbc.voip.test."], "voip.test."),
        ("below.voip.test", "A", "NOERROR", [], "voip.test."),
        ("below.named.wild.voip.test", "A", "NXDOMAIN", [], "voip.test."),
        ("below.own.carrier.voip.test", "A", "NXDOMAIN", [], "voip.test."),
        ("own.carrier.voip.test", "TXT", "NOERROR", [], "voip.test."),
        ("tenant.carrier.voip.test", "TXT", "NOERROR", [], "voip.test."),
        ("sip.pstnhub.microsoft.com", "AAAA", "NOERROR", [], "sip.pstnhub.microsoft.com."),
        ("microsoft.com", "A", "NOERROR", [], "."),
    ],
)
def test_what_is_not_there_is_denied_with_a_soa(
    names: NameSpace, name: str, type: str, rcode: str, answers: list[str], soa: str
) -> None:
    assert ask(names, name, type) == (rcode, answers, soa)


def test_a_denial_is_soon_forgotten(names: NameSpace) -> None:
    (soa,) = asyncio.run(names.answer(dns.message.make_query("nowhere.voip.test", "A"))).authority
    assert (soa.ttl, soa[0].minimum) == (NEGATIVE_TTL, NEGATIVE_TTL)


def test_an_alias_of_itself_ends(names: NameSpace) -> None:
    assert ask(names, "loop.voip.test", "A")[1][0] == "loop.voip.test."


def test_the_answer_repeats_the_question_s_spelling_and_offers_recursion(names: NameSpace) -> None:
    response = asyncio.run(names.answer(dns.message.make_query("sBc.VoIp.TeSt", "A")))
    assert response.answer[0].name.to_text() == "sBc.VoIp.TeSt."
    assert response.flags & dns.flags.RA
    assert response.flags & dns.flags.AA


def test_a_wrong_record_changes_nothing() -> None:
    names = NameSpace()
    names.set_hosts({"host.test": "192.0.2.1"})
    with pytest.raises(dns.exception.DNSException):
        names.set_zones({"voip.test": [{"type": "A", "name": "a", "data": "no address", "ttl": 60}]})
    with pytest.raises(ValueError, match="nowhere"):
        names.set_hosts({"host.test": "nowhere"})
    assert ask(names, "host.test", "A")[1] == ["192.0.2.1"]
    assert names.zones == {}


# The server


class Child:
    """A name server to which a name is delegated: UDP and TCP on one port, each message in a thread of its own.

    `texts` are its TXT records by full name; any other name exists without data. `gate` holds every answer back until
    it is set.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.rcode = dns.rcode.NOERROR
        self.asked: list[tuple[str, str, str]] = []
        """Transport, name as it was spelled, type."""
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        child = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                wire, sock = self.request
                sock.sendto(
                    child.answer(wire, "udp").to_wire(max_size=1232, prefer_truncation=True), self.client_address
                )

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                wire = self.rfile.read(int.from_bytes(self.rfile.read(2)))
                answer = child.answer(wire, "tcp").to_wire(max_size=65535)
                self.wfile.write(len(answer).to_bytes(2) + answer)

        while True:
            self._tcp = socketserver.ThreadingTCPServer((CHILD, 0), Tcp)
            self.port = self._tcp.server_address[1]
            try:
                self._udp = socketserver.ThreadingUDPServer((CHILD, self.port), Udp)
                break
            except OSError:  # the port is somebody else's for UDP
                self._tcp.server_close()
        for server in (self._tcp, self._udp):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, wire: bytes, transport: str) -> dns.message.Message:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((transport, question.name.to_text(), dns.rdatatype.to_text(question.rdtype)))
        self.waiting.set()
        self.gate.wait(PATIENCE)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        response.set_rcode(self.rcode)
        texts = self.texts.get(question.name.to_text(omit_final_dot=True).lower(), [])
        if texts and question.rdtype == dns.rdatatype.TXT:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", *texts))
        return response

    def close(self) -> None:
        for server in (self._tcp, self._udp):
            server.shutdown()
            server.server_close()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.gate.set()
    child.close()


@dataclass
class Server:
    port: int
    control: Path

    def http(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request over the control socket."""
        data = json.dumps(body) if body is not None else ""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.control))
            head = f"{method} {path} HTTP/1.0\r\nHost: dns\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall((head + data).encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status, _, text = answer.decode().partition("\r\n\r\n")
        return int(status.split()[1]), json.loads(text)

    def resolver(self) -> dns.resolver.Resolver:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        resolver.timeout = resolver.lifetime = PATIENCE  # it asks once
        return resolver


@contextmanager
def serving(directory: Path, child: Child, timeout: float) -> Iterator[Server]:
    """A server that gives the child so many seconds to answer."""
    control = directory / "dns.sock"
    command = [sys.executable, "-m", "lab.dns", "--listen", "127.0.0.1", "--port", "0", "--control", str(control)]
    command += ["--child-port", str(child.port), "--child-timeout", str(timeout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split()[1].rpartition(":")[2]
            yield Server(int(port), control)
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def server(tmp_path: Path, child: Child) -> Iterator[Server]:
    """A server that would wait longer for its child than a test waits for anything."""
    with serving(tmp_path, child, 10 * PATIENCE) as server:
        yield server


def test_zones_and_names_are_pushed_and_queries_logged(server: Server) -> None:
    resolver = server.resolver()
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve("www.voip.test", "A")
    assert server.http("PUT", "/zones", zones()) == (200, {})
    assert server.http("PUT", "/names", HOSTS) == (200, {})
    answer = resolver.resolve("www.voip.test", "A")
    assert sorted(rdata.address for rdata in answer) == ["203.0.113.10", "203.0.113.11"]
    assert answer.canonical_name.to_text() == "sbc.voip.test."
    assert resolver.resolve("sip.pstnhub.microsoft.com", "A", tcp=True)[0].address == "52.112.0.1"
    logged = server.http("GET", "/queries")[1]["queries"]
    assert [(q["name"], q["type"], q["rcode"], q["transport"], q["source"]) for q in logged] == [
        ("www.voip.test", "A", "NXDOMAIN", "udp", "127.0.0.1"),
        ("www.voip.test", "A", "NOERROR", "udp", "127.0.0.1"),
        ("sip.pstnhub.microsoft.com", "A", "NOERROR", "tcp", "127.0.0.1"),
    ]
    server.http("DELETE", "/queries")
    assert server.http("GET", "/queries")[1] == {"queries": []}

    status, said = server.http("PUT", "/names", {"host.test": "nowhere"})
    assert (status, "nowhere" in said["error"]) == (400, True)
    assert server.http("GET", "/zones")[1] == zones()


def test_a_name_can_be_silent_or_absent_or_lead_elsewhere_until_the_truth_is_told_again(server: Server) -> None:
    resolver = server.resolver()

    def address(name: str) -> str:
        answer = resolver.resolve(name, "A")
        assert answer.rrset
        return str(answer[0].address)

    server.http("PUT", "/zones", zones())
    server.http("PUT", "/names", HOSTS)
    faults = {"www.voip.test": "silent", "sbc.voip.test": "absent", "sip.pstnhub.microsoft.com": ["203.0.113.66"]}
    assert server.http("PUT", "/faults", faults) == (200, {})
    assert server.http("GET", "/faults") == (200, faults)
    with pytest.raises(dns.resolver.LifetimeTimeout):
        resolver.resolve("WWW.voip.test", "A", lifetime=3)
    assert server.http("GET", "/queries")[1]["queries"][-1]["rcode"] == "none"
    with pytest.raises(dns.resolver.NXDOMAIN):
        address("sbc.voip.test")
    assert address("sip.pstnhub.microsoft.com") == "203.0.113.66"
    answer = resolver.resolve("far.voip.test", "A")
    assert (answer[0].address, answer.rrset and answer.rrset.ttl) == ("203.0.113.66", FAULT_TTL)
    assert address("dual.lab.test") in HOSTS["dual.lab.test"], "other names are as before"

    server.http("PUT", "/zones", zones())
    with pytest.raises(dns.resolver.NXDOMAIN):
        address("sbc.voip.test")
    assert server.http("PUT", "/faults", {"www.voip.test": "nonsense"})[0] == 400
    with pytest.raises(dns.resolver.NXDOMAIN):
        address("sbc.voip.test")
    assert server.http("PUT", "/faults", {}) == (200, {})
    assert address("sip.pstnhub.microsoft.com") == HOSTS["sip.pstnhub.microsoft.com"]
    assert address("www.voip.test") in ("203.0.113.10", "203.0.113.11")


CHALLENGE = "_acme-challenge.carrier.voip.test"


def test_a_delegated_name_and_all_below_it_are_asked_of_its_name_server(server: Server, child: Child) -> None:
    server.http("PUT", "/zones", zones())
    resolver = server.resolver()
    child.texts = {CHALLENGE: ["token-1", "token-2"], f"k3x9.{CHALLENGE}": ["below"]}
    answer = resolver.resolve(CHALLENGE, "TXT")
    assert sorted(rdata.to_text() for rdata in answer) == ['"token-1"', '"token-2"']
    assert answer.response.answer[0].name.to_text() == f"{CHALLENGE}.", "spelled as asked"
    assert not answer.response.flags & dns.flags.AA
    assert resolver.resolve(f"k3x9.{CHALLENGE}", "TXT")[0].to_text() == '"below"'
    assert resolver.resolve(CHALLENGE, "TXT", tcp=True)
    for name, type in ((f"hidden.{CHALLENGE}", "TXT"), (CHALLENGE, "NS"), (f"x.{CHALLENGE}", "A")):
        assert resolver.resolve(name, type, raise_on_no_answer=False).rrset is None, (name, type)
    assert [(transport, name.lower(), type) for transport, name, type in child.asked] == [
        ("udp", f"{CHALLENGE}.", "TXT"),
        ("udp", f"k3x9.{CHALLENGE}.", "TXT"),
        ("udp", f"{CHALLENGE}.", "TXT"),
        ("udp", f"hidden.{CHALLENGE}.", "TXT"),
        ("udp", f"{CHALLENGE}.", "NS"),
        ("udp", f"x.{CHALLENGE}.", "A"),
    ]
    assert {name for _, name, _ in child.asked} - {name.lower() for _, name, _ in child.asked}, "in random case"


def test_an_alias_and_a_second_name_server_lead_to_the_child(server: Server, child: Child) -> None:
    server.http("PUT", "/zones", zones())
    child.texts = {f"x.{CHALLENGE}": ["alias"], "two.voip.test": ["second"]}
    answer = server.resolver().resolve("elsewhere.voip.test", "TXT")
    assert (answer.canonical_name.to_text(), answer[0].to_text()) == (f"x.{CHALLENGE}.", '"alias"')
    assert server.resolver().resolve("two.voip.test", "TXT")[0].to_text() == '"second"'


def test_what_is_too_long_for_udp_is_asked_of_the_child_over_tcp(server: Server, child: Child) -> None:
    server.http("PUT", "/zones", zones())
    child.texts = {CHALLENGE: [str(number) * 50 for number in range(100, 120)]}
    assert len(server.resolver().resolve(CHALLENGE, "TXT", tcp=True)) == 20
    assert [transport for transport, _, _ in child.asked] == ["udp", "tcp"]


def test_a_child_that_knows_nothing_or_fails(server: Server, child: Child) -> None:
    server.http("PUT", "/zones", zones())
    child.rcode = dns.rcode.NXDOMAIN
    with pytest.raises(dns.resolver.NXDOMAIN):
        server.resolver().resolve(CHALLENGE, "TXT")
    child.rcode = dns.rcode.REFUSED
    assert rcode_of(server, CHALLENGE) == "SERVFAIL"
    assert rcode_of(server, "lame.voip.test") == "SERVFAIL", "its name server has no address"
    child.close()
    assert rcode_of(server, CHALLENGE) == "SERVFAIL", "nobody listens, which is known at once"
    logged = server.http("GET", "/queries")[1]["queries"]
    assert (logged[-1]["name"], logged[-1]["rcode"]) == (CHALLENGE, "SERVFAIL")


def test_a_silent_child_holds_nobody_up(server: Server, child: Child) -> None:
    server.http("PUT", "/zones", zones())
    child.gate.clear()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(rcode_of, server, CHALLENGE)
        assert child.waiting.wait(PATIENCE)
        assert server.resolver().resolve("voip.test", "A")[0].address == "203.0.113.9"
        assert not asked.done()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as stream:
            for name in (CHALLENGE, "voip.test"):
                dns.query.send_tcp(stream, dns.message.make_query(name, "TXT"))
            first, _ = dns.query.receive_tcp(stream)
            assert first.question[0].name.to_text() == "voip.test.", "on the same connection too"
        child.gate.set()
        assert asked.result() == "NOERROR"


def test_a_silent_child_is_given_up(tmp_path: Path, child: Child) -> None:
    child.gate.clear()
    with serving(tmp_path, child, 0.5) as server:
        server.http("PUT", "/zones", zones())
        assert rcode_of(server, CHALLENGE) == "SERVFAIL"


def rcode_of(server: Server, name: str) -> str:
    query = dns.message.make_query(name, "TXT")
    return dns.rcode.to_text(dns.query.udp(query, "127.0.0.1", port=server.port, timeout=PATIENCE).rcode())


def test_records_of_a_zone_that_is_elsewhere(server: Server, child: Child) -> None:
    """Single names stand for what a customer's own DNS has, delegation and wildcard included."""
    names = {
        "sbc.fabrikam.test": CHILD,
        "*.sbc.fabrikam.test": [CHILD],
        "_acme-challenge.sbc.fabrikam.test": {"NS": "sbc.fabrikam.test."},
        "fabrikam.test": {"TXT": ['"MS=ms123"', '"other"'], "MX": "10 mail.fabrikam.test."},
    }
    assert server.http("PUT", "/names", names) == (200, {})
    assert server.http("GET", "/names") == (200, names)
    resolver = server.resolver()
    assert resolver.resolve("tenant.sbc.fabrikam.test", "A")[0].address == CHILD
    assert len(resolver.resolve("fabrikam.test", "TXT")) == 2
    child.texts = {"x._acme-challenge.sbc.fabrikam.test": ["here"]}
    assert resolver.resolve("x._acme-challenge.sbc.fabrikam.test", "TXT")[0].to_text() == '"here"'
    assert server.http("PUT", "/names", {"fabrikam.test": {"MX": "mail"}})[0] == 400


def test_long_answers_are_truncated_over_udp_and_whole_over_tcp(server: Server) -> None:
    server.http("PUT", "/zones", zones())
    query = dns.message.make_query("long.voip.test", "TXT", use_edns=0, payload=1232)
    short = dns.query.udp(query, "127.0.0.1", port=server.port, timeout=PATIENCE)
    assert short.flags & dns.flags.TC
    whole = dns.query.tcp(query, "127.0.0.1", port=server.port, timeout=PATIENCE)
    assert b"".join(whole.answer[0][0].strings) == b"x" * 2000


def test_junk_gets_no_answer_and_does_no_harm(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as junk:
        junk.settimeout(0.2)
        for packet in (
            b"",
            b"\x00",
            b"\xff" * 40,
            dns.message.make_response(dns.message.make_query("a", "A")).to_wire(),
        ):
            junk.sendto(packet, ("127.0.0.1", server.port))
            with pytest.raises(TimeoutError):
                junk.recv(512)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as junk:
        junk.sendall(b"\x00\x03abc")
        assert junk.recv(512) == b""
    with pytest.raises(dns.resolver.NXDOMAIN):
        server.resolver().resolve("still.there", "A")
