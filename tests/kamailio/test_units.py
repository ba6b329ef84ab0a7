"""How much of the machine the product's units could reach, by systemd's own word, and what Kamailio is linked with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.kamailio.running import COMMAND, REPOSITORY, ROOT, TEMPLATES, needs_kamailio

PACKAGED = ROOT / "usr/lib/systemd/system/kamailio.service"
UNITS = {
    "kamailio.service.d/20-sbc.conf": "roles/kamailio/templates/sbc.conf",
    "sbc-probe.service": "roles/probe/templates/sbc-probe.service",
    "sbc-packet-filter.socket": "roles/probe/templates/sbc-packet-filter.socket",
    "sbc-packet-filter@.service": "roles/probe/templates/sbc-packet-filter@.service",
    "sbc-trace@.service": "roles/kamailio/templates/sbc-trace@.service",
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
    "unit",
    [
        "kamailio.service",
        "sbc-probe.service",
        "sbc-packet-filter@.service",
        "sbc-retire.service",
        "sbc-trace@5.service",
    ],
)
def test_exposure_is_at_most_2(machine: Path, unit: str) -> None:
    done = analysed(machine, "security", "--offline=yes", "--no-pager", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


@needs_kamailio
def test_the_packages_own_unit_would_be_too_open(machine: Path) -> None:
    shutil.rmtree(machine / "etc/systemd/system/kamailio.service.d")
    assert analysed(machine, "security", "--offline=yes", "--threshold=20", "kamailio.service").returncode != 0


@needs_kamailio
def test_unattended_upgrades_leave_alone_all_that_kamailio_is_linked_with() -> None:
    def said(*command: str) -> str:
        return subprocess.run([*COMMAND, *command], capture_output=True, text=True, check=True).stdout

    loaded = re.findall(r'^loadmodule "(.+)"', (TEMPLATES / "kamailio.cfg").read_text(), re.MULTILINE)
    assert "tls.so" in loaded
    modules = said("find", "/usr/lib", "-path", "*/kamailio/modules/*.so").split()
    files = ["/usr/sbin/kamailio", *(path for path in modules if Path(path).name in loaded)]
    assert len(files) == 1 + len(loaded)
    libraries = set(re.findall(r"/(\S+\.so\S*) \(0x", said("ldd", *files)))
    owners = said("dpkg", "--search", *files, *(f"*/{Path(library).name}" for library in libraries))
    packages = {line.split(":")[0] for line in owners.splitlines() if not line.startswith("diversion")}
    assert {"kamailio", "kamailio-tls-modules", "libc6", "libssl3t64"} <= packages
    held = yaml.safe_load((REPOSITORY / "roles/base/vars/main.yml").read_text())["base_held"]
    assert [name for name in sorted(packages) if not any(re.match(pattern, name) for pattern in held)] == []
