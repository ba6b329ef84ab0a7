"""nftables, and one question to it: from which networks may a new TCP connection come to our port?

Listing the rules takes CAP_NET_ADMIN. A unit that has nothing else does it for whoever connects to its socket, and
writes what `nft --json list ruleset` says (libnftables-json(5)).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import Any

from sbc_probe.config import Config
from sbc_probe.model import PacketFilter, Unread

LIMIT = 1 << 20
TIMEOUT = 4.0
# The longest (s) that the rules are remembered.
REMEMBERED = 60.0
# IPv4 addresses as numbers, the first and the last one of each range, in ascending order and apart.
Ranges = list[tuple[int, int]]
EVERYBODY: Ranges = [(0, 2**32 - 1)]
NOBODY: Ranges = []
# What a packet from outside has to pass on its way to a socket.
HOOKS = ("ingress", "prerouting", "input")
FAMILIES = ("inet", "ip", "netdev")
# Statements after which the rule goes on.
NEUTRAL = ("counter", "log", "comment")


# Of which socket and port, until when, and what.
_known: tuple[tuple[str, int], float, PacketFilter | Unread] | None = None


class NotUnderstood(Exception):
    """A rule that may concern these packets, and whose effect is not known."""


def ask(config: Config) -> PacketFilter | Unread:
    """What is known of the rules: they are read anew as often as OPTIONS leave, since each time a process starts."""
    global _known
    whom = config.packet_filter, config.port
    if _known is None or _known[0] != whom or time.monotonic() >= _known[1]:
        _known = whom, time.monotonic() + min(config.options_interval, REMEMBERED), read(*whom)
    return _known[2]


def read(path: str, port: int) -> PacketFilter | Unread:
    """Ask the unit behind this socket."""
    try:
        text = _listing(path)
    except TimeoutError:
        return Unread(f"{path}: no answer")
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    try:
        return parse(json.loads(text), port)
    except NotUnderstood as error:
        return Unread(f"nftables has a rule that the probe does not understand: {error}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Unread(
            f"nft does not list its rules: {text[:200].decode(errors='replace').strip() or 'it says nothing'}"
        )


def _listing(path: str) -> bytes:
    deadline = time.monotonic() + TIMEOUT
    text = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        while len(text) <= LIMIT:
            client.settimeout(max(0.001, deadline - time.monotonic()))
            if not text:
                client.connect(path)
            if not (part := client.recv(1 << 16)):
                return text
            text += part
            if time.monotonic() > deadline:
                raise TimeoutError
    raise OSError(0, f"more than {LIMIT} bytes of rules")


def parse(listing: dict[str, Any], port: int) -> PacketFilter:
    """Follow the rules. NotUnderstood; ValueError, KeyError, TypeError, AttributeError: another form."""
    rules = _Rules(listing, port)
    admitted = EVERYBODY
    for chain in rules.base_chains():
        accepted, rest = rules.follow(_name(chain, chain["name"]), EVERYBODY)
        admitted = _both(admitted, _either(accepted, rest if chain.get("policy", "accept") == "accept" else NOBODY))
    count = sum(rules.packets) if rules.packets else None
    return PacketFilter(None if admitted == EVERYBODY else tuple(map(str, _networks(admitted))), count)


Name = tuple[str, str, str]


def _name(item: dict[str, Any], name: str) -> Name:
    return item["family"], item["table"], name


@dataclass(slots=True)
class _Rules:
    listing: dict[str, Any]
    port: int
    packets: list[int] = field(default_factory=list)

    def items(self, kind: str) -> Iterator[dict[str, Any]]:
        return (entry[kind] for entry in self.listing["nftables"] if kind in entry)

    def base_chains(self) -> Iterator[dict[str, Any]]:
        for chain in self.items("chain"):
            if chain.get("hook") in HOOKS and chain.get("type") == "filter" and chain["family"] in FAMILIES:
                yield chain

    def follow(self, chain: Name, coming: Ranges) -> tuple[Ranges, Ranges]:
        """Who of those that come is accepted in this chain, and who leaves it at its end."""
        accepted, returned, left = NOBODY, NOBODY, coming
        for rule in self.items("rule"):
            if _name(rule, rule["chain"]) != chain:
                continue
            concerned = _both(left, self.concerned(rule))
            if not concerned:
                continue
            match _verdict(rule):
                case "accept", _:
                    accepted = _either(accepted, concerned)
                    self.packets += [item["counter"]["packets"] for item in rule["expr"] if _is_counter(item)]
                case "drop" | "reject", _:
                    pass
                case "return", _:
                    returned = _either(returned, concerned)
                case "jump" | "goto" as way, target:
                    there, back = self.follow(_name(rule, target), concerned)
                    accepted = _either(accepted, there)
                    if way == "goto":
                        returned = _either(returned, back)
                    else:
                        concerned = _without(concerned, back)
                case _:
                    continue
            left = _without(left, concerned)
        return accepted, _either(left, returned)

    def concerned(self, rule: dict[str, Any]) -> Ranges:
        """Whose new connections to our port this rule is for."""
        found, strange = EVERYBODY, None
        for item in rule["expr"]:
            if "match" in item:
                try:
                    found = _both(found, self.matching(_name(rule, ""), **item["match"]))
                except NotUnderstood as error:
                    strange = error
        if found and strange:
            raise strange
        return found

    def matching(self, place: Name, op: str, left: Any, right: Any) -> Ranges:
        match left:
            case {"payload": {"protocol": "ip", "field": "saddr"}}:
                found = _union(_addresses(value) for value in self.values(place, right))
                return _without(EVERYBODY, found) if op == "!=" else found
            case {"payload": {"protocol": "ip6" | "udp" | "icmp" | "icmpv6" | "arp" | "ether" | "sctp" | "dccp"}}:
                return NOBODY
            case {"concat": [*parts]}:
                ours = [self.of_ours(part) for part in parts]
                holds = any(
                    all(_holds(value, one) for value, one in zip(values["concat"], ours, strict=True))
                    for values in self.values(place, right)
                )
            case _:
                one = self.of_ours(left)
                holds = any(_holds(value, one) for value in self.values(place, right))
        return EVERYBODY if holds != (op == "!=") else NOBODY

    def of_ours(self, left: Any) -> tuple[object, ...]:
        """What the packets in question have there, in every way to say it."""
        match left:
            case {"meta": {"key": "iifname" | "iif"}}:
                return ()
            case {"meta": {"key": "nfproto"}}:
                return ("ipv4", 2)
            case {"meta": {"key": "protocol"}}:
                return ("ip", 0x0800)
            case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
                return ("tcp", 6)
            case {"ct": {"key": "state"}}:
                return ("new",)
            case {"payload": {"protocol": "tcp" | "th", "field": "dport"}}:
                return (self.port,)
        raise NotUnderstood(json.dumps(left))

    def values(self, place: Name, right: Any) -> Iterator[Any]:
        """The single values of what a packet is compared with, those of named sets included."""
        match right:
            case str() if right.startswith("@"):
                for item in self.items("set"):
                    if _name(item, item["name"]) == _name({"family": place[0], "table": place[1]}, right[1:]):
                        yield from self.values(place, item.get("elem", []))
            case list():
                for one in right:
                    yield from self.values(place, one)
            case {"set": inner} | {"elem": {"val": inner}}:
                yield from self.values(place, inner)
            case _:
                yield right


def _is_counter(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("counter"), dict)


def _verdict(rule: dict[str, Any]) -> tuple[str | None, str]:
    """What the rule does with a packet that all of its matches are for, and with which chain."""
    for item in rule["expr"]:
        match item:
            case {"match": _}:
                continue
            case {"accept": _} | {"drop": _} | {"reject": _} | {"return": _}:
                return next(iter(item)), ""
            case {"jump": {"target": target}} | {"goto": {"target": target}}:
                return next(iter(item)), target
            case _ if not set(item) <= set(NEUTRAL):
                raise NotUnderstood(json.dumps(item))
    return None, ""


def _holds(value: Any, ours: tuple[object, ...]) -> bool:
    match value:
        case {"range": [first, last]}:
            return any(first <= one <= last for one in ours if isinstance(one, int))
        case str() | int():
            if not ours and value != "lo":
                raise NotUnderstood(f"the interface {value}")
            return value in ours
    raise NotUnderstood(json.dumps(value))


def _addresses(value: Any) -> Ranges:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            network = IPv4Network(f"{address}/{length}")
            return [(int(network[0]), int(network[-1]))]
        case {"range": [first, last]}:
            return [(int(IPv4Address(first)), int(IPv4Address(last)))]
        case str():
            return [(int(IPv4Address(value)),) * 2]
    raise NotUnderstood(json.dumps(value))


def _networks(ranges: Ranges) -> Iterator[IPv4Network]:
    for first, last in ranges:
        yield from summarize_address_range(IPv4Address(first), IPv4Address(last))


def _both(one: Ranges, other: Ranges) -> Ranges:
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return _union([pair] for pair in pairs if pair[0] <= pair[1])


def _either(one: Ranges, other: Ranges) -> Ranges:
    return _union([one, other])


def _union(many: Iterable[Ranges]) -> Ranges:
    found: Ranges = []
    for first, last in sorted(one for ranges in many for one in ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def _without(one: Ranges, other: Ranges) -> Ranges:
    begins = [0, *(last + 1 for _, last in other)]
    ends = [*(first - 1 for first, _ in other), 2**32 - 1]
    return _both(one, [(first, last) for first, last in zip(begins, ends, strict=True) if first <= last])
