"""Rules for the way to Microsoft and back: every destination, and Microsoft's own OPTIONS. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address

from sbc_probe.config import Config
from sbc_probe.content import covers
from sbc_probe.findings import SLACK, Cause, Finding
from sbc_probe.flags import meaning
from sbc_probe.model import Destination, Evidence, Kamailio, Misnamed, Reach, Unread


def _round_time(config: Config) -> float:
    """How long (s) one round of OPTIONS takes at most, from one to the answer to the next."""
    return config.options_interval + config.answer_timeout + SLACK


def _good(config: Config, evidence: Evidence, kamailio: Kamailio, destination: Destination) -> bool:
    """The last word of this destination is a 2xx since the last start, at most one round overdue."""
    answer = destination.answer
    oldest = max(kamailio.loaded_at, evidence.taken_at - 2 * _round_time(config))
    return answer is not None and answer.at >= oldest and 200 <= answer.code < 300


def _refused(destination: Destination, kamailio: Kamailio) -> bool:
    answer = destination.answer
    return answer is not None and answer.at >= kamailio.loaded_at and not 200 <= answer.code < 300


def _misnamed(destination: Destination, kamailio: Kamailio) -> Misnamed | None:
    """Since the last start its last certificate was one that does not carry its name (RFC 5922, 7.3).

    Kamailio hangs up on such a peer. Where one that had its way all the same answered, its certificate tells.
    """
    answer, misnamed = destination.answer, destination.misnamed
    if misnamed and misnamed.at >= max(kamailio.loaded_at, answer.at if answer else 0):
        return misnamed
    if answer is not None and answer.at >= kamailio.loaded_at and not covers(answer.names, destination.host):
        return Misnamed(answer.at, answer.names)
    return None


def flaw_of(config: Config, evidence: Evidence, kamailio: Kamailio, destination: Destination) -> Finding | None:
    """What keeps this destination from being proven AP; the evidence is said of it, without its name."""
    now, flags, answer, sent_at = evidence.taken_at, destination.flags, destination.answer, destination.sent_at
    good = _good(config, evidence, kamailio, destination)
    answer_time, round_time = config.answer_timeout + SLACK, _round_time(config)
    begin = sent_at if sent_at is not None else kamailio.loaded_at
    overdue = now > begin + answer_time
    answered = answer is not None and answer.at >= begin

    if flags[:1] == "D" or flags == "IX":
        return _disabled(destination)
    misnamed = _misnamed(destination, kamailio)
    if misnamed and (misnamed.at >= begin or not overdue):
        return _another(destination, misnamed, round_time)
    if _refused(destination, kamailio) and (answered or not overdue):
        return _refusal(destination, round_time)
    if found := _no_way(config, evidence, destination):
        return found
    if now > begin + 2 * round_time:
        return _pings_stopped(config, destination, now - begin)
    if answered:
        if flags == "AP":
            return None
        if flags[:1] == "I":
            return _not_active(destination, round_time)
        return _pending(destination, begin + round_time, now)

    if good and flags == "AP":
        return None
    if flags[:1] != "I":
        if good:
            return _pending(destination, begin + round_time, now)
        if now < kamailio.loaded_at + round_time:
            return _pending(destination, kamailio.loaded_at + round_time, now)
        if not overdue:
            return _pending(destination, begin + answer_time, now)
    return _silence(config, evidence, kamailio, destination, begin if overdue else -math.inf, round_time)


def _disabled(destination: Destination) -> Finding:
    return Finding(
        Cause.DESTINATION_DISABLED,
        f"{destination.flags}, taken out by hand",
        f"kamcmd dispatcher.set_state ap 1 '{destination.uri}'",
        (destination.uri,),
    )


def _another(destination: Destination, misnamed: Misnamed, patience: float) -> Finding:
    return Finding(
        Cause.PROXY_CERTIFICATE_NAME,
        f"{destination.flags}; what answers there has a certificate for "
        f"{', '.join(misnamed.names) or 'no name at all'}, not for it",
        f"resolvectl query {destination.host}: its address must be Microsoft's; else somebody answers in its place.",
        (destination.uri,),
        seen_at=misnamed.at,
        patience=patience,
    )


def _pings_stopped(config: Config, destination: Destination, seconds: float) -> Finding:
    return Finding(
        Cause.PINGS_STOPPED,
        f"{destination.flags}; Kamailio sent it no OPTIONS for {seconds:.0f} s, though the interval is "
        f"{config.options_interval:.0f} s",
        "journalctl -u kamailio -n 50; systemctl restart kamailio",
        (destination.uri,),
    )


def _not_active(destination: Destination, patience: float) -> Finding:
    return Finding(
        Cause.NOT_ACTIVE,
        f"answers with 2xx, and yet the dispatcher holds it {destination.flags}: {meaning(destination.flags)}",
        f"kamcmd dispatcher.set_state ap 1 '{destination.uri}'",
        (destination.uri,),
        patience=patience,
    )


def _pending(destination: Destination, due: float, now: float) -> Finding:
    return Finding(
        Cause.NOT_YET_KNOWN,
        f"{destination.flags}, not yet proven; an answer is due in {max(1, due - now):.0f} s",
        f"Look again in {max(1, due - now):.0f} s.",
        (destination.uri,),
        due=due,
    )


def _refusal(destination: Destination, patience: float) -> Finding:
    answer = destination.answer
    assert answer is not None
    said = f"answers our OPTIONS with {answer.code} {answer.reason}".rstrip()
    if answer.code == 403:
        cause = Cause.PROXY_FORBIDS
        step = (
            "Our Contact carries the FQDN. If the trunk is enabled and its FQDN spelled like ours "
            "(Get-CsOnlinePSTNGateway), this proxy is at fault: Microsoft's service health."
        )
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
            step = f"resolvectl query {destination.host}; check this host's name servers."
        case Reach(tcp="refused"):
            cause, said = Cause.PROXY_UNREACHABLE, f"{where} refuses TCP"
            step = "Nothing listens there: Microsoft's service health; the other proxies take the calls meanwhile."
        case Reach(tcp="timeout" | "unreachable"):
            cause, said = Cause.PROXY_UNREACHABLE, f"{where}: TCP {reach.tcp}"
            step = f"Check outbound TCP {config.port} in the firewalls, then Microsoft's service health."
        case Reach(tls="untrusted"):
            expired = "expired" in reach.tls_detail
            cause = Cause.PROXY_CERTIFICATE_EXPIRED if expired else Cause.PROXY_CERTIFICATE_UNTRUSTED
            said = f"{where}: its certificate does not verify: {reach.tls_detail}"
            step = "Check ca-certificates and the clock (timedatectl); else something stands between us and Microsoft."
        case Reach(tls="broken"):
            cause, said = Cause.PROXY_TLS, f"{where} takes TCP but not TLS: {reach.tls_detail}"
            step = "Microsoft drops TLS from addresses whose certificate it does not accept; else: its service health."
        case _:
            return None
    return Finding(cause, said, step, (destination.uri,))


def _silence(
    config: Config, evidence: Evidence, kamailio: Kamailio, destination: Destination, seen_at: float, patience: float
) -> Finding:
    """No answer, though the way there is free: the handshake with our certificate fails, or silence follows it."""
    reach = evidence.reach.get(destination.host)
    last = f"; its last answer is {evidence.taken_at - destination.answer.at:.0f} s old" if destination.answer else ""
    peers = kamailio.established
    if reach and not isinstance(peers, Unread) and peers.isdisjoint(reach.lookup.addresses):
        return Finding(
            Cause.PROXY_TLS,
            f"takes TCP, but Kamailio completes no TLS handshake with it{last}",
            "journalctl -u kamailio -n 50 names the TLS alert; Microsoft refuses certificates that it does not trust.",
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


def knows_no_trunk(kamailio: Kamailio) -> bool:
    """The rule for 'waiting' that is spelled out at the top of this file, but for our own side."""
    return (
        bool(kamailio.destinations)
        and kamailio.theirs is None
        and all(
            _refused(destination, kamailio)
            and not _misnamed(destination, kamailio)
            and destination.answer is not None
            and destination.answer.code == 403
            for destination in kamailio.destinations
        )
    )


def refused_by_all(kamailio: Kamailio, finding: Finding) -> bool:
    """Whether every proxy says 403 though Microsoft knew us before: the trunk has gone, and no proxy is at fault."""
    return finding.cause is Cause.PROXY_FORBIDS and len(finding.destinations) == len(kamailio.destinations)


def trunk_missing(config: Config, kamailio: Kamailio) -> Finding:
    answered = [destination.answer.at for destination in kamailio.destinations if destination.answer]
    return Finding(
        Cause.TRUNK_MISSING,
        f"Our side is ready. Every proxy answers 403, and Microsoft never sent OPTIONS to {config.fqdn}: "
        "it knows no enabled trunk of this name",
        f"In Teams PowerShell, once {config.fqdn} or its domain is verified in the tenant: New-CsOnlinePSTNGateway "
        f"-Fqdn {config.fqdn} -SipSignalingPort {config.port} -SendSipOptions $true -Enabled $true",
        tuple(destination.uri for destination in kamailio.destinations),
        seen_at=min(answered),
        patience=_round_time(config),
    )


def their_options(config: Config, evidence: Evidence, kamailio: Kamailio) -> Iterator[Finding]:
    """Microsoft's own OPTIONS. They are due only once it has answered ours, so without a 2xx nothing is missed here."""
    theirs, now = kamailio.theirs, evidence.taken_at
    answered = [d.answer.since for d in kamailio.destinations if d.answer and _good(config, evidence, kamailio, d)]
    if not answered:
        return
    patience = 2 * config.microsoft_options_interval + SLACK
    admitted = theirs is not None and _is_within(theirs.source, config)
    if theirs and admitted and now <= theirs.at + patience + config.microsoft_options_interval:
        if theirs.code != 200:
            yield Finding(
                Cause.THEIRS_REFUSED,
                f"Microsoft's OPTIONS from {theirs.source} got {theirs.code or 'no answer'} from us",
                "Check the OPTIONS route in kamailio.cfg: journalctl -u kamailio -n 50.",
                patience=patience,
            )
        return
    first = min(answered)
    due = first + patience
    if (theirs is None or theirs.at < first) and now < due:
        yield Finding(
            Cause.THEIRS_NOT_YET_SEEN,
            f"Microsoft's own OPTIONS to {config.fqdn} have not come in the {now - first:.0f} s since it answers ours; "
            f"they are due in {max(1, due - now):.0f} s",
            f"Look again in {max(1, due - now):.0f} s.",
            due=due,
        )
        return
    if theirs is None:
        seen = "have never come since the last start"
    elif not admitted:
        seen = f"came only from {theirs.source}, which is not one of its signalling networks"
    else:
        seen = f"stopped {now - theirs.at:.0f} s ago"
    networks = ", ".join(str(network) for network in config.signalling_networks)
    yield Finding(
        Cause.THEIRS_MISSING,
        f"Microsoft answers our OPTIONS, so the trunk exists, but its own to {config.fqdn}:{config.port} {seen}",
        f"Open TCP {config.port} for {networks} in the cloud firewall and in nftables (nft list ruleset); "
        f"check SipSignalingPort {config.port} and SendSipOptions of the trunk: Get-CsOnlinePSTNGateway {config.fqdn}",
        patience=patience,
    )


def _is_within(address: str, config: Config) -> bool:
    try:
        return any(IPv4Address(address) in network for network in config.signalling_networks)
    except AddressValueError:
        return False
