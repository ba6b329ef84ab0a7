"""The lab's API as other people's clients meet it: over HTTPS, its zones in the DNS, held against the contract."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.api import Lab
from tests.plugins.tls import Authority


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `root.pem`, and `server.pem` and `server.key` for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority()
    key, certificate = authority.issue(["localhost"])
    for name, text in (("root.pem", authority.pem), ("server.pem", certificate), ("server.key", key)):
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def lab(tls: Path) -> Iterator[Lab]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    lab = Lab(tls=context)
    yield lab
    lab.close()
