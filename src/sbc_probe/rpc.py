"""Kamailio's JSON-RPC over a Unix datagram socket (module jsonrpcs, transport datagram)."""

from __future__ import annotations

import json
import secrets
import socket
import time
from types import TracebackType
from typing import Any, Self

# Linux takes no longer datagram (net.core.wmem_default); it holds about 500 TLS connections.
REPLY_LIMIT = 1 << 18


class RpcError(Exception):
    """Kamailio's own refusal, e.g. 500 'No Destination Sets'."""

    def __init__(self, code: object, message: str) -> None:
        super().__init__(f"{code} {message}")


class Rpc:
    """One conversation. Raises OSError (TimeoutError among them) where Kamailio is not reached.

    The client's address is one that Linux picks in the abstract namespace: Kamailio needs no right to write to a file
    of ours, and nothing is left behind. The socket stays unconnected: Kamailio answers from a socket of its own.
    """

    def __init__(self, path: str, timeout: float = 2.0) -> None:
        self._path, self._timeout = path, timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(timeout)
        self._socket.bind("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def call(self, method: str, *params: str | int) -> Any:
        """Call one method and give its result; the values of a key that comes again and again are made a list.

        RpcError: Kamailio refuses; ValueError: its answer is no JSON-RPC, such as one that was cut short.
        """
        number = secrets.randbits(31)
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": number}
        self._socket.sendto(json.dumps(request).encode(), self._path)
        deadline = time.monotonic() + self._timeout
        while True:
            reply = self._receive(deadline, method)
            if reply.get("id") == number:
                break
        if isinstance(error := reply.get("error"), dict):
            raise RpcError(error.get("code"), str(error.get("message", "")))
        if "result" not in reply:
            raise ValueError(f"{method} has no result")
        return reply["result"]

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(REPLY_LIMIT)
        try:
            reply = json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise ValueError(f"{method} is no JSON, or cut short after {len(data)} bytes") from None
        if not isinstance(reply, dict):
            raise ValueError(f"{method} is no JSON-RPC")
        return reply

    def table(self, name: str) -> dict[str, str | int]:
        """The whole of one htable as a dict; raises as call does, KeyError and TypeError too for another form."""
        items = [item for bucket in self.call("htable.dump", name) for item in bucket["slot"]]
        if strange := [item for item in items if not isinstance(item["value"], str | int)]:
            raise ValueError(f"{name} holds {strange[0]!r}")
        return {str(item["name"]): item["value"] for item in items}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        return {key: [value for name, value in pairs if name == key] for key in found}
    return found


def _no_number(name: str) -> None:
    raise ValueError(name)
