"""The plugins as a user's tasks would run them, against the lab's API with droplets on paper."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ansible.module_utils
import pytest
import requests

from tests.contract.judge import JUDGE

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))

from ansible.module_utils import _internal  # noqa: E402
from ansible.module_utils.common import warnings  # noqa: E402
from ansible.module_utils.digitalocean import Client  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402

__all__ = ["PLUGINS", "ROOT", "TOKEN", "Api", "Client", "Failed", "records_only", "run_module"]

TOKEN = "dop_v1_" + "5ec2e7" * 8


class Api:
    """The lab's API: its endpoint, its control interface, and a client to look with."""

    def __init__(self, endpoint: str, control: str) -> None:
        self.endpoint, self.control_url = endpoint, control
        self.client = Client(TOKEN, endpoint)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self.control_url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def fault(self, kind: str, method: str = "*", path: str = "*", **more: Any) -> None:
        self.control("POST", "faults", {"kind": kind, "method": method, "path_glob": f"/v2/{path}", **more})

    def requests(self) -> list[str]:
        """Method, path and status of each request since the last call; the paths without query."""
        entries = self.control("GET", "requests")["requests"]
        self.control("DELETE", "requests")
        paths = [each["path"].split("?")[0].removeprefix("/v2/") for each in entries]
        return [f"{each['method']} {path} {each['status']}" for each, path in zip(entries, paths, strict=True)]

    def droplet(self, *tags: str, name: str = "sbc1.example.com", wait: bool = True, **more: Any) -> dict[str, Any]:
        """Create a droplet behind the product's back."""
        body = {"name": name, "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "tags": list(tags)}
        made: dict[str, Any] = self.client.call("POST", "droplets", body | more)["droplet"]
        while wait and not (made["status"] == "active" and made["networks"]["v4"]):
            made = self.client.call("GET", f"droplets/{made['id']}")["droplet"]
        return made


@contextmanager
def records_only(*arguments: str, judged: bool = True) -> Iterator[Api]:
    """The lab's API with droplets on paper, in a process of its own; asked and answered, judged at the end."""
    command = [sys.executable, "-m", "lab.digitalocean", "--records-only", "--port", "0", "--control-port", "0"]
    with subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        _, endpoint, _, control = process.stdout.readline().split()
        try:
            yield Api(endpoint, control)
            if judged:
                JUDGE.take(control)
        finally:
            process.terminate()


class Failed(Exception):
    """A module ended with failed: true; the result is its argument."""


def run_module(name: str, /, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a module's main() in this process and return its result. Raises Failed."""
    spec = importlib.util.spec_from_file_location(f"modules_{name}", PLUGINS / "modules" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their class's module up
    spec.loader.exec_module(module)
    output = io.StringIO()
    settings = {"_ansible_check_mode": check, "_ansible_diff": True}
    with (
        # Once a test has loaded Ansible's engine into this process, modules would take themselves for a part of it.
        patch.object(_internal, "is_controller", False),
        patch.dict(warnings._global_warnings, clear=True),
        patch_module_args(arguments | settings),
        redirect_stdout(output),
        pytest.raises(SystemExit),
    ):
        module.main()
    text = output.getvalue()
    assert TOKEN not in text, "the token is in the output"
    result: dict[str, Any] = json.loads(text)
    if result.get("failed"):
        raise Failed(result)
    return result
