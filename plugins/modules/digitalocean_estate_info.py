#!/usr/bin/python
"""Ansible module: what a DigitalOcean account holds of one customer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_estate_info
short_description: What a DigitalOcean account holds of one customer
description:
  - Says what of an account goes when a customer is taken away, and what stays and why. Changes nothing.
  - The droplet is the one with the tag C(sbc:customer:CUSTOMER). DNS records go only if they lead to its address or to
    a reserved IP of its own, the SSH key only if it was put there for this customer and no other customer's droplet is
    there, a tag only if nothing else carries it.
  - What a run that was cut off found before it removed the droplet can be given as O(remembered). It is not believed
    where the customer has another droplet by now.
options:
  customer:
    description: The customer, which is the inventory's host name.
    type: str
    required: true
  fqdn:
    description: Name of the Session Border Controller.
    type: str
    required: true
  domain:
    description: The domain in the account that holds O(fqdn); none, if the zone is elsewhere.
    type: str
  reserved_ip:
    description: The reserved IP that is this customer's, if there is one. Others are never given back.
    type: str
  keep_reserved_ip:
    description: Whether O(reserved_ip) is not given back either.
    type: bool
    default: false
  public_key:
    description: The SSH key that logs in to the droplet. The account may know it by any name.
    type: str
  project:
    description: The project that the droplet is filed in, if any.
    type: str
  remembered:
    description: RV(estate) of an earlier call, for what can no longer be told once the droplet is gone.
    type: dict
    default: {}
extends_documentation_fragment: digitalocean.info
author: teams-sbc
"""

EXAMPLES = r"""
- name: What goes, and what stays
  digitalocean_estate_info:
    customer: "{{ inventory_hostname }}"
    fqdn: "{{ sbc_fqdn }}"
    domain: "{{ sbc_domain }}"
  delegate_to: localhost
  register: customers
"""

RETURN = r"""
droplet:
  description: >-
    The droplet's C(id), C(name), C(address), C(region), C(size), C(created_at) and C(tags); null if there is none.
  returned: success
  type: dict
unfinished:
  description: What to do about a replacement of the droplet that was not finished; null if there is none.
  returned: success
  type: str
rrsets:
  description: Records that lead to the droplet, as O(digitalocean_rrset#module:rrsets) takes them.
  returned: success
  type: list
  elements: dict
others:
  description: Records of O(fqdn) itself, of any type, that are not the customer's, a line for each.
  returned: success
  type: list
  elements: str
reserved_ip:
  description: The customer's reserved IP, unless it is kept or leads to another droplet by now; null if there is none.
  returned: success
  type: str
firewall:
  description: Name of the customer's firewall; null if there is none.
  returned: success
  type: str
tags:
  description: Tags that nothing but the droplet carries.
  returned: success
  type: list
  elements: str
public_key:
  description: The SSH key that was put into the account for this customer and is not needed any more; null if none.
  returned: success
  type: str
going:
  description: All that goes, a line for each.
  returned: success
  type: list
  elements: str
  sample: ["droplet 3164444 (sbc1.example.com, 203.0.113.10, fra1, s-1vcpu-1gb, made 2026-11-20T10:00:00Z)"]
staying:
  description: What stays in the account, a line for each that says why.
  returned: success
  type: list
  elements: str
estate:
  description: >-
    What has to be remembered before the droplet is removed (C(droplet_id), C(addresses), C(tags), C(reserved_ip)).
  returned: success
  type: dict
"""

from collections.abc import Iterable
from http import HTTPStatus

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import (
    COMMON_TAG,
    USER_DATA_PREFIX,
    ApiError,
    Client,
    Resource,
    customer_tag,
    fingerprint,
    household,
    make_info_module,
    public_address,
    run,
    unfinished,
)


class Estate:
    """One customer's things in an account, as lists of what goes and what stays."""

    def __init__(self, module: AnsibleModule, client: Client) -> None:
        given = module.params
        self.client, self.customer = client, given["customer"]
        self.fqdn = given["fqdn"].lower().rstrip(".")
        self.domain = (given["domain"] or "").lower().rstrip(".")
        self.keep = given["keep_reserved_ip"]
        self.known: Resource = {"droplet_id": None, "addresses": [], "tags": [], "reserved_ip": None}
        self.remembered = given["remembered"]
        self.key, self.project = given["public_key"], given["project"]
        self.reserved_ip = given["reserved_ip"]
        self.tag = customer_tag(self.customer)
        self.address: str | None = None
        self.going: list[str] = []
        self.staying: list[str] = []
        self.others: list[str] = []

    def look(self) -> Resource:
        """Everything, in the order in which it goes. Raises ApiError, and ValueError if there are several droplets."""
        droplets = self.client.get_all("droplets", "droplets", tag_name=self.tag)
        kinds: dict[str, Resource] = household(self.customer, droplets)
        droplet = kinds.get("droplet")
        if droplet is None or droplet["id"] == self.remembered.get("droplet_id"):
            self.known |= self.remembered
        if self.reserved_ip:
            self.known["reserved_ip"] = self.reserved_ip
        if droplet:
            tags = [each for each in droplet["tags"] if each.startswith(USER_DATA_PREFIX)]
            self.known |= {"droplet_id": droplet["id"], "addresses": [], "tags": tags}
        reserved = self.reserved_ips()
        if droplet:
            self.address = public_address(droplet, self.known["reserved_ip"], *reserved)
            self.known["addresses"] = [self.address] if self.address else []
        self.known["addresses"] = sorted({*self.known["addresses"], *reserved})
        result = {
            "rrsets": self.rrsets(),
            "droplet": self.droplet(droplet),
            "unfinished": unfinished(self.customer) if set(kinds) - {"droplet"} else None,
            "reserved_ip": self.given_back(reserved),
            "firewall": self.firewall(),
            "tags": self.tags(droplets),
            "public_key": self.public_key(),
        }
        self.snapshots()
        self.common()
        return result | {"going": self.going, "staying": self.staying, "others": self.others, "estate": self.known}

    def droplet(self, droplet: Resource | None) -> Resource | None:
        if droplet is None:
            return None
        self.going.append(f"droplet {line_of(droplet, self.address)}")
        if backups := len(droplet.get("backup_ids") or []):
            which = (
                "1 backup: DigitalOcean destroys it"
                if backups == 1
                else f"{backups} backups: DigitalOcean destroys them"
            )
            self.going.append(f"its {which} with the droplet")
        self.staying += [f"volume {each}: billed until it is deleted" for each in droplet.get("volume_ids") or []]
        return {
            "id": droplet["id"],
            "name": droplet["name"],
            "address": self.address,
            "region": droplet["region"]["slug"],
            "size": droplet["size_slug"],
            "created_at": droplet["created_at"],
            "tags": droplet["tags"],
        }

    def reserved_ips(self) -> list[str]:
        """Those that lead to the droplet, and the customer's own if it leads nowhere now."""
        found = []
        for each in self.told("reserved_ips", needed=bool(self.known["reserved_ip"])):
            holder = each["droplet"]["id"] if each["droplet"] else None
            if holder == self.known["droplet_id"] if holder else each["ip"] == self.known["reserved_ip"]:
                found.append(each["ip"])
        return found

    def told(self, path: str, needed: bool = False, **filters: str) -> list[Resource]:
        """All of a kind; of one that is not needed the token need not be allowed to read. Raises ApiError."""
        found: list[Resource] = []
        try:
            found = self.client.get_all(path, path, **filters)
        except ApiError as error:
            if needed or error.status != HTTPStatus.FORBIDDEN:
                raise
            self.staying.append(f"{path.replace('_ips', ' IPs')}, if there are any: the token may not list them")
        return found

    def given_back(self, reserved: Iterable[str]) -> str | None:
        gone = None
        for each in reserved:
            if each != self.known["reserved_ip"]:
                self.staying.append(
                    f"reserved IP {each}: it is not known as this customer's; billed while it is unused"
                )
            elif self.keep:
                self.staying.append(
                    f"reserved IP {each}: kept, unless destroy_keep_reserved_ip is false; billed while it is unused"
                )
            else:
                gone = each
                self.going.append(f"reserved IP {each}")
        return gone

    def rrsets(self) -> list[Resource]:
        """Records of the customer's names that lead to the droplet; other records that do are only told."""
        addresses, gone = set(self.known["addresses"]), []
        delegations, elsewhere = [], False
        for each in self.zone():
            name = self.domain if each["name"] == "@" else f"{each['name']}.{self.domain}"
            ours = self.fqdn in (name, name.partition(".")[2])
            data = each["data"].lower().rstrip(".")
            shown = f"record {name} {each['type']} {data}"
            if name == self.fqdn and not (each["type"] == "A" and data in addresses):
                self.others.append(shown)
            if each["type"] == "NS" and name == f"_acme-challenge.{self.fqdn}" and data == self.fqdn:
                delegations.append((name, shown))
            elif each["type"] == "A" and data in addresses and ours:
                gone.append({"name": name, "type": "A", "values": [data]})
                self.going.append(shown)
            elif (each["type"] == "A" and data in addresses) or (each["type"] == "CNAME" and data == self.fqdn):
                self.staying.append(
                    f"{shown}: nobody here made it; delete it, since the address will be somebody else's"
                )
            elif each["type"] == "A" and ours:
                elsewhere = elsewhere or name == self.fqdn
                self.staying.append(f"{shown}: leads to another address than the customer's")
        for name, shown in delegations:
            if elsewhere:
                self.staying.append(f"{shown}: {self.fqdn} leads to another address than the customer's")
            else:
                gone.append({"name": name, "type": "NS", "values": [self.fqdn]})
                self.going.append(shown)
        return gone

    def zone(self) -> list[Resource]:
        if not self.domain:
            return []
        if self.client.get(f"domains/{self.domain}", "domain") is None:
            return []
        found: list[Resource] = self.client.get_all(f"domains/{self.domain}/records", "domain_records")
        return found

    def firewall(self) -> str | None:
        name = f"sbc-{self.customer}"
        for each in self.client.get_all("firewalls", "firewalls"):
            if each["name"] == name:
                others = [str(number) for number in each["droplet_ids"] or [] if number != self.known["droplet_id"]]
                if others:
                    self.staying.append(f"firewall {name}: somebody assigned it to droplet {', '.join(others)}")
                    return None
                self.going.append(f"firewall {name}")
                return name
        return None

    def tags(self, droplets: list[Resource]) -> list[str]:
        gone = []
        for name in (self.tag, *self.known["tags"]):
            if tag := self.client.get(f"tags/{name}", "tag"):
                others = tag["resources"]["count"] - sum(name in each["tags"] for each in droplets)
                if others > 0:
                    self.staying.append(
                        f"tag {name}: {others} other resource{' carries' if others == 1 else 's carry'} it"
                    )
                else:
                    self.going.append(f"tag {name}")
                    gone.append(name)
        return gone

    def public_key(self) -> str | None:
        """The key that the rollout put there for this customer. Raises ValueError if the customer's key is none."""
        name, mark, own = f"sbc-{self.customer}", fingerprint(self.key) if self.key else None, None
        for each in self.client.get_all("account/keys", "ssh_keys"):
            if each["name"] == name:
                own = each
            elif each["fingerprint"] == mark:
                self.staying.append(
                    f"SSH key {each['name']}: it logged in to the droplet, but was not put there for this customer"
                )
        if own is None:
            return None
        sharing = [
            each["name"]
            for each in self.client.get_all("droplets", "droplets", tag_name=COMMON_TAG)
            if self.tag not in each["tags"]
        ]
        if sharing:
            count = f"{len(sharing)} other droplet{'s' if len(sharing) > 1 else ''}"
            self.staying.append(
                f"SSH key {name}: customers share keys, and there are {count} ({', '.join(sharing[:3])})"
            )
            return None
        self.going.append(f"SSH key {name}")
        return str(own["public_key"])

    def common(self) -> None:
        """What all customers have in common is no one's to take away."""
        if self.project and self.project in (each["name"] for each in self.told("projects")):
            self.staying.append(f"project {self.project}: stays, with what else is in it")
        if self.client.get(f"tags/{COMMON_TAG}", "tag"):
            self.staying.append(f"tag {COMMON_TAG}: all customers have it in common")

    def snapshots(self) -> None:
        if self.known["droplet_id"] is not None:
            self.staying += [
                f"snapshot {each['name']} ({each['size_gigabytes']} GB): billed until it is deleted"
                for each in self.told("snapshots", resource_type="droplet")
                if each["resource_id"] == str(self.known["droplet_id"])
            ]


def line_of(droplet: Resource, address: str | None) -> str:
    """A droplet for people."""
    where = f"{droplet['region']['slug']}, {droplet['size_slug']}, made {droplet['created_at']}"
    return f"{droplet['id']} ({droplet['name']}, {address or 'no address'}, {where})"


def work(module: AnsibleModule, client: Client) -> Resource:
    return {"changed": False} | Estate(module, client).look()


def main() -> None:
    spec = {
        "customer": {"type": "str", "required": True},
        "fqdn": {"type": "str", "required": True},
        "domain": {"type": "str"},
        "reserved_ip": {"type": "str"},
        "keep_reserved_ip": {"type": "bool", "default": False},
        "public_key": {"type": "str", "no_log": False},
        "project": {"type": "str"},
        "remembered": {"type": "dict", "default": {}},
    }
    run(make_info_module(spec), work)


if __name__ == "__main__":
    main()
