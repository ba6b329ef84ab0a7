"""Droplets that are real: Debian machines under systemd-nspawn, one overlay each on the one image.

A machine boots systemd, runs its own cloud-init on the user_data it was created with, and has one link into the
lab's router. It lives in a control group of its own, so that ending it ends everything in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from lab import cgroup, image, network, settings
from lab.commands import run
from lab.digitalocean.machines import FirewallRules, MachineSpec


class NspawnMachines:
    """Droplets as machines of this host."""

    def __init__(self) -> None:
        self._specs: dict[int, MachineSpec] = {}
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def create(self, droplet: MachineSpec) -> None:
        """Make the droplet's disk, seed its cloud-init and boot it."""
        root = _home(droplet.id)
        for name in ("upper", "work", "root"):
            (root / name).mkdir(parents=True)
        seed = root / "upper/var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        for name, text in _seed(droplet).items():
            (seed / name).write_text(text)
            (seed / name).chmod(0o600)
        self._specs[droplet.id] = droplet
        await self._boot(droplet)

    async def destroy(self, droplet_id: int) -> None:
        """End the machine and remove its files."""
        self._specs.pop(droplet_id, None)
        await self._halt(droplet_id)
        network.drop_firewall(_link(droplet_id))
        await asyncio.to_thread(shutil.rmtree, _home(droplet_id), True)

    async def power(self, droplet_id: int, on: bool) -> None:
        """Switch the machine on or off; its disk stays."""
        if on and droplet_id not in self._running:
            await self._boot(self._specs[droplet_id])
        elif not on:
            await self._halt(droplet_id)

    async def set_firewall(self, droplet_id: int, rules: FirewallRules | None) -> None:
        """Put the effective rules of the API's firewalls on the machine's link."""
        network.set_firewall(_link(droplet_id), rules)

    def running(self) -> list[int]:
        """The droplets whose machine runs now."""
        return sorted(number for number, process in self._running.items() if process.returncode is None)

    async def _boot(self, droplet: MachineSpec) -> None:
        root, link = _home(droplet.id), _link(droplet.id)
        mount = root / "root"
        layers = f"lowerdir={image.ROOTFS},upperdir={root / 'upper'},workdir={root / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, str(mount))
        nspawn = [
            *(*network.in_namespace(settings.ROUTER), "systemd-nspawn", "--quiet", "--boot", "--register=no"),
            *("--keep-unit", "--link-journal=no", "--private-network", f"--network-veth-extra={link}:eth0"),
            *("--resolv-conf=off", "--console=pipe", f"--machine={link}", f"--hostname={droplet.name}"),
            f"--directory={mount}",
        ]
        with (settings.LOG / f"{link}.log").open("ab") as log:
            process = await cgroup.spawn(link, nspawn, log, {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        self._running[droplet.id] = process
        while not network.has_link(link):
            if process.returncode is not None:
                raise RuntimeError(f"droplet {droplet.id} did not boot: see {settings.LOG / f'{link}.log'}")
            await asyncio.sleep(0.02)
        network.route_to(link, [droplet.address], settings.DROPLETS_GATEWAY)

    async def _halt(self, droplet_id: int) -> None:
        process = self._running.pop(droplet_id, None)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), timeout=10)
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.to_thread(_clear, droplet_id)


def _link(droplet_id: int) -> str:
    return f"d{droplet_id}"


def _home(droplet_id: int) -> Path:
    return settings.DROPLETS / str(droplet_id)


def _seed(droplet: MachineSpec) -> dict[str, str]:
    meta = {
        "instance-id": str(droplet.id),
        "local-hostname": droplet.name,
        "public-keys": list(droplet.public_keys),
    }
    interface = {
        "addresses": [f"{droplet.address}/{droplet.prefix}"],
        "routes": [{"to": "default", "via": droplet.gateway}],
        "nameservers": {"addresses": [settings.DNS_ADDRESS]},
    }
    return {
        "meta-data": json.dumps(meta),
        "network-config": json.dumps({"version": 2, "ethernets": {"eth0": interface}}),
        "user-data": droplet.user_data or "#cloud-config\n{}\n",
    }


def _clear(droplet_id: int) -> None:
    cgroup.end(_link(droplet_id))
    _unmount(_home(droplet_id))


def _unmount(home: Path) -> None:
    while os.path.ismount(home / "root"):
        run("umount", "--recursive", str(home / "root"))


def clear_all() -> None:
    """Remove every disk that an earlier lab left behind; its processes must have ended."""
    if not settings.DROPLETS.exists():
        return
    for home in settings.DROPLETS.iterdir():
        _unmount(home)
    shutil.rmtree(settings.DROPLETS)
