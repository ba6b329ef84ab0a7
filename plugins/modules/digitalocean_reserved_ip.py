#!/usr/bin/python
"""Ansible module: a reserved IP at DigitalOcean."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_reserved_ip
short_description: A reserved IP at DigitalOcean
description:
  - Makes sure that a reserved IPv4 address leads to a droplet, or that an address is given back.
  - An account has three of them by default. Each is bound to a region, and a droplet has one at most
    (U(https://docs.digitalocean.com/products/networking/reserved-ips/details/limits/)).
  - A reserved IP has neither name nor tags. So the one that a droplet has already is the one that is meant, unless
    O(address) says which.
options:
  droplet_id:
    description:
      - The droplet that the address shall lead to. Required with O(state=present).
      - With O(state=absent), the droplet that it may still lead to.
    type: int
  address:
    description:
      - The reserved IP, which must be in the account. Required with O(state=absent).
      - With O(state=present) and without it, the droplet keeps the one that it has, or gets a new one.
    type: str
  from_droplet_id:
    description: A droplet that the address may be taken from. One that leads to any other droplet is left there.
    type: int
  timeout:
    description: Seconds to wait until it leads where it shall.
    type: int
    default: 300
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: The customer has an address that outlives its droplet
  digitalocean_reserved_ip:
    droplet_id: "{{ machine.droplet.id }}"
  delegate_to: localhost
  register: reserved

- name: It leads to another droplet
  digitalocean_reserved_ip:
    address: "{{ reserved.address }}"
    droplet_id: "{{ successor.droplet.id }}"
    from_droplet_id: "{{ machine.droplet.id }}"
  delegate_to: localhost

- name: It is given back
  digitalocean_reserved_ip:
    address: "{{ reserved.address }}"
    droplet_id: "{{ successor.droplet.id }}"
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
address:
  description: The reserved IP; null for one that check mode would reserve.
  returned: with state=present
  type: str
  sample: 198.51.100.7
region:
  description: Slug of the region that it is bound to; null for one that check mode would reserve.
  returned: with state=present
  type: str
  sample: fra1
reserved:
  description: Whether it was, or would be, reserved by this task.
  returned: with state=present
  type: bool
"""

import ipaddress

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import SEEN, ApiError, Client, Resource, make_module, patiently, run


def holder_of(reserved: Resource) -> int | None:
    """The droplet that it leads to."""
    return reserved["droplet"]["id"] if reserved["droplet"] else None


class ReservedIp:
    """The reserved IP of a droplet: where it leads, and where it shall lead."""

    def __init__(self, module: AnsibleModule, client: Client) -> None:
        self.module, self.client, self.wanted = module, client, module.params
        self.address, self.droplet = self.wanted["address"], self.wanted["droplet_id"]
        if self.address is not None:
            try:
                ipaddress.IPv4Address(self.address)
            except ValueError as error:
                raise ValueError(f"address {self.address!r} is no IPv4 address: {error}") from None

    def all(self) -> list[Resource]:
        found: list[Resource] = self.client.get_all("reserved_ips", "reserved_ips")
        return found

    def settled(self) -> tuple[list[Resource], Resource | None]:
        """All addresses, and the one that leads to the droplet.

        One that is on its way to a droplet does not say to which: a run that was cut off may have reserved it for this
        one, so another is not reserved before it has arrived. Raises ValueError if that takes too long.
        """
        for _ in patiently(self.wanted["timeout"], "a reserved IP is being assigned, nobody knows to which droplet,"):
            everything = self.all()
            own = next((each for each in everything if holder_of(each) == self.droplet), None)
            moving = [each["ip"] for each in everything if each.get("locked") and holder_of(each) is None]
            if own or self.address is not None or not moving:
                return everything, own
        raise AssertionError("unreachable")

    def present(self) -> Resource:
        everything, own = self.settled()
        found = own
        if self.address is not None:
            found = next((each for each in everything if each["ip"] == self.address), None)
            self.refuse(found, own, everything)
        if found is None:
            return self.reserve({each["ip"] for each in everything})
        result = {"address": found["ip"], "region": found["region"]["slug"], "reserved": False}
        before, after = holder_of(found), self.droplet
        if before == after:
            return result | {"changed": False}
        if not self.module.check_mode:
            self.lead(found["ip"], after)
        diff = {"before": {found["ip"]: before}, "after": {found["ip"]: after}}
        return result | {"changed": True, "diff": diff}

    def refuse(self, found: Resource | None, own: Resource | None, everything: list[Resource]) -> None:
        """Raises ValueError where the address cannot, or must not, lead to the droplet."""
        if found is None:
            have = ", ".join(each["ip"] for each in everything) or "none"
            raise ValueError(
                f"{self.address} is no reserved IP of this account, which has {have}: correct droplet_reserved_ip; if "
                f"the address was given back for good, remove state/HOST/reserved_ip beside the inventory"
            )
        if own and own["ip"] != self.address:
            raise ValueError(
                f"droplet {self.droplet} has the reserved IP {own['ip']} already, and can have one only: unassign it "
                f"in DigitalOcean's control panel, or keep it by droplet_reserved_ip: {own['ip']}"
            )
        if holder_of(found) not in (None, self.droplet, self.wanted["from_droplet_id"]):
            raise ValueError(
                f"{self.address} leads to droplet {holder_of(found)} ({found['droplet']['name']}), not to "
                f"{self.droplet}: unassign it there in DigitalOcean's control panel if it shall move"
            )

    def reserve(self, known: set[str]) -> Resource:
        """One address more, for the droplet."""
        result: Resource = {"changed": True, "address": None, "region": None, "reserved": True}
        if not self.module.check_mode:
            body = {"droplet_id": self.droplet}
            made = self.client.create("reserved_ips", "reserved_ip", body, lambda: self.find_new(known))
            self.wait(made["ip"], self.droplet)
            result |= {"address": made["ip"], "region": made["region"]["slug"]}
        before: Resource = {}
        return result | {"diff": {"before": before, "after": {result["address"] or "a new address": self.droplet}}}

    def find_new(self, known: set[str]) -> Resource | None:
        """The address that was reserved although nobody said so: it may take a moment until it leads to the droplet."""
        for _ in patiently(self.wanted["timeout"], "a new reserved IP is still pending"):
            new = [each for each in self.all() if each["ip"] not in known]
            for each in new:
                if holder_of(each) == self.droplet:
                    return each
            if not any(each.get("locked") for each in new):
                break
        return None

    def absent(self) -> Resource:
        found = self.client.get(f"reserved_ips/{self.address}", "reserved_ip")
        if found is None:
            return {"changed": False}
        holder = holder_of(found)
        if holder not in (None, self.droplet):
            raise ValueError(
                f"{self.address} leads to droplet {holder} ({found['droplet']['name']}): it is not given back"
            )
        if not self.module.check_mode:
            if holder is not None:
                self.lead(self.address, None)
            self.client.delete(f"reserved_ips/{self.address}")
        return {"changed": True, "diff": {"before": {self.address: holder}, "after": {}}}

    def lead(self, address: str, droplet: int | None) -> None:
        """Let an address lead to a droplet, or nowhere."""
        body = {"type": "unassign"} if droplet is None else {"type": "assign", "droplet_id": droplet}
        action = None
        try:
            action = self.client.call("POST", f"reserved_ips/{address}/actions", body, repeatable=True)["action"]
        except ApiError:
            # It may have been done although its answer got lost; then it is refused when it is repeated.
            found = self.client.get(f"reserved_ips/{address}", "reserved_ip")
            if not found or (holder_of(found) != droplet and not found.get("locked")):
                raise
        self.wait(address, droplet, action)

    def wait(self, address: str, droplet: int | None, action: Resource | None = None) -> None:
        """Until it leads there. Raises ValueError if that fails or takes too long."""
        where = "nowhere" if droplet is None else f"to droplet {droplet}"
        for _ in patiently(self.wanted["timeout"], f"{address} does not lead {where}"):
            found = self.client.get(f"reserved_ips/{address}", "reserved_ip")
            # A fresh one may be unknown for a moment.
            if found and holder_of(found) == droplet and not found.get("locked"):
                return
            if action:
                action = self.client.get(f"actions/{action['id']}", "action") or action
                if action["status"] == "errored":
                    raise ValueError(f"action {action['id']} failed at DigitalOcean: {address} does not lead {where}")


def work(module: AnsibleModule, client: Client) -> Resource:
    reserved = ReservedIp(module, client)
    return reserved.present() if module.params["state"] == "present" else reserved.absent()


def arguments() -> Resource:
    spec = SEEN | {
        "droplet_id": {"type": "int"},
        "address": {"type": "str"},
        "from_droplet_id": {"type": "int"},
        "timeout": {"type": "int", "default": 300},
    }
    required = [("state", "present", ["droplet_id"]), ("state", "absent", ["address"])]
    return {"argument_spec": spec, "required_if": required}


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
