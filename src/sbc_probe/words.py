"""The words for every cause and every reason of a renewal's failure, from causes.toml beside this file."""

from __future__ import annotations

import pkgutil
import tomllib
from dataclasses import dataclass

from sbc_probe.findings import REMARKS, STATES, Cause, State


@dataclass(frozen=True, slots=True)
class Words:
    """`section` is the part of the system, `saw` what the probe saw, `usually` what is behind it and what to do.

    The reasons of a renewal's failure have no title: they are shown in the evidence of a cause.
    """

    section: str
    saw: str
    usually: str
    title: str = ""


def _read() -> dict[str, Words]:
    sections = tomllib.loads((pkgutil.get_data("sbc_probe", "causes.toml") or b"").decode())
    return {name: Words(section, **rows[name]) for section, rows in sections.items() for name in rows}


WORDS = _read()
TITLES = {cause: WORDS[cause].title for cause in Cause}


def weight(cause: Cause) -> str:
    """What a cause makes of the SBC: a state, or `remark` for what is no reason to doubt a proof."""
    return "remark" if cause in REMARKS else str(STATES.get(cause, State.FAILED))
