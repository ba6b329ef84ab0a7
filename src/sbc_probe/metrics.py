"""The verdict as Prometheus metrics. What could not be read has no sample; points in time are Unix timestamps.

docs/monitoring.md lists them. Counters of OPTIONS are Kamailio's own and begin at 0 with it, as Prometheus expects.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from sbc_probe import __version__, renewal
from sbc_probe.exposition import (
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from sbc_probe.findings import State
from sbc_probe.history import History
from sbc_probe.model import Clock, Evidence, Kamailio, Loaded, Memory, PacketFilter, Renewal, connected
from sbc_probe.report import shown_certificate
from sbc_probe.verdict import DestinationVerdict, Verdict

if TYPE_CHECKING:
    from sbc_probe.service import Monitor

CAUSES = frozenset(str(cause) for cause in renewal.Cause)
# Seconds: a proxy of the same continent answers within some tens of milliseconds, and after 5 s it counts as silent.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
WINDOWS = {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0}


class Observer:
    """What accumulates from one gathering to the next, since the start of the probe."""

    def __init__(self) -> None:
        self.gatherings = 0
        self.failures = 0
        self.duration = 0.0
        self.transitions: dict[tuple[str, str], int] = {}
        self.round_trips: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.availability: dict[tuple[str, str], float] = {}
        self._states: dict[str, State] = {}
        self._answers: dict[str, float] = {}

    def note(
        self, evidence: Evidence, verdict: Verdict, duration: float, availability: dict[tuple[str, str], float]
    ) -> None:
        """Count what one gathering has found, which took so many seconds, with what `availabilities` say by then."""
        self.gatherings += 1
        self.duration = duration
        hosts = {item.destination.host: item for item in verdict.destinations}
        for host, item in hosts.items():
            for state in State:
                self.transitions.setdefault((host, state), 0)
            if self._states.get(host, item.state) != item.state:
                self.transitions[host, item.state] += 1
            self._states[host] = item.state
            answer = item.destination.answer
            if answer and answer.round_trip is not None and self._answers.get(host) != answer.at:
                self._answers[host] = answer.at
                counts = self.round_trips.setdefault(host, [0] * (len(BUCKETS) + 1))
                counts[bisect_left(BUCKETS, answer.round_trip)] += 1
                self.seconds[host] = self.seconds.get(host, 0.0) + answer.round_trip
        self.availability = availability


def availabilities(evidence: Evidence, verdict: Verdict, history: History) -> dict[tuple[str, str], float]:
    """The share of the known time that was proven, by proxy ("": the SBC) and window; without what is not known."""
    return {
        (subject, window): available.share
        for subject in ("", *(item.destination.host for item in verdict.destinations))
        for window, available in history.availabilities(subject, evidence.taken_at, WINDOWS).items()
        if available.share is not None
    }


class VerdictCollector(Collector):
    """Gives the latest verdict to a scrape; a scrape itself reads nothing."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        evidence, verdict = self._monitor.latest()
        yield from _probe(self._monitor, evidence)
        if not self._monitor.is_fresh():
            return
        config, observer = self._monitor.config, self._monitor.observer
        yield _gauge(
            "sbc_info",
            "Which SBC this is.",
            {(config.customer, config.fqdn, config.address, config.cloud): 1.0},
            "customer", "fqdn", "address", "cloud",
        )  # fmt: skip
        yield from _verdict(verdict)
        yield from _destinations({item.destination.host: item for item in verdict.destinations}, observer)
        yield _gauge(
            "sbc_availability_ratio",
            "How much of the time of which the state of the SBC is known it was proven.",
            {(window,): share for (subject, window), share in observer.availability.items() if not subject},
            "window",
        )
        yield from _certificate(evidence)
        if isinstance(evidence.kamailio, Kamailio):
            yield from _kamailio(evidence.kamailio, config.fqdn)
        if isinstance(loaded := evidence.loaded, Loaded):
            yield _single(
                "sbc_kamailio_config_read_timestamp_seconds", "When Kamailio last read a file of its own.", loaded.at
            )
        if isinstance(clock := evidence.clock, Clock):
            yield _single(
                "sbc_clock_synchronized",
                "1 if systemd-timesyncd has set it lately.",
                clock.synchronized,
            )
            if clock.offset is not None:
                yield _single(
                    "sbc_clock_offset_seconds", "How far the clock is ahead of a time server's.", clock.offset
                )
        if isinstance(passed := evidence.packet_filter, PacketFilter) and passed.new_connections is not None:
            yield _counter(
                "sbc_packet_filter_connections",
                "New TCP connections that nftables let in to the SIP port from Microsoft's networks.",
                {(): passed.new_connections},
            )


def _probe(monitor: Monitor, evidence: Evidence) -> Iterator[Metric]:
    """How the probe itself does."""
    observer, history = monitor.observer, monitor.history
    yield _gauge(
        "sbc_probe_build_info",
        "The probe's version and that of its Python.",
        {(__version__, ".".join(map(str, sys.version_info[:3]))): 1.0},
        "version", "python",
    )  # fmt: skip
    yield _single("sbc_evidence_timestamp_seconds", "When the evidence was gathered.", evidence.taken_at)
    yield _single("sbc_probe_gathering_duration_seconds", "How long the last gathering took.", observer.duration)
    yield _counter("sbc_probe_gatherings", "Gatherings of evidence.", {(): observer.gatherings})
    yield _counter(
        "sbc_probe_gathering_failures", "Gatherings that a fault of the probe ended.", {(): observer.failures}
    )
    yield _single("sbc_probe_history_writable", "1 if the history can be written.", history.trouble is None)
    yield _single("sbc_probe_history_unwritten_rows", "Rows of the history in memory only.", history.unwritten())
    if (size := history.size()) is not None:
        yield _single("sbc_probe_history_size_bytes", "The history on disk.", size)


def _verdict(verdict: Verdict) -> Iterator[Metric]:
    yield _states("sbc_state", "1 for the state of the SBC.", {(): verdict.state})
    yield _gauge(
        "sbc_finding",
        "1 for every finding; the primary cause has rank 1.",
        {(finding.cause, str(rank)): 1.0 for rank, finding in enumerate(verdict.findings, 1)},
        "cause", "rank",
    )  # fmt: skip
    yield _gauge(
        "sbc_finding_info",
        "What to do about every cause that is found.",
        {item: 1.0 for item in {finding.cause: finding.next_step for finding in reversed(verdict.findings)}.items()},
        "cause", "next_step",
    )  # fmt: skip
    yield _gauge(
        "sbc_remark",
        "1 for every remark, which is no reason to fail.",
        {(finding.cause,): 1.0 for finding in verdict.remarks},
        "cause",
    )


def _destinations(hosts: Mapping[str, DestinationVerdict], observer: Observer) -> Iterator[Metric]:
    records = {host: item.destination for host, item in hosts.items()}
    yield _states(
        "sbc_destination_state",
        "1 for the verdict on a destination.",
        {(host,): item.state for host, item in hosts.items()},
        "destination",
    )
    yield _gauge(
        "sbc_destination_finding",
        "1 for what is wrong with a destination.",
        {(host, item.finding.cause): 1.0 for host, item in hosts.items() if item.finding},
        "destination", "cause",
    )  # fmt: skip
    yield _gauge(
        "sbc_destination_flags",
        "1 for its dispatcher flags.",
        {(host, record.flags): 1.0 for host, record in records.items() if record.flags},
        "destination", "flags",
    )  # fmt: skip
    yield _gauge(
        "sbc_destination_latency_seconds",
        "Average round trip of our OPTIONS, by Kamailio's own count.",
        {(host,): one.latency_ms / 1000 for host, one in records.items() if one.latency_ms is not None},
        "destination",
    )
    yield _gauge(
        "sbc_destination_answer_timestamp_seconds",
        "When our OPTIONS was last answered.",
        {(host, str(one.answer.code)): one.answer.at for host, one in records.items() if one.answer},
        "destination", "code",
    )  # fmt: skip
    yield _counter(
        "sbc_destination_transitions",
        "How often the verdict on a destination became this one while the probe watched.",
        {key: count for key, count in observer.transitions.items() if key[0] in hosts},
        "destination", "state",
    )  # fmt: skip
    yield _gauge(
        "sbc_destination_turns",
        "How often it lately turned from answering well to not doing so, or back.",
        # A Kamailio that counts no OPTIONS keeps no turns either.
        {(host,): float(len(one.turns)) for host, one in records.items() if one.sent is not None},
        "destination",
    )
    yield _gauge(
        "sbc_destination_availability_ratio",
        "How much of the time of which the state of a destination is known it was proven.",
        {key: share for key, share in observer.availability.items() if key[0] in hosts},
        "destination", "window",
    )  # fmt: skip
    round_trips = HistogramMetricFamily(
        "sbc_destination_round_trip_seconds", "Round trips of our OPTIONS.", labels=["destination"]
    )
    for host, counts in observer.round_trips.items():
        bounds = [*map(str, BUCKETS), "+Inf"]
        round_trips.add_metric([host], list(zip(bounds, accumulate(counts), strict=True)), observer.seconds[host])
    yield round_trips
    yield _counter(
        "sbc_options_sent",
        "OPTIONS that Kamailio sent.",
        {(host,): one.sent for host, one in records.items() if one.sent is not None},
        "destination",
    )
    yield _counter(
        "sbc_options_answers",
        "Answers to them.",
        {(host, str(code)): count for host, one in records.items() for code, count in one.answers.items()},
        "destination", "code",
    )  # fmt: skip
    yield _counter(
        "sbc_options_lost",
        "OPTIONS that had no answer when the next one left.",
        {(host,): one.lost for host, one in records.items() if one.lost is not None},
        "destination",
    )


def _certificate(evidence: Evidence) -> Iterator[Metric]:
    if certificate := shown_certificate(evidence):
        begin, end = "sbc_certificate_not_before_timestamp_seconds", "sbc_certificate_not_after_timestamp_seconds"
        yield _single(begin, "The begin of the certificate.", certificate.not_before)
        yield _single(end, "The end of the certificate.", certificate.not_after)
    match evidence.renewal:
        case Renewal(failing=failing, attempts=attempts, cause=why):
            # The record is a file: whatever stands there must not become a new label.
            cause = (why if why in CAUSES else renewal.Cause.UNKNOWN) if failing else ""
            yield _gauge(
                "sbc_renewal_failures",
                "Failures in a row of certbot; 0: its last run was good.",
                {(str(cause),): float(attempts if failing else 0)},
                "cause",
            )


def _kamailio(kamailio: Kamailio, fqdn: str) -> Iterator[Metric]:
    if kamailio.version:
        yield _gauge("sbc_kamailio_info", "Kamailio's version.", {(kamailio.version,): 1.0}, "version")
    yield _single("sbc_kamailio_start_timestamp_seconds", "When Kamailio started.", kamailio.loaded_at)
    if isinstance(memory := kamailio.memory, Memory):
        yield _single("sbc_kamailio_memory_size_bytes", "Kamailio's shared memory in all.", memory.total)
        yield _single("sbc_kamailio_memory_used_bytes", "How much of it is in use.", memory.used)
    if isinstance(connections := kamailio.connections, tuple):
        inbound, outbound = connected(connections)
        yield _gauge(
            "sbc_tls_connections",
            "TLS connections with a completed handshake.",
            {("in",): float(inbound), ("out",): float(outbound)},
            "direction",
        )
    if theirs := kamailio.theirs:
        yield _single("sbc_theirs_timestamp_seconds", "Microsoft's own last OPTIONS for our FQDN.", theirs.at)
    names = kamailio.theirs_of_tenants | ({fqdn: kamailio.theirs} if kamailio.theirs else {})
    yield _counter(
        "sbc_theirs_received",
        "Microsoft's own OPTIONS for a name of ours.",
        {(name,): one.count for name, one in names.items() if one.count is not None},
        "name",
    )
    yield _counter(
        "sbc_theirs_answers",
        "Our answers to them.",
        {(name, str(code)): count for name, one in names.items() for code, count in one.codes.items()},
        "name", "code",
    )  # fmt: skip


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, samples: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, samples: Mapping[tuple[str, ...], int], *labels: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _states(name: str, text: str, states: Mapping[tuple[str, ...], State], *labels: str) -> Metric:
    samples = {(*key, state): float(state is current) for key, current in states.items() for state in State}
    return _gauge(name, text, samples, *labels, "state")
