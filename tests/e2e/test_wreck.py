"""A lab that was killed is cleared away, and the host's network is as before. Last: it takes the lab down."""

from __future__ import annotations

import contextlib
import os
import signal

from lab import cgroup, network, settings
from tests.e2e import world


def test_a_killed_lab_is_cleared_away_by_the_next(trunk: None, network_before: str) -> None:
    body = {"name": "orphan", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    world.api("POST", "droplets", body)
    world.until(lambda: len(cgroup.members("services")) > 0 and any(settings.DROPLETS.iterdir()), "a machine is made")
    while pids := cgroup.members("lab"):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # some are short-lived
                os.kill(pid, signal.SIGKILL)
    world.lab("up")
    assert world.api("GET", "droplets")["droplets"] == []
    world.lab("down")
    assert world.host_network() == network_before
    assert not cgroup.root().exists()
    assert network.namespaces() == []
    assert not settings.DROPLETS.exists()
