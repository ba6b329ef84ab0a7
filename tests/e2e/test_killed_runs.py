"""A rollout that is killed before any of its tasks and started again ends as if nothing had happened.

The outcomes are docs/killed-runs.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.customers import customer
from tests.outcomes import Outcomes

COLUMNS = ("what was there then", "what the next run made")
# As many at once as two cores can carry without one waiting for another.
AT_ONCE = 4
# In so many parts all tasks are gone through.
PARTS = 5
FEW = (
    "droplet : The customer has one droplet",
    "droplet : The names lead to the customer",
    "droplet : Cloud-init has finished",
)


def killed(task: str, number: int, directory: Path) -> dict[str, str]:
    """The cells of a rollout from nothing that is killed before a task and run again."""
    with customer(f"killed-{number}", directory) as one:
        cut = one.provision(dies_before=task)
        assert (cut.code, one.tasks()[-1]) == (-9, task), cut.text
        there = [kind for kind, found in one.owns().items() if found]

        again = one.provision()
        assert again.code == 0, again.text
        one.judge()
        made = [kind for kind in one.owns() if kind not in there]
        return dict(zip(COLUMNS, (", ".join(there) or "nothing", ", ".join(made) or "nothing"), strict=True))


def all_killed(tasks: Sequence[tuple[int, str]], directory: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        cells = pool.map(lambda each: killed(each[1], each[0], directory), tasks)
        return {(task,): cell for (_, task), cell in zip(tasks, cells, strict=True)}


def outcomes(write: bool) -> Outcomes:
    return Outcomes("killed-runs.md", "killed", ("killed before the task",), COLUMNS, write)


def test_a_killed_rollout_goes_on(empty_lab: None, tmp_path: Path) -> None:
    outcomes(write=False).compare(all_killed(list(enumerate(FEW)), tmp_path))


@pytest.fixture(scope="module")
def tasks(empty_lab: None, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tasks of a whole first rollout."""
    with customer("whole", tmp_path_factory.mktemp("whole")) as one:
        done = one.provision()
        assert done.code == 0, done.text
        return list(dict.fromkeys(one.tasks()))


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
def test_every_killed_rollout_goes_on(
    tasks: list[str], part: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = all_killed(list(enumerate(tasks))[part::PARTS], tmp_path)
    outcomes(request.config.getoption("--write-outcomes")).compare(found, [(task,) for task in tasks])
