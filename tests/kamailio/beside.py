"""The probe as a service beside a real Kamailio, as it runs on a droplet: Debian's Python, the zipapp, its own DNS.

The addresses of `running`, and 127.7.9.1 for the name server. Needs root.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset

from plugins.filter.zipapp import zipapp
from tests.kamailio import handshakes
from tests.kamailio.running import ADDRESS, COMMAND, FQDN, PROXIES, REPOSITORY, ROOT, Sbc

NAME_SERVER = "127.7.9.1"
PORT = 9061
# The view of a process in the root directory: its own /proc, and the name server of here.
VIEW = 'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/etc/resolv.conf" && shift 2 && exec "$@"'


class NameServer:
    """Answers A for the names that it has, and for an address with itself."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((NAME_SERVER, 53))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # It is not connected, says the kernel, but wakes who waits for it.
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, peer = self.socket.recvfrom(4096)
                if not wire:
                    return
                query = dns.message.from_wire(wire)
                reply = dns.message.make_response(query)
                name = query.question[0].name
                if query.question[0].rdtype == dns.rdatatype.A and (address := self.names.get(name.to_text(True))):
                    reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
                self.socket.sendto(reply.to_wire(), peer)


def in_root(resolv_conf: Path, *command: str | Path) -> list[str]:
    """A command in the root directory that is the process itself and ends with the one that starts it."""
    view = ["unshare", "--mount", "sh", "-c", VIEW, "sh", str(ROOT), str(resolv_conf)]
    return [*handshakes.BOUND_TO_PARENT, *view, *COMMAND, *map(str, command)]


@contextlib.contextmanager
def surroundings(sbc: Sbc) -> Iterator[dict[str, Any]]:
    """What the probe finds around it: DNS, and a route to our own port as on a droplet; gives its settings."""
    handshakes.issue(sbc.directory, "sbc", FQDN, FQDN)
    sbc.rpc("tls.reload")
    subprocess.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True)
    (sbc.directory / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    (sbc.directory / "sbc-probe").write_bytes(base64.b64decode(zipapp(str(REPOSITORY / "src/sbc_probe"))))
    server = NameServer({FQDN: ADDRESS} | {address: address for address in PROXIES})
    inside = Path("/") / sbc.directory.relative_to(ROOT)
    try:
        yield {
            "customer": "contoso",
            "fqdn": FQDN,
            "address": ADDRESS,
            "proxies": PROXIES,
            "signalling_networks": ["127.7.2.0/24"],
            "options_interval": sbc.variables.get("sbc_options_interval", 60),
            "rpc_socket": f"{inside}/rpc.sock",
            "certificate": f"{inside}/sbc.pem",
            "private_key": f"{inside}/sbc.key",
            "trusted_roots": f"{inside}/ca.pem",
            "proxy_roots": f"{inside}/ca.pem",
            "renewal_record": f"{inside}/renewal.json",
            "history": f"{inside}/history.sqlite",
            "listen": [f"127.0.0.1:{PORT}"],
        }
    finally:
        server.close()
        subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=True)


def unit(setting: str) -> list[str]:
    """What the probe's unit has for a setting, each time that it is there."""
    text = (REPOSITORY / "roles/probe/templates/sbc-probe.service").read_text()
    return re.findall(rf"^{setting}=(.*)$", text, re.MULTILINE)


def python() -> list[str]:
    """How the unit starts Python, with its environment."""
    (start,) = unit("ExecStart")
    return ["env", *" ".join(unit("Environment")).split(), *start.split()[:-2]]


def start_probe(sbc: Sbc, settings: dict[str, Any], *command: str) -> subprocess.Popen[bytes]:
    """`sbc-probe serve` in the root directory, or another command there; its words go to the file `probe.log`."""
    (sbc.directory / "probe.json").write_text(json.dumps(settings))
    inside = Path("/") / sbc.directory.relative_to(ROOT)
    serve = [*python(), f"{inside}/sbc-probe", "serve", "--config", f"{inside}/probe.json"]
    with (sbc.directory / "probe.log").open("ab") as log:
        return subprocess.Popen(
            in_root(sbc.directory / "resolv.conf", *(command or serve)),
            stdout=log,
            stderr=log,
        )


def ask(path: str, port: int = PORT) -> tuple[int, bytes]:
    """One request to something that serves HTTP here. OSError: nothing does."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def cause() -> str | None:
    """What the probe says now: its state, and the cause if there is one; None: it does not answer."""
    with contextlib.suppress(OSError, ValueError):
        overall = json.loads(ask("/status.json")[1])["overall"]
        return " ".join(filter(None, (overall["state"], overall["cause"])))
    return None


class Microsoft:
    """Asks for our name once a second from every proxy's address, as Microsoft does once a minute."""

    def __init__(self, sbc: Sbc) -> None:
        self.sbc = sbc
        self.quiet = threading.Event()
        threading.Thread(target=self.ask, daemon=True).start()

    def ask(self) -> None:
        while not self.quiet.wait(1):
            for address in PROXIES:
                with contextlib.suppress(OSError):
                    self.sbc.ask(source=address)
