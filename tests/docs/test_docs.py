"""The pages for users: tables made of data are as the data is, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import tables
from sbc_probe.findings import REMARKS, STATES, Cause, State
from sbc_probe.journal import VERDICT_CHANGED
from tests.e2e import faults

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FACTS: dict[str, Any] = yaml.safe_load(tables.CLOUDS.read_text())


def test_the_tables_are_as_the_data_is() -> None:
    used = []
    for page in tables.PAGES:
        assert tables.renewed(page.read_text()) == page.read_text(), "run `python docs/tables.py`"
        used += re.findall(r"<!-- table (\w+) -->", page.read_text())
    assert sorted(used) == sorted(tables.tables())


def test_every_cause_is_provoked_or_it_is_known_where_it_is_tested() -> None:
    provoked = {Cause(fault.cause) for fault in faults.MATRIX}
    assert provoked.isdisjoint(faults.ELSEWHERE)
    assert provoked | set(map(Cause, faults.ELSEWHERE)) == set(Cause)
    for cause, where in faults.ELSEWHERE.items():
        assert re.search(rf"\b{cause}\b", (ROOT / where).read_text(), re.IGNORECASE), f"{where} does not know {cause}"


def test_the_verdict_of_a_row_is_that_of_its_cause() -> None:
    for fault in faults.MATRIX:
        cause = Cause(fault.cause)
        state = State.PROVEN if cause in REMARKS and fault.state == "proven" else STATES.get(cause, State.FAILED)
        assert fault.state == state, fault.id
    assert len({fault.id for fault in faults.MATRIX}) == len(faults.MATRIX)


def test_the_tables_hold_every_fact_of_a_cloud() -> None:
    page = (ROOT / "docs/clouds.md").read_text()
    for cloud in FACTS["sbc_clouds"].values():
        wanted = [f"{proxy['host']}:{proxy['port']}" for proxy in cloud["proxies"]]
        wanted += cloud["signalling_networks"] + cloud["media_networks"]
        for fact in wanted:
            assert f"`{fact}`" in page


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, place in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", prose(page)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} does not exist"
        if place:
            assert place in [anchor(each) for each in re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)], target


def test_the_night_knows_what_is_in_the_journal() -> None:
    page = (ROOT / "docs/night.md").read_text()
    configuration = (ROOT / "templates/kamailio/kamailio.cfg").read_text()
    written = set(re.findall(r'\bcause=(\w+)|\$var\(cause\) = "(\w+)"', configuration))
    (table,) = re.findall(r"^\| cause \| what happened \|\n(.*?)\n\n", page, flags=re.DOTALL | re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines())))
    assert explained == {first or second for first, second in written}
    assert VERDICT_CHANGED in page


def test_the_readme_says_where_everything_is() -> None:
    table = (ROOT / "README.md").read_text().partition("## Where things are")[2]
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| `")}
    kinds = {"`site.yml`, `playbooks/`": "playbooks", "`roles/`": "roles", "`docs/`": "docs"}
    for row, directory in kinds.items():
        for path in (ROOT / directory).iterdir():
            if path.suffix in (".yml", ".md") or directory == "roles":
                assert path.stem in re.findall(r"[\w-]+", rows[row]), f"{row} omits {path.name}"
