"""The verdict as Prometheus metrics. What could not be read has no sample; points in time are Unix timestamps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sbc_probe.findings import State
from sbc_probe.model import Evidence, Renewal
from sbc_probe.renewal import Cause
from sbc_probe.report import shown_certificate, theirs_of
from sbc_probe.verdict import Verdict

CAUSES = frozenset(str(cause) for cause in Cause)


class VerdictCollector(Collector):
    """Gives the latest verdict to a scrape; a scrape itself reads nothing."""

    def __init__(self, latest: Callable[[], tuple[Evidence, Verdict]]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        evidence, verdict = self._latest()
        yield _gauge("sbc_evidence_timestamp_seconds", "When the evidence was gathered.", evidence.taken_at)
        yield _states("sbc_state", "1 for the state of the SBC.", {(): verdict.state})
        cause = GaugeMetricFamily(
            "sbc_finding", "1 for every finding; the primary cause has rank 1.", labels=["cause", "rank"]
        )
        for rank, finding in enumerate(verdict.findings, 1):
            cause.add_metric([finding.cause, str(rank)], 1)
        yield cause
        remarks = GaugeMetricFamily("sbc_remark", "1 for every remark, which is no reason to fail.", labels=["cause"])
        for remark in sorted({finding.cause for finding in verdict.remarks}):
            remarks.add_metric([remark], 1)
        yield remarks

        by_host = {item.destination.host: item for item in verdict.destinations}
        yield _states(
            "sbc_destination_state",
            "1 for the verdict on a destination.",
            {(host,): item.state for host, item in by_host.items()},
            "destination",
        )
        flags = GaugeMetricFamily(
            "sbc_destination_flags", "1 for its dispatcher flags.", labels=["destination", "flags"]
        )
        latency = GaugeMetricFamily(
            "sbc_destination_latency_seconds", "Average round trip of our OPTIONS.", labels=["destination"]
        )
        answer = GaugeMetricFamily(
            "sbc_destination_answer_timestamp_seconds",
            "When our OPTIONS was last answered.",
            labels=["destination", "code"],
        )
        for host, item in by_host.items():
            destination = item.destination
            if destination.flags:
                flags.add_metric([host, destination.flags], 1)
            if destination.latency_ms is not None:
                latency.add_metric([host], destination.latency_ms / 1000)
            if destination.answer:
                answer.add_metric([host, str(destination.answer.code)], destination.answer.at)
        yield from (flags, latency, answer)

        if certificate := shown_certificate(evidence):
            yield _gauge(
                "sbc_certificate_not_after_timestamp_seconds", "The end of the certificate.", certificate.not_after
            )
        match evidence.renewal:
            case Renewal(failing=failing, attempts=attempts, cause=why):
                renewal = GaugeMetricFamily(
                    "sbc_renewal_failures", "Failures in a row of certbot; 0: its last run was good.", labels=["cause"]
                )
                # The record is a file: whatever stands there must not become a new label.
                cause_label = (why if why in CAUSES else Cause.UNKNOWN) if failing else ""
                renewal.add_metric([cause_label], attempts if failing else 0)
                yield renewal
        if theirs := theirs_of(evidence):
            yield _gauge("sbc_theirs_timestamp_seconds", "Microsoft's own last OPTIONS for our FQDN.", theirs.at)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _states(name: str, text: str, states: dict[tuple[str, ...], State], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[*labels, "state"])
    for values, current in states.items():
        for state in State:
            family.add_metric([*values, state], float(state is current))
    return family
