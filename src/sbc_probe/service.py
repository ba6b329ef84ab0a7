"""The service: gathers the evidence in the background and serves the latest verdict over HTTP.

/             a page for people: why it is green, or why not, and what was the case in the last days
/healthz      200 while the probe works and its evidence is fresh, whatever the verdict; 503 when gathering hangs
/readyz       200 while this SBC is proven by fresh evidence; 503 and the cause when it is not
/status.json  the report of `sbc-probe check --json`
/metrics      Prometheus or OpenMetrics text

Whatever is served is made at most once for each gathering, whoever asks and however often. Of evidence that is no
longer fresh every answer says so by 503, and /metrics then shows the probe's own state only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sbc_probe import page
from sbc_probe.config import Config
from sbc_probe.evidence import collect
from sbc_probe.exposition import CollectorRegistry, ProcessCollector, choose_encoder
from sbc_probe.findings import State
from sbc_probe.history import History
from sbc_probe.journal import Changes
from sbc_probe.metrics import Observer, VerdictCollector, availabilities
from sbc_probe.model import Evidence
from sbc_probe.report import as_json
from sbc_probe.verdict import Verdict, aged, judge
from sbc_probe.web import Answer, Request, Server


def refresh_interval(config: Config) -> float:
    """Seconds from one gathering to the next: a few times for every ping, at most every 2 s, at least every 15 s."""
    return min(15.0, max(2.0, config.options_interval / 4))


def lifetime(config: Config) -> float:
    """Seconds after which evidence is no longer fresh."""
    return 3 * refresh_interval(config) + 15


class Monitor:
    """The latest evidence and verdict, and what is made of them for those who ask."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.changes = Changes(config.fqdn)
        self.history = History(Path(config.history), lapse=lifetime(config))
        self.observer = Observer()
        self.registry = CollectorRegistry()
        self.registry.register(VerdictCollector(self))
        ProcessCollector(registry=self.registry)
        self._lock = threading.Lock()
        self._made: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Gather the evidence anew, judge and remember it."""
        begin = time.monotonic()
        evidence = collect(self.config)
        verdict = judge(self.config, evidence)
        self.history.note(evidence, verdict)
        self.changes.note(verdict)
        # Before the lock: whoever asks need not wait for a disk.
        availability = availabilities(evidence, verdict, self.history)
        end = time.monotonic()
        with self._lock:
            self.observer.note(evidence, verdict, end - begin, availability)
            self._latest = evidence, verdict
            # By a clock that nobody sets: what is fresh must not depend on the one that is judged.
            self._gathered = end
            self._made.clear()

    def latest(self) -> tuple[Evidence, Verdict]:
        """The evidence and what it is worth by now."""
        evidence, verdict = self._latest
        return evidence, aged(verdict, time.monotonic() - self._gathered, lifetime(self.config))

    def summary(self) -> str:
        """What `systemctl status` shows."""
        return "; ".join([words(self._latest[1]), *filter(None, [self.history.trouble])])

    def is_fresh(self) -> bool:
        return time.monotonic() - self._gathered < lifetime(self.config)

    def page(self, still: bool) -> bytes:
        """The page for people; `still`: it does not load itself anew. What is not fresh ages with every look."""

        def make() -> bytes:
            return page.render(self.config, *self.latest(), self.history, time.time(), refresh=not still).encode()

        return self._once("page still" if still else "page", make) if self.is_fresh() else make()

    def status(self) -> bytes:
        return self._once(
            "status", lambda: (json.dumps(as_json(self.config, *self.latest()), indent=2) + "\n").encode()
        )

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text that somebody who accepts this wants."""
        encode, content_type = choose_encoder(accept)
        return content_type, self._once(content_type, lambda: encode(self.registry))

    def _once(self, what: str, make: Callable[[], bytes]) -> bytes:
        """What was made since the last gathering; what changes when evidence is no longer fresh is made again."""
        what += "" if self.is_fresh() else " stale"
        with self._lock:
            if what not in self._made:
                self._made[what] = make()
            return self._made[what]


def answer(monitor: Monitor, request: Request) -> Answer:
    """What somebody gets who asks for this."""
    fresh = monitor.is_fresh()
    code = 200 if fresh else 503
    match request.path:
        case "/":
            return Answer(code, monitor.page(still=request.query == "still"), "text/html; charset=utf-8")
        case "/healthz":
            return Answer(code, b"ok\n" if fresh else b"stale\n")
        case "/readyz":
            _, verdict = monitor.latest()
            proven = fresh and verdict.state is State.PROVEN
            return Answer(200 if proven else 503, f"{words(verdict) if fresh else 'stale'}\n".encode())
        case "/status.json":
            return Answer(code, monitor.status(), "application/json")
        case "/metrics":
            content_type, text = monitor.metrics(request.headers.get("accept", ""))
            return Answer(200, text, content_type)
        case _:
            return Answer(404, b"/ /healthz /readyz /status.json /metrics\n")


def words(verdict: Verdict) -> str:
    """The verdict in a word or two: its state and, if there is one, the cause."""
    return " ".join([verdict.state, *(finding.cause for finding in verdict.findings[:1])])


def notify(message: str) -> None:
    """Tell systemd something (sd_notify(3)); does nothing where no NOTIFY_SOCKET is given."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def serve(config: Config) -> None:
    """Run until ended by SIGTERM or SIGINT, and end well then: what is not written yet is written."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(config, stop)


def run(config: Config, stop: threading.Event) -> None:
    """Run until told to stop. READY is said once a first verdict can be served, WATCHDOG after each gathering.

    A gathering that fails by a fault of the probe's own is told to the journal, feeds no watchdog and is tried again.
    """
    monitor = Monitor(config)
    for address in config.listen_addresses:
        server = Server(address, partial(answer, monitor))
        # The interval is that of a look whether to shut down, which nobody asks of it: it ends with the process.
        threading.Thread(target=server.serve_forever, args=(3600,), name="http", daemon=True).start()
    notify(f"READY=1\nSTATUS={monitor.summary()}")
    while not stop.wait(refresh_interval(config)):
        try:
            monitor.refresh()
        except Exception:
            monitor.observer.failures += 1
            sys.excepthook(*sys.exc_info())
        else:
            notify(f"WATCHDOG=1\nSTATUS={monitor.summary()}")
    notify("STOPPING=1")
    monitor.history.close()
