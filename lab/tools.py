"""What tests use beside the product in its root directory: Prometheus with promtool, Alertmanager, another exporter."""

from __future__ import annotations

from pathlib import Path

from lab.commands import run

PACKAGES = (
    "python3-prometheus-client",
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-blackbox-exporter",
)


def install(root: Path) -> None:
    """Install what is missing there; its services never start. Raises CommandError with apt-get's own words."""
    missing = [name for name in PACKAGES if not (root / f"var/lib/dpkg/info/{name}.list").exists()]
    if missing:
        for arguments in (("update",), ("install", "-y", "--no-install-recommends", *missing)):
            run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *arguments)
