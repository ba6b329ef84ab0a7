"""Kamailio's JSON-RPC over a Unix datagram socket (module jsonrpcs, transport datagram)."""

from __future__ import annotations

import json
import secrets
import socket
from types import TracebackType
from typing import Any, Self

# Linux takes no longer datagram (net.core.wmem_default); it holds about 500 TLS connections.
REPLY_LIMIT = 1 << 18


class RpcError(Exception):
    """Kamailio's own refusal, e.g. 500 'No Destination Sets'."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class Rpc:
    """One conversation. Raises OSError (TimeoutError among them) where Kamailio is not reached.

    The client's address is one that Linux picks in the abstract namespace: Kamailio needs no right to write to a file
    of ours, and nothing is left behind. The socket stays unconnected: Kamailio answers from a socket of its own.
    """

    def __init__(self, path: str, timeout: float = 2.0) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(timeout)
        self._socket.bind("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def call(self, method: str, *params: str | int) -> Any:
        """Call one method and give its result. RpcError: Kamailio refuses; ValueError: its answer is no JSON."""
        number = secrets.randbits(31)
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": number}
        self._socket.sendto(json.dumps(request).encode(), self._path)
        while True:
            reply = json.loads(self._socket.recv(REPLY_LIMIT))
            if reply.get("id") == number:
                break
        if error := reply.get("error"):
            raise RpcError(int(error.get("code", 0)), str(error.get("message", "")))
        return reply["result"]

    def table(self, name: str) -> dict[str, str | int]:
        """The whole of one htable as a dict."""
        return {item["name"]: item["value"] for bucket in self.call("htable.dump", name) for item in bucket["slot"]}
