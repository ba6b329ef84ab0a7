"""A look-up that asks the name servers themselves.

getaddrinfo would also read /etc/hosts, where cloud-init may give the machine's own name a loopback address; Microsoft
and Kamailio's own resolver see only DNS.
"""

from __future__ import annotations

import math
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from sbc_probe.model import Lookup

# systemd-resolved's stub mixes in /etc/hosts as well, so its upstream servers come first.
RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
TYPE_A, TYPE_TXT, CLASS_IN = 1, 16, 1
# The longest (s) that a look-up is remembered.
REMEMBERED = 60.0
TYPES = {TYPE_A: "A", TYPE_TXT: "TXT"}


def nameservers(files: Iterable[Path] = RESOLV_CONF) -> list[str]:
    """The name servers of the first file that names any."""
    for file in files:
        try:
            lines = [line.split() for line in file.read_text().splitlines()]
        except OSError:
            continue
        if servers := [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]:
            return servers
    return []


class Found(NamedTuple):
    """The data of all records of one type, or the reason why there are none (`Lookup` says what the others are)."""

    data: tuple[bytes, ...] = ()
    error: str | None = None
    negative: bool = False
    ttl: float | None = None


def lookup(name: str, servers: list[str] | None = None, timeout: float = 2.0, port: int = 53) -> Lookup:
    """The IPv4 addresses of `name`."""
    found = query(name, TYPE_A, nameservers() if servers is None else servers, timeout, port)
    addresses = {socket.inet_ntoa(data) for data in found.data if len(data) == 4}
    return Lookup(tuple(sorted(addresses)), found.error, found.negative, found.ttl)


class Remembered:
    """Look-ups, each remembered for as long as its records allow, a minute at most; what failed is asked again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Lookup]] = {}

    def lookup(self, name: str, ask: Callable[[str], Lookup]) -> Lookup:
        """What is remembered of this name, or what `ask` says."""
        until, found = self._known.get(name, (-math.inf, None))
        if found is None or time.monotonic() >= until:
            found = ask(name)
            self._known[name] = time.monotonic() + min(found.ttl or 0.0, REMEMBERED), found
        return found


def query(name: str, kind: int, servers: list[str], timeout: float, port: int) -> Found:
    """Ask each server in turn for the records of one type; `timeout` seconds a server, two rounds."""
    error = "no name server is configured"
    for server in servers * 2:
        try:
            answer = _ask(name, kind, server, timeout, port)
        except TimeoutError:
            error = f"name server {server} does not answer"
        except (OSError, ValueError, IndexError, struct.error) as problem:
            error = f"name server {server}: {problem}"
        else:
            if answer.data or answer.negative:
                return answer
            error = f"name server {server} says {answer.error}"
    return Found(error=error)


def _ask(name: str, kind: int, server: str, timeout: float, port: int) -> Found:
    number = secrets.randbits(16)
    labels = b"".join(bytes([len(label)]) + label for label in name.rstrip(".").encode("idna").split(b"."))
    question = labels + b"\0" + struct.pack(">HH", kind, CLASS_IN)
    family = socket.AF_INET6 if ip_address(server.split("%")[0]).version == 6 else socket.AF_INET
    deadline = time.monotonic() + timeout
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((server, port))
        sock.send(struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question)
        while True:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            sock.settimeout(left)
            reply = sock.recv(4096)
            if len(reply) >= 12 and struct.unpack_from(">H", reply)[0] == number:
                return _parse(reply, kind)


def _parse(reply: bytes, wanted: int) -> Found:
    """Read an answer (RFC 1035, 4.1). A recursive server puts the records at the end of a CNAME chain into it."""
    _, bits, questions, answers, _, _ = struct.unpack_from(">HHHHHH", reply)
    at = 12
    for _ in range(questions):
        at = skip_name(reply, at) + 4
    data, ttls = [], []
    for _ in range(answers):
        at = skip_name(reply, at)
        if at + 10 > len(reply):
            break
        kind, _, ttl, length = struct.unpack_from(">HHIH", reply, at)
        at += 10
        ttls.append(ttl)
        if kind == wanted:
            data.append(reply[at : at + length])
        at += length
    if data:
        return Found(tuple(data), ttl=float(min(ttls)))
    rcode = bits & 0xF
    if rcode == 0:
        return Found((), f"no {TYPES[wanted]} record", negative=True)
    return Found((), RCODES.get(rcode, f"rcode {rcode}"), negative=rcode == 3)


def skip_name(message: bytes, at: int) -> int:
    """Where a name that begins at `at` ends."""
    while (length := message[at]) != 0:
        if length >= 0xC0:
            return at + 2
        at += length + 1
    return at + 1
