"""The service over real HTTP, on evidence made by hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from by_hand import CLOSED, CONFIG, NOW, PROXIES, SILENT, answered, destination, evidence, kamailio, theirs
from prometheus_client.parser import text_string_to_metric_families

from sbc_probe import service, web
from sbc_probe.history import History
from sbc_probe.model import Clock, Connection, Evidence, Lookup, Memory, PacketFilter, Renewal, Unread


class Running:
    """A served Monitor whose next evidence is `evidence`."""

    def __init__(self) -> None:
        self.evidence = evidence()
        self.monitor: service.Monitor
        self.server: web.Server
        self.port = 0

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode()

    def get(self, path: str) -> tuple[int, str, str]:
        code, headers, body = self.ask(path)
        return code, headers["Content-Type"], body

    def samples(self, found: Evidence) -> dict[tuple[str, ...], float]:
        """The metrics as `(name, label values in the order of their labels' names)` to value."""
        self.evidence = found
        self.monitor.refresh()
        families = text_string_to_metric_families(self.get("/metrics")[2])
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    running = Running()
    monkeypatch.setattr(service, "collect", lambda config: running.evidence)
    monkeypatch.setattr("time.time", lambda: NOW)
    running.monitor = service.Monitor(replace(CONFIG, history=str(tmp_path / "history.sqlite")))
    running.server = server = web.Server(("127.0.0.1", 0), partial(service.answer, running.monitor))
    running.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    thread.join()
    running.monitor.history.close()


def test_status_is_the_report(running: Running) -> None:
    code, content_type, body = running.get("/status.json?now")
    assert (code, content_type) == (200, "application/json")
    assert json.loads(body)["overall"]["state"] == "proven"


def grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "lifetime", lambda config: -1.0)


def test_health_is_that_of_the_probe_not_of_the_sbc(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.evidence = evidence(kamailio=Unread("no socket"), port=CLOSED)
    running.monitor.refresh()
    assert running.get("/healthz")[::2] == (200, "ok\n")
    # A clock that is moved makes no evidence old or new.
    monkeypatch.setattr("time.time", lambda: NOW + 86400)
    assert running.get("/healthz")[0] == 200
    grow_old(monkeypatch)
    assert running.get("/healthz")[::2] == (503, "stale\n")


def test_readiness_is_that_of_the_sbc(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert running.get("/readyz")[::2] == (200, "proven\n")
    running.evidence = evidence(kamailio=Unread("no socket"), port=CLOSED)
    running.monitor.refresh()
    assert running.get("/readyz")[::2] == (503, "failed kamailio_down\n")
    running.evidence = evidence()
    running.monitor.refresh()
    grow_old(monkeypatch)
    assert running.get("/readyz")[::2] == (503, "stale\n")


def test_old_evidence_proves_nothing_to_anybody(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'sbc_state{state="proven"} 1.0' in running.get("/metrics")[2]
    grow_old(monkeypatch)
    assert running.get("/status.json")[0] == running.get("/")[0] == 503
    code, _, text = running.get("/metrics")
    assert code == 200
    assert "sbc_evidence_timestamp_seconds" in text
    assert "sbc_state" not in text


def test_the_page_is_for_people_and_closed_to_scripts(running: Running) -> None:
    code, headers, body = running.ask("/")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in headers["Server"]
    assert CONFIG.fqdn in body


def test_the_page_loads_itself_anew_unless_asked_to_stand_still(running: Running) -> None:
    for _ in range(2):
        assert 'http-equiv="refresh"' in running.get("/")[2]
        assert 'http-equiv="refresh"' not in running.get("/?still")[2]


def test_the_page_never_shows_what_is_old_as_if_it_were_so_now(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "<h1>PROVEN</h1>" in running.get("/")[2]
    grow_old(monkeypatch)
    for minutes in (10, 20):
        monkeypatch.setattr("time.time", lambda ago=minutes: NOW + 60 * ago)
        page = running.get("/")[2]
        assert "<h1>NOT YET KNOWN</h1>" in page
        assert f"<b>{minutes} min ago</b>" in page


def test_anything_else_is_not_found(running: Running) -> None:
    assert running.get("/favicon.ico")[0] == 404
    assert running.get("/../etc/passwd")[0] == 404


def test_head_gives_the_same_without_a_body(running: Running) -> None:
    for path in ("/", "/healthz", "/readyz", "/status.json", "/metrics", "/nothing"):
        code, headers, body = running.ask(path)
        without = running.ask(path, "HEAD")
        assert without[0] == code
        assert without[1]["Content-Length"] == headers["Content-Length"] == str(len(body.encode()))
        assert without[2] == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(running: Running, method: str) -> None:
    code, headers, _ = running.ask("/status.json", method)
    assert code == 405
    assert headers["Allow"] == "GET, HEAD"


def test_a_fault_of_one_answer_leaves_the_others(
    running: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sbc_probe.page.render", lambda *_, **__: 1 / 0)
    assert running.get("/")[0] == 500
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert running.get("/status.json")[0] == running.get("/metrics")[0] == 200


def test_what_is_served_is_made_once_for_a_gathering(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def render(*given: object, **_: object) -> str:
        made.append(given)
        return "a page"

    monkeypatch.setattr("sbc_probe.page.render", render)
    for _ in range(5):
        running.get("/")
    running.monitor.refresh()
    running.get("/")
    assert len(made) == 2


def test_slow_clients_do_not_keep_others_out(running: Running) -> None:
    """Clients that never end their request, never begin it, or never read: more of them than are served at once."""
    with contextlib.ExitStack() as stack:
        slow = []
        for number in range(5 * web.CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
            client.sendall([b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"][number % 3])
            slow.append(client)
        assert running.get("/healthz")[0] == 200
        assert running.get("/status.json")[0] == 200
        # The first of them was hung up on.
        assert slow[0].recv(100) == b""
        assert threading.active_count() < 3 * web.CONNECTIONS
        assert len(running.server.connections) <= web.CONNECTIONS


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"\x16\x03\x01\x02\x00" * 40 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/2\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000, b"405"),
    ],
)
def test_garbage_is_refused(running: Running, garbage: bytes, code: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(garbage)
        assert client.recv(4096).startswith(b"HTTP/1.1 " + code)
    assert running.get("/healthz")[0] == 200


def test_a_request_may_come_in_pieces(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n":
            client.sendall(bytes([byte]))
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_client_has_only_so_much_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert client.recv(100) == b""


def test_openmetrics_for_those_who_want_them(running: Running) -> None:
    _, headers, body = running.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")
    assert running.get("/metrics")[1].startswith("text/plain; version=0.0.4")


def test_the_service_is_spared_what_it_does_not_use() -> None:
    """In a process of its own: what stood in for it is gone, too, and can be imported."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, sbc_probe.service; loaded = set(sys.modules);"
            "print(*loaded & {'http.server', 'urllib.request', 'wsgiref.simple_server', 'cryptography', 'email'});"
            "import urllib.request; print(urllib.request.Request('http://x.example').host)",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(service.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "\nx.example\n"


def test_metrics_of_a_proven_sbc(running: Running) -> None:
    samples = running.samples(evidence())
    host = "sip.pstnhub.microsoft.com"
    assert samples["sbc_state", "proven"] == 1
    assert samples["sbc_state", "waiting"] == 0
    assert samples["sbc_destination_state", host, "proven"] == 1
    assert samples["sbc_destination_flags", host, "AP"] == 1
    assert samples["sbc_destination_latency_seconds", host] == 0.012
    assert samples["sbc_destination_answer_timestamp_seconds", "200", host] == NOW - 10
    assert samples["sbc_theirs_timestamp_seconds",] == NOW - 20
    assert samples["sbc_certificate_not_after_timestamp_seconds",] == NOW + 89 * 86400
    assert samples["sbc_evidence_timestamp_seconds",] == NOW
    assert not [name for name, *_ in samples if name == "sbc_finding"]


def test_metrics_of_what_could_not_be_read_are_absent(running: Running) -> None:
    silent = kamailio(sip2={**SILENT, "answer": None}, theirs=None)
    samples = running.samples(evidence(kamailio=silent))
    assert samples["sbc_finding", "proxy_silent", "1"] == 1
    assert ("sbc_theirs_timestamp_seconds",) not in samples
    assert ("sbc_destination_answer_timestamp_seconds", "200", "sip2.pstnhub.microsoft.com") not in samples
    unread = dict.fromkeys(("kamailio", "on_disk", "clock", "packet_filter", "listening", "loaded"), Unread("not read"))
    samples = running.samples(evidence(port=CLOSED, **unread))
    about_kamailio = (
        "sbc_kamailio",
        "sbc_options",
        "sbc_theirs",
        "sbc_tls",
        "sbc_clock",
        "sbc_certificate",
        "sbc_packet",
    )
    assert not [name for name, *_ in samples if name.startswith(about_kamailio)]
    assert samples["sbc_state", "failed"] == 1


def test_counters_are_kamailios_own(running: Running) -> None:
    host = PROXIES[0]
    first = replace(destination(host, answer=answered()), sent=60, answers={200: 57, 503: 1}, lost=2)
    ours = replace(theirs(), codes={200: 6, 404: 1})
    asked = kamailio(
        destinations=(first,),
        theirs=ours,
        theirs_of_tenants={"t.sbc.example.com": replace(ours, count=3, codes={})},
        version="6.0.1",
        memory=Memory(67108864, 4194304),
        connections=(
            Connection("52.112.0.1", True, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
            Connection("52.112.0.1", False, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
            Connection("192.0.2.1", False, False, "", ""),
        ),
    )
    around = {"clock": Clock(True, -0.25), "packet_filter": PacketFilter(("52.112.0.0/14",), 12)}
    samples = running.samples(evidence(kamailio=asked, **around))
    assert samples["sbc_options_sent_total", host] == 60
    assert samples["sbc_options_answers_total", "503", host] == 1
    assert samples["sbc_options_lost_total", host] == 2
    assert samples["sbc_theirs_received_total", CONFIG.fqdn] == 7
    assert samples["sbc_theirs_received_total", "t.sbc.example.com"] == 3
    assert samples["sbc_theirs_answers_total", "404", CONFIG.fqdn] == 1
    assert samples["sbc_kamailio_memory_used_bytes",] == 4194304
    assert samples["sbc_tls_connections", "in"] == samples["sbc_tls_connections", "out"] == 1
    assert samples["sbc_clock_offset_seconds",] == -0.25
    assert samples["sbc_packet_filter_connections_total",] == 12
    assert samples["sbc_kamailio_info", "6.0.1"] == 1


def test_round_trips_transitions_and_availability(running: Running) -> None:
    host = PROXIES[1]

    def seen(later: float, rtt: float | None, **changes: Any) -> dict[tuple[str, ...], float]:
        one = replace(answered(ago=10 - later), round_trip=rtt)
        return running.samples(evidence(taken_at=NOW + later, kamailio=kamailio(sip2={"answer": one, **changes})))

    seen(20, 0.02)
    # The same answer again is no other round trip, and one whose time is not known is none.
    seen(20, 0.02)
    seen(40, None)
    seen(60, 7.0)
    samples = seen(80, 0.0005, flags="IX")
    name = "sbc_destination_round_trip_seconds"
    assert samples[f"{name}_bucket", host, "0.001"] == 1
    assert samples[f"{name}_bucket", host, "0.025"] == 2
    assert samples[f"{name}_bucket", host, "5.0"] == 2
    assert samples[f"{name}_bucket", host, "+Inf"] == samples[f"{name}_count", host] == 3
    assert samples[f"{name}_sum", host] == pytest.approx(7.0205)
    assert samples["sbc_destination_transitions_total", host, "failed"] == 1
    assert samples["sbc_destination_transitions_total", host, "proven"] == 0
    assert samples["sbc_destination_finding", "destination_disabled", host] == 1
    step = f"`kamcmd dispatcher.set_state ap 1 'sip:{host}:5061;transport=tls'`"
    assert samples["sbc_finding_info", "destination_disabled", step] == 1
    assert samples["sbc_destination_availability_ratio", host, "1h"] == pytest.approx(3 / 4)
    assert samples["sbc_destination_availability_ratio", PROXIES[0], "7d"] == 1
    assert samples["sbc_availability_ratio", "24h"] == pytest.approx(3 / 4)


def test_the_probe_tells_how_it_does_itself(running: Running) -> None:
    samples = running.samples(evidence())
    assert samples["sbc_probe_gatherings_total",] == 2
    assert samples["sbc_probe_gathering_failures_total",] == 0
    assert samples["sbc_probe_history_writable",] == 1
    assert samples["sbc_probe_history_size_bytes",] > 0
    assert samples["process_resident_memory_bytes",] > 0
    assert samples["sbc_info", CONFIG.address, CONFIG.cloud, CONFIG.customer, CONFIG.fqdn] == 1


def test_remarks_and_renewals_are_counted(running: Running) -> None:
    samples = running.samples(evidence())
    assert not [name for name, *_ in samples if name in ("sbc_remark", "sbc_renewal_failures")]
    assert running.samples(evidence(renewal=Renewal(NOW)))["sbc_renewal_failures", ""] == 0
    record = Renewal(NOW - 60, True, NOW - 3600, 2, "rate_limited", "too many certificates")
    samples = running.samples(evidence(renewal=record, fqdn=Lookup((), "SERVFAIL")))
    assert samples["sbc_remark", "renewal_failing"] == samples["sbc_remark", "fqdn_unchecked"] == 1
    assert samples["sbc_renewal_failures", "rate_limited"] == 2
    assert samples["sbc_state", "proven"] == 1
    strange = replace(record, cause="somebody wrote this")
    assert running.samples(evidence(renewal=strange))["sbc_renewal_failures", "unknown"] == 2


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service.notify("READY=1")
    for address in (str(tmp_path / "notify"), "@sbc-probe-test"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind("\0" + address[1:] if address.startswith("@") else address)
            systemd.settimeout(2)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            service.notify("READY=1")
            assert systemd.recv(100) == b"READY=1"


class Systemd:
    """The receiving end of sd_notify, and what a served SBC tells it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(60)

    def wait_for(self, *words: str) -> str:
        while not all(word in (said := self.socket.recv(500).decode()) for word in words):
            pass
        return said


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    systemd = Systemd(str(tmp_path / "notify"))
    yield systemd
    systemd.socket.close()


def test_a_fault_of_a_gathering_is_told_and_outlived(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = iter([False, False, True, True])

    def collect(config: object) -> Evidence:
        if next(faults, False):
            raise RuntimeError("a fault of the probe")
        return evidence()

    monkeypatch.setattr(service, "collect", collect)
    monkeypatch.setattr(service, "refresh_interval", lambda config: 0.05)
    config, stop = replace(CONFIG, listen=("127.0.0.1:0",), history=str(tmp_path / "h.sqlite")), threading.Event()
    thread = threading.Thread(target=service.run, args=(config, stop))
    thread.start()
    systemd.wait_for("READY=1", "STATUS=proven")
    systemd.wait_for("WATCHDOG=1", "STATUS=proven")
    systemd.wait_for("WATCHDOG=1", "STATUS=proven")
    stop.set()
    systemd.wait_for("STOPPING=1")
    thread.join()
    assert capfd.readouterr().err.count("RuntimeError: a fault of the probe") == 2


def free_ports(count: int) -> list[int]:
    """Below those that Linux gives to whoever asks for any, so that they stay free."""
    with contextlib.ExitStack() as taken:
        ports: list[int] = []
        for port in random.sample(range(20000, 30000), 100):
            with contextlib.suppress(OSError):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no port is free")


def test_it_starts_without_kamailio_and_ends_well(systemd: Systemd, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A real process: ready with a verdict, listening where it is told to, and nothing lost at its end."""
    closed, *ports = free_ports(3)
    settings |= {"listen": [f"127.0.0.1:{port}" for port in ports], "options_interval": 2, "port": closed}
    (tmp_path / "probe.json").write_text(json.dumps(settings))
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "sbc_probe", "serve", "--config", tmp_path / "probe.json"],
        env={**os.environ, "PYTHONPATH": str(Path(service.__file__).parents[1])},
    )
    try:
        systemd.wait_for("READY=1", "STATUS=failed kamailio_down")
        for port in ports:
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                assert answer.read() == b"ok\n"
        systemd.wait_for("WATCHDOG=1", "STATUS=failed kamailio_down")
        process.send_signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    history = History(Path(settings["history"]))
    (span,) = history.timeline("", began, time.time())[-1:]
    assert (span.state, span.cause) == ("failed", "kamailio_down")
    assert span.end > span.begin
    history.close()


@pytest.mark.parametrize(("interval", "refresh"), [(60, 15), (10, 2.5), (2, 2)])
def test_how_often_the_evidence_is_gathered(interval: float, refresh: float) -> None:
    assert service.refresh_interval(replace(CONFIG, options_interval=interval)) == refresh
