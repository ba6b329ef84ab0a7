"""What breaks DigitalOcean's document and is right all the same: each with its name and its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.contract.validator import Violation


@dataclass(frozen=True)
class Waiver:
    """Excuses the violations of one side whose problem, operation and client match in full, under one fault."""

    name: str
    reason: str
    side: str
    problem: str
    operation: str = ".*"
    user_agent: str = ".*"
    fault: str | None = None

    def excuses(self, violation: Violation) -> bool:
        return (
            violation.side == self.side
            and bool(re.fullmatch(self.problem, violation.problem, re.DOTALL))
            and bool(re.fullmatch(self.operation, violation.operation))
            and bool(re.fullmatch(self.user_agent, violation.exchange.user_agent))
            and self.fault in (None, violation.exchange.fault)
        )


WAIVERS = (
    Waiver(
        "records without flags and tag",
        "The document asks TXT and NS records for `flags` and `tag`, which CAA records alone have; its own examples of"
        " the others send null or nothing.",
        "request",
        r"body: '(flags|tag)' is a required property",
        r"(POST|PUT|PATCH) /v2/domains/{domain_name}/records.*",
    ),
    Waiver(
        "keys named in a path",
        "Number and fingerprint of a key are read-only in the document, and it uses the same schema for the path that"
        " names a key, where openapi-core then refuses them.",
        "request",
        r"path ssh_key_identifier: Tried to write read-only property .*",
        r"\w+ /v2/account/keys/{ssh_key_identifier}",
    ),
    Waiver(
        "change_backup_policy",
        "The document describes this action of a droplet, and its list of the types of actions lacks it.",
        "request",
        r"body\.type: 'change_backup_policy' is not one of .*",
        r"POST /v2/droplets/{droplet_id}/actions",
    ),
    Waiver(
        "imgages",
        "The document misspells `images` among a tag's resources.",
        "answer",
        r"body\.(tag|tags\[\d+\])\.resources\.images is unknown",
        r"(GET|POST) /v2/tags.*",
    ),
    Waiver(
        "errors in two shapes",
        "The document gives the status 400 a shape of its own for some operations, and the one of all other errors for"
        " the rest; the lab answers with both at once.",
        "answer",
        r"body\.(id|message|request_id|error|messages|root_causes) is unknown",
    ),
    Waiver(
        "a gateway's page",
        "What stands before the API answers in HTML when the API does not; the document speaks of the API only.",
        "answer",
        r".*mimetype not found: text/html.*",
        fault="502html",
    ),
    Waiver(
        "python-digitalocean's bodies",
        "The library, which certbot-dns-digitalocean uses too, asks for a number per page of what has no pages, sends"
        " `{}` with DELETE, null as the VPC of a droplet, and `tags` for a record's `tag`. The product builds its"
        " bodies itself.",
        "request",
        r"query: per_page is unknown|body: the document has none|body\.tags is unknown|body\.vpc_uuid: None .*",
        user_agent=r"python-digitalocean/.*",
    ),
)
