"""All exchanges of a run of the tests, held against the document where that is at hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import requests

from tests.contract.validator import Contract, Exchange, Violation
from tests.contract.waivers import WAIVERS, Waiver

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(os.environ.get("DIGITALOCEAN_CONTRACT", ROOT.parent / "shared" / "contracts" / "digitalocean-v2.json"))
MISSING = (
    f"NO CONTRACT CHECK: {FILE} is missing, so nothing says whether what is asked and answered is DigitalOcean's API;"
    " name the file in DIGITALOCEAN_CONTRACT"
)
SHOWN = 20


class Judge:
    """Judges exchanges and counts them; `contract` is None where there is no document."""

    def __init__(self, contract: Contract | None, waivers: Iterable[Waiver] = WAIVERS) -> None:
        self.contract = contract
        self.exchanges = 0
        self.waived: Counter[str] = Counter()
        self._waivers = tuple(waivers)
        self._in_order: set[tuple[object, ...]] = set()

    def judge(self, exchange: Exchange) -> list[Violation]:
        """What an exchange breaks and no waiver excuses. One that is like an earlier one in order is so, too."""
        self.exchanges += 1
        if self.contract is None or exchange.essence in self._in_order:
            return []
        found = []
        for violation in self.contract.violations(exchange):
            waiver = next((each for each in self._waivers if each.excuses(violation)), None)
            if waiver:
                self.waived[waiver.name] += 1
            else:
                found.append(violation)
        if not found:
            self._in_order.add(exchange.essence)
        return found

    def take(self, control: str) -> None:
        """Judge what the lab with this control interface has kept. Raises AssertionError with what is wrong."""
        __tracebackhide__ = True
        answer = requests.delete(f"{control.rstrip('/')}/exchanges", timeout=60)
        answer.raise_for_status()
        taken = answer.json()
        found = [violation for each in taken["exchanges"] for violation in self.judge(Exchange(**each))]
        lines = list({(each.operation, each.side, each.problem): str(each) for each in found}.values())
        if taken["forgotten"]:
            lines.append(
                f"{taken['forgotten']} exchanges were forgotten before anybody judged them: take them more often"
            )
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        assert not lines, "\n".join(["DigitalOcean's document is broken:", *lines[:SHOWN], *more])

    def __str__(self) -> str:
        """One sentence of what was judged."""
        if self.contract is None:
            return MISSING
        waived = ", ".join(f"{name} ({count})" for name, count in sorted(self.waived.items())) or "nothing"
        return f"{self.exchanges} exchanges held against {FILE.name}; excused: {waived}"


JUDGE = Judge(Contract(FILE) if FILE.exists() else None)
