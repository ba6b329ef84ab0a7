"""SIP over a stream (RFC 3261): messages in, replies out, and the few URIs that matter here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

OK = 200
CRLF = b"\r\n"
HEAD_LIMIT = 65_536
BODY_LIMIT = 65_536

# RFC 3261 section 7.3.3, and the extensions whose compact forms are registered with IANA.
COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition", "e": "content-encoding",
    "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported", "l": "content-length", "m": "contact",
    "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject", "t": "to", "u": "allow-events", "v": "via",
    "x": "session-expires", "y": "identity",
}  # fmt: skip


class SipError(Exception):
    """What came is not SIP, or is larger than the limits; the stream cannot be followed any further."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response; header names are in full and in lower case, values as they came, unfolded."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def method(self) -> str | None:
        """The method of a request, None for a response."""
        return None if self.code is not None else self.start.split(" ", 1)[0]

    @property
    def code(self) -> int | None:
        """The status code of a response, None for a request."""
        version, _, rest = self.start.partition(" ")
        return int(rest[:3]) if version.upper() == "SIP/2.0" else None

    @property
    def reason(self) -> str:
        """The reason phrase of a response."""
        return self.start.split(" ", 2)[2] if self.start.count(" ") > 1 else ""

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]

    def first(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)


class Ping:
    """A keepalive of two CRLF between messages, to be answered by one (RFC 5626 section 4.4.1)."""


class Parser:
    """Cuts a stream into messages, however it was cut into segments."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message | Ping]:
        """Yield what `data` completes. Raises SipError."""
        self._buffer += data
        while (item := self._next()) is not None:
            yield item

    def _next(self) -> Message | Ping | None:
        buffer = self._buffer
        while buffer.startswith(CRLF):
            if buffer.startswith(CRLF * 2):
                del buffer[:4]
                return Ping()
            if buffer in (CRLF, CRLF + b"\r"):
                return None
            del buffer[:2]
        end = buffer.find(CRLF * 2)
        if end < 0:
            if len(buffer) > HEAD_LIMIT or b"\x00" in buffer:
                raise SipError("no end of the header in sight")
            return None
        start, headers = _head(bytes(buffer[:end]).decode("utf-8", "surrogateescape"))
        length = _content_length(headers)
        if len(buffer) < end + 4 + length:
            return None
        message = Message(start, headers, bytes(buffer[end + 4 : end + 4 + length]))
        del buffer[: end + 4 + length]
        return message


def _head(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    start, *lines = re.sub(r"\r\n[ \t]+", " ", text).split("\r\n")
    if not re.fullmatch(r"(?i:SIP/2\.0) [1-6]\d\d( .*)?|[A-Za-z0-9.!%*_+`'~-]+ \S+ (?i:SIP/2\.0)", start):
        raise SipError(f"neither a request nor a status line: {start[:80]!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise SipError(f"no header: {line[:80]!r}")
        headers.append((COMPACT.get(name, name), value.strip()))
    return start, tuple(headers)


def _content_length(headers: tuple[tuple[str, str], ...]) -> int:
    lengths = {value for name, value in headers if name == "content-length"}
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,6}", text := lengths.pop()) or int(text) > BODY_LIMIT:
        raise SipError("Content-Length is no usable number")
    return int(text)


@dataclass(frozen=True, slots=True)
class Uri:
    """The parts of a SIP URI that say where to send a request."""

    host: str
    port: int | None

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address and no name."""
        try:
            ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return True


def uri_of(value: str | None) -> Uri | None:
    """The URI of the first name-addr or addr-spec in a Contact or Record-Route value; None if there is none."""
    value = re.sub(r'^\s*"(?:[^"\\]|\\.)*"\s*', "", value or "")
    bracketed = re.search(r"<([^<>]*)>", value)
    text = bracketed.group(1) if bracketed else re.split(r"[,;\s]", value.strip(), maxsplit=1)[0]
    found = re.match(r"(?i:sips?):(?:[^@\s]*@)?(\[[0-9A-Fa-f:.]+\]|[^:;?@\s\[\]]+)(?::(\d{1,5}))?(?=[;?]|$)", text)
    return Uri(found[1].lower().rstrip("."), int(found[2]) if found[2] else None) if found else None


def render(start: str, headers: list[tuple[str, str]]) -> bytes:
    """A message without a body, as it goes over the wire."""
    lines = [start, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def reply(request: Message, code: int, reason: str, extra: list[tuple[str, str]]) -> bytes:
    """A reply as Microsoft writes it: names in capitals, To and Via unchanged (public traces of 2020)."""
    copied = [
        (name.upper(), value) for name in ("from", "to", "cseq", "call-id", "via") for value in request.values(name)
    ]
    return render(f"SIP/2.0 {code} {reason}", [*copied, ("CONTENT-LENGTH", "0"), *extra])
