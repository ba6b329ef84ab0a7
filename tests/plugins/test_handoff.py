"""The hand-off as the role handoff writes it, read by tree-sitter's grammar of PowerShell, and by PowerShell if there.

Names and patterns come from the inventory. Whatever stands in them, a script has them as one literal and nothing more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tree_sitter_powershell
import yaml
from tree_sitter import Language, Node, Parser

from tests.plugins.machine import load
from tests.plugins.support import ROOT

CLOUDS: dict[str, Any] = yaml.safe_load((ROOT / "roles/sbc/vars/main/clouds.yml").read_text())["sbc_clouds"]
PARSER = Parser(Language(tree_sitter_powershell.language()))
TEXTS = ["checklist.md", "setup.ps1", "undo.ps1"]

HOSTILE = [
    "o'brien.sbc.example.com",
    "a'; Remove-Item -Recurse / #.sbc.example.com",
    'a"$(Get-Date)`n`u{27}.sbc.example.com',
    "$env:PATH;&|<>@{}%.sbc.example.com",
    "\u2018a\u2019b\u201ac\u201bd\u201ce\u201d.sbc.example.com",
    "'''.sbc.example.com",
    # Its second and third bytes are a dash and a quote to a PowerShell that takes the file for ANSI.
    "a\u2011b.sbc.example.com",
    "``` | [x](y) <b> *z*.sbc.example.com",
]
TENANTS = ["fabrikam.sbc1.example.com", "woodgrove.sbc1.example.com"]
CUSTOMERS: dict[str, dict[str, Any]] = {
    **{f"single-{cloud.replace('_', '-')}": {"sbc_fqdn": "sbc2.example.com", "sbc_cloud": cloud} for cloud in CLOUDS},
    "carrier": {"sbc_fqdn": "sbc1.example.com", "sbc_tenants": TENANTS},
    "wildcard": {"sbc_fqdn": "sbc1.example.com", "sbc_tenants": TENANTS, "sbc_tenant_records": "wildcard"},
    "manual": {"sbc_fqdn": "sbc1.example.com", "sbc_tenants": TENANTS, "sbc_dns": "manual"},
    "hostile": {"sbc_fqdn": "sbc.example.com", "sbc_tenants": HOSTILE, "handoff_number_pattern": "^('|\u2019|`)$"},
}


@dataclass(frozen=True)
class Inventory:
    """An inventory of customers and what the role made of them."""

    directory: Path

    def declare(self, customers: dict[str, dict[str, Any]]) -> None:
        common = {
            "sbc_domain": "example.com",
            "sbc_contact_email": "voip@example.com",
            "sbc_ssh_sources": ["192.0.2.0/24"],
        }
        (self.directory / "customers.yml").write_text(json.dumps({"sbc": {"hosts": customers, "vars": common}}))
        (self.directory.parent / "play.yml").write_text(
            json.dumps([{"hosts": "sbc", "gather_facts": False, "roles": ["handoff"]}])
        )

    def play(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.directory), *arguments]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        return subprocess.run(
            [*command, str(self.directory.parent / "play.yml")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    def folder(self, customer: str, trunk: str = "") -> Path:
        return self.directory / "handoff" / customer / trunk

    def read(self, customer: str, trunk: str, name: str) -> str:
        return (self.folder(customer, trunk) / name).read_text(encoding="utf-8-sig")

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """All customers' hand-offs. A test that changes the inventory makes one of its own."""
    inventory = Inventory(tmp_path_factory.mktemp("handoff") / "inventory")
    inventory.directory.mkdir()
    inventory.declare(CUSTOMERS)
    done = inventory.play()
    assert done.returncode == 0, done.stdout + done.stderr
    return inventory


@pytest.fixture
def quote() -> Callable[[str], str]:
    filters = load("filter", "powershell").FilterModule().filters()
    function: Callable[[str], str] = filters["powershell"]
    return function


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def tree(script: str) -> Node:
    return PARSER.parse(script.encode()).root_node


def text(node: Node | None) -> str:
    assert node is not None
    assert node.text is not None
    return node.text.decode()


def literals(node: Node) -> list[str]:
    """The single-quoted literals in a tree."""
    return [text(each) for each in nodes(node) if each.type == "verbatim_string_characters"]


def commands(script: str) -> list[Node]:
    return [each for each in nodes(tree(script)) if each.type == "command"]


def names(script: str, verbs: str) -> list[str]:
    """The cmdlets of Teams that a script calls with one of these verbs, in its order."""
    found = [text(each.child_by_field_name("command_name")) for each in commands(script)]
    return [name for name in found if re.fullmatch(f"({verbs})-Cs.*", name)]


def spoken(literal: str) -> str:
    """What PowerShell makes of a single-quoted literal: any of its quotes, doubled, is one; a lone one ends it."""
    quotes = "'\u2018\u2019\u201a\u201b"
    assert literal[0] in quotes
    value, rest = "", literal[1:]
    while rest and (rest[0] not in quotes or rest[1:2] in tuple(quotes)):
        taken = 2 if rest[0] in quotes else 1
        value, rest = value + rest[taken - 1], rest[taken:]
    assert len(rest) == 1, f"{literal} ends before its end"
    assert rest in quotes
    return value


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_every_script_is_powershell(written: Inventory, customer: str) -> None:
    scripts = sorted(written.folder(customer).rglob("*.ps1"))
    assert len(scripts) == 2 * (1 + len(CUSTOMERS[customer].get("sbc_tenants", [])))
    for path in scripts:
        assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "without the mark Windows PowerShell takes it for ANSI"
        root = tree(path.read_text(encoding="utf-8-sig"))
        wrong = [each for each in nodes(root) if each.type == "ERROR" or each.is_missing]
        assert wrong == [], path


@pytest.mark.skipif(not shutil.which("pwsh"), reason="no PowerShell on the PATH")
def test_powershell_itself_accepts_every_script(written: Inventory) -> None:
    check = """
    $failed = $false
    foreach ($path in $args) {
        $errors = $null
        [System.Management.Automation.Language.Parser]::ParseFile($path, [ref]$null, [ref]$errors) | Out-Null
        foreach ($each in $errors) { $failed = $true; Write-Host "${path}: $each" }
    }
    exit [int]$failed
    """
    program = written.directory.parent / "check.ps1"
    program.write_text(check)
    scripts = [str(path) for path in sorted(written.directory.rglob("*.ps1"))]
    done = subprocess.run(["pwsh", "-NoProfile", "-File", str(program), *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("trunk", HOSTILE)
def test_a_hostile_name_is_one_literal(written: Inventory, trunk: str, quote: Callable[[str], str]) -> None:
    harmless = {each: names(written.read("carrier", TENANTS[0], each), ".*") for each in TEXTS[1:]}
    [folder] = [
        path.parent
        for path in written.folder("hostile").glob("*/setup.ps1")
        if f"$Trunk = {quote(trunk)}\n" in path.read_text(encoding="utf-8-sig")
    ]
    for name in TEXTS[1:]:
        script = (folder / name).read_text(encoding="utf-8-sig")
        found = literals(tree(script))
        assert [spoken(each) for each in found if "sbc.example" in each] == [trunk, f"Made by setup.ps1 for {trunk}"]
        assert trunk.replace(".", " ") in [spoken(each) for each in found]
        assert names(script, ".*") == harmless[name], "it calls what a harmless name's script calls"
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", folder.name)


def test_a_hostile_pattern_is_one_literal(written: Inventory) -> None:
    for path in written.folder("hostile").glob("*/setup.ps1"):
        script = path.read_text(encoding="utf-8-sig")
        if path.parent.name != "sbc.example.com":
            [found] = re.findall(r"^\$NumberPattern = (.*)$", script, re.M)
            assert literals(tree(found)) == [found]
            assert spoken(found) == CUSTOMERS["hostile"]["handoff_number_pattern"]


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\u202e", "\u200b", "\ufeff"])
def test_what_cannot_be_seen_is_refused(quote: Callable[[str], str], character: str) -> None:
    with pytest.raises(ValueError, match=rf"U\+{ord(character):04X}"):
        quote(f"sbc{character}.example.com")


def test_a_line_end_in_a_name_fails_and_writes_nothing(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "inventory")
    inventory.directory.mkdir()
    inventory.declare({"contoso": {"sbc_fqdn": "sbc1.example.com\nRemove-Item /"}})
    done = inventory.play()
    assert done.returncode == 2
    assert "U+000A" in done.stdout + done.stderr
    assert list(inventory.files()) == ["customers.yml"]


@pytest.mark.parametrize("word", ["a", "a`b", "``a``", "`", " a ", "a\\", ""])
def test_markdown_shows_a_name_as_it_is(word: str) -> None:
    code: Callable[[str], str] = load("filter", "markdown_code").FilterModule().filters()["markdown_code"]
    shown = code(word)
    fence = re.match("`+", shown)
    assert fence
    inside = shown[len(fence[0]) : -len(fence[0])]
    assert shown.endswith(fence[0])
    assert fence[0] not in re.findall("`+", inside), "no run of backticks as long as the fence"
    # As a reader of Markdown does: one space goes from each side if both have one and there is more.
    stripped = inside[1:-1] if inside.strip() and inside[0] == inside[-1] == " " else inside
    assert stripped == word
    with pytest.raises(ValueError, match="more than one line"):
        code(f"{word}\n")


ROUTE = ["CsOnlinePstnUsage", "CsOnlineVoiceRoute", "CsOnlineVoiceRoutingPolicy"]


@pytest.mark.parametrize(
    ("customer", "trunk", "made"),
    [
        ("single-commercial", "sbc2.example.com", ["CsOnlinePSTNGateway", *ROUTE]),
        ("carrier", "sbc1.example.com", ["CsOnlinePSTNGateway"]),
        ("carrier", TENANTS[0], ROUTE),
    ],
)
def test_undo_goes_the_way_back(written: Inventory, customer: str, trunk: str, made: list[str]) -> None:
    setup, undo = (written.read(customer, trunk, name) for name in TEXTS[1:])
    assert [name.split("-")[1] for name in names(setup, "New|Set")] == made
    assert [name.split("-")[1] for name in names(undo, "Remove|Set")] == made[::-1]
    assert names(setup, "Remove|Grant") == []
    assert names(undo, "New") == []


def test_nothing_is_changed_unasked_and_no_error_is_passed_over(written: Inventory) -> None:
    for path in written.directory.rglob("*.ps1"):
        for command in commands(path.read_text(encoding="utf-8-sig")):
            name = text(command.child_by_field_name("command_name"))
            if not re.fullmatch(r"\w+-(Cs|MicrosoftTeams).*", name):
                continue
            assert "-ErrorAction Stop" in text(command), (
                f"{path}: {name}: a module's functions do not see our preference"
            )
            if name.startswith(("New-", "Set-", "Remove-", "Grant-")):
                assert is_asked_for(command), f"{path}: {name} would not heed -WhatIf"


def is_asked_for(command: Node) -> bool:
    node: Node | None = command
    while node is not None:
        if node.type in ("if_statement", "elseif_clause"):
            condition = node.child_by_field_name("condition")
            if condition is not None and "$PSCmdlet.ShouldProcess(" in text(condition):
                return True
        node = node.parent
    return False


@pytest.mark.parametrize(
    ("cloud", "environment"), [("commercial", None), ("gcc_high", "TeamsGCCH"), ("dod", "TeamsDOD")]
)
def test_each_cloud_is_signed_in_to(written: Inventory, cloud: str, environment: str | None) -> None:
    customer = f"single-{cloud.replace('_', '-')}"
    for name in TEXTS[1:]:
        [connect] = re.findall(r"Connect-MicrosoftTeams(.*)$", written.read(customer, "sbc2.example.com", name), re.M)
        assert connect == (f" -TeamsEnvironmentName '{environment}'" if environment else "") + " -ErrorAction Stop"
    assert CLOUDS[cloud]["title"] in written.read(customer, "sbc2.example.com", "checklist.md")


@pytest.mark.parametrize(
    ("customer", "trunk", "domain", "record"),
    [
        ("single-commercial", "sbc2.example.com", "example.com", "hostname `@`"),
        ("carrier", "sbc1.example.com", "sbc1.example.com", "hostname `sbc1`"),
        ("carrier", TENANTS[0], TENANTS[0], "hostname `fabrikam.sbc1`"),
        ("manual", TENANTS[0], TENANTS[0], f'`{TENANTS[0]}. 3600 IN TXT "MS=ms12345678"`'),
    ],
)
def test_the_checklist_names_domain_and_record(
    written: Inventory, customer: str, trunk: str, domain: str, record: str
) -> None:
    checklist = " ".join(written.read(customer, trunk, "checklist.md").split())
    assert f"add `{domain}`" in checklist
    assert f"`@{domain}`" in checklist
    assert record in checklist


def test_a_record_that_would_hide_the_wildcard_is_to_be_taken_away(written: Inventory) -> None:
    said = "Delete the TXT record again"
    assert said in written.read("wildcard", TENANTS[0], "checklist.md")
    assert said not in written.read("wildcard", "sbc1.example.com", "checklist.md")
    assert said not in written.read("carrier", TENANTS[0], "checklist.md")


def changed(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))


def test_repeated_rehearsed_and_with_a_tenant_less(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "inventory")
    inventory.directory.mkdir()
    customers = {"contoso": {"sbc_fqdn": "sbc1.example.com", "sbc_tenants": TENANTS}}
    inventory.declare(customers)
    assert changed(inventory.play("--check")) == 1
    assert list(inventory.files()) == ["customers.yml"]
    assert changed(inventory.play()) == 1
    before = inventory.files()
    assert sorted(path.name for path in inventory.folder("contoso", TENANTS[1]).iterdir()) == TEXTS
    assert changed(inventory.play()) == 0
    assert inventory.files() == before

    notes = inventory.folder("contoso", TENANTS[0]) / "notes.txt"
    notes.write_text("ours")
    inventory.declare({"contoso": customers["contoso"] | {"sbc_tenants": []}})
    assert changed(inventory.play("--check")) == 1
    assert inventory.folder("contoso", TENANTS[1]).exists()
    assert changed(inventory.play()) == 1
    assert sorted(path.name for path in inventory.folder("contoso").iterdir()) == [TENANTS[0], "sbc1.example.com"]
    assert list(notes.parent.iterdir()) == [notes], "what is not the role's stays"
