"""The page for people: what is read on it, at the end of weeks lived by a real history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
import weeks
from by_hand import CLOSED, CONFIG, DAY, GOOD, NOW, PROXIES, REFUSED, answered, evidence, kamailio, port, theirs
from tinyhtml5.parser import HTMLParser
from weeks import HOUR, MINUTE, Fault, Week

from sbc_probe import charts, page
from sbc_probe.config import Config
from sbc_probe.findings import Cause, State
from sbc_probe.history import History, Span
from sbc_probe.markup import LOOKS, prose
from sbc_probe.model import Clock, Evidence, Lookup, Unread
from sbc_probe.style import STYLE
from sbc_probe.verdict import aged, judge
from sbc_probe.words import TITLES

# A Reason phrase, a name in a certificate, a User-Agent: others choose them.
HOSTILE = "</dd></style><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'`\x1b[2J\u202eeman\ud800\x00"


def texts(html: str) -> list[str]:
    """The texts of a page as a browser finds them; a page that is no good HTML is an error."""
    parser = HTMLParser(namespace_html_elements=False)
    root = parser.parse(html)
    assert parser.errors == []
    for style in root.iter("style"):
        style.text = ""
    return [text.strip() for text in root.itertext() if text.strip()]


def words(html: str) -> str:
    return " ".join(texts(html))


def shown(history: History, found: Evidence, now: float = NOW + 3, config: Config = CONFIG) -> str:
    return page.render(config, found, judge(config, found), history, now)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.sqlite")
    yield history
    history.close()


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> str:
    return weeks.shown(weeks.WEEKS["red"], tmp_path_factory.mktemp("red"))


def part(html: str, host: str) -> str:
    """What the page says of one proxy."""
    sections: list[str] = re.findall(r"<section.*?</section>", html, re.DOTALL)
    return next(section for section in sections if f"<h2>{host}</h2>" in section)


def test_the_state_comes_first_in_the_title(red: str, history: History) -> None:
    assert texts(red)[0] == "✘ NOT PROVEN \N{EN DASH} acme"
    assert texts(shown(history, evidence()))[0] == "✔ PROVEN \N{EN DASH} acme"
    waiting = kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED, theirs=None)
    assert texts(shown(history, evidence(kamailio=waiting)))[0] == "… READY, WAITING FOR MICROSOFT \N{EN DASH} acme"
    denied = evidence(kamailio=Unread("may not", denied=True))
    assert texts(shown(history, denied))[0] == "? NOT YET KNOWN \N{EN DASH} acme"


def test_one_cause_its_evidence_and_the_next_step(red: str) -> None:
    said = words(red)
    assert "acme sbc.example.com, not proven for 26 min" in said
    assert "the cause A proxy cannot be reached proxy_unreachable" in said
    assert "evidence sip2.pstnhub.microsoft.com: 52.114.8.2 port 5061: TCP timeout" in said
    assert "next step Check outbound TCP 5061" in said


def test_a_proxy_has_its_flags_its_answer_and_its_week(red: str) -> None:
    good, bad = (words(f"<!doctype html><title>x</title>{part(red, host)}") for host in PROXIES[:2])
    assert "active, probed: answers our OPTIONS" in good
    assert "it answered 200 OK , 7 s ago, in " in good
    assert "24 hours proven throughout" in good
    assert "failed A proxy cannot be reached" in bad
    assert "inactive: no answer or a refusal, still probed" in bad
    assert "24 hours proven for 23 h 30 min, failed 2 times for 30 min" in bad
    assert "not watched for 3 h" in bad
    assert "Not proven 2 times in 7 days" in bad


def test_the_reason_of_a_refusal_is_told(history: History) -> None:
    refused = {"flags": "IP", "answer": answered(403, 'Forbidden; Q.850;cause=63;text="no such trunk"')}
    html = shown(history, evidence(kamailio=kamailio(sip2=refused)))
    assert '<strong>403 Forbidden</strong>; Q.850;cause=63;text="no such trunk", 13 s ago' in html


def test_efficiency_is_rounded_down_and_usage_is_a_share(red: str) -> None:
    hour = re.search(
        r"1 hour</th><td><b>(\S+)\s%</b></td><td><b>(\S+)\s%</b></td><td>(.*?)</td>", part(red, PROXIES[1])
    )
    assert hour
    assert 56 < float(hour[1]) < 59
    assert hour[2] == "33.33"
    assert re.fullmatch(r"3\d of 6\d", hour[3])
    assert page.percent(1) == "100\N{NO-BREAK SPACE}%"
    assert page.percent(0.99999) == "99.99\N{NO-BREAK SPACE}%"


def test_every_cause_has_a_title() -> None:
    assert set(TITLES) == set(Cause)


def test_a_page_needs_nothing_from_elsewhere_and_is_small(red: str) -> None:
    assert not re.search(r"<script|\bsrc=|@import|url\((?!#)|href=\"(?!#|/[a-z?]|/\"|data:)", red)
    assert len(red.encode()) < 100_000


def test_a_page_stays_small_whatever_has_happened(tmp_path: Path) -> None:
    """A proxy that fails for a minute in every quarter of an hour is good or bad in every place of the drawing."""
    faults = [
        Fault(minute * MINUTE, (minute - 3) * MINUTE, host, kind)
        for minute in range(7 * 24 * 60, 0, -30)
        for host, kind in zip(PROXIES, ("silent", "forbids", "overloaded"), strict=True)
    ]
    assert len(weeks.shown(Week(faults), tmp_path).encode()) < 100_000


def test_what_others_say_stays_text(history: History) -> None:
    config = replace(CONFIG, tenants=("<b>.example.com",))
    found = evidence(
        kamailio=kamailio(
            sip={"flags": "IP", "answer": answered(500, HOSTILE, names=(HOSTILE,))},
            theirs=replace(theirs(), peer=HOSTILE, agent=HOSTILE, source=HOSTILE),
            version=HOSTILE,
        ),
        clock=Unread(HOSTILE),
        tenants={"<b>.example.com": Lookup((HOSTILE,))},
    )
    html = shown(history, found, config=replace(config, customer=HOSTILE))
    assert "<script" not in html
    assert "<img" not in html
    html.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", html)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;" in words(html)


def test_what_is_not_known_is_no_zero(history: History) -> None:
    unread = Unread("no socket")
    found = evidence(
        kamailio=unread,
        port=CLOSED,
        on_disk=Unread("no file"),
        clock=Clock(False),
        packet_filter=Unread("no helper"),
    )
    said = words(shown(history, found))
    assert "Kamailio not known: no socket" in said
    assert "last came not known: no socket" in said
    assert "Certificate state not known: no file" in said
    assert "clock not synchronised, as systemd-timesyncd says; no time server answers" in said
    assert "packet filter not known: no helper" in said
    assert "24 hours not watched in these 24 h" in said
    assert "Round trips, 24 hours no round trips are known" in said
    assert said.count("1 hour not known not known not known") == 3
    assert not re.search(r"\b0(\.0+)?(\s%| ms| of)", said)


def test_old_evidence_is_no_proof(history: History) -> None:
    found = evidence()
    verdict = judge(CONFIG, found)
    history.note(found, verdict)
    html = page.render(CONFIG, found, aged(verdict, 300, 60), history, NOW + 300)
    assert 'class="chip proven"' not in html
    said = texts(html)
    assert said[0] == "? NOT YET KNOWN \N{EN DASH} acme"
    assert "5 min ago taken 2027-01-15 08:00:00 UTC acme sbc.example.com the cause" in " ".join(said)


def test_a_proxy_that_comes_and_goes(history: History) -> None:
    turns = tuple(NOW - minute * MINUTE for minute in (16, 14, 11, 10))
    steady = evidence().kamailio
    assert not isinstance(steady, Unread)
    first, *others = steady.destinations
    found = evidence(kamailio=replace(steady, destinations=(replace(first, turns=turns), *others)))
    assert "changed 3 times in the last 15 min, the last time 10 min ago" in words(shown(history, found))
    # It remembers nothing of what was before its start.
    restarted = replace(steady, loaded_at=NOW - 12 * MINUTE, destinations=(replace(first, turns=turns[-1:]), *others))
    said = words(shown(history, evidence(kamailio=restarted)))
    assert "changed once in the 12 min since Kamailio's start, the last time 10 min ago" in said


@pytest.mark.parametrize(("days", "mark"), [(90, "33.3%"), (6, "50.0%")])
def test_the_mark_is_where_certbot_renews(history: History, days: float, mark: str) -> None:
    shown_now = replace(GOOD, not_before=NOW - DAY, not_after=NOW + (days - 1) * DAY)
    assert f'<line x1="{mark}" x2="{mark}"' in shown(history, evidence(port=port(certificate=shown_now)))


def test_tenants_and_where_their_names_lead(history: History) -> None:
    names = ("here.example.com", "there.example.com", "nowhere.example.com", "who.example.com")
    config = replace(CONFIG, tenants=names)
    found = evidence(
        kamailio=kamailio(theirs_of_tenants={names[0]: theirs(ago=60)}),
        tenants={
            names[0]: Lookup((CONFIG.address,)),
            names[1]: Lookup(("192.0.2.1",)),
            names[2]: Lookup((), "NXDOMAIN", negative=True),
            names[3]: Lookup((), "SERVFAIL"),
        },
    )
    said = words(shown(history, found, config=config))
    assert (
        "Tenants here.example.com leads here, Microsoft asked 63 s ago there.example.com leads to 192.0.2.1 "
        "nowhere.example.com has no address who.example.com not known"
    ) in said


def test_further_findings_and_remarks_have_their_places(history: History) -> None:
    found = evidence(fqdn=Lookup((), "SERVFAIL"), kamailio=kamailio(sip2=REFUSED, theirs=theirs(code=400)))
    said = words(shown(history, found))
    assert said.index("the cause A proxy answers 403") < said.index("Also found also We refuse Microsoft's OPTIONS")
    assert "Worth knowing, no reason to doubt remark DNS did not answer for our FQDN fqdn_unchecked" in said


def test_commands_stand_out() -> None:
    before, command, after = prose("Run `nft list ruleset` there")
    assert (before, after) == ("Run ", " there")
    assert isinstance(command, Element)
    assert (command.tag, command.text) == ("code", "nft list ruleset")


def test_it_loads_itself_anew_unless_asked_not_to(history: History) -> None:
    found = evidence()
    assert '<meta http-equiv="refresh" content="30">' in shown(history, found)
    assert "http-equiv" not in page.render(CONFIG, found, judge(CONFIG, found), history, NOW, refresh=False)


def span(begin: float, end: float, state: State | None, cause: str | None = None) -> Span:
    return Span(NOW + begin, NOW + end, state, cause)


def drawn(spans: list[Span], places: int = 10) -> list[tuple[str, float, float]]:
    return [(run.state, run.begin - NOW, run.end - NOW) for run in charts.runs(spans, NOW, NOW + 10 * HOUR, places)]


class TestTimeline:
    def test_no_fault_is_too_short_to_be_seen(self) -> None:
        spans = [
            span(0, 4.5 * HOUR, State.PROVEN),
            span(4.5 * HOUR, 4.5 * HOUR + 2, State.FAILED, "proxy_silent"),
            span(4.5 * HOUR + 2, 10 * HOUR, State.PROVEN),
        ]
        hour = HOUR
        assert drawn(spans) == [
            ("proven", 0, 4 * hour),
            ("failed", 4 * hour, 5 * hour),
            ("proven", 5 * hour, 10 * hour),
        ]
        run = charts.runs(spans, NOW, NOW + 10 * HOUR, 10)[1]
        assert run.words() == "Fri 12:00 to 13:00 UTC, failed for 2 s: proxy_silent"

    def test_a_gap_is_a_gap_and_hides_no_fault(self) -> None:
        spans = [
            span(0, 2.2 * HOUR, State.PROVEN),
            span(2.2 * HOUR, 5 * HOUR, None),
            span(5 * HOUR, 5.1 * HOUR, State.FAILED),
            span(5.1 * HOUR, 8 * HOUR, None),
            span(8 * HOUR, 8.2 * HOUR, None),
            span(8.2 * HOUR, 10 * HOUR, State.PROVEN),
        ]
        assert [state for state, *_ in drawn(spans)] == ["proven", "not watched", "failed", "not watched", "proven"]
        assert drawn([]) == [("not watched", 0, 10 * HOUR)]

    def test_flags_that_change_are_no_new_fault(self) -> None:
        flapping = [
            Span(NOW + at, NOW + at + 60, "flapping", "proxy_flapping", flags) for at, flags in ((0, "AP"), (60, "IP"))
        ]
        assert charts.in_words(flapping, NOW, NOW + 120) == "never proven, flapping once for 2 min"

    def test_it_is_said_in_words(self) -> None:
        spans = [span(0, HOUR, None), span(HOUR, 3 * HOUR, State.FAILED), span(3 * HOUR, 10 * HOUR, State.PROVEN)]
        said = charts.in_words(spans, NOW, NOW + 10 * HOUR)
        assert said == "proven for 7 h, failed once for 2 h, not watched for 60 min"
        waiting = [span(0, 10 * HOUR, State.WAITING)]
        assert charts.in_words(waiting, NOW, NOW + 10 * HOUR) == "never proven, waiting once for 10 h"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.3, "less than a second"),
        (7, "7 s"),
        (3599, "60 min"),
        (3 * HOUR + 60, "3 h 1 min"),
        (2 * DAY, "2 days"),
        (6.9 * DAY, "6 days 22 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert charts.duration(seconds) == said


def test_tops_of_plots() -> None:
    assert [charts.round_top(value) for value in (0.0004, 0.001, 0.0011, 0.06, 1.2)] == [0.001, 0.001, 0.002, 0.1, 2]


def test_the_pictures_in_the_documentation_are_small_and_all_of_them_shown() -> None:
    pages = Path(__file__).parents[2] / "docs"
    pictures = {picture.name: picture.stat().st_size for picture in (pages / "pictures").iterdir()}
    text = "".join(page.read_text() for page in pages.glob("*.md"))
    assert set(re.findall(r"pictures/([a-z-]+\.png)", text)) == set(pictures)
    assert max(pictures.values()) <= 100_000


def luminance(colour: str) -> float:
    """WCAG 2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lower, higher = sorted((luminance(one), luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(scheme: str) -> None:
    """WCAG AA: at least 4.5 to 1."""
    light, dark = re.findall(r":root\{(.*?)\}", STYLE, re.DOTALL)[:2]
    colours = dict(re.findall(r"--([a-z-]+):(#[0-9a-f]+)", light if scheme == "light" else dark))
    grounds = ["page", "card", "code", *(f"{look}-soft" for look in LOOKS)]
    pairs = [*product(("text", "quiet"), grounds), *product(("link",), ("page", "card"))]
    pairs += [(look, ground) for look in LOOKS for ground in ("card", f"{look}-soft")]
    pairs += [("on", look) for look in LOOKS]
    poor = [
        (a, b, round(contrast(colours[a], colours[b]), 2)) for a, b in pairs if contrast(colours[a], colours[b]) < 4.5
    ]
    assert poor == []
