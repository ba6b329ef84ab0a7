"""The service over real HTTP, on evidence made by hand."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from by_hand import CLOSED, CONFIG, NOW, SILENT, evidence, kamailio
from prometheus_client.parser import text_string_to_metric_families

from sbc_probe import service
from sbc_probe.model import Evidence, Lookup, Renewal, Unread


class Running:
    """A served Monitor whose next evidence is `evidence`."""

    def __init__(self) -> None:
        self.evidence = evidence()
        self.monitor: service.Monitor
        self.url = ""

    def get(self, path: str) -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

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
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    running = Running()
    monkeypatch.setattr(service, "collect", lambda config: running.evidence)
    monkeypatch.setattr("time.time", lambda: NOW)
    running.monitor = service.Monitor(replace(CONFIG, listen="127.0.0.1:0"))
    server = service.Server(running.monitor)
    running.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


def test_status_is_the_report(running: Running) -> None:
    code, content_type, body = running.get("/status.json?now")
    assert (code, content_type) == (200, "application/json")
    assert json.loads(body)["overall"]["state"] == "proven"


def test_health_is_that_of_the_probe_not_of_the_sbc(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.evidence = evidence(kamailio=Unread("no socket"), port=CLOSED)
    running.monitor.refresh()
    assert running.get("/healthz")[0] == 200
    monkeypatch.setattr("time.time", lambda: NOW + 3600)
    assert running.get("/healthz")[::2] == (503, "stale\n")


def test_anything_else_is_not_found(running: Running) -> None:
    assert running.get("/")[0] == 404


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
    samples = running.samples(evidence(kamailio=Unread("no socket"), port=CLOSED, on_disk=Unread("no file")))
    names = {name for name, *_ in samples}
    assert names == {"sbc_evidence_timestamp_seconds", "sbc_state", "sbc_finding", "sbc_destination_state"}


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


def test_the_service_is_ready_once_it_can_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setattr(service, "collect", lambda config: evidence())
    monkeypatch.setattr(service, "refresh_interval", lambda config: 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(5)
        threading.Thread(target=service.serve, args=(replace(CONFIG, listen="127.0.0.1:0"),), daemon=True).start()
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1\nSTATUS=proven"


@pytest.mark.parametrize(("interval", "refresh"), [(60, 15), (10, 2.5), (2, 2)])
def test_how_often_the_evidence_is_gathered(interval: float, refresh: float) -> None:
    assert service.refresh_interval(replace(CONFIG, options_interval=interval)) == refresh
