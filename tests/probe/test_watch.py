"""`sbc-probe watch`: what it says of two looks, and how it treats the terminal that it is given."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from by_hand import CONFIG, NOW, REFUSED, evidence, kamailio, with_certificate
from miniature import FQDN, KamailioRpc, SipPort

import sbc_probe
from sbc_probe.model import Answer, Evidence
from sbc_probe.verdict import judge
from sbc_probe.watch import ENTER, LEAVE, Change, Look, changes, screen

PATIENCE = 30.0


def look(found: Evidence) -> Look:
    return Look(found, judge(CONFIG, found))


def texts(before: Evidence | None, now: Evidence) -> list[str]:
    return [change.text for change in changes(look(before) if before else None, look(now))]


GREEN, RED = evidence(), evidence(kamailio=kamailio(sip2=REFUSED))


def test_the_first_look_says_what_is_the_case() -> None:
    assert texts(None, GREEN) == ["PROVEN"]
    assert texts(None, RED) == ["NOT PROVEN; proxy_forbids: A proxy answers 403"]


def test_nothing_is_said_of_what_stays() -> None:
    assert texts(GREEN, replace(GREEN, taken_at=NOW + 2)) == []


def test_what_turns_is_told_of_the_sbc_and_of_the_proxy() -> None:
    assert texts(GREEN, RED) == [
        "PROVEN -> NOT PROVEN; proxy_forbids: A proxy answers 403",
        "sip2.pstnhub.microsoft.com: AP -> IP, 200 -> 403, proven -> failed (proxy_forbids)",
    ]
    assert texts(RED, GREEN)[0] == "NOT PROVEN -> PROVEN"


def test_a_restart_and_another_certificate_are_told() -> None:
    assert "Kamailio was started again" in texts(GREEN, evidence(kamailio=kamailio(loaded_at=NOW - 5)))
    assert [text[:26] for text in texts(GREEN, with_certificate(fingerprint="00" * 32))] == [
        "another certificate, until"
    ]


def shown(width: int, height: int, found: Evidence = RED, colours: bool = False, count: int = 9) -> list[str]:
    changed = [Change(NOW - number, "", f"change {number}", judge(CONFIG, found).state) for number in range(count)]
    return screen(CONFIG, look(found), changed, 2, width, height, colours)


@pytest.mark.parametrize("size", [(80, 24), (60, 12), (200, 60), (20, 5), (10, 1)])
def test_it_fits_every_terminal(size: tuple[int, int]) -> None:
    lines = shown(*size)
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


def test_cause_and_changes_have_room_on_80_columns_and_24_lines() -> None:
    lines = shown(80, 24)
    assert lines[0].startswith("NOT PROVEN  acme")
    assert "cause: proxy_forbids" in lines
    assert [line[10:] for line in lines if "change " in line][:3] == ["change 0", "change 1", "change 2"]


def test_nothing_that_a_proxy_says_steers_the_terminal() -> None:
    rude = {**REFUSED, "answer": Answer(NOW - 10, 403, "\x1b[2J\x9b2J\rgone", NOW - 100, ("*.pstnhub.microsoft.com",))}
    text = "\n".join(shown(200, 60, evidence(kamailio=kamailio(sip2=rude))))
    assert "gone" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "\x1b[" in "\n".join(shown(80, 24, colours=True))


def interruptible() -> None:
    """In a child: where the tests themselves run in the background, Ctrl-C is ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, file: Path, **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sbc_probe", "watch", "--config", str(file), "--interval", "0.5"],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=os.environ | {"TERM": "xterm", "PYTHONPATH": str(Path(sbc_probe.__file__).parents[1])} | environment,
            start_new_session=True,
            preexec_fn=self._begin,
        )

    @staticmethod
    def _begin() -> None:
        interruptible()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def until(self, found: Callable[[str], object]) -> None:
        """Read until this is true of what came."""
        deadline = time.monotonic() + PATIENCE
        while not found(self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536).decode()

    def ended(self) -> int:
        code = self.process.wait(PATIENCE)
        self.until(lambda seen: seen.endswith(LEAVE))
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def file(
    tmp_path: Path,
    settings: dict[str, Any],
    rpc: KamailioRpc,
    open_port: Callable[..., SipPort],
    certificate: Path,
) -> Path:
    """The settings of an SBC that is not proven."""
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({**settings, "port": open_port(certificate).port}))
    return path


@pytest.fixture
def terminal(file: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(**environment: str) -> Terminal:
        opened.append(Terminal(file, **environment))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def test_ctrl_c_gives_the_terminal_back(terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    one.until(lambda seen: f"acme: {FQDN}" in seen)
    assert one.seen.startswith(ENTER)
    assert "\x1b[31" in one.seen
    one.resize(40, 10)
    os.kill(one.process.pid, signal.SIGWINCH)
    one.until(lambda seen: re.search(r"more lines: sbc-probe check", seen))
    os.write(one.master, b"\x03")
    assert one.ended() == 0


@pytest.mark.parametrize("how", ["q", "SIGTERM"])
def test_so_do_other_ways_out(terminal: Callable[..., Terminal], how: str) -> None:
    one = terminal(NO_COLOR="1")
    one.until(lambda seen: f"acme: {FQDN}" in seen)
    assert "\x1b[3" not in one.seen, "no colours"
    if how == "q":
        os.write(one.master, b"q")
    else:
        one.process.terminate()
    assert one.ended() == 0


def test_elsewhere_it_writes_a_line_for_each_change(file: Path, rpc: KamailioRpc) -> None:
    command = [sys.executable, "-m", "sbc_probe", "watch", "--config", str(file), "--interval", "0.5"]
    environment = os.environ | {"PYTHONPATH": str(Path(sbc_probe.__file__).parents[1])}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=interruptible,
    ) as one:
        try:
            assert one.stdout
            assert one.stderr
            first = one.stdout.readline()
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  NOT PROVEN; \w+: .+\n", first)
            rpc.close()
            assert "kamailio_rpc" in one.stdout.readline()
            one.send_signal(signal.SIGINT)
            assert (one.wait(PATIENCE), one.stderr.read()) == (0, "")
        finally:
            one.kill()
