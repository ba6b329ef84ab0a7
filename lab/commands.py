"""Running the host's own tools, with an error that says which one failed and how."""

from __future__ import annotations

import asyncio
import subprocess


class CommandError(RuntimeError):
    """A tool of the host failed; the message carries its command line and what it wrote to standard error."""


def run(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command to its end and return what it printed.

    Raises CommandError when it exits with anything but 0 and `check` is set.
    """
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CommandError(f"{' '.join(argv)}: exit {done.returncode}: {said}")
    return done.stdout


async def run_async(*argv: str) -> str:
    """The same for a command that takes a while, while others go on."""
    return await asyncio.to_thread(run, *argv)
