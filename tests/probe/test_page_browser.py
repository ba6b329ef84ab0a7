"""The page in Chromium, served as the service serves it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import weeks
from by_hand import CLOSED, CONFIG, NOW, evidence

from sbc_probe import page
from sbc_probe.history import History
from sbc_probe.model import Unread
from sbc_probe.verdict import judge

if TYPE_CHECKING:
    from browser import Browser

pytestmark = pytest.mark.full

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Site(HTTPServer):
    """Serves pages by name, with the policy of the service."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, str] = {}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(self.server.pages.get(self.path[1:], "").encode())

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    for name, week in weeks.WEEKS.items():
        site.pages[name] = weeks.shown(week, tmp_path_factory.mktemp(name), refresh=False)
    site.pages["hostile"] = hostile(tmp_path_factory.mktemp("hostile"))
    yield site
    site.shutdown()
    site.server_close()
    thread.join()


def hostile(directory: Path) -> str:
    """Nothing is known, and all words are as long as can be."""
    long = "x" * 300
    history = History(directory / "history.sqlite")
    found = evidence(kamailio=Unread(long), port=CLOSED, on_disk=Unread(long), clock=Unread(long))
    config = replace(CONFIG, fqdn=f"{long}.example.com", customer=long, tenants=(long,))
    text = page.render(config, found, judge(config, found), history, NOW, refresh=False)
    history.close()
    return text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from browser import Browser

    with Browser() as browser:
        yield browser


NAMES = [*weeks.WEEKS, "hostile"]


@pytest.mark.parametrize("name", NAMES)
def test_no_width_needs_scrolling_sideways(site: Site, browser: Browser, name: str) -> None:
    for width in (320, 360, 390, 768, 1024, 1280, 1600):
        browser.show(site.url(name), width)
        browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        wide = browser.evaluate(
            "return [...document.body.querySelectorAll('*')]"
            ".filter(each => !each.closest('svg') && each.getBoundingClientRect().right > innerWidth + 0.5)"
            ".map(each => each.outerHTML.slice(0, 200))"
        )
        assert wide == [], f"{width} px"
        assert browser.evaluate("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_in_the_way_of_anybody(site: Site, browser: Browser, name: str, scheme: str) -> None:
    browser.show(site.url(name), scheme=scheme)
    assert browser.barriers() == []
    assert browser.complaints() == []


def test_dark_is_dark_and_light_is_light(site: Site, browser: Browser) -> None:
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    browser.show(site.url("green"), scheme="light")
    assert browser.evaluate(ground) == "rgb(244, 245, 247)"
    browser.show(site.url("green"), scheme="dark")
    assert browser.evaluate(ground) == "rgb(15, 18, 22)"


def test_nothing_moves_while_it_loads(site: Site, browser: Browser) -> None:
    browser.show(site.url("red"), 390)
    shift = browser.evaluate(
        "const seen = new PerformanceObserver(() => 0); seen.observe({type: 'layout-shift', buffered: true});"
        "return seen.takeRecords().reduce((sum, each) => sum + each.value, 0)"
    )
    assert shift == 0


def test_a_page_that_was_left_open_says_so(site: Site, browser: Browser) -> None:
    """A browser may have gone to sleep, or the probe away."""
    browser.show(site.url("green"))
    seen = "return getComputedStyle(document.querySelector('.old')).visibility"
    assert browser.evaluate(seen) == "hidden"
    browser.evaluate("document.getAnimations().forEach(each => each.currentTime = 152000)")
    assert browser.evaluate(seen) == "visible"


def test_every_failing_place_can_be_hovered(site: Site, browser: Browser) -> None:
    browser.show(site.url("red"))
    titles = browser.evaluate("return [...document.querySelectorAll('.line rect title')].map(each => each.textContent)")
    assert any("proxy_unreachable" in title for title in titles)
    drawn = browser.evaluate(
        "const failing = [...document.querySelectorAll('.line rect')].filter(each => /failed/.test(each.textContent));"
        "return failing.map(each => each.getBoundingClientRect()).map(each => [each.width > 2, each.height])"
    )
    assert drawn
    assert all(place == [True, 24] for place in drawn)


def test_on_paper_nothing_lies_above_the_verdict(site: Site, browser: Browser) -> None:
    browser.show(site.url("red"), medium="print")
    assert browser.evaluate("return getComputedStyle(document.querySelector('.old')).display") == "none"
