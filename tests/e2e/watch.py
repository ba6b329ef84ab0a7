"""Every report of the probe's service, one a second, over one connection."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e import world

LOOP = "while :; do curl -s --max-time 10 http://127.0.0.1:9061/status.json | tr -d '\\n'; echo; sleep 0.5; done"


@dataclass(frozen=True)
class Look:
    """A report, and when it came; `at` is time.monotonic()."""

    at: float
    report: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.report["overall"]["state"])

    def said(self, cause: str) -> str | None:
        """Evidence and next step of a finding or remark of that cause, if there is one."""
        found = [item for item in (*self.report["findings"], *self.report["remarks"]) if item["cause"] == cause]
        return f"{found[0]['evidence']} {found[0]['next_step']}" if found else None

    def __str__(self) -> str:
        overall = self.report["overall"]
        flags = " ".join(str(each["flags"]) for each in self.report["destinations"])
        return f"{overall['state']} {overall['cause']} [{flags}] {overall['evidence']}"


class Watch:
    """All looks so far, one for each time that the service gathered its evidence."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._looks: list[Look] = []
        self._changed = threading.Condition()
        self._process = process
        threading.Thread(target=self._read, name="watch", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue
            look = Look(time.monotonic(), json.loads(line))
            with self._changed:
                if not self._looks or self._looks[-1].report["taken_at"] != look.report["taken_at"]:
                    self._looks.append(look)
                    self._changed.notify_all()

    def since(self, moment: float) -> list[Look]:
        """What was seen after `moment`, oldest first."""
        with self._changed:
            return [look for look in self._looks if look.at > moment]

    def until(self, good: Callable[[Look], bool], what: str, since: float, seconds: float = 300) -> Look:
        """The first look after `since` that is good. Raises AssertionError, with all that was seen, if none comes."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                looks = [look for look in self._looks if look.at > since]
                if found := next((look for look in looks if good(look)), None):
                    return found
                left = deadline - time.monotonic()
                assert left > 0, f"{what}: not within {seconds:.0f} s; seen:\n" + "\n".join(map(str, looks))
                self._changed.wait(min(left, 1))


@contextmanager
def watching() -> Iterator[Watch]:
    """Look on for as long as the context lasts."""
    argv = (sys.executable, "-m", "lab", "ssh", world.CUSTOMER, LOOP)
    # ssh sets what it writes to to non-blocking and, killed, leaves it so: not the terminal that others share.
    with subprocess.Popen(
        argv,
        cwd=world.ROOT,
        env=world.environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield Watch(process)
        finally:
            process.kill()
