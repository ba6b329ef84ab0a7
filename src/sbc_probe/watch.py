"""`sbc-probe watch`: the report again and again, and below it what has changed.

In a terminal it fills the screen (the alternate one, so that nothing of what was there is lost); where the output goes
elsewhere it writes one line for each change.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import termios
import textwrap
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

from sbc_probe import report
from sbc_probe.config import Config
from sbc_probe.evidence import collect
from sbc_probe.findings import SLACK, Finding, State
from sbc_probe.model import Evidence, Kamailio
from sbc_probe.terminal import BOLD, COLOURS, DIM, REVERSE, may_paint, paint, plain
from sbc_probe.verdict import Verdict, judge
from sbc_probe.words import TITLES

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
# How long (s) something that has changed stands out, and how many lines of changes there is always room for.
STRIKING = 10.0
ROOM = 5
STATE_WORDS = re.compile(rf"\b({'|'.join(State)})\b")


@dataclass(frozen=True, slots=True)
class Look:
    """One gathering, and what was made of it."""

    evidence: Evidence
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """`subject`: a proxy's host, or "" for the SBC; `state` is what it is in now."""

    at: float
    subject: str
    text: str
    state: State


def changes(before: Look | None, now: Look) -> Iterator[Change]:
    """What is other than at the last look; at the first one: what is the case."""
    at, state = now.evidence.taken_at, now.verdict.state
    if before is None:
        yield Change(at, "", f"{report.headline(now.verdict)}{_because(now.verdict.findings)}", state)
        return
    was = before.verdict
    if (was.state, _primary(was.findings)) != (state, _primary(now.verdict.findings)):
        turn = f"{report.headline(was)} -> " if was.state is not state else "still "
        yield Change(at, "", f"{turn}{report.headline(now.verdict)}{_because(now.verdict.findings)}", state)
    if (old := _loaded_at(before)) and (new := _loaded_at(now)) and new > old + SLACK:
        yield Change(at, "", "Kamailio was started again", state)
    shown = [report.shown_certificate(look.evidence) for look in (before, now)]
    if shown[0] and shown[1] and shown[0].fingerprint != shown[1].fingerprint:
        yield Change(at, "", f"another certificate, until {_moment(shown[1].not_after)}", state)
    old_causes = {one.cause for one in (*was.findings, *was.remarks)}
    new_causes = {one.cause for one in (*now.verdict.findings, *now.verdict.remarks)}
    for one in (*now.verdict.findings[1:], *now.verdict.remarks):
        if one.cause not in old_causes:
            yield Change(at, "", f"also {one.cause}: {TITLES[one.cause]}", one.state)
    for one in (*was.findings[1:], *was.remarks):
        if one.cause not in new_causes:
            yield Change(at, "", f"no longer {one.cause}", state)
    rows = {item.destination.host: item for item in was.destinations}
    for item in now.verdict.destinations:
        host = item.destination.host
        if not (former := rows.get(host)):
            continue
        pairs = (
            (former.destination.flags or "-", item.destination.flags or "-"),
            (_code(former.destination.answer), _code(item.destination.answer)),
            (_said(former.state, former.finding), _said(item.state, item.finding)),
        )
        if turned := [f"{one} -> {other}" for one, other in pairs if one != other]:
            yield Change(at, host, f"{host}: {', '.join(turned)}", item.state)


def _primary(findings: tuple[Finding, ...]) -> str | None:
    return findings[0].cause if findings else None


def _because(findings: tuple[Finding, ...]) -> str:
    return f"; {findings[0].cause}: {TITLES[findings[0].cause]}" if findings else ""


def _loaded_at(look: Look) -> float | None:
    return look.evidence.kamailio.loaded_at if isinstance(look.evidence.kamailio, Kamailio) else None


def _code(answer: object) -> str:
    return str(getattr(answer, "code", "no answer"))


def _said(state: State, finding: Finding | None) -> str:
    return f"{state} ({finding.cause})" if finding else str(state)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"


# ---------------------------------------------------------------- the screen


def screen(
    config: Config, look: Look, changed: list[Change], interval: float, width: int, height: int, colours: bool
) -> list[str]:
    """As many lines as fit; `changed` has the latest first."""
    text = plain(report.as_text(config, look.evidence, look.verdict, width))
    # What may not fit comes last, and that is never the cause.
    paragraphs = sorted(text.split("\n\n")[2:], key=lambda paragraph: not paragraph.startswith("cause: "))
    ordered = "\n\n".join((*text.split("\n\n")[:2], *paragraphs))
    body = [part for line in ordered.split("\n") for part in _folded(line, width)]
    right = f"  {datetime.fromtimestamp(look.evidence.taken_at, UTC):%H:%M:%S} UTC, every {interval:g} s, q ends"
    room = max(0, height - 2 - min(ROOM, len(changed)))
    if len(body) > room:
        body = [*body[: max(0, room - 1)], f"... {len(body) - room + 1} more lines: sbc-probe check"][:room]
    now = look.evidence.taken_at
    striking = {change.subject for change in changed if now - change.at < STRIKING}
    lines = []
    for number, line in enumerate(body):
        line = line[:width]
        lines.append(_painted(line, look.verdict.state, number == 0, striking) if colours else line)
    title = f"last changes{right}"[:width]
    lines += ["", paint(title, DIM) if colours else title][: height - len(lines)]
    for change in changed[: max(0, height - len(lines))]:
        line = f"{datetime.fromtimestamp(change.at, UTC):%H:%M:%S}  {plain(change.text)}"[:width]
        codes = [COLOURS[change.state], *([BOLD] if now - change.at < STRIKING else [])]
        lines.append(paint(line, *codes) if colours else line)
    return lines


def _folded(line: str, width: int) -> list[str]:
    """A line that is too long goes on below the second column."""
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=" " * 21, break_on_hyphens=False)


def _painted(line: str, state: State, first: bool, striking: set[str]) -> str:
    if first:
        return paint(line, COLOURS[state], BOLD, *([REVERSE] if "" in striking else []))
    if line.startswith("cause: "):
        return paint(line, COLOURS[state], BOLD)
    if not (found := STATE_WORDS.search(line)) or "  " not in line or line.startswith(" "):
        return line
    # A row of the table, beginning with the proxy's name.
    marked = paint(found[0], COLOURS[State(found[0])], *([REVERSE] if line.split()[0] in striking else []))
    return line[: found.start()] + marked + line[found.end() :]


class _Terminal:
    """The alternate screen and unbuffered keys; as a context manager it gives everything back."""

    def __enter__(self) -> _Terminal:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before = termios.tcgetattr(self._keys) if self._keys is not None else None
        if self._keys is not None:
            tty.setcbreak(self._keys)
        sys.stdout.write(ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.write(LEAVE)
            sys.stdout.flush()
        if self._keys is not None and self._before is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    @property
    def keys(self) -> list[int]:
        """What to read keys from, if from anything."""
        return [] if self._keys is None else [self._keys]

    def show(self, lines: list[str]) -> None:
        # Line by line, so that nothing flickers.
        sys.stdout.write(HOME + f"{CLEAR_LINE}\r\n".join(lines) + CLEAR_LINE + CLEAR_BELOW)
        sys.stdout.flush()


class _Gatherer:
    """Looks in a thread of its own, so that keys are answered at once; `ready` becomes readable after each look."""

    def __init__(self, config: Config, interval: float) -> None:
        self._config, self._interval = config, interval
        self.ready, self._done = os.pipe()
        os.set_blocking(self._done, False)
        self._looks: deque[Look | Exception] = deque()
        threading.Thread(target=self._run, name="looks", daemon=True).start()

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                evidence = collect(self._config)
                self._looks.append(Look(evidence, judge(self._config, evidence)))
            except Exception as error:
                self._looks.append(error)
            self.wake()
            time.sleep(max(0.0, begun + self._interval - time.monotonic()))

    def wake(self, *_: int | FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._done, b".")

    def looks(self) -> Iterator[Look]:
        """Those that are new. Raises what went wrong with one."""
        os.read(self.ready, 64)
        while self._looks:
            look = self._looks.popleft()
            if isinstance(look, Exception):
                raise look
            yield look


def watch(config: Config, interval: float) -> None:
    """Look every `interval` seconds until somebody ends it."""
    gatherer = _Gatherer(config, interval)
    # A terminal that is taken away or a kill goes the same way out as Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            signal.signal(signal.SIGWINCH, gatherer.wake)
            with _Terminal() as terminal:
                _fill_screen(config, interval, gatherer, terminal)
        else:
            _write_lines(gatherer)


def _fill_screen(config: Config, interval: float, gatherer: _Gatherer, terminal: _Terminal) -> None:
    look: Look | None = None
    changed: deque[Change] = deque(maxlen=200)
    colours = may_paint(sys.stdout)
    terminal.show(["looking ..."])
    while True:
        readable, _, _ = select.select([gatherer.ready, *terminal.keys], [], [])
        for key in terminal.keys:
            if key in readable and os.read(key, 64) in (b"q", b"Q", b""):
                return
        if gatherer.ready in readable:
            for new in gatherer.looks():
                changed.extendleft(changes(look, new))
                look = new
        if look:
            width, height = shutil.get_terminal_size((80, 24))
            terminal.show(screen(config, look, list(changed), interval, width, height, colours))


def _write_lines(gatherer: _Gatherer) -> None:
    look: Look | None = None
    while True:
        select.select([gatherer.ready], [], [])
        for new in gatherer.looks():
            for change in changes(look, new):
                print(f"{_moment(change.at)}  {plain(change.text)}", flush=True)
            look = new
