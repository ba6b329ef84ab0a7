"""How all customers are: what is written of them, by real runs, and what people see of it in Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.fleet_status import FRESH, NEEDED, STATES, gathered, page, write

from sbc_probe.report import SCHEMA
from tests.plugins.fleets import NOW, RUDE, entries, report
from tests.plugins.support import ROOT


def states(status: dict[str, Any]) -> dict[str, str]:
    return {each["customer"]: each["state"] for each in status["customers"]}


SOME = entries(
    ("contoso", report("contoso")),
    ("fabrikam", report("fabrikam", "failed", "proxy_forbids")),
    ("tailspin", report("tailspin", "waiting", "trunk_missing")),
)


def test_what_is_not_proven_comes_first() -> None:
    status = gathered("inventory/some", SOME, SOME, None, NOW)
    assert [each["customer"] for each in status["customers"]] == ["fabrikam", "tailspin", "contoso"]
    assert status["counts"] == dict.fromkeys(STATES, 0) | {"failed": 1, "waiting": 1, "proven": 1}


class TestNeverGreen:
    def test_an_old_probe(self) -> None:
        full = report("contoso")
        for old in (full | {"schema": SCHEMA + 1}, {key: value for key, value in full.items() if key != "renewal"}):
            (entry,) = entries(("contoso", old)).values()
            assert (entry["state"], entry["cause"], entry["last_state"]) == ("unknown", "old_probe", "proven")
            assert entry["next_step"] == "ansible-playbook site.yml --limit contoso"
        assert full.keys() >= NEEDED

    def test_no_report(self) -> None:
        (entry,) = entries(("contoso", None)).values()
        assert (entry["state"], entry["cause"], entry["evidence"]) == ("unknown", "no_report", "No route to host")

    def test_nobody_asked(self) -> None:
        status = gathered("some", ["contoso", "wingtip"], {}, None, NOW)
        assert states(status) == {"contoso": "unknown", "wingtip": "unknown"}
        assert {each["cause"] for each in status["customers"]} == {"not_asked"}
        assert status["customers"][0]["asked_at"] is None

    def test_another_runs_verdict_counts_for_a_while(self) -> None:
        before = gathered("some", SOME, SOME, None, NOW)
        soon = gathered("some", SOME, entries(("fabrikam", report("fabrikam")), at=NOW + 60), before, NOW + 60)
        assert states(soon) == {"tailspin": "waiting", "contoso": "proven", "fabrikam": "proven"}
        late = NOW + FRESH + 60
        for _ in range(2):
            before = gathered("some", SOME, {}, before, late)
            contoso = next(each for each in before["customers"] if each["customer"] == "contoso")
            assert (contoso["state"], contoso["cause"], contoso["last_state"]) == ("unknown", "not_asked", "proven")
            assert contoso["evidence"].endswith("and was proven")
            late += FRESH


def test_a_customer_that_is_no_longer_declared_is_gone(tmp_path: Path) -> None:
    write(tmp_path, SOME, SOME, NOW)
    write(tmp_path, ["contoso"], entries(("contoso", report("contoso")), at=NOW + 5), NOW + 5)
    assert states(json.loads((tmp_path / "status/status.json").read_text())) == {"contoso": "proven"}
    assert sorted(path.name for path in (tmp_path / "status").iterdir()) == ["status.html", "status.json"]


def test_files_that_somebody_spoilt_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    for spoilt in ("{", "[]", '{"schema": 1, "customers": [3]}', '{"schema": 99, "customers": []}'):
        (tmp_path / "status/status.json").write_text(spoilt)
        write(tmp_path, SOME, SOME, NOW)
        assert len(json.loads((tmp_path / "status/status.json").read_text())["customers"]) == 3


def test_what_a_proxy_says_remains_text() -> None:
    text = page(gathered("some", SOME, SOME, None, NOW), "docs")
    assert text.count("<script>") == 1
    assert RUDE in unescape(text)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """An inventory of customers in every state, and a play that ends as playbooks/status.yml does."""
    gone = {"why_not": "Connection timed out"}
    hosts: dict[str, dict[str, Any]] = {
        "contoso": {"report": report("contoso")},
        "fabrikam": {"report": report("fabrikam", "failed", "proxy_forbids")},
        "northwind": gone | {"address": "203.0.113.11"},
        "tailspin": gone,
        "wingtip": {"report": report("wingtip"), "breaks": True},
        "litware": {"report": report("litware") | {"schema": SCHEMA - 1, "certificate": {"days": 3}}},
    }
    (tmp_path / "hosts.yml").write_text(json.dumps({"sbc": {"hosts": hosts}}))
    verdict = {
        "fqdn": "{{ inventory_hostname }}.example",
        "address": "{{ address | default(omit) }}",
        "report": "{{ report | default(omit) }}",
        "why_not": "{{ why_not | default('') }}",
        "dispatcher": "",
        "state_dir": "{{ inventory_dir }}/state",
        "judge": False,
    }
    tasks = [{"fail": {"msg": "No such variable"}, "when": "breaks | default(false)"}, {"verdict": verdict}]
    play = {"hosts": "sbc", "gather_facts": False, "vars": {"verify_pages": True}, "tasks": tasks}
    (tmp_path.parent / f"{tmp_path.name}.play.yml").write_text(json.dumps([play]))
    return tmp_path


def status_of(inventory: Path, *arguments: str) -> dict[str, Any]:
    play = inventory.parent / f"{inventory.name}.play.yml"
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, play, *arguments],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "WARNING" not in done.stderr, done.stderr
    if not arguments:
        assert re.search(r"^litware .* UNKNOWN$", done.stdout, re.MULTILINE), "the table says the same"
    if "--check" not in arguments:
        assert f"All customers: {inventory}/status/status.html" in done.stdout
    status: dict[str, Any] = json.loads((inventory / "status/status.json").read_text())
    return status


def test_a_run_writes_every_customer_that_is_declared(inventory: Path) -> None:
    status = status_of(inventory)
    assert list(states(status).items()) == [
        ("fabrikam", "failed"),
        ("northwind", "unreachable"),
        ("litware", "unknown"),
        ("wingtip", "unknown"),
        ("tailspin", "no droplet"),
        ("contoso", "proven"),
    ]
    why = {each["customer"]: each["evidence"] for each in status["customers"]}
    assert (why["northwind"], why["wingtip"]) == ("Connection timed out", "No such variable")
    # The second run finds its files in the inventory, and takes them for no customers.
    status = status_of(inventory, "--limit", "fabrikam")
    assert states(status)["contoso"] == "proven", "another run asked it a moment ago"
    assert len(status["customers"]) == 6
    written = (inventory / "status/status.json").read_text()
    status_of(inventory, "--check")
    assert (inventory / "status/status.json").read_text() == written, "a rehearsal writes nothing"
