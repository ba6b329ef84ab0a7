#!/usr/bin/python
"""Ansible module: Debian packages in one transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Debian packages in one transaction
description:
  - Makes sure that packages are installed. Those that are missing are installed together, after one look at the
    mirrors.
  - M(ansible.builtin.apt) needs python3-apt on the machine. Where it is missing, it is installed first, in a
    transaction and with a look at the mirrors of its own; on a new machine that is a fifth of the whole time.
options:
  names:
    description: The packages.
    type: list
    elements: str
    required: true
  release:
    description: Version of Debian that the machine must have, such as V(13).
    type: str
    required: true
attributes:
  check_mode:
    description: Changes nothing and says what would be installed.
    support: full
  diff_mode:
    description: Lists the packages.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: The packages, in one transaction
  packages:
    names: [certbot, nftables]
    release: "13"
"""

RETURN = r"""
missing:
  description: The packages that were not installed.
  returned: always
  type: list
  elements: str
"""

import re
from pathlib import Path

from ansible.module_utils.apt import apt, finish_interrupted
from ansible.module_utils.basic import AnsibleModule

OS_RELEASE = Path("/etc/os-release")


def missing_of(names: list[str], listed: str) -> list[str]:
    """Which packages dpkg-query did not list as installed."""
    installed = {
        name for name, status in re.findall(r"^(\S+) (.*)$", listed, flags=re.MULTILINE) if status == "installed"
    }
    return sorted(set(names) - installed)


def main() -> None:
    module = AnsibleModule(
        {
            "names": {"type": "list", "elements": "str", "required": True},
            "release": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    names, release = module.params["names"], module.params["release"]
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', OS_RELEASE.read_text(), flags=re.MULTILINE))
    if (system.get("ID"), system.get("VERSION_ID")) != ("debian", release):
        found = system.get("PRETTY_NAME", "of an unknown kind")
        module.fail_json(msg=f"this machine is {found}, and Debian {release} is needed: see droplet_image")
    _, listed, _ = module.run_command(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *names]
    )
    missing = missing_of(names, listed)
    result = {
        "changed": bool(missing),
        "missing": missing,
        "diff": {"before": "", "after": "".join(f"{name}\n" for name in missing)},
    }
    if missing and not module.check_mode:
        finish_interrupted(module)
        apt(module, "update", **result)
        apt(module, "install", "--no-install-recommends", *missing, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
