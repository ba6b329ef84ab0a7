"""The lab's API, one for all tests of the plugins and empty for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.plugins.support import ROOT, TOKEN, Api, Client


@pytest.fixture(scope="session")
def lab() -> Iterator[Api]:
    command = [sys.executable, "-m", "lab.digitalocean", "--records-only", "--port", "0", "--control-port", "0"]
    with subprocess.Popen(
        [*command, "--domain", "example.com"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        _, endpoint, _, control = process.stdout.readline().split()
        yield Api(endpoint, control)
        process.terminate()


@pytest.fixture
def api(lab: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    lab.control("POST", "reset")
    lab.control("POST", "account", {"droplet_limit": 25, "boot_seconds": 0.05, "address_seconds": 0.05})
    monkeypatch.setenv("DIGITALOCEAN_END_POINT", lab.endpoint)
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", TOKEN)
    monkeypatch.setattr(Client, "backoff", 0.05)
    monkeypatch.setattr(Client, "settling", (0.1, 0.1))
    return lab
