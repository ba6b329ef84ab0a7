"""Whether a destination flaps: it goes from answering well to not doing so and back, again and again. Pure.

Kamailio keeps the moments of these turns for 15 intervals between two OPTIONS. With TURNS of them a destination counts
as flapping, whatever its last answer was; that ends by itself as the turns grow old. One that has been bad for STEADY
intervals without a turn no longer flaps: it is down, and why it is down is of more use.
"""

from __future__ import annotations

from dataclasses import dataclass

from sbc_probe.config import Config
from sbc_probe.findings import SLACK
from sbc_probe.model import Destination, Kamailio

WINDOW = 15
TURNS = 4
STEADY = 5


@dataclass(frozen=True, slots=True)
class Flapping:
    """`turns` within the last `window` s, at `per_hour`; `share` of that time it answered well.

    `until` is when enough of them will be too old, if no more come.
    """

    turns: int
    window: float
    share: float
    until: float

    @property
    def per_hour(self) -> float:
        return self.turns * 3600 / self.window


def flapping(config: Config, kamailio: Kamailio, destination: Destination, now: float) -> Flapping | None:
    """How it flaps, if it does. A turn in the future, from before the clock was set back, counts like any other."""
    longest = WINDOW * config.options_interval
    turns = [turn for turn in sorted(destination.turns) if turn >= now - longest]
    if len(turns) < TURNS:
        return None
    well = _is_well(destination, turns[-1])
    if not well and turns[-1] < now - STEADY * config.options_interval:
        return None
    begin = min(max(now - longest, kamailio.loaded_at), turns[0])
    window = max(now, turns[-1]) - begin
    # Backwards from now: every turn changes what it is.
    good, end = 0.0, max(now, turns[-1])
    for turn in (*reversed(turns), begin):
        good += (end - turn) if well else 0.0
        well, end = not well, turn
    window = max(window, config.options_interval)
    return Flapping(len(turns), window, min(1.0, good / window), turns[-TURNS] + longest)


def _is_well(destination: Destination, since: float) -> bool:
    """Whether its last turn was one for the better."""
    answer = destination.answer
    return answer is not None and 200 <= answer.code < 300 and answer.at >= since - SLACK
