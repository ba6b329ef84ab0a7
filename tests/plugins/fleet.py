"""A fleet that exists on paper only, and the real playbook that looks after it as far as it goes without SSH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.plugins.support import ROOT, TOKEN, Api

DOMAIN = "example.com"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM"


RULE: dict[str, Any] = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["198.51.100.0/24"]}}
ANYWHERE = {"addresses": ["0.0.0.0/0", "::/0"]}
OUTBOUND = [{"protocol": each, "ports": "0", "destinations": ANYWHERE} for each in ("tcp", "udp", "icmp")]


class Fleet:
    """Customers in one account, each with a droplet that was made behind the product's back."""

    def __init__(self, api: Api, count: int) -> None:
        self.api = api
        self.customers = [f"customer-{number:04}" for number in range(count)]
        api.control("POST", "account", {"droplet_limit": count + 1, "boot_seconds": 0.0, "address_seconds": 0.0})
        api.client.call("POST", "account/keys", {"name": "sbc", "public_key": KEY})
        for customer in self.customers:
            last = customer == self.customers[-1]
            api.droplet("sbc", f"sbc:customer:{customer}", name=f"{customer}.{DOMAIN}", wait=last)
        self.addresses = {
            each["name"].split(".")[0]: net["ip_address"]
            for each in api.client.get_all("droplets", "droplets")
            for net in each["networks"]["v4"]
            if net["type"] == "public"
        }

    def complete(self) -> None:
        """Make what else the modules make with `wanted`."""
        for customer in self.customers:
            body = {"name": f"sbc-{customer}", "inbound_rules": [RULE], "outbound_rules": OUTBOUND}
            self.api.client.call("POST", "firewalls", body | {"tags": [f"sbc:customer:{customer}"]})
            record = {"type": "A", "name": customer, "data": self.addresses[customer], "ttl": 300}
            self.api.client.call("POST", f"domains/{DOMAIN}/records", record)

    def wanted(self, customer: str) -> dict[str, dict[str, Any]]:
        """The modules' arguments for a customer, in the order of a rollout."""
        fqdn, tag = f"{customer}.{DOMAIN}", f"sbc:customer:{customer}"
        droplet = {"region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
        inbound = [{"protocol": "tcp", "ports": "22", "sources": RULE["sources"]["addresses"]}]
        return {
            "digitalocean_key": {"name": "sbc", "public_key": KEY},
            "digitalocean_firewall": {"name": f"sbc-{customer}", "inbound": inbound, "tags": [tag]},
            "digitalocean_droplet": {"customer": customer, "name": fqdn} | droplet,
            "digitalocean_rrset": {"domain": DOMAIN, "name": fqdn, "values": [self.addresses[customer]]},
        }


def inventory(directory: Path, api: Api, hosts: dict[str, dict[str, Any]], **common: Any) -> Path:
    """An inventory with these customers at the lab's API, and with what no default says."""
    (directory / "group_vars").mkdir(parents=True)
    settings = {
        "sbc_domain": DOMAIN,
        "sbc_api_endpoint": api.endpoint,
        "sbc_contact_email": "it@example.com",
        "sbc_ssh_sources": ["198.51.100.0/24"],
        "droplet_ssh_public_key": KEY,
        # Older droplets than this are not waited for.
        "droplet_timeout": 1,
    }
    (directory / "group_vars" / "sbc.yml").write_text(yaml.safe_dump(settings | common))
    (directory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": hosts}}))
    source = {"plugin": "digitalocean", "endpoint": api.endpoint}
    (directory / "droplets.digitalocean.yml").write_text(yaml.safe_dump(source))
    return directory


def provision(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real playbook for the customers of that inventory."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(directory), "playbooks/provision.yml", *arguments),
        ],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "DIGITALOCEAN_ACCESS_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def changes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many tasks changed something for each customer. Raises AssertionError if one failed."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE)
    return {host: int(count) for host, count in found}
