#!/usr/bin/python
"""Ansible module: tags of a DigitalOcean account."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_tags
short_description: Tags of a DigitalOcean account
description:
  - Makes sure that tags exist in an account, or do not.
  - Deleting a tag takes it off whatever carries it, and deletes nothing else.
options:
  names:
    description: The tags; each of letters, digits, C(:), C(-) and C(_), 255 characters at most.
    type: list
    elements: str
    required: true
extends_documentation_fragment: digitalocean
author: teams-sbc
"""

EXAMPLES = r"""
- name: The customer's tags exist
  digitalocean_tags:
    names: [sbc, "sbc:customer:{{ inventory_hostname }}"]
  delegate_to: localhost
"""

RETURN = r"""
created:
  description: The tags that did not exist before.
  returned: with state=present
  type: list
  elements: str
deleted:
  description: The tags that existed before.
  returned: with state=absent
  type: list
  elements: str
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_module, run

TAG = re.compile(r"[a-zA-Z0-9_:-]{1,255}")


def work(module: AnsibleModule, client: Client) -> Resource:
    names = list(dict.fromkeys(module.params["names"]))
    if wrong := [name for name in names if not TAG.fullmatch(name)]:
        raise ValueError(f"cannot be a tag (letters, digits, ':', '-' and '_' only): {', '.join(map(repr, wrong))}")
    existing = [name for name in names if client.get(f"tags/{name}", "tag")]
    present = module.params["state"] == "present"
    concerned = [name for name in names if (name in existing) != present]
    if not module.check_mode:
        for name in concerned:
            if present:
                client.ensure_tag(name)
            else:
                client.delete(f"tags/{name}")
    return {
        "changed": bool(concerned),
        "created" if present else "deleted": concerned,
        "diff": {"before": {"tags": existing}, "after": {"tags": names if present else []}},
    }


def main() -> None:
    run(make_module({"names": {"type": "list", "elements": "str", "required": True}}), work)


if __name__ == "__main__":
    main()
