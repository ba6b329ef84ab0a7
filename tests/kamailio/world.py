"""Everything around a real Kamailio that the probe looks at: DNS, the time, Microsoft's OPTIONS; and the probe itself.

The probe is the very file that a droplet gets, run by Debian 13's Python in Kamailio's root directory. The clock of
both is moved by libfaketime, in that directory too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from lab.clock import PORT as TIME_PORT
from lab.clock import TimeServer
from lab.dns import NameSpace
from lab.dns import Server as NameServer
from plugins.filter.zipapp import zipapp
from tests.kamailio.running import (
    ADDRESS,
    FQDN,
    PATIENCE,
    PROXIES,
    REPOSITORY,
    ROOT,
    Sbc,
    command,
    listens_on_port,
    start_kamailio,
    wait_for,
)

DNS_ADDRESS, TIME_ADDRESS = "127.7.1.53", "127.7.1.123"
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
needs_faketime = pytest.mark.skipif(
    not Path(f"{ROOT}/{FAKETIME}").exists(), reason="no libfaketime beside Kamailio: set KAMAILIO_ROOT"
)


def free_port() -> int:
    """One below those that Linux gives to whoever asks for any, so that it stays free until it is used."""
    for port in random.sample(range(20000, 30000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


class Surroundings:
    """A name server and a time server, and Microsoft, who asks once a second while its `asks` is set."""

    def __init__(self) -> None:
        self.time = TimeServer()
        self.asks = threading.Event()
        names = NameSpace()
        names.set_hosts({FQDN: ADDRESS} | {address: address for address in PROXIES})
        self._names = NameServer(names)
        self._loop = asyncio.new_event_loop()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._loop.run_forever, self._ask)]
        self._sbc: Sbc | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._loop.close()

    def calls(self, sbc: Sbc) -> None:
        """From now on Microsoft asks this one."""
        self._sbc = sbc
        self.asks.set()

    async def _begin(self) -> None:
        await self._names.start(DNS_ADDRESS)
        self._transport, _ = await self._loop.create_datagram_endpoint(lambda: self.time, (TIME_ADDRESS, TIME_PORT))

    async def _end(self) -> None:
        await self._names.stop()
        self._transport.close()

    def _ask(self) -> None:
        while not self._ended.wait(1):
            if self.asks.is_set() and self._sbc:
                with contextlib.suppress(OSError):
                    self._sbc.ask()


class Hands:
    """The clock that Kamailio and the probe see, moved away from the machine's by so many seconds."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "moved"
        self.move(0)
        inside = Path("/") / self._file.relative_to(ROOT)
        self.environment = (
            f"LD_PRELOAD={FAKETIME}",
            f"FAKETIME_TIMESTAMP_FILE={inside}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )

    def move(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n")
        new.replace(self._file)


class Shears:
    """Something in front of Kamailio's RPC socket; it cuts each answer after `left` bytes while that is set."""

    def __init__(self, sbc: Sbc) -> None:
        self.left: int | None = None
        self.path = sbc.directory / "cut.sock"
        self._target = str(sbc.directory / "rpc.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.path.chmod(0o666)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, sender = self._socket.recvfrom(1 << 18)
                if not question:
                    return
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                    client.bind("")
                    client.settimeout(2)
                    client.sendto(question, self._target)
                    answer = client.recv(1 << 18)
                    self._socket.sendto(answer if self.left is None else answer[: self.left], sender)


class Probe:
    """`sbc-probe serve` as a process, and `sbc-probe check` beside it."""

    def __init__(self, sbc: Sbc, hands: Hands, **settings: Any) -> None:
        self.directory, self.hands = sbc.directory, hands
        self.inside = Path("/") / sbc.directory.relative_to(ROOT)
        self.port = free_port()
        values = {
            "customer": "contoso",
            "fqdn": FQDN,
            "address": ADDRESS,
            "proxies": PROXIES,
            "signalling_networks": ["127.7.2.0/24"],
            "options_interval": sbc.variables["sbc_options_interval"],
            "microsoft_options_interval": 2,
            "rpc_socket": f"{self.inside}/rpc.sock",
            "certificate": f"{self.inside}/sbc.pem",
            "private_key": f"{self.inside}/sbc.key",
            "issued_by": "files",
            "trusted_roots": f"{self.inside}/ca.pem",
            "proxy_roots": f"{self.inside}/ca.pem",
            "loaded": f"{self.inside}/loaded",
            "packet_filter": f"{self.inside}/packet-filter.sock",
            "time_servers": [TIME_ADDRESS],
            "history": f"{self.inside}/history.sqlite",
            "listen": [f"127.0.0.1:{self.port}"],
        }
        (self.directory / "probe.json").write_text(json.dumps(values | settings))
        program = self.directory / "sbc-probe"
        program.write_bytes(base64.b64decode(zipapp(str(REPOSITORY / "src/sbc_probe"))))
        program.chmod(0o755)
        (self.directory / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")

    def _command(self, verb: str, *arguments: str) -> list[str]:
        """In Kamailio's root directory, with our name server."""
        there = command(
            "env",
            *self.hands.environment,
            *("python3", str(self.inside / "sbc-probe"), verb, "--config", str(self.inside / "probe.json"), *arguments),
        )
        mount = f"mount --bind {self.directory}/resolv.conf {ROOT}/etc/resolv.conf"
        return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "-", *there]

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.directory / "probe.log").open("wb") as log:
            process = subprocess.Popen(self._command("serve"), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)

    def check(self) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(self._command("check", "--json"), capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def status(self) -> dict[str, Any]:
        """What the service says, as it says it now; OSError where it does not answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}/status.json", timeout=PATIENCE) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{self.port}/healthz", timeout=PATIENCE):
            return True
        return False

    def says(self, state: str, cause: str | None = None) -> bool:
        with contextlib.suppress(OSError):
            overall = self.status()["overall"]
            return bool(overall["state"] == state and overall["cause"] == cause)
        return False

    def waits_for(self, state: str, cause: str | None = None, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until the service says so; what it says last if it does not."""

        def said() -> bool:
            meanwhile()
            return self.says(state, cause)

        if not wait_for(said):
            raise AssertionError(json.dumps(self.status(), indent=1) + (self.directory / "probe.log").read_text())


def processes(sbc: Sbc) -> list[int]:
    """Kamailio's, by the machine's numbers: all that descend from what was started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = entry.read_text().partition(" (")
            children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    found, new = [], [sbc.process.pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return [pid for pid in found if Path(f"/proc/{pid}/exe").resolve().name == "kamailio"]


def tell_all(sbc: Sbc, number: signal.Signals) -> None:
    """Send a signal to every process of Kamailio's."""
    for pid in processes(sbc):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def start_again(sbc: Sbc, hands: Hands) -> None:
    """Start Kamailio once more where it ended; systemd would have cleared its runtime directory."""
    sbc.process.wait(PATIENCE)
    assert wait_for(lambda: not listens_on_port())
    for left in ("pid", "rpc.sock", "kamailio_ctl"):
        (sbc.directory / left).unlink(missing_ok=True)
    sbc.process = start_kamailio(sbc.directory, *hands.environment)

    def listens() -> bool:
        assert sbc.process.poll() is None, (sbc.directory / "log").read_text()
        return listens_on_port()

    assert wait_for(listens)
