"""Tables in docs/ that are outcomes of tests: a test fails while what it found is not what the page says.

`pytest --write-outcomes` puts what the tests find into the page; cells of tests that do not run stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.tables import table

DOCS = Path(__file__).resolve().parents[1] / "docs"
Row = tuple[str, ...]


class Outcomes:
    """The table `name` of a page, between `<!-- outcomes NAME -->` and `<!-- end -->`; `keys` are its first columns."""

    def __init__(self, page: str, name: str, keys: Row, columns: Sequence[str], write: bool) -> None:
        self._page, self._name, self._write = DOCS / page, name, write
        self._keys, self._columns = keys, tuple(columns)
        head, _, *lines = [
            tuple(cell.strip() for cell in line.strip()[1:-1].split("|"))
            for line in self._pattern().findall(self._page.read_text())[0][1].strip().splitlines()
        ] or [(), ()]
        self._cells = {row[: len(keys)]: dict(zip(head[len(keys) :], row[len(keys) :], strict=True)) for row in lines}
        self._complete = head == (*keys, *self._columns)

    def compare(self, found: Mapping[Row, Mapping[str, str]], rows: Sequence[Row] | None = None) -> None:
        """The table says what was found, and has these rows in this order. Raises AssertionError."""
        if self._write and rows is not None:
            for row in rows:
                self._cells.setdefault(row, {}).update(found.get(row, {}))
            self._cells = {row: self._cells[row] for row in rows}
            self._save()
        else:
            hint = f"{self._page.name}: the table {self._name} is out of date; run the tests with --write-outcomes"
            assert self._complete, hint
            assert rows is None or list(self._cells) == list(rows), hint
            for row, cells in found.items():
                assert {column: self._cells.get(row, {}).get(column) for column in cells} == cells, f"{hint} ({row})"

    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(<!-- outcomes {self._name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)

    def _save(self) -> None:
        lines = [[*row, *(cells.get(column, "") for column in self._columns)] for row, cells in self._cells.items()]
        text = table([*self._keys, *self._columns], lines)
        page = self._pattern().sub(lambda found: f"{found[1]}\n{text}\n{found[3]}", self._page.read_text())
        self._page.write_text(page)
