"""How a run ends: the task that passes only with evidence, and the table of all verdicts.

dispatcher.txt is what `kamcmd dispatcher.list` of Kamailio 6.0.1 (Debian 13) printed for three destinations.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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
        "certificate": {"days_left": 89.4, "key_type": "RSA"},
        "theirs": {"age_s": 20.0, "source": "52.112.0.1"},
    }
    return common | other


UNREAD = report(
    "unknown",
    destinations=[
        destination(host, flags=None, flags_meaning=None, latency_ms=None, answer_age_s=None, verdict="unknown")
        for host in HOSTS
    ],
    certificate=None,
    theirs=None,
)


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


CASES: dict[str, tuple[dict[str, Any], str, bool, bool]] = {
    # report, what kamcmd printed, accept_waiting, whether it passes
    "proven": (report(), ALL_AP, False, True),
    "proven-accepting": (report(), ALL_AP, True, True),
    "ap-but-failed": (report("failed"), ALL_AP, True, False),
    "ap-but-unknown": (UNREAD, ALL_AP, True, False),
    "proven-but-ip": (report(), LISTED, True, False),
    "proven-but-unlisted": (report(), NO_SETS, True, False),
    "waiting": (report("waiting"), LISTED, False, False),
    "waiting-accepted": (report("waiting"), LISTED, True, True),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run of ansible-playbook, with a host for each case and the repository's own settings."""
    directory = tmp_path_factory.mktemp("verdict")
    hosts = {
        name: {"report": found, "dispatcher": listed, "accept": accept}
        for name, (found, listed, accept, _) in CASES.items()
    }
    (directory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    arguments = {"report": "{{ report }}", "dispatcher": "{{ dispatcher }}", "accept_waiting": "{{ accept }}"}
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
    assert shown == sorted(CASES)
    assert ended.stdout.count("ap-but-failed: next step: New-CsOnlinePSTNGateway") == 1


def test_the_table(verdicts: ModuleType) -> None:
    assert verdicts.lines_of({"fabrikam": UNREAD, "contoso": report()}) == [
        "CUSTOMER  ADDRESS       FQDN             CERTIFICATE   MICROSOFT'S LAST OPTIONS  VERDICT",
        "contoso   203.0.113.10  sbc.example.com  89 days, RSA  20 s ago from 52.112.0.1  PROVEN",
        "fabrikam  203.0.113.10  sbc.example.com  -             never                     UNKNOWN",
        "",
        "CUSTOMER  PROXY                       FLAGS  ROUND TRIP  LAST ANSWER  VERDICT",
        *(f"contoso   {host:<26}  AP     12 ms       10 s         proven" for host in HOSTS),
        *(f"fabrikam  {host:<26}  -      -           -            unknown" for host in HOSTS),
        "",
        "fabrikam: cause: trunk_missing",
        "fabrikam: evidence: All three answer 403.",
        "fabrikam: next step: New-CsOnlinePSTNGateway",
    ]


def test_the_table_without_proxies_or_remarks(verdicts: ModuleType) -> None:
    lines = verdicts.lines_of({"contoso": report(destinations=[])})
    assert lines[-1] == "CUSTOMER  PROXY  FLAGS  ROUND TRIP  LAST ANSWER  VERDICT"


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.0, "0 s"), (599.4, "599 s"), (600.0, "10 min")])
def test_ages(verdicts: ModuleType, value: float | None, shown: str) -> None:
    assert verdicts.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.0, "<1 ms"), (1.0, "1 ms"), (12.6, "13 ms")])
def test_round_trips(verdicts: ModuleType, value: float | None, shown: str) -> None:
    assert verdicts.milliseconds(value) == shown
