"""The fleet's page in Chromium: a thousand customers, on a desk and on a telephone, found by a few letters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugins.fleets import page_of_many
from tests.plugins.support import ROOT

if TYPE_CHECKING:
    from browser import Browser

pytestmark = pytest.mark.full

SHOWN = "[...document.querySelectorAll('tbody tr')].filter((row) => row.checkVisibility())"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sys.path.append(str(ROOT / "tests/probe"))
    from browser import Browser

    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of_many(tmp_path_factory.mktemp("fleet"), 1000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.show(page.as_uri(), width, scheme)
    assert browser.evaluate("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("return document.title").startswith("\N{HEAVY BALLOT X} 4 of 1005 not proven")
    assert browser.evaluate(f"return {SHOWN}[0].querySelector('b').textContent") == "fabrikam"
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_keeps_nobody_out(browser: Browser, tmp_path: Path, scheme: str) -> None:
    browser.show(page_of_many(tmp_path, 3).as_uri(), 1280, scheme)
    assert browser.barriers() == []


def test_a_few_letters_find_a_customer(browser: Browser, page: Path) -> None:
    browser.show(page.as_uri())
    assert browser.evaluate(f"return {SHOWN}.length") == 1005
    for words, count in (("customer-077", 10), ("403 fabr", 1), ("nobody-here", 0), ("knows no trunk", 1), ("", 1005)):
        browser.evaluate(f"const box = document.getElementById('filter'); box.value = {words!r}; box.oninput()")
        assert browser.evaluate(f"return {SHOWN}.length") == count, words


def test_a_cause_leads_to_its_words(browser: Browser, page: Path) -> None:
    browser.show(page.as_uri())
    browser.evaluate("document.querySelector('tbody a').click()")
    assert browser.evaluate("return document.querySelector(':target code').textContent") == "proxy_forbids"
    docs = browser.evaluate("return document.querySelector('.causes p a').getAttribute('href')")
    assert (page.parent / docs.partition("#")[0]).exists()
