"""The probe's unit, judged by Debian 13's own systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

REPOSITORY = Path(__file__).parents[2]
ROOT = Path(os.environ.get("KAMAILIO_ROOT", "/"))


@pytest.mark.skipif(
    "KAMAILIO_ROOT" not in os.environ or not shutil.which("systemd-analyze", path=f"{ROOT}/usr/bin"),
    reason="set KAMAILIO_ROOT to a Debian 13 root directory",
)
def test_the_unit_is_hardened() -> None:
    """2.0 or better of 10, where 10 is a unit without any protection."""
    template = trust_as_template((REPOSITORY / "roles/probe/templates/sbc-probe.service").read_text())
    text = Templar(loader=DataLoader(), variables={"ansible_managed": "by a test"}).template(template)
    with tempfile.TemporaryDirectory(prefix="unit-", dir=ROOT / "tmp") as directory:
        (unit := Path(directory) / "sbc-probe.service").write_text(str(text))
        judge = ["systemd-analyze", "security", "--offline=true", "--threshold=20"]
        done = subprocess.run(
            ["chroot", ROOT, *judge, "/" / unit.relative_to(ROOT)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout
