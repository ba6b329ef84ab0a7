"""The page on /: one glance says green or why not. See docs/page.md for how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from sbc_probe import content, flapping
from sbc_probe.charts import (
    DAY,
    HOUR,
    UNWATCHED,
    duration,
    in_words,
    joined,
    milliseconds,
    plot,
    plot_in_words,
    round_top,
    swatch,
    timeline,
)
from sbc_probe.config import Config
from sbc_probe.findings import Finding, State, date
from sbc_probe.markup import LOOKS, Child, Look, chip, document, element, look_of, prose, symbol
from sbc_probe.model import (
    Clock,
    Evidence,
    Kamailio,
    Loaded,
    Lookup,
    Memory,
    PacketFilter,
    Renewal,
    Theirs,
    Unread,
    connected,
)
from sbc_probe.report import headline, shown_certificate, theirs_of
from sbc_probe.verdict import DestinationVerdict, Verdict
from sbc_probe.words import TITLES

if TYPE_CHECKING:
    from sbc_probe.history import History, Requests, RoundTrips, Span

WEEK = 7 * DAY
WINDOWS = {"1 hour": HOUR, "24 hours": DAY, "7 days": WEEK}
# How often (s) a browser asks anew.
REFRESH = 30
STEP = HOUR / 2
INCIDENTS = 12
ALL_GOOD = "Every proxy answers us, Microsoft's own OPTIONS come and are answered, the certificate is in order."

Row = tuple[str, Child]
# Our OPTIONS by the window (s) and by proxy.
Sent = dict[float, dict[str, "Requests"]]


def render(
    config: Config,
    evidence: Evidence,
    verdict: Verdict,
    history: History,
    now: float,
    *,
    refresh: bool = True,
) -> str:
    """The whole page as HTML, as it is at `now`; `refresh`: the browser is told to ask again."""
    primary = verdict.findings[0] if verdict.findings else None
    look, title = look_of(verdict.state, primary), headline(verdict)
    requests = {window: history.requests(now - window, now) for window in WINDOWS.values()}
    return document(
        look,
        f"{title} \N{EN DASH} {config.customer}",
        element("p", "This page is old. ", element("a", "Load it again", href="/"), class_="old", role="alert"),
        _verdict(config, evidence, primary, look, title, _lasting(history, now), now),
        element(
            "main",
            _more(verdict),
            _overall(history, now),
            [_proxy(config, item, evidence, history, requests, now) for item in verdict.destinations],
            element(
                "div",
                _theirs(evidence, now),
                _certificate(config, evidence),
                _tenants(config, evidence, now),
                _machine(evidence, history),
                class_="cards",
            ),
        ),
        _footer(config, refresh),
        refresh=REFRESH if refresh else None,
    )


def _verdict(
    config: Config, evidence: Evidence, primary: Finding | None, look: Look, title: str, lasting: str, now: float
) -> Element:
    age = now - evidence.taken_at
    lead = lasting if primary else f"{lasting}. {ALL_GOOD}"
    return element(
        "header",
        symbol(look),
        element("h1", title),
        element(
            "div",
            element("b", f"{duration(age)} ago" if age >= 1 else "just now" if age > -1 else "ahead of the clock"),
            " ",
            element("span", f"taken {datetime.fromtimestamp(evidence.taken_at, UTC):%Y-%m-%d %H:%M:%S} UTC"),
            class_="taken",
        ),
        element("p", element("strong", config.customer), f" {config.fqdn}{lead}", class_="lead"),
        element("div", _finding(primary, "the cause"), class_="why") if primary else None,
        class_=f"verdict {look.name}",
    )


def _lasting(history: History, now: float) -> str:
    """How long it has been as it is, as far back as somebody watched."""
    spans = history.timeline("", now - WEEK, now)
    good = bool(spans) and spans[-1].state == State.PROVEN
    begin = end = None
    for span in reversed(spans):
        if span.state is None or (span.state == State.PROVEN) is not good:
            end = span
            break
        begin = span.begin
    if begin is None:
        return ""
    least = "" if end and end.state is not None else "at least "
    return f", {'' if good else 'not '}proven for {least}{duration(now - begin)}"


def _finding(finding: Finding, role: str) -> Element:
    return element(
        "dl",
        element("dt", role),
        element("dd", element("strong", TITLES[finding.cause]), " ", element("code", str(finding.cause))),
        element("dt", "evidence"),
        element("dd", finding.evidence),
        element("dt", "next step"),
        element("dd", prose(finding.next_step), class_="step"),
        class_="finding",
    )


def _more(verdict: Verdict) -> list[Element]:
    return [
        _section(title, element("div", [_finding(finding, role) for finding in findings], class_="findings"))
        for title, role, findings in (
            ("Also found", "also", verdict.findings[1:]),
            ("Worth knowing, no reason to doubt", "remark", verdict.remarks),
        )
        if findings
    ]


def _section(title: Child, *content: Child, kind: str = "card") -> Element:
    return element("section", element("h2", title), content, class_=kind)


def _overall(history: History, now: float) -> Element:
    legend = [
        element("li", swatch(state), state)
        for state in ("proven", "failed", "flapping", "waiting", "unknown", UNWATCHED)
    ]
    return _section(
        "The SBC as a whole",
        element("div", _timelines(history, "", now), class_="charts"),
        element("ul", legend, class_="legend", aria_label="how the timelines are drawn"),
    )


def _timelines(history: History, subject: str, now: float) -> list[Element]:
    made = []
    for title, window, places, ticks, unit in (
        ("24 hours", DAY, 96, 4, (HOUR, "h")),
        ("7 days", WEEK, 84, 7, (DAY, "d")),
    ):
        spans = history.timeline(subject, now - window, now)
        made.append(
            element(
                "figure",
                element("figcaption", element("strong", title), " ", in_words(spans, now - window, now)),
                timeline(spans, now - window, now, places, ticks, unit),
            )
        )
    return made


def _proxy(
    config: Config, item: DestinationVerdict, evidence: Evidence, history: History, requests: Sent, now: float
) -> Element:
    destination = item.destination
    points = history.round_trips(destination.host, now - DAY, now, STEP)
    look = look_of(item.state, item.finding)
    return element(
        "section",
        element(
            "header",
            element("h2", destination.host),
            chip(look, look.name),
            element("span", TITLES[item.finding.cause], class_="quiet") if item.finding else None,
        ),
        element(
            "div",
            _facts(_proxy_facts(config, item, evidence, now)),
            _availability(history, destination.host, requests, now),
            class_="charts",
        ),
        element(
            "div",
            _timelines(history, destination.host, now),
            _round_trips(points, now),
            _incidents(history.timeline(destination.host, now - WEEK, now)),
            class_="charts",
        ),
        class_="card proxy",
    )


def _proxy_facts(config: Config, item: DestinationVerdict, evidence: Evidence, now: float) -> Iterator[Row]:
    destination, answer = item.destination, item.destination.answer
    if destination.flags:
        yield "dispatcher", [element("code", destination.flags), " ", item.flags_meaning or ""]
    else:
        yield "dispatcher", _unknown("Kamailio says nothing of it")
    if found := evidence.proxies.get(destination.host):
        yield "address", ", ".join(found.addresses) or _unknown(found.error or "")
    yield "we asked", _ago(destination.sent_at, now)
    if answer:
        # What follows the semicolon is the Reason header.
        phrase, *reason = f"{answer.code} {answer.reason}".rstrip().split("; ", 1)
        trip = f", in {milliseconds(answer.round_trip)}" if answer.round_trip is not None else ""
        yield (
            "it answered",
            [element("strong", phrase), [f"; {each}" for each in reason], f", {_since(answer.at, now)} ago{trip}"],
        )
        yield "so since", date(answer.since)
        if answer.retry_after is not None:
            yield "it asks us to wait", duration(answer.retry_after)
    else:
        yield "it answered", _unknown("no answer is known")
    yield (
        "round trip",
        f"{destination.latency_ms:.0f} ms on average" if destination.latency_ms is not None else _unknown(),
    )
    window = flapping.WINDOW * config.options_interval
    if lately := [turn for turn in destination.turns if turn > now - window]:
        yield "comes and goes", _turns(evidence, lately, window, now)
    if destination.lost:
        yield "never answered", f"{destination.lost:,} since Kamailio's start"


def _turns(evidence: Evidence, turns: list[float], window: float, now: float) -> str:
    """How often it changed in the `window` (s) that Kamailio remembers; a restart empties its memory."""
    watched = now - evidence.kamailio.loaded_at if isinstance(evidence.kamailio, Kamailio) else window
    where = f"last {duration(window)}" if watched >= window else f"{duration(watched)} since Kamailio's start"
    times = "once" if len(turns) == 1 else f"{len(turns)} times"
    return f"changed {times} in the {where}, the last time {_since(turns[-1], now)} ago"


def _availability(history: History, host: str, requests: Sent, now: float) -> Element:
    rows = []
    for title, window in WINDOWS.items():
        found = history.availability(host, now - window, now)
        whole = sum(each.sent for each in requests[window].values())
        its = requests[window].get(host)
        brief = 0 < found.known < 0.99 * window
        watched = element("small", f" {duration(found.known)} watched") if brief else None
        rows.append(
            element(
                "tr",
                element("th", title, watched, scope="row"),
                element("td", element("b", percent(found.share)) if found.share is not None else _unknown()),
                element("td", element("b", percent(its.sent / whole)) if its and whole else _unknown()),
                element("td", f"{its.answered:,} of {its.sent:,}" if its else _unknown()),
            )
        )
    return element(
        "table",
        element(
            "thead",
            element(
                "tr",
                element("th", "in the last", scope="col"),
                [
                    element("th", words, scope="col", title=meaning)
                    for words, meaning in (
                        ("efficiency", "the share of the time watched in which it was proven"),
                        ("usage", "its share of the requests sent to all proxies"),
                        ("answered", "OPTIONS answered, of those sent to it"),
                    )
                ],
            ),
        ),
        element("tbody", rows),
    )


def percent(share: float) -> str:
    """A share in per cent, rounded down: 100 % is said of the whole only."""
    return "100\N{NO-BREAK SPACE}%" if share >= 1 else f"{int(share * 10000) / 100:.2f}\N{NO-BREAK SPACE}%"


def _round_trips(points: list[RoundTrips], now: float) -> Element:
    words = plot_in_words(points)
    caption = element("figcaption", element("strong", "Round trips, 24 hours"), " ", words)
    if not points:
        return element("figure", caption)
    return element("figure", caption, plot(points, now - DAY, now, STEP, round_top(max(p.high for p in points))))


def _incidents(spans: list[Span]) -> Element | None:
    """The latest times that were anything but good, in words and without a pointer to hover with."""
    bad = [span for span in joined(spans) if span.state not in (None, State.PROVEN)]
    if not bad:
        return None
    rows = []
    for span in reversed(bad[-INCIDENTS:]):
        look = LOOKS[str(span.state)]
        rows.append(
            element(
                "tr",
                element("td", date(span.begin)),
                element("td", chip(look, look.name)),
                element("td", element("code", span.cause) if span.cause else ""),
                element("td", duration(span.end - span.begin)),
            )
        )
    rest = f", the last {INCIDENTS}" if len(bad) > INCIDENTS else ""
    return element(
        "details",
        element("summary", f"Not proven {'once' if len(bad) == 1 else f'{len(bad)} times'} in 7 days{rest}"),
        element(
            "table",
            element("thead", element("tr", [element("th", t, scope="col") for t in ("from", "state", "cause", "for")])),
            element("tbody", rows),
        ),
    )


def _theirs(evidence: Evidence, now: float) -> Element:
    theirs = theirs_of(evidence)
    rows: list[Row]
    if theirs:
        rows = [
            ("last came", f"{_since(theirs.at, now)} ago"),
            ("from", theirs.source + (f", which calls itself {theirs.peer}" if theirs.peer else "")),
            ("we answered", str(theirs.code) if theirs.code is not None else _unknown("nothing")),
            ("agent", theirs.agent or _unknown()),
            ("since the start", _counts(theirs)),
        ]
    elif isinstance(evidence.kamailio, Kamailio):
        rows = [("last came", "never since Kamailio's start")]
    else:
        rows = [("last came", _unknown(evidence.kamailio.why))]
    return _section("Microsoft's OPTIONS to us", _facts(rows))


def _counts(theirs: Theirs) -> Child:
    codes = ", ".join(f"{count:,} answered {code}" for code, count in sorted(theirs.codes.items()))
    return codes or (f"{theirs.count:,}" if theirs.count is not None else _unknown())


def _certificate(config: Config, evidence: Evidence) -> Element:
    shown = shown_certificate(evidence)
    if shown is None:
        why = evidence.on_disk.why if isinstance(evidence.on_disk, Unread) else ""
        return _section("Certificate", _facts([("state", _unknown(why))]))
    life = max(1.0, shown.not_after - shown.not_before)
    left = shown.not_after - evidence.taken_at
    share = max(0.0, min(1.0, left / life))
    due = f"{100 * (shown.not_after - content.renewal_due(shown)) / life:.1f}%"
    said = (
        f"{left / DAY:.0f} of {life / DAY:.0f} days are left"
        if left > 2 * DAY
        else f"{duration(left)} are left"
        if left > 0
        else f"it ended {duration(-left)} ago"
    )
    bar = element(
        "svg",
        element("rect", class_="whole", width="100%", height="100%", rx=3),
        element("rect", class_="proven ground", width=f"{100 * share:.1f}%", height="100%", rx=3),
        element("line", x1=due, x2=due, y1="0", y2="100%") if config.issued_by == "certbot" else None,
        class_="bar",
        role="img",
        aria_label=said,
    )
    bits = f" {shown.key_bits}" if shown.key_bits else ""
    rows: list[Row] = [
        ("life", element("strong", said)),
        ("ends", date(shown.not_after)),
        ("names", ", ".join(shown.names) or _unknown("none")),
        ("key", f"{shown.key_type}{bits}"),
        ("issuer", shown.issuer),
        ("read from", "the wire" if shown is evidence.port.certificate else "the disk: our port shows none"),
        ("installed", date(evidence.installed_at) if evidence.installed_at is not None else _unknown()),
        ("renewal", _renewal(config, evidence)),
    ]
    return _section("Certificate", bar, _facts(rows))


def _renewal(config: Config, evidence: Evidence) -> Child:
    match evidence.renewal:
        case _ if config.issued_by == "files":
            return "by hand: it was bought"
        case Renewal(failing=True) as record:
            return f"fails, {record.attempts} in a row: {record.cause}, last {date(record.at)}"
        case Renewal() as record:
            return f"certbot's last run was good, {date(record.at)}"
        case Unread(why=why):
            return _unknown(why)
        case _:
            return "certbot has not run since this machine's start"


def _tenants(config: Config, evidence: Evidence, now: float) -> Element | None:
    if not config.tenants:
        return None
    asked = evidence.kamailio.theirs_of_tenants if isinstance(evidence.kamailio, Kamailio) else {}
    rows: list[Row] = []
    for name in config.tenants:
        match evidence.tenants.get(name):
            case Lookup(addresses=addresses) if addresses == (config.public_address,):
                leads: Child = "leads here"
            case Lookup(addresses=addresses) if addresses:
                leads = f"leads to {', '.join(addresses)}"
            case Lookup(negative=True):
                leads = "has no address"
            case _:
                leads = _unknown()
        rows.append((name, [leads, f", Microsoft asked {_since(asked[name].at, now)} ago" if name in asked else None]))
    return _section("Tenants", _facts(rows))


def _machine(evidence: Evidence, history: History) -> Element:
    rows = list(_machine_facts(evidence))
    if history.trouble:
        rows.append(("history", history.trouble))
    return _section("Kamailio and its machine", _facts(rows))


def _machine_facts(evidence: Evidence) -> Iterator[Row]:
    match evidence.kamailio:
        case Unread(why=why):
            yield "Kamailio", _unknown(why)
        case kamailio:
            yield "version", kamailio.version or _unknown()
            yield "up since", date(kamailio.loaded_at)
            match kamailio.memory:
                case Memory(total=total, used=used):
                    yield "shared memory", f"{used / 2**20:.1f} of {total / 2**20:.0f} MiB in use"
                case Unread(why=why):
                    yield "shared memory", _unknown(why)
            match kamailio.connections:
                case Unread(why=why):
                    yield "TLS connections", _unknown(why)
                case connections:
                    inbound, outbound = connected(connections)
                    yield "TLS connections", f"{outbound} of ours, {inbound} to us"
    match evidence.loaded:
        case Loaded() as loaded:
            same = loaded.read == loaded.on_disk
            yield "configuration", ("as on disk" if same else "differs from the disk") + f", read {date(loaded.at)}"
        case Unread(why=why):
            yield "configuration", _unknown(why)
    match evidence.clock:
        case Clock(offset=None, synchronized=synchronized):
            yield (
                "clock",
                f"{'' if synchronized else 'not '}synchronised, as systemd-timesyncd says; no time server answers",
            )
        case Clock(offset=offset, server=server) if offset is not None:
            yield "clock", f"{abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} {server or 'a time server'}"
        case Unread(why=why):
            yield "clock", _unknown(why)
    match evidence.packet_filter:
        case PacketFilter(admitted=admitted):
            yield (
                "packet filter",
                "open to all" if admitted is None else f"lets in {', '.join(admitted) or 'nobody'}",
            )
        case Unread(why=why):
            yield "packet filter", _unknown(why)


def _facts(rows: Iterable[Row]) -> Element:
    return element("dl", [[element("dt", name), element("dd", value)] for name, value in rows], class_="facts")


def _unknown(why: str = "") -> Element:
    """A value that could not be read; never a 0."""
    return element("span", f"not known: {why}" if why else "not known", class_="quiet")


def _since(moment: float, now: float) -> str:
    return duration(now - moment)


def _ago(moment: float | None, now: float) -> Child:
    return f"{_since(moment, now)} ago" if moment is not None else _unknown()


def _footer(config: Config, refresh: bool) -> Element:
    other = ("/?still", f"loads itself anew every {REFRESH} s: stop") if refresh else ("/", "stands still: load anew")
    return element(
        "footer",
        element("span", f"{config.customer}: {config.fqdn}, {config.addresses}, cloud {config.cloud}"),
        [element("a", path, href=path) for path in ("/status.json", "/metrics", "/healthz")],
        element("a", other[1], href=other[0]),
    )
