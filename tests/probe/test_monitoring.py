"""Metrics, alert rules and dashboard: as Prometheus's own promtool judges them, and as the documentation names them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from by_hand import CONFIG, NOW, PROXIES, SILENT, answered, destination, evidence, kamailio, theirs

from sbc_probe import service
from sbc_probe.model import Clock, Connection, Evidence, Lookup, Memory, PacketFilter, Renewal

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "monitoring"
PAGE = (REPOSITORY / "docs/monitoring.md").read_text()
ROOT = Path(os.environ.get("KAMAILIO_ROOT", "/"))
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool", path=f"{ROOT}/usr/bin"),
    reason="no promtool: set KAMAILIO_ROOT to a Debian 13 root directory that has prometheus",
)
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


def everything() -> Evidence:
    """Evidence from which every metric has a sample."""
    first = replace(
        destination(PROXIES[0], answer=replace(answered(), round_trip=0.02)), sent=4, answers={200: 4}, lost=0
    )
    good = kamailio(
        sip2=SILENT,
        theirs=replace(theirs(), codes={200: 4}),
        version="6.0.1",
        memory=Memory(100, 10),
        connections=(Connection("52.112.0.1", True, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),),
    )
    return evidence(
        kamailio=replace(good, destinations=(first, *good.destinations[1:])),
        clock=Clock(True, 0.01),
        packet_filter=PacketFilter(("52.112.0.0/14",), 4),
        renewal=Renewal(NOW),
        fqdn=Lookup((), "SERVFAIL"),
    )


@pytest.fixture
def exposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    gathered = everything()
    monkeypatch.setattr(service, "collect", lambda config: gathered)
    monkeypatch.setattr("time.time", lambda: NOW)
    monitor = service.Monitor(replace(CONFIG, history=str(tmp_path / "history.sqlite")))
    # A second look: only then is there any time between two of them that can be known.
    gathered = replace(gathered, taken_at=NOW + 15)
    monitor.refresh()
    monitor.history.close()
    return monitor.metrics("")[1].decode()


def families(exposed: str) -> set[str]:
    return {name for name in re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE) if name.startswith("sbc_")}


def test_every_metric_is_documented_and_no_other_is(exposed: str) -> None:
    assert set(re.findall(r"^\| `(sbc_\w+)` \|", PAGE, re.MULTILINE)) == families(exposed)


def test_every_label_is_documented(exposed: str) -> None:
    rows = dict(re.findall(r"^\| `(sbc_\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    for name, labels in re.findall(r"^(sbc_\w+)\{(.*)\} ", exposed, re.MULTILINE):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        used = set(re.findall(r'(\w+)="', labels)) - {"le"}
        assert used == set(re.findall(r"`(\w+)`(?=[,\s]|$)", re.sub(r"\(.*?\)", "", rows[family])))


def mentioned(expression: str) -> set[str]:
    """The names of our metrics in an expression; those of a histogram by its own name."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bsbc_\w+", expression)}


def test_alerts_and_dashboard_name_metrics_that_exist(exposed: str) -> None:
    named = {name for rule in RULES.values() for name in mentioned(rule["expr"])}
    named |= {name for panel in panels() for target in panel["targets"] for name in mentioned(target["expr"])}
    assert named <= families(exposed)
    assert "sbc_destination_state" in named


def panels() -> list[dict[str, Any]]:
    return list(json.loads((MONITORING / "dashboard.json").read_text())["panels"])


def test_every_panel_has_a_title_a_unit_and_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize("name", RULES)
def test_every_alert_says_who_what_and_where_to_read_on(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert re.search(r"\$labels\.(customer|instance)", rule["annotations"]["summary"])
    assert rule["annotations"]["next_step"]
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    titles = re.findall(r"^#+ (.*)$", (REPOSITORY / path).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def inside() -> Iterator[Path]:
    """A directory that programs in the root directory can read too, with what Prometheus reads in it."""
    with tempfile.TemporaryDirectory(prefix="monitoring-", dir=ROOT / "tmp") as name:
        shutil.copytree(MONITORING, name, dirs_exist_ok=True)
        yield Path(name)


def run(inside: Path, *command: str, stdin: str = "") -> str:
    """Run a command of the root directory there; it must succeed."""
    here = "/" / inside.relative_to(ROOT)
    argv = ["chroot", str(ROOT), "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(here), *command]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_no_fault_with_the_metrics(inside: Path, exposed: str) -> None:
    assert run(inside, "promtool", "check", "metrics", stdin=exposed) == ""


@needs_promtool
def test_prometheus_and_alertmanager_accept_the_examples(inside: Path) -> None:
    run(inside, "promtool", "check", "config", "prometheus.yml")
    run(inside, "amtool", "check-config", "alertmanager.yml")


SBC = {"job": "sbc", "instance": "sbc1.example.com:9061"}
WHO = {"customer": "contoso", "fqdn": "sbc1.example.com"}
STEP = "What to do."
Series = dict[str, str]


def one(labels: dict[str, str], name: str = "ALERTS") -> str:
    """One series as Prometheus writes it."""
    inner = ", ".join(f'{key}="{value}"' for key, value in (SBC | labels).items())
    return f"{name}{{{inner}}}"


def series(name: str, values: str, **labels: str) -> Series:
    return {one(labels, name): values}


def states(name: str, current: str, **labels: str) -> Series:
    found: Series = {}
    for state in ("proven", "failed", "unknown", "waiting"):
        found |= series(name, f"{int(state == current)}x90", state=state, **labels)
    return found


def sbc(*bad: str, cause: str = "proxy_silent", own: str = "") -> Series:
    """An SBC, minute by minute: these proxies have failed, or it has itself, by these causes."""
    causes = [found for found in (own, cause if bad else "") if found]
    found = (
        series("up", "1x90")
        | series("sbc_evidence_timestamp_seconds", "0+60x90")
        | series("sbc_info", "1x90", **WHO)
        | states("sbc_state", "failed" if causes else "proven")
        | series("sbc_certificate_not_before_timestamp_seconds", "0x90")
        | series("sbc_certificate_not_after_timestamp_seconds", "7776000x90")
        | series("sbc_clock_offset_seconds", "0.01x90")
        | series("sbc_kamailio_memory_used_bytes", "10x90")
        | series("sbc_kamailio_memory_size_bytes", "100x90")
        | series("sbc_renewal_failures", "0x90", cause="")
        | series("sbc_probe_history_writable", "1x90")
        | series("sbc_probe_gathering_failures_total", "0x90")
    )
    for rank, name in enumerate(causes, 1):
        found |= series("sbc_finding", "1x90", cause=name, rank=str(rank))
        found |= series("sbc_finding_info", "1x90", cause=name, next_step=STEP)
    for host in PROXIES:
        found |= states("sbc_destination_state", "failed" if host in bad else "proven", destination=host)
        if host in bad:
            found |= series("sbc_destination_finding", "1x90", destination=host, cause=cause)
    return found


def gone(host: str) -> dict[str, str]:
    return {"destination": host, "cause": "proxy_silent", "next_step": STEP, **WHO}


def own(cause: str) -> dict[str, str]:
    return {"cause": cause, "next_step": STEP, **WHO}


# What is the case, after how many minutes, and the labels of the alerts that there are then, by their names.
CASES: dict[str, tuple[Series, int, dict[str, list[dict[str, str]]]]] = {
    "all is well": (sbc(), 80, {}),
    "the droplet is gone": (series("up", "0x90"), 4, {"SbcProbeAbsent": [{}]}),
    "it may be restarting": (series("up", "0x90"), 2, {}),
    "the probe hangs": (
        sbc() | series("sbc_evidence_timestamp_seconds", "0x90"),
        10,
        {"SbcEvidenceOld": [{}]},
    ),
    "one of three": (sbc(PROXIES[1]), 6, {"SbcProxyGone": [gone(PROXIES[1])]}),
    "a hiccup of one": (sbc(PROXIES[1]), 4, {}),
    "two of three": (sbc(*PROXIES[1:]), 6, {"SbcProxiesGone": [gone(host) for host in PROXIES[1:]]}),
    "none is left": (sbc(*PROXIES, cause="kamailio_down"), 4, {"SbcDown": [own("kamailio_down")]}),
    "theirs are missing": (sbc(own="theirs_missing"), 6, {"SbcTheirsMissing": [own("theirs_missing")]}),
    "our side": (sbc(own="certificate_not_loaded"), 6, {"SbcNotProven": [own("certificate_not_loaded")]}),
    "flapping": (
        sbc()
        | series("sbc_destination_transitions_total", "0+0.2x90", destination=PROXIES[0], state="proven")
        | series("sbc_destination_transitions_total", "0+0.2x90", destination=PROXIES[0], state="failed"),
        70,
        {"SbcProxyFlapping": [{"destination": PROXIES[0], **WHO}]},
    ),
    "the certificate ends": (
        sbc()
        | series("sbc_certificate_not_before_timestamp_seconds", "-7700000x90")
        | series("sbc_certificate_not_after_timestamp_seconds", "76000x90")
        | series("sbc_remark", "1x90", cause="certificate_ending"),
        70,
        {"SbcCertificateEnds": [{}], "SbcCertificateEnding": [{"cause": "certificate_ending", **WHO}]},
    ),
    "renewals fail": (
        {name: values for name, values in sbc().items() if not name.startswith("sbc_renewal")}
        | series("sbc_renewal_failures", "3x90", cause="rate_limited"),
        70,
        {"SbcRenewalFailing": [{"cause": "rate_limited", **WHO}]},
    ),
    "the clock": (sbc() | series("sbc_clock_offset_seconds", "-4.5x90"), 12, {"SbcClockOff": [WHO]}),
    "memory": (sbc() | series("sbc_kamailio_memory_used_bytes", "90x90"), 20, {"SbcMemoryLow": [WHO]}),
    "a remark": (
        sbc() | series("sbc_remark", "1x90", cause="config_differs"),
        70,
        {"SbcRemark": [{"cause": "config_differs", **WHO}]},
    ),
    "not known": (sbc() | states("sbc_state", "unknown"), 20, {"SbcUnknown": [{"state": "unknown", **WHO}]}),
    "no history": (sbc() | series("sbc_probe_history_writable", "0x90"), 40, {"SbcHistoryNotWritten": [{}]}),
}


def test_every_alert_is_tried() -> None:
    assert {name for _, _, expected in CASES.values() for name in expected} == set(RULES)


@needs_promtool
@pytest.mark.parametrize("case", CASES)
def test_the_right_alerts_and_no_others(inside: Path, case: str) -> None:
    """Which alerts fire, by the series that Prometheus itself makes of them."""
    given, minute, expected = CASES[case]
    wanted = [
        {"labels": one({"alertname": name, "alertstate": "firing", **RULES[name]["labels"], **labels}), "value": 1}
        for name, alerts in expected.items()
        for labels in alerts
    ]
    firing = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": wanted}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [firing],
    }
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [test]}
    (inside / "test.yml").write_text(yaml.safe_dump(whole))
    run(inside, "promtool", "test", "rules", "test.yml")
