"""What the lab's Internet consists of besides droplets: DNS, time, ACME directories, Microsoft and a package proxy."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab import cgroup, image, network, settings
from lab.acme import PEBBLE_ENVIRONMENT, Directory, pebble_config
from lab.commands import run
from lab.microsoft import ca

GROUP = "services"
MICROSOFT_ROOT = settings.ROOTS / "microsoft.pem"

# Pebble's own ports, and its management's: both in the namespace of the fronts only, one more for each directory.
_PEBBLE_PORT = 14000
_PEBBLE_MANAGEMENT_PORT = 15000

_SQUID = """
http_port {address}:{port}
acl debian dstdomain {hosts}
http_access allow debian
http_access deny all
cache_effective_user proxy
cache_dir ufs {cache} 6000 16 64
maximum_object_size 512 MB
cache_mem 64 MB
refresh_pattern \\.deb$ 129600 100% 129600
refresh_pattern . 0 20% 4320
access_log stdio:{log}/packages-access.log
cache_log {log}/packages.log
pid_filename none
shutdown_lifetime 0 seconds
"""


class Services:
    """The lab's services, from their files to their processes."""

    def __init__(self) -> None:
        self.seller = ca.Seller.prepare(settings.CA / "digicert", "Lab DigiCert Global Root")
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """Start all of them; those that others need first.

        Raises RuntimeError naming the service and its log when one does not come up.
        """
        dns = network.add_host("dns", [settings.DNS_ADDRESS])
        clock = network.add_host("clock", [settings.TIME_ADDRESS])
        acme = network.add_host("acme", [address for _, address, _ in settings.ACME.values()])
        microsoft = network.add_host("microsoft", [address for _, address in settings.MICROSOFT_PROXIES.values()])
        hosts = [host for host, _, _ in settings.ACME.values()]
        root, leaves = ca.prepare(settings.CA, [*hosts, *settings.MICROSOFT_PROXIES])
        faulty = ca.prepare_faulty(settings.CA, settings.MICROSOFT_PROXIES, settings.MISNAMED)
        _publish(MICROSOFT_ROOT, root.certificate.read_text())
        _publish(settings.ROOTS / settings.DIGICERT_ROOT, self.seller.root.pem)
        directories = _directories(leaves)

        socket = settings.RUN / "dns.sock"
        await self._spawn(
            "dns", dns, sys.executable, "-m", "lab.dns", "--listen", settings.DNS_ADDRESS, "--control", str(socket)
        )
        told = settings.RUN / "clock.sock"
        listen = ("--listen", settings.TIME_ADDRESS, "--control", str(told))
        await self._spawn("clock", clock, sys.executable, "-m", "lab.clock", *listen)
        pebbles = []
        for name, directory in directories.items():
            pebbles.append("pebble" if name == "production" else f"pebble-{name}")
            argv = ("pebble", *_pebble(pebbles[-1], directory))
            await self._spawn(pebbles[-1], acme, *argv, env=PEBBLE_ENVIRONMENT)
        await self._spawn("acme", acme, sys.executable, "-m", "lab.acme", "--config", _acme(directories, root))
        await self._spawn("packages", None, "squid", "-N", "-f", str(_squid()))
        config = _microsoft(leaves, faulty)
        await self._spawn("microsoft", microsoft, sys.executable, "-m", "lab.microsoft", "--config", config)
        await asyncio.gather(
            self._wait_for_socket(socket, "dns"),
            self._wait_for_socket(told, "clock"),
            self._wait_for_socket(settings.RUN / "acme.sock", "acme", *pebbles),
            self._wait_for_socket(settings.RUN / "microsoft.sock", "microsoft"),
            self._wait_for("packages", settings.CONTROLLER_ADDRESS, settings.PROXY_PORT),
        )

    def running(self) -> dict[str, bool]:
        """Each service by name, and whether its process is there."""
        return {name: process.returncode is None for name, process in self._processes.items()}

    async def _spawn(self, name: str, namespace: str | None, *argv: str, env: dict[str, str] | None = None) -> None:
        prefix = network.in_namespace(namespace) if namespace else []
        with (settings.LOG / f"{name}.log").open("ab") as log:
            self._processes[name] = await cgroup.spawn(GROUP, [*prefix, *argv], log, env)

    async def _until(self, ready: asyncio.Task[None], *names: str) -> None:
        """Wait for the first of these services to be ready, which needs the others."""
        ended: dict[asyncio.Future[Any], str] = {
            asyncio.ensure_future(self._processes[name].wait()): name for name in names
        }
        done, pending = await asyncio.wait({ready, *ended}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if ready not in done:
            name = next((ended[task] for task in done if task in ended), names[0])
            raise RuntimeError(f"the lab's {name} did not start: see {settings.LOG / f'{name}.log'}")

    async def _wait_for_socket(self, path: Path, *names: str) -> None:
        async def listening() -> None:
            while True:
                try:
                    _, writer = await asyncio.open_unix_connection(path)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

        await self._until(asyncio.ensure_future(listening()), *names)

    async def _wait_for(self, name: str, host: str, port: int) -> None:
        async def listening() -> None:
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

        await self._until(asyncio.ensure_future(listening()), name)


def _publish(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _directories(leaves: dict[str, ca.Files]) -> dict[str, Directory]:
    return {
        name: Directory(
            host=host,
            address=address,
            certificate=leaves[host].certificate,
            key=leaves[host].key,
            pebble=f"127.0.0.1:{_PEBBLE_PORT + number}",
            management=f"127.0.0.1:{_PEBBLE_MANAGEMENT_PORT + number}",
            root=settings.ROOTS / root,
        )
        for number, (name, (host, address, root)) in enumerate(settings.ACME.items())
    }


def _pebble(name: str, directory: Directory) -> list[str]:
    config = settings.RUN / f"{name}.json"
    config.write_text(json.dumps(pebble_config(directory)))
    return ["-strict", "-config", str(config), "-dnsserver", f"{settings.DNS_ADDRESS}:53"]


def _acme(directories: dict[str, Directory], root: ca.Files) -> str:
    config = settings.RUN / "acme.json"
    config.write_text(
        json.dumps(
            {
                "control": str(settings.RUN / "acme.sock"),
                "ca": str(root.certificate),
                "directories": {name: asdict(directory) for name, directory in directories.items()},
            },
            default=str,
        )
    )
    return str(config)


def _microsoft(leaves: dict[str, ca.Files], faulty: dict[ca.CertificateFault, ca.Files]) -> str:
    proxies = [
        {
            "cloud": cloud,
            "name": name,
            "address": address,
            "port": 5061,
            "certificate": str(leaves[name].certificate),
            "key": str(leaves[name].key),
        }
        for name, (cloud, address) in settings.MICROSOFT_PROXIES.items()
    ]
    config = settings.RUN / "microsoft.json"
    config.write_text(
        json.dumps(
            {
                "control": str(settings.RUN / "microsoft.sock"),
                "resolver": settings.DNS_ADDRESS,
                "trusted_roots": {
                    cloud: [str(settings.ROOTS / root) for root in roots]
                    for cloud, roots in settings.CLOUD_ROOTS.items()
                },
                "faulty": {
                    kind: {"certificate": str(files.certificate), "key": str(files.key)}
                    for kind, files in faulty.items()
                },
                "proxies": proxies,
                "options_interval": settings.OPTIONS_INTERVAL,
                "state": str(settings.STATE / "microsoft.json"),
            }
        )
    )
    return str(config)


def _squid() -> Path:
    cache = settings.CACHE / "packages"
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    proxy, group = pwd.getpwnam("proxy").pw_uid, grp.getgrnam("proxy").gr_gid
    os.chown(cache, proxy, group)
    for name in ("packages.log", "packages-access.log"):
        log = settings.LOG / name
        log.touch()
        os.chown(log, proxy, group)
    config = settings.RUN / "squid.conf"
    config.write_text(
        _SQUID.format(
            address=settings.CONTROLLER_ADDRESS,
            port=settings.PROXY_PORT,
            hosts=" ".join(image.package_hosts()),
            cache=cache,
            log=settings.LOG,
        )
    )
    if not (cache / "00").exists():
        run("squid", "-N", "-z", "-f", str(config))
    return config


def clear() -> None:
    """Remove what services of an earlier lab remember; certificates and the package cache stay."""
    (settings.STATE / "microsoft.json").unlink(missing_ok=True)
    shutil.rmtree(settings.RUN, ignore_errors=True)
