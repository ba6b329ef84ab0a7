"""An A lookup that asks the name servers themselves.

getaddrinfo would also read /etc/hosts, where cloud-init may give the machine's own name a loopback address; Microsoft
and Kamailio's own resolver see only DNS.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from sbc_probe.model import Lookup

# systemd-resolved's stub mixes in /etc/hosts as well, so its upstream servers come first.
RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
TYPE_A, CLASS_IN = 1, 1


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


def lookup(name: str, servers: list[str] | None = None, timeout: float = 2.0, port: int = 53) -> Lookup:
    """Ask each server in turn for the IPv4 addresses of `name`; `timeout` seconds a server, two rounds."""
    if servers is None:
        servers = nameservers()
    error = "no name server is configured"
    for server in servers * 2:
        try:
            answer = _ask(name, server, timeout, port)
        except TimeoutError:
            error = f"name server {server} does not answer"
        except (OSError, ValueError, IndexError, struct.error) as problem:
            error = f"name server {server}: {problem}"
        else:
            if answer.addresses or answer.negative:
                return answer
            error = f"name server {server} says {answer.error}"
    return Lookup((), error)


def _ask(name: str, server: str, timeout: float, port: int) -> Lookup:
    number = secrets.randbits(16)
    labels = b"".join(bytes([len(label)]) + label for label in name.rstrip(".").encode("idna").split(b"."))
    question = labels + b"\0" + struct.pack(">HH", TYPE_A, CLASS_IN)
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
                return _parse(reply)


def _parse(reply: bytes) -> Lookup:
    """Read an answer (RFC 1035, 4.1). A recursive server puts the addresses at the end of a CNAME chain into it."""
    _, bits, questions, answers, _, _ = struct.unpack_from(">HHHHHH", reply)
    at = 12
    for _ in range(questions):
        at = _skip_name(reply, at) + 4
    addresses = []
    for _ in range(answers):
        at = _skip_name(reply, at)
        if at + 10 > len(reply):
            break
        kind, _, _, length = struct.unpack_from(">HHIH", reply, at)
        at += 10
        if kind == TYPE_A and length == 4:
            addresses.append(socket.inet_ntoa(reply[at : at + 4]))
        at += length
    if addresses:
        return Lookup(tuple(sorted(set(addresses))))
    rcode = bits & 0xF
    if rcode == 0:
        return Lookup((), "no A record", negative=True)
    return Lookup((), RCODES.get(rcode, f"rcode {rcode}"), negative=rcode == 3)


def _skip_name(message: bytes, at: int) -> int:
    while (length := message[at]) != 0:
        if length >= 0xC0:
            return at + 2
        at += length + 1
    return at + 1
