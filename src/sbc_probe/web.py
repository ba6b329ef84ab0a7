"""HTTP for a few readers: GET and HEAD, one request a connection, and nobody can keep the others out.

Python's own http.server would do, but it brings the mail package with it: 2.4 MB in a process that may have 30.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

# A client has this long (s) for its whole request and the answer to it, and so many are served at a time.
PATIENCE = 5.0
CONNECTIONS = 16
LONGEST_REQUEST = 8192
# Linux: an address may be listened on before the machine has it (ip(7)).
IP_FREEBIND = 15
TEXT = "text/plain; charset=utf-8"
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
# A page carries its own style and pictures, runs no script of anybody and is shown in nobody's frame.
HEADERS = {
    "Server": "sbc-probe",
    "Connection": "close",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What it gets."""

    code: int
    body: bytes
    content_type: str = TEXT


class _Refused(Exception):
    """A request that cannot be answered, and the code that says so."""

    def __init__(self, code: int) -> None:
        super().__init__(REASONS[code])
        self.code = code


class Server(ThreadingTCPServer):
    """HTTP on one address. Of too many clients the one that came first is hung up on."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.connections: dict[int, socket.socket] = {}
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            while len(self.connections) >= CONNECTIONS:
                with contextlib.suppress(OSError):
                    self.connections.pop(next(iter(self.connections))).shutdown(socket.SHUT_RDWR)
            self.connections[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self.connections.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow is no news; a fault of ours is."""
        if not isinstance(sys.exception(), OSError):
            sys.excepthook(*sys.exc_info())


class _Handler(BaseRequestHandler):
    server: Server
    request: socket.socket

    def setup(self) -> None:
        self.deadline = time.monotonic() + PATIENCE

    def handle(self) -> None:
        request = None
        try:
            request = self._read()
            answer = self.server.answer(request)
        except OSError:
            raise
        except _Refused as refused:
            answer = Answer(refused.code, f"{refused}\n".encode())
        except Exception:
            sys.excepthook(*sys.exc_info())
            answer = Answer(500, b"a fault of the probe itself: journalctl -u sbc-probe\n")
        self._send(answer, bodyless=request is not None and request.method == "HEAD")

    def _read(self) -> Request:
        received = b""
        while b"\r\n\r\n" not in received:
            if len(received) > LONGEST_REQUEST:
                raise _Refused(431)
            self.request.settimeout(max(0.001, self.deadline - time.monotonic()))
            if not (chunk := self.request.recv(LONGEST_REQUEST)):
                raise ConnectionResetError
            received += chunk
        first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        match first.split(" "):
            case [method, target, version] if version.startswith("HTTP/1."):
                path, _, query = target.partition("?")
            case _:
                raise _Refused(400)
        if method not in ("GET", "HEAD"):
            raise _Refused(405)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, path, query, headers)

    def _send(self, answer: Answer, bodyless: bool) -> None:
        headers = {
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            **({"Allow": "GET, HEAD"} if answer.code == 405 else {}),
            **HEADERS,
        }
        lines = [f"HTTP/1.1 {answer.code} {REASONS[answer.code]}", *(f"{name}: {headers[name]}" for name in headers)]
        self.request.settimeout(max(0.001, self.deadline - time.monotonic()))
        self.request.sendall("\r\n".join((*lines, "", "")).encode() + (b"" if bodyless else answer.body))
        if answer.code in (400, 405, 431):
            # What is left unread would make the kernel take the answer back.
            self.request.shutdown(socket.SHUT_WR)
            while time.monotonic() < self.deadline and self.request.recv(LONGEST_REQUEST):
                pass
