#!/usr/bin/python
"""Documentation of the action plugin saved_certificate, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: saved_certificate
short_description: Keeps a copy of certbot's certificate and ACME accounts on the controller
description:
  - Compares what certbot holds on the machine with the copy on the controller, and copies it if it is another.
  - The copy is encrypted with ansible-vault and replaced at once, so that a killed run leaves the old one or the new
    one. Nothing secret is shown, however verbose the run is, and nothing secret is written to the machine's log.
  - A machine that holds no certificate of this name leaves the copy as it is.
  - Beside the copy, C(certificate.json) says of which certificate it is, and what was asked for when.
options:
  name:
    description: Name of the certificate for certbot.
    type: str
    required: true
  state_dir:
    description:
      - Directory on the controller that holds what is kept of all hosts of the inventory; the copy is
        C(HOST/certificate.vault) below it.
    type: path
    required: true
  password_file:
    description: >-
      File on the controller with the password of the copies, or a program that prints it. It is made, with a random
      password, where neither it nor any copy exists.
    type: path
    required: true
  strict:
    description: Whether it is a failure if the copy cannot be made; otherwise RV(problem) says why.
    type: bool
    default: true
attributes:
  check_mode:
    description: Changes nothing and says whether the copy is still the same.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: The copy is what the droplet has
  saved_certificate:
    name: sbc.example.com
    state_dir: "{{ inventory_dir }}/state"
    password_file: ~/.config/teams-sbc/vault-password
"""

RETURN = r"""
present:
  description: Whether the machine holds a certificate of this name.
  returned: success
  type: bool
same:
  description: Whether the copy is what the machine has.
  returned: success
  type: bool
saved_at:
  description: When the copy was made; null if there is none.
  returned: success
  type: str
problem:
  description: Why the copy could not be made; null if there is no reason.
  returned: success
  type: str
"""
