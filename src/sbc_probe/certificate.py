"""Certificates into facts, by python3-cryptography, which certbot brings along.

Within the probe only a child of `parsed` imports this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from sbc_probe.model import Certificate, ChainFlaw, Unread


def answer() -> None:
    """Answer the questions of `parsed`, JSON on standard input, on standard output, in the same order.

    ["facts", DER] gives the fields of a Certificate or why it cannot be read; ["key", PEM, path] a fingerprint and why
    there is none; ["chain", roots as PEM, DER, ...] a ChainFlaw's fields or null. DER is in hex.
    """
    json.dump([_answer(*question) for question in json.load(sys.stdin)], sys.stdout)


def _answer(what: str, *content: str) -> Any:
    match what, content:
        case "facts", (der,):
            try:
                return asdict(facts(x509.load_der_x509_certificate(bytes.fromhex(der))))
            except ValueError as error:
                return f"the certificate cannot be read: {error}"
        case "key", (pem, path):
            found = key_from_pem(pem.encode(), path)
            return (None, found.why) if isinstance(found, Unread) else (found, None)
        case "chain", (roots, *ders):
            try:
                chain = [x509.load_der_x509_certificate(bytes.fromhex(der)) for der in ders]
                flaw = chain_flaw(chain, x509.load_pem_x509_certificates(roots.encode()))
            except ValueError:
                flaw = None
            return (flaw.incomplete, flaw.why) if flaw else (False, None)
        case _:
            raise ValueError(what)


def key_from_pem(pem: bytes, what: str) -> str | Unread:
    """The fingerprint of the public half of a private key; `what` names it in a complaint."""
    try:
        return _fingerprint(load_pem_private_key(pem, None).public_key())
    except TypeError:
        return Unread(f"{what} is locked by a passphrase")
    except ValueError:
        return Unread(f"{what} holds no readable private key")


def facts(certificate: x509.Certificate) -> Certificate:
    """What is judged of a certificate. ValueError: some part of it cannot be read."""
    key = certificate.public_key()
    match key:
        case rsa.RSAPublicKey():
            key_type = "RSA"
        case ec.EllipticCurvePublicKey():
            key_type = "ECDSA"
        case _:
            key_type = type(key).__name__.removesuffix("PublicKey")
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = {Usage.SERVER_AUTH, Usage.CLIENT_AUTH}
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        names=tuple(name.lower() for name in names),
        key_type=key_type,
        key_bits=getattr(key, "key_size", None),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        issuer=certificate.issuer.rfc4514_string(),
        server_auth=Usage.SERVER_AUTH in usages,
        client_auth=Usage.CLIENT_AUTH in usages,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        key_fingerprint=_fingerprint(key),
    )


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def chain_flaw(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate] | None) -> ChainFlaw | None:
    """Follow the issuers from the first certificate to a root; None: one was reached, or no roots say where to end.

    A server does not send its root, so where more than one certificate was sent and the last one's issuer is no trusted
    root, it cannot be told whether one in between is missing.
    """
    last, rest = chain[0], list(chain[1:])
    while True:
        if any(last == root or _issued(last, root) for root in roots or ()):
            return None
        issuer = next((one for one in rest if is_authority(one) and _issued(last, one)), None)
        if issuer is None:
            break
        rest.remove(issuer)
        last = issuer
    subject, issued_by = last.subject.rfc4514_string(), last.issuer.rfc4514_string()
    if last.issuer == last.subject:
        known_to_fail = roots is not None or last is chain[0]
        return ChainFlaw(False, f"it ends at {subject}, which issued itself") if known_to_fail else None
    if last is chain[0]:
        return ChainFlaw(True, f"the certificate comes without that of its issuer, {issued_by}")
    if roots is None:
        return None
    return ChainFlaw(False, f"it ends at {subject}, whose issuer, {issued_by}, is no accepted root")


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    if child.issuer != parent.subject:
        return False
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fingerprint(key: PublicKeyTypes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()
