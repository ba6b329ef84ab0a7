"""A directory for Kamailio's files, and a Kamailio that ends with its test."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kamailio import handshakes
from tests.kamailio.running import (
    PATIENCE,
    PROXIES,
    ROOT,
    Proxy,
    Sbc,
    Start,
    listens_on_port,
    render,
    start_kamailio,
    wait_for,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A new directory that Kamailio, in its root directory, can read too."""
    with tempfile.TemporaryDirectory(prefix="sbc-", dir=ROOT / "tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Start]:
    """Start Kamailio with the product's configuration, these proxies and variables; it ends with the context."""
    with contextlib.ExitStack() as stack:

        def begin(hosts: list[str] = PROXIES, environment: Sequence[str] = (), **variables: Any) -> Sbc:
            handshakes.make_certificates(directory)
            handshakes.issue(directory, "peer", "peer", *PROXIES)
            facts = {
                "proxies": [{"host": host, "port": 5061} for host in hosts],
                "signalling_networks": ["127.7.2.0/25", "127.7.2.128/25"],
            }
            variables = {"sbc_cloud_facts": facts, **variables}
            render(directory, **variables)
            proxies = [Proxy(address, directory) for address in PROXIES]
            for proxy in proxies:
                stack.callback(proxy.close)
            kamailio = start_kamailio(directory, *environment)
            sbc = Sbc(directory, kamailio, proxies, variables)
            stack.callback(wait_for, lambda: not listens_on_port())
            stack.callback(lambda: sbc.process.wait(timeout=PATIENCE))
            stack.callback(lambda: sbc.process.kill())

            def listens() -> bool:
                assert kamailio.poll() is None, (directory / "log").read_text()
                with contextlib.suppress(OSError):
                    return bool(sbc.rpc("core.uptime"))
                return False

            assert wait_for(listens)
            return sbc

        yield begin


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """The same, for the time of a test."""
    with started(directory) as begin:
        yield begin
