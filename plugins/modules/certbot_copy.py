#!/usr/bin/python
"""Ansible module: what certbot holds of one certificate, to be carried away, or to be brought back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certbot_copy
short_description: Carries certbot's certificate and ACME accounts away, or brings them back
description:
  - The droplet's end of M(saved_certificate) and M(certbot_certificate), which call it. Used by itself it would show
    the private key to whoever reads the result.
options:
  name:
    description: Name of the certificate for certbot.
    type: str
    required: true
  content:
    description: Whether to return the files and not only their digest.
    type: bool
    default: false
  restore:
    description:
      - Files to bring back, as RV(content) returned them. What is not certbot's of this name is refused, and nothing is
        written then.
    type: str
attributes:
  check_mode:
    description: Brings nothing back then.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: Whether certbot holds another certificate than yesterday
  certbot_copy:
    name: sbc.example.com
"""

RETURN = r"""
digest:
  description: The same for the same files; empty if there is no certificate of this name.
  returned: success
  type: str
issued:
  description: Names and begin (seconds) of certbot's certificates of this name that began in the last 8 days.
  returned: when nothing is brought back
  type: list
  elements: dict
content:
  description: A compressed tar of the files, in base64; null if there is no certificate of this name.
  returned: with O(content)
  type: str
"""

import base64
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.certbot_lineage import collect, digest, issuances, pack, restore, unpack

LETSENCRYPT = "/etc/letsencrypt"
# Longer than the authorities' limits look back.
REMEMBERED = 8 * 86400.0


def main() -> None:
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "content": {"type": "bool", "default": False},
            "restore": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    name, packed = module.params["name"], module.params["restore"]
    try:
        if packed:
            entries = unpack(base64.b64decode(packed, validate=True), name)
            if not module.check_mode:
                restore(LETSENCRYPT, entries)
            module.exit_json(changed=True, digest=digest(entries))
        entries = collect(LETSENCRYPT, name)
        result = {
            "digest": digest(entries),
            "issued": list(issuances(LETSENCRYPT, name, time.time() - REMEMBERED)),
        }
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the certificate {name} below {LETSENCRYPT}: {error}")
    if module.params["content"]:
        result["content"] = base64.b64encode(pack(entries)).decode() if entries else None
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
