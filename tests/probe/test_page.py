"""The page for people: what is read on it, at the end of weeks lived by a real history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import weeks
from by_hand import CONFIG, NOW, evidence
from tinyhtml5.parser import HTMLParser

from sbc_probe import page
from sbc_probe.findings import Cause
from sbc_probe.history import History
from sbc_probe.model import Evidence
from sbc_probe.verdict import judge
from sbc_probe.words import TITLES


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


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.sqlite")
    yield history
    history.close()


def now(history: History, found: Evidence) -> str:
    return page.render(CONFIG, found, judge(CONFIG, found), history, NOW + 3)


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> str:
    return weeks.shown(weeks.WEEKS["red"], tmp_path_factory.mktemp("red"))


def test_the_state_comes_first_in_the_title(red: str, history: History) -> None:
    assert texts(red)[0] == "✘ NOT PROVEN \N{EN DASH} acme"
    assert texts(now(history, evidence()))[0] == "✔ PROVEN \N{EN DASH} acme"


def test_one_cause_its_evidence_and_the_next_step(red: str) -> None:
    said = words(red)
    assert "the cause A proxy cannot be reached proxy_unreachable" in said
    assert "evidence sip2.pstnhub.microsoft.com: 52.114.8.2 port 5061: TCP timeout" in said
    assert "next step Check outbound TCP 5061" in said


def test_every_cause_has_a_title() -> None:
    assert set(TITLES) == set(Cause)


def test_a_page_needs_nothing_from_elsewhere(red: str) -> None:
    assert not re.search(r"<script|src=|@import|url\((?!#)|href=\"(?!#|/[a-z?]|/\"|data:)", red)
    assert len(red.encode()) < 100_000
