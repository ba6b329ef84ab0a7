"""Cloud firewalls: documents in the API's shape, and what they come to for one droplet."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError, not_found, unprocessable
from lab.digitalocean.machines import FirewallRules, PortRule

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]+")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_ALL_PORTS = "0"
_LAST_PORT = 65535
_DIRECTIONS = {"inbound_rules": "sources", "outbound_rules": "destinations"}
_PEERS = ("addresses", "tags", "droplet_ids")
RULES = tuple(_DIRECTIONS)


class Firewalls:
    """Firewalls by id. Methods raise ApiError: 404 for what is not there, 409 and 422 for what the API refuses."""

    def __init__(self) -> None:
        self._documents: dict[str, JSON] = {}
        self._by_tag: dict[str, set[str]] = {}
        self._by_droplet: dict[int, set[str]] = {}
        self._naming: set[str] = set()
        self._changed_ids: set[int] = set()
        self._changed_tags: set[str] = set()

    @property
    def name_droplets(self) -> bool:
        """Whether a rule anywhere admits tags or droplets, so that a change of one droplet may concern all."""
        return bool(self._naming)

    def changed(self) -> tuple[set[int], set[str]]:
        """The droplets and the tags that firewalls which have changed since the last call select, or selected."""
        changed = self._changed_ids, self._changed_tags
        self._changed_ids, self._changed_tags = set(), set()
        return changed

    def documents(self) -> list[JSON]:
        return list(self._documents.values())

    def get(self, id: str) -> JSON:
        if id not in self._documents:
            raise not_found()
        return self._documents[id]

    def create(self, body: JSON, now: str, tags: Collection[str], droplet_ids: Collection[int]) -> JSON:
        """Make a firewall; its tags and droplets must exist already."""
        document = {
            "id": str(uuid.uuid4()),
            "status": "succeeded",
            "created_at": now,
            "pending_changes": [],
            **self._fields(body, tags, droplet_ids),
        }
        self._documents[document["id"]] = document
        self._index(document)
        return document

    def replace(self, id: str, body: JSON, tags: Collection[str], droplet_ids: Collection[int]) -> JSON:
        """Put a whole new text in place; what is not given becomes empty."""
        document = self.get(id)
        fields = self._fields(body, tags, droplet_ids, itself=id)
        self._unindex(document)
        document.update(fields)
        self._index(document)
        return document

    def delete(self, id: str) -> None:
        self._unindex(self.get(id))
        del self._documents[id]

    def add(self, id: str, field: str, values: list[Any]) -> None:
        """Add to droplet_ids, tags, inbound_rules or outbound_rules what is not there yet."""
        document = self.get(id)
        have = document[field]
        have += [value for value in values if value not in have]
        self._index(document)

    def remove(self, id: str, field: str, values: list[Any]) -> None:
        document = self.get(id)
        self._unindex(document)
        document[field] = [value for value in document[field] if value not in values]
        self._index(document)

    def forget_droplet(self, droplet_id: int) -> None:
        for id in list(self._by_droplet.get(droplet_id, ())):
            self.remove(id, "droplet_ids", [droplet_id])

    def forget_tag(self, tag: str) -> None:
        for id in list(self._by_tag.get(tag, ())):
            self.remove(id, "tags", [tag])

    def selecting(self, droplet_id: int, tags: Collection[str]) -> list[JSON]:
        """The firewalls that select a droplet by id or tag, in the order of their making."""
        ids = self._by_droplet.get(droplet_id, set()).union(*(self._by_tag.get(tag, ()) for tag in tags))
        return [self._documents[id] for id in (ids if len(ids) < 2 else self._documents) if id in ids]

    def effective(
        self, droplet_id: int, tags: Collection[str], networks_of: Callable[[JSON], Iterable[str]]
    ) -> FirewallRules | None:
        """The union of all firewalls that select a droplet by id or tag; None when there is none.

        `networks_of` turns a rule's sources or destinations into CIDR networks.
        """
        selecting = self.selecting(droplet_id, tags)
        if not selecting:
            return None

        def merged(direction: str) -> tuple[PortRule, ...]:
            rules = (
                PortRule(
                    rule["protocol"],
                    None if rule["ports"] == _ALL_PORTS else rule["ports"],
                    tuple(networks_of(rule[_DIRECTIONS[direction]])),
                )
                for document in selecting
                for rule in document[direction]
            )
            return tuple(dict.fromkeys(rules))

        return FirewallRules(inbound=merged("inbound_rules"), outbound=merged("outbound_rules"))

    def dump(self) -> dict[str, JSON]:
        return self._documents

    def load(self, dump: dict[str, JSON]) -> None:
        self._documents = dump
        for document in dump.values():
            self._index(document)

    def _index(self, document: JSON) -> None:
        for id in document["droplet_ids"]:
            self._by_droplet.setdefault(id, set()).add(document["id"])
        for tag in document["tags"]:
            self._by_tag.setdefault(tag, set()).add(document["id"])
        if any(rule[peers].keys() - {"addresses"} for way, peers in _DIRECTIONS.items() for rule in document[way]):
            self._naming.add(document["id"])
        self._note(document)

    def _unindex(self, document: JSON) -> None:
        for id in document["droplet_ids"]:
            self._by_droplet[id].discard(document["id"])
        for tag in document["tags"]:
            self._by_tag[tag].discard(document["id"])
        self._naming.discard(document["id"])
        self._note(document)

    def _note(self, document: JSON) -> None:
        self._changed_ids.update(document["droplet_ids"])
        self._changed_tags.update(document["tags"])

    def _fields(
        self, body: JSON, tags: Collection[str], droplet_ids: Collection[int], itself: str | None = None
    ) -> JSON:
        name = body.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise unprocessable("name is invalid")
        if any(other["name"] == name and id != itself for id, other in self._documents.items()):
            raise ApiError(409, "conflict", "duplicate name")
        rules = parse_rules(body)
        return {
            "name": name,
            **{direction: rules.get(direction, []) for direction in RULES},
            "droplet_ids": known(body, "droplet_ids", droplet_ids),
            "tags": known(body, "tags", tags),
        }


def known(body: JSON, field: str, existing: Collection[Any]) -> list[Any]:
    """A list of tags or droplet ids from a request. Raises ApiError 422 when one does not exist."""
    values = list(dict.fromkeys(body.get(field) or []))
    if missing := [value for value in values if value not in existing]:
        raise unprocessable(f"{field} do not exist: {', '.join(map(str, missing))}")
    return values


def parse_rules(body: JSON) -> dict[str, list[JSON]]:
    """The rules of a request as they are read back. Raises ApiError 422 when there is none or one is wrong."""
    rules = {
        direction: [_rule(rule, peers) for rule in body[direction]]
        for direction, peers in _DIRECTIONS.items()
        if body.get(direction)
    }
    if not rules:
        raise unprocessable("must contain at least one inbound or outbound rule")
    return rules


def _rule(rule: Any, peers: str) -> JSON:
    if not isinstance(rule, dict):
        raise unprocessable(f"a rule must be an object: {rule!r}")
    protocol = rule.get("protocol")
    if protocol not in ("tcp", "udp", "icmp"):
        raise unprocessable("protocol must be one of tcp, udp, icmp")
    ports = str(rule.get("ports") or "")
    if protocol == "icmp" or ports in ("all", _ALL_PORTS):
        ports = _ALL_PORTS
    else:
        match = _PORTS.fullmatch(ports)
        if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]) <= _LAST_PORT:
            raise unprocessable(f"ports is invalid: {ports!r}")
    named = rule.get(peers)
    if not isinstance(named, dict) or not any(named.get(kind) for kind in _PEERS):
        raise unprocessable(f"{peers} can't be empty")
    for address in named.get("addresses") or []:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            raise unprocessable(f"{peers} has an invalid address: {address}") from None
    return {"protocol": protocol, "ports": ports, peers: {kind: named[kind] for kind in _PEERS if named.get(kind)}}
