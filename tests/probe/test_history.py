"""The history on real files: what it tells, what it costs, and what becomes of it when files and disks go bad."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from by_hand import DAY, FQDN, NOW, PROXIES, answered, destination, evidence, kamailio

from sbc_probe import history
from sbc_probe.findings import Cause, Finding, State
from sbc_probe.history import FLAPPING, Availability, History, Requests, RoundTrips, Span
from sbc_probe.model import Answer, Destination, Evidence, Unread
from sbc_probe.verdict import DestinationVerdict, Verdict

HOST = PROXIES[0]
STEP = 15.0
GOOD: Cause | None = None
SILENT = Cause.PROXY_SILENT


def verdict(cause: Cause | None, host: str = HOST, flags: str = "AP") -> Verdict:
    finding = Finding(cause, "evidence", "next step") if cause else None
    item = DestinationVerdict(destination(host, flags), None, None, finding)
    return Verdict(finding.state if finding else State.PROVEN, (finding,) if finding else (), (), (item,))


def at(moment: float) -> Evidence:
    return evidence(taken_at=moment, kamailio=Unread("not asked"))


class Watch:
    """Gatherings every STEP seconds, beginning at NOW."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.path = path
        self.history = History(path, say=self.said.append)
        self.now = NOW

    def see(self, *causes: Cause | None, times: int = 1, flags: str = "AP") -> None:
        for _ in range(times):
            for cause in causes:
                self.history.note(at(self.now), verdict(cause, flags=flags))
                self.now += STEP

    def restart(self) -> None:
        """What a good end and a start leave; a pause is made by moving `now`."""
        self.history.close()
        self.history = History(self.path, say=self.said.append)

    def spans(self, subject: str = HOST, since: float = NOW, until: float | None = None) -> list[Span]:
        return self.history.timeline(subject, since, self.now - STEP if until is None else until)

    def states(self) -> list[str | None]:
        return [span.state for span in self.spans()]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    watch = Watch(tmp_path / "history.sqlite")
    yield watch
    watch.history.close()


def test_a_state_is_one_span_whatever_its_length(watch: Watch) -> None:
    watch.see(GOOD, times=100)
    assert watch.spans() == [Span(NOW, NOW + 99 * STEP, State.PROVEN, None, "AP")]
    assert watch.spans("") == [Span(NOW, NOW + 99 * STEP, State.PROVEN)]
    assert watch.spans("nobody.example") == [Span(NOW, watch.now - STEP, None)]
    assert watch.spans(since=NOW + 20, until=NOW + 50) == [Span(NOW + 20, NOW + 50, State.PROVEN, None, "AP")]


def test_between_two_gatherings_the_worse_of_them_counts(watch: Watch) -> None:
    watch.see(GOOD, GOOD, SILENT, SILENT, GOOD, GOOD)
    spans = watch.spans()
    assert [(span.begin - NOW, span.end - NOW, span.state) for span in spans] == [
        (0, STEP, State.PROVEN),
        (STEP, 4 * STEP, State.FAILED),
        (4 * STEP, 5 * STEP, State.PROVEN),
    ]
    assert spans[1].cause == SILENT
    assert watch.history.availability(HOST, NOW, watch.now) == Availability(0.4, 75)


def test_what_nobody_saw_is_a_gap_and_no_part_of_the_availability(watch: Watch) -> None:
    watch.see(GOOD, times=5)
    watch.restart()
    watch.now += 3600
    watch.see(GOOD, times=5)
    assert watch.states() == [State.PROVEN, None, State.PROVEN]
    assert watch.history.availability(HOST, NOW, watch.now) == Availability(1.0, 8 * STEP)
    assert watch.spans(until=watch.now + 3600)[-1] == Span(watch.now - STEP, watch.now + 3600, None)


def test_a_restart_of_the_probe_is_no_gap(watch: Watch) -> None:
    watch.see(GOOD, times=5)
    watch.restart()
    watch.see(GOOD, times=5)
    assert watch.spans() == [Span(NOW, watch.now - STEP, State.PROVEN, None, "AP")]


def test_not_yet_known_is_neither_good_nor_bad(watch: Watch) -> None:
    watch.see(Cause.NOT_YET_KNOWN, times=5)
    assert watch.states() == [State.UNKNOWN]
    assert watch.history.availability(HOST, NOW, watch.now) == Availability(None, 0)


def test_many_changes_become_flapping_and_calm_ends_it(watch: Watch) -> None:
    watch.see(GOOD, SILENT, times=100)
    (flapping,) = watch.spans()
    assert (flapping.begin, flapping.end, flapping.state, flapping.turns) == (NOW, watch.now - STEP, FLAPPING, 199)
    assert flapping.cause == SILENT
    assert watch.history.availability(HOST, NOW, watch.now).share == 0
    watch.see(GOOD, times=100)
    assert watch.states() == [FLAPPING, State.PROVEN]
    proven = watch.spans()[1]
    assert proven.begin == NOW + 200 * STEP
    # Of the flapping not a second was proven at both ends, of the rest every one.
    available = watch.history.availability(HOST, NOW, watch.now)
    assert available.known == 299 * STEP
    assert available.share == pytest.approx(99 / 299)


def test_half_of_a_flapping_time_was_proven(watch: Watch) -> None:
    watch.see(*[GOOD] * 3, *[SILENT] * 1, times=100)
    assert watch.states() == [FLAPPING]
    watch.restart()
    assert watch.states() == [FLAPPING]
    assert watch.history.availability(HOST, NOW, watch.now).share == pytest.approx(0.5, abs=0.01)
    half = watch.history.availability(HOST, NOW + 100 * STEP, NOW + 200 * STEP)
    assert half.share == pytest.approx(0.5, abs=0.01)
    assert half.known == pytest.approx(100 * STEP)


def test_flags_that_change_often_do_not_spoil_a_good_state(watch: Watch) -> None:
    for _ in range(50):
        watch.see(GOOD)
        watch.see(GOOD, flags="TP")
    assert watch.states() == [State.PROVEN]
    watch.see(SILENT)
    assert watch.states() == [State.PROVEN, State.FAILED]
    assert watch.history.availability(HOST, NOW, watch.now).share == pytest.approx(0.99)


def test_what_the_verdict_calls_flapping_is_shown_so(watch: Watch) -> None:
    watch.see(Cause.PROXY_FLAPPING, times=5)
    assert watch.states() == [FLAPPING]
    assert watch.history.availability(HOST, NOW, watch.now) == Availability(0, 4 * STEP)


def test_a_clock_that_is_set_back_leaves_what_was_seen_before(watch: Watch) -> None:
    watch.see(GOOD, times=40)
    end = watch.now
    watch.now = NOW + 20 * STEP
    watch.see(SILENT, times=5)
    assert watch.spans(until=end)[0] == Span(NOW, NOW + 20 * STEP, State.PROVEN, None, "AP")
    assert [span.state for span in watch.spans(until=end)] == [State.PROVEN, State.FAILED, State.PROVEN]
    watch.restart()
    assert [span.state for span in watch.spans(until=end)] == [State.PROVEN, State.FAILED, State.PROVEN]
    assert watch.history.availability(HOST, NOW, end).known == pytest.approx(39 * STEP)


def test_what_is_old_is_forgotten_but_not_by_a_clock_that_is_wrong(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PRUNE_INTERVAL", 0)
    watch.see(GOOD, times=10)
    watch.now += 30 * DAY
    watch.see(Cause.CLOCK_WRONG)
    assert watch.states()[0] == State.PROVEN
    watch.see(GOOD)
    watch.restart()
    assert watch.states()[0] is None


def round_trip(moment: float, seconds: float, **changes: Any) -> Destination:
    answer = Answer(moment, 200, "OK", moment, (), round_trip=seconds)
    return replace(destination(HOST, answer=answer), **changes)


def see_counters(
    watch: Watch, sent: int | None, answers: dict[int, int], loaded_at: float = NOW - 60, rtt: float = 0.02
) -> None:
    one = round_trip(watch.now, rtt, sent=sent, answers=answers)
    asked = kamailio(destinations=(one,), loaded_at=loaded_at)
    watch.history.note(evidence(taken_at=watch.now, kamailio=asked), verdict(GOOD))
    watch.now += STEP


def test_requests_survive_restarts_of_both_programs(watch: Watch) -> None:
    see_counters(watch, 1000, {200: 900, 403: 50})
    see_counters(watch, 1010, {200: 908, 403: 51})
    watch.restart()
    see_counters(watch, 1012, {200: 910, 403: 51})
    # Kamailio began anew, and has sent more than before, or less.
    see_counters(watch, 2000, {200: 1999}, loaded_at=watch.now - 3)
    see_counters(watch, 3, {200: 2}, loaded_at=watch.now - 3)
    assert watch.history.requests(NOW, watch.now) == {HOST: Requests(12 + 2000 + 3, 11 + 1999 + 2)}
    see_counters(watch, None, {})
    see_counters(watch, 7, {200: 6})
    watch.now += 3600
    see_counters(watch, 67, {200: 66})
    assert watch.history.requests(NOW, watch.now) == {HOST: Requests(2015, 2012)}
    assert watch.history.requests(NOW + DAY, NOW + 2 * DAY) == {}


def test_round_trips_are_summed_up_and_none_is_counted_twice(watch: Watch) -> None:
    for rtt in (0.010, 0.030):
        see_counters(watch, None, {}, rtt=rtt)
    again = round_trip(watch.now - STEP, 0.030)
    for _ in range(2):
        watch.history.note(evidence(taken_at=watch.now, kamailio=kamailio(destinations=(again,))), verdict(GOOD))
        watch.restart()
    begin = NOW - NOW % 300
    assert watch.history.round_trips(HOST, NOW, watch.now) == [RoundTrips(begin, 2, 0.01, 0.02, 0.03)]
    watch.now += 600
    see_counters(watch, None, {}, rtt=0.5)
    assert [item.count for item in watch.history.round_trips(HOST, NOW, watch.now)] == [2, 1]
    assert [item.high for item in watch.history.round_trips(HOST, NOW, watch.now, 3600)] == [0.5]
    assert watch.history.round_trips("nobody.example", NOW, watch.now) == []


def test_the_worst_week_stays_within_its_bounds(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four subjects of which nothing can be summed up, since each look finds another state after a pause."""
    times = 20
    most = history.MAX_SPANS // times
    monkeypatch.setattr(history, "MAX_SPANS", most)
    monkeypatch.setattr(history, "PRUNE_INTERVAL", 0)
    for number in range(700):
        cause = SILENT if number % 2 else GOOD
        said = [verdict(cause, host) for host in PROXIES]
        all_of_them = replace(said[0], destinations=tuple(one.destinations[0] for one in said))
        asked = kamailio(destinations=tuple(replace(round_trip(watch.now, 1.0), host=host) for host in PROXIES))
        watch.history.note(evidence(taken_at=watch.now, kamailio=asked), all_of_them)
        watch.now += history.CALM / history.BUSY + 1
    watch.history.close()
    with sqlite3.connect(watch.path) as database:
        assert database.execute("SELECT count(*) FROM span").fetchone() == (most,)
        (size,) = database.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    assert size * times < history.MAX_BYTES


def test_the_file_is_its_owners_alone(watch: Watch) -> None:
    watch.see(GOOD)
    files = list(watch.path.parent.iterdir())
    assert watch.path in files
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_readers_and_the_writer_do_not_disturb_each_other(watch: Watch) -> None:
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if None in [span.state for span in watch.history.timeline(HOST, NOW, NOW + 1)]:
                wrong.append("a hole")

    watch.see(GOOD)
    reader = threading.Thread(target=read)
    reader.start()
    watch.see(GOOD, SILENT, times=500)
    done.set()
    reader.join()
    assert wrong == watch.said == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


def test_a_full_disk_costs_no_history_while_the_probe_runs(small_disk: Path) -> None:
    watch = Watch(small_disk / "history.sqlite")
    watch.see(GOOD, times=10)
    ballast = fill(small_disk)
    for _ in range(60):
        watch.see(GOOD, times=70)
        watch.see(SILENT, times=70)
        see_counters(watch, None, {})
    assert watch.history.trouble
    assert "full" in watch.history.trouble
    assert watch.history.unwritten()
    # Said once, not at every gathering.
    assert len(watch.said) == 1
    before = watch.spans()
    assert len(before) > 60
    ballast.unlink()
    watch.see(SILENT)
    watch.see(GOOD)
    assert watch.history.trouble is None
    assert watch.history.unwritten() == 0
    assert len(watch.said) == 2
    watch.restart()
    assert watch.spans()[: len(before) - 1] == before[:-1]
    assert len(watch.history.round_trips(HOST, NOW, watch.now)) == 60
    watch.history.close()


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    ballast = fill(small_disk)
    watch = Watch(small_disk / "history.sqlite")
    watch.see(GOOD, SILENT, GOOD)
    assert watch.history.trouble
    assert watch.states() == [State.PROVEN, State.FAILED, State.PROVEN]
    ballast.unlink()
    watch.see(SILENT)
    assert watch.history.trouble is None
    watch.restart()
    assert watch.states() == [State.PROVEN, State.FAILED, State.PROVEN, State.FAILED]
    watch.history.close()


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "later" / "history.sqlite")
    watch.see(GOOD, SILENT)
    assert watch.history.trouble
    watch.path.parent.mkdir()
    watch.see(GOOD)
    watch.restart()
    assert watch.states() == [State.PROVEN, State.FAILED, State.PROVEN]
    watch.history.close()


def test_a_file_that_is_taken_away_is_written_anew(watch: Watch) -> None:
    watch.see(GOOD, times=3)
    for file in watch.path.parent.iterdir():
        file.unlink()
    watch.see(SILENT, GOOD)
    watch.restart()
    assert watch.states() == [State.PROVEN, State.FAILED, State.PROVEN]


def damaged(path: Path, chance: random.Random) -> None:
    """What a bad disk or a bad hand does to a file."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.3:
        content = content[: chance.randrange(len(content))]
    elif chance.random() < 0.1:
        content = bytearray(chance.randbytes(chance.randrange(1, 100_000)))
    else:
        for _ in range(chance.randrange(1, 8)):
            begin = chance.randrange(len(content))
            length = chance.choice((1, 16, 512, 4096))
            content[begin : begin + length] = chance.randbytes(length)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that a killed probe leaves: the newest of some hundred rows are in the log only."""
    path = tmp_path_factory.mktemp("killed") / "history.sqlite"
    child = os.fork()
    if not child:
        watch = Watch(path)
        for _ in range(100):
            watch.see(GOOD, times=30)
            watch.see(SILENT, times=30)
            see_counters(watch, None, {})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.with_name(path.name + "-wal").stat().st_size
    return path.parent


@pytest.mark.parametrize("seed", range(40))
def test_torn_files_are_survived(tmp_path: Path, killed: Path, seed: int) -> None:
    """It starts, goes on, and shows no time but that of the past: whole, or what is left of it, or anew."""
    chance = random.Random(seed)
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "history.sqlite"
    damaged(chance.choice([path, path, path.with_name(path.name + "-wal")]), chance)
    watch = Watch(path)
    watch.now = NOW + 2 * DAY
    watch.see(GOOD, SILENT, GOOD)
    assert watch.history.trouble is None
    spans = watch.spans(since=NOW - DAY)
    assert [span.state for span in spans][-3:] == [State.PROVEN, State.FAILED, State.PROVEN]
    assert all(before.end == span.begin for before, span in pairwise(spans))
    assert 0 <= (watch.history.availability(HOST, 0, watch.now).share or 0) <= 1
    assert all(item.count > 0 for item in watch.history.round_trips(HOST, 0, watch.now))
    watch.restart()
    assert watch.states()[-3:] == [State.PROVEN, State.FAILED, State.PROVEN]
    assert len(watch.said) == path.with_name(path.name + ".broken").exists()
    watch.history.close()


def test_a_broken_file_is_set_aside_within_bounds_and_said(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    for letter in (b"a", b"b"):
        path.write_bytes(letter * (history.MAX_BYTES + 5000))
        watch = Watch(path)
        watch.see(GOOD)
        watch.history.close()
        assert len(watch.said) == 1
        assert "begins anew" in watch.said[0]
    broken = path.with_name("history.sqlite.broken")
    assert broken.stat().st_size == history.MAX_BYTES
    assert broken.read_bytes()[:1] == b"b"
    assert {file.name for file in tmp_path.iterdir()} == {"history.sqlite", "history.sqlite.broken"}


def test_a_file_of_another_version_is_set_aside(watch: Watch) -> None:
    watch.history.close()
    with sqlite3.connect(watch.path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    watch.restart()
    assert len(watch.said) == 1
    assert "99" in watch.said[0]
    watch.see(GOOD)
    assert watch.history.unwritten() == 0


WRITER = """
import sys
sys.path[:0] = {path}
from pathlib import Path
from sbc_probe import history
from test_history import GOOD, SILENT, Watch
history.WRITE_INTERVAL = 0
watch = Watch(Path(sys.argv[1]))
watch.now = float(sys.argv[2])
while True:
    watch.see(GOOD, times=70)
    watch.see(SILENT, times=70)
    print(watch.now, flush=True)
"""


def test_kill_9_in_the_middle_of_writing(tmp_path: Path) -> None:
    """What was written before a kill is there after it, and the next probe goes on from there."""
    chance = random.Random(9)
    path, now = tmp_path / "history.sqlite", NOW
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER.format(path=sys.path), path, str(now)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        for _ in range(chance.randrange(1, 15)):
            now = float(writer.stdout.readline())
        writer.kill()
        now = max([now, *map(float, writer.stdout)])
        writer.wait()
        watch = Watch(path)
        watch.now = now
        assert watch.history.trouble is None
        assert watch.said == []
        states = [span.state for span in watch.history.timeline(HOST, NOW, now - STEP)]
        assert None not in states
        assert len(states) >= 2 * (now - NOW) / STEP / 140
        watch.history.close()


def test_nothing_secret_and_nothing_of_others_is_kept(watch: Watch) -> None:
    """Hosts, states and causes: no words of evidence, which may have addresses and names in them."""
    one = replace(round_trip(watch.now, 0.02), answer=answered(403, "Forbidden for somebody"))
    watch.history.note(evidence(taken_at=NOW, kamailio=kamailio(destinations=(one,))), verdict(Cause.PROXY_FORBIDS))
    watch.history.close()
    content = watch.path.read_bytes()
    assert b"proxy_forbids" in content
    assert b"somebody" not in content
    assert FQDN.encode() not in content
