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
options:
  report:
    description: What C(sbc-probe check --json) printed, decoded.
    type: dict
    required: true
  dispatcher:
    description: What C(kamcmd dispatcher.list) printed.
    type: str
    required: true
  accept_waiting:
    description: Whether an SBC that is ready and waits for its trunk at Microsoft passes.
    type: bool
    default: false
attributes:
  check_mode:
    description: It changes nothing.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: Every destination is AP, and that is true
  verdict:
    report: "{{ verify_report.stdout | from_json }}"
    dispatcher: "{{ verify_dispatcher.stdout }}"
"""

RETURN = r"""
sbc_report:
  description: The report, for whoever shows it.
  returned: always
  type: dict
flags:
  description: Kamailio's flags by destination.
  returned: always
  type: dict
  sample: {"sip:sip.pstnhub.microsoft.com:5061;transport=tls": AP}
"""
