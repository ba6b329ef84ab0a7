"""A machine on paper: a module's main() in this process, with programs of the test's own on its PATH."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from tests.plugins.support import PLUGINS, Failed


def load(kind: str, name: str) -> ModuleType:
    """A plugin's file as a Python module, so that a test can move its constants."""
    spec = importlib.util.spec_from_file_location(f"{kind}_{name}", PLUGINS / kind / f"{name}.py")
    assert spec
    assert spec.loader
    plugin = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = plugin  # where dataclasses look their class's module up
    spec.loader.exec_module(plugin)
    return plugin


def run(plugin: ModuleType, /, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a loaded module's main() and return its result. Raises Failed."""
    output = io.StringIO()
    settings = {"_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(arguments | settings), redirect_stdout(output), pytest.raises(SystemExit):
        plugin.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    if result.get("failed"):
        raise Failed(result)
    return result


class Programs:
    """Shell scripts that stand in for a machine's programs and note how they were called."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bin, self._log = directory / "bin", directory / "calls"
        self._bin.mkdir()
        self._log.touch()
        monkeypatch.setenv("PATH", f"{self._bin}:{os.environ['PATH']}")

    def add(self, name: str, body: str = "") -> Path:
        """Put a program on the PATH, in place of one with the same name. Returns its path."""
        note = f"printf '%s\\n' \"{name}${{*:+ $*}}\" >>{shlex.quote(str(self._log))}"
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{note}\n{body}\n")
        path.chmod(0o755)
        return path

    def calls(self) -> list[str]:
        """Name and arguments of each call since the last look."""
        calls = self._log.read_text().splitlines()
        self._log.write_text("")
        return calls
