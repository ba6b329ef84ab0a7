"""What systemd says of the product's own units: how much of the machine each of them could reach."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.kamailio.running import COMMAND, REPOSITORY, ROOT, needs_kamailio

PACKAGED = ROOT / "usr/lib/systemd/system/kamailio.service"
UNITS = {
    "kamailio.service.d/20-sbc.conf": "roles/kamailio/templates/sbc.conf",
    "sbc-probe.service": "roles/probe/templates/sbc-probe.service",
    "sbc-packet-filter.socket": "roles/probe/templates/sbc-packet-filter.socket",
    "sbc-packet-filter@.service": "roles/probe/templates/sbc-packet-filter@.service",
    "sbc-retire.service": "roles/certificate/templates/sbc-retire.service",
}
VARIABLES = {
    "ansible_managed": "Ansible managed",
    "kamailio_max_connections": 256,
    "kamailio_shm_megabytes": 79,
    "certificate_retire_within": 600,
}


@pytest.fixture
def machine(directory: Path) -> Path:
    """A directory that systemd takes for the root directory of a machine, with the units in it."""
    units = directory / "etc/systemd/system"
    (units / "kamailio.service.d").mkdir(parents=True)
    shutil.copy(PACKAGED, units)
    templar = Templar(loader=DataLoader(), variables=VARIABLES)
    for name, template in UNITS.items():
        text = templar.template(trust_as_template((REPOSITORY / template).read_text()), overrides={"trim_blocks": True})
        (units / name).write_text(text)
    return directory


def analysed(machine: Path, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = "/" / machine.relative_to(ROOT)
    tool = [*COMMAND, "systemd-analyze", verb, f"--root={root}", *arguments]
    return subprocess.run(tool, capture_output=True, text=True)


@needs_kamailio
@pytest.mark.parametrize(
    "unit", ["kamailio.service", "sbc-probe.service", "sbc-packet-filter@.service", "sbc-retire.service"]
)
def test_exposure_is_at_most_2(machine: Path, unit: str) -> None:
    done = analysed(machine, "security", "--offline=yes", "--no-pager", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


@needs_kamailio
def test_the_packages_own_unit_would_be_too_open(machine: Path) -> None:
    shutil.rmtree(machine / "etc/systemd/system/kamailio.service.d")
    assert analysed(machine, "security", "--offline=yes", "--threshold=20", "kamailio.service").returncode != 0
