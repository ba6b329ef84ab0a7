"""Drawings of a history: what was the case and when, and how long the answers took. Inline SVG, in HTML elements.

The horizontal axis is time, from `since` to `until`; positions are shares of it, so that a drawing fits any width while
its patterns and letters keep their size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from sbc_probe.findings import State
from sbc_probe.markup import element

if TYPE_CHECKING:
    from sbc_probe.history import RoundTrips, Span

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
PROVEN = str(State.PROVEN)
# Of several states that share one place in the drawing the first of these is shown, so that no fault is too short.
WORST = (str(State.FAILED), "flapping", str(State.WAITING), str(State.UNKNOWN))
UNWATCHED = "not watched"


def duration(seconds: float) -> str:
    """Seconds as people say them, in at most two units."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return "less than a second"
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        hours, minutes = divmod(round(seconds / MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / HOUR), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def milliseconds(seconds: float) -> str:
    """A round trip (s) as people say it."""
    value = seconds * 1000
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def clock_time(moment: float, day: bool = True) -> str:
    """A moment in UTC, with its day in the week."""
    return f"{datetime.fromtimestamp(moment, UTC):{'%a %H:%M' if day else '%H:%M'}}"


@dataclass(slots=True)
class Run:
    """Neighbouring places of a drawing with the same state; `seconds` of it were so, for these causes."""

    begin: float
    end: float
    state: str
    seconds: float = 0.0
    causes: dict[str, float] = field(default_factory=dict)

    def words(self) -> str:
        when = f"{clock_time(self.begin)} to {clock_time(self.end, self.end - self.begin > DAY / 2)} UTC"
        brief = self.seconds < 0.95 * (self.end - self.begin)
        most = sorted(self.causes, key=lambda cause: -self.causes[cause])[:3]
        causes = f": {', '.join(most)}" if most else ""
        return f"{when}, {self.state}{' for ' + duration(self.seconds) if brief else ''}{causes}"


def runs(spans: Iterable[Span], since: float, until: float, places: int) -> list[Run]:
    """The spans, drawn in so many places: each shows the worst that was so within it, however short.

    It is a gap where nobody watched for most of it and nothing bad is known.
    """
    width = (until - since) / places
    seconds = [defaultdict[str, float](float) for _ in range(places)]
    causes = [defaultdict[tuple[str, str], float](float) for _ in range(places)]
    for span in spans:
        state = UNWATCHED if span.state is None else str(span.state)
        begin, end = max(span.begin, since), min(span.end, until)
        place = min(places - 1, max(0, int((begin - since) / width)))
        while place < places and since + place * width < end:
            left, right = since + place * width, since + (place + 1) * width
            if (part := min(end, right) - max(begin, left)) > 0:
                seconds[place][state] += part
                if span.cause and state != PROVEN:
                    causes[place][state, span.cause] += part
            place += 1
    found: list[Run] = []
    for place in range(places):
        left = since + place * width
        inside = seconds[place]
        state = next((worst for worst in WORST if inside[worst]), PROVEN)
        if state == PROVEN and inside[PROVEN] < width / 2:
            state = UNWATCHED
        if not found or found[-1].state != state:
            found.append(Run(left, left, state))
        run = found[-1]
        run.end = left + width
        run.seconds += inside[state] if state != UNWATCHED else width - inside[PROVEN]
        for (of, cause), part in causes[place].items():
            if of == state:
                run.causes[cause] = run.causes.get(cause, 0.0) + part
    return found


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans, neighbours that differ in nothing but the flags made one."""
    found: list[Span] = []
    for span in spans:
        if found and (found[-1].state, found[-1].cause) == (span.state, span.cause) and span.begin <= found[-1].end:
            found[-1] = replace(found[-1], end=span.end)
        else:
            found.append(span)
    return found


def in_words(spans: Sequence[Span], since: float, until: float) -> str:
    """What a timeline shows, for who cannot see it."""
    total = defaultdict[str, float](float)
    times: Counter[str] = Counter()
    known = 0.0
    for span in joined(spans):
        seconds = min(span.end, until) - max(span.begin, since)
        if span.state is not None:
            total[str(span.state)] += seconds
            times[str(span.state)] += 1
            known += seconds
    if known <= 0:
        return f"not watched in these {duration(until - since)}"
    said = []
    for state in (PROVEN, *WORST):
        if state == PROVEN and total[state] >= known:
            said.append("proven throughout")
        elif total[state] or state == PROVEN:
            often = "" if state == PROVEN else " once" if times[state] == 1 else f" {times[state]} times"
            said.append(f"{state}{often} for {duration(total[state])}" if total[state] else "never proven")
    if (unwatched := until - since - known) > max(MINUTE, 0.005 * (until - since)):
        said.append(f"not watched for {duration(unwatched)}")
    return ", ".join(said)


def timeline(
    spans: Sequence[Span], since: float, until: float, places: int, ticks: int, unit: tuple[float, str]
) -> Element:
    """What was the case from `since` to `until`, with so many ticks below, labelled in units before the end."""

    def share(moment: float) -> str:
        return f"{100 * (moment - since) / (until - since):.4g}%"

    drawn = []
    for run in runs(spans, since, until, places):
        place = {"x": share(run.begin), "width": share(since + run.end - run.begin)}
        title = element("title", run.words())
        if run.state == UNWATCHED:
            shape = element("rect", title, y=0, height=24, class_="unwatched", **place)
            line = element("line", x1=place["x"], x2=share(run.end), y1=12, y2=12, class_="nothing")
            drawn += [shape, line]
        elif run.state == PROVEN:
            drawn.append(element("rect", title, y=5, height=14, class_="proven ground", **place))
        else:
            drawn.append(element("rect", title, y=0, height=24, fill=f"url(#as-{run.state})", **place))
    return element(
        "div",
        element("svg", drawn, class_="line", role="img", aria_label=in_words(spans, since, until)),
        axis(ticks, (until - since) / unit[0], unit[1]),
    )


def axis(ticks: int, length: float, unit: str) -> Element:
    """The labels below a drawing: `length` units ago at the left, now at the right."""
    labels = []
    for tick in range(ticks + 1):
        left = tick / ticks
        ago = length * (1 - left)
        anchor = "start" if tick == 0 else "end" if tick == ticks else "middle"
        label = "now" if tick == ticks else f"\N{MINUS SIGN}{ago:g} {unit}"
        labels.append(element("text", label, x=f"{100 * left:g}%", y=14, text_anchor=anchor))
    return element("svg", labels, class_="axis", aria_hidden="true")


def swatch(state: str) -> Element:
    """A sample of how a timeline draws a state, for its legend."""
    if state == UNWATCHED:
        shape = element("line", x1=0, x2="100%", y1=7, y2=7, class_="nothing")
    elif state == PROVEN:
        shape = element("rect", y=3, width="100%", height=8, class_="proven ground")
    else:
        shape = element("rect", width="100%", height=14, fill=f"url(#as-{state})")
    return element("svg", shape, aria_hidden="true")


def plot(points: Sequence[RoundTrips], since: float, until: float, step: float, top: float) -> Element:
    """Round trips: a band from the quickest to the slowest of each step, and a line for the mean. `top` in s."""
    steps = (until - since) / step
    bands, means, titles = [], [], []
    before = None
    for point in points:
        left = (point.at - since) / step
        x, right = max(0.0, left), min(steps, left + 1)
        low, mean, high = (100 - 100 * min(1.0, value / top) for value in (point.low, point.mean, point.high))
        bands.append(f"M{x:.2f} {low:.1f}H{right:.2f}V{high:.1f}H{x:.2f}z")
        joined = before is not None and abs(before - left) < 0.01
        means.append(f"{'L' if joined else 'M'}{x:.2f} {mean:.1f}H{right:.2f}")
        before = left + 1
        words = (
            f"{clock_time(point.at)} UTC, {point.count} answers: {milliseconds(point.low)} to "
            f"{milliseconds(point.high)}, on average {milliseconds(point.mean)}"
        )
        titles.append(
            element(
                "rect", element("title", words), class_="reach", x=round(x, 2), width=round(right - x, 2), height=100
            )
        )
    lines = [element("line", class_="tick", x1="0", x2="100%", y1=y, y2=y) for y in ("0%", "50%", "100%")]
    drawing = element(
        "svg",
        element("path", class_="band", d="".join(bands)),
        element("path", class_="mean", d="".join(means)),
        titles,
        width="100%",
        height="100%",
        viewBox=f"0 0 {steps:g} 100",
        preserveAspectRatio="none",
    )
    scale = [
        element("text", milliseconds(top), x=0, y=11, class_="scale"),
        element("text", milliseconds(top / 2), x=0, y="50%", dy=11, class_="scale"),
    ]
    return element(
        "div",
        element("svg", lines, drawing, scale, class_="plot", role="img", aria_label=plot_in_words(points)),
        axis(4, (until - since) / HOUR, "h"),
    )


def plot_in_words(points: Sequence[RoundTrips]) -> str:
    """What a plot of round trips shows."""
    if not points:
        return "no round trips are known"
    count = sum(point.count for point in points)
    mean = sum(point.mean * point.count for point in points) / count
    return (
        f"{milliseconds(min(p.low for p in points))} to {milliseconds(max(p.high for p in points))}, "
        f"on average {milliseconds(mean)}, {count:,} answers"
    )


def round_top(seconds: float) -> float:
    """The least of 1, 2, 5, 10, 20 ... ms that is no less."""
    return next(top for top in _tops() if top >= seconds)


def _tops() -> Iterator[float]:
    unit = 0.001
    while True:
        yield from (unit, 2 * unit, 5 * unit)
        unit *= 10
