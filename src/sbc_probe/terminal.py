"""What a terminal is given: nothing that it would take for a command, and colours where they are wanted."""

from __future__ import annotations

import os
from typing import TextIO

from sbc_probe.findings import State

COLOURS = {State.PROVEN: "32", State.FAILED: "31", State.UNKNOWN: "33", State.WAITING: "36"}
BOLD, DIM, REVERSE = "1", "2", "7"


def plain(text: str) -> str:
    """The text without what would steer a terminal: some of it comes from whoever answers."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def may_paint(stream: TextIO) -> bool:
    """Whether colours are wanted there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, *codes: str) -> str:
    """The text in these colours (SGR, ECMA-48, 8.3.117)."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text
