"""Several things at a time, each in a thread of its own.

concurrent.futures would do, but it brings the logging package with it, into a process that has to be light.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Task(threading.Thread, Generic[Result]):
    """A call that has begun; `result` waits for its end, and raises what it raised."""

    def __init__(self, call: Callable[[], Result]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Result:
        self.join()
        if self._error:
            raise self._error
        return self._result


def each(call: Callable[[Item], Result], items: Iterable[Item], at_a_time: int = 32) -> list[Result]:
    """The results for all items, in their order."""
    waiting, results = list(items), list[Result]()
    while waiting:
        tasks = [Task(partial(call, item)) for item in waiting[:at_a_time]]
        del waiting[:at_a_time]
        results += [task.result() for task in tasks]
    return results
