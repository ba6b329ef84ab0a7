"""TLS as Microsoft does it: 1.2, ECDHE-RSA suites only, certificates with RSA keys on both sides.

The server side runs on OpenSSL's memory BIOs: the certificate is judged inside the handshake, so that a wrong one is
answered by a TLS alert, and one without clientAuth (as public CAs issue them now) is accepted, which Python's own ssl
module cannot do. The client side needs nothing but that module.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Collection, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

log = logging.getLogger(__name__)

# Microsoft, "Plan Direct Routing", May 2025.
CIPHERS = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256"
CHUNK = 65_536

_ERRORS = {
    number: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, number in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}


class TlsError(Exception):
    """The handshake failed; the text says why, as seen from Microsoft."""


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The DNS names in SAN and CN, in lower case. Raises ValueError for a certificate that cannot be read."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    common = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return frozenset(name.lower() for name in [*names, *common])


def covers(names: Collection[str], fqdn: str) -> bool:
    """Whether one of `names` is `fqdn` or a wildcard for its first label, and for that one only (RFC 6125)."""
    return fqdn in names or "*." + fqdn.partition(".")[2] in names


def fingerprint(der: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def _serves_tls(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


class PeerVerifier:
    """Judges an SBC's chain and names during the handshake.

    `candidates` are the FQDNs that Microsoft knows at the peer's address: if there are some, the certificate has to
    carry one of them. `covered` are those that it carries.
    """

    def __init__(self, candidates: Collection[str]) -> None:
        self.candidates = candidates
        self.names: frozenset[str] = frozenset()
        self.covered: frozenset[str] = frozenset()
        self.fingerprint: str | None = None
        self.refusal: str | None = None

    def __call__(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        if error == SSL.X509VerificationCodes.ERR_INVALID_PURPOSE:
            # OpenSSL wants clientAuth of a client; the usage that counts is judged when it comes to the leaf again.
            return True
        if error:
            self.refusal = f"certificate not trusted: {_ERRORS.get(error, error)}"
        elif depth == 0:
            try:
                self.refusal = self._judge_leaf(certificate.to_cryptography())
            except ValueError as exc:
                self.refusal = f"certificate cannot be read: {exc}"
        return self.refusal is None

    def _judge_leaf(self, leaf: x509.Certificate) -> str | None:
        self.names = names_of(leaf)
        self.fingerprint = fingerprint(leaf.public_bytes(Encoding.DER))
        self.covered = frozenset(fqdn for fqdn in self.candidates if covers(self.names, fqdn))
        if not isinstance(leaf.public_key(), rsa.RSAPublicKey):
            return "certificate's key is not RSA"
        if not _serves_tls(leaf):
            return "certificate's extended key usage has no serverAuth"
        if self.candidates and not self.covered:
            carried = ", ".join(sorted(self.names)) or "nothing"
            return f"certificate names {carried}, not {', '.join(sorted(self.candidates))}"
        return None


class Identity:
    """A proxy's certificate and key, and the roots that it trusts: files, read again when one of them changes.

    A file of roots that is absent adds none, and without any root no peer is trusted. Files that cannot be read leave
    the last good ones in force.
    """

    def __init__(self, certificate: Path, key: Path, roots: Sequence[Path]) -> None:
        self._paths = (certificate, key, *roots)
        self._stamp: object = None
        self._contexts: tuple[SSL.Context, ssl.SSLContext] | None = None

    def contexts(self) -> tuple[SSL.Context, ssl.SSLContext]:
        """The server's and the client's context.

        Raises OSError, ValueError or SSL.Error when the files cannot be read and never could.
        """
        stamp = tuple(_stamp(path) for path in self._paths)
        if self._contexts is None or stamp != self._stamp:
            try:
                self._contexts = self._build()
            except (OSError, ValueError, SSL.Error) as exc:
                if self._contexts is None:
                    raise
                log.error("the files of before stay in force: %s", exc)
            self._stamp = stamp
        return self._contexts

    def _build(self) -> tuple[SSL.Context, ssl.SSLContext]:
        certificate, key, *paths = self._paths
        pem = b"".join(path.read_bytes() for path in paths if path.exists())
        roots = x509.load_pem_x509_certificates(pem) if pem.strip() else []

        server = SSL.Context(SSL.TLS_SERVER_METHOD)
        server.set_min_proto_version(SSL.TLS1_2_VERSION)
        server.set_max_proto_version(SSL.TLS1_2_VERSION)
        server.set_cipher_list(CIPHERS.encode())
        # A resumed session would skip the judgement of the certificate.
        server.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        server.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        server.use_certificate_chain_file(str(certificate))
        server.use_privatekey_file(str(key))
        server.check_privatekey()
        store = server.get_cert_store()
        assert store is not None
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))

        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(CIPHERS)
        client.load_cert_chain(certificate, key)
        if roots:
            client.load_verify_locations(cadata=b"".join(root.public_bytes(Encoding.DER) for root in roots))
        return server, client


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class ServerStream:
    """The server's end of one TLS connection over a plain asyncio stream."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: SSL.Context,
        verifier: PeerVerifier,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._verifier = verifier
        self._tls = SSL.Connection(context)
        self._tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verifier)
        self._tls.set_accept_state()

    async def handshake(self) -> None:
        """Raises TlsError when it is refused by either side, ConnectionError when the peer has gone."""
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                await self._fill()
            except SSL.Error as exc:
                await self._flush()
                raise TlsError(self._verifier.refusal or _text(exc)) from exc
            else:
                await self._flush()
                if self._verifier.fingerprint is None:
                    raise TlsError("no certificate was judged")
                return

    async def read(self) -> bytes:
        """What came, or nothing at the end. Raises ConnectionError."""
        while True:
            try:
                return self._tls.recv(CHUNK)
            except SSL.WantReadError:
                await self._flush()
                await self._fill()
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as exc:
                raise ConnectionError(_text(exc)) from exc

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError."""
        try:
            self._tls.sendall(data)
        except SSL.Error as exc:
            raise ConnectionError(_text(exc)) from exc
        await self._flush()

    async def close(self) -> None:
        """Say goodbye, as far as the peer still listens."""
        try:
            self._tls.shutdown()
            await self._flush()
        except (SSL.Error, OSError):
            pass

    async def _fill(self) -> None:
        data = await self._reader.read(CHUNK)
        if not data:
            raise ConnectionError("the peer closed the connection")
        self._tls.bio_write(data)

    async def _flush(self) -> None:
        while True:
            try:
                self._writer.write(self._tls.bio_read(CHUNK))
            except SSL.WantReadError:
                break
        await self._writer.drain()


def _text(exc: SSL.Error) -> str:
    reasons = [entry[-1] for entry in exc.args[0]] if exc.args and isinstance(exc.args[0], list) else list(exc.args)
    return "TLS: " + ("; ".join(str(reason) for reason in reasons if reason) or type(exc).__name__)
