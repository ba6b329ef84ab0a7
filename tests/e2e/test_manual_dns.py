"""A customer whose zone is not at DigitalOcean: the records are printed and waited for, and the run goes on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e import world

FQDN = "sbc.fabrikam.test"
TENANT = f"adatum.{FQDN}"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    settings = {"sbc_fqdn": FQDN, "sbc_domain": "fabrikam.test", "sbc_dns": "manual", "sbc_tenants": [TENANT]}
    return world.inventory(tmp_path / "manual", {"fabrikam": settings})


def test_the_records_are_asked_for_and_waited_for(trunk: None, inventory: Path) -> None:
    control("PUT", f"microsoft/trunks/{FQDN}", {"enabled": True})
    said: list[str] = []
    with subprocess.Popen(
        [str(world.BIN / "ansible-playbook"), "-i", str(inventory), "site.yml"],
        cwd=world.ROOT,
        env=world.environment({"PYTHONUNBUFFERED": "1"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as rollout:
        assert rollout.stdout is not None
        for line in rollout.stdout:
            said.append(line)
            if "FAILED - RETRYING: [fabrikam]" in line:
                break
        text = " ".join("".join(said).split())
        printed = re.findall(r"(\S+)\. \d+ IN (A|NS) ([\w.-]+)", text)
        assert [(name, kind) for name, kind, _ in printed] == [
            (FQDN, "A"),
            (TENANT, "A"),
            (f"_acme-challenge.{FQDN}", "NS"),
        ], text
        made = {name: {kind: data} for name, kind, data in printed}
        control("PUT", "dns/names", control("GET", "dns/names") | made)
        said += rollout.stdout.readlines()
    assert rollout.returncode == 0, "".join(said)
    assert "PROVEN" in "".join(said)
    answer = world.options(TENANT)
    assert answer["code"] == 200, answer
    assert f"*.{FQDN}" in answer["certificate"]["names"]
    world.destroy("fabrikam")
    control("DELETE", f"microsoft/trunks/{FQDN}")
