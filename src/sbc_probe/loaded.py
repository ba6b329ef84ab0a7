"""The files that Kamailio works with: as they were when it read them, and as they are.

Its unit writes their SHA-256, as sha256sum prints them, before it starts; whoever lets it read one of them again adds
that one to the end.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from sbc_probe.model import Loaded, Unread

LINE = re.compile(r"([0-9a-f]{64})  (/.+)")
# Far more than they need, and little enough to read four times a minute.
LIMIT = 1 << 20


def read(record: str) -> Loaded | Unread:
    """Compare those that it read; one of them that has gone is missing from `on_disk`."""
    path = record
    try:
        with Path(record).open(errors="replace") as file:
            at, lines = os.fstat(file.fileno()).st_mtime, file.read(LIMIT).splitlines()
        noted = {found[2]: found[1] for line in lines if (found := LINE.fullmatch(line))}
        if not noted:
            return Unread(f"{record} holds no file's SHA-256")
        on_disk = {}
        for path in noted:
            try:
                with Path(path).open("rb") as content:
                    on_disk[Path(path).name] = hashlib.sha256(content.read(LIMIT)).hexdigest()
            except FileNotFoundError:
                continue
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    return Loaded(at, {Path(name).name: digest for name, digest in noted.items()}, on_disk)
