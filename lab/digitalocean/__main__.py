"""The API on its own, with droplets on paper: python -m lab.digitalocean --records-only."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from aiohttp import web

from lab import settings
from lab.digitalocean.account import Account
from lab.digitalocean.api import make_app
from lab.digitalocean.control import make_control
from lab.digitalocean.machines import RecordsOnly


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.digitalocean", description=__doc__)
    parser.add_argument("--port", type=int, default=settings.API_PORT, help="of the API; 0 takes a free one")
    parser.add_argument("--control-port", type=int, default=settings.CONTROL_PORT, help="of the control interface")
    parser.add_argument("--records-only", action="store_true", required=True, help="run no machines")
    parser.add_argument("--state", type=Path, help="file that keeps the account between two runs")
    parser.add_argument("--domain", action="append", default=[], help="a zone that exists from the start; repeatable")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    account = Account(options.state, domains=options.domain)
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    runners = []
    for app, port in ((make_app(account, RecordsOnly()), options.port), (make_control(account), options.control_port)):
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        runners.append(runner)
    addresses = [f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners]
    print(f"API {addresses[0]}/v2/ control {addresses[1]}/", flush=True)
    await stop.wait()
    for runner in runners:
        await runner.cleanup()


if __name__ == "__main__":
    main()
