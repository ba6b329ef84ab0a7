"""Writes the tables in docs/ that come from data: `python docs/tables.py`. A test fails while one is out of date."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from sbc_probe import verdict  # noqa: E402
from sbc_probe.findings import Cause  # noqa: E402
from sbc_probe.flags import PAIRS  # noqa: E402
from sbc_probe.words import WORDS, weight  # noqa: E402
from tests.e2e import faults  # noqa: E402

CLOUDS = ROOT / "roles/sbc/vars/main/clouds.yml"
# Every page that has a table made of data.
PAGES = tuple(ROOT / "docs" / name for name in ("clouds.md", "faults.md", "states.md", "when-it-is-not-ap.md"))


def code(words: Iterable[str]) -> str:
    return "<br>".join(f"`{word}`" for word in words)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def roots(names: list[str]) -> str:
    return "<br>".join(name.replace("_", " ") for name in names)


def tables() -> dict[str, str]:
    """Every table by its name."""
    return {
        **cloud_tables(yaml.safe_load(CLOUDS.read_text())),
        **cause_tables(),
        **fault_tables(),
        "states": state_table(),
        "proven": proven(),
    }


def proven() -> str:
    """What it takes to be proven, as it is written down where it is decided."""
    rules = (verdict.__doc__ or "").partition("What it takes to be proven: ")[2].rstrip()
    return f"{rules[:1].upper()}{rules[1:]}\n"


def state_table() -> str:
    """The dispatcher's states, as `sbc-probe explain` tells them."""
    return table(
        ["flags", "in short", "what it means", "usually", "what to do"],
        ([f"**{flags}**", pair.short, pair.means, pair.usually, pair.do] for flags, pair in PAIRS.items()),
    )


def cause_tables() -> dict[str, str]:
    """A table for each part of the system, `causes_proxy` and so on; a reason of a renewal's failure has no state."""
    rows: dict[str, list[list[str]]] = {}
    for name, words in WORDS.items():
        state = [weight(Cause(name))] if words.title else []
        rows.setdefault(words.section, []).append([f"`{name}`", *state, words.saw, words.usually])
    last = "usually, and what to do"
    return {
        f"causes_{section}": table(
            ["reason", "what certbot or the authority said", last]
            if section == "renewal"
            else ["cause", "state", "what the probe saw", last],
            found,
        )
        for section, found in rows.items()
    }


def commands(lines: Iterable[str]) -> str:
    """Commands of the matrix, those for the droplet with root's prompt."""
    shown = [line if line.startswith(("lab ", "playbook ")) else f"# {line}" for line in lines]
    return code(line.replace("playbook ", "ansible-playbook ", 1).replace("|", "\\|") for line in shown)


def fault_tables() -> dict[str, str]:
    """The faults that the tests provoke, a table for each group."""
    groups = dict.fromkeys(fault.group for fault in faults.MATRIX)
    head = ["what is broken", "how", "verdict", "cause", "what the probe says", "how it ends"]
    return {
        re.sub(r"\W+", "_", f"faults {group}".lower()): table(
            head,
            (
                [
                    fault.broken,
                    commands(fault.begins),
                    fault.state,
                    f"`{fault.cause}`",
                    re.sub(r"\s*…\s*(?!,)", " … ", fault.says),
                    commands(fault.ends) or "by itself",
                ]
                for fault in faults.MATRIX
                if fault.group == group
            ),
        )
        for group in groups
    } | {
        "faults_elsewhere": table(
            ["cause", "tested in"], ([f"`{cause}`", f"`{where}`"] for cause, where in faults.ELSEWHERE.items())
        )
    }


def cloud_tables(facts: dict[str, Any]) -> dict[str, str]:
    """What is known of Microsoft's clouds."""
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


def renewed(page: str) -> str:
    """The page with its tables as the data is now. Raises KeyError for a table that is not known."""
    known = tables()
    return re.sub(
        r"(<!-- table (\w+) -->\n)(?:.*?)(<!-- end -->)",
        lambda found: f"{found[1]}\n{known[found[2]]}\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> None:
    for page in PAGES:
        page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
