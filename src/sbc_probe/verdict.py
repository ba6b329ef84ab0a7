"""The verdict: evidence in, one state and its reasons out. Nothing here reads a clock, a file or a socket.

The state of the SBC is that of its primary cause, the first one found in the order of `Cause`:

failed    something on our side is wrong, proven from this host alone, or a destination is unreachable or silent;
unknown   the probe may not read something, its evidence is old, or an answer is not due yet (`Finding.due`);
waiting   everything on our side is in order but for a certificate that is a rehearsal's on purpose; what the proxies
          say then follows from it;
waiting   everything on our side is in order and no trunk exists yet. The rule: EVERY destination has answered 403
          lately and since the last start, and Microsoft's own OPTIONS for our FQDN never came. 403 is what Microsoft
          says to an FQDN that it does not know, and also to a Contact that is an address or a foreign name; the latter
          is ruled out by our own port, whose answer carries the same Contact, and by the words of the 403. One refusal
          among other answers is a fault at that proxy, since a trunk is known to all proxies of a cloud or to none;
failed    one proxy answers 403 while the others do not, or Microsoft answers our OPTIONS with 200 but its own never
          reach us: the 200 proves that the trunk exists, so the way to our port is closed;
proven    all of what follows. Whatever is not known for sure is not proven.

What it takes to be proven: all of this; whatever is not known for sure is not proven.

1. The evidence was gathered lately, by a clock that no time server contradicts, that has not jumped without one to
   vouch for it, and that Kamailio's own times do not run ahead of.
2. Kamailio answers RPC and has loaded every proxy, one at least, and no other destination. A socket on this machine
   listens at our address, and an OPTIONS sent there over TLS gets 200 with our FQDN in Contact.
3. The certificate on the wire is the one on disk, and its key, names, dates, use and chain are good.
4. Our FQDN and those of the tenants lead here and nowhere else, unless DNS does not answer; Kamailio knows the names,
   unless it does not tell which it knows.
5. Every destination is AP by an answer with 2xx that came since Kamailio started and last read one of its files, at
   most two rounds of OPTIONS ago and not at a time that is still to come, on a connection whose certificate carries
   its name.
6. Kamailio goes on asking: its last OPTIONS is at most two rounds old, and no record is excluded from them.
7. DNS leads to no address of a proxy outside Microsoft's networks, whatever an older connection still answers.
8. No proxy has turned from answering to not answering or back four times within 15 intervals.
9. Microsoft's own OPTIONS for our FQDN came since Kamailio started, from its signalling networks, at most three of
   its intervals ago and not at a time that is still to come, and the last one got 200.
10. nftables on this machine lets all of Microsoft's signalling networks in: connections that stand are not asked
    again, new ones are.

What of 2, 3, 5, 6 and 9 could not be read fails or is unknown. The private key, which only root may read, the clock,
the listening sockets, the packet filter, the files, the tenants' names and DNS of the proxies are further witnesses:
what they say counts, and without them the rest still proves. A remark names those that could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sbc_probe.config import Config
from sbc_probe.findings import SLACK, Cause, ExitCode, Finding, State
from sbc_probe.flags import meaning
from sbc_probe.flapping import Flapping, flapping
from sbc_probe.machine import machine
from sbc_probe.microsoft import flaps, flaw_of, knows_no_trunk, refused_by_all, their_options, trunk_missing
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
        Cause.DESTINATION_UNKNOWN,
        Cause.DENIED,
    }
)

# Where the names lead, of which nothing is held against a machine that they do not lead to yet.
NAMES = frozenset(
    {
        Cause.FQDN_UNRESOLVED,
        Cause.FQDN_ELSEWHERE,
        Cause.FQDN_UNCHECKED,
        Cause.TENANT_UNRESOLVED,
        Cause.TENANT_ELSEWHERE,
        Cause.TENANT_UNCHECKED,
    }
)

# What is wrong with a tenant's name keeps nobody from seeing that the trunk is missing.
APART = frozenset({Cause.TENANT_UNRESOLVED, Cause.TENANT_ELSEWHERE, Cause.TENANT_NOT_LOADED})
# Why nothing is known of any destination.
UNREAD = frozenset({Cause.KAMAILIO_DOWN, Cause.KAMAILIO_RPC, Cause.DENIED})


@dataclass(frozen=True, slots=True)
class DestinationVerdict:
    """One destination: `finding` is None when it is proven AP. `flapping` is how it flaps, if it does."""

    destination: Destination
    flags_meaning: str | None
    answer_age: float | None
    finding: Finding | None
    flapping: Flapping | None = None

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
    return _judge(config, evidence, outbound=False)


def judge_outbound(config: Config, evidence: Evidence) -> Verdict:
    """The same for a machine to which no name leads yet: neither where they lead nor 9 of the above is judged."""
    return _judge(config, evidence, outbound=True)


def _judge(config: Config, evidence: Evidence, outbound: bool) -> Verdict:
    ours = list(our_side(config, evidence))
    around = [*tenants(config, evidence), *machine(config, evidence), *clouds(config, evidence)]
    if outbound:
        ours = [finding for finding in ours if finding.cause not in NAMES]
        around = [finding for finding in around if finding.cause not in NAMES]
    kamailio = evidence.kamailio
    if not isinstance(kamailio, Kamailio):
        unread = next(finding for finding in ours if finding.cause in UNREAD)
        return _verdict([*ours, *around], tuple(_absent(config, host, unread) for host in config.proxies))
    rehearsal = next((finding for finding in ours if finding.cause is Cause.CERTIFICATE_REHEARSAL), None)
    unknown = next((finding for finding in ours if finding.cause is Cause.DESTINATION_UNKNOWN), None)
    flapped = {item.uri: flapping(config, kamailio, item, evidence.taken_at) for item in kamailio.destinations}
    trunk = None
    ready = all(finding.is_remark or finding.cause in APART for finding in (*ours, *around))
    if ready and not any(flapped.values()) and knows_no_trunk(config, evidence, kamailio):
        trunk = trunk_missing(config, kamailio, outbound)
    loaded = []
    for destination in kamailio.destinations:
        found = flapped[destination.uri]
        flaw = flaps(flaw_of(config, evidence, kamailio, destination), found, destination)
        if unknown and destination.host not in config.proxies:
            flaw = replace(unknown, destinations=(destination.uri,))
        loaded.append(
            DestinationVerdict(
                destination=destination,
                flags_meaning=meaning(destination.flags),
                answer_age=_age(evidence, destination),
                finding=trunk or _in_the_light_of(rehearsal, flaw),
                flapping=found,
            )
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
    # These are among ours already.
    others = [one for one in flaws if one.cause not in (Cause.CERTIFICATE_REHEARSAL, Cause.DESTINATION_UNKNOWN)]
    theirs = () if outbound else their_options(config, evidence, kamailio)
    return _verdict([*ours, *around, *others, *theirs], (*loaded, *missing))


def _age(evidence: Evidence, destination: Destination) -> float | None:
    """How old (s) its last answer is; None where there is none, or it bears a time that is still to come."""
    if destination.answer is None or (age := evidence.taken_at - destination.answer.at) < -SLACK:
        return None
    return max(0.0, age)


def aged(verdict: Verdict, age: float, limit: float) -> Verdict:
    """The same verdict while its evidence is at most `limit` s old; after that nothing is known for sure.

    `age` is best taken from a clock that only counts: one that was set back would make old evidence young.
    """
    if 0 <= age <= limit:
        return verdict
    old = Finding(
        Cause.EVIDENCE_OLD,
        f"The probe has gathered nothing for {age:.0f} s; what it knew last was: {verdict.state}",
        "`systemctl status sbc-probe`; `journalctl -u sbc-probe -n 50`; `sbc-probe check` looks anew.",
    )
    destinations = tuple(replace(item, finding=old) for item in verdict.destinations)
    return Verdict(old.state, (old, *verdict.findings), verdict.remarks, destinations)


def _in_the_light_of(rehearsal: Finding | None, flaw: Finding | None) -> Finding | None:
    """Nobody trusts a rehearsal's certificate, so what ranks behind it is its consequence."""
    if rehearsal and flaw and RANK[flaw.cause] > RANK[rehearsal.cause]:
        return replace(rehearsal, destinations=flaw.destinations)
    return flaw


def _of_all(config: Config, kamailio: Kamailio, flaw: Finding) -> Finding:
    if not refused_by_all(config, kamailio, flaw):
        return flaw
    step = (
        f"If our Contact is right, the trunk is disabled, renamed or removed: `Get-CsOnlinePSTNGateway {config.fqdn}`"
    )
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
