"""Run Microsoft's proxies: python -m lab.microsoft --config FILE (see `load` for what the file says)."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from lab.microsoft.ca import CERTIFICATE_FAULTS, Files
from lab.microsoft.control import make_app
from lab.microsoft.names import Resolver
from lab.microsoft.proxy import Proxy, ProxyConfig, World
from lab.microsoft.trunks import Registry, Settings

REMEMBERED_REFUSALS = 200


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration file, read."""

    control: Path
    resolver: str
    state: Path
    settings: Settings
    proxies: list[ProxyConfig]


def load(path: Path) -> Config:
    """Read the JSON configuration. Raises OSError, ValueError, KeyError or TypeError when it is not as follows.

    control: the unix socket to serve the control interface on; resolver: address[:port] of a name server;
    trusted_roots: {cloud: [PEM file, ...]}, files that may come later; state: JSON file that keeps the trunks;
    faulty: {misnamed, expired, untrusted: {certificate, key}}, what a proxy with that fault has instead of its own;
    proxies: list of {cloud, name, address, certificate, key[, port]}; and, in seconds, all optional, options_interval,
    demote_after, timeout.
    """
    data: dict[str, Any] = json.loads(path.read_text())
    roots = {cloud: tuple(map(Path, paths)) for cloud, paths in data.pop("trusted_roots").items()}
    given = data.pop("faulty")
    faulty = {kind: Files(Path(given[kind]["certificate"]), Path(given[kind]["key"])) for kind in CERTIFICATE_FAULTS}
    proxies = [
        ProxyConfig(
            **entry
            | {"certificate": Path(entry["certificate"]), "key": Path(entry["key"])}
            | {"trusted_roots": roots[entry["cloud"]], "faulty": faulty}
        )
        for entry in data.pop("proxies")
    ]
    return Config(
        control=Path(data.pop("control")),
        resolver=data.pop("resolver"),
        state=Path(data.pop("state")),
        proxies=proxies,
        settings=Settings(**{key: float(value) for key, value in data.items()}),
    )


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; the control interface comes last: when it answers, all proxies listen."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    world = World(
        registry=Registry(config.state),
        settings=config.settings,
        resolver=Resolver(config.resolver),
        refusals=deque(maxlen=REMEMBERED_REFUSALS),
    )
    proxies = {proxy.name: Proxy(proxy, world) for proxy in config.proxies}
    runner = web.AppRunner(make_app(proxies, world), access_log=None)
    try:
        for proxy in proxies.values():
            await proxy.start()
        await runner.setup()
        config.control.parent.mkdir(parents=True, exist_ok=True)
        await web.UnixSite(runner, str(config.control)).start()
        await stop.wait()
    finally:
        await runner.cleanup()
        for proxy in proxies.values():
            await proxy.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.microsoft", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration")
    parser.add_argument("--verbose", action="store_true", help="log every connection")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        config = load(arguments.config)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        print(f"{arguments.config}: {type(exc).__name__}: {exc}", file=sys.stderr)
        return 2
    asyncio.run(serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
