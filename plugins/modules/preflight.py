#!/usr/bin/python
"""Documentation of the action plugin preflight, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Checks that what the inventory asks for is possible
description:
  - Reads the variables of all customers of the play and asks their DigitalOcean account, before anything is created,
    and fails with one list of all mistakes; each names variable, value, what is wrong and what to do.
  - Warns of a customer that asked for so many certificates in the last 7 days that the authority may refuse the next.
  - Judges a certificate of the customer's own (C(sbc_certificate_files)) by the probe's rules.
  - Counts what is to be made against the account's limits of droplets and reserved IPs.
  - Names the scopes that the token lacks. Where something is to be made it also asks, though not in check mode, whether
    the token may write; these questions are about things that do not exist or cannot be had, so that nothing is made.
  - Runs once for all hosts of the play, and changes nothing.
  - The API token is each customer's variable C(sbc_api_token), else the environment's E(DIGITALOCEAN_ACCESS_TOKEN).
  - The API's endpoint is the variable C(sbc_api_endpoint). An E(DIGITALOCEAN_END_POINT) in the environment that differs
    from it is a mistake.
options:
  defaults:
    description:
      - YAML files with what the product itself says of its variables, such as a role's defaults; the inventory's values
        have precedence, and a later file wins over an earlier one. A relative path starts at the playbook.
      - One of them must have C(sbc_clouds), whose keys are the Microsoft clouds that are known.
    type: list
    elements: path
    required: true
  group:
    description: The group whose hosts are customers.
    type: str
    default: sbc
  beside:
    description:
      - How many droplets the run builds beside those that customers have, at a time. A replacement builds one.
    type: int
    default: 0
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
          - ../roles/sbc/vars/main/clouds.yml
          - ../roles/sbc/vars/main/derived.yml
          - ../roles/sbc/defaults/main.yml
          - ../roles/droplet/defaults/main.yml
          - ../roles/certificate/defaults/main.yml
          - ../roles/certificate/vars/main.yml
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
"""
