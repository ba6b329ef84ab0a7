"""An API of the lab for one test, its machines on paper."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from aiohttp import web

from lab import settings
from lab.digitalocean import Account, MachineSpec, RecordsOnly, make_app, make_control
from lab.dns import NameSpace, Server
from tests.contract.judge import JUDGE
from tests.contract.validator import ON_PURPOSE

ROOT = Path(__file__).parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzdSpYGjJyDZvwzYUoX1N8gBIqvtvTqEuGYNYkKE1sZ operator"
# As `ssh-keygen -E md5 -l` prints it.
KEY_FINGERPRINT = "3b:f4:f1:dd:c5:d1:ac:e0:79:a2:cc:4a:e0:aa:6c:61"
FIRST_ADDRESS = settings.DROPLETS_GATEWAY.removesuffix(".1") + ".10"
DROPLET = {"name": "alpha", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
SSH = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["192.0.2.0/24", "2001:db8::/32"]}}
# How long (s) a machine that is slow or busy may take; nothing waits without need.
PATIENCE = 60
OUT = {"protocol": "udp", "ports": "all", "destinations": {"addresses": ["0.0.0.0/0"]}}


class Hardware(RecordsOnly):
    """Machines that can be slow or broken, or do their work only when they are let."""

    seconds = 0.0
    broken = False
    held = False

    async def create(self, droplet: MachineSpec) -> None:
        if self.broken:
            raise RuntimeError("no such luck")
        await asyncio.sleep(self.seconds)
        await self._leave()
        await super().create(droplet)

    async def route(self, reserved_ip: str, anchor: str | None) -> None:
        await self._leave()
        await super().route(reserved_ip, anchor)

    async def _leave(self) -> None:
        while self.held:
            await asyncio.sleep(0.01)


class Lab:
    """An API, its control interface and its zones' name server in a thread of their own; with `tls` HTTPS, too."""

    def __init__(self, state: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.machines = Hardware()
        self.zones: list[dict[str, Any]] = []
        self.names = NameSpace()
        self._state, self._tls = state, tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async def publish(zones: dict[str, Any]) -> None:
            self.zones.append(zones)
            self.names.set_zones(zones)

        self._stop = asyncio.Event()
        account = Account(self._state, domains=["voip.test"], on_zones_changed=publish)
        account.profile.update({"boot_seconds": 0.05, "address_seconds": 0.05, "action_seconds": 0.05})
        resolver = Server(self.names)
        self.dns_port = await resolver.start("127.0.0.1", 0)
        runners = []
        for app in (make_app(account, self.machines), make_control(account)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            runners.append(runner)
        self.url, self.control_url = (f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners)
        if self._tls:
            await web.TCPSite(runners[0], "127.0.0.1", 0, ssl_context=self._tls).start()
            self.tls_url = f"https://localhost:{runners[0].addresses[1][1]}"
        self._ready.set()
        await self._stop.wait()
        await resolver.stop()
        for runner in runners:
            await runner.cleanup()

    def close(self) -> None:
        """End it. Raises AssertionError if something that it was asked or answered is not DigitalOcean's."""
        try:
            JUDGE.take(self.control_url)
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    def call(
        self, method: str, path: str, body: Any = None, token: str = "token", on_purpose: bool = False
    ) -> requests.Response:
        """A request; `on_purpose` one that breaks DigitalOcean's contract, to see what comes of it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if on_purpose:
            headers["User-Agent"] = ON_PURPOSE
        return requests.request(method, f"{self.url}/v2{path}", json=body, headers=headers, timeout=PATIENCE)

    def ok(self, method: str, path: str, body: Any = None, on_purpose: bool = False) -> Any:
        response = self.call(method, path, body, on_purpose=on_purpose)
        assert response.ok, response.text
        return response.json() if response.content else None

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        response = self.call(method, path, body, on_purpose=True)
        assert not response.ok
        assert response.json()["request_id"] == response.headers["x-request-id"]
        return response.status_code, response.json()["message"]

    def control(self, method: str, path: str, body: Any = None) -> Any:
        response = requests.request(method, self.control_url + path, json=body, timeout=PATIENCE)
        assert response.ok, response.text
        return response.json()

    def active(self, **fields: Any) -> Any:
        """Create a droplet and wait for its address."""
        droplet = self.ok("POST", "/droplets", {**DROPLET, **fields})["droplet"]
        return until(lambda: self.ok("GET", f"/droplets/{droplet['id']}")["droplet"], lambda d: d["networks"]["v4"])


def until(read: Callable[[], Any], good: Callable[[Any], Any], seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not good(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.01)
    return value
