"""The TCP sockets of this machine (proc(5), /proc/net/tcp), of IPv4 and IPv6."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from sbc_probe.model import Unread

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
ESTABLISHED, LISTEN = "01", "0A"

End = tuple[str, int]


class Socket(NamedTuple):
    """Both ends and the state, as the kernel numbers them."""

    ours: End
    theirs: End
    state: str


def sockets() -> Iterator[Socket]:
    """All of them; OSError where the kernel shows none. A machine without IPv6 has no table for it."""
    for number, table in enumerate(TABLES):
        try:
            text = table.read_text()
        except FileNotFoundError:
            if number:
                continue
            raise
        for line in text.splitlines()[1:]:
            _, ours, theirs, state, *_ = line.split()
            yield Socket(_end(ours), _end(theirs), state)


def listening(port: int) -> tuple[str, ...] | Unread:
    """The addresses on which something takes connections to this port."""
    try:
        return tuple(sorted({one.ours[0] for one in sockets() if one.state == LISTEN and one.ours[1] == port}))
    except OSError as error:
        return Unread(f"{error.filename}: {error.strerror}", denied=isinstance(error, PermissionError))


def _end(text: str) -> End:
    """An address and a port; the kernel writes the address in words of 32 bits, each in the machine's own order."""
    words, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    if len(packed) == 4:
        return socket.inet_ntoa(packed), int(port, 16)
    address = ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)
