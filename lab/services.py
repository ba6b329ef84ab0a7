"""What the lab's Internet consists of besides droplets: DNS, an ACME directory, Microsoft and a package proxy."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import shutil
import sys
from pathlib import Path

from lab import cgroup, image, network, settings
from lab.commands import run
from lab.microsoft import ca

GROUP = "services"
ACME_DIRECTORY = f"https://{settings.ACME_NAME}:{settings.ACME_PORT}/dir"
MICROSOFT_ROOT = settings.ROOTS / "microsoft.pem"
ACME_ROOT = settings.ROOTS / "acme.pem"

# A certificate's life in seconds as Let's Encrypt's classic profile has it (90 days).
_CERTIFICATE_LIFE = 90 * 86_400

# Validation without a pause, and no nonce refused at random, which Let's Encrypt does not do either.
_PEBBLE_ENVIRONMENT = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}

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
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """Start all of them; those that others need first.

        Raises RuntimeError naming the service and its log when one does not come up.
        """
        dns = network.add_host("dns", [settings.DNS_ADDRESS])
        acme = network.add_host("acme", [settings.ACME_ADDRESS])
        microsoft = network.add_host("microsoft", [address for _, address in settings.MICROSOFT_PROXIES.values()])
        root, leaves = ca.prepare(settings.CA, [settings.ACME_NAME, *settings.MICROSOFT_PROXIES])
        _publish(MICROSOFT_ROOT, root.certificate.read_text())

        socket = settings.RUN / "dns.sock"
        await self._spawn(
            "dns", dns, sys.executable, "-m", "lab.dns", "--listen", settings.DNS_ADDRESS, "--control", str(socket)
        )
        await self._spawn("acme", acme, "pebble", *_pebble(leaves[settings.ACME_NAME]), env=_PEBBLE_ENVIRONMENT)
        await self._spawn("packages", None, "squid", "-N", "-f", str(_squid()))
        await asyncio.gather(self._wait_for_file("dns", socket), self._wait_for_pebble())
        await self._spawn("microsoft", microsoft, sys.executable, "-m", "lab.microsoft", "--config", _microsoft(leaves))
        await self._wait_for_file("microsoft", settings.RUN / "microsoft.sock")
        await self._wait_for("packages", settings.CONTROLLER_ADDRESS, settings.PROXY_PORT)

    def running(self) -> dict[str, bool]:
        """Each service by name, and whether its process is there."""
        return {name: process.returncode is None for name, process in self._processes.items()}

    async def _spawn(self, name: str, namespace: str | None, *argv: str, env: dict[str, str] | None = None) -> None:
        prefix = network.in_namespace(namespace) if namespace else []
        with (settings.LOG / f"{name}.log").open("ab") as log:
            self._processes[name] = await cgroup.spawn(GROUP, [*prefix, *argv], log, env)

    async def _until(self, name: str, ready: asyncio.Task[None]) -> None:
        ended = asyncio.ensure_future(self._processes[name].wait())
        done, pending = await asyncio.wait({ready, ended}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if ready not in done:
            raise RuntimeError(f"the lab's {name} did not start: see {settings.LOG / f'{name}.log'}")

    async def _wait_for_file(self, name: str, path: Path) -> None:
        async def there() -> None:
            while not path.exists():
                await asyncio.sleep(0.02)

        await self._until(name, asyncio.ensure_future(there()))

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

        await self._until(name, asyncio.ensure_future(listening()))

    async def _wait_for_pebble(self) -> None:
        await self._wait_for("acme", settings.ACME_ADDRESS, settings.ACME_MANAGEMENT_PORT)
        url = f"https://{settings.ACME_NAME}:{settings.ACME_MANAGEMENT_PORT}/roots/0"
        resolve = f"{settings.ACME_NAME}:{settings.ACME_MANAGEMENT_PORT}:{settings.ACME_ADDRESS}"
        root = await asyncio.to_thread(
            run, "curl", "-sSf", "--noproxy", "*", "--cacert", str(MICROSOFT_ROOT), "--resolve", resolve, url
        )
        _publish(ACME_ROOT, root)


def _publish(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _pebble(leaf: ca.Files) -> list[str]:
    config = settings.RUN / "pebble.json"
    pebble = {
        "listenAddress": f"{settings.ACME_ADDRESS}:{settings.ACME_PORT}",
        "managementListenAddress": f"{settings.ACME_ADDRESS}:{settings.ACME_MANAGEMENT_PORT}",
        "certificate": str(leaf.certificate),
        "privateKey": str(leaf.key),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "certificateValidityPeriod": _CERTIFICATE_LIFE,
    }
    config.write_text(json.dumps({"pebble": pebble}))
    return ["-strict", "-config", str(config), "-dnsserver", f"{settings.DNS_ADDRESS}:53"]


def _microsoft(leaves: dict[str, ca.Files]) -> str:
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
                "trusted_roots": str(ACME_ROOT),
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
