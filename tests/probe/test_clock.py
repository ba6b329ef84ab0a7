"""The clock: what time servers over real UDP make of it, and what the probe sees when it is moved."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from miniature import end

from sbc_probe import clock
from sbc_probe.clock import Answer, Watch, ask_servers
from sbc_probe.model import Clock

HOUR = 3600.0


class TimeServer:
    """One that is `ahead` seconds ahead of this machine; `spoil` changes its answer on its way."""

    def __init__(self, address: str, ahead: float = 0, port: int = 0) -> None:
        self.ahead = ahead
        self.spoil: Callable[[bytes], bytes] = lambda answer: answer
        self.questions: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                question, sender = self.socket.recvfrom(512)
            except OSError:
                return
            if not question:
                return
            self.questions.append(question)
            stamp = int((time.time() + self.ahead + 2208988800) * 2**32) % 2**64
            head = struct.pack(">BBbbII4sQ", 0x24, 2, 6, -20, 0, 0, b"LAB\0", stamp)
            with contextlib.suppress(OSError):  # the end came first
                self.socket.sendto(self.spoil(head + question[40:48] + struct.pack(">QQ", stamp, stamp)), sender)


@pytest.fixture
def serve() -> Iterator[Callable[..., TimeServer]]:
    """Start time servers: `serve(address, ahead, port)`."""
    servers: list[TimeServer] = []

    def start(address: str = "127.0.0.1", ahead: float = 0, port: int = 0) -> TimeServer:
        servers.append(TimeServer(address, ahead, port))
        return servers[-1]

    yield start
    for server in servers:
        end(server.socket, server.thread)


class TestServers:
    """One question each, and what may come back."""

    @pytest.mark.parametrize("ahead", [0, 86400, -86400, 20 * 365 * 86400])
    def test_how_far_the_clock_is_ahead(self, serve: Callable[..., TimeServer], ahead: float) -> None:
        server = serve(ahead=ahead)
        answer = ask_servers(("127.0.0.1",), 30, server.port)
        assert answer
        assert answer.server == "127.0.0.1"
        assert answer.offset == pytest.approx(-ahead, abs=5)
        (question,) = server.questions
        assert len(question) == 48
        assert question[0] & 7 == 3  # a client
        assert question[0] >> 3 & 7 == 4  # of version 4

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda answer: answer[:40],
            lambda _: b"",
            lambda answer: b"\x23" + answer[1:],  # a client's
            lambda answer: b"\xe4" + answer[1:],  # its own clock is not synchronised
            lambda answer: answer[:1] + b"\0" + answer[2:],  # it wants to be left alone (kiss of death)
            lambda answer: answer[:1] + b"\x10" + answer[2:],
            lambda answer: answer[:24] + b"\0" * 8 + answer[32:],  # to another question
            lambda answer: answer[:40] + b"\0" * 8,
        ],
    )
    def test_what_is_no_good_answer_does_not_count(
        self, serve: Callable[..., TimeServer], spoil: Callable[[bytes], bytes]
    ) -> None:
        server = serve(ahead=86400)
        server.spoil = spoil
        assert ask_servers(("127.0.0.1",), 0.3, server.port) is None
        deadline = time.monotonic() + 60
        while not server.questions:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_one_wrong_server_among_others_is_not_believed(self, serve: Callable[..., TimeServer]) -> None:
        liar = serve("127.7.9.1", 5 * HOUR)
        serve("127.7.9.2", 0, liar.port)
        for _ in range(3):
            answer = ask_servers(("127.7.9.1", "127.7.9.2"), 30, liar.port)
            assert answer
            assert answer.server == "127.7.9.2"

    def test_where_all_find_it_wrong_their_median_counts(self, serve: Callable[..., TimeServer]) -> None:
        first = serve("127.7.9.1", 5 * HOUR)
        for number, ahead in ((2, 86400), (3, 86401), (4, 86402)):
            serve(f"127.7.9.{number}", ahead, first.port)
        answer = ask_servers(tuple(f"127.7.9.{number}" for number in range(1, 5)), 30, first.port)
        assert answer
        assert answer.offset == pytest.approx(-86401, abs=3)

    def test_nobody_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ask_servers((), 30) is None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        assert ask_servers(("127.0.0.1",), 0.2, port) is None


class Hands:
    """The clocks of a machine, as a test sets them."""

    def __init__(self) -> None:
        self.passed, self.ahead, self.asked = 0.0, 0.0, 0
        self.answer: Callable[[], Answer | None] = lambda: None

    def ask(self, names: tuple[str, ...]) -> Answer | None:
        self.asked += 1
        return self.answer()


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(clock, "boottime", lambda: hands.passed)
    monkeypatch.setattr(clock, "distance", lambda: hands.ahead)
    monkeypatch.setattr(clock, "SYNCHRONIZED", Path("/nonexistent"))
    return hands


class TestWatch:
    """From one look to the next."""

    def look(self, watch: Watch) -> Clock:
        """What is known once those that were asked have answered."""
        watch.look()
        if watch._thread:
            watch._thread.join(30)
        return watch.look()

    def test_servers_are_asked_once_in_15_minutes_and_every_minute_in_doubt(self, hands: Hands) -> None:
        watch = Watch(("a",), hands.ask)
        for passed, asked in ((0, 1), (59, 1), (61, 2), (120, 2), (122, 3)):
            hands.passed = passed
            assert self.look(watch).offset is None
            assert hands.asked == asked
        hands.answer = lambda: Answer("a", 0.01)
        for passed, asked in ((200, 4), (1000, 4), (1099, 4), (1101, 5)):
            hands.passed = passed
            found = self.look(watch)
            assert (found.offset, found.server, found.step) == (0.01, "a", None)
            assert hands.asked == asked

    @pytest.mark.parametrize("moved", [86400.0, -86400.0])
    def test_a_moved_clock_is_known_at_once_and_so_is_its_return(self, hands: Hands, moved: float) -> None:
        watch = Watch(("a",), hands.ask)
        hands.answer = lambda: Answer("a", hands.ahead)
        assert self.look(watch).offset == 0
        hands.passed, hands.ahead = 5, moved
        before = time.time()
        found = watch.look()
        assert (found.offset, found.step) == (moved, moved)
        assert found.stepped_at
        assert before <= found.stepped_at <= time.time()
        assert self.look(watch).offset == moved
        assert hands.asked == 2
        hands.passed, hands.ahead = 10, 0.0
        found = self.look(watch)
        assert (found.offset, found.step, found.stepped_at) == (0, None, None)

    def test_without_servers_the_move_itself_is_the_evidence(self, hands: Hands) -> None:
        watch = Watch((), hands.ask)
        assert self.look(watch) == Clock(False)
        hands.passed, hands.ahead = 5, 7200.0
        assert self.look(watch).step == 7200
        hands.passed, hands.ahead = 9, 7200.4
        assert self.look(watch).step == pytest.approx(7200.4)
        hands.passed, hands.ahead = 15, 0.3
        assert self.look(watch) == Clock(False)

    def test_an_answer_does_not_last_for_ever(self, hands: Hands) -> None:
        watch = Watch(("a",), hands.ask)
        hands.answer = lambda: Answer("a", 0.5)
        assert self.look(watch).offset == 0.5
        hands.answer = lambda: None
        hands.passed = clock.LASTING - 1
        assert self.look(watch).offset == 0.5
        hands.passed += 2
        assert self.look(watch).offset is None

    def test_slow_servers_hold_up_the_first_look_alone_and_not_for_long(
        self, hands: Hands, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clock, "TIMEOUT", -0.4)
        begun, released = threading.Event(), threading.Event()

        def ask(names: tuple[str, ...]) -> Answer | None:
            begun.set()
            released.wait(30)
            return Answer("a", 0.0)

        watch = Watch(("a",), ask)
        assert watch.look().offset is None
        assert begun.wait(30)
        hands.passed = 500
        assert watch.look().offset is None
        released.set()
        assert self.look(watch).offset == 0


def test_timesyncds_word_lasts_for_some_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SYNCHRONIZED", tmp_path / "synchronized")
    assert not clock.synchronized()
    clock.SYNCHRONIZED.touch()
    assert clock.synchronized()
    for moved in (-10 * HOUR, 10 * HOUR):
        os.utime(clock.SYNCHRONIZED, (0, time.time() + moved))
        assert not clock.synchronized()


def test_the_distance_of_real_clocks_stands_still() -> None:
    first = clock.distance()
    assert abs(clock.distance() - first) < clock.NOTICEABLE
