#!/usr/bin/python
"""Ansible module: a cloud firewall at DigitalOcean."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_firewall
short_description: A cloud firewall at DigitalOcean
description:
  - Makes sure that a cloud firewall, found by its name, has exactly these inbound rules and tags, or that there is
    none.
  - Everything outbound is allowed. Droplets that someone assigned to it by number stay assigned.
options:
  name:
    description: Name of the firewall; letters, digits, C(.) and C(-), beginning with a letter or digit.
    type: str
    required: true
  inbound:
    description: What is let in; everything else is dropped. Required with O(state=present).
    type: list
    elements: dict
    suboptions:
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp, icmp]
        required: true
      ports:
        description: A port, a range such as C(49152-53247), or C(all). ICMP has none.
        type: str
        default: all
      sources:
        description: Networks (CIDR) and addresses, IPv4 and IPv6.
        type: list
        elements: str
        required: true
  tags:
    description:
      - The tags whose droplets it protects; one that does not exist yet is created. Required with O(state=present).
    type: list
    elements: str
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: Only what is needed reaches the droplet
  digitalocean_firewall:
    name: "sbc-{{ inventory_hostname }}"
    inbound:
      - {protocol: tcp, ports: 22, sources: [198.51.100.0/24]}
      - {protocol: tcp, ports: 80, sources: [0.0.0.0/0, "::/0"]}
      - {protocol: tcp, ports: 5061, sources: [52.112.0.0/14, 52.122.0.0/15]}
      - {protocol: icmp, sources: [0.0.0.0/0, "::/0"]}
    tags: ["sbc:customer:{{ inventory_hostname }}"]
  delegate_to: localhost
"""

RETURN = r"""
id:
  description: Its identifier.
  returned: when it exists
  type: str
"""

import ipaddress
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import SEEN, Client, Resource, make_module, run, spelt

ANYWHERE = ["0.0.0.0/0", "::/0"]
OUTBOUND = [
    {"protocol": protocol, "ports": "0", "destinations": {"addresses": ANYWHERE}} for protocol in ("tcp", "udp", "icmp")
]
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]+")
PORTS = re.compile(r"[1-9]\d{0,4}(-[1-9]\d{0,4})?")


def canonical_ports(protocol: str, ports: str) -> str:
    """As the API writes them: "0" is all, and all that ICMP has. Raises ValueError."""
    if protocol == "icmp" or ports in ("all", "0"):
        return "0"
    if not PORTS.fullmatch(ports):
        raise ValueError(f"inbound: ports {ports!r} is neither a port, nor a range, nor 'all'")
    return ports


def canonical_network(source: str) -> str:
    """Raises ValueError if it is neither an address nor a network."""
    return str(ipaddress.ip_network(source))


def rules_of(parameters: list[Resource]) -> list[Resource]:
    """The module's inbound rules in the API's form. Raises ValueError."""
    return [
        {
            "protocol": rule["protocol"],
            "ports": canonical_ports(rule["protocol"], rule["ports"]),
            "sources": {"addresses": sorted({canonical_network(source) for source in rule["sources"]})},
        }
        for rule in parameters
    ]


def shown_rules(rules: list[Resource] | None, end: str) -> list[str]:
    """One line for each protocol, ports and peer: two firewalls with the same lines let the same through."""
    lines = set()
    for rule in rules or []:
        for kind, peers in rule[end].items():
            for peer in peers or []:
                name = canonical_network(peer) if kind == "addresses" else f"{kind} {peer}"
                ports = canonical_ports(rule["protocol"], rule.get("ports") or "0")
                lines.add(f"{rule['protocol']} {'all' if ports == '0' else ports} {name}")
    return sorted(lines)


def shown(firewall: Resource) -> Resource:
    return {
        "inbound": shown_rules(firewall["inbound_rules"], "sources"),
        "outbound": shown_rules(firewall["outbound_rules"], "destinations"),
        "tags": sorted(firewall["tags"] or []),
    }


def work(module: AnsibleModule, client: Client) -> Resource:
    name = module.params["name"]
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r} cannot be a firewall's (letters, digits, '.' and '-')")

    def find() -> Resource | None:
        found = [each for each in client.get_all("firewalls", "firewalls") if each["name"] == name]
        if len(found) > 1:
            raise ValueError(f"{len(found)} firewalls are named {name}: {', '.join(each['id'] for each in found)}")
        return found[0] if found else None

    found = find()
    before = shown(found) if found else {}
    if module.params["state"] == "absent":
        if found and not module.check_mode:
            client.delete(f"firewalls/{found['id']}")
        return {"changed": bool(found), "diff": {"before": before, "after": {}}}

    wanted = {
        "name": name,
        "inbound_rules": rules_of(module.params["inbound"]),
        "outbound_rules": OUTBOUND,
        "tags": sorted(spelt(module.params["tags"], before.get("tags", []))),
        "droplet_ids": (found or {}).get("droplet_ids") or [],
    }
    after = shown(wanted)
    result: Resource = {"changed": before != after, "diff": {"before": before, "after": after}}
    if result["changed"] and not module.check_mode:
        there = before.get("tags", [])
        wanted["tags"] = [tag if tag in there else client.ensure_tag(tag) for tag in after["tags"]]
        if found:
            found = client.call("PUT", f"firewalls/{found['id']}", wanted)["firewall"]
        else:
            found = client.create("firewalls", "firewall", wanted, find)
    return result | ({"id": found["id"]} if found else {})


def arguments() -> Resource:
    rule = {
        "protocol": {"type": "str", "required": True, "choices": ["tcp", "udp", "icmp"]},
        "ports": {"type": "str", "default": "all"},
        "sources": {"type": "list", "elements": "str", "required": True},
    }
    spec = SEEN | {
        "name": {"type": "str", "required": True},
        "inbound": {"type": "list", "elements": "dict", "options": rule},
        "tags": {"type": "list", "elements": "str"},
    }
    return {"argument_spec": spec, "required_if": [("state", "present", ["inbound", "tags"])]}


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
