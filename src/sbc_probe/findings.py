"""What can be said of an SBC: states, causes, and a finding that ties a cause to its evidence and next step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

# Timestamps from Kamailio are whole seconds, and a ping timer may be late by one of its ticks.
SLACK = 3.0
# How long what is read directly may take to come right, e.g. after a restart, before it is called wrong for good.
PATIENCE = 5.0


class State(StrEnum):
    """What the probe says of the SBC, or of one destination."""

    PROVEN = "proven"
    FAILED = "failed"
    UNKNOWN = "unknown"
    WAITING = "waiting"


class ExitCode(IntEnum):
    """The exit code of `sbc-probe check` for each state."""

    PROVEN = 0
    FAILED = 1
    UNKNOWN = 2
    WAITING = 3


class Cause(StrEnum):
    """Every cause, the most basic first: of several findings the earliest in this order is the primary one."""

    EVIDENCE_OLD = "evidence_old"
    CLOCK_WRONG = "clock_wrong"
    KAMAILIO_DOWN = "kamailio_down"
    KAMAILIO_RPC = "kamailio_rpc"
    NOT_LISTENING = "not_listening"
    CERTIFICATE_UNREADABLE = "certificate_unreadable"
    CERTIFICATE_KEY_UNREADABLE = "certificate_key_unreadable"
    CERTIFICATE_KEY_MISMATCH = "certificate_key_mismatch"
    CERTIFICATE_NOT_LOADED = "certificate_not_loaded"
    CERTIFICATE_KEY_TYPE = "certificate_key_type"
    TLS_REFUSED = "tls_refused"
    CERTIFICATE_NAME = "certificate_name"
    RENEWAL_FAILING = "renewal_failing"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_INCOMPLETE = "certificate_incomplete"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CERTIFICATE_USAGE = "certificate_usage"
    OPTIONS_UNANSWERED = "options_unanswered"
    CONTACT_WRONG = "contact_wrong"
    DESTINATION_MISSING = "destination_missing"
    DESTINATION_UNKNOWN = "destination_unknown"
    FQDN_UNRESOLVED = "fqdn_unresolved"
    FQDN_ELSEWHERE = "fqdn_elsewhere"
    PACKET_FILTER = "packet_filter"
    DENIED = "denied"
    DESTINATION_DISABLED = "destination_disabled"
    PINGS_STOPPED = "pings_stopped"
    PROXY_DNS = "proxy_dns"
    PROXY_UNREACHABLE = "proxy_unreachable"
    PROXY_CERTIFICATE_EXPIRED = "proxy_certificate_expired"
    PROXY_CERTIFICATE_UNTRUSTED = "proxy_certificate_untrusted"
    PROXY_CERTIFICATE_NAME = "proxy_certificate_name"
    CERTIFICATE_REHEARSAL = "certificate_rehearsal"
    PROXY_TLS = "proxy_tls"
    PROXY_SILENT = "proxy_silent"
    PROXY_OVERLOADED = "proxy_overloaded"
    PROXY_REFUSES = "proxy_refuses"
    NOT_ACTIVE = "not_active"
    TENANT_UNRESOLVED = "tenant_unresolved"
    TENANT_ELSEWHERE = "tenant_elsewhere"
    TENANT_NOT_LOADED = "tenant_not_loaded"
    NOT_YET_KNOWN = "not_yet_known"
    TRUNK_MISSING = "trunk_missing"
    PROXY_FORBIDS = "proxy_forbids"
    THEIRS_NOT_YET_SEEN = "theirs_not_yet_seen"
    THEIRS_REFUSED = "theirs_refused"
    THEIRS_MISSING = "theirs_missing"
    PROXY_FLAPPING = "proxy_flapping"
    CONFIG_DIFFERS = "config_differs"
    MEMORY_LOW = "memory_low"
    PACKET_FILTER_OPEN = "packet_filter_open"
    CERTIFICATE_ENDING = "certificate_ending"
    CLOCK_UNCHECKED = "clock_unchecked"
    WITNESS_UNREAD = "witness_unread"
    FQDN_UNCHECKED = "fqdn_unchecked"
    TENANT_UNCHECKED = "tenant_unchecked"
    CLOUDS_OUTDATED = "clouds_outdated"


# Every other cause means that the proof has failed.
STATES = {
    Cause.EVIDENCE_OLD: State.UNKNOWN,
    Cause.DENIED: State.UNKNOWN,
    Cause.NOT_YET_KNOWN: State.UNKNOWN,
    Cause.THEIRS_NOT_YET_SEEN: State.UNKNOWN,
    Cause.CERTIFICATE_REHEARSAL: State.WAITING,
    Cause.TRUNK_MISSING: State.WAITING,
}
# Worth saying, no reason to doubt a proof.
REMARKS = frozenset(
    {
        Cause.RENEWAL_FAILING,
        Cause.CERTIFICATE_ENDING,
        Cause.CONFIG_DIFFERS,
        Cause.MEMORY_LOW,
        Cause.PACKET_FILTER_OPEN,
        Cause.CLOCK_UNCHECKED,
        Cause.WITNESS_UNREAD,
        Cause.FQDN_UNCHECKED,
        Cause.TENANT_UNCHECKED,
        Cause.CLOUDS_OUTDATED,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause with its evidence and the next step.

    Next steps are labels of metrics and texts of alerts, so each cause has few of them: they are made of the
    configuration alone. What changes with the time, and names that others chose, belong into the evidence.

    `grave`: what is else a remark has done its harm here and is a reason to fail.

    The last three only tell how long waiting makes sense: `due` is when an answer that is not here yet settles it,
    `seen_at` when the evidence came about, `patience` how long (s) a proof takes to appear once the fault is undone.
    """

    cause: Cause
    evidence: str
    next_step: str
    destinations: tuple[str, ...] = ()
    due: float | None = None
    seen_at: float = -math.inf
    patience: float = PATIENCE
    grave: bool = False

    @property
    def is_remark(self) -> bool:
        return self.cause in REMARKS and not self.grave

    @property
    def state(self) -> State:
        return STATES.get(self.cause, State.FAILED)

    def worth_waiting(self, since: float, now: float) -> float:
        """Seconds for which a look that began at `since` may still change this finding; 0: it is settled."""
        if self.due is not None:
            return max(0.0, self.due - now)
        return 0.0 if self.seen_at >= since else max(0.0, since + self.patience - now)


def date(moment: float) -> str:
    """A point in time as people write it, UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
