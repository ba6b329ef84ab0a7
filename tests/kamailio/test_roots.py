"""The hook that keeps Kamailio's roots, and the probe's, run as a shell script over directories of the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.kamailio.running import REPOSITORY


class Machine:
    """A machine with the roots `One` and `Two` of Debian's, and `Ours` and `Two` added by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tls = directory / "tls"
        self.mozilla, self.by_hand = directory / "mozilla", directory / "by-hand"
        for path in (self.tls, self.mozilla, self.by_hand, directory / "bin"):
            path.mkdir()
        for file, text in {"One": "one\n", "Two": "two\n"}.items():
            (self.mozilla / f"{file}.crt").write_text(text)
        (self.by_hand / "sbc-Ours.crt").write_text("ours\n")
        self.service(is_active=False)

    def service(self, *, is_active: bool, answer: str = "Ok. TLS configuration reloaded.") -> None:
        for name, script in {
            "systemctl": "exit 0" if is_active else "exit 3",
            "kamcmd": f"echo called >>{self.directory}/calls; echo '{answer}'",
        }.items():
            path = self.directory / "bin" / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    def calls(self) -> int:
        path = self.directory / "calls"
        return len(path.read_text().split()) if path.exists() else 0

    def run(self, *, own: list[str], microsoft: tuple[str, ...] = ("One",)) -> subprocess.CompletedProcess[str]:
        variables = {
            "ansible_managed": "Ansible managed",
            "kamailio_note_loaded": "echo it has read",
            "kamailio_trusted_roots": str(self.tls / "trusted-roots.pem"),
            "kamailio_own_roots": str(self.tls / "own-roots.pem"),
            "sbc_certificate_roots": own,
            "sbc_microsoft_roots": list(microsoft),
        }
        template = trust_as_template((REPOSITORY / "roles/kamailio/templates/trusted-roots").read_text())
        text = Templar(loader=DataLoader(), variables=variables).template(template, overrides={"trim_blocks": True})
        text = text.replace("/usr/share/ca-certificates/mozilla", str(self.mozilla))
        text = text.replace("/usr/local/share/ca-certificates", str(self.by_hand))
        environment = os.environ | {"PATH": f"{self.directory}/bin:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, env=environment, umask=0o077)

    def file(self, name: str) -> str | None:
        path = self.tls / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_kamailio_gets_microsofts_roots_and_those_added_by_hand(machine: Machine) -> None:
    done = machine.run(own=[])
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.file("trusted-roots.pem") == "one\nours\n"
    assert machine.file("own-roots.pem") is None


def test_the_probe_gets_the_roots_that_our_certificate_may_lead_to(machine: Machine) -> None:
    done = machine.run(own=["Two", "Ours"])
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.file("own-roots.pem") == "two\nours\n"
    assert (machine.tls / "own-roots.pem").stat().st_mode & 0o777 == 0o644
    assert machine.file("trusted-roots.pem") == "one\nours\n"
    machine.run(own=[])
    assert machine.file("own-roots.pem") is None


def test_a_root_that_is_missing_is_named(machine: Machine) -> None:
    done = machine.run(own=["One", "Three"])
    assert done.returncode == 0
    assert f"{machine.mozilla}/Three.crt is missing, and so is {machine.by_hand}/sbc-Three.crt" in done.stderr
    assert machine.file("own-roots.pem") == "one\n"


def test_kamailio_is_told_only_of_a_change_and_until_it_took_it(machine: Machine) -> None:
    machine.service(is_active=True, answer="error: 500 - out of memory")
    done = machine.run(own=[])
    assert done.returncode == 1
    assert "out of memory" in done.stderr
    machine.service(is_active=True)
    assert machine.run(own=[]).returncode == 0
    assert machine.calls() == 2
    assert machine.run(own=["Two"]).returncode == 0
    assert machine.calls() == 2
    (machine.mozilla / "One.crt").write_text("renewed\n")
    assert machine.run(own=["Two"]).returncode == 0
    assert machine.calls() == 3
