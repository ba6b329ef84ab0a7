"""Debian's Prometheus and Alertmanager with the examples of monitoring/, and somebody who gets their messages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kamailio.beside import in_root
from tests.kamailio.running import REPOSITORY, ROOT

PROMETHEUS, ALERTMANAGER = 9190, 9193
needs_alertmanager = pytest.mark.skipif(
    not shutil.which("prometheus-alertmanager", path=f"{ROOT}/usr/bin"), reason="no Alertmanager in the root directory"
)


class Messages:
    """Somebody who gets webhooks."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        messages = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                messages.received.append((self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, destination: str, status: str) -> list[tuple[str, dict[str, Any]]]:
        """The alerts of this status about a proxy, each with the path that it came to."""
        return [
            (path, alert)
            for path, message in self.received
            for alert in message["alerts"]
            if (alert["status"], alert["labels"].get("destination")) == (status, destination)
        ]


@contextmanager
def watched(directory: Path, target: str, resolv_conf: Path) -> Iterator[Messages]:
    """Prometheus and Alertmanager watch the probe at a target; `directory` is theirs, below the root directory."""
    messages, inside = Messages(), Path("/") / directory.relative_to(ROOT)
    _hasten(directory, target, messages.server.server_address[1])
    with ExitStack() as stack:
        stack.callback(messages.server.server_close)
        stack.callback(messages.server.shutdown)
        for command in (
            ["prometheus", f"--config.file={inside}/prometheus.yml", f"--storage.tsdb.path={inside}/series",
             f"--web.listen-address=127.0.0.1:{PROMETHEUS}"],
            ["prometheus-alertmanager", f"--config.file={inside}/alertmanager.yml", f"--storage.path={inside}/alerts",
             f"--web.listen-address=127.0.0.1:{ALERTMANAGER}", "--cluster.listen-address="],
        ):  # fmt: skip
            with (directory / f"{command[0]}.log").open("wb") as log:
                process = subprocess.Popen(in_root(resolv_conf, *command), stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield messages


def _hasten(directory: Path, target: str, port: int) -> None:
    """The examples as they are, but for addresses and intervals: seconds instead of minutes."""
    shutil.copytree(REPOSITORY / "monitoring", directory, dirs_exist_ok=True)
    changes = {
        "prometheus.yml": [
            (r"_interval: 15s", "_interval: 1s"),
            (r"sbc1\.example\.com:9061", target),
            (r"127\.0\.0\.1:9093", f"127.0.0.1:{ALERTMANAGER}"),
        ],
        "alerts.yml": [(r"for: \d+[mh]", "for: 2s")],
        "alertmanager.yml": [
            (r"group_wait: \w+", "group_wait: 1s"),
            (r"group_interval: \w+", "group_interval: 2s"),
            (r"127\.0\.0\.1:9099", f"127.0.0.1:{port}"),
        ],
    }
    for name, edits in changes.items():
        text = (directory / name).read_text()
        for pattern, new in edits:
            text, count = re.subn(pattern, new, text)
            assert count, (name, pattern)
        (directory / name).write_text(text)
