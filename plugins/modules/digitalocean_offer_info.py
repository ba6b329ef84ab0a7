#!/usr/bin/python
"""Ansible module: the cheapest droplet that an account could get in a region."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_offer_info
short_description: The cheapest droplet that an account could get in a region
description:
  - Says whose account it is, how many more droplets it may have, and which size that an image fits on is the cheapest
    in a region. Changes nothing.
options:
  region:
    description: Slug of the region.
    type: str
    required: true
  image:
    description: Slug of the image.
    type: str
    required: true
extends_documentation_fragment: digitalocean.info
author: teams-sbc
"""

EXAMPLES = r"""
- name: What would it cost?
  digitalocean_offer_info:
    region: fra1
    image: debian-13-x64
  delegate_to: localhost
  register: offer
"""

RETURN = r"""
email:
  description: Address of the account's owner.
  returned: success
  type: str
droplets_left:
  description: How many more droplets the account may have.
  returned: success
  type: int
size:
  description: >-
    The cheapest size (C(slug), C(memory) in MiB, C(disk) in GiB, C(price_hourly), C(price_monthly) in US dollars).
  returned: success
  type: dict
  sample: {slug: s-1vcpu-512mb-10gb, memory: 512, disk: 10, price_hourly: 0.00595, price_monthly: 4.0}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_info_module, run

SHOWN = ("slug", "memory", "disk", "price_hourly", "price_monthly")


def work(module: AnsibleModule, client: Client) -> Resource:
    slug, region = module.params["image"], module.params["region"]
    account = client.call("GET", "account")["account"]
    image = client.get(f"images/{slug}", "image")
    if image is None or region not in image["regions"]:
        raise ValueError(f"DigitalOcean has no image {slug} in the region {region}")
    fitting = [
        size
        for size in client.get_all("sizes", "sizes")
        if size["available"] and region in size["regions"] and size["disk"] >= image["min_disk_size"]
    ]
    if not fitting:
        raise ValueError(f"DigitalOcean has no size on offer in the region {region}")
    cheapest = min(fitting, key=lambda size: (size["price_hourly"], size["memory"], size["slug"]))
    droplets = client.call("GET", "droplets", query={"per_page": 1})["meta"]["total"]
    return {
        "changed": False,
        "email": account["email"],
        "droplets_left": account["droplet_limit"] - droplets,
        "size": {name: cheapest[name] for name in SHOWN},
    }


def main() -> None:
    spec = {"region": {"type": "str", "required": True}, "image": {"type": "str", "required": True}}
    run(make_info_module(spec), work)


if __name__ == "__main__":
    main()
