#!/usr/bin/python
"""Documentation of the action plugin digitalocean_customers_info, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_customers_info
short_description: What the accounts hold of all customers of the play
description:
  - Lists droplets, cloud firewalls, SSH keys and DNS records of the customers' accounts, 200 of a kind for each call,
    so that a whole fleet is looked at with a handful of calls. Reserved addresses, projects and the policies of
    backups are listed where a customer wants them.
  - The other modules take a customer's part as O(digitalocean_droplet#module:seen), and ask nothing where it shows that
    all is as it should be.
  - Runs once for all hosts of the play, and changes nothing. With C(run_once), all of them have what it registers.
  - An account that does not answer is no failure of this task. The modules that are given RV(customers.error) fail
    with it, so that customers of other accounts go on and nobody asks that account again for each customer.
  - The API token is each customer's variable C(sbc_api_token), the API's endpoint its C(sbc_api_endpoint).
options:
  defaults:
    description:
      - YAML files with what the product itself says of its variables, such as a role's defaults; the inventory's values
        have precedence, and a later file wins over an earlier one. A relative path starts at the playbook.
    type: list
    elements: path
    required: true
  group:
    description: The group whose hosts are customers.
    type: str
    default: sbc
requirements:
  - python-digitalocean >= 1.17
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: Provision
  hosts: sbc
  gather_facts: false
  pre_tasks:
    - name: What the accounts hold already
      digitalocean_customers_info:
        defaults: [../roles/sbc/defaults/main.yml, ../roles/droplet/defaults/main.yml]
      register: survey
      run_once: true
  tasks:
    - name: The customer has a droplet
      digitalocean_droplet:
        customer: "{{ inventory_hostname }}"
        name: "{{ sbc_fqdn }}"
        region: fra1
        size: s-1vcpu-1gb
        image: debian-13-x64
        seen: "{{ survey.customers[inventory_hostname] }}"
      delegate_to: localhost
"""

RETURN = r"""
customers:
  description:
    - By customer, what concerns it of each list, as the API shows it, by the list's path (C(droplets), C(firewalls),
      C(account/keys), C(domains/DOMAIN/records), C(reserved_ips), C(projects), C(projects/ID/resources)), and the
      policies of C(droplets/backups/policies) by the droplet's number. A list that nobody asked for is missing.
    - Or C(error), one sentence, where the account could not be asked.
  returned: success
  type: dict
  sample:
    contoso: {droplets: [], firewalls: [], account/keys: [], domains/example.com/records: []}
"""
