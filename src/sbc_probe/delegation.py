"""Is `_acme-challenge` of a name delegated to this machine? Tried with the real thing before certbot depends on it.

The machine answers a TXT question for a name that nobody has asked for before, on its own public address, and asks its
resolver for it: the answer comes back only if the delegation leads here and port 53 is open from outside.
"""

from __future__ import annotations

import secrets
import socketserver
import struct
import threading
from types import TracebackType
from typing import Self

from sbc_probe.resolver import CLASS_IN, TYPE_TXT, Found, nameservers, query, skip_name

QUERY_TIMEOUT = 5.0
TTL = 1
AUTHORITATIVE, REFUSED = 0x8400, 5


class NameServer:
    """Answers TXT questions for one name with one text, over UDP and TCP; what is below `zone` else has no records."""

    def __init__(self, address: str, port: int, zone: str, name: str, text: str) -> None:
        self.zone, self.name, self.text = zone.lower(), name.lower(), text
        self.askers: set[str] = set()
        self.servers: list[socketserver.BaseServer] = []
        for kind, handler in ((_Datagrams, _Datagram), (_Streams, _Stream)):
            server = kind((address, port), handler)
            server.names = self
            self.servers.append(server)
            port = server.server_address[1]
        self.port = port

    def __enter__(self) -> Self:
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def answer(self, message: bytes, asker: str) -> bytes:
        """The answer to a question (RFC 1035, 4.1); it repeats the question as it was spelled."""
        number, bits, _, *_ = struct.unpack_from(">HHHHHH", message)
        end = skip_name(message, 12)
        name = _name(message)
        kind, _ = struct.unpack_from(">HH", message, end)
        head = AUTHORITATIVE | bits & 0x7900
        records = b""
        if name != self.zone and not name.endswith(f".{self.zone}"):
            head |= REFUSED
        else:
            self.askers.add(asker)
            if name == self.name and kind == TYPE_TXT:
                text = self.text.encode()
                data = bytes([len(text)]) + text
                records = b"\xc0\x0c" + struct.pack(">HHIH", TYPE_TXT, CLASS_IN, TTL, len(data)) + data
        count = 1 if records else 0
        return struct.pack(">HHHHHH", number, head, 1, count, 0, 0) + message[12 : end + 4] + records


class _Datagrams(socketserver.ThreadingUDPServer):
    daemon_threads = True
    names: NameServer


class _Streams(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    names: NameServer


class _Datagram(socketserver.BaseRequestHandler):
    server: _Datagrams

    def handle(self) -> None:
        message, sock = self.request
        try:
            sock.sendto(self.server.names.answer(message, self.client_address[0]), self.client_address)
        except (struct.error, IndexError, ValueError, OSError):
            return


class _Stream(socketserver.StreamRequestHandler):
    server: _Streams
    timeout = QUERY_TIMEOUT

    def handle(self) -> None:
        try:
            (length,) = struct.unpack(">H", self.rfile.read(2))
            answer = self.server.names.answer(self.rfile.read(length), self.client_address[0])
            self.wfile.write(struct.pack(">H", len(answer)) + answer)
        except (struct.error, IndexError, ValueError, OSError):
            return


def _name(message: bytes) -> str:
    labels, at = [], 12
    while length := message[at]:
        if length >= 0xC0:
            raise ValueError("a question is not compressed")
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += length + 1
    return ".".join(labels).lower()


def check(
    base: str, address: str, port: int = 53, servers: list[str] | None = None, resolver_port: int = 53
) -> str | None:
    """None: the delegation leads here; else one line saying what was seen, and what to do. `base` is the FQDN."""
    zone = f"_acme-challenge.{base}"
    text = secrets.token_hex(16)
    name = f"{secrets.token_hex(8)}.{zone}"
    record = f"{zone}. NS {base}."
    servers = nameservers() if servers is None else servers
    try:
        server = NameServer(address, port, zone, name, text)
    except OSError as error:
        return f"{address} port {port} cannot be used: {error.strerror}; ss -lntup 'sport = :{port}' names who does"
    with server:
        found = query(name, TYPE_TXT, servers, QUERY_TIMEOUT, resolver_port)
    texts = [data[1 : 1 + data[0]].decode(errors="replace") for data in found.data if data]
    if text in texts:
        return None
    return _seen(zone, record, address, port, sorted(server.askers), found, texts)


def _seen(zone: str, record: str, address: str, port: int, askers: list[str], found: Found, texts: list[str]) -> str:
    if texts:
        return f"{zone} is answered by somebody else ({', '.join(texts)[:80]}): make the record {record}"
    if askers:
        return f"{', '.join(askers)} asked here for {zone}, but the answer did not come back: {found.error}"
    if found.negative:
        return f"{zone} is not delegated ({found.error}, and nobody asked here): make the record {record}"
    return (
        f"nobody asked {address} for {zone} ({found.error}): the record {record} is missing or leads elsewhere, or "
        f"port {port} (UDP, TCP) is closed from outside"
    )
