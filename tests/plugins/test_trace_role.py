"""The role that fetches a trace, with sbc-trace and journalctl played by scripts: it tells in words how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.machine import Programs
from tests.plugins.support import ROOT

PLAYBOOK = f"""
- hosts: localhost
  gather_facts: false
  vars_files:
    - {ROOT}/roles/trace/defaults/main.yml
    - {ROOT}/roles/trace/vars/main.yml
  tasks:
    - ansible.builtin.import_tasks: {ROOT}/roles/trace/tasks/main.yml
"""
Trace = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Run the role where `sbc-trace wait` and the journal say this, and `content` is in the trace's file, if any."""
    programs = Programs(tmp_path, monkeypatch)
    file = tmp_path / "contoso-20261123T143400Z.pcap"
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")

    def run(waited: str, journal: str, content: str | None) -> subprocess.CompletedProcess[str]:
        if content is not None:
            file.write_text(content)
        begun = f'echo "SIP is traced. Then there is, if a message came or went,"; echo "  {file}"'
        programs.add("sbc-trace", f'case "$1" in wait) {waited} ;; *) {begun} ;; esac')
        programs.add("journalctl", journal)
        return subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", "hosts.yml", "play.yml"],
            cwd=tmp_path,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_it_is_fetched_also_where_it_ended_before_anybody_waited(trace: Trace, tmp_path: Path) -> None:
    end = "echo 'the trace ends: Kamailio no longer traces'"
    shown = said(trace("echo no trace is being taken >&2; exit 1", end, "messages"))
    fetched = tmp_path / "traces/contoso-20261123T143400Z.pcap"
    assert fetched.read_text() == "messages"
    assert str(fetched) in shown
    assert "the trace ends: Kamailio no longer traces" in shown


def test_no_message_came(trace: Trace, tmp_path: Path) -> None:
    end = "echo 'the trace ends: its time is over'"
    shown = said(trace("echo nothing was captured: no message came or went >&2; exit 1", end, None))
    assert "nothing was captured: no message came or went" in shown
    assert "the trace ends: its time is over" in shown
    assert list((tmp_path / "traces").iterdir()) == []


def test_somebody_stopped_it(trace: Trace, tmp_path: Path) -> None:
    shown = said(trace("echo it", "exit 1", "messages"))
    assert "somebody stopped the trace" in shown
    assert (tmp_path / "traces/contoso-20261123T143400Z.pcap").exists()


def test_what_is_no_end_of_a_trace_is_an_error(trace: Trace) -> None:
    done = trace("echo systemctl: no bus >&2; exit 1", "exit 1", None)
    assert done.returncode != 0
    assert "systemctl: no bus" in done.stdout
