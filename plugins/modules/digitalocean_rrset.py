#!/usr/bin/python
"""Ansible module: RRsets of a DigitalOcean domain."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_rrset
short_description: RRsets of a DigitalOcean domain
description:
  - Makes sure that names have exactly these records of a type, or none. Records of other names and types stay.
  - A record that has to change is changed in place, so that the name always resolves; what is not wanted goes last.
  - The API is asked once for what there is, however many RRsets are given.
options:
  domain:
    description: The domain, which must be in the account.
    type: str
    required: true
  name:
    description: >-
      The name of the one RRset, where there is one; C(@) for the domain itself, relative to the domain, or a full name
      within it.
    type: str
  type:
    description: The type of the one RRset.
    type: str
    choices: [A, AAAA, CNAME, NS, TXT]
    default: A
  values:
    description:
      - The data of its records. Required with O(state=present).
      - With O(state=absent), only the records with this data are removed; without it, all.
    type: list
    elements: str
  rrsets:
    description: Several RRsets, instead of O(name), O(type) and O(values).
    type: list
    elements: dict
    suboptions:
      name:
        description: As O(name).
        type: str
        required: true
      type:
        description: As O(type).
        type: str
        choices: [A, AAAA, CNAME, NS, TXT]
        default: A
      values:
        description: As O(values).
        type: list
        elements: str
  prune:
    description: Records that were wanted once, and are removed unless they are among O(rrsets).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: They have this name.
        type: str
      below:
        description: They are exactly one label below this name.
        type: str
      type:
        description: They have this type.
        type: str
        choices: [A, AAAA, CNAME, NS, TXT]
        required: true
      value:
        description: They have this data, and only this.
        type: str
        required: true
  ttl:
    description: Seconds that resolvers may keep it; at least 30. At DigitalOcean all records of one name share it.
    type: int
    default: 300
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: The names lead to the droplet
  digitalocean_rrset:
    domain: "{{ sbc_domain }}"
    rrsets:
      - {name: "{{ sbc_fqdn }}", values: ["{{ sbc_address }}"]}
      - {name: "*.{{ sbc_fqdn }}", values: ["{{ sbc_address }}"]}
      - {name: "_acme-challenge.{{ sbc_fqdn }}", type: NS, values: ["{{ sbc_fqdn }}"]}
    prune:
      - {below: "{{ sbc_fqdn }}", type: A, value: "{{ sbc_address }}"}
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
records:
  description: >-
    The records of the RRsets after the task (C(id), C(fqdn), C(type), C(data), C(ttl)), names without a final dot;
    C(id) is null for what check mode would create.
  returned: success
  type: list
  elements: dict
"""

import ipaddress
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import SEEN, Client, Resource, make_module, run

TYPES = ["A", "AAAA", "CNAME", "NS", "TXT"]
TTL_LEAST = 30
Step = tuple[Resource | None, Resource | None]


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


def full_name(name: str, domain: str) -> str:
    """The name without a final dot."""
    relative = relative_name(name, domain)
    return domain if relative == "@" else f"{relative}.{domain}"


def canonical(kind: str, data: str) -> str:
    """Data as the API reads it back. Raises ValueError if it cannot be of this type."""
    if kind in ("A", "AAAA"):
        address = ipaddress.ip_address(data)
        if address.version != (4 if kind == "A" else 6):
            raise ValueError(f"{data!r} cannot be the data of a record of type {kind}")
        return str(address)
    return data if kind == "TXT" else data.lower().rstrip(".")


class RRsets:
    """What is wanted of a zone, what is there, and the steps between."""

    def __init__(self, module: AnsibleModule, client: Client) -> None:
        given = module.params
        self.module, self.client = module, client
        self.domain, self.ttl = given["domain"].lower().rstrip("."), given["ttl"]
        self.path = f"domains/{self.domain}/records"
        self.absent = given["state"] == "absent"
        self.wanted: dict[tuple[str, str], list[str]] = {}
        for each in given["rrsets"] or [given]:
            kind, fqdn = each["type"], full_name(each["name"], self.domain)
            values = {canonical(kind, value) for value in each["values"] or []}
            if not values and not self.absent:
                raise ValueError(f"values of {fqdn} is empty: state=absent removes records")
            self.wanted[fqdn, kind] = sorted(values.union(self.wanted.get((fqdn, kind), ())))
        self.stale = [
            (
                full_name(each["name"] or each["below"], self.domain),
                bool(each["below"]),
                each["type"],
                canonical(each["type"], each["value"]),
            )
            for each in given["prune"]
        ]

    def find(self, *names: str) -> list[Resource]:
        """Records of the types that can be wanted: of one name, or of the whole zone."""
        filters = {"name": names[0]} if len(names) == 1 else {}
        return [
            {
                "id": each["id"],
                "fqdn": full_name(each["name"], self.domain),
                "type": each["type"],
                "data": canonical(each["type"], each["data"]),
                "ttl": each["ttl"],
            }
            for each in self.client.get_all(self.path, "domain_records", **filters)
            if each["type"] in TYPES
        ]

    def apply(self) -> Resource:
        names = {name for name, _ in self.wanted} | {name for name, *_ in self.stale}
        below = any(below for _, below, *_ in self.stale)
        zone = self.find() if below else self.find(*names)
        existing = [each for each in zone if (each["fqdn"], each["type"]) in self.wanted]
        surplus = [each for each in zone if each not in existing and self.is_stale(each)]
        if self.absent:
            steps, after = self.plan_removal(existing)
        else:
            self.refuse_conflicts([each for each in zone if each not in surplus])
            steps, after = self.plan(existing)
        steps += [(record, None) for record in surplus]
        # What is made or changed comes before what goes: nothing that is wanted is without an answer meanwhile.
        steps.sort(key=lambda step: step[1] is None)
        if not self.module.check_mode:
            for record, wanted in steps:
                self.carry_out(record, wanted)
        result: Resource = {"changed": bool(steps), "records": after}
        before = existing + surplus
        return result | ({"diff": {"before": zone_file(before), "after": zone_file(after)}} if steps else {})

    def is_stale(self, record: Resource) -> bool:
        parent = record["fqdn"].partition(".")[2]
        return any(
            (kind, data) == (record["type"], record["data"]) and name == (parent if below else record["fqdn"])
            for name, below, kind, data in self.stale
        )

    def refuse_conflicts(self, zone: list[Resource]) -> None:
        """A CNAME stands alone at its name (RFC 1034, section 3.6.2). Raises ValueError, before anything is changed."""
        for fqdn, kind in self.wanted:
            for other in zone:
                if other["fqdn"] == fqdn and other["type"] != kind and "CNAME" in (kind, other["type"]):
                    raise ValueError(
                        f"{fqdn} has a record of type {other['type']} ({other['data']}), beside which none of type"
                        f" {kind} can stand: remove it from the domain {self.domain}, or choose another name"
                    )

    def plan_removal(self, existing: list[Resource]) -> tuple[list[Step], list[Resource]]:
        surplus = []
        for each in existing:
            values = self.wanted[each["fqdn"], each["type"]]
            if not values or each["data"] in values:
                surplus.append(each)
        return [(each, None) for each in surplus], [each for each in existing if each not in surplus]

    def plan(self, existing: list[Resource]) -> tuple[list[Step], list[Resource]]:
        """Steps (record, wanted) from what exists to what is wanted: None creates or deletes; and the outcome."""
        steps: list[Step] = []
        after = []
        for (fqdn, kind), values in self.wanted.items():
            present = [each for each in existing if (each["fqdn"], each["type"]) == (fqdn, kind)]
            right = {record["data"]: record for record in reversed(present) if record["data"] in values}
            spare = [record for record in present if record is not right.get(record["data"])]
            for value in values:
                record = right.get(value) or (spare.pop(0) if spare else None)
                wanted = {"id": record and record["id"], "fqdn": fqdn, "type": kind, "data": value, "ttl": self.ttl}
                after.append(wanted)
                if record != wanted:
                    steps.append((record, wanted))
            steps += [(record, None) for record in spare]
        return steps, after

    def carry_out(self, record: Resource | None, wanted: Resource | None) -> None:
        """One step; a record that is made gets its id."""
        if wanted is None:
            self.client.delete(f"{self.path}/{record['id']}")  # type: ignore[index]
            return
        data = wanted["data"] + ("." if wanted["type"] in ("CNAME", "NS") else "")
        name = relative_name(wanted["fqdn"], self.domain)
        body = {"type": wanted["type"], "name": name, "data": data, "ttl": self.ttl}
        if record:
            self.client.call("PUT", f"{self.path}/{record['id']}", body)
        else:
            made = self.client.create(self.path, "domain_record", body, lambda: next(self.equals(wanted), None))
            wanted["id"] = made["id"]

    def equals(self, wanted: Resource) -> Iterator[Resource]:
        for each in self.find(wanted["fqdn"]):
            if all(each[key] == wanted[key] for key in ("fqdn", "type", "data")):
                yield each


def zone_file(records: list[Resource]) -> str:
    """The records as lines of a zone file."""
    lines = {
        (each["fqdn"], f"{each['fqdn']}. {each['ttl']} IN {each['type']} {_presented(each)}\n") for each in records
    }
    return "".join(line for _, line in sorted(lines))


def _presented(record: Resource) -> str:
    return str(record["data"]) + ("." if record["type"] in ("CNAME", "NS") else "")


def work(module: AnsibleModule, client: Client) -> Resource:
    if module.params["ttl"] < TTL_LEAST:
        raise ValueError(f"ttl {module.params['ttl']} is too small: DigitalOcean's least is {TTL_LEAST} s")
    return RRsets(module, client).apply()


def arguments() -> Resource:
    kind = {"type": "str", "choices": TYPES}
    one = {"name": {"type": "str"}, "type": kind | {"default": "A"}, "values": {"type": "list", "elements": "str"}}
    several = one | {"name": {"type": "str", "required": True}}
    stale = {
        "name": {"type": "str"},
        "below": {"type": "str"},
        "type": kind | {"required": True},
        "value": {"type": "str", "required": True},
    }
    spec = SEEN | {
        "domain": {"type": "str", "required": True},
        **one,
        "rrsets": {"type": "list", "elements": "dict", "options": several},
        "prune": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": stale,
            "mutually_exclusive": [("name", "below")],
            "required_one_of": [("name", "below")],
        },
        "ttl": {"type": "int", "default": 300},
    }
    return {
        "argument_spec": spec,
        "mutually_exclusive": [("name", "rrsets"), ("values", "rrsets")],
        "required_one_of": [("name", "rrsets")],
    }


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
