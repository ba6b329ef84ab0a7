#!/usr/bin/python
"""Ansible module: the successor becomes a customer's droplet, and the old one goes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_promotion
short_description: The successor becomes a customer's droplet, and the old one is destroyed
description:
  - Ends a replacement. The old droplet gets the tag C(sbc:retired), then the successor loses C(sbc:successor) and is
    the customer's droplet from then on, then the old one is destroyed by its number.
  - What has been done already is told by the tags, so that a run that was cut off is gone on with. If the old droplet
    is gone already, the successor is promoted all the same.
  - With O(state=absent), a promotion that was cut off before the successor lost its tag is taken back, so that the old
    droplet is the customer's again. The successor stays what it is. Later than that there is nothing to take back, and
    it fails.
  - Where the tags and numbers do not agree, it fails before anything is changed.
options:
  customer:
    description: The customer, which is the inventory's host name.
    type: str
    required: true
  droplet_id:
    description: Number of the old droplet.
    type: int
    required: true
  successor_id:
    description: Number of the droplet that takes its place.
    type: int
    required: true
  state:
    description: Whether the successor shall be promoted, or the old droplet be the customer's again.
  timeout:
    description: Seconds to wait for the old droplet to be gone.
    type: int
    default: 300
extends_documentation_fragment: digitalocean
author: teams-sbc
"""

EXAMPLES = r"""
- name: The successor has proven itself
  digitalocean_promotion:
    customer: "{{ inventory_hostname }}"
    droplet_id: 3164444
    successor_id: 3164450
  delegate_to: localhost
"""

RETURN = r"""
droplets:
  description: The customer's droplets after the task (C(id), C(kind), which is droplet, successor or retired).
  returned: success
  type: list
  elements: dict
  sample: [{id: 3164450, kind: droplet}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import (
    RETIRED_TAG,
    SUCCESSOR_TAG,
    Client,
    Resource,
    customer_tag,
    household,
    make_module,
    run,
)


def work(module: AnsibleModule, client: Client) -> Resource:
    customer, old, new = (module.params[name] for name in ("customer", "droplet_id", "successor_id"))
    droplets = client.get_all("droplets", "droplets", tag_name=customer_tag(customer))
    kinds = {each["id"]: kind for kind, each in household(customer, droplets).items()}
    retiring = next((each for each in droplets if each["id"] == old), None)
    present = module.params["state"] == "present"
    after = promoted(kinds, old, new) if present else taken_back(kinds, old, new)
    if after is None:
        found = ", ".join(f"{number} ({kind})" for number, kind in sorted(kinds.items())) or "none"
        act = "be promoted over" if present else "give way again to"
        raise ValueError(
            f"droplet {new} of {customer} cannot {act} droplet {old}: the droplets with the tag "
            f"{customer_tag(customer)} are {found}. Nothing was changed"
        )
    result: Resource = {"changed": kinds != after, "droplets": listed(after)}
    if not result["changed"]:
        return result
    result["diff"] = {"before": {"droplets": listed(kinds)}, "after": {"droplets": listed(after)}}
    if not module.check_mode and not present:
        client.untag_droplet(old, RETIRED_TAG)
    elif not module.check_mode:
        if kinds.get(old) == "droplet":
            client.tag_droplet(old, RETIRED_TAG)
        if kinds[new] == "successor":
            client.untag_droplet(new, SUCCESSOR_TAG)
        if retiring:
            client.destroy_droplet(retiring, module.params["timeout"])
    return result


def promoted(kinds: dict[int, str], old: int, new: int) -> dict[int, str] | None:
    """What is to be, or None if the way there does not begin at what is."""
    others = {number: kind for number, kind in kinds.items() if number != new}
    # The successor takes the place of a droplet; one that has it already, only that of one which made room.
    room = {"successor": ({}, {old: "droplet"}, {old: "retired"}), "droplet": ({}, {old: "retired"})}
    return {new: "droplet"} if others in room.get(kinds.get(new, ""), ()) else None


def taken_back(kinds: dict[int, str], old: int, new: int) -> dict[int, str] | None:
    others = {number: kind for number, kind in kinds.items() if number != new}
    may = others in ({old: "droplet"}, {old: "retired"}) and kinds.get(new) in (None, "successor")
    return kinds | {old: "droplet"} if may else None


def listed(kinds: dict[int, str]) -> list[Resource]:
    return [{"id": number, "kind": kind} for number, kind in sorted(kinds.items())]


def main() -> None:
    number = {"type": "int", "required": True}
    spec = {
        "customer": {"type": "str", "required": True},
        "droplet_id": number,
        "successor_id": number,
        "timeout": {"type": "int", "default": 300},
    }
    run(make_module(spec), work)


if __name__ == "__main__":
    main()
