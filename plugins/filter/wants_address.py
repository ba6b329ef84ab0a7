"""Ansible filter: whether a customer is to have a reserved IP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ansible.module_utils

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.digitalocean import wants_address

DOCUMENTATION = r"""
name: wants_address
short_description: Whether a customer is to have a reserved IP
description:
  - Reads C(droplet_reserved_ip) as preflight, the survey and the roles do, also where it was given on the command line
    and so is a text.
positional: _input
options:
  _input:
    description: The value of C(droplet_reserved_ip).
    type: raw
    required: true
author: teams-sbc
"""

EXAMPLES = r"""
reserved: "{{ droplet_reserved_ip | wants_address }}"
"""

RETURN = r"""
_value:
  description: V(true) for an address, and for whatever says yes.
  type: bool
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[[object], bool]]:
        return {"wants_address": wants_address}
