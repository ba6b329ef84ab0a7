"""This machine's clock: what time servers say of it, and whether it jumped while the probe watched.

A wrong clock spoils everything else: no age of an answer and no end of a certificate can be told by it. Time servers
are asked in the background and seldom (RFC 5905 as a client that sets nothing, RFC 4330); in between, the clock that
only counts (CLOCK_BOOTTIME) tells how far the other one was moved. The kernel's own word, adjtimex(2), is out of reach
for a unit with ProtectClock, which is why systemd-timesyncd's stands here.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from sbc_probe.config import Config
from sbc_probe.model import Clock
from sbc_probe.resolver import lookup

PORT = 123
TIMEOUT = 2.0
# How often (s) servers are asked while the clock agrees with them, and while it does not or nobody answers.
CALM, DOUBTFUL = 900.0, 60.0
# The longest (s) that an answer counts, with what the clock was moved since.
LASTING = 3600.0
# Differences below this (s) are the network's, or somebody slewing the clock.
NOTICEABLE = 1.0
# systemd-timesyncd touches it whenever it has heard from its servers, half an hour apart at most.
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
# The kernel too takes a clock for unsynchronised when it has heard of no server for about so long (s).
HOLDOVER = 9 * 3600.0
# Seconds from 1900 to 1970, and how long until NTP's count of seconds begins anew (RFC 5905, 6).
EPOCH, ERA = 2208988800, 2**32
PACKET = struct.Struct(">BBbbII4sQQQQ")
# Version 4, mode 3: a client.
REQUEST = 0x23
SERVER_MODE, ALARM = 4, 3


@dataclass(frozen=True, slots=True)
class Answer:
    """`offset` (s) is how far this machine's clock is ahead of the server's."""

    server: str
    offset: float


class Watch:
    """What is known of the clock from one look to the next."""

    def __init__(self, servers: tuple[str, ...], ask: Callable[[tuple[str, ...]], Answer | None] | None = None) -> None:
        self._servers = servers
        self._ask = ask or ask_servers
        self._thread: threading.Thread | None = None
        self._due = 0.0
        # How far the clock is from the one that counts: when the watch began, at the last look, at the last answer.
        self._begin = self._last = distance()
        self._stepped_at: float | None = None
        self._answer: tuple[Answer, float, float] | None = None

    def look(self) -> Clock:
        """What is known now; only the first look waits for the time servers."""
        here, now = distance(), boottime()
        if abs(here - self._last) > NOTICEABLE:
            self._stepped_at = time.time()
            self._due = now
        self._last = here
        if now >= self._due and not (self._thread and self._thread.is_alive()):
            first = self._thread is None
            self._due = now + DOUBTFUL
            self._thread = threading.Thread(target=self._listen, name="time", daemon=True)
            self._thread.start()
            if first:
                self._thread.join(TIMEOUT + 0.5)
        return self._known(distance(), now)

    def _known(self, here: float, now: float) -> Clock:
        offset = server = step = None
        if self._answer and now - self._answer[2] < LASTING:
            answer, there, _ = self._answer
            offset, server = answer.offset + here - there, answer.server
        if abs(here - self._begin) > NOTICEABLE:
            step = here - self._begin
        return Clock(synchronized(), offset, server, step, self._stepped_at if step is not None else None)

    def _listen(self) -> None:
        answer = self._ask(self._servers)
        if answer is None:
            return
        self._answer = answer, distance(), boottime()
        if abs(answer.offset) <= NOTICEABLE:
            # Whatever it did before, it is right now.
            self._begin = self._answer[1]
            self._due = self._answer[2] + CALM


_watch: Watch | None = None
_watched: tuple[str, ...] = ()


def read(config: Config) -> Clock:
    """What is known of this machine's clock, by one watch for the whole life of the process."""
    global _watch, _watched
    if _watch is None or _watched != config.time_servers:
        _watch, _watched = Watch(config.time_servers), config.time_servers
    return _watch.look()


def boottime() -> float:
    """The clock that only counts, also while the machine sleeps (s)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def distance() -> float:
    """How far the clock is from the one that only counts; it changes when somebody sets the clock."""
    return time.time() - boottime()


def synchronized() -> bool:
    """Whether systemd-timesyncd has lately heard from its servers."""
    try:
        return abs(time.time() - SYNCHRONIZED.stat().st_mtime) < HOLDOVER
    except OSError:
        return False


def ask_servers(names: tuple[str, ...], timeout: float = TIMEOUT, port: int = PORT) -> Answer | None:
    """Ask all of them with one datagram each; None: no good answer came within `timeout` seconds.

    The first one that finds the clock right is believed at once. One that does not may be wrong itself, so that then
    the median of all answers counts.
    """
    # All of them first: an answer that lies here while the next name is looked up would seem to have come slowly.
    addresses = {address: name for name in names if (address := _address(name))}
    sent: dict[tuple[str, int], tuple[str, int, float, float]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for address, name in addresses.items():
            # Not our time but a number that nobody else can know comes back as the one of the question.
            token = secrets.randbits(64)
            sent[address, port] = name, token, time.time(), time.monotonic()
            try:
                sock.sendto(PACKET.pack(REQUEST, 0, 0, 0, 0, 0, b"", 0, 0, 0, token), (address, port))
            except OSError:
                del sent[address, port]
        answers: list[Answer] = []
        deadline = time.monotonic() + timeout
        while sent and (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data, sender = sock.recvfrom(512)
            except OSError:
                break
            if sender not in sent:
                continue
            name, token, wall, began = sent[sender]
            if (offset := _offset(data, token, wall, time.monotonic() - began)) is None:
                continue
            del sent[sender]
            answers.append(Answer(name, offset))
            if abs(offset) <= NOTICEABLE:
                return answers[-1]
    if not answers:
        return None
    return sorted(answers, key=lambda answer: answer.offset)[(len(answers) - 1) // 2]


def _address(name: str) -> str | None:
    try:
        return str(IPv4Address(name))
    except AddressValueError:
        return next(iter(lookup(name).addresses), None)


def _offset(data: bytes, token: int, sent_at: float, passed: float) -> float | None:
    """How far our clock is ahead by this answer (RFC 5905, 8); None: it is no good one, or not to our question."""
    if len(data) < PACKET.size:
        return None
    bits, stratum, *_, origin, received, transmitted = PACKET.unpack_from(data)
    if bits & 7 != SERVER_MODE or bits >> 6 == ALARM or not 1 <= stratum <= 15 or origin != token or not transmitted:
        return None
    return ((sent_at - _seconds(received, sent_at)) + (sent_at + passed - _seconds(transmitted, sent_at))) / 2


def _seconds(stamp: int, near: float) -> float:
    """A timestamp as Unix seconds, of the era that is nearest to what our own clock says."""
    seconds = stamp / 2**32 - EPOCH
    return seconds + round((near - seconds) / ERA) * ERA
