"""Droplets that are real: Debian machines under systemd-nspawn, one overlay each on the one image or a snapshot.

A machine boots systemd, runs its own cloud-init on the user_data it was created with, and has one link into the
lab's router. It lives in a control group of its own, so that ending it ends everything in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import shutil
import signal
from pathlib import Path

from lab import cgroup, image, network, settings
from lab.commands import run, run_async
from lab.digitalocean.machines import FirewallRules, MachineSpec

_ANCHORS = ipaddress.IPv4Network(settings.ANCHORS_NETWORK)


class NspawnMachines:
    """Droplets as machines of this host."""

    def __init__(self) -> None:
        self._specs: dict[int, MachineSpec] = {}
        self._running: dict[int, asyncio.subprocess.Process] = {}
        # What lies below each snapshot and each droplet, the uppermost first.
        self._layers: dict[str, list[Path]] = {}
        self._below: dict[int, list[Path]] = {}
        self._deleted: set[Path] = set()

    async def create(self, droplet: MachineSpec) -> None:
        """Make the droplet's disk, seed its cloud-init and boot it."""
        root = _home(droplet.id)
        self._below[droplet.id] = self._layers.get(droplet.image, [image.ROOTFS])
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
        self._below.pop(droplet_id, None)
        await self._remove_unused()

    async def power(self, droplet_id: int, on: bool) -> None:
        """Switch the machine on or off; its disk stays."""
        if on and droplet_id not in self._running:
            await self._boot(self._specs[droplet_id])
        elif not on:
            await self._halt(droplet_id)

    async def set_firewall(self, droplet_id: int, rules: FirewallRules | None) -> None:
        """Put the effective rules of the API's firewalls on the machine's link."""
        network.set_firewall(_link(droplet_id), rules)

    async def snapshot(self, droplet_id: int, image: str) -> int:
        """Keep the droplet's own layer as it is at one moment, on or off; return its size in bytes."""
        layer = settings.SNAPSHOTS / image
        settings.SNAPSHOTS.mkdir(exist_ok=True)
        async with cgroup.frozen(_link(droplet_id)):
            await run_async("cp", "--archive", "--sparse=always", str(_home(droplet_id) / "upper"), str(layer))
        self._layers[image] = [layer, *self._below[droplet_id]]
        return await asyncio.to_thread(_size, layer)

    async def delete_snapshot(self, image: str) -> None:
        """Remove a layer, now or when no droplet and no other snapshot lies on it any more."""
        layers = self._layers.pop(image, None)
        if layers:
            self._deleted.add(layers[0])
        await self._remove_unused()

    async def route(self, reserved_ip: str, anchor: str | None) -> None:
        """Have the router translate the reserved IP to the anchor address and back."""
        network.route_reserved(reserved_ip, anchor)

    async def _remove_unused(self) -> None:
        used = {layer for layers in (*self._below.values(), *self._layers.values()) for layer in layers}
        for layer in self._deleted - used:
            self._deleted.discard(layer)
            await asyncio.to_thread(shutil.rmtree, layer, True)

    def running(self) -> list[int]:
        """The droplets whose machine runs now."""
        return sorted(number for number, process in self._running.items() if process.returncode is None)

    async def _boot(self, droplet: MachineSpec) -> None:
        root, link = _home(droplet.id), _link(droplet.id)
        mount = root / "root"
        below = ":".join(map(str, self._below[droplet.id]))
        layers = f"lowerdir={below},upperdir={root / 'upper'},workdir={root / 'work'}"
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
        network.route_to(link, [droplet.address, droplet.anchor], settings.DROPLETS_GATEWAY)

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
        "addresses": [f"{droplet.address}/{droplet.prefix}", f"{droplet.anchor}/{_ANCHORS.prefixlen}"],
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


def _size(directory: Path) -> int:
    """What the files in a directory take of the disk, in bytes."""
    return int(run("du", "--summarize", "--block-size=1", str(directory)).split()[0])


def _unmount(home: Path) -> None:
    while os.path.ismount(home / "root"):
        run("umount", "--recursive", str(home / "root"))


def clear_all() -> None:
    """Remove every disk and snapshot that an earlier lab left behind; its processes must have ended."""
    if settings.DROPLETS.exists():
        for home in settings.DROPLETS.iterdir():
            _unmount(home)
        shutil.rmtree(settings.DROPLETS)
    shutil.rmtree(settings.SNAPSHOTS, ignore_errors=True)
