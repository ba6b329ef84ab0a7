"""Whoever reads a cause in a report finds it in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from sbc_probe import renewal
from sbc_probe.findings import Cause

PAGE = Path(__file__).parents[2] / "docs/when-it-is-not-ap.md"


def test_every_cause_has_its_row_and_no_other_has() -> None:
    rows = set(re.findall(r"^\| `([a-z0-9_]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {str(cause) for cause in (*Cause, *renewal.Cause)}
