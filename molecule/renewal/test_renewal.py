"""Renewals by certbot's own timer: how they come through, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.__main__ import control
from tests.e2e import world

RETIRED_WITHIN: int = yaml.safe_load((Path(__file__).parent / "vars.yml").read_text())["certificate_retire_within"]
SOON = "/run/systemd/system/certbot.timer.d/soon.conf"


def droplet(command: str) -> str:
    done = world.droplet(command)
    assert done.code == 0, done.text
    return done.text


def on_the_wire() -> str:
    """The fingerprint that a new connection is shown."""
    with world.connection(world.FQDN) as connection:
        return connection.fingerprint


def remarks() -> dict[str, str]:
    """The probe's remarks: evidence by cause."""
    return {item["cause"]: f"{item['evidence']} {item['next_step']}" for item in world.check()["remarks"]}


@pytest.fixture
def near_its_end() -> str:
    """Ten days are left of its ninety, so it is due; gives its fingerprint as Kamailio shows it."""
    world.lab("age", world.CUSTOMER, "--left", "10d")
    return on_the_wire()


def test_the_timer_renews_what_is_near_its_end_and_old_connections_are_retired(near_its_end: str) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(world.connection(world.FQDN)) for _ in range(3)]
        # Kamailio soon ends a connection on which nothing was ever said (20 s).
        assert [connection.ask(world.FQDN)["code"] for connection in connections] == [200] * 3
        droplet(
            f"mkdir -p $(dirname {SOON}) && printf '[Timer]\\nOnCalendar=*:*:0/2\\nRandomizedDelaySec=0\\n' >{SOON} && "
            "systemctl daemon-reload && systemctl restart certbot.timer"
        )
        try:
            world.until(lambda: on_the_wire() != near_its_end, "a new connection is shown the renewed certificate")
        finally:
            droplet(f"rm {SOON} && systemctl daemon-reload && systemctl restart certbot.timer")
        assert any(connection.ask(world.FQDN)["code"] == 200 for connection in connections), "all were cut at once"
        young = stack.enter_context(world.connection(world.FQDN))
        assert young.ask(world.FQDN)["code"] == 200
        still_up = [len(connections)]

        def retired() -> bool:
            still_up.append(sum(connection.ask()["up"] for connection in connections))
            return still_up[-1] == 0

        world.until(retired, "old connections are retired", RETIRED_WITHIN + 60)
        assert all(later <= sooner for sooner, later in pairwise(still_up))
        assert set(still_up) & {1, 2}, "they went one by one"
        assert young.ask(world.FQDN)["code"] == 200, "what was shown the new certificate stays"
    again = world.verify()
    assert again.code == 0, again.text


def close_port_80() -> None:
    firewall = world.firewall()
    body = {key: firewall[key] for key in ("name", "outbound_rules", "tags", "droplet_ids")}
    rules = [rule for rule in firewall["inbound_rules"] if rule["ports"] != "80"]
    world.api("PUT", f"firewalls/{firewall['id']}", body | {"inbound_rules": rules})


def open_port_80() -> None:
    done = world.playbook("playbooks/provision.yml")
    assert done.code == 0, done.text


def fill_the_disk() -> None:
    droplet(
        "mount -t tmpfs -o size=4m,mode=0755 full /mnt && cp -a /etc/letsencrypt/. /mnt && "
        "mount --bind /mnt /etc/letsencrypt && ! dd if=/dev/zero of=/etc/letsencrypt/full bs=64k status=none"
    )


def empty_the_disk() -> None:
    droplet("umount /etc/letsencrypt /mnt")


def acme(kind: str) -> Callable[[], Any]:
    return lambda: control("POST", "acme/fault", {"directory": "production", "kind": kind})


@pytest.mark.parametrize(
    ("breaks", "mends", "cause"),
    [
        pytest.param(acme("down"), acme("none"), "directory_down", id="directory down"),
        pytest.param(acme("rate_limited"), acme("none"), "rate_limited", id="rate limit"),
        pytest.param(close_port_80, open_port_80, "challenge_failed", id="challenge blocked"),
        pytest.param(fill_the_disk, empty_the_disk, "disk_full", id="disk full"),
    ],
)
def test_a_renewal_that_fails(
    near_its_end: str, breaks: Callable[[], Any], mends: Callable[[], Any], cause: str
) -> None:
    """The old certificate serves on, the probe names the cause, and the timer's next run makes up for it."""
    breaks()
    try:
        assert world.droplet("systemctl start certbot.service").code != 0
        assert on_the_wire() == near_its_end
        world.seen(remarks, lambda found: cause in found.get("renewal_failing", ""), f"the probe remarks {cause}")
        judged = world.verify()
        assert judged.code == 0, judged.text
        assert f"fails: {cause}" in judged.text
        assert "certbot.timer" in droplet("systemctl list-timers --all certbot.timer")
    finally:
        mends()
    droplet("systemctl start certbot.service")
    assert on_the_wire() != near_its_end
    world.seen(remarks, lambda found: "renewal_failing" not in found, "the probe has nothing to remark any more")
    assert "elements" not in droplet("nft list set inet sbc challenge"), "the port is closed again"
