"""The lab's stand-ins for public CAs without ACME: the one behind Microsoft's certificates, and one that sells.

Leaves are for serverAuth only, as public CAs issue them now, and RSA throughout unless somebody asks for a fault.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

KEY_BITS = 2048
RENEW_WITHIN = timedelta(days=30)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
SERVER_AUTH = (ExtendedKeyUsageOID.SERVER_AUTH,)

SOLD_FOR = timedelta(days=199)
Fault = Literal[
    "expired",
    "not_yet_valid",
    "wrong_name",
    "ecdsa",
    "no_intermediate",
    "untrusted_root",
    "no_server_auth",
    "key_mismatch",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
# What may be wrong with the certificate that one of Microsoft's proxies shows.
CertificateFault = Literal["misnamed", "expired", "untrusted"]
CERTIFICATE_FAULTS: tuple[CertificateFault, ...] = get_args(CertificateFault)


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A root, or one below it, that issues."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> str:
        return _pem(self.certificate).decode()

    @classmethod
    def make(cls, name: str, lifetime: timedelta = timedelta(days=3650)) -> Authority:
        """A new root called `name`."""
        key = rsa.generate_private_key(65537, KEY_BITS)
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), datetime.now(UTC) - timedelta(hours=1), lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    def subordinate(self, name: str, lifetime: timedelta = timedelta(days=3000)) -> Authority:
        """A new intermediate called `name`, for TLS servers only."""
        key = rsa.generate_private_key(65537, KEY_BITS)
        begin = datetime.now(UTC) - timedelta(hours=1)
        issuer_key = self.key.public_key()
        certificate = (
            _builder(_name(name), self.certificate.subject, key.public_key(), begin, lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(SERVER_AUTH), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Authority(certificate, key)

    def issue(
        self,
        names: Iterable[str],
        *,
        key: PrivateKey | None = None,
        usages: Collection[x509.ObjectIdentifier] = SERVER_AUTH,
        not_before: datetime | None = None,
        lifetime: timedelta = timedelta(days=365),
    ) -> tuple[x509.Certificate, PrivateKey]:
        """A leaf for `names`, the first of which is its CN; `usages` is its extended key usage, left out if empty."""
        first, *others = names
        key = key or rsa.generate_private_key(65537, KEY_BITS)
        begin = not_before or datetime.now(UTC) - timedelta(hours=1)
        issuer_key = self.key.public_key()
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in (first, *others)])
        builder = (
            _builder(_name(first), self.certificate.subject, key.public_key(), begin, lifetime)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self.key, hashes.SHA256()), key


@dataclass(frozen=True, slots=True)
class Seller:
    """A CA where certificates are bought: its root, and the intermediate that signs them."""

    root: Authority
    intermediate: Authority

    @classmethod
    def make(cls, name: str) -> Seller:
        """A new one, whose root is called `name`."""
        root = Authority.make(name)
        return cls(root, root.subordinate(f"{name} - TLS RSA SHA256 CA"))

    @classmethod
    def prepare(cls, directory: Path, name: str) -> Seller:
        """The one whose files are in `directory`; made if they are not there, or not good for another 30 days."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = [Files(directory / f"{which}.pem", directory / f"{which}.key") for which in ("root", "intermediate")]
        loaded = [_load(each) for each in files]
        if all(loaded):
            seller = cls(*(Authority(*each) for each in loaded if each))
            if _issued_by(seller.intermediate.certificate, seller.root.certificate):
                return seller
        seller = cls.make(name)
        for each, authority in zip(files, (seller.root, seller.intermediate), strict=True):
            _save(each, authority.certificate, authority.key)
        return seller

    def sell(self, names: Iterable[str], fault: Fault | None = None) -> tuple[str, str]:
        """Chain and key for `names`, in PEM, with one fault if asked for."""
        first, *others = names
        now, day = datetime.now(UTC), timedelta(days=1)
        seller, key, begin, usages = self, None, None, SERVER_AUTH
        match fault:
            case "expired":
                begin = now - SOLD_FOR - day
            case "not_yet_valid":
                begin = now + 2 * day
            case "wrong_name":
                first, others = f"wrong-name.{first.partition('.')[2]}", []
            case "ecdsa":
                key = ec.generate_private_key(ec.SECP256R1())
            case "untrusted_root":
                seller = Seller.make("Lab Root that Nobody Trusts")
            case "no_server_auth":
                usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        leaf, own_key = seller.intermediate.issue(
            [first, *others], key=key, usages=usages, not_before=begin, lifetime=SOLD_FOR
        )
        if fault == "key_mismatch":
            own_key = rsa.generate_private_key(65537, KEY_BITS)
        chain = [leaf] if fault == "no_intermediate" else [leaf, seller.intermediate.certificate]
        return "".join(_pem(each).decode() for each in chain), _key_pem(own_key).decode()


def prepare(directory: Path, names: Iterable[str]) -> tuple[Files, dict[str, Files]]:
    """The root, and one certificate for each of `names`, as files in `directory`.

    What is there and good for another 30 days stays; the rest is made anew, with it whatever the root had issued.
    """
    root, authority = _root(directory)
    leaves = {}
    for name in names:
        leaf = leaves[name] = Files(directory / f"{name}.pem", directory / f"{name}.key")
        loaded = _load(leaf)
        if not loaded or not _issued_by(loaded[0], authority.certificate):
            _save(leaf, *authority.issue([name]))
    return root, leaves


def prepare_faulty(directory: Path, names: Iterable[str], stranger: str) -> dict[CertificateFault, Files]:
    """A certificate with each of the faults, for all of `names` at once or, misnamed, for `stranger`; made anew."""
    _, authority = _root(directory)
    nobody, year = Authority.make("Lab Root that Nobody Trusts"), timedelta(days=365)
    ended = datetime.now(UTC) - timedelta(days=1)
    made = {
        "misnamed": authority.issue([stranger]),
        "expired": authority.issue(names, not_before=ended - year, lifetime=year),
        "untrusted": nobody.issue(names),
    }
    faulty = {fault: Files(directory / f"{fault}.pem", directory / f"{fault}.key") for fault in CERTIFICATE_FAULTS}
    for fault, files in faulty.items():
        _save(files, *made[fault])
    return faulty


def _root(directory: Path) -> tuple[Files, Authority]:
    """The root in `directory`; made if it is not there, or not good for another 30 days."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory / "root.pem", directory / "root.key")
    if loaded := _load(files):
        return files, Authority(*loaded)
    authority = Authority.make("Lab Microsoft Root CA")
    _save(files, authority.certificate, authority.key)
    return files, authority


def _load(files: Files) -> tuple[x509.Certificate, PrivateKey] | None:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    except (OSError, ValueError):
        return None
    fresh = certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_WITHIN
    if not fresh or not isinstance(key, PrivateKey) or key.public_key() != certificate.public_key():
        return None
    return certificate, key


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _save(files: Files, certificate: x509.Certificate, key: PrivateKey) -> None:
    _replace(files.key, _key_pem(key), 0o600)
    _replace(files.certificate, _pem(certificate), 0o644)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _replace(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPublicKeyTypes,
    begin: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
