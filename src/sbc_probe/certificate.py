"""Certificates into facts, by python3-cryptography, which certbot brings along (8 MB of memory, 40 ms to import)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from sbc_probe.model import Certificate, Unread


def from_file(path: str) -> Certificate | Unread:
    """The first certificate of a PEM file."""
    try:
        return _facts(x509.load_pem_x509_certificate(Path(path).read_bytes()))
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    except ValueError:
        return Unread(f"{path} holds no readable certificate")


def from_der(der: bytes) -> Certificate | Unread:
    """A certificate as it came over the wire."""
    try:
        return _facts(x509.load_der_x509_certificate(der))
    except ValueError as error:
        return Unread(f"the certificate cannot be read: {error}")


def from_kamailio(text: str) -> Certificate | Unread:
    """A certificate as Kamailio keeps it, PEM in URL encoding ($tls_peer_urlencoded_cert)."""
    try:
        return _facts(x509.load_pem_x509_certificate(unquote_to_bytes(text)))
    except ValueError as error:
        return Unread(f"the certificate cannot be read: {error}")


def _facts(certificate: x509.Certificate) -> Certificate:
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
        names=tuple(name.lower() for name in names),
        key_type=key_type,
        key_bits=getattr(key, "key_size", None),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        issuer=certificate.issuer.rfc4514_string(),
        server_auth=Usage.SERVER_AUTH in usages,
        client_auth=Usage.CLIENT_AUTH in usages,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )
