"""A package as one file: the same bytes for the same sources, and it runs."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.plugins.machine import load
from tests.plugins.support import ROOT


@pytest.fixture
def plugin() -> ModuleType:
    return load("filter", "zipapp")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "greeter"
    (directory / "inner").mkdir(parents=True)
    (directory / "__init__.py").touch()
    (directory / "inner" / "__init__.py").touch()
    (directory / "inner" / "words.py").write_text("WORDS = 'good morning'\n")
    (directory / "__main__.py").write_text(
        "import sys\nfrom greeter.inner.words import WORDS\nprint(WORDS, *sys.argv[1:])\nsys.exit(3)\n"
    )
    return directory


def unpack(encoded: str, directory: Path) -> Path:
    program = directory / "program"
    program.write_bytes(base64.b64decode(encoded))
    program.chmod(0o755)
    return program


def test_the_result_runs(plugin: ModuleType, package: Path, tmp_path: Path) -> None:
    program = unpack(plugin.zipapp(str(package), sys.executable), tmp_path)
    for command in ([str(program)], [sys.executable, str(program)]):
        done = subprocess.run([*command, "world"], cwd="/", capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("good morning world\n", "", 3)


def test_the_same_sources_give_the_same_bytes(plugin: ModuleType, package: Path) -> None:
    before = plugin.zipapp(str(package))
    for path in package.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "__main__.cpython-313.pyc").write_bytes(b"compiled")
    assert plugin.zipapp(f"{package}/../{package.name}") == before
    (package / "inner" / "words.py").write_text("WORDS = 'good night'\n")
    assert plugin.zipapp(str(package)) != before


def test_neither_the_clock_nor_the_file_system_shows(plugin: ModuleType, package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(unpack(plugin.zipapp(str(package)), tmp_path)) as archive:
        start, *members = archive.infolist()
    assert start.filename == "__main__.py"
    assert [member.filename for member in members] == [
        "greeter/__init__.py",
        "greeter/__main__.py",
        "greeter/inner/__init__.py",
        "greeter/inner/words.py",
    ]
    assert {member.date_time for member in (start, *members)} == {(1980, 1, 1, 0, 0, 0)}


def test_the_probe_as_it_is_installed(plugin: ModuleType, tmp_path: Path) -> None:
    encoded = plugin.FilterModule().filters()["zipapp"](str(ROOT / "src" / "sbc_probe"))
    program = unpack(encoded, tmp_path)
    assert program.read_bytes().startswith(b"#!/usr/bin/python3\n")
    done = subprocess.run(
        [sys.executable, "-I", str(program), "check", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--wait" in done.stdout


def test_a_package_that_does_not_run(plugin: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no __main__\.py"):
        plugin.zipapp(str(tmp_path))
