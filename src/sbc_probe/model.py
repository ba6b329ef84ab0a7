"""The evidence: plain facts as they were read, with no opinion. Times are Unix seconds, durations seconds.

What could not be read is an `Unread` with the reason in words; it is never replaced by a zero or an empty value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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


# Of whoever gathers less evidence on purpose.
NOT_LOOKED = Unread("not looked at")


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer to our OPTIONS from one destination; `since`: when this code came first, with no other since.

    `names` are those in the certificate of the connection that it came on, none when Kamailio kept no certificate.
    `round_trip` is the time (s) from our OPTIONS to it, `retry_after` what its header of that name asks for (s).
    """

    at: float
    code: int
    reason: str
    since: float
    names: tuple[str, ...]
    round_trip: float | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A peer that answers at a proxy's address with a certificate for other names."""

    at: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destination:
    """One dispatcher record; empty flags: a proxy that is not among the records.

    `sent_at` is our last OPTIONS; `latency_ms` counts refusals as answers. `misnamed` is the last time that Kamailio
    itself hung up, since the peer's certificate does not carry the proxy's name.

    `sent`, `answers` (by status code) and `lost` (OPTIONS that the next one overtook) count since Kamailio's start.
    `turns` are the moments, oldest first, at which it lately went from answering well to not doing so, or back.
    """

    uri: str
    host: str
    flags: str
    latency_ms: float | None
    sent_at: float | None
    answer: Answer | None
    misnamed: Misnamed | None = None
    sent: int | None = None
    answers: dict[int, int] = field(default_factory=dict)
    lost: int | None = None
    turns: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Theirs:
    """Microsoft's last OPTIONS for our FQDN, as Kamailio received it, and the code that it answered.

    `peer` is the name in the certificate of that connection: evidence, not verified. `codes` counts our answers by
    status code since Kamailio's start.
    """

    at: float
    source: str
    peer: str | None
    code: int | None
    agent: str | None
    count: int | None
    codes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotHere:
    """Microsoft's last request for a name that is none of ours, which got 404; `count`: since Kamailio's start."""

    at: float
    name: str
    source: str
    count: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Kamailio's shared memory, in bytes: what it may take in all, and what is in use."""

    total: int
    used: int


@dataclass(frozen=True, slots=True)
class Connection:
    """One TLS connection of Kamailio's; `outbound`: Kamailio opened it."""

    peer: str
    outbound: bool
    established: bool
    version: str
    suite: str


def connected(connections: Iterable[Connection]) -> tuple[int, int]:
    """How many of them have completed their handshake: those opened to us, and those that Kamailio opened."""
    outbound = [one.outbound for one in connections if one.established]
    return outbound.count(False), outbound.count(True)


@dataclass(frozen=True, slots=True)
class Kamailio:
    """What Kamailio says of itself. `loaded_at` is its start; `established`: peers with a completed TLS handshake.

    `theirs_of_tenants` is the same as `theirs` for the names of further tenants, where any came. `uptime` (s) is by
    Kamailio's own count, `tenants` the names besides the FQDN that it takes requests for.
    """

    loaded_at: float
    destinations: tuple[Destination, ...]
    theirs: Theirs | None
    established: frozenset[str] | Unread
    theirs_of_tenants: dict[str, Theirs] = field(default_factory=dict)
    version: str | None = None
    uptime: float | None = None
    memory: Memory | Unread = NOT_LOOKED
    connections: tuple[Connection, ...] | Unread = NOT_LOOKED
    tenants: frozenset[str] | Unread = NOT_LOOKED
    not_here: NotHere | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration that Kamailio works with: SHA-256 of its files when it read them, and of the files as they are.

    Both by the name of the file. `at` is when it last read any.
    """

    at: float
    read: dict[str, str]
    on_disk: dict[str, str]


@dataclass(frozen=True, slots=True)
class Clock:
    """This machine's clock. `synchronized`: systemd-timesyncd has lately heard from its servers.

    `offset` (s) is how far it is ahead of a time server's, None where none answered lately; `server` is the one asked.
    `step` (s) is how far it was moved in all, against the clock that only counts, since the probe watches or a server
    last found it right; `stepped_at` is when it was last moved.
    """

    synchronized: bool
    offset: float | None = None
    server: str | None = None
    step: float | None = None
    stepped_at: float | None = None


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """nftables at this machine: what lets Microsoft in.

    `admitted` are the networks that a rule lets in to our port, None: everybody. `new_connections` counts what those
    rules let in since they were loaded, None where they do not count.
    """

    admitted: tuple[str, ...] | None
    new_connections: int | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate. `names`: its DNS names, or its common name where it has none. Fingerprints are SHA-256, in hex."""

    subject: str
    names: tuple[str, ...]
    key_type: str
    key_bits: int | None
    not_before: float
    not_after: float
    issuer: str
    server_auth: bool
    client_auth: bool
    fingerprint: str
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class ChainFlaw:
    """Why a chain leads to no trusted root; `incomplete`: the certificate came without that of its issuer."""

    incomplete: bool
    why: str


@dataclass(frozen=True, slots=True)
class OptionsReply:
    """What our own port answered to an OPTIONS sent from this host."""

    code: int
    reason: str
    contact: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """Our signalling port, as a client on this host finds it. `chain_flaw` is None when a trusted root was reached.

    `rsa_suites`: the handshake succeeds with nothing but the ECDHE-RSA suites that Microsoft offers. `intermediates`
    were sent after the certificate.
    """

    tcp: Tcp
    certificate: Certificate | Unread
    rsa_suites: bool
    chain_flaw: ChainFlaw | None
    options: OptionsReply | Unread
    intermediates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Lookup:
    """An A lookup: addresses, or the reason why there are none. `negative`: DNS itself says that there are none.

    `ttl` is how long (s) the addresses may be remembered.
    """

    addresses: tuple[str, ...]
    error: str | None = None
    negative: bool = False
    ttl: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a plain client on this host finds at a proxy; None: the step before it failed."""

    lookup: Lookup
    tcp: Tcp | None = None
    tls: Tls | None = None
    tls_detail: str = ""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What certbot's last run came to. `since` is the first of the failures in a row, `attempts` their number.

    `cause` is one of `renewal.Cause`; `said` are certbot's own words, `advice` what to do about them.
    """

    at: float
    failing: bool = False
    since: float | None = None
    attempts: int = 0
    cause: str | None = None
    said: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the verdict is made of. `reach` has entries only for proxies that did not answer well lately.

    `key` is the fingerprint of the private key on disk, `installed_at` when the certificate was put there, `renewal`
    None where certbot has not run since the start of this machine. `proxies` is what DNS says of their names,
    `listening` the addresses on which something on this machine takes TCP connections to our port.
    """

    taken_at: float
    kamailio: Kamailio | Unread
    port: Port
    on_disk: Certificate | Unread
    fqdn: Lookup
    reach: dict[str, Reach]
    key: str | Unread
    installed_at: float | None
    renewal: Renewal | Unread | None
    tenants: dict[str, Lookup]
    proxies: dict[str, Lookup] = field(default_factory=dict)
    clock: Clock | Unread = NOT_LOOKED
    listening: tuple[str, ...] | Unread = NOT_LOOKED
    packet_filter: PacketFilter | Unread = NOT_LOOKED
    loaded: Loaded | Unread = NOT_LOOKED
