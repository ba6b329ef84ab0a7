"""Fixtures: a certification authority, Kamailio's RPC, TLS ports, and a configuration for an SBC on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from miniature import FQDN, Authority, KamailioRpc, SipPort

from sbc_probe.config import Config


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Path:
    return authority.issue("good", FQDN)


@pytest.fixture
def rpc(tmp_path: Path) -> Iterator[KamailioRpc]:
    server = KamailioRpc(tmp_path / "rpc.sock")
    yield server
    server.close()


@pytest.fixture
def open_port() -> Iterator[Callable[..., SipPort]]:
    """Open ports: `open_port(certificate, address, port)`; all are closed at the end."""
    ports: list[SipPort] = []

    def open_(certificate: Path | None, address: str = "127.0.0.1", port: int = 0) -> SipPort:
        ports.append(SipPort(address, port, certificate))
        return ports[-1]

    yield open_
    for port in ports:
        port.close()


@pytest.fixture
def settings(tmp_path: Path, authority: Authority, certificate: Path) -> dict[str, Any]:
    """The contents of a configuration file, for an SBC on 127.0.0.1."""
    return {
        "customer": "acme",
        "fqdn": FQDN,
        "address": "127.0.0.1",
        "cloud": "commercial",
        "proxies": ["p1.example.net", "p2.example.net", "p3.example.net"],
        "signalling_networks": ["10.9.9.8/29", "127.0.0.8/29"],
        "options_interval": 60,
        "rpc_socket": str(tmp_path / "rpc.sock"),
        "certificate": str(certificate),
        "private_key": str(certificate.with_suffix(".key")),
        "loaded": str(tmp_path / "loaded"),
        "packet_filter": str(tmp_path / "packet-filter.sock"),
        "time_servers": [],
        "renewal_record": str(tmp_path / "renewal.json"),
        "trusted_roots": str(authority.roots),
        "proxy_roots": str(authority.roots),
        "listen": ["127.0.0.1:0"],
        "history": str(tmp_path / "history.sqlite"),
    }


@pytest.fixture
def config(settings: dict[str, Any]) -> Config:
    return Config.parse(settings)
