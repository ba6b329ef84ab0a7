"""The verdict: evidence in, one state and its reasons out. Nothing here reads a clock, a file or a socket.

The state of the SBC is that of its primary cause, the first one found in the order of `Cause`:

failed    something on our side is wrong, proven from this host alone, or a destination is unreachable or silent;
unknown   the probe may not read something, or an answer is not due yet (`Finding.due`);
waiting   everything on our side is in order but for a certificate that is a rehearsal's on purpose; what the proxies
          say then follows from it;
waiting   everything on our side is in order and no trunk exists yet. The rule: EVERY destination has answered 403 since
          the last start, and Microsoft's own OPTIONS for our FQDN never came. 403 is what Microsoft says to an FQDN
          that it does not know, and also to a Contact that is an address or a foreign name; the latter is ruled out by
          our own port, whose answer carries the same Contact. One refusal among other answers is a fault at that
          proxy, since a trunk is known to all proxies of a cloud or to none;
failed    one proxy answers 403 while the others do not, or Microsoft answers our OPTIONS with 200 but its own never
          reach us: the 200 proves that the trunk exists, so the way to our port is closed;
proven    every destination is AP by an answer with 2xx since the last start, from a peer whose certificate carries its
          name, Microsoft's own OPTIONS came lately from its signalling networks and got 200, and the certificate on the
          wire is the one on disk and good throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sbc_probe.config import Config
from sbc_probe.findings import Cause, ExitCode, Finding, State
from sbc_probe.flags import meaning
from sbc_probe.microsoft import flaw_of, knows_no_trunk, refused_by_all, their_options, trunk_missing
from sbc_probe.model import Destination, Evidence, Kamailio
from sbc_probe.ours import clouds, our_side, tenants

RANK = {cause: number for number, cause in enumerate(Cause)}
# What a new configuration can break: the judge of a configuration swap looks at these alone.
SWAP = frozenset(
    {
        Cause.KAMAILIO_DOWN,
        Cause.KAMAILIO_RPC,
        Cause.NOT_LISTENING,
        Cause.TLS_REFUSED,
        Cause.CERTIFICATE_NOT_LOADED,
        Cause.OPTIONS_UNANSWERED,
        Cause.CONTACT_WRONG,
        Cause.DESTINATION_MISSING,
        Cause.DENIED,
    }
)


# Why nothing is known of any destination.
UNREAD = frozenset({Cause.KAMAILIO_DOWN, Cause.KAMAILIO_RPC, Cause.DENIED})


@dataclass(frozen=True, slots=True)
class DestinationVerdict:
    """One destination: `finding` is None when it is proven AP."""

    destination: Destination
    flags_meaning: str | None
    answer_age: float | None
    finding: Finding | None

    @property
    def state(self) -> State:
        return self.finding.state if self.finding else State.PROVEN


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result. `findings` are ranked, the first is the primary cause; none is left when all is proven."""

    state: State
    findings: tuple[Finding, ...]
    remarks: tuple[Finding, ...]
    destinations: tuple[DestinationVerdict, ...]

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode[self.state.name]

    def worth_waiting(self, since: float, now: float) -> float:
        """Seconds for which a look that began at `since` may still change the state; 0: it is settled."""
        return self.findings[0].worth_waiting(since, now) if self.findings else 0.0


def judge(config: Config, evidence: Evidence) -> Verdict:
    """Is every destination proven AP, and if not, why?"""
    ours = list(our_side(config, evidence))
    around = [*tenants(config, evidence), *clouds(config, evidence)]
    kamailio = evidence.kamailio
    if not isinstance(kamailio, Kamailio):
        unread = next(finding for finding in ours if finding.cause in UNREAD)
        return _verdict([*ours, *around], tuple(_absent(config, host, unread) for host in config.proxies))
    rehearsal = next((finding for finding in ours if finding.cause is Cause.CERTIFICATE_REHEARSAL), None)
    trunk = None
    if all(finding.is_remark for finding in ours) and knows_no_trunk(kamailio):
        trunk = trunk_missing(config, kamailio)
    loaded = tuple(
        DestinationVerdict(
            destination=destination,
            flags_meaning=meaning(destination.flags),
            answer_age=max(0.0, evidence.taken_at - destination.answer.at) if destination.answer else None,
            finding=trunk or _in_the_light_of(rehearsal, flaw_of(config, evidence, kamailio, destination)),
        )
        for destination in kamailio.destinations
    )
    hosts = {item.destination.host for item in loaded}
    missing = [
        _absent(config, host, finding)
        for finding in ours
        if finding.cause is Cause.DESTINATION_MISSING
        for host in config.proxies
        if host not in hosts
    ]
    flaws = [trunk] if trunk else [_of_all(config, kamailio, flaw) for flaw in _merged(loaded)]
    others = [finding for finding in flaws if finding.cause is not Cause.CERTIFICATE_REHEARSAL]
    theirs = their_options(config, evidence, kamailio)
    return _verdict([*ours, *around, *others, *theirs], (*loaded, *missing))


def _in_the_light_of(rehearsal: Finding | None, flaw: Finding | None) -> Finding | None:
    """Nobody trusts a rehearsal's certificate, so what ranks behind it is its consequence."""
    if rehearsal and flaw and RANK[flaw.cause] > RANK[rehearsal.cause]:
        return replace(rehearsal, destinations=flaw.destinations)
    return flaw


def _of_all(config: Config, kamailio: Kamailio, flaw: Finding) -> Finding:
    if not refused_by_all(kamailio, flaw):
        return flaw
    step = f"The trunk was disabled, renamed or removed, if our Contact is right: Get-CsOnlinePSTNGateway {config.fqdn}"
    return replace(flaw, next_step=step)


def judge_swap(config: Config, evidence: Evidence) -> Verdict:
    """Does the configuration that was just installed do its work on this host, whatever Microsoft and the CA say?"""
    ours = list(our_side(config, evidence))
    if any(finding.cause in SWAP for finding in ours):
        return _verdict(ours)
    return Verdict(State.PROVEN, (), tuple(ours), ())


def _verdict(findings: list[Finding], destinations: tuple[DestinationVerdict, ...] = ()) -> Verdict:
    ranked = sorted(findings, key=lambda finding: (RANK[finding.cause], -len(finding.destinations)))
    grave = tuple(finding for finding in ranked if not finding.is_remark)
    remarks = tuple(finding for finding in ranked if finding.is_remark)
    return Verdict(grave[0].state if grave else State.PROVEN, grave, remarks, destinations)


def _absent(config: Config, host: str, finding: Finding) -> DestinationVerdict:
    """A proxy of which Kamailio says nothing, so that a reader finds every proxy in the report."""
    destination = Destination(f"sip:{host}:{config.port};transport=tls", host, "", None, None, None)
    return DestinationVerdict(destination, None, None, finding)


def _merged(destinations: Iterable[DestinationVerdict]) -> Iterator[Finding]:
    """One finding a cause: what is wrong with several destinations in the same way is one fault, not several."""
    by_cause: dict[Cause, list[tuple[str, Finding]]] = {}
    for item in destinations:
        if item.finding:
            by_cause.setdefault(item.finding.cause, []).append((item.destination.host, item.finding))
    for same in by_cause.values():
        hosts: dict[str, list[str]] = {}
        for host, finding in same:
            hosts.setdefault(finding.evidence, []).append(host)
        findings = [finding for _, finding in same]
        yield replace(
            findings[0],
            evidence="; ".join(f"{', '.join(names)}: {said}" for said, names in hosts.items()),
            destinations=tuple(uri for finding in findings for uri in finding.destinations),
            due=max((finding.due for finding in findings if finding.due is not None), default=None),
            seen_at=min(finding.seen_at for finding in findings),
            patience=max(finding.patience for finding in findings),
        )
