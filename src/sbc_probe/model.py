"""The evidence: plain facts as they were read, with no opinion. Times are Unix seconds, durations seconds.

What could not be read is an `Unread` with the reason in words; it is never replaced by a zero or an empty value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tcp = Literal["open", "refused", "timeout", "unreachable"]
# How far TLS gets at a proxy without our certificate: `alert` means that the peer ended it in the TLS protocol itself,
# as Microsoft does when no client certificate comes; `broken` that it said nothing.
Tls = Literal["complete", "alert", "untrusted", "broken"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A fact that could not be read. `denied`: this user may not; says nothing about the thing itself."""

    why: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer to our OPTIONS from one destination; `since`: when this code came first, with no other since.

    `names` are those in the certificate of the connection that it came on, none when Kamailio kept no certificate.
    """

    at: float
    code: int
    reason: str
    since: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destination:
    """One dispatcher record; empty flags: a proxy that is not among the records.

    `sent_at` is our last OPTIONS; `latency_ms` counts refusals as answers.
    """

    uri: str
    host: str
    flags: str
    latency_ms: float | None
    sent_at: float | None
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Theirs:
    """Microsoft's last OPTIONS for our FQDN, as Kamailio received it, and the code that it answered.

    `peer` is the name in the certificate of that connection: evidence, not verified.
    """

    at: float
    source: str
    peer: str | None
    code: int | None
    agent: str | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Kamailio:
    """What Kamailio says of itself. `loaded_at` is its start; `established`: peers with a completed TLS handshake."""

    loaded_at: float
    destinations: tuple[Destination, ...]
    theirs: Theirs | None
    established: frozenset[str] | Unread


@dataclass(frozen=True, slots=True)
class Certificate:
    """A leaf certificate. `names`: its DNS names, or its common name where it has none."""

    names: tuple[str, ...]
    key_type: str
    key_bits: int | None
    not_before: float
    not_after: float
    issuer: str
    server_auth: bool
    client_auth: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class OptionsReply:
    """What our own port answered to an OPTIONS sent from this host."""

    code: int
    reason: str
    contact: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """Our signalling port, as a client on this host finds it. `chain_error` is None when a trusted root was reached.

    `rsa_suites`: the handshake succeeds with nothing but the ECDHE-RSA suites that Microsoft offers.
    """

    tcp: Tcp
    certificate: Certificate | Unread
    rsa_suites: bool
    chain_error: str | None
    options: OptionsReply | Unread


@dataclass(frozen=True, slots=True)
class Lookup:
    """An A lookup: addresses, or the reason why there are none. `negative`: DNS itself says that there are none."""

    addresses: tuple[str, ...]
    error: str | None = None
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """What a plain client on this host finds at a proxy; None: the step before it failed."""

    lookup: Lookup
    tcp: Tcp | None = None
    tls: Tls | None = None
    tls_detail: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the verdict is made of. `reach` has entries only for proxies that did not answer well lately."""

    taken_at: float
    kamailio: Kamailio | Unread
    port: Port
    on_disk: Certificate | Unread
    fqdn: Lookup
    reach: dict[str, Reach]
