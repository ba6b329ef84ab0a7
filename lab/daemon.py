"""The lab's one long-running process: DigitalOcean's API, the control interface, and whatever serves the rest."""

from __future__ import annotations

import asyncio
import json
import signal
from types import NoneType
from typing import Any

import aiohttp
from aiohttp import web

from lab import cgroup, machines, network, services, settings
from lab.digitalocean import Account, make_app, make_control
from lab.http import body_of
from lab.microsoft import ca

GROUP = "lab"
_SOCKETS = ("acme", "clock", "dns", "microsoft")


def _names() -> dict[str, str]:
    proxies = {name: address for name, (_, address) in settings.MICROSOFT_PROXIES.items()}
    directories = {host: address for host, address, _ in settings.ACME.values()}
    clocks = dict.fromkeys(settings.TIME_NAMES, settings.TIME_ADDRESS)
    return proxies | directories | clocks | {settings.PACKAGES_NAME: settings.CONTROLLER_ADDRESS}


async def _ask(service: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request to a service that listens on a unix socket, since it lives in a namespace of its own."""
    connector = aiohttp.UnixConnector(str(settings.RUN / f"{service}.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://{service}/{path}", data=body) as response,
    ):
        return response.status, await response.read()


async def _tell_dns(path: str, body: Any) -> None:
    status, answer = await _ask("dns", "PUT", path, json.dumps(body).encode())
    if status >= 300:
        raise RuntimeError(f"the lab's dns refused {path}: {status} {answer.decode()}")


def _control(account: Account, running: services.Services, droplets: machines.NspawnMachines) -> web.Application:
    app = make_control(account)

    async def status(request: web.Request) -> web.Response:
        return web.json_response({"services": running.running(), "machines": droplets.running()})

    async def forward(request: web.Request) -> web.Response:
        name, path = request.match_info["service"], request.match_info["path"]
        code, body = await _ask(name, request.method, path, await request.read())
        return web.Response(status=code, body=body, content_type="application/json")

    async def sell(request: web.Request) -> web.Response:
        body = await body_of(request, names=list, fault=(str, NoneType))
        names, fault = body.get("names"), body.get("fault")
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names = {names!r} is no list of names")
        if fault not in (None, *ca.FAULTS):
            raise ValueError(f"fault = {fault!r} is not one of {', '.join(ca.FAULTS)}")
        chain, key = running.seller.sell(names, fault)
        return web.json_response({"chain": chain, "key": key})

    app.router.add_get("/status", status)
    app.router.add_post("/certificates", sell)
    app.router.add_route("*", f"/{{service:{'|'.join(_SOCKETS)}}}/{{path:.*}}", forward)
    return app


async def serve() -> None:
    """Bring everything up, say so in the file READY, and serve until SIGTERM; the next `up` or `down` clears up."""
    cgroup.enter(GROUP)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    network.up()
    running = services.Services()
    await running.start()
    await _tell_dns("names", _names())

    async def publish(zones: Any) -> None:
        await _tell_dns("zones", zones)

    droplets = machines.NspawnMachines()
    account = Account(None, domains=[settings.DOMAIN], on_zones_changed=publish)
    runners = []
    for app, port in (
        (make_app(account, droplets), settings.API_PORT),
        (_control(account, running, droplets), settings.CONTROL_PORT),
    ):
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        runners.append(runner)

    settings.READY.touch()
    await stop.wait()
    settings.READY.unlink(missing_ok=True)
    for runner in runners:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
