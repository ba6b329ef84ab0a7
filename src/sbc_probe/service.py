"""The service: gathers the evidence in the background and serves the latest verdict over HTTP on loopback.

/healthz      200 while the evidence is fresh, whatever the verdict; 503 when gathering it hangs
/status.json  the report of `sbc-probe check --json`
/metrics      Prometheus or OpenMetrics text
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sbc_probe.config import Config
from sbc_probe.evidence import collect
from sbc_probe.journal import Changes
from sbc_probe.metrics import VerdictCollector
from sbc_probe.model import Evidence
from sbc_probe.report import as_json
from sbc_probe.verdict import Verdict, judge


def refresh_interval(config: Config) -> float:
    """Seconds from one gathering to the next: a few times for every ping, at most every 2 s, at least every 15 s."""
    return min(15.0, max(2.0, config.options_interval / 4))


class Monitor:
    """The latest evidence and verdict."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.changes = Changes(config.fqdn)
        self.refresh()

    def refresh(self) -> None:
        """Gather the evidence anew and judge it."""
        evidence = collect(self.config)
        self._latest = evidence, judge(self.config, evidence)
        self.changes.note(self._latest[1])

    def latest(self) -> tuple[Evidence, Verdict]:
        return self._latest

    def is_fresh(self) -> bool:
        return time.time() - self._latest[0].taken_at < 3 * refresh_interval(self.config) + 15


class Server(ThreadingHTTPServer):
    """HTTP on loopback for one Monitor."""

    daemon_threads = True

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor.config.listen_address, Handler)
        self.monitor = monitor
        self.registry = CollectorRegistry()
        self.registry.register(VerdictCollector(monitor.latest))


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = 10

    def do_GET(self) -> None:
        monitor = self.server.monitor
        match self.path.partition("?")[0]:
            case "/healthz":
                fresh = monitor.is_fresh()
                self._send(200 if fresh else 503, "text/plain; charset=utf-8", b"ok\n" if fresh else b"stale\n")
            case "/status.json":
                body = json.dumps(as_json(monitor.config, *monitor.latest()), indent=2) + "\n"
                self._send(200, "application/json", body.encode())
            case "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._send(200, content_type, encode(self.server.registry))
            case _:
                self._send(404, "text/plain; charset=utf-8", b"/healthz /status.json /metrics\n")

    def _send(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: every scrape would be a line in the journal."""


def notify(message: str) -> None:
    """Tell systemd something (sd_notify(3)); does nothing where no NOTIFY_SOCKET is given."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def serve(config: Config) -> None:
    """Run until ended by a signal. READY is said once a first verdict can be served, WATCHDOG after each gathering."""
    monitor = Monitor(config)
    server = Server(monitor)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    notify("READY=1")
    while True:
        time.sleep(refresh_interval(config))
        monitor.refresh()
        notify(f"WATCHDOG=1\nSTATUS={monitor.latest()[1].state}")
