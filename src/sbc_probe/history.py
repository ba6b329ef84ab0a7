"""What was the case and when: the history of verdicts and round trips, in SQLite, in bounded space.

Two kinds of facts are kept for `keep` seconds. A span says that a subject (a proxy's host, or "" for the SBC) was in
one state from one gathering to another; it is written once and its end is moved on. A bucket sums up the round trips
and requests of five minutes for one proxy. Time in which nobody watched has no span.

Bounded whatever happens: more than BUSY spans within CALM seconds become one span "flapping" that knows how much of it
was proven; beyond that the oldest rows go (MAX_SPANS, MAX_BUCKETS), and the file never exceeds MAX_BYTES, of which a
quiet week needs a twentieth. A file that is broken is set aside once, at most as long as that.

Written every WRITE_INTERVAL seconds and when a state changes, as one transaction in a write-ahead log with synchronous
NORMAL: its frames have checksums, so that a torn one is dropped, and nothing waits for the disk but the checkpoint
every few hundred kB. A killed probe loses half a minute, a power cut what the kernel had not written, neither the rest.
What cannot be written stays in memory, newest first, and is written when there is room again.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from sbc_probe.findings import Cause, State
from sbc_probe.model import Destination, Evidence, Kamailio
from sbc_probe.verdict import Verdict

FLAPPING: Literal["flapping"] = "flapping"
KEEP = 8 * 86400.0
BUCKET = 300
WRITE_INTERVAL = 30.0
PRUNE_INTERVAL = 3600.0
BUSY, CALM = 6, 900.0
MAX_SPANS = 20_000
MAX_BUCKETS = 20_000
MAX_BYTES = 8 << 20
PAGE = 4096
# What is kept in memory while nothing can be written: a day of a proxy's buckets, and as many spans.
MAX_UNWRITTEN = 1000
VERSION = 1
SCHEMA = f"""
    PRAGMA user_version = {VERSION};
    CREATE TABLE span (
        id INTEGER PRIMARY KEY, subject TEXT NOT NULL, begin REAL NOT NULL, end REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ({", ".join(f"'{state}'" for state in (*State, FLAPPING))})),
        cause TEXT, flags TEXT, proven REAL NOT NULL, known REAL NOT NULL, turns INTEGER NOT NULL,
        CHECK (begin > 0 AND begin <= end AND end < 1e11 AND proven >= 0)
    ) STRICT;
    CREATE TABLE bucket (
        host TEXT, at INTEGER, sent INTEGER NOT NULL, answered INTEGER NOT NULL,
        count INTEGER NOT NULL, total REAL NOT NULL, low REAL, high REAL, PRIMARY KEY (host, at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE mark (
        host TEXT PRIMARY KEY, at REAL NOT NULL, loaded_at REAL NOT NULL, sent INTEGER, answered INTEGER, answer_at REAL
    ) STRICT, WITHOUT ROWID;
"""
SPAN_COLUMNS = "subject, begin, end, state, cause, flags, proven, known, turns, id"
# What passes by itself, or by other hands. Everything else that SQLite says means that the file is of no use.
PASSING = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

Words = tuple[str, str | None, str | None]


class _BrokenError(Exception):
    """The file is no history; the text says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin` to `end` the subject was in this state; None: nobody watched.

    `turns` counts the changes within it where they were too many to be kept one by one.
    """

    begin: float
    end: float
    state: State | Literal["flapping"] | None
    cause: str | None = None
    flags: str | None = None
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Availability:
    """`known` seconds of a window have a verdict, and `share` of those was proven; None: none has."""

    share: float | None
    known: float


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """The round trips (s) of the OPTIONS whose answer came within one step that begins at `at`."""

    at: float
    count: int
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Requests:
    """Our OPTIONS to one proxy, and the answers to them, whatever their code."""

    sent: int
    answered: int


@dataclass(slots=True, eq=False)
class _Row:
    """A span as it is kept: `known` and `proven` are the seconds of it that count for the availability."""

    subject: str
    begin: float
    end: float
    state: str
    cause: str | None
    flags: str | None
    proven: float = 0.0
    known: float = 0.0
    turns: int = 0
    id: int | None = None
    dirty: bool = True

    def extend(self, until: float, state: str) -> None:
        """Move its end on, the time in between being in this state."""
        if state != State.UNKNOWN:
            self.known += until - self.end
        if state == State.PROVEN:
            self.proven += until - self.end
        self.end = until
        self.dirty = True

    def split(self, moment: float, words: Words) -> _Row:
        """Cut off what comes after this moment, since when it was in one state only."""
        rest = _Row(self.subject, moment, moment, *words)
        rest.extend(self.end, words[0])
        self.end = moment
        self.proven = max(0.0, self.proven - rest.proven)
        self.known = max(0.0, self.known - rest.known)
        return rest

    def share(self, since: float, until: float) -> float:
        """How much of it lies within these times."""
        if self.end == self.begin:
            return 0.0
        return max(0.0, min(self.end, until) - max(self.begin, since)) / (self.end - self.begin)


@dataclass(slots=True)
class _Subject:
    """The latest spans of a subject, and what was last said of it and since when."""

    rows: list[_Row] = field(default_factory=list)
    said: Words | None = None
    since: float = 0.0


@dataclass(slots=True)
class _Bucket:
    """What has happened in five minutes and is not written yet."""

    sent: int = 0
    answered: int = 0
    count: int = 0
    total: float = 0.0
    low: float | None = None
    high: float | None = None

    def measure(self, seconds: float) -> None:
        """Count one round trip."""
        self.add(_Bucket(count=1, total=seconds, low=seconds, high=seconds))

    def add(self, other: _Bucket) -> None:
        """Count what the other has counted."""
        self.sent += other.sent
        self.answered += other.answered
        self.count += other.count
        self.total += other.total
        self.low = min((low for low in (self.low, other.low) if low is not None), default=None)
        self.high = max((high for high in (self.high, other.high) if high is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Kamailio's counters and the moment of the last answer, when they were last read."""

    at: float
    loaded_at: float
    sent: int | None
    answered: int | None
    answer_at: float | None


def _say(text: str) -> None:
    print(f"history: {text}", file=sys.stderr, flush=True)


class History:
    """The history in the file `path`. A pause of more than `lapse` seconds between two gatherings is a gap.

    Nothing here raises: what is wrong with the file stands in `trouble`, and is told to `say` (the journal) once.
    """

    def __init__(self, path: Path, keep: float = KEEP, lapse: float = 60.0, say: Callable[[str], None] = _say) -> None:
        self.path = path
        self.keep = keep
        self.lapse = lapse
        self.trouble: str | None = None
        self.written_at: float | None = None
        self._say = say
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._subjects: dict[str, _Subject] = {}
        self._buckets: dict[tuple[str, int], _Bucket] = {}
        self._marks: dict[str, _Mark] = {}
        self._gone: set[int] = set()
        self._next = 1
        self._due = -math.inf
        self._prune_due = -math.inf
        with self._lock:
            self._attempt(self._open)

    # Writing

    def note(self, evidence: Evidence, verdict: Verdict) -> None:
        """Take down what one gathering has found; its time is that of the evidence."""
        now = evidence.taken_at
        primary = verdict.findings[0].cause if verdict.findings else None
        said: dict[str, Words] = {"": _words(verdict.state, primary, None)}
        for item in verdict.destinations:
            cause = item.finding.cause if item.finding else None
            said[item.destination.host] = _words(item.state, cause, item.destination.flags or None)
        with self._lock:
            changed = [self._note_state(subject, words, now) for subject, words in said.items()]
            if isinstance(evidence.kamailio, Kamailio):
                for destination in evidence.kamailio.destinations:
                    self._note_requests(destination, evidence.kamailio.loaded_at, now)
            # Monotonic: a clock that is moved must not put off the writing.
            if any(changed) or time.monotonic() >= self._due:
                # By a clock that is wrong everything may look old.
                self._write(None if Cause.CLOCK_WRONG in {finding.cause for finding in verdict.findings} else now)

    def close(self) -> None:
        """Write what is left and let go of the file."""
        with self._lock:
            self._write(None)
            if self._database:
                with contextlib.suppress(sqlite3.Error):
                    self._database.close()
            self._database = None

    def unwritten(self) -> int:
        """How many rows wait for room on the disk."""
        with self._lock:
            return sum(row.dirty for kept in self._subjects.values() for row in kept.rows) + len(self._buckets)

    def size(self) -> int | None:
        """Bytes on disk, the log included; None: there is no file."""
        try:
            return sum(
                os.stat(file).st_size
                for file in (self.path, self._beside("-wal"))
                if file == self.path or file.exists()
            )
        except OSError:
            return None

    def _note_state(self, subject: str, words: Words, now: float) -> bool:
        """Extend the subject's span or begin another; True: it is another state than before."""
        kept = self._subjects.setdefault(subject, _Subject())
        last = kept.rows[-1] if kept.rows else None
        before, kept.said = kept.said, words
        if before != words:
            kept.since = now
        if last is None or not 0 <= now - last.end <= self.lapse:
            # Nobody watched, or the clock was set back: nothing is said of the time in between.
            self._append(kept, _Row(subject, now, now, *words))
            return True
        if last.turns and before and last.state in (FLAPPING, words[0]):
            # What lies between two gatherings counts as proven only if both say so.
            last.extend(now, words[0] if words[0] != State.PROVEN else before[0])
            last.turns += before != words
            last.cause = words[1] or last.cause
            if now - kept.since >= CALM:
                self._append(kept, last.split(kept.since, words))
            return before != words
        if (last.state, last.cause, last.flags) == words:
            last.extend(now, words[0])
            return False
        if words[0] == State.PROVEN:
            last.extend(now, last.state)
        self._append(kept, _Row(subject, last.end, last.end, *words))
        kept.rows[-1].extend(now, words[0])
        self._merge(kept, now)
        return True

    def _append(self, kept: _Subject, row: _Row) -> None:
        if self._database:
            row.id, self._next = self._next, self._next + 1
        kept.rows.append(row)
        del kept.rows[:-MAX_UNWRITTEN]

    def _merge(self, kept: _Subject, now: float) -> None:
        """Make one span of the latest ones if there are too many to be kept."""
        recent = [kept.rows[-1]]
        for row in reversed(kept.rows[:-1]):
            if row.begin <= now - CALM or not 0 <= recent[0].begin - row.end < 0.001:
                break
            recent.insert(0, row)
        if len(recent) <= BUSY:
            return
        first, *others = recent
        first.state = first.state if len({row.state for row in recent}) == 1 else FLAPPING
        first.cause = next((row.cause for row in reversed(recent) if row.cause), None)
        first.flags = None
        first.end = others[-1].end
        first.proven = sum(row.proven for row in recent)
        first.known = sum(row.known for row in recent)
        first.turns = sum(row.turns for row in recent) + len(others)
        first.dirty = True
        self._gone.update(row.id for row in others if row.id is not None)
        del kept.rows[-len(others) :]

    def _note_requests(self, destination: Destination, loaded_at: float, now: float) -> None:
        """Count what Kamailio's counters have gained, and the round trip of an answer that is new."""
        host, answer = destination.host, destination.answer
        answered = None if destination.sent is None else sum(destination.answers.values())
        mark = self._marks.get(host)
        self._marks[host] = _Mark(now, loaded_at, destination.sent, answered, answer.at if answer else None)
        if answer and answer.round_trip is not None and (mark is None or mark.answer_at != answer.at):
            self._bucket(host, answer.at).measure(answer.round_trip)
        if mark is None or not 0 <= now - mark.at <= self.lapse:
            return
        if destination.sent is None or answered is None or mark.sent is None or mark.answered is None:
            return
        # Counters begin at 0 with Kamailio, whose start may be known to a few seconds only.
        anew = abs(loaded_at - mark.loaded_at) > 5 or destination.sent < mark.sent
        bucket = self._bucket(host, now)
        bucket.sent += destination.sent - (0 if anew else mark.sent)
        bucket.answered += max(0, answered - (0 if anew else mark.answered))

    def _bucket(self, host: str, moment: float) -> _Bucket:
        at = int(moment) // BUCKET * BUCKET
        if (host, at) not in self._buckets and len(self._buckets) >= MAX_UNWRITTEN:
            del self._buckets[next(iter(self._buckets))]
        return self._buckets.setdefault((host, at), _Bucket())

    # The file

    def _write(self, now: float | None) -> None:
        """Write what is not written yet; `now`: forget what is too old by this clock."""
        self._due = time.monotonic() + WRITE_INTERVAL
        if self._database is None:
            self._attempt(self._open)
        if self._database:
            self._attempt(lambda: self._store(now))

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Do something with the file; if it is broken, begin another one."""
        try:
            action()
        except (sqlite3.Error, OSError, _BrokenError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            broken = isinstance(error, _BrokenError) or (
                isinstance(error, sqlite3.Error) and (code is None or code & 0xFF not in PASSING)
            )
            if code != sqlite3.SQLITE_FULL:
                self._let_go()
            if not broken:
                self._complain(f"{self.path} cannot be used now, the newest is kept in memory: {error}")
                return False
            try:
                self._set_aside()
                self._say(f"{self.path} was broken ({error}); it is {self._beside('.broken')} now, history begins anew")
                self._open()
            except (sqlite3.Error, OSError, _BrokenError) as again:
                self._let_go()
                self._complain(f"{self.path} is broken ({error}) and cannot be replaced: {again}")
            return False
        return True

    def _complain(self, trouble: str) -> None:
        if self.trouble is None:
            self._say(trouble)
        self.trouble = trouble

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _let_go(self) -> None:
        if self._database:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
        self._database = None

    def _set_aside(self) -> None:
        self._let_go()
        for ending in ("-wal", "-shm", "-journal"):
            self._beside(ending).unlink(missing_ok=True)
        broken = self._beside(".broken")
        self.path.replace(broken)
        if broken.stat().st_size > MAX_BYTES:
            os.truncate(broken, MAX_BYTES)

    def _open(self) -> None:
        """Open the file or make it, see that it is whole, and learn what was last written."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(
            self.path, timeout=1, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            self._prepare(database)
            self._learn(database)
        except BaseException:
            database.close()
            raise
        self._database = database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.text_factory = lambda text: text.decode(errors="replace")
        # Nobody else reads it, so that the log needs no shared memory beside it.
        for setting in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "cache_size = -256",
            "wal_autocheckpoint = 64",
            f"journal_size_limit = {64 * PAGE}",
            f"max_page_count = {MAX_BYTES // PAGE}",
        ):
            database.execute(f"PRAGMA {setting}").fetchall()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and not tables:
            with self._transaction(database):
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
            for kept in self._subjects.values():
                for row in kept.rows:
                    row.dirty = True
        elif version != VERSION:
            raise _BrokenError(f"version {version} is not known")
        elif pages > MAX_BYTES // PAGE:
            raise _BrokenError(f"{pages} pages are more than it ever has")
        elif (flaws := database.execute("PRAGMA quick_check(1)").fetchall()) != [("ok",)]:
            raise _BrokenError(str(flaws[0][0]).replace("\n", " "))

    def _learn(self, database: sqlite3.Connection) -> None:
        (highest,) = database.execute("SELECT coalesce(max(id), 0) FROM span").fetchone()
        known = [row for kept in self._subjects.values() for row in kept.rows]
        self._next = max([highest, *(row.id for row in known if row.id)]) + 1
        for row in known:
            if row.id is None:
                row.id, self._next = self._next, self._next + 1
        for (subject,) in database.execute("SELECT DISTINCT subject FROM span").fetchall():
            if subject not in self._subjects:
                last = "SELECT * FROM span WHERE subject = ? ORDER BY id DESC LIMIT ?"
                rows = database.execute(f"SELECT {SPAN_COLUMNS} FROM ({last}) ORDER BY id", (subject, BUSY + 1))
                self._subjects[subject] = _Subject([replace(_Row(*values), dirty=False) for values in rows])
        for host, *values in database.execute("SELECT host, at, loaded_at, sent, answered, answer_at FROM mark"):
            self._marks.setdefault(host, _Mark(*values))

    @contextlib.contextmanager
    def _transaction(self, database: sqlite3.Connection) -> Iterator[None]:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def _store(self, now: float | None) -> None:
        database = self._database
        assert database
        # A file that somebody took away would be written to for ever, and be gone with this process.
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} was taken away")
        rows = [row for kept in self._subjects.values() for row in kept.rows if row.dirty]
        prune = now is not None and time.monotonic() >= self._prune_due
        with self._transaction(database):
            database.executemany("DELETE FROM span WHERE id = ?", [(number,) for number in self._gone])
            database.executemany(
                f"INSERT OR REPLACE INTO span ({SPAN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (r.subject, r.begin, r.end, r.state, r.cause, r.flags, r.proven, r.known, r.turns, r.id)
                    for r in rows
                ],
            )
            database.executemany(
                """INSERT INTO bucket VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                sent = sent + excluded.sent, answered = answered + excluded.answered,
                count = count + excluded.count, total = total + excluded.total,
                low = min(coalesce(low, excluded.low), coalesce(excluded.low, low)),
                high = max(coalesce(high, excluded.high), coalesce(excluded.high, high))""",
                [
                    (host, at, b.sent, b.answered, b.count, b.total, b.low, b.high)
                    for (host, at), b in self._buckets.items()
                ],
            )
            database.executemany(
                "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?, ?)",
                [(host, m.at, m.loaded_at, m.sent, m.answered, m.answer_at) for host, m in self._marks.items()],
            )
            if prune and now is not None:
                self._prune(database, now)
        if prune:
            self._prune_due = time.monotonic() + PRUNE_INTERVAL
        for kept in self._subjects.values():
            for row in kept.rows:
                row.dirty = False
            del kept.rows[: -BUSY - 1]
        self._gone.clear()
        self._buckets.clear()
        self.written_at = time.time()
        if self.trouble:
            self._say(f"{self.path} is written again")
        self.trouble = None

    def _prune(self, database: sqlite3.Connection, now: float) -> None:
        """Forget what is too old, or too far ahead as after a wrong clock, and the oldest of what is too much."""
        oldest, furthest = now - self.keep, now + self.keep
        database.execute("DELETE FROM span WHERE end < ? OR begin > ?", (oldest, furthest))
        database.execute("DELETE FROM bucket WHERE at < ? OR at > ?", (oldest - BUCKET, furthest))
        database.execute("DELETE FROM mark WHERE at < ? OR at > ?", (oldest, furthest))
        for table, key, most in (("span", "id", MAX_SPANS), ("bucket", "at", MAX_BUCKETS)):
            database.execute(
                f"DELETE FROM {table} WHERE {key} <= (SELECT {key} FROM {table} ORDER BY {key} DESC LIMIT 1 OFFSET ?)",
                (most,),
            )

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []

        def read() -> None:
            if self._database:
                found.extend(self._database.execute(query, values))

        return found if self._attempt(read) else []

    # Reading

    def timeline(self, subject: str, since: float, until: float) -> list[Span]:
        """What was the case from `since` to `until`, without a hole: a proxy's host, or "" for the SBC.

        It ends with the last gathering, unless that is so long ago that nobody watches any more.
        """
        spans: list[Span] = []
        last = since
        for begin, end, row in self._pieces(subject, since, until):
            if begin - last > 1:
                spans.append(Span(last, begin, None))
            state = FLAPPING if row.state == FLAPPING else State(row.state)
            spans.append(Span(begin, end, state, row.cause, row.flags, row.turns))
            last = end
        if until - last > self.lapse:
            spans.append(Span(last, until, None))
        return spans

    def availability(self, subject: str, since: float, until: float) -> Availability:
        """How much of the time of which there is a verdict other than `unknown` was proven."""
        return _share(self._pieces(subject, since, until), since)

    def availabilities(self, subject: str, until: float, windows: Mapping[str, float]) -> dict[str, Availability]:
        """The same for windows of so many seconds that end at one moment, by one look."""
        pieces = self._pieces(subject, until - max(windows.values()), until)
        return {name: _share(pieces, until - seconds) for name, seconds in windows.items()}

    def round_trips(self, host: str, since: float, until: float, step: float = BUCKET) -> list[RoundTrips]:
        """The round trips of one proxy, summed up in steps (s, at least five minutes) that have any."""
        step = max(step, BUCKET)
        steps: dict[float, _Bucket] = {}
        for where, at, bucket in self._sums(since, until):
            if where == host and bucket.count:
                steps.setdefault(at // step * step, _Bucket()).add(bucket)
        return [
            RoundTrips(at, b.count, b.low, b.total / b.count, b.high)
            for at, b in sorted(steps.items())
            if b.low is not None and b.high is not None
        ]

    def requests(self, since: float, until: float) -> dict[str, Requests]:
        """Our OPTIONS by proxy. What Kamailio sent while nobody watched is not among them."""
        hosts: dict[str, _Bucket] = {}
        for host, _, bucket in self._sums(since, until):
            hosts.setdefault(host, _Bucket()).add(bucket)
        return {host: Requests(bucket.sent, bucket.answered) for host, bucket in sorted(hosts.items())}

    def _pieces(self, subject: str, since: float, until: float) -> list[tuple[float, float, _Row]]:
        """The spans within these times, in order. Where two overlap, as after a wrong clock, the later word counts."""
        with self._lock:
            kept = self._subjects.get(subject, _Subject()).rows
            shown = {row.id for row in kept} | self._gone
            query = f"SELECT {SPAN_COLUMNS} FROM span WHERE subject = ? AND end >= ? AND begin <= ? ORDER BY id"
            rows = [_Row(*values) for values in self._select(query, subject, since, until) if values[-1] not in shown]
            rows += [replace(row) for row in kept]
        if all(row.begin >= before.end for before, row in pairwise(rows)):
            bounded = [(max(since, row.begin), min(until, row.end), row) for row in rows]
            return [piece for piece in bounded if piece[0] <= piece[1]]
        pieces: list[tuple[float, float, _Row]] = []
        # What the later rows, which come first here, leave uncovered.
        holes = [(since, until)]
        for row in reversed(rows):
            left = []
            for begin, end in holes:
                if row.end <= begin or row.begin >= end:
                    left.append((begin, end))
                    continue
                pieces.append((max(begin, row.begin), min(end, row.end), row))
                if row.begin > begin:
                    left.append((begin, row.begin))
                if row.end < end:
                    left.append((row.end, end))
            holes = left
        return sorted(pieces, key=itemgetter(0))

    def _sums(self, since: float, until: float) -> list[tuple[str, int, _Bucket]]:
        """The buckets that begin within these times, those that are not written yet among them."""
        with self._lock:
            query = "SELECT host, at, sent, answered, count, total, low, high FROM bucket WHERE at BETWEEN ? AND ?"
            found = self._select(query, since - since % BUCKET, until)
            unwritten = [(host, at, replace(bucket)) for (host, at), bucket in self._buckets.items()]
        return [(host, at, _Bucket(*values)) for host, at, *values in found] + [
            (host, at, bucket) for host, at, bucket in unwritten if since - since % BUCKET <= at <= until
        ]


def _words(state: State, cause: str | None, flags: str | None) -> Words:
    return (FLAPPING if cause == Cause.PROXY_FLAPPING else str(state)), cause and str(cause), flags


def _share(pieces: Iterable[tuple[float, float, _Row]], since: float) -> Availability:
    proven = known = 0.0
    for begin, end, row in pieces:
        if end > since:
            share = row.share(max(begin, since), end)
            proven += share * row.proven
            known += share * row.known
    return Availability(min(1.0, proven / known) if known > 0 else None, known)
