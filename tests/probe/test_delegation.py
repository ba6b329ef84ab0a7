"""Delegation, with a DNS that follows it as a resolver does, and real questions over UDP and TCP."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

from lab.dns import NameSpace, Server, ask_child
from sbc_probe import cli, delegation

HERE = "127.0.0.53"
BASE = "sbc1.example.com"
ZONE = f"_acme-challenge.{BASE}"

Resolver = Callable[..., int]


def free_port() -> int:
    """One for UDP and TCP; below those that Linux gives to whoever asks for any, so that it stays free."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
            tcp.bind((HERE, port))
            udp.bind((HERE, port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time: nothing here is found out by waiting in vain."""
    monkeypatch.setattr(delegation, "QUERY_TIMEOUT", 120)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def resolver(port: int) -> Iterator[Resolver]:
    """Start a resolver on 127.0.0.1 that knows these records of example.com; gives its port."""
    with ExitStack() as stack:

        def start(*records: dict[str, Any]) -> int:
            names = NameSpace(partial(ask_child, port=port, timeout=60))
            soa = {"type": "SOA", "name": "@", "data": "1800", "ttl": 1800}
            names.set_zones({"example.com": [soa, *({"ttl": 60, **record} for record in records)]})
            loop = asyncio.new_event_loop()
            server = Server(names)
            at = loop.run_until_complete(server.start("127.0.0.1", 0))
            thread = threading.Thread(target=loop.run_forever)
            thread.start()

            def end() -> None:
                asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
                loop.call_soon_threadsafe(loop.stop)
                thread.join(60)
                loop.close()

            stack.callback(end)
            return at

        yield start


A = {"type": "A", "name": "sbc1", "data": HERE}
NS = {"type": "NS", "name": "_acme-challenge.sbc1", "data": f"{BASE}."}


def check(port: int, resolver: int) -> str | None:
    return delegation.check(BASE, HERE, port, ["127.0.0.1"], resolver)


def test_a_delegation_that_leads_here(port: int, resolver: Resolver) -> None:
    at = resolver(A, NS)
    assert check(port, at) is None
    assert check(port, at) is None, "the port is free again"


def test_no_delegation(port: int, resolver: Resolver) -> None:
    said = check(port, resolver(A))
    assert said == f"{ZONE} is not delegated (NXDOMAIN, and nobody asked here): make the record {ZONE}. NS {BASE}."


def test_a_delegation_that_leads_elsewhere_or_a_closed_port(port: int, resolver: Resolver) -> None:
    said = check(port, resolver({**A, "data": "127.0.0.99"}, NS))
    assert said
    assert said.startswith(f"nobody asked {HERE} for {ZONE} (name server 127.0.0.1 says SERVFAIL): ")
    assert f"port {port} (UDP, TCP) is closed from outside" in said


def test_an_answer_that_does_not_come_back(port: int, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    at = resolver(A, NS)
    answer = delegation.NameServer.answer
    monkeypatch.setattr(delegation.NameServer, "answer", lambda *given: answer(*given)[:11])
    said = check(port, at)
    assert said
    assert "asked here for" in said
    assert "the answer did not come back" in said


def test_somebody_else_answers(port: int, resolver: Resolver) -> None:
    said = check(port, resolver(A, {"type": "TXT", "name": "*._acme-challenge.sbc1", "data": "left behind"}))
    assert said == f"{ZONE} is answered by somebody else (left behind): make the record {ZONE}. NS {BASE}."


def test_a_port_in_use_is_named(port: int, resolver: Resolver) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, port))
        said = check(port, 1)
    assert said
    assert said.startswith(f"{HERE} port {port} cannot be used: Address already in use")


@pytest.mark.parametrize("ask", [dns.query.udp, dns.query.tcp], ids=["UDP", "TCP"])
def test_what_the_name_server_answers(port: int, ask: Callable[..., dns.message.Message]) -> None:
    with delegation.NameServer(HERE, port, ZONE, f"x.{ZONE}", "a text"):

        def asked(name: str, kind: str) -> tuple[str, list[str]]:
            query = dns.message.make_query(name, kind, use_edns=0)
            reply = ask(query, HERE, timeout=60, port=port)
            assert reply.question[0].name.to_text() == f"{name}.", "the spelling is repeated"
            return dns.rcode.to_text(reply.rcode()), [data.to_text() for rrset in reply.answer for data in rrset]

        assert asked(f"X.{ZONE.upper()}", "TXT") == ("NOERROR", ['"a text"'])
        assert asked(f"y.{ZONE}", "TXT") == ("NOERROR", [])
        assert asked(ZONE, "NS") == asked(f"x.{ZONE}", "CAA") == ("NOERROR", [])
        assert asked("example.com", "TXT") == ("REFUSED", [])


def test_junk_does_not_end_it(port: int) -> None:
    with delegation.NameServer(HERE, port, ZONE, f"x.{ZONE}", "a text"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for junk in (b"", b"x", b"\0" * 12, struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"):
                udp.sendto(junk, (HERE, port))
        with socket.create_connection((HERE, port)) as tcp:
            tcp.sendall(b"\xff\xff")
        reply = dns.query.udp(dns.message.make_query(f"x.{ZONE}", "TXT"), HERE, timeout=60, port=port)
        assert reply.answer


def test_the_command(
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "probe.json"
    file.write_text(json.dumps(settings))
    asked: list[tuple[str, str]] = []

    def answers(base: str, address: str) -> str | None:
        asked.append((base, address))
        return "nobody asked" if len(asked) > 1 else None

    monkeypatch.setattr(delegation, "check", answers)
    assert cli.main(["delegation", "SBC1.example.com", "--config", str(file)]) == 0
    assert cli.main(["delegation", BASE, "--config", str(file)]) == 1
    assert asked == [(BASE, "127.0.0.1")] * 2
    assert capsys.readouterr().err == "sbc-probe: nobody asked\n"
