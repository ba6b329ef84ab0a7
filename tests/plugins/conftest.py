"""The lab's API, one for all tests of the plugins and empty for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.judge import JUDGE
from tests.plugins.support import TOKEN, Api, Client, records_only


@pytest.fixture(scope="session")
def lab() -> Iterator[Api]:
    with records_only("--domain", "example.com") as api:
        yield api


@pytest.fixture
def api(lab: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The lab's API, empty; all that it is asked and answers is held against DigitalOcean's contract afterwards."""
    lab.control("POST", "reset")
    lab.control("POST", "account", {"droplet_limit": 25, "boot_seconds": 0.05, "address_seconds": 0.05})
    monkeypatch.setenv("DIGITALOCEAN_END_POINT", lab.endpoint)
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", TOKEN)
    monkeypatch.setattr(Client, "backoff", 0.05)
    monkeypatch.setattr(Client, "settling", (0.1, 0.1))
    yield lab
    JUDGE.take(lab.control_url)
