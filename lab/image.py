"""The one Debian 13 image that all droplets of the lab start from."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from lab import settings
from lab.commands import run

# What DigitalOcean's own image brings; everything else is the product's business.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "python3",
    "iproute2",
    "openssh-server",
    "ca-certificates",
    "sudo",
    "cloud-init",
    "netplan.io",
    "systemd-resolved",
    "curl",
    "procps",
)
# What the product installs there and tests run without a droplet, and what they move its clock with.
PRODUCT = (
    "kamailio",
    "kamailio-tls-modules",
    "certbot",
    "python3-certbot-dns-standalone",
    "python3-prometheus-client",
    "nftables",
    "libfaketime",
)
SUITE = "trixie"
ROOTFS = settings.IMAGE / "rootfs"
_STAMP = settings.IMAGE / "recipe"


def _recipe() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def is_built() -> bool:
    """Whether the image on disk is complete and of the present recipe."""
    return _STAMP.exists() and _STAMP.read_text() == _recipe()


def build() -> None:
    """Make the image, or keep the one there is.

    Raises CommandError with mmdebstrap's own words when a package cannot be had.
    """
    if is_built():
        return
    settings.STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = settings.STATE / "image.unfinished"
    for leftover in (unfinished, settings.IMAGE):
        if leftover.exists():
            run("rm", "-rf", "--one-file-system", str(leftover))
    unfinished.mkdir(mode=0o755)
    rootfs = unfinished / "rootfs"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(rootfs))
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        (rootfs / name).unlink(missing_ok=True)
    for key in (rootfs / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # Empty, not "uninitialized": cloud-init is the first boot's only helper, systemd's own would ask questions.
    (rootfs / "etc/machine-id").write_text("")
    (rootfs / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (unfinished / "recipe").write_text(_recipe())
    os.sync()
    unfinished.rename(settings.IMAGE)


def with_kamailio() -> Path:
    """A root directory with the product's packages in it, for tests that run them without a droplet; made once.

    Raises CommandError with apt-get's own words when a package cannot be had.
    """
    build()
    root, stamp = settings.STATE / "kamailio", settings.STATE / "kamailio/recipe"
    if stamp.exists() and stamp.read_text() == _recipe():
        return root
    run("rm", "-rf", "--one-file-system", str(root))
    run("cp", "-a", str(ROOTFS), str(root))
    (root / "etc/resolv.conf").unlink()
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", *PRODUCT)):
        run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *arguments)
    stamp.write_text(_recipe())
    return root


def remove() -> None:
    """Delete the images and the package cache."""
    for path in (settings.IMAGE, settings.STATE / "kamailio", settings.CACHE):
        shutil.rmtree(path, ignore_errors=True)


def package_hosts(root: Path = ROOTFS) -> list[str]:
    """The host names that a Debian machine's own apt sources name: all that the package proxy lets through."""
    sources = [root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").glob("*")]
    text = "\n".join(source.read_text() for source in sources if source.is_file())
    return sorted(set(re.findall(r"^(?!\s*#).*?https?://([^/:\s]+)", text, flags=re.MULTILINE)))
