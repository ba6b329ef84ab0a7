"""What all tests share: their traffic with the lab's DigitalOcean is judged, and the summary says by what."""

from __future__ import annotations

import pytest

from tests.contract.judge import JUDGE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-outcomes",
        action="store_true",
        help="write what the tests find into the tables of docs/, comparing nothing",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if JUDGE.contract is None:
        terminalreporter.section("NO CONTRACT CHECK", sep="!", red=True, bold=True)
        terminalreporter.line(str(JUDGE), red=True)
    elif JUDGE.exchanges:
        terminalreporter.section("DigitalOcean's API")
        terminalreporter.line(str(JUDGE))
