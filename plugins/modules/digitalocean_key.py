#!/usr/bin/python
"""Ansible module: an SSH key in a DigitalOcean account."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_key
short_description: An SSH public key in a DigitalOcean account
description:
  - Makes sure that an account knows an SSH public key, or does not. A key is identified by its fingerprint.
options:
  name:
    description:
      - Label of the key when it is created. A key that exists keeps its own, because customers may share a key.
      - Required with O(state=present).
    type: str
  public_key:
    description: The public key in OpenSSH's format.
    type: str
    required: true
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: The operator's key is in the account
  digitalocean_key:
    name: sbc
    public_key: "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
  delegate_to: localhost
  register: key
"""

RETURN = r"""
fingerprint:
  description: MD5 fingerprint, in check mode too. It can be given to M(digitalocean_droplet).
  returned: success
  type: str
  sample: 3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa
key:
  description: The key as the API shows it (C(id), C(fingerprint), C(name), C(public_key)).
  returned: when it exists
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import SEEN, Client, Resource, fingerprint, make_module, run


def work(module: AnsibleModule, client: Client) -> Resource:
    wanted = {"name": module.params["name"], "public_key": module.params["public_key"].strip()}
    mark = fingerprint(wanted["public_key"])
    path = f"account/keys/{mark}"
    found = client.get(path, "ssh_key")
    present = module.params["state"] == "present"
    if bool(found) == present:
        return {"changed": False, "fingerprint": mark} | ({"key": found} if found else {})

    shown = {name: (found or wanted)[name] for name in wanted} | {"fingerprint": mark}
    result: Resource = {
        "changed": True,
        "fingerprint": mark,
        "diff": {"before": {} if present else shown, "after": shown if present else {}},
    }
    if module.check_mode:
        return result
    if present:
        result["key"] = client.create("account/keys", "ssh_key", wanted, lambda: client.get(path, "ssh_key"))
    else:
        client.delete(path)
    return result


def arguments() -> Resource:
    spec = {"name": {"type": "str"}, "public_key": {"type": "str", "required": True, "no_log": False}} | SEEN
    return {"argument_spec": spec, "required_if": [("state", "present", ["name"])]}


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
