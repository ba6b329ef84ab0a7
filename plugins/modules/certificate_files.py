#!/usr/bin/python
"""Documentation of the action plugin certificate_files, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_files
short_description: Gives Kamailio a certificate that was not asked for but brought along
description:
  - Installs a chain and its private key from files on the controller, and lets Kamailio load them when they are others.
  - Neither is ever shown, in a difference or in any other output, nor written to the machine's log.
options:
  chain:
    description: File on the controller with the certificate and its intermediates, PEM.
    type: str
    required: true
  key:
    description: File on the controller with the private key, PEM; either file may be encrypted with ansible-vault.
    type: str
    required: true
  base:
    description: Directory that relative paths start at.
    type: path
    required: true
  password_file:
    description: File with the password of encrypted ones, beside those that ansible-playbook was given.
    type: path
    required: true
  target:
    description: Directory on the machine for C(fullchain.pem) and C(privkey.pem).
    type: path
    required: true
  reload:
    description: Shell command that puts them in force. It is run until it succeeds, by later runs too.
    type: str
    required: true
attributes:
  check_mode:
    description: Changes nothing and says whether something would be changed.
    support: full
  diff_mode:
    description: Names the files, and does not show them.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: The customer's own certificate
  certificate_files:
    chain: certificates/contoso.pem
    key: certificates/contoso.key
    base: "{{ inventory_dir }}"
    password_file: ~/.config/teams-sbc/vault-password
    target: /etc/kamailio/tls
    reload: kamcmd tls.reload | grep ^Ok
"""

RETURN = r"""
changed_files:
  description: The files on the machine that were, or would be, replaced.
  returned: success
  type: list
  elements: str
"""
