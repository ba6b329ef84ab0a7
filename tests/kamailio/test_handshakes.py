"""Why Kamailio has one TCP worker: with more of them RSA signatures go wrong under concurrent handshakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kamailio.running import ROOT, TEMPLATES, command, needs_kamailio

SCRIPT = Path(__file__).with_name("handshakes.py")
PACKAGE_DEFAULT = 8


def handshakes(workers: int) -> dict[str, Any]:
    """A thousand outgoing TLS handshakes with an RSA key, forty at a time."""
    shutil.copy(SCRIPT, ROOT / "tmp/handshakes.py")
    arguments = ("--module", "tls", "--workers", str(workers), "--handshakes", "1000")
    done = subprocess.run(command("python3", "/tmp/handshakes.py", *arguments), capture_output=True, text=True)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chosen_workers() -> int:
    """The number in the product's own configuration."""
    (number,) = re.findall(r"^tcp_children=(\d+)$", (TEMPLATES / "kamailio.cfg").read_text(), flags=re.MULTILINE)
    return int(number)


@needs_kamailio
@pytest.mark.full
def test_the_package_default_spoils_signatures() -> None:
    assert handshakes(PACKAGE_DEFAULT)["bad"] > 0


@needs_kamailio
def test_the_chosen_number_makes_a_thousand_good_ones() -> None:
    found = handshakes(chosen_workers())
    assert found["good"] >= 1000
    assert found["bad"] == 0
