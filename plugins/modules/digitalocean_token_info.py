#!/usr/bin/python
"""Ansible module: whether a token may do what it takes to make a droplet and destroy it again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_token_info
short_description: Whether a token may do what it takes to make a droplet and destroy it again
description:
  - Asks the API questions that need a scope, and can make, change or remove nothing, such as for a droplet of a size
    that does not exist. Fails with all scopes at once that are missing for a droplet, its key, firewall and tags, and
    for their removal.
  - In check mode, only what reads is asked.
options:
  domain:
    description: Whether records of this domain are made and removed, too.
    type: str
  ssh_keys:
    description: Whether the SSH key is removed from the account, too.
    type: bool
    default: false
  snapshots:
    description: Whether snapshots are made and removed, too.
    type: bool
    default: false
extends_documentation_fragment: digitalocean.info
author: teams-sbc
"""

EXAMPLES = r"""
- name: It may, or nothing is made
  digitalocean_token_info:
    domain: example.com
  delegate_to: localhost
"""

RETURN = r"""
asked:
  description: The scopes that were asked for, and that the token has.
  returned: success
  type: list
  elements: str
  sample: [account:read, droplet:read]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_info_module, run
from ansible.module_utils.token_scopes import (
    CLEARING,
    DESTROYING,
    FORGETTING,
    OFFERING,
    READING,
    REMEDY,
    SNAPSHOTTING,
    VARIABLE,
    WRITING,
    ZONES,
    lack,
    missing,
    naming,
)


def work(module: AnsibleModule, client: Client) -> Resource:
    domain = module.params["domain"]
    questions = [*OFFERING, *READING, *([ZONES] if domain else [])]
    if not module.check_mode:
        questions += [*WRITING, *DESTROYING, *CLEARING]
        questions += [naming(domain)] if domain else []
        questions += FORGETTING if module.params["ssh_keys"] else ()
        questions += SNAPSHOTTING if module.params["snapshots"] else ()
    if found := list(missing(client, questions)):
        raise ValueError(f"Nothing was made: {VARIABLE} {lack(found, client.end_point)}; {REMEDY}")
    return {"changed": False, "asked": [each.scope for each in questions]}


def main() -> None:
    spec = {
        "domain": {"type": "str"},
        "ssh_keys": {"type": "bool", "default": False, "no_log": False},
        "snapshots": {"type": "bool", "default": False},
    }
    run(make_info_module(spec), work)


if __name__ == "__main__":
    main()
