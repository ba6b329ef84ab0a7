"""The lab's API; whatever a test asks it and is answered is held against DigitalOcean's published contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.api import Lab


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab()
    monkeypatch.setenv("DIGITALOCEAN_END_POINT", f"{lab.url}/v2/")
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", "token")
    yield lab
    lab.close()
