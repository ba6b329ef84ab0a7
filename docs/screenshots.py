"""Takes the pictures of the probe's page and the fleet's: `make pictures` for those in docs/, or all into a directory.

    PYTHONPATH=.:src:tests/probe .venv/bin/python docs/screenshots.py [DIRECTORY]

What they show was lived by a history in seconds (tests/probe/weeks.py); Chromium is Debian's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import weeks
from browser import NARROW, WIDE, Browser

from tests.plugins.fleets import page_of_many

PICTURES = Path(__file__).resolve().parent / "pictures"
SIZES = {"wide": WIDE, "narrow": NARROW}
# A picture in the documentation ends here (px), or with the page.
HEIGHT = {"wide": 1010, "narrow": 1500}
KEPT = {
    ("green", "wide", "light"),
    ("green", "narrow", "dark"),
    ("red", "wide", "light"),
    ("red", "wide", "dark"),
    ("red", "narrow", "light"),
    ("flapping", "wide", "dark"),
    ("flapping", "narrow", "light"),
    ("waiting", "wide", "light"),
    ("fleet", "wide", "light"),
}


def small(picture: bytes) -> bytes:
    """The same picture with 128 colours, which nobody notices."""
    return subprocess.run(["pngquant", "--strip", "128", "-"], input=picture, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    wanted = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    directory = wanted or PICTURES
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, Browser() as browser:
        pages = {name: Path(made) / name / "page.html" for name in weeks.WEEKS}
        for name, file in pages.items():
            file.parent.mkdir()
            file.write_text(weeks.shown(weeks.WEEKS[name], file.parent, refresh=False))
        pages["fleet"] = page_of_many(Path(made), 1000)
        for name, file in pages.items():
            for size, scheme in product(SIZES, ("light", "dark")):
                if wanted or (name, size, scheme) in KEPT:
                    browser.show(file.as_uri(), SIZES[size], scheme)
                    picture = small(browser.picture(None if wanted and name != "fleet" else HEIGHT[size]))
                    (directory / f"{name}-{size}-{scheme}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
