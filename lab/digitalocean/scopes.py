"""What a token with custom scopes may do and see.

Each call's scopes are those of the published contract (`security` of an operation, "Requires ... scope" of a field):
https://docs.digitalocean.com/reference/api/scopes/. A call without its scopes is refused before anybody looks at what
it asks for; a field without its scope is empty in the answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError

_NOUNS = {
    "account": "account",
    "actions": "actions",
    "domains": "domain",
    "droplets": "droplet",
    "firewalls": "firewall",
    "images": "image",
    "projects": "project",
    "regions": "regions",
    "reserved_ips": "reserved_ip",
    "sizes": "sizes",
    "snapshots": "snapshot",
    "tags": "tag",
}
_VERBS = {"GET": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
# By the last word of the path: what differs from the rule that a method has its verb and a path its first word's noun.
_EXCEPTIONS = {
    ("POST", "actions"): ("update",),
    ("POST", "members"): ("update",),
    ("DELETE", "members"): ("update",),
    ("POST", "rules"): ("update",),
    ("DELETE", "rules"): ("update",),
    # Either of them is enough.
    ("POST", "records"): ("create", "update"),
    ("DELETE", "record"): ("delete", "update"),
}


def alternatives(method: str, path: str) -> list[set[str]]:
    """Sets of scopes, each of which admits a call; `path` is its route's, like /v2/droplets/{droplet}/actions."""
    first, *rest = path.removeprefix("/v2/").split("/")
    words = [word.strip("{}") for word in rest]
    if first == "account" and words:
        return [{f"ssh_key:{_VERBS[method]}"}]
    if words[-1:] == ["firewalls"]:
        return [{"firewall:read"}]
    if words[-1:] == ["status"]:
        return [{"droplet:delete"}]
    if first == "projects" and words[-1:] == ["resources"] and method == "POST":
        return [{"project:assign_resource"}, {"project:update"}]
    if first == "snapshots" and words and method == "DELETE":
        return [{"image:delete", "snapshot:delete"}]
    if first == "sizes":
        return [{"sizes:read", "regions:read"}]
    verbs = _EXCEPTIONS.get((method, words[-1]), (_VERBS[method],)) if words else (_VERBS[method],)
    return [{f"{_NOUNS[first]}:{verb}"} for verb in verbs]


def of_body(path: str, body: Any) -> set[str]:
    """The scopes that the fields of a request ask for beside the call's own."""
    if not isinstance(body, dict):
        return set()
    needed = set()
    if path in ("/v2/droplets", "/v2/firewalls") and body.get("tags"):
        needed.add("tag:create")
    if path == "/v2/droplets" and body.get("ssh_keys"):
        needed.add("ssh_key:read")
    if path.startswith("/v2/droplets/") and body.get("type") == "snapshot":
        needed.add("image:create")
    return needed


def check(scopes: Collection[str], method: str, path: str, body: Any) -> None:
    """Raises ApiError 403 if a token with these scopes may not make this call."""
    own = alternatives(method, path)
    if not any(each <= set(scopes) for each in own) or not of_body(path, body) <= set(scopes):
        raise ApiError(403, "Forbidden", "You are not authorized to perform this operation")


def visible(scopes: Collection[str], answer: JSON) -> JSON:
    """An answer without what these scopes do not show: tags, the droplet of a reserved IP, the project of anything."""
    return {name: _without(scopes, value) for name, value in answer.items()}


def _without(scopes: Collection[str], value: Any) -> Any:
    if isinstance(value, list):
        return [_without(scopes, each) for each in value]
    if not isinstance(value, dict):
        return value
    seen = {name: _without(scopes, each) for name, each in value.items()}
    if "tag:read" not in scopes and isinstance(seen.get("tags"), list):
        seen["tags"] = []
    if "droplet:read" not in scopes:
        seen |= {name: empty for name, empty in (("droplet", None), ("droplet_ids", [])) if name in seen}
    if "project:read" not in scopes:
        seen.pop("project_id", None)
    return seen
