"""Rules for what lies on our side: Kamailio, its port, the certificate, our name in DNS. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sbc_probe.config import Config
from sbc_probe.findings import Cause, Finding, date
from sbc_probe.model import Certificate, Evidence, Kamailio, Unread


def our_side(config: Config, evidence: Evidence) -> Iterator[Finding]:
    yield from _kamailio(config, evidence)
    yield from _port(config, evidence)
    yield from _certificate(config, evidence)
    yield from _fqdn(config, evidence)


def _kamailio(config: Config, evidence: Evidence) -> Iterator[Finding]:
    match evidence.kamailio:
        case Unread(denied=True, why=why):
            yield Finding(Cause.DENIED, why, "Run it as root, or as a user who may write to this socket.", patience=0)
        case Unread(why=why) if evidence.port.tcp != "open":
            yield Finding(
                Cause.KAMAILIO_DOWN,
                f"{why}; TCP to {config.address}:{config.port}: {evidence.port.tcp}",
                "systemctl status kamailio; journalctl -u kamailio -n 50; then systemctl restart kamailio.",
            )
        case Unread(why=why):
            yield Finding(
                Cause.KAMAILIO_RPC,
                f"Port {config.port} is open, but {why}",
                "journalctl -u kamailio -n 50; if Kamailio hangs, systemctl restart kamailio.",
            )
        case Kamailio(destinations=destinations):
            loaded = {destination.host for destination in destinations}
            if missing := [host for host in config.proxies if host not in loaded]:
                yield Finding(
                    Cause.DESTINATION_MISSING,
                    f"The dispatcher has not loaded {', '.join(missing)}",
                    "Check the names in /etc/kamailio/live/dispatcher.list and that this host resolves them; then "
                    "kamcmd dispatcher.reload.",
                )


def _port(config: Config, evidence: Evidence) -> Iterator[Finding]:
    port = evidence.port
    if port.tcp != "open":
        if isinstance(evidence.kamailio, Kamailio):
            yield Finding(
                Cause.NOT_LISTENING,
                f"Kamailio runs, but TCP to {config.address}:{config.port} from this host: {port.tcp}",
                f"Check `listen` in kamailio.cfg and that {config.address} is on this host: ip addr; ss -ltn.",
            )
        return
    if isinstance(port.certificate, Unread):
        yield Finding(
            Cause.TLS_REFUSED,
            port.certificate.why,
            "Check certificate, key and their permissions in tls.cfg: journalctl -u kamailio -n 50.",
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
        "Check the OPTIONS route in kamailio.cfg: journalctl -u kamailio -n 50.",
    )


def _host_of(contact: str | None) -> str:
    """The host of a Contact header such as `<sip:sbc.example.com:5061;transport=tls>`."""
    uri = (contact or "").partition("<")[2] or (contact or "")
    rest = uri.partition(":")[2]
    return rest.partition(">")[0].partition(";")[0].rpartition("@")[2].partition(":")[0].lower()


def covers(names: tuple[str, ...], host: str) -> bool:
    """Whether one of a certificate's names covers a host; `*` stands for exactly one label (RFC 9525, 6.3)."""
    _, _, parent = host.partition(".")
    return host in names or (bool(parent) and f"*.{parent}" in names)


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
                "certbot certificates; then let its deploy hook install the certificate again.",
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
            "kamcmd tls.reload; its answer must be no error: journalctl -u kamailio -n 20.",
        )
    if why := evidence.port.chain_error:
        yield Finding(
            Cause.CERTIFICATE_CHAIN,
            f"No trusted root is reached from what our port sends: {why}; issuer {wire.issuer}",
            "Serve fullchain.pem, from a CA in Microsoft's Trusted Root Program.",
        )


def _content(config: Config, evidence: Evidence, shown: Certificate) -> Iterator[Finding]:
    if shown.key_type != "RSA":
        yield Finding(
            Cause.CERTIFICATE_KEY_TYPE,
            f"The certificate's key is {shown.key_type}; Microsoft offers ECDHE-RSA suites only",
            f"certbot certonly --key-type rsa -d {config.fqdn}",
        )
    elif isinstance(evidence.port.certificate, Certificate) and not evidence.port.rsa_suites:
        yield Finding(
            Cause.TLS_REFUSED,
            "Our port accepts none of Microsoft's suites (TLS 1.2, ECDHE-RSA)",
            "Check method and cipher_list in tls.cfg.",
        )
    if not covers(shown.names, config.fqdn):
        yield Finding(
            Cause.CERTIFICATE_NAME,
            f"The certificate is for {', '.join(shown.names) or 'no name at all'}, not for {config.fqdn}",
            f"certbot certonly --key-type rsa -d {config.fqdn}; Microsoft refuses TLS or the FQDN otherwise.",
        )
    if evidence.taken_at >= shown.not_after:
        yield Finding(
            Cause.CERTIFICATE_EXPIRED,
            f"The certificate ended on {date(shown.not_after)}",
            "certbot renew; systemctl list-timers certbot.timer; journalctl -u certbot -n 50.",
        )
    if evidence.taken_at < shown.not_before:
        yield Finding(
            Cause.CERTIFICATE_NOT_YET_VALID,
            f"The certificate begins on {date(shown.not_before)}, this host's clock says {date(evidence.taken_at)}",
            "Check the clock: timedatectl.",
        )
    if not shown.server_auth:
        yield Finding(
            Cause.CERTIFICATE_USAGE,
            "The certificate is not meant for servers: its extended key usage lacks serverAuth",
            f"certbot certonly --key-type rsa -d {config.fqdn}",
        )


def _fqdn(config: Config, evidence: Evidence) -> Iterator[Finding]:
    found = evidence.fqdn
    if found.error:
        yield Finding(
            Cause.FQDN_UNRESOLVED if found.negative else Cause.FQDN_UNCHECKED,
            f"DNS for {config.fqdn}: {found.error}",
            f"Make the record: {config.fqdn}. A {config.address}" if found.negative else "resolvectl status",
        )
    elif set(found.addresses) != {config.address}:
        yield Finding(
            Cause.FQDN_ELSEWHERE,
            f"{config.fqdn} resolves to {', '.join(found.addresses)}; this SBC is {config.address}",
            f"Let the name have exactly one record: {config.fqdn}. A {config.address}",
        )
