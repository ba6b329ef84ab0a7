#!/usr/bin/python
"""Ansible module: how far the replacement of a customer's droplet has come."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_replacement_info
short_description: How far the replacement of a customer's droplet has come
description:
  - Tells a customer's droplets by their tags, and which of them the customer's names lead to, so that a replacement
    that was cut off is gone on with where it stood.
options:
  customer:
    description: The customer, which is the inventory's host name.
    type: str
    required: true
  fqdn:
    description:
      - The name that leads to the droplet. It is moved before all other names of the customer, so it stands for all.
    type: str
    required: true
  domain:
    description: The domain at DigitalOcean that holds O(fqdn); not given where the records are made by hand.
    type: str
  reserved_ip:
    description: The reserved address that the names lead to, where the customer has one.
    type: str
extends_documentation_fragment: digitalocean.info
author: teams-sbc
"""

EXAMPLES = r"""
- name: How far the replacement has come
  digitalocean_replacement_info:
    customer: "{{ inventory_hostname }}"
    fqdn: "{{ sbc_fqdn }}"
    domain: "{{ sbc_domain }}"
  delegate_to: localhost
  register: stand
"""

RETURN = r"""
droplets:
  description:
    - The customer's droplets (C(id), C(address), which may be null yet) by what they are, which is C(droplet),
      C(successor) or C(retired). Each is null where there is none.
  returned: success
  type: dict
  sample:
    droplet: {id: 3164444, address: 203.0.113.10}
    successor: {id: 3164450, address: 203.0.113.11}
    retired: null
moved:
  description: Whether O(fqdn), or O(reserved_ip) where it is given, leads to the successor.
  returned: success
  type: bool
ttl:
  description: >-
    Seconds for which resolvers may remember where O(fqdn) leads; null where its record does not move, is made by hand,
    or does not exist.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import (
    Client,
    Resource,
    customer_tag,
    household,
    make_info_module,
    run,
)


def work(module: AnsibleModule, client: Client) -> Resource:
    given = module.params
    found = client.get_all("droplets", "droplets", tag_name=customer_tag(given["customer"]))
    kinds = household(given["customer"], found)
    droplets = {
        kind: {"id": kinds[kind]["id"], "address": client.own_address(kinds[kind])} if kind in kinds else None
        for kind in ("droplet", "successor", "retired")
    }
    result = {"changed": False, "droplets": droplets, "moved": False, "ttl": None}
    successor = droplets["successor"]
    if given["reserved_ip"]:
        reserved = client.get(f"reserved_ips/{given['reserved_ip']}", "reserved_ip") or {}
        holder = reserved.get("droplet") or {}
        return result | {"moved": successor is not None and holder.get("id") == successor["id"]}
    if not given["domain"]:
        return result
    records = client.get_all(
        f"domains/{given['domain']}/records", "domain_records", name=given["fqdn"].lower(), type="A"
    )
    addresses = {each["data"] for each in records}
    return result | {
        "moved": successor is not None and successor["address"] in addresses,
        "ttl": max((each["ttl"] for each in records), default=None),
    }


def main() -> None:
    text = {"type": "str"}
    needed = text | {"required": True}
    run(make_info_module({"customer": needed, "fqdn": needed, "domain": text, "reserved_ip": text}), work)


if __name__ == "__main__":
    main()
