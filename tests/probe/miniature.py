"""An SBC in miniature: Kamailio's RPC socket with captured answers, a TLS port that answers OPTIONS, certificates."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FQDN = "sbc.example.com"
CAPTURED = Path(__file__).with_name("captured.json")


class Authority:
    """A certification authority in a directory; issued files are NAME.pem and NAME.key.

    With a `parent` it is an intermediate one; `roots` then holds its certificate all the same.
    """

    def __init__(self, directory: Path, name: str = "root", parent: Authority | None = None, ends: float = 30) -> None:
        self.directory = directory
        self.key = rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {name}")])
        signer = parent or self
        self.certificate = signer._sign(self.name, self.key, None, x509.BasicConstraints(True, None), -30, ends)
        self.roots = directory / f"{name}.pem"
        self.roots.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        file: str,
        *names: str,
        ecdsa: bool = False,
        bits: int = 2048,
        begins: float = -1,
        ends: float = 30,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        chain: Sequence[Authority] = (),
    ) -> Path:
        """Issue a certificate for `names`, followed by those of `chain`; `begins` and `ends` in days from now."""
        key = ec.generate_private_key(ec.SECP256R1()) if ecdsa else rsa.generate_private_key(65537, bits)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        leaf = self._sign(subject, key, list(names), x509.ExtendedKeyUsage([usage]), begins, ends)
        path = self.directory / f"{file}.pem"
        path.write_bytes(
            b"".join(
                one.public_bytes(serialization.Encoding.PEM)
                for one in (leaf, *(authority.certificate for authority in chain))
            )
        )
        path.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path

    def _sign(
        self,
        subject: x509.Name,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        names: list[str] | None,
        extension: x509.ExtensionType,
        begins: float,
        ends: float,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=ends))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())


def end(server: socket.socket, thread: threading.Thread) -> None:
    """Close a socket that `thread` waits on; a second time finds nothing to do.

    The thread has to be gone first: one that is about to wait would wait on whichever socket gets the number next.
    """
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive(), "the thread still waits on its socket"
    server.close()


class SipPort:
    """A TLS port that answers each request with `answer` (None: silence); without a certificate it hangs up at once."""

    def __init__(self, address: str, port: int, certificate: Path | None) -> None:
        self.answer: str | None = (
            f"SIP/2.0 200 OK\r\nContact: <sip:{FQDN}:5061;transport=tls>\r\nContent-Length: 0\r\n\r\n"
        )
        self.requests: list[str] = []
        self.context: ssl.SSLContext | None = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.socket = socket.create_server((address, port))
        self.port: int = self.socket.getsockname()[1]
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def demand_client_certificate(self, roots: Path) -> None:
        assert self.context
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(roots)

    def close(self) -> None:
        end(self.socket, self.acceptor)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self.context is None:
                return
            try:
                with self.context.wrap_socket(client, server_side=True) as tls:
                    while data := tls.recv(65536):
                        self.requests.append(data.decode())
                        if self.answer is not None:
                            tls.sendall(self.answer.encode())
            except OSError:
                return


class KamailioRpc:
    """Kamailio's datagram RPC with answers from a dict `{"method param": {"result": ...} or {"error": ...}}`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, dict[str, Any]] = json.loads(CAPTURED.read_text())
        # What becomes of an answer on its way, by the name of what was asked.
        self.spoil: Callable[[str, bytes], bytes] = lambda _name, answer: answer
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        # Like Kamailio's, answers leave from another socket than the one that requests come to.
        self.out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.server = threading.Thread(target=self._serve, daemon=True)
        self.server.start()

    def table(self, name: str, **values: Any) -> None:
        """Let htable.dump of `name` answer these values."""
        slots = [{"name": key, "value": value, "type": "str"} for key, value in values.items()]
        self.answers[f"htable.dump {name}"] = {"result": [{"entry": 0, "size": len(slots), "slot": slots}]}

    def close(self) -> None:
        end(self.socket, self.server)
        self.out.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                data, sender = self.socket.recvfrom(65536)
                if not data:
                    return
                request = json.loads(data)
                name = " ".join([request["method"], *map(str, request["params"])])
                missing = {"error": {"code": 500, "message": "Method Not Found"}}
                answer = {"jsonrpc": "2.0", "id": request["id"], **self.answers.get(name, missing)}
            except OSError:
                return
            # A client that has gone, such as one that timed out, is no reason to stop.
            with contextlib.suppress(OSError):
                self.out.sendto(self.spoil(name, json.dumps(answer).encode()), sender)
