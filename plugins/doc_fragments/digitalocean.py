"""What the documentation of all digitalocean modules has in common."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description: Whether it shall exist.
    type: str
    choices: [present, absent]
    default: present
  token:
    description: The API token. If not given, the environment's E(DIGITALOCEAN_ACCESS_TOKEN) is used.
    type: str
    required: true
requirements:
  - python-digitalocean >= 1.17
attributes:
  check_mode:
    description: Changes nothing and says what would be changed.
    support: full
  diff_mode:
    description: Shows what is, or would be, changed.
    support: full
notes:
  - Runs on the controller, with C(delegate_to=localhost).
  - The API's endpoint comes from the environment's E(DIGITALOCEAN_END_POINT); without it, production is used.
  - GET, PUT and DELETE are repeated after an answer of 5xx or none. What was created is looked up before its creation
    is repeated. A rate limit (429) is waited out for up to two minutes.
  - A failure returns RV(ignore:error) with C(method), C(path), C(status), C(id), C(message) and C(request_id).
"""

    # Of modules that only look.
    INFO = r"""
options:
  token:
    description: The API token. If not given, the environment's E(DIGITALOCEAN_ACCESS_TOKEN) is used.
    type: str
    required: true
requirements:
  - python-digitalocean >= 1.17
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is never a difference to show.
    support: none
notes:
  - Runs on the controller, with C(delegate_to=localhost).
  - The API's endpoint comes from the environment's E(DIGITALOCEAN_END_POINT); without it, production is used.
  - GET is repeated after an answer of 5xx or none. A rate limit (429) is waited out for up to two minutes.
  - A failure returns RV(ignore:error) with C(method), C(path), C(status), C(id), C(message) and C(request_id).
"""

    # Of modules that believe a survey.
    SEEN = r"""
options:
  seen:
    description:
      - What M(digitalocean_customers_info) saw of this customer. With O(state=present), nothing is asked where it shows
        that all is as it should be; everything else is looked at anew, and only that counts.
    type: dict
"""
