"""Every process of the lab lives in one control group, so that a lab that crashed can still be ended whole.

The hierarchy is the lab's own ledger: `sbclab/lab` for the daemon, `sbclab/services` for what it runs, one group
for each droplet. There are no process files that could be stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from lab import settings
from lab.commands import CommandError


def root() -> Path:
    """The lab's own group. Raises RuntimeError where no cgroup2 hierarchy is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where) / settings.ROUTER
    raise RuntimeError("no cgroup2 hierarchy is mounted: systemd in a droplet needs one")


def enter(name: str) -> None:
    """Move this process into the group of that name."""
    group = root() / name
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def members(name: str) -> list[int]:
    """The processes of a group, none if it does not exist."""
    procs = root() / name / "cgroup.procs"
    return [int(line) for line in procs.read_text().split()] if procs.exists() else []


async def spawn(
    name: str, argv: Sequence[str], log: BinaryIO, env: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a program in the group of that name; it dies with the daemon."""
    group = root() / name
    group.mkdir(parents=True, exist_ok=True)
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", 'echo $$ >"$0" && exec setpriv --pdeathsig KILL "$@"', str(group / "cgroup.procs")),
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )


@contextlib.asynccontextmanager
async def frozen(name: str) -> AsyncIterator[None]:
    """Let everything in a group stand still meanwhile; a group that is not there stands still already.

    Raises TimeoutError when it does not within half a minute.
    """
    group = root() / name
    if not group.exists():
        yield
        return
    (group / "cgroup.freeze").write_text("1")
    try:
        async with asyncio.timeout(30):
            while "frozen 1" not in (group / "cgroup.events").read_text():
                await asyncio.sleep(0.01)
        yield
    finally:
        (group / "cgroup.freeze").write_text("0")


def names() -> list[str]:
    """The groups that exist."""
    return sorted(path.name for path in root().iterdir() if path.is_dir()) if root().exists() else []


def end(name: str = "") -> None:
    """Kill everything in a group and remove it; without a name, the whole lab."""
    group = root() / name if name else root()
    if not group.exists():
        return
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 60
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    if "populated 1" in (group / "cgroup.events").read_text():
        raise CommandError(f"processes in {group} do not end: look at them with `cat {group}/**/cgroup.procs`")
    for directory in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        directory.rmdir()
    group.rmdir()
