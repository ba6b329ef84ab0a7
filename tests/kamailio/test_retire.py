"""Old TLS connections are retired by a real Kamailio and the real kernel."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from unittest import mock

from sbc_probe import retire as module
from sbc_probe.retire import CLOSING, Outcome, retire
from tests.kamailio.running import (
    PATIENCE,
    Sbc,
    Start,
    exchange,
    listens_on_port,
    needs_kamailio,
    start_kamailio,
    wait_for,
)

WITHIN = 28.0


def ended(session: ssl.SSLSocket) -> bool:
    session.settimeout(0.01)
    try:
        return session.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def talking(sbc: Sbc) -> ssl.SSLSocket:
    """A connection that has said something: Kamailio soon ends one that has not (20 s)."""
    session = sbc.connect()
    assert exchange(session).startswith("SIP/2.0 200")
    return session


class Retiring(threading.Thread):
    """Retires in the background, as the unit does, from when it knows which connections are old.

    They are told to end within that time; on a busy machine the last one may then take longer than on an idle one.
    """

    outcome: Outcome

    def __init__(self, sbc: Sbc, within: float) -> None:
        super().__init__()
        self.path, self.within, self.listed = str(sbc.directory / "rpc.sock"), within, threading.Event()
        self.start()
        assert self.listed.wait(PATIENCE)

    def run(self) -> None:
        schedule = module._schedule

        def told(count: int, begin: float, _within: float) -> Iterator[float]:
            self.listed.set()
            return schedule(count, begin, self.within)

        with mock.patch.object(module, "_schedule", told):
            self.outcome = retire(self.path, self.within + PATIENCE)

    def end(self) -> Outcome:
        self.join(self.within + 2 * PATIENCE)
        assert not self.is_alive()
        return self.outcome


@needs_kamailio
def test_they_end_one_by_one_in_time_and_new_ones_stay(start: Start) -> None:
    sbc = start()
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    old = [talking(sbc), talking(sbc), talking(sbc)]
    # The worker that has read from a connection keeps it for some seconds, then it lies idle.
    assert wait_for(lambda: all(60 < one["timeout"] < 599 for one in sbc.rpc("tls.list")))
    assert len(sbc.rpc("tls.list")) == 6
    begin = time.monotonic()
    retiring = Retiring(sbc, WITHIN)
    new = talking(sbc)
    when: dict[int, float] = {}
    while len(when) < 3 and time.monotonic() < begin + WITHIN + PATIENCE:
        for number, session in enumerate(old):
            if number not in when and ended(session):
                when[number] = time.monotonic() - begin
    assert retiring.end() == Outcome(6, 0)
    # Six are spread over the time that is left before the last ones must begin to close.
    step = (WITHIN - CLOSING) / 6
    first, second, third = sorted(when.values())
    assert second - first > step / 3
    assert third - second > step / 3
    assert not ended(new)
    new.settimeout(PATIENCE)
    assert exchange(new).startswith("SIP/2.0 200")
    # Microsoft's proxies are asked over new connections.
    sbc.rpc("evrexec.run", "evrexec:ping")
    assert wait_for(lambda: [len(proxy.requests) for proxy in sbc.proxies] == [2, 2, 2])
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])


@needs_kamailio
def test_one_in_use_is_served_until_it_ends(start: Start) -> None:
    sbc = start()
    session = sbc.connect()
    retiring = Retiring(sbc, 12)
    answers = []
    while answer := exchange(session):
        answers.append(answer)
        time.sleep(0.2)
    assert len(answers) > 5
    assert all(answer.startswith("SIP/2.0 200") for answer in answers)
    assert retiring.end().left == 0


@needs_kamailio
def test_it_ends_early_when_none_is_left(start: Start) -> None:
    sbc = start(hosts=[])
    sessions = [sbc.connect() for _ in range(3)]
    retiring = Retiring(sbc, 300)
    for session in sessions:
        session.close()
    retiring.join(2 * PATIENCE)
    assert not retiring.is_alive()
    assert retiring.outcome == Outcome(3, 0)


@needs_kamailio
def test_a_kamailio_that_is_started_again_keeps_its_connections(start: Start) -> None:
    sbc = start()
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    retiring = Retiring(sbc, 300)
    sbc.process.kill()
    assert wait_for(lambda: not listens_on_port())
    # Its process numbers are those of a namespace of their own, so the old file names one of the new ones.
    (sbc.directory / "pid").unlink()
    with start_kamailio(sbc.directory) as again:
        try:
            assert wait_for(listens_on_port), (sbc.directory / "log").read_text()
            assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
            retiring.join(2 * PATIENCE)
            assert not retiring.is_alive()
            assert retiring.outcome == Outcome(3, 0)
            assert len(sbc.rpc("tls.list")) >= 3
        finally:
            again.kill()


def test_where_no_kamailio_runs_nothing_is_old() -> None:
    assert retire("/nonexistent/rpc.sock", 300) == Outcome(0, 0)
