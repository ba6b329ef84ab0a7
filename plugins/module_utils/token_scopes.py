"""Which scopes a token has, asked of the API so that nothing is made: the API itself has no list of them.

DigitalOcean looks at the scopes of a token before it carries anything out: a token without the scope of a call is
answered 403. So the questions here are about what does not exist, or order what cannot be had, and only a 403 counts;
whatever else is answered, the scope was no obstacle. Should DigitalOcean ever look at the request first, a scope that
is missing stays unnoticed here, and the task that needs it says so. The scopes are those of DigitalOcean's API
description (`security` of each operation; https://docs.digitalocean.com/reference/api/scopes/, read November 2026).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from ansible.module_utils.digitalocean import ApiError, Client, Resource

# Numbers that nothing of an account has, and names that nothing can have.
_NOTHING = "00000000-0000-0000-0000-000000000000"
_NO_TAG = "tags/sbc:preflight:none/resources"
_NO_ADDRESS = "192.0.2.1"  # RFC 5737: never in use
_NO_KEY = ":".join(["00"] * 16)
_RULE = {"protocol": "tcp", "ports": "none", "sources": {"addresses": ["192.0.2.0/24"]}}


@dataclass(frozen=True)
class Question:
    """A call that needs a scope and makes nothing."""

    scope: str
    method: str
    path: str
    body: Resource | None = None


# What a module reads that says what an account may have.
OFFERING = (
    Question("account:read", "GET", "account"),
    Question("droplet:read", "GET", "droplets?per_page=1"),
    Question("image:read", "GET", "images?per_page=1"),
    Question("regions:read", "GET", "regions?per_page=1"),
    Question("sizes:read", "GET", "sizes?per_page=1"),
)
READING = (
    Question("actions:read", "GET", "actions?per_page=1"),
    Question("firewall:read", "GET", "firewalls?per_page=1"),
    Question("ssh_key:read", "GET", "account/keys?per_page=1"),
    # Without it droplets are shown as if they had no tags.
    Question("tag:read", "GET", "tags?per_page=1"),
)
WRITING = (
    Question(
        "droplet:create",
        "POST",
        "droplets",
        {"name": "sbc-preflight", "region": "none", "size": "none", "image": "none"},
    ),
    Question("droplet:update", "POST", "droplets/1/actions", {"type": "power_on"}),
    Question("firewall:create", "POST", "firewalls", {"name": "sbc-preflight", "inbound_rules": [_RULE]}),
    Question("firewall:update", "PUT", f"firewalls/{_NOTHING}", {"name": "sbc-preflight", "inbound_rules": [_RULE]}),
    Question("ssh_key:create", "POST", "account/keys", {"name": "sbc-preflight", "public_key": "none"}),
    Question("tag:create", "POST", _NO_TAG, {"resources": []}),
    Question("tag:delete", "DELETE", _NO_TAG, {"resources": []}),
)
RESERVING = (
    Question("reserved_ip:create", "POST", "reserved_ips", {"region": "none"}),
    Question("reserved_ip:update", "POST", f"reserved_ips/{_NO_ADDRESS}/actions", {"type": "unassign"}),
)
FILING = (Question("project:assign_resource", "POST", f"projects/{_NOTHING}/resources", {"resources": []}),)
DESTROYING = (Question("droplet:delete", "GET", "droplets/1/destroy_with_associated_resources/status"),)
CLEARING = (Question("firewall:delete", "DELETE", f"firewalls/{_NOTHING}"),)
FORGETTING = (Question("ssh_key:delete", "DELETE", f"account/keys/{_NO_KEY}"),)
SNAPSHOTTING = (
    # It is named beside the description of the call, whose own scope is droplet:update.
    Question("image:create", "POST", "droplets/1/actions", {"type": "snapshot", "name": "sbc-preflight"}),
    Question("image:update", "PUT", "images/0", {"name": "sbc-preflight"}),
    Question("image:delete", "DELETE", "images/0"),
)
ZONES = Question("domain:read", "GET", "domains?per_page=1")

VARIABLE = "DIGITALOCEAN_ACCESS_TOKEN"
REMEDY = "make a token that has them, too, or one with full access (the README lists all scopes that are needed)"


def naming(domain: str) -> Question:
    """Whether the records of a domain may be changed, which includes making and deleting them."""
    return Question("domain:update", "PUT", f"domains/{domain}/records/1", {"type": "A"})


def missing(client: Client, questions: Iterable[Question]) -> Iterator[str]:
    """The scopes that the token has not. Raises ApiError when the API answers none of the two."""
    for question in questions:
        try:
            client.call(question.method, question.path, question.body, repeatable=True)
        except ApiError as error:
            if error.status == HTTPStatus.FORBIDDEN:
                yield question.scope
            elif error.status == HTTPStatus.UNAUTHORIZED or error.unsettled:
                raise


def lack(scopes: Iterable[str], endpoint: str) -> str:
    """What is wrong with a token that has not got these scopes."""
    return f"lacks scopes at {endpoint}: {', '.join(sorted(set(scopes)))}"
