"""A verdict as JSON for programs and as a table for people.

JSON, schema version 1. A value that could not be read is null, never 0; times are seconds, dates ISO 8601 in UTC.
Fields may be added without a new version.

    schema        1
    scope         "all"; "ours": only what a new configuration can break was judged; "outbound": all but where the names
                  lead and Microsoft's own OPTIONS
    taken_at      when the evidence was gathered
    customer, fqdn, address (the machine's own), cloud
    public_address
                  what the names must lead to: the address reserved for the machine, else its own
    overall       state ("proven", "failed", "unknown", "waiting"), exit_code (0, 1, 2, 3), cause, evidence, next_step;
                  the last three are null when proven
    destinations  one each: uri, host, flags, flags_meaning, latency_ms, answer_age_s, answer_code, answer_reason,
                  verdict (a state), cause (null when proven); flags are null where Kamailio has none; round_trip_ms
                  (of the last answer, latency_ms is the average), retry_after_s, sent, lost (OPTIONS that the next one
                  overtook), answers (how many by status code), all three since Kamailio's start; flapping: turns,
                  per_hour, window_s, share (of that time it answered well), null when it does not flap; dns: addresses,
                  error, null when it was not looked up
    certificate   read_from ("wire", or "disk" when the port shows none), names, key_type, key_bits, not_before,
                  not_after, days_left, life_days, installed_at, issuer, server_auth, client_auth (both reported, only
                  the first judged), same_on_disk, chain_trusted, fingerprint (SHA-256); null when there is none
    renewal       certbot's last run: at, failing, since, attempts, cause, said, advice; null when none is known
    theirs        Microsoft's own last OPTIONS: age_s, source, peer, agent, code, count, codes (how many by our answer);
                  null when none came
    tenants       one each: name, addresses, leads_here (null when DNS did not answer), theirs as above, which may be
                  missing: Microsoft asks for the FQDN, and a tenant's trunk inherits what it finds
    kamailio      version, uptime_s, started_at, memory (total_bytes, used_bytes), connections (inbound, outbound: of
                  TLS, established), not_here (Microsoft's last request for a name that is not ours: age_s, name,
                  source, count); null when it does not answer
    loaded        the configuration that Kamailio works with: at (when it last read a file), differs (the files that are
                  others now); null when not known
    clock         this machine's: synchronized (systemd-timesyncd has lately heard from its servers), offset_s (ahead of
                  server), server, step_s and stepped_at (the last jump that was seen); null when not known
    listening     the addresses on which something listens to our port; null when not known
    packet_filter everybody (true: it keeps nobody out), admitted (networks), new_connections (that it let in since its
                  rules were loaded); null when not known
    findings      all of them, the primary cause first: cause, state, evidence, next_step, destinations (URIs)
    remarks       the same for what is worth knowing but no reason to doubt

docs/status.schema.json says the same to programs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sbc_probe.config import Config
from sbc_probe.findings import SLACK, Cause, Finding, State
from sbc_probe.flapping import Flapping
from sbc_probe.machine import differing
from sbc_probe.model import Certificate, Evidence, Kamailio, Loaded, Lookup, Renewal, Theirs, Unread, connected
from sbc_probe.verdict import DestinationVerdict, Verdict
from sbc_probe.words import TITLES

SCHEMA = 1
DAY = 86400.0
HEADLINES = {
    State.PROVEN: "PROVEN",
    State.FAILED: "NOT PROVEN",
    State.UNKNOWN: "NOT YET KNOWN",
    State.WAITING: "READY, WAITING FOR MICROSOFT",
}


def as_json(config: Config, evidence: Evidence, verdict: Verdict, scope: str = "all") -> dict[str, Any]:
    """The report as described at the top of this file."""
    primary = verdict.findings[0] if verdict.findings else None
    return {
        "schema": SCHEMA,
        "scope": scope,
        "taken_at": _iso(evidence.taken_at),
        "customer": config.customer,
        "fqdn": config.fqdn,
        "address": config.address,
        "public_address": config.public_address,
        "cloud": config.cloud,
        "overall": {
            "state": verdict.state,
            "exit_code": int(verdict.exit_code),
            "cause": primary.cause if primary else None,
            "evidence": primary.evidence if primary else None,
            "next_step": primary.next_step if primary else None,
        },
        "destinations": [_destination(evidence, item) for item in verdict.destinations],
        "certificate": _certificate(evidence),
        "renewal": _renewal(evidence),
        "theirs": _theirs(evidence, theirs_of(evidence)),
        "tenants": [_tenant(config, evidence, name) for name in config.tenants],
        "kamailio": _kamailio(evidence),
        "loaded": _loaded(evidence),
        "clock": _clock(evidence),
        "listening": None if isinstance(evidence.listening, Unread) else list(evidence.listening),
        "packet_filter": _packet_filter(evidence),
        "findings": [_finding(item) for item in verdict.findings],
        "remarks": [_finding(item) for item in verdict.remarks],
    }


def shown_certificate(evidence: Evidence) -> Certificate | None:
    """The certificate that peers see, else the one on disk."""
    for certificate in (evidence.port.certificate, evidence.on_disk):
        if isinstance(certificate, Certificate):
            return certificate
    return None


def theirs_of(evidence: Evidence) -> Theirs | None:
    """Microsoft's own last OPTIONS, where Kamailio knows of any."""
    return evidence.kamailio.theirs if isinstance(evidence.kamailio, Kamailio) else None


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "cause": finding.cause,
        "state": finding.state,
        "evidence": finding.evidence,
        "next_step": finding.next_step,
        "destinations": list(finding.destinations),
    }


def _destination(evidence: Evidence, item: DestinationVerdict) -> dict[str, Any]:
    destination, answer = item.destination, item.destination.answer
    return {
        "uri": destination.uri,
        "host": destination.host,
        "flags": destination.flags or None,
        "flags_meaning": item.flags_meaning,
        "latency_ms": destination.latency_ms,
        "answer_age_s": _seconds(item.answer_age),
        "answer_code": answer.code if answer else None,
        "answer_reason": answer.reason if answer else None,
        "verdict": item.state,
        "cause": item.finding.cause if item.finding else None,
        "round_trip_ms": round(answer.round_trip * 1000, 3) if answer and answer.round_trip is not None else None,
        "retry_after_s": answer.retry_after if answer else None,
        "sent": destination.sent,
        "lost": destination.lost,
        "answers": _codes(destination.answers) if destination.sent is not None else None,
        "flapping": _flapping(item.flapping),
        "dns": _lookup(evidence.proxies.get(destination.host)),
    }


def _codes(codes: dict[int, int]) -> dict[str, int]:
    return {str(code): codes[code] for code in sorted(codes)}


def _flapping(found: Flapping | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "turns": found.turns,
        "per_hour": round(found.per_hour, 1),
        "window_s": round(found.window, 1),
        "share": round(found.share, 3),
    }


def _lookup(found: Lookup | None) -> dict[str, Any] | None:
    return {"addresses": list(found.addresses), "error": found.error} if found else None


def _certificate(evidence: Evidence) -> dict[str, Any] | None:
    wire, disk = evidence.port.certificate, evidence.on_disk
    if (shown := shown_certificate(evidence)) is None:
        return None
    on_wire = isinstance(wire, Certificate)
    return {
        "read_from": "wire" if on_wire else "disk",
        "names": list(shown.names),
        "key_type": shown.key_type,
        "key_bits": shown.key_bits,
        "not_before": _iso(shown.not_before),
        "not_after": _iso(shown.not_after),
        "days_left": round((shown.not_after - evidence.taken_at) / DAY, 1),
        "life_days": round((shown.not_after - shown.not_before) / DAY, 1),
        "installed_at": _iso(evidence.installed_at) if evidence.installed_at is not None else None,
        "issuer": shown.issuer,
        "server_auth": shown.server_auth,
        "client_auth": shown.client_auth,
        "same_on_disk": wire.fingerprint == disk.fingerprint
        if isinstance(wire, Certificate) and isinstance(disk, Certificate)
        else None,
        "chain_trusted": evidence.port.chain_flaw is None if on_wire else None,
        "fingerprint": shown.fingerprint,
    }


def _renewal(evidence: Evidence) -> dict[str, Any] | None:
    if not isinstance(record := evidence.renewal, Renewal):
        return None
    return {
        "at": _iso(record.at),
        "failing": record.failing,
        "since": _iso(record.since) if record.since is not None else None,
        "attempts": record.attempts,
        "cause": record.cause,
        "said": record.said or None,
        "advice": record.advice or None,
    }


def _tenant(config: Config, evidence: Evidence, name: str) -> dict[str, Any]:
    found = evidence.tenants.get(name)
    known = found is not None and (bool(found.addresses) or found.negative)
    theirs = evidence.kamailio.theirs_of_tenants.get(name) if isinstance(evidence.kamailio, Kamailio) else None
    return {
        "name": name,
        "addresses": list(found.addresses) if found else [],
        "leads_here": found.addresses == (config.public_address,) if found and known else None,
        "theirs": _theirs(evidence, theirs),
    }


def _theirs(evidence: Evidence, theirs: Theirs | None) -> dict[str, Any] | None:
    if theirs is None:
        return None
    return {
        "age_s": _seconds(max(0.0, evidence.taken_at - theirs.at)),
        "source": theirs.source,
        "peer": theirs.peer,
        "agent": theirs.agent,
        "code": theirs.code,
        "count": theirs.count,
        "codes": _codes(theirs.codes),
    }


def _kamailio(evidence: Evidence) -> dict[str, Any] | None:
    kamailio, now = evidence.kamailio, evidence.taken_at
    if isinstance(kamailio, Unread):
        return None
    memory, strange = kamailio.memory, kamailio.not_here
    return {
        "version": kamailio.version,
        "uptime_s": _seconds(kamailio.uptime),
        "started_at": _iso(kamailio.loaded_at),
        "memory": None if isinstance(memory, Unread) else {"total_bytes": memory.total, "used_bytes": memory.used},
        "connections": _connections(kamailio),
        "not_here": {
            "age_s": _seconds(now - strange.at),
            "name": strange.name,
            "source": strange.source,
            "count": strange.count,
        }
        if strange
        else None,
    }


def _connections(kamailio: Kamailio) -> dict[str, int] | None:
    if isinstance(kamailio.connections, Unread):
        return None
    inbound, outbound = connected(kamailio.connections)
    return {"inbound": inbound, "outbound": outbound}


def _loaded(evidence: Evidence) -> dict[str, Any] | None:
    if isinstance(loaded := evidence.loaded, Unread):
        return None
    return {"at": _iso(loaded.at), "differs": differing(loaded)}


def _clock(evidence: Evidence) -> dict[str, Any] | None:
    if isinstance(clock := evidence.clock, Unread):
        return None
    return {
        "synchronized": clock.synchronized,
        "offset_s": None if clock.offset is None else round(clock.offset, 3),
        "server": clock.server,
        "step_s": None if clock.step is None else round(clock.step, 3),
        "stepped_at": None if clock.stepped_at is None else _iso(clock.stepped_at),
    }


def _packet_filter(evidence: Evidence) -> dict[str, Any] | None:
    if isinstance(found := evidence.packet_filter, Unread):
        return None
    return {
        "everybody": found.admitted is None,
        "admitted": list(found.admitted or ()),
        "new_connections": found.new_connections,
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def as_text(config: Config, evidence: Evidence, verdict: Verdict, width: int = 100) -> str:
    """The report for people, lines at most `width` columns wide where the content allows it."""
    lines = [summary(config, verdict), ""]
    if verdict.destinations:
        lines += [*_table(verdict), ""]
    first, *more = _certificate_lines(evidence)
    lines += [f"certificate          {first}", *(f"{'':21}{line}" for line in more)]
    lines += [f"Microsoft's OPTIONS  {_theirs_line(evidence)}"]
    lines += [f"{label:<21}{line}" for label, line in _machine_lines(evidence)]
    if config.tenants:
        lines += [f"tenants              {_tenants_line(config, evidence)}"]
    for number, finding in enumerate((*verdict.findings, *verdict.remarks)):
        title = "cause" if number == 0 and verdict.findings else "also"
        lines += ["", f"{title}: {finding.cause}"]
        lines += _wrapped("evidence", finding.evidence, width) + _wrapped("next step", finding.next_step, width)
    return "\n".join(lines)


def headline(verdict: Verdict) -> str:
    rehearsal = verdict.state is State.WAITING and verdict.findings[0].cause is Cause.CERTIFICATE_REHEARSAL
    return "REHEARSAL" if rehearsal else HEADLINES[verdict.state]


def summary(config: Config, verdict: Verdict) -> str:
    """All of it in one line, which is what Nagios shows."""
    whose = f"{headline(verdict)}  {config.customer}: {config.fqdn} ({config.addresses}), cloud {config.cloud}"
    return "; ".join((whose, *(f"{one.cause}: {TITLES[one.cause]}" for one in verdict.findings[:1])))


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"  {label:<11}",
        subsequent_indent=" " * 13,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(verdict: Verdict) -> Iterator[str]:
    rows = [("destination", "flags", "round trip", "last answer", "verdict", "")]
    for item in verdict.destinations:
        destination, answer = item.destination, item.destination.answer
        latency = destination.latency_ms
        rows.append(
            (
                destination.host,
                destination.flags or "-",
                "-" if latency is None else "<1 ms" if latency < 1 else f"{latency:.0f} ms",
                f"{answer.code} {_age(item.answer_age)} ago" if answer else "none",
                _state(item),
                item.finding.cause if item.finding else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
    words = {item.destination.flags: item.flags_meaning for item in verdict.destinations if item.flags_meaning}
    if words:
        yield ""
    for flags in sorted(words):
        yield f"{flags}: {words[flags]}"


def _state(item: DestinationVerdict) -> str:
    flaps = item.flapping if item.finding and item.finding.cause is Cause.PROXY_FLAPPING else None
    return f"flapping, {flaps.per_hour:.0f} turns an hour" if flaps else str(item.state)


def _machine_lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What is known of Kamailio and the clock."""
    found = _kamailio(evidence)
    if found:
        words = [found["version"] or "of an unknown version"]
        words += [f"up {_age(found['uptime_s'])}"] if found["uptime_s"] is not None else []
        if memory := found["memory"]:
            words.append(f"{memory['used_bytes'] / 2**20:.0f} of {memory['total_bytes'] / 2**20:.0f} MiB used")
        if connections := found["connections"]:
            words.append(f"{connections['outbound']} TLS connections out, {connections['inbound']} in")
        yield "Kamailio", ", ".join(words)
        if isinstance(loaded := evidence.loaded, Loaded) and (age := evidence.taken_at - loaded.at) >= -SLACK:
            yield "", f"configuration read {_age(max(0.0, age))} ago"
    clock = _clock(evidence)
    if clock and clock["offset_s"] is not None:
        way = "ahead of" if clock["offset_s"] > 0 else "behind"
        yield "clock", f"{abs(clock['offset_s']):.3f} s {way} {clock['server'] or 'the time server'}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for limit, size, unit in ((600, 1, "s"), (36000, 60, "min"), (3 * DAY, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / DAY:.0f} days"


def _certificate_lines(evidence: Evidence) -> list[str]:
    facts = _certificate(evidence)
    if facts is None:
        return [f"none: {evidence.on_disk.why}" if isinstance(evidence.on_disk, Unread) else "none"]
    bits = f" {facts['key_bits']}" if facts["key_bits"] else ""
    same = {
        True: "the same on the wire and on disk",
        False: "ANOTHER on disk",
        None: f"read from {facts['read_from']} only",
    }
    trusted = {True: "chain trusted", False: "chain NOT trusted", None: "chain not checked"}
    installed = f"installed {facts['installed_at'][:10]}, " if facts["installed_at"] else ""
    return [
        ", ".join(
            (
                f"{facts['days_left']:.0f} of {facts['life_days']:.0f} days left",
                f"{facts['key_type']}{bits}",
                " ".join(facts["names"]) or "no name",
                same[facts["same_on_disk"]],
                trusted[facts["chain_trusted"]],
            )
        ),
        f"{installed}clientAuth {'present' if facts['client_auth'] else 'absent'}, issuer {facts['issuer']}",
    ]


def _tenants_line(config: Config, evidence: Evidence) -> str:
    tenants = [_tenant(config, evidence, name) for name in config.tenants]
    here = [tenant["leads_here"] for tenant in tenants]
    asked = sum(tenant["theirs"] is not None for tenant in tenants)
    words = [f"{here.count(True)} of {len(here)} names lead here"]
    if here.count(None):
        words.append(f"{here.count(None)} not known")
    return ", ".join([*words, f"Microsoft has asked for {asked}"])


def _theirs_line(evidence: Evidence) -> str:
    theirs = theirs_of(evidence)
    if theirs is None:
        return "not seen since the last start" if isinstance(evidence.kamailio, Kamailio) else "not known"
    agent = f" ({theirs.agent})" if theirs.agent else ""
    return f"{_age(evidence.taken_at - theirs.at)} ago from {theirs.source}, answered {theirs.code or 'nothing'}{agent}"
