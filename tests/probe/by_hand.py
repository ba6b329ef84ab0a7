"""Evidence made by hand: one healthy SBC, of which a test changes one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sbc_probe.config import Config
from sbc_probe.model import (
    Answer,
    Certificate,
    Clock,
    Connection,
    Destination,
    Evidence,
    Kamailio,
    Loaded,
    Lookup,
    Memory,
    OptionsReply,
    PacketFilter,
    Port,
    Reach,
    Theirs,
    Unread,
)

NOW = 1_800_000_000.0
DAY = 86400.0
FQDN = "sbc.example.com"
PROXIES = ("sip.pstnhub.microsoft.com", "sip2.pstnhub.microsoft.com", "sip3.pstnhub.microsoft.com")
ADDRESSES = {host: f"52.112.0.{number}" for number, host in enumerate(PROXIES, 1)}
NAMES = ("*.pstnhub.microsoft.com", "sip.pstnhub.dod.teams.microsoft.us")
NETWORKS = ("52.112.0.0/14", "52.122.0.0/15")
CONFIG = Config.parse(
    {
        "customer": "acme",
        "fqdn": FQDN,
        "address": "203.0.113.10",
        "proxies": list(PROXIES),
        "signalling_networks": list(NETWORKS),
    }
)
GOOD = Certificate(
    subject=f"CN={FQDN}",
    names=(FQDN,),
    key_type="RSA",
    key_bits=2048,
    not_before=NOW - DAY,
    not_after=NOW + 89 * DAY,
    issuer="CN=YR1,O=Let's Encrypt,C=US",
    server_auth=True,
    client_auth=False,
    fingerprint="0123456789abcdef" * 4,
    key_fingerprint="fedcba9876543210" * 4,
)


def answered(
    code: int = 200, reason: str = "OK", ago: float = 10, since: float = 3600, names: tuple[str, ...] = NAMES
) -> Answer:
    return Answer(NOW - ago, code, reason, NOW - max(ago, since), names)


def destination(host: str, flags: str = "AP", answer: Answer | None = None, sent_ago: float | None = 10) -> Destination:
    sent_at = None if sent_ago is None else NOW - sent_ago
    uri = f"sip:{host}:5061;transport=tls"
    return Destination(uri, host, flags, 12.0, sent_at, answer, sent=61, answers={200: 60}, lost=1)


def theirs(ago: float = 20, source: str = "52.112.0.1", code: int | None = 200) -> Theirs:
    return Theirs(NOW - ago, source, None, code, "Microsoft.PSTNHub.SIPProxy v.2026", 7, {200: 7})


def connection(peer: str, outbound: bool = True) -> Connection:
    return Connection(peer, outbound, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384")


def kamailio(**changes: Any) -> Kamailio:
    """A Kamailio that started an hour ago; `changes` are fields, or a destination's host without its domain."""
    destinations = {host: destination(host, answer=answered()) for host in PROXIES}
    for host in PROXIES:
        if change := changes.pop(host.partition(".")[0], None):
            destinations[host] = destination(host, **change)
    fields: dict[str, Any] = {
        "loaded_at": NOW - 3600,
        "destinations": tuple(destinations.values()),
        "theirs": theirs(),
        "established": frozenset(ADDRESSES.values()),
        "version": "6.0.1",
        "uptime": 3600.0,
        "memory": Memory(2**27, 2**24),
        "connections": (*(connection(peer) for peer in ADDRESSES.values()), connection("52.112.0.1", outbound=False)),
        "tenants": frozenset(),
    }
    return Kamailio(**{**fields, **changes})


def port(**changes: Any) -> Port:
    fields: dict[str, Any] = {
        "tcp": "open",
        "certificate": GOOD,
        "rsa_suites": True,
        "chain_flaw": None,
        "options": OptionsReply(200, "OK", f"<sip:{FQDN}:5061;transport=tls>"),
    }
    return Port(**{**fields, **changes})


CLOSED = port(tcp="refused", certificate=Unread("TCP"), rsa_suites=False, options=Unread("TCP"))


FILES = {name: name * 3 for name in ("kamailio.cfg", "dispatcher.list", "tls.cfg", "tenants.list")}


def evidence(**changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "taken_at": NOW,
        "kamailio": kamailio(),
        "port": port(),
        "on_disk": GOOD,
        "fqdn": Lookup(("203.0.113.10",)),
        "reach": {},
        "key": GOOD.key_fingerprint,
        "installed_at": NOW - DAY / 2,
        "renewal": None,
        "tenants": {},
        "proxies": {host: Lookup((address,)) for host, address in ADDRESSES.items()},
        "clock": Clock(True, 0.01, "192.0.2.123"),
        "listening": ("203.0.113.10",),
        "packet_filter": PacketFilter(NETWORKS, 5),
        "loaded": Loaded(NOW - 3600, FILES, FILES),
    }
    return Evidence(**{**fields, **changes})


def with_certificate(**changes: Any) -> Evidence:
    certificate = replace(GOOD, **changes)
    return evidence(port=port(certificate=certificate), on_disk=certificate)


def reach(host: str = PROXIES[1], **changes: Any) -> dict[str, Reach]:
    fields: dict[str, Any] = {"lookup": Lookup((ADDRESSES[host],)), "tcp": "open", "tls": "alert"}
    return {host: Reach(**{**fields, **changes})}


# The second proxy does not answer any more: no answer to the OPTIONS of 20 s ago.
SILENT: dict[str, Any] = {"flags": "IP", "answer": answered(ago=200), "sent_ago": 20}
REFUSED: dict[str, Any] = {"flags": "IP", "answer": answered(403, "Forbidden")}
