"""What a certificate says of itself: its key, names, dates, use, and the root that its chain leads to. Pure.

The one place that judges it: on the droplet for what Kamailio serves and what lies on disk, on the controller
(`judge_files`) for a certificate that a customer brings along, before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sbc_probe.findings import Cause, Finding, date
from sbc_probe.model import Certificate, ChainFlaw, Unread

DAY = 86400.0
# Below this, Debian's OpenSSL refuses the key, and so does every authority (CA/Browser Forum, Baseline Requirements).
RSA_BITS = 2048
# Who accepts which roots, where that is not every root of Microsoft's Trusted Root Program.
ROOTS = {
    "gcc_high": "Microsoft's GCC High accepts DigiCert's roots only",
    "dod": "Microsoft's DoD accepts DigiCert's roots only",
}


def replacement(issued_by: str, names: Sequence[str]) -> str:
    """How to get another certificate, without a capital and a full stop."""
    if issued_by == "files":
        return "replace the files that sbc_certificate_files names and run site.yml"
    return f"run site.yml, which asks certbot for an RSA certificate for {', '.join(names)}"


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def covers(names: Sequence[str], host: str) -> bool:
    """Whether one of a certificate's names covers a host; `*` stands for exactly one label (RFC 9525, 6.3)."""
    _, _, parent = host.partition(".")
    return host in names or (bool(parent) and f"*.{parent}" in names)


def renewal_due(certificate: Certificate) -> float:
    """From when on certbot 4.0 renews it: when a third of its life is left, half of a life below ten days.

    Source: certbot's storage.should_autorenew.
    """
    life = certificate.not_after - certificate.not_before
    return certificate.not_after - (life / 2 if life < 10 * DAY else life / 3)


def flaws(shown: Certificate, names: Sequence[str], now: float, issued_by: str) -> Iterator[Finding]:
    """What the certificate itself is not fit for; `names` are those that it has to carry."""
    step = replacement(issued_by, names)
    if shown.key_type != "RSA":
        yield Finding(
            Cause.CERTIFICATE_KEY_TYPE,
            f"The certificate's key is {shown.key_type}; Microsoft offers ECDHE-RSA suites only",
            sentence(step),
        )
    elif shown.key_bits is not None and shown.key_bits < RSA_BITS:
        yield Finding(
            Cause.CERTIFICATE_KEY_TYPE,
            f"The certificate's RSA key has {shown.key_bits} bits; OpenSSL here wants {RSA_BITS} at least",
            sentence(step),
        )
    if missing := [name for name in names if not covers(shown.names, name)]:
        yield Finding(
            Cause.CERTIFICATE_NAME,
            f"The certificate is for {', '.join(shown.names) or 'no name at all'}, not for {', '.join(missing)}",
            sentence(f"{step}; Microsoft refuses TLS or the FQDN otherwise"),
        )
    if now >= shown.not_after:
        yield Finding(
            Cause.CERTIFICATE_EXPIRED,
            f"The certificate ended on {date(shown.not_after)}",
            sentence(step)
            if issued_by == "files"
            else "`certbot renew`; `systemctl list-timers certbot.timer`; `journalctl -u certbot -n 50`.",
        )
    if now < shown.not_before:
        yield Finding(
            Cause.CERTIFICATE_NOT_YET_VALID,
            f"The certificate begins on {date(shown.not_before)}, the clock here says {date(now)}",
            f"Check the clock (`timedatectl`); if it is right, {step}."
            if issued_by == "files"
            else "Check the clock: `timedatectl`.",
        )
    if not shown.server_auth:
        yield Finding(
            Cause.CERTIFICATE_USAGE,
            "The certificate is not meant for servers: its extended key usage lacks serverAuth",
            sentence(step),
        )


def intermediate_flaws(others: Iterable[Certificate], now: float, issued_by: str) -> Iterator[Finding]:
    """What is wrong with the certificates that come after our own."""
    for other in others:
        if now >= other.not_after:
            yield Finding(
                Cause.CERTIFICATE_EXPIRED,
                f"The chain's certificate {other.subject} ended on {date(other.not_after)}",
                "Replace it in the chain that sbc_certificate_files names and run site.yml."
                if issued_by == "files"
                else "`certbot renew --force-renewal`, which brings the authority's present chain.",
            )


def untrusted(flaw: ChainFlaw, cloud: str, issued_by: str, where: str) -> Finding:
    """What is said of a chain that leads to no accepted root; `where` is what shows it, as the sentence's subject."""
    accepted = ROOTS.get(cloud)
    if flaw.incomplete:
        return Finding(
            Cause.CERTIFICATE_INCOMPLETE,
            f"{where} lacks an intermediate certificate: {flaw.why}",
            "Put the intermediates behind the certificate in the chain that sbc_certificate_files names; run site.yml."
            if issued_by == "files"
            else "Serve certbot's fullchain.pem, not its cert.pem: run site.yml.",
        )
    if accepted and issued_by != "files":
        step = "buy a certificate of DigiCert's, name its files in sbc_certificate_files and run site.yml"
    elif issued_by == "files":
        step = f"get a certificate of an accepted authority, {replacement(issued_by, ())}"
    else:
        step = "set certificate_directory to an authority of Microsoft's Trusted Root Program and run site.yml"
    return Finding(
        Cause.CERTIFICATE_UNTRUSTED,
        f"{where} leads to no accepted root: {flaw.why}" + (f"; {accepted}" if accepted else ""),
        sentence(step),
    )


def mismatch(issued_by: str, where: str) -> Finding:
    """The private key is another certificate's."""
    return Finding(
        Cause.CERTIFICATE_KEY_MISMATCH,
        f"The private key does not belong to the certificate: {where}",
        "Name the key that the certificate was made for in sbc_certificate_files and run site.yml."
        if issued_by == "files"
        else "Run site.yml, which installs certbot's pair of both again.",
    )


def judge_files(
    chain: bytes,
    key: bytes | None,
    names: Sequence[str],
    roots: bytes | None,
    now: float,
    cloud: str = "commercial",
) -> list[Finding]:
    """Judge a certificate that a customer brings, ranked as in `Cause`; nothing is found where all is in order.

    `chain` and `roots` are PEM, `key` too; what is None is not judged. `names` are those that Microsoft asks for, all
    of which must be covered. Nothing of the key's content gets into a finding.
    """
    from cryptography import x509

    from sbc_probe import certificate

    step = sentence(replacement("files", names))
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        leaf, *others = [certificate.facts(one) for one in certificates]
        accepted = None if roots is None else x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        return [Finding(Cause.CERTIFICATE_UNREADABLE, f"The chain holds no readable certificate: {error}", step)]
    if others and certificate.is_authority(certificates[0]):
        return [
            Finding(
                Cause.CERTIFICATE_UNREADABLE,
                f"The chain begins with an authority's certificate, {leaf.subject}",
                "Put the SBC's own certificate first, then its intermediates, and run site.yml.",
            )
        ]
    found = [*flaws(leaf, names, now, "files"), *intermediate_flaws(others, now, "files")]
    if flaw := certificate.chain_flaw(certificates, accepted):
        found.append(untrusted(flaw, cloud, "files", "The chain"))
    match key if key is None else certificate.key_from_pem(key, "The file of the private key"):
        case Unread(why=why):
            found.append(Finding(Cause.CERTIFICATE_KEY_UNREADABLE, why, step))
        case str(fingerprint) if fingerprint != leaf.key_fingerprint:
            found.append(mismatch("files", f"the certificate is {leaf.subject}"))
    ranks = list(Cause)
    return sorted(found, key=lambda finding: ranks.index(finding.cause))
