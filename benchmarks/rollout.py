"""How long a rollout takes, against the bare critical path: python benchmarks/rollout.py [--runs N].

The bare path does the same work without Ansible, from one shell script over SSH: the same droplet, the same packages,
the same certificate, the same configuration, and the wait for the first answer of every proxy. Both run in the lab,
in turn, with a warm package cache; what is printed are medians in seconds, and their ratios.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import settings
from lab.__main__ import control
from tests.e2e import world

STATE = world.ROOT / "inventory/lab/state"
CUSTOMER_STATE = STATE / world.CUSTOMER
MICROSOFT = "52.112.0.0/14, 52.122.0.0/15"

SCRIPT = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
tar -C / -xf /root/before.tar
apt-get update -q
apt-get install -qy --no-install-recommends $PACKAGES
tar -C / -xf /root/after.tar
systemctl daemon-reload
nft -f /etc/nftables.conf
systemctl enable --now nftables
update-ca-certificates
certbot certonly -n --agree-tos --no-eff-email --email operator@voip.test --standalone --key-type rsa \\
    --cert-name {world.FQDN} -d {world.FQDN}
RENEWED_LINEAGE=/etc/letsencrypt/live/{world.FQDN} /etc/letsencrypt/renewal-hooks/deploy/kamailio
/etc/ca-certificates/update.d/kamailio-roots
systemctl enable --now sbc-probe
systemctl start kamailio
until [ "$(kamcmd dispatcher.list | grep -c 'FLAGS: AP')" = 3 ]; do sleep 0.2; done
"""


def quiet(*argv: str, stdin: bytes | None = None) -> bytes:
    """Run a command that must succeed."""
    return subprocess.run(argv, input=stdin, cwd=world.ROOT, check=True, capture_output=True).stdout


def ssh(address: str, command: str, stdin: bytes | None = None) -> bytes:
    options = ["-i", str(STATE / "id_ed25519"), "-o", f"UserKnownHostsFile={STATE / 'known_hosts'}"]
    options += ["-o", f"HostKeyAlias={world.CUSTOMER}", "-o", "ConnectTimeout=2", "-o", "BatchMode=yes"]
    return quiet("ssh", *options, f"root@{address}", command, stdin=stdin)


def empty() -> None:
    """An account with nothing in it, and a Microsoft that has not seen the SBC yet."""
    control("POST", "reset")
    world.trunk(False)
    world.trunk(True)


def product() -> None:
    done = world.playbook("site.yml")
    if done.code != 0:
        raise SystemExit(f"the rollout failed:\n{done.text}")


def recipe() -> tuple[bytes, bytes, str]:
    """What the bare path installs, taken from a droplet that the product made: files before and after the packages."""
    (droplet,) = world.api("GET", "droplets")["droplets"]
    address = next(net["ip_address"] for net in droplet["networks"]["v4"] if net["type"] == "public")
    before = ssh(
        address, "tar -C / -c etc/systemd/system/kamailio.service.d/10-waits.conf etc/apt/apt.conf.d/10sbc-proxy"
    )
    after = ssh(
        address,
        "tar -C / -c etc/nftables.conf etc/apt/apt.conf.d/52sbc-upgrades etc/needrestart etc/systemd/journald.conf.d "
        "usr/local/share/ca-certificates "
        "etc/letsencrypt/renewal-hooks/deploy usr/local/bin/sbc-probe etc/sbc-probe.json etc/ca-certificates/update.d "
        "etc/systemd/system/sbc-probe.service etc/systemd/system/kamailio.service.d "
        "etc/kamailio/live etc/kamailio/trees",
    )
    packages = yaml.safe_load((world.ROOT / "roles/sbc/vars/main/packages.yml").read_text())["sbc_packages"]
    return before, after, " ".join(packages)


def bare(before: bytes, after: bytes, packages: str) -> None:
    key = (CUSTOMER_STATE / "ssh_host_ed25519_key").read_text().replace("\n", "\n    ")
    public = " ".join((CUSTOMER_STATE / "ssh_host_ed25519_key.pub").read_text().split()[:2])
    user_data = (
        "#cloud-config\ndisable_root: false\nssh_deletekeys: true\nssh_genkeytypes: []\nssh_keys:\n"
        f"  ed25519_private: |\n    {key}\n  ed25519_public: {public}\n"
    )
    ssh_key = world.api("POST", "account/keys", {"name": "bare", "public_key": (STATE / "id_ed25519.pub").read_text()})
    body = {"name": world.FQDN, "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    body |= {"ssh_keys": [ssh_key["ssh_key"]["id"]], "user_data": user_data, "tags": ["bare"]}  # type: ignore[dict-item]
    droplet = world.api("POST", "droplets", body)["droplet"]
    while not (networks := droplet["networks"]["v4"]):
        time.sleep(0.1)
        droplet = world.api("GET", f"droplets/{droplet['id']}")["droplet"]
    address = next(net["ip_address"] for net in networks if net["type"] == "public")
    inbound = [("22", [f"{settings.CONTROLLER_ADDRESS}/32"]), ("80", ["0.0.0.0/0"]), ("5061", MICROSOFT.split(", "))]
    rules = [{"protocol": "tcp", "ports": ports, "sources": {"addresses": nets}} for ports, nets in inbound]
    outbound = [
        {"protocol": kind, "ports": "all", "destinations": {"addresses": ["0.0.0.0/0"]}} for kind in ("tcp", "udp")
    ]
    firewall = {"name": "bare", "inbound_rules": rules, "outbound_rules": outbound, "tags": ["bare"]}
    world.api("POST", "firewalls", firewall)
    name = world.FQDN.removesuffix(f".{settings.DOMAIN}")
    world.api("POST", f"domains/{settings.DOMAIN}/records", {"type": "A", "name": name, "data": address, "ttl": 300})
    while True:
        try:
            ssh(address, "cat >/root/before.tar", before)
            break
        except subprocess.CalledProcessError:
            time.sleep(0.2)
    ssh(address, "cat >/root/after.tar", after)
    ssh(
        address, f"cloud-init status --wait >/dev/null || [ $? = 2 ]; export PACKAGES={shlex.quote(packages)}; {SCRIPT}"
    )


def timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each (default 3)")
    runs = parser.parse_args().runs
    world.lab("down")
    world.lab("up")
    try:
        world.trunk(True)
        product()
        parts = recipe()
        cold, again, direct = [], [], []
        for number in range(1, runs + 1):
            empty()
            direct.append(timed(lambda: bare(*parts)))
            empty()
            cold.append(timed(product))
            again.append(timed(product))
            print(
                f"run {number}: bare {direct[-1]:.1f} s, cold {cold[-1]:.1f} s, repeated {again[-1]:.1f} s", flush=True
            )
    finally:
        world.lab("down")
    path = statistics.median(direct)
    print(f"\nbare critical path  {path:6.1f} s")
    for name, times in (("cold rollout", cold), ("repeated rollout", again)):
        middle = statistics.median(times)
        print(f"{name:18}  {middle:6.1f} s  {middle / path:.2f} times the bare path")


if __name__ == "__main__":
    main()
