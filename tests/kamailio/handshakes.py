#!/usr/bin/python3
"""Show whether Kamailio's RSA signatures stay right when many TLS handshakes run at once.

Kamailio pings 40 TLS peers each second. Every peer asks for a client certificate, answers one OPTIONS and closes, so
that each ping is a full handshake in which Kamailio signs with its RSA key, and 40 of them run at the same moment. A
peer counts a handshake as good when TLS is established (the signature was verified) and as bad otherwise.

With several TCP workers the OpenSSL module spoils something that all signatures of one key share, and the peers then
see 'bad signature' from nearly every handshake on (Kamailio 6.0.1, Debian 13). One worker, or wolfSSL, does not.

Runs on a Debian 13 machine with kamailio and kamailio-tls-modules (and kamailio-tls-wolfssl-modules), as any user, on
loopback only: 127.7.0.1 to 127.7.0.40 and 127.7.1.1, TCP port 5071. Standard library,
openssl(1) and setpriv(1) only.

Prints one JSON object; exits 0 when every handshake was good, 1 when any was bad or too few were made in time.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PEERS = [f"127.7.0.{number}" for number in range(1, 41)]
OURS = "127.7.1.1"
PORT = 5071
NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
BOUND_TO_PARENT = ("setpriv", "--pdeathsig", "KILL")
SUITES = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"

KAMAILIO_CFG = """\
#!KAMAILIO
debug=0
log_stderror=yes
listen=tls:{ours}:{port}
enable_tls=yes
auto_aliases=no
tcp_children={workers}
loadmodule "{module}.so"
loadmodule "tm.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "dispatcher.so"
modparam("{module}", "config", "{directory}/tls.cfg")
modparam("tm", "fr_timer", 5000)
modparam("dispatcher", "list_file", "{directory}/dispatcher.list")
modparam("dispatcher", "ds_ping_interval", 1)
modparam("dispatcher", "ds_probing_mode", 1)
request_route {{
    exit;
}}
"""

TLS_CFG = """\
[server:default]
method = TLSv1.2+
verify_client = optional_no_ca
certificate = {directory}/sbc.pem
private_key = {directory}/sbc.key
ca_list = {directory}/ca.pem
[client:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
certificate = {directory}/sbc.pem
private_key = {directory}/sbc.key
ca_list = {directory}/ca.pem
cipher_list = {suites}
"""


class Tally:
    """Counts handshakes until there are enough."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.good = 0
        self.causes: collections.Counter[str] = collections.Counter()
        self.enough = threading.Event()
        self._lock = threading.Lock()

    @property
    def bad(self) -> int:
        return sum(self.causes.values())

    def add(self, cause: str | None) -> None:
        with self._lock:
            if self.enough.is_set():
                return
            if cause is None:
                self.good += 1
            else:
                self.causes[cause] += 1
            if self.good + self.bad >= self.wanted:
                self.enough.set()


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def make_certificates(directory: Path) -> None:
    """An RSA CA with two RSA 2048 certificates: `sbc` and `peer`."""
    ca, ca_key = str(directory / "ca.pem"), str(directory / "ca.key")
    openssl("req", "-x509", *NEW_KEY, "-keyout", ca_key, "-out", ca, "-subj", "/CN=Handshakes", "-days", "2")
    for name in ("sbc", "peer"):
        issue(directory, name, name)


def issue(directory: Path, file: str, common_name: str, *names: str) -> None:
    """A certificate of that CA, for these DNS names if there are any."""
    request, key, certificate = (str(directory / f"{file}.{suffix}") for suffix in ("csr", "key", "pem"))
    ca, ca_key = str(directory / "ca.pem"), str(directory / "ca.key")
    openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={common_name}",
            *(("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)) if names else ()))  # fmt: skip
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
            "-copy_extensions", "copyall", "-out", certificate)  # fmt: skip


def peer_context(directory: Path, file: str = "peer") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{file}.pem", directory / f"{file}.key")
    context.load_verify_locations(directory / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_TICKET
    return context


def answer(request: str) -> bytes:
    """The 200 to one OPTIONS (RFC 3261, 8.2.6)."""
    lines = ["SIP/2.0 200 OK"]
    for line in request.split("\r\n"):
        name = line.partition(":")[0].strip().lower()
        if name in ("via", "from", "call-id", "cseq"):
            lines.append(line)
        elif name == "to":
            lines.append(f"{line};tag=peer")
    return ("\r\n".join([*lines, "Content-Length: 0"]) + "\r\n\r\n").encode()


def serve_one(context: ssl.SSLContext, connection: socket.socket, tally: Tally) -> None:
    connection.settimeout(60)
    try:
        session = context.wrap_socket(connection, server_side=True)
    except OSError as error:  # ssl.SSLError is one
        connection.close()
        tally.add(getattr(error, "reason", None) or type(error).__name__)
        return
    tally.add(None)
    with session:
        try:
            request = b""
            while not request.rstrip(b" ").endswith(b"\r\n\r\n"):
                data = session.recv(65536)
                if not data:
                    return
                request += data
            session.sendall(answer(request.decode()))
        except OSError:
            pass  # only handshakes are judged


def listen(address: str, context: ssl.SSLContext, tally: Tally) -> None:
    listener = socket.create_server((address, PORT), backlog=64)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve_one, args=(context, connection, tally), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def start_kamailio(directory: Path, module: str, workers: int) -> subprocess.Popen[bytes]:
    names = {"directory": directory, "module": module, "workers": workers, "ours": OURS, "port": PORT, "suites": SUITES}
    (directory / "kamailio.cfg").write_text(KAMAILIO_CFG.format(**names))
    (directory / "tls.cfg").write_text(TLS_CFG.format(**names))
    (directory / "dispatcher.list").write_text("".join(f"1 sip:{peer}:{PORT};transport=tls\n" for peer in PEERS))
    with (directory / "kamailio.log").open("wb") as log:
        return subprocess.Popen(
            [*BOUND_TO_PARENT, "kamailio", "-DD", "-E", "-m", "128", "-M", "16", "-f", str(directory / "kamailio.cfg"),
             "-Y", str(directory), "-w", str(directory), "-P", str(directory / "kamailio.pid")],
            stdout=log, stderr=log, env=os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"},
        )  # fmt: skip


def run(module: str, workers: int, handshakes: int) -> dict[str, object]:
    tally = Tally(handshakes)
    with tempfile.TemporaryDirectory(prefix="handshakes-") as name:
        directory = Path(name)
        make_certificates(directory)
        context = peer_context(directory)
        for peer in PEERS:
            listen(peer, context, tally)
        begun = time.monotonic()
        kamailio = start_kamailio(directory, module, workers)
        try:
            deadline = begun + 120 + 20 * handshakes / len(PEERS)
            while not tally.enough.wait(0.2) and time.monotonic() < deadline:
                if kamailio.poll() is not None:
                    raise SystemExit("kamailio ended:\n" + (directory / "kamailio.log").read_text()[-4000:])
        finally:
            tally.enough.set()
            kamailio.terminate()
            try:
                kamailio.wait(15)
            except subprocess.TimeoutExpired:
                kamailio.kill()
                kamailio.wait()
    return {
        "module": module,
        "workers": workers,
        "wanted": handshakes,
        "good": tally.good,
        "bad": tally.bad,
        "causes": dict(tally.causes),
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", choices=("tls", "tls_wolfssl"), default="tls")
    parser.add_argument("--workers", type=int, default=1, help="TCP workers (default: %(default)s)")
    parser.add_argument("--handshakes", type=int, default=1000, help="how many to make (default: %(default)s)")
    arguments = parser.parse_args()
    result = run(arguments.module, arguments.workers, arguments.handshakes)
    print(json.dumps(result))
    return 0 if result["bad"] == 0 and result["good"] == arguments.handshakes else 1


if __name__ == "__main__":
    sys.exit(main())
