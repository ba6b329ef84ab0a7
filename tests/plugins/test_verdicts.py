"""How a run ends: the task that passes only with evidence, and the table of all verdicts.

dispatcher.txt is what `kamcmd dispatcher.list` of Kamailio 6.0.1 (Debian 13) printed for three destinations.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import load
from tests.plugins.support import ROOT

LISTED = Path(__file__).with_name("dispatcher.txt").read_text()
ALL_AP = LISTED.replace("FLAGS: IP", "FLAGS: AP")
NO_SETS = "error: 500 - No Destination Sets\n"
HOSTS = [f"sip{number}.pstnhub.microsoft.com" for number in ("", 2, 3)]
URIS = [f"sip:{host}:5061;transport=tls" for host in HOSTS]
CAUSE = {"cause": "trunk_missing", "evidence": "All three answer 403.", "next_step": "New-CsOnlinePSTNGateway"}


def destination(host: str, **other: Any) -> dict[str, Any]:
    proven = {
        "uri": f"sip:{host}:5061;transport=tls",
        "host": host,
        "flags": "AP",
        "flags_meaning": "active, probed: answers our OPTIONS",
        "latency_ms": 12.4,
        "answer_age_s": 10.0,
        "verdict": "proven",
    }
    return proven | other


def report(state: str = "proven", **other: Any) -> dict[str, Any]:
    """What the plugins read of the probe's report."""
    reasons = dict.fromkeys(CAUSE) if state == "proven" else CAUSE
    common = {
        "fqdn": "sbc.example.com",
        "address": "203.0.113.10",
        "overall": {"state": state, **reasons},
        "destinations": [destination(host, verdict=state) for host in HOSTS],
        "certificate": {"days_left": 89.4, "life_days": 90.0, "key_type": "RSA", "client_auth": False},
        "renewal": {"at": "2026-11-23T10:00:00Z", "failing": False, "cause": None},
        "theirs": {"age_s": 20.0, "source": "52.112.0.1"},
        "findings": [],
        "remarks": [],
    }
    return common | other


UNREAD = report(
    "unknown",
    destinations=[
        destination(host, flags=None, flags_meaning=None, latency_ms=None, answer_age_s=None, verdict="unknown")
        for host in HOSTS
    ],
    certificate=None,
    renewal=None,
    theirs=None,
)
FAULTY = report(
    "failed",
    certificate={"days_left": 9.6, "life_days": 365.0, "key_type": "ECDSA", "client_auth": True},
    renewal={"at": "2026-11-21T12:00:00Z", "failing": True, "cause": "disk_full"},
    findings=[{"cause": "certificate_key_type"}, {"cause": "certificate_name"}, {"cause": "fqdn_unresolved"}],
    remarks=[{"cause": "renewal_failing", "evidence": "certbot failed 3 times", "next_step": "Make room."}],
)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ago(**passed: float) -> str:
    return (datetime.now(UTC) - timedelta(**passed)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def verdict() -> ModuleType:
    return load("action", "verdict")


@pytest.fixture
def verdicts() -> ModuleType:
    return load("callback", "verdicts")


def test_flags_of_a_real_list(verdict: ModuleType) -> None:
    assert "\tURI: " in LISTED
    assert verdict.flags_of(LISTED) == dict(zip(URIS, ["AP", "IP", "AP"], strict=True))
    assert verdict.flags_of(NO_SETS) == verdict.flags_of("") == {}


def test_a_destination_without_flags_does_not_take_the_next_ones(verdict: ModuleType) -> None:
    assert verdict.flags_of(LISTED.replace("FLAGS: IP", "")) == {URIS[0]: "AP", URIS[2]: "AP"}


def test_the_explanation_names_what_is_not_proven(verdict: ModuleType) -> None:
    meaning = "inactive, probed: does not answer"
    found = report(
        "failed",
        destinations=[
            destination(HOSTS[0]),
            destination(HOSTS[1], flags="IP", flags_meaning=meaning, verdict="failed"),
            destination(HOSTS[2], flags=None, flags_meaning=None, verdict="failed"),
        ],
    )
    assert verdict.explain(found, verdict.flags_of(LISTED)).splitlines() == [
        "sbc.example.com: failed.",
        f"{HOSTS[1]} is IP ({meaning})",
        f"{HOSTS[2]} is not loaded",
        "Cause: trunk_missing",
        "Evidence: All three answer 403.",
        "Next step: New-CsOnlinePSTNGateway",
    ]


def test_the_explanation_says_where_kamcmd_disagrees(verdict: ModuleType) -> None:
    assert f"{URIS[1]}: kamcmd shows IP" in verdict.explain(report(), verdict.flags_of(LISTED)).splitlines()
    assert "kamcmd dispatcher.list shows no destination" in verdict.explain(report(), {}).splitlines()


CASES: dict[str, tuple[dict[str, Any] | None, str, bool, bool]] = {
    # report, what kamcmd printed, accept_waiting, whether it passes
    "proven": (report(), ALL_AP, False, True),
    "proven-accepting": (report(), ALL_AP, True, True),
    "ap-but-failed": (report("failed"), ALL_AP, True, False),
    "ap-but-unknown": (UNREAD, ALL_AP, True, False),
    "proven-but-ip": (report(), LISTED, True, False),
    "proven-but-unlisted": (report(), NO_SETS, True, False),
    "waiting": (report("waiting"), LISTED, False, False),
    "waiting-accepted": (report("waiting"), LISTED, True, True),
    "unreachable": (None, "", True, False),
    "shown-only": (None, "", False, True),
    "saved": (report(), ALL_AP, False, True),
    "not-saved": (report(), ALL_AP, False, False),
    "no-longer-reached": (None, "", False, False),
    "brought": (report(), ALL_AP, False, True),
}
SAVED = {"saved": {"same": True, "problem": None}, "not-saved": {"same": False, "problem": "the password is missing"}}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run of ansible-playbook, with a host for each case and the repository's own settings."""
    directory = tmp_path_factory.mktemp("verdict")
    hosts = {
        name: {"dispatcher": listed, "accept": accept, "saved": SAVED.get(name, {})}
        | ({"report": found, "address": "203.0.113.10"} if found else {"why_not": "No route to host"})
        for name, (found, listed, accept, _) in CASES.items()
    }
    for name in ("saved", "not-saved", "no-longer-reached", "brought"):
        (directory / "state" / name).mkdir(parents=True)
        (directory / "state" / name / "certificate.vault").touch()
        times = {"saved_at": ago(days=9.1), "seen_at": ago(days=2.1), "not_after": "2027-01-01T00:00:00Z"}
        (directory / "state" / name / "certificate.json").write_text(json.dumps(times))
    (directory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    arguments = {
        "fqdn": "sbc.example.com",
        "address": "{{ address | default(omit) }}",
        "report": "{{ report | default(omit) }}",
        "why_not": "{{ why_not | default('') }}",
        "dispatcher": "{{ dispatcher }}",
        "state_dir": "{{ inventory_dir }}/state",
        "certificate": "{{ 'files' if inventory_hostname == 'brought' else 'certbot' }}",
        "saved": "{{ saved }}",
        "accept_waiting": "{{ accept }}",
        "judge": "{{ inventory_hostname != 'shown-only' }}",
    }
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"verdict": arguments}]}
    (directory / "play.yml").write_text(json.dumps([play]))
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", directory / "hosts.yml", directory / "play.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", CASES)
def test_it_passes_only_with_evidence(ended: subprocess.CompletedProcess[str], name: str) -> None:
    recap = re.search(rf"^{name} +: ok=(\d) +changed=0 .*failed=(\d)", ended.stdout, flags=re.MULTILINE)
    assert recap, ended.stdout + ended.stderr
    assert recap.groups() == (("1", "0") if CASES[name][3] else ("0", "1"))


def test_the_table_shows_every_host_that_ended(ended: subprocess.CompletedProcess[str]) -> None:
    lines = ended.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("CUSTOMER  ") and "FQDN" in line)
    shown = [line.split()[0] for line in lines[head + 1 : head + 1 + len(CASES)]]
    order = ["failed", "unreachable", "unknown", "no droplet", "waiting", "proven"]
    states = {name: found["overall"]["state"] if found else "no droplet" for name, (found, *_) in CASES.items()}
    assert shown == sorted(CASES, key=lambda name: (order.index(states[name]), name)), "what is not proven comes first"
    assert ended.stdout.count("ap-but-failed: next step: New-CsOnlinePSTNGateway") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("saved", "same, 9 days old"),
        ("not-saved", "another, 9 days old"),
        ("no-longer-reached", "9 days old"),
        ("brought", "not needed"),
        ("proven", "none"),
        ("unreachable", "none"),
    ],
)
def test_the_table_says_how_old_the_copy_is(ended: subprocess.CompletedProcess[str], name: str, said: str) -> None:
    head = next(line for line in ended.stdout.splitlines() if line.startswith("CUSTOMER  ") and "SAVED COPY" in line)
    rows = ended.stdout.partition(head)[2].splitlines()
    shown = next(line for line in rows if line.startswith(f"{name} "))
    assert shown[head.index("SAVED COPY") :] == said


def test_what_a_lost_droplet_leaves_is_said(ended: subprocess.CompletedProcess[str]) -> None:
    text = " ".join(ended.stdout.split())
    assert "no-longer-reached: evidence: No route to host" in text
    assert (
        "no-longer-reached: also: The saved copy is 9 days old: the droplet had it 2 days ago, and may have renewed"
        " since; the certificate in it ends on 2027-01-01T00:00:00Z"
    ) in text
    assert "not-saved: also: The saved copy is not what the droplet has: the password is missing" in text
    assert "unreachable: also" not in text


def test_the_table(verdicts: ModuleType) -> None:
    reports = {"fabrikam": UNREAD, "contoso": report(), "tailspin": FAULTY}
    copies = {"contoso": {"shown": "same, 12 days old", "problem": None}}
    lines = verdicts.lines_of(reports, copies, NOW)
    assert lines == [
        "CUSTOMER  ADDRESS       FQDN             MICROSOFT'S LAST OPTIONS  VERDICT",
        "tailspin  203.0.113.10  sbc.example.com  20 s ago from 52.112.0.1  FAILED",
        "fabrikam  203.0.113.10  sbc.example.com  never                     UNKNOWN",
        "contoso   203.0.113.10  sbc.example.com  20 s ago from 52.112.0.1  PROVEN",
        "",
        "CUSTOMER  CERTIFICATE            STATE           CLIENTAUTH  RENEWAL           SAVED COPY",
        "tailspin  10 of 365 days, ECDSA  key_type, name  present     fails: disk_full  -",
        "fabrikam  -                      -               -           -                 -",
        "contoso   89 of 90 days, RSA     in order        absent      ran 2 h ago       same, 12 days old",
        "",
        "CUSTOMER  PROXY                       FLAGS  ROUND TRIP  LAST ANSWER  VERDICT",
        *(f"tailspin  {host:<26}  AP     12 ms       10 s         failed" for host in HOSTS),
        *(f"fabrikam  {host:<26}  -      -           -            unknown" for host in HOSTS),
        *(f"contoso   {host:<26}  AP     12 ms       10 s         proven" for host in HOSTS),
        "",
        "tailspin: cause: trunk_missing",
        "tailspin: evidence: All three answer 403.",
        "tailspin: next step: New-CsOnlinePSTNGateway",
        "tailspin: also: certbot failed 3 times. Make room.",
        "fabrikam: cause: trunk_missing",
        "fabrikam: evidence: All three answer 403.",
        "fabrikam: next step: New-CsOnlinePSTNGateway",
    ]
    assert max(map(len, lines)) <= 100


def test_of_many_customers_those_that_are_proven_are_counted(verdicts: ModuleType) -> None:
    reports = {f"customer{number:03}": report() for number in range(60)} | {"contoso": report("failed")}
    text = "\n".join(verdicts.lines_of(reports, {}, NOW))
    assert text.count("contoso ") == 5
    assert "customer0" not in text
    assert text.endswith("\n60 more customers are proven")


def test_the_table_without_proxies_or_remarks(verdicts: ModuleType) -> None:
    lines = verdicts.lines_of({"contoso": report(destinations=[])}, {})
    assert not any("PROXY" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0 s"), (599.4, "599 s"), (600.0, "10 min"), (7200.0, "2 h"), (260000.0, "3 days")],
)
def test_ages(verdicts: ModuleType, value: float | None, shown: str) -> None:
    assert verdicts.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.0, "<1 ms"), (1.0, "1 ms"), (12.6, "13 ms")])
def test_round_trips(verdicts: ModuleType, value: float | None, shown: str) -> None:
    assert verdicts.milliseconds(value) == shown
