"""Rules for the way to Microsoft and back: every destination, and Microsoft's own OPTIONS. Pure.

All times are Kamailio's. One that is still to come was noted before the clock was set back: it proves nothing, and
nothing is held against it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address

from sbc_probe.config import Config
from sbc_probe.content import covers
from sbc_probe.findings import SLACK, Cause, Finding, State
from sbc_probe.flags import meaning
from sbc_probe.flapping import Flapping
from sbc_probe.model import (
    Answer,
    Clock,
    Connection,
    Destination,
    Evidence,
    Kamailio,
    Loaded,
    Misnamed,
    PacketFilter,
    Reach,
    Theirs,
    Unread,
)

# What comes and goes with a proxy that flaps; everything else stays and is told as it is.
FLEETING = frozenset(
    {
        Cause.NOT_YET_KNOWN,
        Cause.PROXY_UNREACHABLE,
        Cause.PROXY_TLS,
        Cause.PROXY_SILENT,
        Cause.PROXY_OVERLOADED,
        Cause.PROXY_REFUSES,
        Cause.PROXY_FORBIDS,
    }
)
LOOK_AGAIN = "Look again when it is due: `sbc-probe check --wait` does."
IDENTIFIER = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b;?")


def _round_time(config: Config) -> float:
    """How long (s) one round of OPTIONS takes at most, from one to the answer to the next."""
    return config.options_interval + config.answer_timeout + SLACK


def _past(moment: float | None, now: float) -> float | None:
    return moment if moment is not None and moment <= now + SLACK else None


def _started(evidence: Evidence, kamailio: Kamailio) -> float:
    """When Kamailio last started or read any of its files anew; what was answered before proves nothing.

    In whole seconds, as Kamailio tells the times of the answers: it asks at once when it starts.
    """
    moments = [kamailio.loaded_at, math.floor(evidence.loaded.at) if isinstance(evidence.loaded, Loaded) else None]
    return max((at for moment in moments if (at := _past(moment, evidence.taken_at)) is not None), default=0.0)


def _answer(evidence: Evidence, kamailio: Kamailio, destination: Destination) -> Answer | None:
    """Its last answer, if it came since the last start and not at a time that is still to come."""
    answer, now = destination.answer, evidence.taken_at
    begin = _past(kamailio.loaded_at, now) or 0.0
    return answer if answer is not None and begin <= answer.at <= now + SLACK else None


def _good(config: Config, evidence: Evidence, kamailio: Kamailio, destination: Destination) -> bool:
    """Its last word is a 2xx of its own since the last start or reload, at most one round overdue."""
    answer = _answer(evidence, kamailio, destination)
    oldest = max(_started(evidence, kamailio), evidence.taken_at - 2 * _round_time(config))
    return (
        answer is not None
        and answer.at >= oldest
        and 200 <= answer.code < 300
        and _misnamed(evidence, kamailio, destination) is None
    )


def _refused(evidence: Evidence, kamailio: Kamailio, destination: Destination) -> bool:
    answer = _answer(evidence, kamailio, destination)
    return answer is not None and not 200 <= answer.code < 300


def _misnamed(evidence: Evidence, kamailio: Kamailio, destination: Destination) -> Misnamed | None:
    """Since the last start its last certificate was one that does not carry its name (RFC 5922, 7.3).

    Kamailio hangs up on such a peer. Where one that had its way all the same answered, its certificate tells.
    """
    answer, misnamed = _answer(evidence, kamailio, destination), destination.misnamed
    begin = _past(kamailio.loaded_at, evidence.taken_at) or 0.0
    if misnamed and misnamed.at >= max(begin, answer.at if answer else 0):
        return misnamed
    if answer is not None and not covers(answer.names, destination.host):
        return Misnamed(answer.at, answer.names)
    return None


def flaw_of(config: Config, evidence: Evidence, kamailio: Kamailio, destination: Destination) -> Finding | None:
    """What keeps this destination from being proven AP; the evidence is said of it, without its name."""
    now, flags = evidence.taken_at, destination.flags
    answer, sent_at = _answer(evidence, kamailio, destination), _past(destination.sent_at, now)
    good = _good(config, evidence, kamailio, destination)
    answer_time, round_time = config.answer_timeout + SLACK, _round_time(config)
    start = _past(kamailio.loaded_at, now)
    begin = max((at for at in (sent_at, start) if at is not None), default=None)

    if found := _by_hand(destination) or _elsewhere(config, evidence, destination):
        return found
    if begin is None or (destination.sent_at is not None and sent_at is None):
        return _no_way(config, evidence, destination) or _set_back(destination, round_time, now)
    if now > begin + 2 * round_time:
        return _no_way(config, evidence, destination) or _pings_stopped(config, destination, now - begin)
    overdue = now > begin + answer_time
    answered = answer is not None and answer.at >= begin

    misnamed = _misnamed(evidence, kamailio, destination)
    if misnamed and (misnamed.at >= begin or not overdue):
        return _another(destination, misnamed, round_time)
    if answer and _refused(evidence, kamailio, destination) and (answered or not overdue):
        return _refusal(config, destination, answer, round_time)
    if found := _no_way(config, evidence, destination):
        return found
    if good and flags == "AP":
        return None
    recently = _recently(evidence, kamailio, round_time)
    if answered:
        if flags[:1] == "I":
            return _not_active(destination, round_time)
        return _pending(destination, begin + round_time, now, recently)
    if flags[:1] != "I":
        if good:
            return _pending(destination, begin + round_time, now, recently)
        if start is not None and now < start + round_time:
            return _pending(destination, start + round_time, now, recently)
        if not overdue:
            return _pending(destination, begin + answer_time, now, recently)
    seen_at = begin if overdue else -math.inf
    return _silence(config, evidence, kamailio, destination, answer, seen_at, round_time)


def flaps(finding: Finding | None, found: Flapping | None, destination: Destination) -> Finding | None:
    """The same flaw in the light of how the destination flaps: what comes and goes is no news, that it does is."""
    if found is None or (finding is not None and finding.cause not in FLEETING):
        return finding
    bad = finding is not None and finding.state is State.FAILED
    now = finding.evidence if finding and bad else "not yet known again" if finding else "answers"
    return Finding(
        Cause.PROXY_FLAPPING,
        f"{destination.flags}, went from answering to not answering or back {found.turns} times within "
        f"{found.window / 60:.0f} min, {found.per_hour:.0f} an hour, and answered for {found.share:.0%} of that time; "
        f"at this moment: {now}",
        "Look for what comes and goes: a firewall that forgets connections, a lossy way, Microsoft's service.",
        (destination.uri,),
        # Worth waiting for while it may grow old by itself, not while it is bad anyway.
        patience=finding.patience if finding and bad else found.window,
    )


def _by_hand(destination: Destination) -> Finding | None:
    """What somebody did to its record, so that it gets no calls or no OPTIONS."""
    if destination.flags[:1] == "D" or destination.flags == "IX":
        return Finding(
            Cause.DESTINATION_DISABLED,
            f"{destination.flags}, taken out by hand",
            f"`kamcmd dispatcher.set_state ap 1 '{destination.uri}'`",
            (destination.uri,),
        )
    if destination.flags[1:] != "N":
        return None
    return Finding(
        Cause.PINGS_STOPPED,
        f"{destination.flags}: {meaning(destination.flags)}, so nothing tells whether it answers",
        "Its record in /etc/kamailio/live/dispatcher.list was edited: run site.yml.",
        (destination.uri,),
    )


def _elsewhere(config: Config, evidence: Evidence, destination: Destination) -> Finding | None:
    """Where DNS leads now counts, even while an older connection still answers."""
    reach = evidence.reach.get(destination.host)
    found = [reach.lookup] if reach else []
    if one := evidence.proxies.get(destination.host):
        found.append(one)
    addresses = sorted({address for each in found for address in each.addresses})
    if gone := [each for each in found if each.negative]:
        said = f"DNS: {gone[0].error or 'no address'}"
        step = f"`resolvectl query {destination.host}`; check this host's name servers."
    elif strange := [address for address in addresses if not _is_within(address, config)]:
        networks = ", ".join(str(network) for network in config.signalling_networks)
        said = f"DNS leads to {', '.join(strange)}, which is none of Microsoft's networks ({networks})"
        step = f"`resolvectl query {destination.host}`; somebody answers for Microsoft, or its networks are others now."
    else:
        return None
    return Finding(Cause.PROXY_DNS, said, step, (destination.uri,))


def _set_back(destination: Destination, round_time: float, now: float) -> Finding:
    return Finding(
        Cause.NOT_YET_KNOWN,
        f"{destination.flags}; its times are still to come, so the clock was set back; the next OPTIONS tells, "
        f"within {round_time:.0f} s",
        LOOK_AGAIN,
        (destination.uri,),
        due=now + round_time,
    )


def _another(destination: Destination, misnamed: Misnamed, patience: float) -> Finding:
    return Finding(
        Cause.PROXY_CERTIFICATE_NAME,
        f"{destination.flags}; what answers there has a certificate for "
        f"{', '.join(misnamed.names) or 'no name at all'}, not for it",
        f"`resolvectl query {destination.host}`: its address must be Microsoft's; else somebody answers in its place.",
        (destination.uri,),
        seen_at=misnamed.at,
        patience=patience,
    )


def _pings_stopped(config: Config, destination: Destination, seconds: float) -> Finding:
    return Finding(
        Cause.PINGS_STOPPED,
        f"{destination.flags}; Kamailio sent it no OPTIONS for {seconds:.0f} s, though the interval is "
        f"{config.options_interval:.0f} s",
        "`journalctl -u kamailio -n 50`; `systemctl restart kamailio`",
        (destination.uri,),
    )


def _not_active(destination: Destination, patience: float) -> Finding:
    return Finding(
        Cause.NOT_ACTIVE,
        f"answers with 2xx, and yet the dispatcher holds it {destination.flags}: {meaning(destination.flags)}",
        f"`kamcmd dispatcher.set_state ap 1 '{destination.uri}'`",
        (destination.uri,),
        patience=patience,
    )


def _recently(evidence: Evidence, kamailio: Kamailio, round_time: float) -> str:
    """What was done to Kamailio within the last round."""
    now, started, start = evidence.taken_at, kamailio.loaded_at, _started(evidence, kamailio)
    if not start <= now < start + round_time:
        return ""
    what = "started" if start == started else "read its files anew"
    return f" since Kamailio {what} {now - start:.0f} s ago"


def _pending(destination: Destination, due: float, now: float, recently: str) -> Finding:
    return Finding(
        Cause.NOT_YET_KNOWN,
        f"{destination.flags}, not yet proven{recently}; an answer is due in {max(1, due - now):.0f} s",
        LOOK_AGAIN,
        (destination.uri,),
        due=due,
    )


def _other_contact(config: Config, answer: Answer) -> str | None:
    """The name or address that a 403 says we gave in our Contact, if it is not our FQDN.

    Microsoft's words, seen in public traces of 2020: "Provided Trunk FQDN '203.0.113.1' is not allowed".
    """
    named = re.search(r"FQDN '([^']+)'", answer.reason) if answer.code == 403 else None
    return named[1] if named and named[1].lower().rstrip(".") != config.fqdn else None


def _refusal(config: Config, destination: Destination, answer: Answer, patience: float) -> Finding:
    # Each of Microsoft's answers has an identifier of its own; without it proxies that say the same say the same.
    said = f"answers our OPTIONS with {answer.code} {IDENTIFIER.sub('', answer.reason)}".rstrip()
    if other := _other_contact(config, answer):
        cause = Cause.CONTACT_WRONG
        said += f"; the Contact of our OPTIONS names {other} instead of {config.fqdn}"
        step = (
            f"Let kamailio.cfg, event_route[tm:local-request], send Contact: <sip:{config.fqdn}:{config.port};"
            "transport=tls>: run site.yml."
        )
    elif answer.code == 403:
        cause = Cause.PROXY_FORBIDS
        step = (
            "Our Contact carries the FQDN. If the trunk is enabled and its FQDN spelled like ours "
            "(`Get-CsOnlinePSTNGateway`), this proxy is at fault: Microsoft's service health."
        )
    elif answer.code == 503:
        cause = Cause.PROXY_OVERLOADED
        if answer.retry_after is not None:
            said += f"; Retry-After {answer.retry_after:.0f} s"
        step = "Wait; the other proxies take the calls meanwhile. If it lasts: Microsoft's service health."
    else:
        cause = Cause.PROXY_REFUSES
        step = (
            "Microsoft's service health; the other proxies take the calls meanwhile."
            if answer.code >= 500
            else "The reason names what is missing in our OPTIONS: kamailio.cfg, event_route[tm:local-request]."
        )
    return Finding(cause, said, step, (destination.uri,), seen_at=answer.at, patience=patience)


def _no_way(config: Config, evidence: Evidence, destination: Destination) -> Finding | None:
    """What a plain client on this host finds wrong with the way to a proxy, if anything."""
    reach = evidence.reach.get(destination.host)
    if reach is None:
        return None
    where = f"{', '.join(reach.lookup.addresses)} port {config.port}"
    match reach:
        case Reach(tcp=None):
            cause, said = Cause.PROXY_DNS, f"DNS: {reach.lookup.error}"
            step = f"`resolvectl query {destination.host}`; check this host's name servers."
        case Reach(tcp="refused"):
            cause, said = Cause.PROXY_UNREACHABLE, f"{where} refuses TCP"
            step = "Nothing listens there: Microsoft's service health; the other proxies take the calls meanwhile."
        case Reach(tcp="timeout" | "unreachable"):
            cause, said = Cause.PROXY_UNREACHABLE, f"{where}: TCP {reach.tcp}"
            step = f"Check outbound TCP {config.port} in the firewalls, then Microsoft's service health."
        case Reach(tls="untrusted", tls_detail=detail):
            said = f"{where}: its certificate does not verify: {detail}"
            if "mismatch" in detail:
                cause = Cause.PROXY_CERTIFICATE_NAME
                step = f"`resolvectl query {destination.host}`: its address must be Microsoft's."
            elif "expired" in detail or "not yet valid" in detail:
                cause = Cause.PROXY_CERTIFICATE_EXPIRED
                step = "The clock of this machine first: `timedatectl`; else Microsoft's service health."
            else:
                cause = Cause.PROXY_CERTIFICATE_UNTRUSTED
                step = (
                    f"Something stands between us and Microsoft, or Microsoft has a new root: {config.proxy_roots} "
                    "holds those that are accepted."
                )
        case Reach(tls="broken"):
            cause, said = Cause.PROXY_TLS, f"{where} takes TCP but not TLS: {reach.tls_detail}"
            step = "Microsoft drops TLS from addresses whose certificate it does not accept; else: its service health."
        case _:
            return None
    return Finding(cause, said, step, (destination.uri,))


def _silence(
    config: Config,
    evidence: Evidence,
    kamailio: Kamailio,
    destination: Destination,
    answer: Answer | None,
    seen_at: float,
    patience: float,
) -> Finding:
    """No answer, though the way there is free: the handshake with our certificate fails, or silence follows it."""
    reach = evidence.reach.get(destination.host)
    last = f"; its last answer is {evidence.taken_at - answer.at:.0f} s old" if answer else ""
    peers = kamailio.established
    if reach and not isinstance(peers, Unread) and peers.isdisjoint(reach.lookup.addresses):
        return Finding(
            Cause.PROXY_TLS,
            f"takes TCP, but Kamailio completes no TLS handshake with it{last}",
            "`journalctl -u kamailio -n 50` names the TLS alert; Microsoft refuses certificates that it cannot trust.",
            (destination.uri,),
            seen_at=seen_at,
            patience=patience,
        )
    return Finding(
        Cause.PROXY_SILENT,
        f"does not answer our OPTIONS within {config.answer_timeout:.0f} s{last}",
        "Microsoft's service health; the other proxies take the calls meanwhile.",
        (destination.uri,),
        seen_at=seen_at,
        patience=patience,
    )


def knows_no_trunk(config: Config, evidence: Evidence, kamailio: Kamailio) -> bool:
    """The rule for 'waiting' that is spelled out in `verdict`, but for our own side."""
    oldest = evidence.taken_at - 2 * _round_time(config)
    return (
        bool(kamailio.destinations)
        and kamailio.theirs is None
        and all(
            (answer := _answer(evidence, kamailio, destination)) is not None
            and answer.code == 403
            and answer.at >= oldest
            and not _other_contact(config, answer)
            and not _misnamed(evidence, kamailio, destination)
            and not _elsewhere(config, evidence, destination)
            and not _by_hand(destination)
            for destination in kamailio.destinations
        )
    )


def refused_by_all(config: Config, kamailio: Kamailio, finding: Finding) -> bool:
    """Whether every proxy says 403 though Microsoft knew us before: the trunk has gone, and no proxy is at fault."""
    known = [destination for destination in kamailio.destinations if destination.host in config.proxies]
    return finding.cause is Cause.PROXY_FORBIDS and len(finding.destinations) == len(known)


def trunk_missing(config: Config, kamailio: Kamailio, outbound: bool) -> Finding:
    """`outbound`: no name leads here yet, so that nothing follows from what Microsoft does not send."""
    fqdn = config.fqdn
    never = f" to {fqdn}: Microsoft" if outbound else f", and Microsoft never sent OPTIONS to {fqdn}: it"
    answered = [destination.answer.at for destination in kamailio.destinations if destination.answer]
    strange = kamailio.not_here if kamailio.not_here and _is_within(kamailio.not_here.source, config) else None
    return Finding(
        Cause.TRUNK_MISSING,
        f"Our side is ready. Every proxy answers 403{never} knows no enabled trunk of this name"
        + (f"; it has asked for {strange.name}, which is none of our names" if strange else ""),
        f"In Teams PowerShell, once {fqdn} or its domain is verified in the tenant: `New-CsOnlinePSTNGateway "
        f"-Fqdn {fqdn} -SipSignalingPort {config.port} -SendSipOptions $true -Enabled $true`",
        tuple(destination.uri for destination in kamailio.destinations),
        seen_at=min(answered),
        patience=_round_time(config),
    )


def their_options(config: Config, evidence: Evidence, kamailio: Kamailio) -> Iterator[Finding]:
    """Microsoft's own OPTIONS. They are due only once it has answered ours, so without a 2xx nothing is missed here."""
    theirs, now = kamailio.theirs, evidence.taken_at
    if theirs and theirs.at < (_past(kamailio.loaded_at, now) or 0.0):
        theirs = None
    proxies = [one for one in kamailio.destinations if one.host in config.proxies]
    answered = [one.answer for one in proxies if one.answer and _good(config, evidence, kamailio, one)]
    if not answered:
        return
    patience = 2 * config.microsoft_options_interval + SLACK
    first = min(min(answer.since, answer.at) for answer in answered)
    if theirs and _past(theirs.at, now) is None:
        # From before the clock was set back. Where nobody saw when that was, the clock itself tells only by going on.
        clock = evidence.clock
        first = now if not isinstance(clock, Clock) else _past(clock.stepped_at, now) or now
        theirs = None
    admitted = theirs is not None and _is_within(theirs.source, config)
    if theirs and admitted and now <= theirs.at + patience + config.microsoft_options_interval:
        if theirs.code != 200:
            yield Finding(
                Cause.THEIRS_REFUSED,
                f"Microsoft's OPTIONS from {theirs.source} got {theirs.code or 'no answer'} from us",
                "Check the OPTIONS route in kamailio.cfg: `journalctl -u kamailio -n 50`.",
                patience=patience,
            )
        return
    due = first + patience
    if (theirs is None or theirs.at < first) and now < due:
        yield Finding(
            Cause.THEIRS_NOT_YET_SEEN,
            f"Microsoft's own OPTIONS to {config.fqdn} have not come in the {now - first:.0f} s since it answers ours; "
            f"they are due in {max(1, due - now):.0f} s",
            LOOK_AGAIN,
            due=due,
        )
        return
    yield _missing(config, evidence, kamailio, theirs, patience)


def _missing(config: Config, evidence: Evidence, kamailio: Kamailio, theirs: Theirs | None, patience: float) -> Finding:
    """Their OPTIONS do not come. What does come says where they are lost.

    The next step depends only on what stays as it is from one look to the next.
    """
    networks = ", ".join(str(network) for network in config.signalling_networks)
    if theirs is None:
        seen = "have never come since the last start"
    elif not _is_within(theirs.source, config):
        seen = f"came only from {theirs.source}, which is not one of its signalling networks"
    else:
        seen = f"stopped {evidence.taken_at - theirs.at:.0f} s ago"
    said = f"Microsoft answers our OPTIONS, so the trunk exists, but its own to {config.fqdn}:{config.port} {seen}"
    trunk = (
        f"check SipSignalingPort {config.port} and SendSipOptions of the trunk: `Get-CsOnlinePSTNGateway {config.fqdn}`"
    )
    step = f"Open TCP {config.port} for {networks} in the cloud firewall and in nftables (`nft list ruleset`); {trunk}"
    strange = kamailio.not_here
    if strange and _is_within(strange.source, config) and strange.at > evidence.taken_at - patience:
        said += f"; it asks for {strange.name} instead, which is none of our names and gets 404"
        step = (
            "If the name that it asks for is a tenant's: name it in sbc_tenants and run site.yml. Else the trunk has "
            f"another name: `Get-CsOnlinePSTNGateway {config.fqdn}`"
        )
        return Finding(Cause.THEIRS_MISSING, said, step, patience=patience)
    come = evidence.packet_filter.new_connections if isinstance(evidence.packet_filter, PacketFilter) else None
    stand = 0 if isinstance(kamailio.connections, Unread) else _inbound(config, kamailio.connections)
    if stand or (come and theirs is None):
        said += (
            f"; {stand} TLS connections of its stand" if stand else f"; {come} connections of its reached this machine"
        )
        said += ", but no OPTIONS came on them" if theirs is None else ", but nothing comes on them"
    elif come == 0:
        said += "; not one connection of its has reached this machine since nftables was loaded"
    if come == 0:
        step = f"Open TCP {config.port} for {networks} in the cloud firewall: run site.yml. Else {trunk}"
    elif theirs is None and (stand if come is None else come):
        step = (
            "The way in is open, so TLS fails or Microsoft sends nothing: `journalctl -u kamailio -n 50` names TLS "
            f"alerts; {trunk}"
        )
    return Finding(Cause.THEIRS_MISSING, said, step, patience=patience)


def _inbound(config: Config, connections: tuple[Connection, ...]) -> int:
    return sum(one.established and not one.outbound and _is_within(one.peer, config) for one in connections)


def _is_within(address: str, config: Config) -> bool:
    try:
        return any(IPv4Address(address) in network for network in config.signalling_networks)
    except AddressValueError:
        return False
