"""Metrics, alert rules and dashboard: as Prometheus's own promtool judges them, and as the documentation names them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from by_hand import (
    ADDRESSES,
    CLOSED,
    CONFIG,
    NOW,
    PROXIES,
    REFUSED,
    SILENT,
    answered,
    destination,
    evidence,
    kamailio,
    theirs,
)
from prometheus_client.parser import text_string_to_metric_families

from sbc_probe import service
from sbc_probe.findings import STATES, State
from sbc_probe.model import Clock, Connection, Evidence, Kamailio, Lookup, Memory, PacketFilter, Reach, Renewal
from sbc_probe.verdict import judge

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
WHO = {"customer": CONFIG.customer, "fqdn": CONFIG.fqdn}
STEP = "What to do."
Series = dict[str, str]


def one(labels: dict[str, str], name: str = "ALERTS") -> str:
    """One series as Prometheus writes it."""
    inner = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in (SBC | labels).items())
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
    return {"destination": host, "state": "failed", **WHO}


def own(cause: str) -> dict[str, str]:
    return {"cause": cause, **WHO}


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
    "two of three": (
        sbc(*PROXIES[1:]),
        6,
        {"SbcProxiesGone": [gone(host) for host in PROXIES[1:]], "SbcProxyGone": [gone(host) for host in PROXIES[1:]]},
    ),
    "none is left": (sbc(*PROXIES, cause="kamailio_down"), 4, {"SbcDown": [{"state": "failed", **WHO}]}),
    "theirs are missing": (sbc(own="theirs_missing"), 6, {"SbcTheirsMissing": [own("theirs_missing")]}),
    "our side": (sbc(own="certificate_not_loaded"), 6, {"SbcNotProven": [own("certificate_not_loaded")]}),
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


Alerts = dict[str, list[dict[str, str]]]


def later(found: Evidence, seconds: float) -> Evidence:
    """The same once more after so long: with what comes again and again, by times that much later."""
    kamailio = found.kamailio
    assert isinstance(kamailio, Kamailio)
    destinations = tuple(
        replace(
            one,
            sent_at=one.sent_at and one.sent_at + seconds,
            answer=one.answer and replace(one.answer, at=one.answer.at + seconds),
        )
        for one in kamailio.destinations
    )
    asked = kamailio.theirs and replace(kamailio.theirs, at=kamailio.theirs.at + seconds)
    again = replace(kamailio, destinations=destinations, theirs=asked)
    return replace(found, taken_at=found.taken_at + seconds, kamailio=again)


def down(*hosts: str, minute: int, ago: float = 200) -> Evidence:
    """Minutes after the first look: what a plain client finds there is another thing each time."""
    found = evidence(
        kamailio=kamailio(**{host.partition(".")[0]: SILENT | {"answer": answered(ago=ago)} for host in hosts}),
        reach={
            host: Reach(Lookup((ADDRESSES[host],)), *(("refused",) if minute % 2 else ("open", "alert")))
            for host in hosts
        },
    )
    return later(found, 60 * minute)


def flapping(*hosts: str) -> Iterator[Evidence]:
    """An hour and a quarter of proxies that turn every 2 or 3 minutes, after 5 minutes of peace."""
    turns: list[int] = []
    for minute in range(75):
        if minute >= 5 and minute % 5 in (0, 2):
            turns.append(minute)
        bad = len(turns) % 2
        found = (
            down(*hosts, minute=minute, ago=70 + 60 * (minute - turns[-1])) if bad else later(evidence(), 60 * minute)
        )
        lately = tuple(NOW + 60 * turn - 10 for turn in turns if turn > minute - 15)
        assert isinstance(found.kamailio, Kamailio)
        destinations = tuple(
            replace(one, turns=lately) if one.host in hosts else one for one in found.kamailio.destinations
        )
        yield replace(found, kamailio=replace(found.kamailio, destinations=destinations))


def trunk_removed() -> Iterator[Evidence]:
    """Ten minutes of peace, ten without the trunk, and then Kamailio is started anew."""
    refused = {host.partition(".")[0]: REFUSED for host in PROXIES}
    for minute in range(45):
        changes: dict[str, Any] = {} if minute < 10 else refused
        if minute >= 20:
            changes = refused | {"theirs": None, "loaded_at": NOW + 60 * 20 - 30}
        yield later(evidence(kamailio=kamailio(**changes)), 60 * minute)


def one_more(minute: int) -> Evidence:
    """Kamailio has a destination that nobody declared."""
    found = kamailio()
    more = destination("sip.example.net", answer=answered())
    return later(evidence(kamailio=replace(found, destinations=(*found.destinations, more))), 60 * minute)


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watched:
    """A real service that gathers this evidence, one look after the other."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, looks: Iterable[Evidence]) -> None:
        self.looks = list(looks)
        coming = iter(self.looks)
        monkeypatch.setattr(service, "collect", lambda config: next(coming))
        config = replace(CONFIG, history=str(directory / "history.sqlite"))
        monitor = service.Monitor(config)
        self.samples = [self._scrape(monitor)]
        for _ in self.looks[1:]:
            monitor.refresh()
            self.samples.append(self._scrape(monitor))
        monitor.history.close()

    def _scrape(self, monitor: service.Monitor) -> Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(monitor.metrics("")[1].decode())
            for sample in family.samples
            if sample.name.startswith("sbc_")
        }

    def series(self) -> Series:
        """As Prometheus would have them with a scrape at each look: what is no longer there is stale at once."""
        found = series("up", f"1x{len(self.looks)}")
        for name, labels in {key for samples in self.samples for key in samples}:
            values = [samples.get((name, labels)) for samples in self.samples]
            texts = [
                str(value) if value is not None else "stale" if number and values[number - 1] is not None else "_"
                for number, value in enumerate(values)
            ]
            found[one(dict(labels), name)] = " ".join(texts)
        return found

    def next_step(self, minute: int, cause: str) -> str:
        findings = judge(CONFIG, self.looks[minute]).findings
        return next(finding.next_step for finding in findings if finding.cause == cause)


EVERY = [gone(host) for host in PROXIES]
FLAPS = [{"destination": host, "cause": "proxy_flapping", **WHO} for host in PROXIES]
# What is gathered minute by minute, and what fires in each of which minutes.
SCENES: dict[str, tuple[Callable[[], Iterable[Evidence]], dict[range, Alerts]]] = {
    "one flaps": (
        lambda: flapping(PROXIES[1]),
        {range(5): {}, range(20, 75): {"SbcProxyFlapping": FLAPS[1:2]}},
    ),
    "all flap": (
        lambda: flapping(*PROXIES),
        {range(20, 75): {"SbcDown": [{"state": "failed", **WHO}], "SbcProxiesGone": EVERY, "SbcProxyFlapping": FLAPS}},
    ),
    "one is down, now for this reason, now for that": (
        lambda: (down(PROXIES[1], minute=minute) for minute in range(30)),
        {range(5): {}, range(6, 30): {"SbcProxyGone": [gone(PROXIES[1])]}},
    ),
    "our side is at fault while a proxy is down": (
        lambda: (replace(down(PROXIES[1], minute=m), fqdn=Lookup(("198.51.100.9",))) for m in range(15)),
        {range(6, 15): {"SbcNotProven": [own("fqdn_elsewhere")], "SbcProxyGone": [gone(PROXIES[1])]}},
    ),
    "a destination that is none of the proxies": (
        lambda: (one_more(minute) for minute in range(10)),
        {range(5): {}, range(6, 10): {"SbcNotProven": [own("destination_unknown")]}},
    ),
    "the trunk is removed": (
        trunk_removed,
        {
            range(10): {},
            range(16, 20): {"SbcDown": [{"state": "failed", **WHO}], "SbcProxiesGone": EVERY, "SbcProxyGone": EVERY},
            range(24, 45): {"SbcWaitsAgain": [{"state": "waiting", **WHO}]},
        },
    ),
    "there never was a trunk": (
        lambda: list(trunk_removed())[20:],
        {range(25): {}},
    ),
}


def test_every_alert_is_tried() -> None:
    tried = [alerts for _, _, alerts in CASES.values()]
    tried += [alerts for _, minutes in SCENES.values() for alerts in minutes.values()]
    assert {name for alerts in tried for name in alerts} == set(RULES)


def test_only_causes_that_say_nothing_of_a_fault_are_none_of_ours() -> None:
    named = re.findall(r'cause!~"(.*?)"', RULES["SbcNotProven"]["expr"])[1]
    assert set(named.split("|")) == {str(cause) for cause, state in STATES.items() if state is not State.FAILED}


def firing(minute: int, expected: Alerts) -> dict[str, Any]:
    """promtool's test that these alerts fire then, and no others."""
    wanted = [
        {"labels": one({"alertname": name, "alertstate": "firing", **RULES[name]["labels"], **labels}), "value": 1}
        for name, alerts in expected.items()
        for labels in alerts
    ]
    return {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": wanted}


def try_rules(inside: Path, given: Series, tests: dict[str, Any]) -> None:
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        **tests,
    }
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [test]}
    (inside / "test.yml").write_text(yaml.safe_dump(whole))
    run(inside, "promtool", "test", "rules", "test.yml")


@needs_promtool
@pytest.mark.parametrize("case", CASES)
def test_the_right_alerts_and_no_others(inside: Path, case: str) -> None:
    """Which alerts fire, by the series that Prometheus itself makes of them."""
    given, minute, expected = CASES[case]
    try_rules(inside, given, {"promql_expr_test": [firing(minute, expected)]})


@needs_promtool
@pytest.mark.parametrize("scene", SCENES)
def test_alerts_of_a_service_that_watched_it(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    """They fire and go on to fire, by metrics of a real service and verdicts on what it gathered."""
    looks, expected = SCENES[scene]
    watched = Watched(tmp_path, monkeypatch, looks())
    tests = [firing(minute, alerts) for minutes, alerts in expected.items() for minute in minutes]
    try_rules(inside, watched.series(), {"promql_expr_test": tests})


@needs_promtool
@pytest.mark.parametrize(
    ("scene", "minutes", "name", "labels", "cause", "words"),
    [
        ("one flaps", (61, 63), "SbcProxyFlapping", FLAPS[1], "proxy_flapping", "comes and goes: 6 turns lately"),
        (
            "one is down, now for this reason, now for that",
            (20,),
            "SbcProxyGone",
            gone(PROXIES[1]),
            "proxy_silent",
            "is gone, others take the calls: proxy_silent",
        ),
        (
            "one is down, now for this reason, now for that",
            (21,),
            "SbcProxyGone",
            gone(PROXIES[1]),
            "proxy_unreachable",
            "is gone, others take the calls: proxy_unreachable",
        ),
    ],
)
def test_a_message_says_what_is_the_case_now(
    inside: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene: str,
    minutes: tuple[int, ...],
    name: str,
    labels: dict[str, str],
    cause: str,
    words: str,
) -> None:
    """The present cause and the probe's own next step, though neither is part of the alert."""
    watched = Watched(tmp_path, monkeypatch, SCENES[scene][0]())
    tests = [
        {
            "eval_time": f"{minute}m",
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": {**SBC, **RULES[name]["labels"], **labels},
                    "exp_annotations": {
                        "summary": f"{CONFIG.customer}: {PROXIES[1]} {words}",
                        "next_step": watched.next_step(minute, cause),
                        "runbook": RULES[name]["annotations"]["runbook"],
                    },
                }
            ],
        }
        for minute in minutes
    ]
    try_rules(inside, watched.series(), {"alert_rule_test": tests})


@pytest.mark.parametrize(
    "fault",
    [
        evidence(),
        evidence(kamailio=kamailio(sip2=SILENT)),
        evidence(kamailio=kamailio(sip2=REFUSED)),
        evidence(kamailio=kamailio(sip2=SILENT), reach={PROXIES[1]: Reach(Lookup(("52.112.0.2",)), "refused")}),
        evidence(kamailio=kamailio(theirs=None)),
        evidence(kamailio=kamailio(theirs=theirs(ago=4000), loaded_at=NOW - 7200)),
        evidence(port=CLOSED),
        evidence(fqdn=Lookup(("198.51.100.9",))),
        evidence(clock=Clock(True, 400.0)),
        everything(),
    ],
)
def test_a_fault_that_stays_the_same_makes_no_new_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Evidence
) -> None:
    """Ten minutes of looks: words that count seconds must not become labels."""
    watched = Watched(tmp_path, monkeypatch, (later(fault, 15 * number) for number in range(40)))
    # There is time to speak of an availability in from the second look on.
    first, *others = (samples.keys() for samples in watched.samples[1:])
    assert all(names == first for names in others)
