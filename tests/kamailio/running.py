"""A real Kamailio with the product's own configuration, and SIP peers over TLS at Microsoft's place.

It runs where `kamailio` is on the PATH, or where KAMAILIO_ROOT names a Debian 13 root directory with the packages
kamailio and kamailio-tls-modules. KAMAILIO_COMMAND then says how to start a program there (by default
`chroot $KAMAILIO_ROOT`). What needs it is skipped elsewhere. Everything is on loopback: 127.7.0.0/16, TCP port 5061.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.kamailio import handshakes

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "templates/kamailio"

ROOT = Path(os.environ.get("KAMAILIO_ROOT", "/"))
COMMAND = shlex.split(os.environ.get("KAMAILIO_COMMAND", f"chroot {ROOT}" if "KAMAILIO_ROOT" in os.environ else ""))
needs_kamailio = pytest.mark.skipif(
    not shutil.which("kamailio", path=f"{ROOT}/usr/sbin:{ROOT}/usr/bin"),
    reason="no Kamailio: set KAMAILIO_ROOT to a Debian 13 root directory that has it",
)

LIVE = "/etc/kamailio/live"
UNIT = re.findall(
    r"^Environment=(\w+)=(.*)$", (REPOSITORY / "roles/kamailio/templates/sbc.conf").read_text(), re.MULTILINE
)

FQDN = "sbc.contoso.example"
ADDRESS = "127.7.1.1"
PROXIES = ["127.7.2.1", "127.7.2.2", "127.7.2.3"]
STRANGER = "127.7.3.1"

# How long (s) a machine that is slow or busy may take for anything that must come; nothing waits without need.
PATIENCE = 60.0
# Between two OPTIONS (s), where each loss counts: an answer may be late by nearly this much, and of those that are
# never answered no two come to their end (after 5 s) between two that are.
INTERVAL = 3


def render(directory: Path, **variables: Any) -> None:
    """Render the templates to directory as the action plugin config_tree does, with paths below that directory."""
    sample = {
        "ansible_managed": "Ansible managed",
        "sbc_fqdn": FQDN,
        "sbc_address": ADDRESS,
        "sbc_tenants": [],
        # Long: a test that counts requests sees those that it asks for.
        "sbc_options_interval": 3600,
        "kamailio_max_connections": 256,
        "kamailio_certificate": "/etc/kamailio/live/sbc.pem",
        "kamailio_private_key": "/etc/kamailio/live/sbc.key",
        "kamailio_trusted_roots": "/etc/kamailio/live/ca.pem",
    }
    inside = "/" + str(directory.relative_to(ROOT))
    templar = Templar(loader=DataLoader(), variables=sample | variables)
    for path in TEMPLATES.iterdir():
        text = templar.template(
            trust_as_template(path.read_text()), escape_backslashes=False, overrides={"trim_blocks": True}
        )
        text = text.replace(LIVE, inside).replace("/run/kamailio", inside).replace("/var/lib/sbc-trace", inside)
        (directory / path.name).write_text(text)


def command(*arguments: str | Path) -> list[str]:
    """A command in the root directory; it ends with the process that starts it, even if that one is killed."""
    return [*handshakes.BOUND_TO_PARENT, "unshare", "--pid", "--fork", "--kill-child", *COMMAND, *map(str, arguments)]


class Proxy:
    """A peer at Microsoft's place: asks for our certificate and answers OPTIONS with `status`, or not at all.

    What is in `once` it answers first, each of them one time.
    """

    def __init__(self, address: str, certificates: Path, certificate: str = "peer") -> None:
        self.address = address
        self.files = certificates, certificate
        self.sessions: list[ssl.SSLSocket] = []
        self.status: str | None = "200 OK"
        self.once: list[str] = []
        self.requests: list[str] = []
        self.names: list[str | None] = []
        self.context = handshakes.peer_context(certificates, certificate)
        self.context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.listener = socket.create_server((address, 5061))
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def change_certificate(self, *names: str) -> None:
        """Show a certificate with these names on every connection from now on."""
        directory, file = self.files
        handshakes.issue(directory, file, self.address, *names)
        self.context.load_cert_chain(directory / f"{file}.pem", directory / f"{file}.key")

    def hang_up(self) -> None:
        """End the connections that there are."""
        for session in self.sessions:
            with contextlib.suppress(OSError):
                session.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        # Before the number of the socket is free: a thread about to wait would wait on whichever gets it next.
        self.acceptor.join(PATIENCE)
        self.listener.close()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as session:
            self.sessions.append(session)
            received = b""
            while data := session.recv(65536):
                received += data
                while b"\r\n\r\n" in received.lstrip():
                    request, received = received.lstrip().split(b"\r\n\r\n", 1)
                    self.requests.append(request.decode())
                    status = self.once.pop(0) if self.once else self.status
                    if status:
                        session.sendall(handshakes.answer(self.requests[-1]).replace(b"200 OK", status.encode(), 1))


def start_kamailio(directory: Path, *environment: str) -> subprocess.Popen[bytes]:
    """Start Kamailio with the configuration in directory; what it says goes to the file `log` there.

    `environment` are NAME=VALUE for it alone, and not for the programs that start it.
    """
    inside = Path("/") / directory.relative_to(ROOT)
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command(
                *("env", *environment, "kamailio", "-DD", "-E"),
                *("-f", inside / "kamailio.cfg", "-P", inside / "pid", "-Y", inside),
            ),
            stdout=log,
            stderr=log,
            env=os.environ | {name: value.replace(LIVE, str(inside)) for name, value in UNIT if LIVE in value},
        )


def listens_on_port() -> bool:
    """Whether a Kamailio takes connections; one that was killed may hold its port for a moment longer."""
    with contextlib.suppress(OSError):
        socket.create_connection((ADDRESS, 5061), source_address=(ADDRESS, 0)).close()
        return True
    return False


class Sbc:
    """A running Kamailio with the product's configuration, and its three proxies."""

    def __init__(
        self, directory: Path, process: subprocess.Popen[bytes], proxies: list[Proxy], variables: dict[str, Any]
    ) -> None:
        self.directory = directory
        self.process = process
        self.proxies = proxies
        self.variables = variables

    def rpc(self, method: str, *parameters: str | int) -> Any:
        """Raises LookupError with Kamailio's text when it answers with an error."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind("")
            client.settimeout(PATIENCE)
            call = {"jsonrpc": "2.0", "method": method, "params": parameters, "id": 1}
            client.sendto(json.dumps(call).encode(), str(self.directory / "rpc.sock"))
            answer = json.loads(client.recv(1 << 18))
        if "error" in answer:
            raise LookupError(answer["error"]["message"])
        return answer["result"]

    def flags(self) -> list[str]:
        targets = self.rpc("dispatcher.list")["RECORDS"][0]["SET"]["TARGETS"]
        return [target["DEST"]["FLAGS"] for target in targets]

    def table(self, name: str) -> dict[str, Any]:
        return {item["name"]: item["value"] for entry in self.rpc("htable.dump", name) for item in entry["slot"]}

    def theirs(self, count: int, name: str = FQDN) -> dict[str, Any]:
        """What is kept of Microsoft's OPTIONS once there were `count`; it is written when the answer has left."""
        assert wait_for(lambda: self.table("sbc_theirs").get(f"{name}:count") == count)
        return self.table("sbc_theirs")

    def processes(self) -> set[int]:
        """The numbers of its processes; a restart ends all of them."""
        return {int(number) for number in self.rpc("core.ps")[::2]}

    def render(self, **variables: Any) -> None:
        """Write its files again, as a rollout with these variables changed does."""
        self.variables |= variables
        render(self.directory, **self.variables)

    def connect(
        self,
        source: str = PROXIES[0],
        suites: str = handshakes.SUITES,
        curve: str = "prime256v1",
        earlier: ssl.SSLSocket | None = None,
    ) -> ssl.SSLSocket:
        """Connect as Microsoft does, with the session of an earlier connection if there is one."""
        context = earlier.context if earlier else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not earlier:
            context.load_verify_locations(self.directory / "ca.pem")
            context.check_hostname = False
            context.load_cert_chain(self.directory / "peer.pem", self.directory / "peer.key")
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(suites)
            context.set_ecdh_curve(curve)
        connection = socket.create_connection((ADDRESS, 5061), timeout=PATIENCE, source_address=(source, 0))
        return context.wrap_socket(connection, session=earlier.session if earlier else None)

    def ask(
        self,
        method: str = "OPTIONS",
        uri: str = f"sip:{FQDN}:5061;transport=tls",
        source: str = PROXIES[0],
        *headers: str,
    ) -> str:
        """Send one request on a connection of its own."""
        with self.connect(source) as session:
            return exchange(session, method, uri, source, *headers)


def exchange(
    session: ssl.SSLSocket,
    method: str = "OPTIONS",
    uri: str = f"sip:{FQDN}:5061;transport=tls",
    source: str = PROXIES[0],
    *headers: str,
) -> str:
    """Send one request on this connection; raises TimeoutError when there is no answer in time."""
    mark = time.time_ns()
    request = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/TLS {source}:5061;branch=z9hG4bK{mark}",
        "From: <sip:sip.pstnhub.microsoft.com:5061>;tag=1",
        f"To: <{uri}>",
        f"Call-ID: {mark}",
        f"CSeq: 1 {method}",
        "Max-Forwards: 70",
        "User-Agent: Microsoft.PSTNHub.SIPProxy v.2026.1",
        *headers,
        "Content-Length: 0",
    ]
    session.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
    return session.recv(65536).decode()


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


Start = Callable[..., Sbc]
