from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from miniature import end

from sbc_probe.model import Lookup
from sbc_probe.resolver import Remembered, lookup, nameservers


def record(kind: int, data: bytes, ttl: int = 60) -> bytes:
    """A resource record whose name points back to the question."""
    return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


@pytest.fixture
def name_server() -> Iterator[Callable[..., int]]:
    """Start a name server that answers every question with these records and this rcode; gives its port."""
    servers = []

    def start(*records: bytes, rcode: int = 0) -> int:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    query, sender = server.recvfrom(512)
                    if not query:
                        return
                    stray = struct.pack(">HHHHHH", query[0] ^ 0xFF, 0x8180, 0, 0, 0, 0)
                    head = query[:2] + struct.pack(">HHHHH", 0x8180 | rcode, 1, len(records), 0, 0)
                    server.sendto(stray, sender)
                    server.sendto(head + query[12:] + b"".join(records), sender)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        servers.append((server, thread))
        return int(server.getsockname()[1])

    yield start
    for server, thread in servers:
        end(server, thread)


def test_addresses_at_the_end_of_an_alias_are_found(name_server: Callable[..., int]) -> None:
    alias = record(5, b"\x03sip\x04test\0")
    port = name_server(alias, record(1, bytes([10, 0, 0, 2])), record(1, bytes([10, 0, 0, 1])))
    assert lookup("sip.example.com", ["127.0.0.1"], port=port).addresses == ("10.0.0.1", "10.0.0.2")


def test_a_lookup_is_remembered_as_long_as_its_records_allow_and_a_failure_not_at_all(
    name_server: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("sbc_probe.resolver.time.monotonic", lambda: now[0])
    port = name_server(record(5, b"\x03sip\x04test\0", ttl=300), record(1, bytes([10, 0, 0, 2]), ttl=30))
    asked = []

    def ask(name: str) -> Lookup:
        asked.append(name)
        return lookup(name, ["127.0.0.1"], port=port) if name == "good.example" else Lookup((), "NXDOMAIN", True)

    names = Remembered()
    found = names.lookup("good.example", ask)
    assert (found.addresses, found.ttl) == (("10.0.0.2",), 30)
    now[0] += 29
    assert names.lookup("good.example", ask) is found
    assert asked == ["good.example"]
    now[0] += 2
    names.lookup("good.example", ask)
    assert asked == ["good.example"] * 2
    for _ in range(2):
        assert names.lookup("bad.example", ask).error == "NXDOMAIN"
    assert asked.count("bad.example") == 2


def test_a_long_life_is_cut_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("sbc_probe.resolver.time.monotonic", lambda: now[0])
    names, answers = Remembered(), iter([Lookup(("10.0.0.1",), ttl=86400), Lookup(("10.0.0.2",), ttl=0)])
    for passed, address in ((0, "10.0.0.1"), (59, "10.0.0.1"), (2, "10.0.0.2")):
        now[0] += passed
        assert names.lookup("sip.example", lambda _: next(answers)).addresses == (address,)


@pytest.mark.parametrize(
    ("rcode", "error", "negative"), [(3, "NXDOMAIN", True), (0, "no A record", True), (2, "SERVFAIL", False)]
)
def test_why_there_is_no_address(name_server: Callable[..., int], rcode: int, error: str, negative: bool) -> None:
    found = lookup("sbc.example.com", ["127.0.0.1"], port=name_server(rcode=rcode))
    assert error in str(found.error)
    assert (found.addresses, found.negative) == ((), negative)


def test_a_silent_name_server_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        found = lookup("sbc.example.com", ["127.0.0.1"], timeout=0.05, port=silent.getsockname()[1])
    assert found.error == "name server 127.0.0.1 does not answer"
    assert not found.negative


def test_junk_is_no_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            for _ in range(2):
                query, sender = server.recvfrom(512)
                server.sendto(query[:2] + struct.pack(">HHHHH", 0x8180, 1, 9, 0, 0) + b"\x3f", sender)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        found = lookup("sbc.example.com", ["127.0.0.1"], timeout=60, port=server.getsockname()[1])
        thread.join(10)
    assert not found.addresses
    assert found.error


def test_the_upstream_servers_come_before_the_stub(tmp_path: Path) -> None:
    upstream, stub = tmp_path / "upstream", tmp_path / "stub"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert nameservers([upstream, stub]) == ["127.0.0.53"]
    upstream.write_text("# by hand\nnameserver 198.51.100.53\nnameserver 198.51.100.54\n")
    assert nameservers([upstream, stub]) == ["198.51.100.53", "198.51.100.54"]
    assert lookup("sbc.example.com", []).error == "no name server is configured"
