"""A lab that was killed is cleared away, and the host's network is as before. Last: it takes the lab down."""

from __future__ import annotations

import re
import subprocess

from lab import cgroup, network, settings
from tests.e2e import world


def host_network() -> str:
    """The host's links, addresses, routes and rules, without what changes by itself."""
    shown = [
        world.run(*command).text
        for command in (
            ("ip", "-o", "link"),
            ("ip", "-o", "addr"),
            ("ip", "route"),
            ("ip", "rule"),
            ("nft", "list", "ruleset"),
            ("sysctl", "net.ipv4.ip_forward"),
        )
    ]
    return re.sub(r"valid_lft.*", "", "\n".join(shown))


def test_a_killed_lab_is_cleared_away_by_the_next(trunk: None) -> None:
    world.lab("down")
    before = host_network()
    world.lab("up")
    body = {"name": "orphan", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    world.api("POST", "droplets", body)
    world.until(lambda: len(cgroup.members("services")) > 0 and any(settings.DROPLETS.iterdir()), "a machine is made")
    for pid in cgroup.members("lab"):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    world.lab("up")
    assert world.api("GET", "droplets")["droplets"] == []
    world.lab("down")
    assert host_network() == before
    assert not cgroup.root().exists()
    assert network.namespaces() == []
    assert not settings.DROPLETS.exists()
