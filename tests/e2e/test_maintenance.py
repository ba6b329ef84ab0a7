"""Upgrades that wait: what unattended upgrades leave alone, and the maintenance that does it and proves the outcome."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import world

# A line of the output may break at any blank, and name other reasons first.
REBOOT = r"{}:\s[\s\S]*\ba\s+reboot\s+is\s+asked\s+for\s+by\s+linux-image-pretend"
PRETEND = (Path(__file__).parent / "pretend-upgrades").read_text()


def on_droplet(command: str) -> str:
    done = world.droplet(command)
    assert done.code == 0, done.text
    return done.text.strip()


def version(package: str) -> str:
    return on_droplet(f"dpkg-query --show --showformat='${{Version}}' {package}")


def kamailio() -> str:
    """The process and when it began: another one after a restart."""
    return on_droplet("systemctl show kamailio --property MainPID,ExecMainStartTimestampMonotonic")


@pytest.mark.full
def test_kamailio_waits_for_maintenance(proven: None) -> None:
    on_droplet(f"cat <<'END' | sh\n{PRETEND}\nEND")
    before = kamailio()

    dry = on_droplet("unattended-upgrade --dry-run --debug 2>&1")
    assert "skipping blacklisted package kamailio" in dry
    (chosen,) = re.findall(r"^Packages that will be upgraded: (.*)$", dry, flags=re.MULTILINE)
    assert "pretend" in chosen.split()
    assert not {"kamailio", "kamailio-tls-modules", "zlib1g"} & set(chosen.split()), chosen

    on_droplet("unattended-upgrade")
    assert version("pretend") == "2"
    assert not version("kamailio").endswith("+pretend")
    assert kamailio() == before

    rehearsed = world.playbook("playbooks/maintain.yml", "--check", "--diff")
    assert rehearsed.code == 0, rehearsed.text
    assert re.search(r"\+kamailio \S+\+pretend", rehearsed.text), rehearsed.text
    assert kamailio() == before

    done = world.playbook("playbooks/maintain.yml")
    assert done.code == 0, done.text
    assert re.search(r"kamailio \S+ \S+\+pretend", done.text), done.text
    assert re.search(r"zlib1g \S+ \S+\+pretend", done.text), done.text
    assert "PROVEN" in done.text
    assert version("kamailio").endswith("+pretend")
    assert kamailio() != before
    running = "grep --files-with-matches --extended-regexp ' /usr/.*[(]deleted[)]$' /proc/[0-9]*/maps"
    ours = "systemctl show --property=MainPID --value kamailio sbc-probe"
    assert on_droplet(f"for pid in $({ours}); do {running.replace('[0-9]*', '$pid')} || true; done") == ""

    again = world.playbook("playbooks/maintain.yml")
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0, again.text


@pytest.mark.full
def test_maintenance_stops_at_what_is_not_proven(proven: None) -> None:
    world.fault(world.PROXIES[0], "refuse")
    try:
        world.until(lambda: world.check()["overall"]["state"] == "failed", "the probe sees the fault")
        done = world.playbook("playbooks/maintain.yml")
        assert done.code == 2, done.text
        assert "What changed" in done.text
    finally:
        world.fault(world.PROXIES[0], "none")


@pytest.mark.full
def test_a_reboot_is_named_and_done_where_it_is_allowed(proven: None) -> None:
    on_droplet("touch /run/reboot-required; echo linux-image-pretend >/run/reboot-required.pkgs")
    named = world.playbook("playbooks/maintain.yml")
    assert named.code == 0, named.text
    assert re.search(REBOOT.format("needed, run again with -e maintain_reboot=true"), named.text), named.text

    boot = on_droplet("cat /proc/sys/kernel/random/boot_id")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(world.playbook, "playbooks/maintain.yml", "-e", "maintain_reboot=true")
        # A machine of the lab only ends by itself; it is switched on again as its owner would.
        world.until(lambda: running.done() or world.droplet("true").code != 0, "the droplet goes down")
        assert not running.done(), running.result().text
        (droplet,) = world.api("GET", "droplets")["droplets"]
        world.api("POST", f"droplets/{droplet['id']}/actions", {"type": "power_cycle"})
        done = running.result()
    assert done.code == 0, done.text
    assert re.search(REBOOT.format("done"), done.text), done.text
    assert on_droplet("cat /proc/sys/kernel/random/boot_id") != boot
    assert "reboot: not needed" in world.playbook("playbooks/maintain.yml").text
