#!/usr/bin/python
"""Documentation of the action plugin verdict, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verdict
short_description: Passes only when every destination is AP with evidence
description:
  - Takes the probe's report and what C(kamcmd dispatcher.list) printed, and fails with the one cause, its evidence and
    the next step unless the probe calls the SBC proven and Kamailio shows every destination as AP.
  - It decides nothing of its own about causes; that is the probe's.
  - Says how old the controller's copy of the certificate is, and fails when the droplet has another that could not be
    saved.
options:
  fqdn:
    description: The SBC's name, for a droplet that has no report.
    type: str
    required: true
  address:
    description: The droplet's address; not given where there is no droplet.
    type: str
  report:
    description: What C(sbc-probe check --json) printed, decoded; not given for a droplet that cannot be asked.
    type: dict
  dispatcher:
    description: What C(kamcmd dispatcher.list) printed.
    type: str
    required: true
  why_not:
    description: Why there is no report.
    type: str
    default: ""
  state_dir:
    description: Directory on the controller with the copies of certificates, see M(saved_certificate).
    type: path
    required: true
  certificate:
    description: Whether certbot gets the certificate, or it was brought along and there is no copy of it.
    type: str
    choices: [certbot, files]
    default: certbot
  saved:
    description: The result of M(saved_certificate); empty where the droplet could not be asked.
    type: dict
    default: {}
  accept_waiting:
    description: Whether an SBC that is ready and waits for its trunk at Microsoft passes.
    type: bool
    default: false
  judge:
    description: Whether to fail at all; if not, the verdict is only shown.
    type: bool
    default: true
attributes:
  check_mode:
    description: It changes nothing.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: Every destination is AP, and that is true
  verdict:
    fqdn: "{{ sbc_fqdn }}"
    report: "{{ verify_report.stdout | from_json }}"
    dispatcher: "{{ verify_dispatcher.stdout }}"
    state_dir: "{{ inventory_dir }}/state"
    saved: "{{ certificate_saved }}"
"""

RETURN = r"""
sbc_report:
  description: The report, for whoever shows it.
  returned: always
  type: dict
sbc_copy:
  description: What to show of the controller's copy of the certificate, and what is wrong with it.
  returned: always
  type: dict
  sample: {"shown": "same, 3 days old", "problem": null}
flags:
  description: Kamailio's flags by destination.
  returned: always
  type: dict
  sample: {"sip:sip.pstnhub.microsoft.com:5061;transport=tls": AP}
"""
