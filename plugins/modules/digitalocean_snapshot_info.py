#!/usr/bin/python
"""Ansible module: the golden images of a DigitalOcean account."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_snapshot_info
short_description: The golden images of a DigitalOcean account
description:
  - Lists the snapshots that C(playbooks/snapshot.yml) has made, and says which of them a new droplet would start from.
    M(digitalocean_droplet) chooses by the same rules.
options:
  image:
    description: Slug of the image that is wanted, which a golden one was built on.
    type: str
    required: true
  packages:
    description: The packages that shall be in it.
    type: list
    elements: str
    required: true
  region:
    description: Slug of the region where droplets are to start from it.
    type: str
    required: true
extends_documentation_fragment: digitalocean.info
author: teams-sbc
"""

EXAMPLES = r"""
- name: What there is
  digitalocean_snapshot_info:
    image: debian-13-x64
    packages: [kamailio, certbot]
    region: fra1
  delegate_to: localhost
  register: golden
"""

RETURN = r"""
images:
  description: All golden images of the account, the newest first.
  returned: success
  type: list
  elements: dict
  contains:
    id: {description: "Its number, by which a droplet can be created from it.", type: int}
    name: {description: Its name., type: str}
    base: {description: Slug of the image that it was built on., type: str}
    mark: {description: "What stands for its base and its packages, see RV(mark).", type: str}
    created_at: {description: When it was made (ISO 8601)., type: str}
    regions: {description: Slugs of the regions where droplets can start from it., type: list, elements: str}
    min_disk: {description: "The smallest disk, in GiB, that a droplet may have to start from it.", type: int}
    available: {description: Whether droplets can start from it now., type: bool}
    proven: {description: Whether a droplet was started from it and found right., type: bool}
    fits: {description: "Whether it is of O(image), with O(packages) in it, and available in O(region).", type: bool}
  sample:
    - id: 119192817
      name: sbc-golden-debian-13-x64-4be1a09dd2c7-20261120T100000Z
      base: debian-13-x64
      mark: 4be1a09dd2c7
      created_at: "2026-11-20T10:03:12Z"
      regions: [fra1]
      min_disk: 25
      available: true
      proven: true
      fits: true
newest:
  description: The newest that fits and is proven, which a new droplet starts from if its disk is large enough.
  returned: if there is one
  type: dict
mark:
  description: Twelve hexadecimal digits that stand for O(image) and O(packages); part of the name.
  returned: success
  type: str
  sample: 4be1a09dd2c7
tag:
  description: The tag that golden images of O(image) with O(packages) carry once they are proven.
  returned: success
  type: str
  sample: sbc:golden:4be1a09dd2c7
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_info_module, run
from ansible.module_utils.golden_images import TAG_PREFIX, golden_images, mark


def work(module: AnsibleModule, client: Client) -> Resource:
    wanted = mark(module.params["image"], module.params["packages"])
    images = golden_images(client.get_all("images", "images", private="true"))
    fitting = [image for image in images if image.fits(wanted, module.params["region"])]
    newest = next((image for image in fitting if image.proven), None)
    return {
        "changed": False,
        "images": [asdict(image) | {"fits": image in fitting} for image in images],
        "mark": wanted,
        "tag": TAG_PREFIX + wanted,
    } | ({"newest": asdict(newest)} if newest else {})


def main() -> None:
    spec = {
        "image": {"type": "str", "required": True},
        "packages": {"type": "list", "elements": "str", "required": True},
        "region": {"type": "str", "required": True},
    }
    run(make_info_module(spec), work)


if __name__ == "__main__":
    main()
