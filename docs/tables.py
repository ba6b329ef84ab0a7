"""Writes the tables in docs/ that come from data: `python docs/tables.py`. A test fails while one is out of date."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CLOUDS = ROOT / "roles/sbc/vars/main/clouds.yml"
PAGE = ROOT / "docs/clouds.md"


def code(words: Iterable[str]) -> str:
    return "<br>".join(f"`{word}`" for word in words)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def roots(names: list[str]) -> str:
    return "<br>".join(name.replace("_", " ") for name in names)


def tables(facts: dict[str, Any]) -> dict[str, str]:
    """Every table by its name."""
    clouds = facts["sbc_clouds"].items()
    return {
        "network": table(
            ["`sbc_cloud`", "Microsoft's cloud", "SIP proxies, in this order", "signalling networks", "media networks"],
            [
                [
                    f"`{key}`",
                    cloud["title"],
                    code(f"{proxy['host']}:{proxy['port']}" for proxy in cloud["proxies"]),
                    code(cloud["signalling_networks"]),
                    code(cloud["media_networks"]),
                ]
                for key, cloud in clouds
            ],
        ),
        "administration": table(
            ["`sbc_cloud`", "the SBC's certificate leads to", "Teams PowerShell"],
            [
                [
                    f"`{key}`",
                    roots(cloud["certificate_roots"]) or "a root of Microsoft's Trusted Root Program",
                    code([f"Connect-MicrosoftTeams{environment(cloud['powershell_environment'])}"]),
                ]
                for key, cloud in clouds
            ],
        ),
        "microsoft": table(["Microsoft's own certificates lead to one of"], [[roots(facts["sbc_microsoft_roots"])]]),
        "sources": f"Compared with Microsoft's pages on {facts['sbc_clouds_reviewed']}.\n\n"
        + table(
            ["facts", "source", "last seen to state it"],
            [[entry["facts"], entry["source"], str(entry["seen"])] for entry in facts["sbc_cloud_sources"]],
        ),
    }


def environment(name: str | None) -> str:
    return f" -TeamsEnvironmentName {name}" if name else ""


def renewed(page: str, facts: dict[str, Any]) -> str:
    """The page with its tables as the facts are now. Raises KeyError for a table that is not known."""
    known = tables(facts)
    return re.sub(
        r"(<!-- table (\w+) -->\n)(?:.*?)(<!-- end -->)",
        lambda found: f"{found[1]}\n{known[found[2]]}\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> None:
    PAGE.write_text(renewed(PAGE.read_text(), yaml.safe_load(CLOUDS.read_text())))


if __name__ == "__main__":
    main()
