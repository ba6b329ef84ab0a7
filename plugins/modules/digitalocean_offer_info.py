#!/usr/bin/python
"""Ansible module: the droplet that an account could get in a region."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_offer_info
short_description: The droplet that an account could get in a region
description:
  - Says whose account it is, how many more droplets it may have, and which size that an image fits on is the cheapest
    in a region, or what a certain one is. Fails where there is none. Changes nothing.
options:
  region:
    description: Slug of the region.
    type: str
    required: true
  image:
    description: Slug of the image.
    type: str
    required: true
  size:
    description: Slug of the size; the cheapest, if it is not given.
    type: str
  customer:
    description: Droplets of this customer do not count, since they go before another is made.
    type: str
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
    The size (C(slug), C(memory) in MiB, C(disk) in GiB, C(price_hourly), C(price_monthly) in US dollars).
  returned: success
  type: dict
  sample: {slug: s-1vcpu-512mb-10gb, memory: 512, disk: 10, price_hourly: 0.00595, price_monthly: 4.0}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, customer_tag, make_info_module, run

SHOWN = ("slug", "memory", "disk", "price_hourly", "price_monthly")


def work(module: AnsibleModule, client: Client) -> Resource:
    slug, region, wanted = (module.params[each] for each in ("image", "region", "size"))
    account = client.call("GET", "account")["account"]
    image = client.get(f"images/{slug}", "image")
    if image is None or region not in image["regions"]:
        raise ValueError(f"DigitalOcean has no image {slug} in the region {region}: choose another image or region")
    fitting = [
        size
        for size in client.get_all("sizes", "sizes")
        if wanted in (None, size["slug"])
        and size["available"]
        and region in size["regions"]
        and size["disk"] >= image["min_disk_size"]
    ]
    if not fitting:
        what = f"{wanted} is not a size" if wanted else "there is no size"
        raise ValueError(f"{what} that DigitalOcean offers in the region {region} and {slug} fits on: choose another")
    cheapest = min(fitting, key=lambda size: (size["price_hourly"], size["memory"], size["slug"]))
    droplets = client.call("GET", "droplets", query={"per_page": 1})["meta"]["total"]
    if module.params["customer"]:
        droplets -= len(client.get_all("droplets", "droplets", tag_name=customer_tag(module.params["customer"])))
    return {
        "changed": False,
        "email": account["email"],
        "droplets_left": account["droplet_limit"] - droplets,
        "size": {name: cheapest[name] for name in SHOWN},
    }


def main() -> None:
    spec = {
        "region": {"type": "str", "required": True},
        "image": {"type": "str", "required": True},
        "size": {"type": "str"},
        "customer": {"type": "str"},
    }
    run(make_info_module(spec), work)


if __name__ == "__main__":
    main()
