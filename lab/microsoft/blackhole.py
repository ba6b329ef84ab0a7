"""Packets that vanish: a socket behind which nothing arrives, while whoever sends hears neither yes nor no.

The kernel does it (socket(7), SO_ATTACH_FILTER): a filter that takes nothing of any packet makes TCP forget each before
it is looked at, SYN and ACK alike, as a firewall does that drops.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from asyncio.trsock import TransportSocket

# Linux, asm-generic/socket.h; Python names neither.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# struct sock_filter: BPF_RET | BPF_K with 0 bytes (linux/bpf_common.h).
TAKE_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)


def drop(sock: socket.socket | TransportSocket, on: bool) -> None:
    """Begin or end it; ending what never began is no error. Raises OSError for a socket that is closed."""
    if on:
        code = ctypes.create_string_buffer(TAKE_NOTHING, len(TAKE_NOTHING))
        # struct sock_fprog: how many, and where; padded as the machine's pointers are.
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code)))
    else:
        with contextlib.suppress(FileNotFoundError):
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
