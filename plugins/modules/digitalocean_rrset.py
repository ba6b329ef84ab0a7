#!/usr/bin/python
"""Ansible module: the records of one name and type in a DigitalOcean domain."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_rrset
short_description: The records of one name and type in a DigitalOcean domain
description:
  - Makes sure that a name has exactly these records of one type, or none. Records of other names and types stay.
  - A record that has to change is changed in place, so that the name always resolves.
options:
  domain:
    description: The domain, which must be in the account.
    type: str
    required: true
  name:
    description: The name; C(@) for the domain itself, relative to the domain, or a full name within it.
    type: str
    required: true
  type:
    description: The records' type.
    type: str
    choices: [A, AAAA, CNAME, NS, TXT]
    default: A
  values:
    description:
      - The data of the records. Required with O(state=present).
      - With O(state=absent), only the records with this data are removed; without it, all.
    type: list
    elements: str
  ttl:
    description: Seconds that resolvers may keep it; at least 30. At DigitalOcean all records of one name share it.
    type: int
    default: 300
extends_documentation_fragment: digitalocean
author: teams-sbc
"""

EXAMPLES = r"""
- name: The FQDN leads to the droplet
  digitalocean_rrset:
    domain: "{{ sbc_domain }}"
    name: "{{ sbc_fqdn }}"
    values: ["{{ sbc_address }}"]
  delegate_to: localhost

- name: The FQDN no longer leads to the droplet
  digitalocean_rrset:
    domain: "{{ sbc_domain }}"
    name: "{{ sbc_fqdn }}"
    values: ["{{ sbc_address }}"]
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
fqdn:
  description: The name in full, without a final dot.
  returned: success
  type: str
records:
  description: The records after the task (C(id), C(data), C(ttl)); C(id) is null for what check mode would create.
  returned: success
  type: list
  elements: dict
"""

import ipaddress

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_module, run

TTL_LEAST = 30


def relative_name(name: str, domain: str) -> str:
    """The name as the API wants it. Raises ValueError for an absolute name outside of the domain."""
    plain = name.lower().rstrip(".")
    if plain in ("@", domain):
        return "@"
    if plain.endswith("." + domain):
        return plain.removesuffix("." + domain)
    if name.endswith(".") or not plain:
        raise ValueError(f"name {name!r} is not within the domain {domain}")
    return plain


def canonical(kind: str, data: str) -> str:
    """Data as the API reads it back. Raises ValueError if it cannot be of this type."""
    if kind in ("A", "AAAA"):
        address = ipaddress.ip_address(data)
        if address.version != (4 if kind == "A" else 6):
            raise ValueError(f"{data!r} cannot be the data of a record of type {kind}")
        return str(address)
    return data if kind == "TXT" else data.lower().rstrip(".")


class RRset:
    def __init__(self, module: AnsibleModule, client: Client) -> None:
        self.module, self.client = module, client
        self.domain = module.params["domain"].lower().rstrip(".")
        self.kind, self.ttl = module.params["type"], module.params["ttl"]
        self.name = relative_name(module.params["name"], self.domain)
        self.fqdn = self.domain if self.name == "@" else f"{self.name}.{self.domain}"
        self.path = f"domains/{self.domain}/records"
        self.values = sorted({canonical(self.kind, value) for value in module.params["values"] or []})

    def find(self) -> list[Resource]:
        records = self.client.get_all(self.path, "domain_records", type=self.kind, name=self.fqdn)
        return [
            {"id": each["id"], "data": canonical(self.kind, each["data"]), "ttl": each["ttl"]}
            for each in records
            if each["type"] == self.kind and each["name"].lower() in (self.name, self.fqdn)
        ]

    def apply(self) -> Resource:
        existing = self.find()
        if self.module.params["state"] == "absent":
            surplus = [each for each in existing if not self.values or each["data"] in self.values]
            after = [each for each in existing if each not in surplus]
            steps = [(each, None) for each in surplus]
        else:
            steps, after = self.plan(existing)
        if not self.module.check_mode:
            for record, wanted in steps:
                self.carry_out(record, wanted)
            if any(record is None for record, _ in steps):
                after = self.find()
        result: Resource = {"changed": bool(steps), "fqdn": self.fqdn, "records": after}
        return result | ({"diff": {"before": self.zone(existing), "after": self.zone(after)}} if steps else {})

    def plan(self, existing: list[Resource]) -> tuple[list[tuple[Resource | None, Resource | None]], list[Resource]]:
        """Steps (record, wanted) from what exists to what is wanted: None creates or deletes; and the outcome."""
        right = {record["data"]: record for record in reversed(existing) if record["data"] in self.values}
        spare = [record for record in existing if record is not right.get(record["data"])]
        steps: list[tuple[Resource | None, Resource | None]] = []
        after = []
        for value in self.values:
            record = right.get(value) or (spare.pop(0) if spare else None)
            wanted = {"id": record and record["id"], "data": value, "ttl": self.ttl}
            after.append(wanted)
            if record != wanted:
                steps.append((record, wanted))
        return steps + [(record, None) for record in spare], after

    def carry_out(self, record: Resource | None, wanted: Resource | None) -> None:
        if wanted is None:
            self.client.delete(f"{self.path}/{record['id']}")  # type: ignore[index]
            return
        data = wanted["data"] + ("." if self.kind in ("CNAME", "NS") else "")
        body = {"type": self.kind, "name": self.name, "data": data, "ttl": self.ttl}
        if record:
            self.client.call("PUT", f"{self.path}/{record['id']}", body)
        else:
            self.client.create(
                self.path,
                "domain_record",
                body,
                lambda: next((each for each in self.find() if each["data"] == wanted["data"]), None),
            )

    def zone(self, records: list[Resource]) -> str:
        """The records as lines of a zone file."""
        lines = sorted(f"{self.fqdn}. {each['ttl']} IN {self.kind} {each['data']}\n" for each in records)
        return "".join(lines)


def work(module: AnsibleModule, client: Client) -> Resource:
    if module.params["ttl"] < TTL_LEAST:
        raise ValueError(f"ttl {module.params['ttl']} is too small: DigitalOcean's least is {TTL_LEAST} s")
    if module.params["state"] == "present" and not module.params["values"]:
        raise ValueError("values is empty: state=absent removes records")
    return RRset(module, client).apply()


def main() -> None:
    spec = {
        "domain": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "type": {"type": "str", "choices": ["A", "AAAA", "CNAME", "NS", "TXT"], "default": "A"},
        "values": {"type": "list", "elements": "str"},
        "ttl": {"type": "int", "default": 300},
    }
    run(make_module(spec, required_if=[("state", "present", ["values"])]), work)


if __name__ == "__main__":
    main()
