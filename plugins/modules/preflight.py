#!/usr/bin/python
"""Documentation of the action plugin preflight, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Checks that what the inventory asks for is possible
description:
  - Reads the variables of all customers of the play and asks their DigitalOcean account, before anything is created,
    and fails with one list of all mistakes; each names variable, value, what is wrong and what to do.
  - Runs once for all hosts of the play, and changes nothing.
  - The API token is each customer's variable C(sbc_api_token), else the environment's E(DIGITALOCEAN_ACCESS_TOKEN).
  - The API's endpoint is the variable C(sbc_api_endpoint). An E(DIGITALOCEAN_END_POINT) in the environment that differs
    from it is a mistake.
options:
  defaults:
    description:
      - YAML files with defaults of roles, for variables that the inventory does not set; a later file wins.
    type: list
    elements: path
    default: []
  clouds:
    description: The Microsoft clouds that are known.
    type: list
    elements: str
    default: [commercial, gcc_high, dod]
  group:
    description: The group whose hosts are customers.
    type: str
    default: sbc
requirements:
  - python-digitalocean >= 1.17
attributes:
  check_mode:
    description: Changes nothing and says what would be changed.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: Preflight
  hosts: all:localhost
  gather_facts: false
  tasks:
    - name: What the inventory asks for is possible
      preflight:
        defaults:
          - "{{ playbook_dir }}/../roles/droplet/defaults/main.yml"
          - "{{ playbook_dir }}/../roles/certificate/defaults/main.yml"
"""

RETURN = r"""
customers:
  description: The customers of this run.
  returned: success
  type: list
  elements: str
without_droplet:
  description: Those that have no droplet yet.
  returned: success
  type: list
  elements: str
mistakes:
  description: The mistakes, one text each.
  returned: failure
  type: list
  elements: str
"""
