"""Rules for what lies on our side: Kamailio, its port, the certificate, our name in DNS. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from sbc_probe import content, renewal
from sbc_probe.config import Config
from sbc_probe.findings import Cause, Finding, date
from sbc_probe.model import Certificate, Destination, Evidence, Kamailio, Lookup, Renewal, Unread

# From here on Microsoft's admin centre warns (s before the end).
BOUGHT_NOTICE = 30 * content.DAY
# Addresses that stand for all of this machine's.
EVERYWHERE = ("0.0.0.0", "::", "*")


def our_side(config: Config, evidence: Evidence) -> Iterator[Finding]:
    yield from _kamailio(config, evidence)
    yield from _port(config, evidence)
    yield from _certificate(config, evidence)
    yield from _key(config, evidence)
    yield from _fqdn(config, evidence)


def _kamailio(config: Config, evidence: Evidence) -> Iterator[Finding]:
    match evidence.kamailio:
        case Unread(denied=True, why=why):
            yield Finding(Cause.DENIED, why, "Run it as root, or as a user who may write to this socket.", patience=0)
        case Unread(why=why) if evidence.port.tcp != "open":
            yield Finding(
                Cause.KAMAILIO_DOWN,
                f"{why}; TCP to {config.address}:{config.port}: {evidence.port.tcp}",
                "`systemctl status kamailio`; `journalctl -u kamailio -n 50`; then `systemctl restart kamailio`.",
            )
        case Unread(why=why):
            yield Finding(
                Cause.KAMAILIO_RPC,
                f"Port {config.port} is open, but {why}",
                "`journalctl -u kamailio -n 50`; if Kamailio hangs, `systemctl restart kamailio`.",
            )
        case Kamailio() if not config.proxies:
            yield Finding(
                Cause.DESTINATION_MISSING,
                "The probe is told of no proxy of Microsoft's, so nothing can be proven",
                "Run site.yml, which writes them into /etc/sbc-probe.json.",
            )
        case Kamailio(destinations=destinations):
            loaded = {destination.host for destination in destinations}
            yield from _unknown(config, destinations)
            if missing := [host for host in config.proxies if host not in loaded]:
                yield Finding(
                    Cause.DESTINATION_MISSING,
                    f"The dispatcher has not loaded {', '.join(missing)}",
                    "Check the names in /etc/kamailio/live/dispatcher.list and that this host resolves them; then "
                    "`kamcmd dispatcher.reload`.",
                )


def _unknown(config: Config, destinations: Iterable[Destination]) -> Iterator[Finding]:
    """Calls would go there, whoever it is and however well it answers."""
    if strange := [one for one in destinations if one.host not in config.proxies]:
        yield Finding(
            Cause.DESTINATION_UNKNOWN,
            f"The dispatcher sends calls to {', '.join(sorted({one.host for one in strange}))} too, which nobody "
            f"declared; the proxies of this cloud are {', '.join(config.proxies)}",
            "Run site.yml, which writes Microsoft's proxies alone into /etc/kamailio/live/dispatcher.list.",
            tuple(one.uri for one in strange),
        )


def _port(config: Config, evidence: Evidence) -> Iterator[Finding]:
    port = evidence.port
    if port.tcp != "open":
        if isinstance(evidence.kamailio, Kamailio):
            yield Finding(
                Cause.NOT_LISTENING,
                f"Kamailio runs, but TCP to {config.address}:{config.port} from this host: {port.tcp}",
                f"Check `listen` in kamailio.cfg and that {config.address} is on this host: `ip addr`; `ss -ltn`.",
            )
        return
    listening = evidence.listening
    if not isinstance(listening, Unread) and not {config.address, *EVERYWHERE} & set(listening):
        yield Finding(
            Cause.NOT_LISTENING,
            f"TCP to {config.address}:{config.port} is answered, but nothing on this machine listens there; what does "
            f"listen to this port: {', '.join(listening) or 'nothing'}",
            f"Something takes connections away from Kamailio: `nft list ruleset`; `ss -ltnp 'sport = :{config.port}'`.",
        )
    if isinstance(port.certificate, Unread):
        yield Finding(
            Cause.TLS_REFUSED,
            port.certificate.why,
            "Check certificate, key and their permissions in tls.cfg: `journalctl -u kamailio -n 50`.",
        )
        return
    match port.options:
        case Unread(why=why):
            evidence_text = f"An OPTIONS sent from this host over TLS got no answer: {why}"
        case reply if reply.code != 200:
            evidence_text = f"An OPTIONS sent from this host over TLS got {reply.code} {reply.reason}"
        case reply if _host_of(reply.contact) != config.fqdn:
            yield Finding(
                Cause.CONTACT_WRONG,
                f"Our Contact is {reply.contact or 'missing'}; Microsoft answers 403 to any host but {config.fqdn}",
                f"Let kamailio.cfg send Contact: <sip:{config.fqdn}:{config.port};transport=tls>.",
            )
            return
        case _:
            return
    yield Finding(
        Cause.OPTIONS_UNANSWERED,
        evidence_text,
        "Check the OPTIONS route in kamailio.cfg: `journalctl -u kamailio -n 50`.",
    )


def _host_of(contact: str | None) -> str:
    """The host of a Contact header such as `<sip:sbc.example.com:5061;transport=tls>`."""
    uri = (contact or "").partition("<")[2] or (contact or "")
    rest = uri.partition(":")[2]
    return rest.partition(">")[0].partition(";")[0].rpartition("@")[2].partition(":")[0].lower()


def _certificate(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """The one that peers get to see counts; the one on disk stands in for it while the port says nothing."""
    wire, disk = evidence.port.certificate, evidence.on_disk
    if isinstance(disk, Unread):
        if disk.denied:
            yield Finding(Cause.DENIED, disk.why, "Run it as root, or let the probe's user read it.", patience=0)
        else:
            yield Finding(
                Cause.CERTIFICATE_UNREADABLE,
                disk.why,
                "Run site.yml, which installs it again.",
            )
    shown = wire if isinstance(wire, Certificate) else disk
    if isinstance(shown, Unread):
        return
    yield from _content(config, evidence, shown)
    if isinstance(wire, Unread):
        return
    if isinstance(disk, Certificate) and wire.fingerprint != disk.fingerprint:
        yield Finding(
            Cause.CERTIFICATE_NOT_LOADED,
            f"The wire shows {wire.fingerprint[:16]}… (until {date(wire.not_after)}), "
            f"on disk is {disk.fingerprint[:16]}… (until {date(disk.not_after)})",
            "`kamcmd tls.reload`; its answer must be no error: `journalctl -u kamailio -n 20`.",
        )
    if (flaw := evidence.port.chain_flaw) is None:
        return
    if config.rehearsal and not flaw.incomplete:
        yield Finding(
            Cause.CERTIFICATE_REHEARSAL,
            f"The certificate is a rehearsal's, which nobody trusts: {flaw.why}; Microsoft refuses it",
            "Set certificate_directory: production and run site.yml, which replaces it while all goes on.",
        )
    else:
        yield content.untrusted(flaw, config.cloud, config.issued_by, "What our port sends")


def _content(config: Config, evidence: Evidence, shown: Certificate) -> Iterator[Finding]:
    yield from content.flaws(shown, config.certificate_names, evidence.taken_at, config.issued_by)
    yield from content.intermediate_flaws(evidence.port.intermediates, evidence.taken_at, config.issued_by)
    port = evidence.port
    if shown.key_type == "RSA" and isinstance(port.certificate, Certificate) and not port.rsa_suites:
        yield Finding(
            Cause.TLS_REFUSED,
            "Our port accepts none of Microsoft's suites (TLS 1.2, ECDHE-RSA)",
            "Check method and cipher_list in tls.cfg.",
        )
    yield from _ending(config, evidence, shown)


def _key(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """Only root may read the private key; whoever may not has nothing to say of it."""
    disk = evidence.on_disk
    match evidence.key:
        case Unread(denied=False, why=why):
            yield Finding(Cause.CERTIFICATE_KEY_UNREADABLE, why, "Run site.yml, which installs it again.")
        case str(fingerprint) if isinstance(disk, Certificate) and fingerprint != disk.key_fingerprint:
            yield content.mismatch(config.issued_by, f"{config.private_key} and {config.certificate}")


def _ending(config: Config, evidence: Evidence, shown: Certificate) -> Iterator[Finding]:
    now, ends = evidence.taken_at, shown.not_after
    expired = now >= ends
    left = f"ends in {(ends - now) / content.DAY:.0f} days, on {date(ends)}"
    if config.issued_by == "files":
        if not expired and ends - now <= BOUGHT_NOTICE:
            step = content.replacement("files", config.certificate_names)
            yield Finding(Cause.CERTIFICATE_ENDING, f"The certificate {left}", content.sentence(f"buy another, {step}"))
        return
    if not expired and now >= _overdue(shown):
        yield Finding(
            Cause.CERTIFICATE_ENDING,
            f"The certificate {left}, and certbot should have renewed it long ago",
            "`systemctl list-timers certbot.timer`; `journalctl -u certbot -n 50`; then `systemctl start certbot`.",
        )
    match evidence.renewal:
        case Renewal(failing=True) as record if (evidence.installed_at or 0) <= record.at:
            yield _failing(record, shown, expired)


def _overdue(certificate: Certificate) -> float:
    """When certbot should have renewed it, and a tenth of its life more to try again and again."""
    return content.renewal_due(certificate) + (certificate.not_after - certificate.not_before) / 10


def _failing(record: Renewal, shown: Certificate, expired: bool) -> Finding:
    times = "once" if record.attempts == 1 else f"{record.attempts} times"
    since = f"since {date(record.since)}" if record.since and record.attempts > 1 else f"on {date(record.at)}"
    end = f"{'ended' if expired else 'serves on until'} {date(shown.not_after)}"
    return Finding(
        Cause.RENEWAL_FAILING,
        f"certbot failed {times} {since}, {record.cause}: {record.said or 'no words'}; the old certificate {end}",
        f"{renewal.advice(record)} {renewal.NEXT_TRY}",
        grave=expired,
    )


def _fqdn(config: Config, evidence: Evidence) -> Iterator[Finding]:
    found = evidence.fqdn
    if found.error:
        yield Finding(
            Cause.FQDN_UNRESOLVED if found.negative else Cause.FQDN_UNCHECKED,
            f"DNS for {config.fqdn}: {found.error}",
            f"Make the record: {config.fqdn}. A {config.public_address}" if found.negative else "`resolvectl status`",
        )
    elif set(found.addresses) != {config.public_address}:
        yield Finding(
            Cause.FQDN_ELSEWHERE,
            f"{config.fqdn} resolves to {', '.join(found.addresses)}; this SBC is {config.public_address}",
            f"Let the name have exactly one record: {config.fqdn}. A {config.public_address}",
        )


def tenants(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """Every tenant's name must lead here and be known to Kamailio. The same fault of several is one finding."""
    wrong: dict[Cause, dict[str, str]] = {}
    for name, found in evidence.tenants.items():
        if cause := _astray(config, found):
            wrong.setdefault(cause, {})[name] = found.error or f"resolves to {', '.join(found.addresses)}"
    for cause, said in wrong.items():
        if cause is Cause.TENANT_UNCHECKED:
            step = "`resolvectl status`"
        else:
            step = (
                "Run site.yml, or let each name have exactly one record where the zone is hosted: "
                f"NAME. A {config.public_address}"
            )
        where = "" if cause is Cause.TENANT_UNCHECKED else f"; this SBC is {config.public_address}"
        yield Finding(cause, "; ".join(f"{name}: {what}" for name, what in said.items()) + where, step)
    known = evidence.kamailio.tenants if isinstance(evidence.kamailio, Kamailio) else frozenset(config.tenants)
    if not isinstance(known, Unread) and (strange := [name for name in config.tenants if name not in known]):
        yield Finding(
            Cause.TENANT_NOT_LOADED,
            f"Kamailio answers 404 to whoever asks for {', '.join(strange)}: it has not loaded the name",
            "`kamcmd permissions.addressReload`; else run site.yml, which writes /etc/kamailio/live/tenants.list.",
        )


def _astray(config: Config, found: Lookup) -> Cause | None:
    if found.error:
        return Cause.TENANT_UNRESOLVED if found.negative else Cause.TENANT_UNCHECKED
    return None if set(found.addresses) == {config.public_address} else Cause.TENANT_ELSEWHERE


def clouds(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """Microsoft's networks and names change now and then; nothing on this machine would notice."""
    if config.clouds_reviewed is None:
        return
    age = datetime.fromtimestamp(evidence.taken_at, UTC).date() - config.clouds_reviewed
    if age.days > 365:
        yield Finding(
            Cause.CLOUDS_OUTDATED,
            f"The table of Microsoft's clouds was last compared with Microsoft's pages on {config.clouds_reviewed}, "
            f"{age.days} days ago: roles/sbc/vars/main/clouds.yml",
            "Compare it with the sources that it names, write the day into sbc_clouds_reviewed and run site.yml.",
        )
