"""From a proxy that goes away to a message: the probe, Debian's Prometheus and Alertmanager, our rules and examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kamailio.beside import Microsoft, cause, in_root, start_probe, surroundings
from tests.kamailio.running import FQDN, PROXIES, REPOSITORY, ROOT, Proxy, Start, needs_kamailio, wait_for

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

    def alerts(self, status: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, message in self.received:
            yield from ((path, alert) for alert in message["alerts"] if alert["status"] == status)


def hasten(directory: Path, port: int) -> None:
    """The examples as they are, but for addresses and intervals: seconds instead of minutes."""
    shutil.copytree(REPOSITORY / "monitoring", directory, dirs_exist_ok=True)
    changes = {
        "prometheus.yml": [
            (r"_interval: 15s", "_interval: 1s"),
            (r"sbc1\.example\.com:9061", "127.0.0.1:9061"),
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


@pytest.mark.full
@needs_kamailio
@needs_alertmanager
def test_a_proxy_that_goes_away_becomes_a_message(start: Start) -> None:
    sbc = start(sbc_options_interval=4)
    messages = Messages()
    hasten(sbc.directory, messages.server.server_address[1])
    inside = Path("/") / sbc.directory.relative_to(ROOT)
    with ExitStack() as stack:
        stack.callback(messages.server.shutdown)
        microsoft = Microsoft(sbc)
        stack.callback(microsoft.quiet.set)
        settings = stack.enter_context(surroundings(sbc))

        def run(process: subprocess.Popen[bytes]) -> None:
            stack.callback(process.wait)
            stack.callback(process.kill)

        run(start_probe(sbc, settings))
        assert wait_for(lambda: cause() == "proven", 60), cause()
        for command in (
            ["prometheus", f"--config.file={inside}/prometheus.yml", f"--storage.tsdb.path={inside}/series",
             f"--web.listen-address=127.0.0.1:{PROMETHEUS}"],
            ["prometheus-alertmanager", f"--config.file={inside}/alertmanager.yml", f"--storage.path={inside}/alerts",
             f"--web.listen-address=127.0.0.1:{ALERTMANAGER}", "--cluster.listen-address="],
        ):  # fmt: skip
            with (sbc.directory / f"{command[0]}.log").open("wb") as log:
                run(subprocess.Popen(in_root(sbc.directory / "resolv.conf", *command), stdout=log, stderr=log))

        sbc.proxies[1].close()
        sbc.proxies[1].hang_up()

        def told(status: str) -> list[tuple[str, dict[str, Any]]]:
            return [
                (path, alert)
                for path, alert in messages.alerts(status)
                if alert["labels"].get("destination") == PROXIES[1]
            ]

        assert wait_for(lambda: bool(told("firing")), 90), messages.received
        path, alert = told("firing")[0]
        assert path == "/ticket"
        assert alert["labels"]["alertname"] == "SbcProxyGone"
        assert (alert["labels"]["customer"], alert["labels"]["fqdn"]) == ("contoso", FQDN)
        assert alert["annotations"]["summary"] == (
            f"contoso: {PROXIES[1]} is gone, others take the calls: proxy_unreachable"
        )
        assert alert["annotations"]["next_step"].startswith("Nothing listens there")
        assert alert["annotations"]["runbook"].startswith("docs/")

        again = Proxy(PROXIES[1], sbc.directory)
        stack.callback(again.close)
        assert wait_for(lambda: bool(told("resolved")), 90), messages.received
        assert {path for path, _ in messages.received} == {"/ticket"}, messages.received
