"""As much of SIP as one OPTIONS and its answer need (RFC 3261)."""

from __future__ import annotations

import re
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

# Compact forms of the headers that are looked at here (RFC 3261, 7.3.3; RFC 3326 has none for Reason).
COMPACT = {"m": "contact", "l": "content-length", "i": "call-id", "v": "via", "f": "from", "t": "to", "k": "supported"}
# No message here is longer; whoever sends more speaks something else.
LIMIT = 1 << 16


class NotSip(ValueError):
    """What came is no SIP; the text shows how it begins."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer: its first line, and its headers in their order as they were written."""

    first: str
    headers: tuple[tuple[str, str], ...]

    @property
    def code(self) -> int | None:
        """The status code; None: it is a request."""
        words = self.first.split(" ", 2)
        return int(words[1]) if words[0] == "SIP/2.0" else None

    @property
    def reason(self) -> str:
        return self.first.split(" ", 2)[2] if self.first.count(" ") > 1 else ""

    def get(self, name: str) -> str | None:
        """The first header of that name, given in full and in lower case."""
        for given, value in self.headers:
            if COMPACT.get(given.lower(), given.lower()) == name:
                return value
        return None


def options_request(uri: str, sender: str, contact: str, sent_by: str) -> tuple[str, str]:
    """One OPTIONS (RFC 3261, 11.1) to `uri` over TLS, and its Call-ID; `sender` is a host, or user@host."""
    token = secrets.token_hex(8)
    call_id = f"{token}@{sender.rpartition('@')[2]}"
    lines = (
        f"OPTIONS {uri} SIP/2.0",
        f"Via: SIP/2.0/TLS {sent_by};branch=z9hG4bK{token};rport",
        "Max-Forwards: 70",
        f"From: <sip:{sender}>;tag={token}",
        f"To: <{uri}>",
        f"Call-ID: {call_id}",
        "CSeq: 1 OPTIONS",
        f"Contact: <{contact}>",
        "User-Agent: sbc-probe",
        "Content-Length: 0",
    )
    return "\r\n".join((*lines, "", "")), call_id


def final_answer(tls: ssl.SSLSocket, request: str, call_id: str, timeout: float) -> Message:
    """Send a request and wait for its final answer, `timeout` seconds in all; what else comes is not ours.

    Raises TimeoutError, OSError, NotSip, and EOFError where the peer ends the connection.
    """
    stream, deadline = Stream(), time.monotonic() + timeout
    tls.settimeout(timeout)
    tls.sendall(request.encode())
    while True:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        tls.settimeout(left)
        if not (data := tls.recv(LIMIT)):
            raise EOFError
        for message in stream.feed(data):
            if (message.code or 0) >= 200 and message.get("call-id") in (call_id, None):
                return message


class Stream:
    """Messages out of what a connection brings, bit by bit."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with this. Raises NotSip."""
        self._received += data
        while message := self._next():
            yield message

    def _next(self) -> Message | None:
        # Empty lines between messages keep connections open (RFC 3261, 7.5; RFC 5626, 3.5.1).
        self._received = self._received.lstrip(b"\r\n")
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            begin = self._received.partition(b"\r\n")
            if len(self._received) > LIMIT or (begin[1] and not _is_first_line(begin[0])):
                raise NotSip(_shown(self._received))
            return None
        first, _, lines = head.decode(errors="replace").partition("\r\n")
        if not _is_first_line(head.partition(b"\r\n")[0]):
            raise NotSip(_shown(head))
        # A line that begins with a space goes on with the one before it (RFC 3261, 7.3.1).
        headers = (line.partition(":") for line in re.sub(r"\r\n[ \t]+", " ", lines).split("\r\n"))
        message = Message(
            first, tuple((name.strip(), " ".join(value.split())) for name, colon, value in headers if colon)
        )
        length = message.get("content-length") or "0"
        if not length.isdigit() or int(length) > LIMIT:
            raise NotSip(f"a Content-Length of {length[:20]!r}")
        if len(rest) < int(length):
            return None
        self._received = rest[int(length) :]
        return message


def _is_first_line(line: bytes) -> bool:
    words = line.split(b" ", 2)
    if words[0] == b"SIP/2.0":
        return len(words) > 1 and len(words[1]) == 3 and words[1].isdigit()
    return line.endswith(b" SIP/2.0") and line.count(b" ") == 2


def _shown(data: bytes) -> str:
    return repr(data[:60].decode(errors="replace"))
