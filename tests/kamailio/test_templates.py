"""templates/kamailio rendered by Ansible's engine, accepted by `kamailio -c`, and run against SIP peers over TLS.

What needs Kamailio runs where `kamailio` is on the PATH, or where KAMAILIO_ROOT names a Debian 13 root directory with
the packages kamailio and kamailio-tls-modules. KAMAILIO_COMMAND then says how to start a program there (by default
`chroot $KAMAILIO_ROOT`). It is skipped elsewhere. Everything runs on loopback: 127.7.0.0/16, TCP port 5061.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from sbc_probe.config import Config
from sbc_probe.evidence import collect
from sbc_probe.findings import Cause
from sbc_probe.model import Lookup
from sbc_probe.verdict import judge
from tests.kamailio import handshakes

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "templates/kamailio"
CLOUDS: dict[str, Any] = yaml.safe_load((REPOSITORY / "roles/sbc/vars/main/clouds.yml").read_text())["sbc_clouds"]

ROOT = Path(os.environ.get("KAMAILIO_ROOT", "/"))
COMMAND = shlex.split(os.environ.get("KAMAILIO_COMMAND", f"chroot {ROOT}" if "KAMAILIO_ROOT" in os.environ else ""))
needs_kamailio = pytest.mark.skipif(
    not shutil.which("kamailio", path=f"{ROOT}/usr/sbin:{ROOT}/usr/bin"),
    reason="no Kamailio: set KAMAILIO_ROOT to a Debian 13 root directory that has it",
)

FQDN = "sbc.contoso.example"
ADDRESS = "127.7.1.1"
PROXIES = ["127.7.2.1", "127.7.2.2", "127.7.2.3"]
STRANGER = "127.7.3.1"


def render(directory: Path, **variables: Any) -> None:
    """Render the templates to directory as the action plugin config_tree does, with paths below that directory."""
    sample = {
        "ansible_managed": "Ansible managed",
        "sbc_fqdn": FQDN,
        "sbc_address": ADDRESS,
        "sbc_options_interval": 60,
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
        text = text.replace("/etc/kamailio/live", inside).replace("/run/kamailio", inside)
        (directory / path.name).write_text(text)


def command(*arguments: str | Path) -> list[str]:
    """A command in the root directory; it ends with the process that starts it, even if that one is killed."""
    return [*handshakes.BOUND_TO_PARENT, "unshare", "--pid", "--fork", "--kill-child", *COMMAND, *map(str, arguments)]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A new directory that Kamailio, in its root directory, can read too."""
    with tempfile.TemporaryDirectory(prefix="sbc-", dir=ROOT / "tmp") as name:
        yield Path(name)


@needs_kamailio
@pytest.mark.parametrize("cloud", CLOUDS)
def test_kamailio_accepts_every_cloud(directory: Path, cloud: str) -> None:
    render(directory, sbc_cloud_facts=CLOUDS[cloud], sbc_address="203.0.113.10")
    checked = subprocess.run(
        command("kamailio", "-c", "-f", Path("/") / directory.relative_to(ROOT) / "kamailio.cfg"),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "ERROR" not in checked.stderr


class Proxy:
    """A peer at Microsoft's place: asks for our certificate and answers OPTIONS with `status`, or not at all."""

    def __init__(self, address: str, certificates: Path) -> None:
        self.address = address
        self.status: str | None = "200 OK"
        self.requests: list[str] = []
        self.names: list[str | None] = []
        self.context = handshakes.peer_context(certificates)
        self.context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.listener = socket.create_server((address, 5061))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as session:
            received = b""
            while data := session.recv(65536):
                received += data
                while b"\r\n\r\n" in received.lstrip():
                    request, received = received.lstrip().split(b"\r\n\r\n", 1)
                    self.requests.append(request.decode())
                    if self.status:
                        session.sendall(
                            handshakes.answer(self.requests[-1]).replace(b"200 OK", self.status.encode(), 1)
                        )


def start_kamailio(directory: Path) -> subprocess.Popen[bytes]:
    """Start Kamailio with the configuration in directory; what it says goes to the file `log` there."""
    inside = Path("/") / directory.relative_to(ROOT)
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command("kamailio", "-DD", "-E", "-f", inside / "kamailio.cfg", "-P", inside / "pid", "-Y", inside),
            stdout=log,
            stderr=log,
        )


def listens_on_port() -> bool:
    """Whether a Kamailio takes connections; one that was killed may hold its port for a moment longer."""
    with contextlib.suppress(OSError):
        socket.create_connection((ADDRESS, 5061), source_address=(ADDRESS, 0)).close()
        return True
    return False


class Sbc:
    """A running Kamailio with the product's configuration, and its three proxies."""

    def __init__(self, directory: Path, proxies: list[Proxy]) -> None:
        self.directory = directory
        self.proxies = proxies

    def rpc(self, method: str, *parameters: str) -> Any:
        """Raises LookupError with Kamailio's text when it answers with an error."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind("")
            client.settimeout(5)
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

    def theirs(self, count: int) -> dict[str, Any]:
        """What is kept of Microsoft's OPTIONS once there were `count`; it is written when the answer has left."""
        assert wait_for(lambda: self.table("sbc_theirs").get(f"{FQDN}:count") == count, 2)
        return self.table("sbc_theirs")

    def connect(self, source: str = PROXIES[0], suites: str = handshakes.SUITES) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.directory / "ca.pem")
        context.check_hostname = False
        context.load_cert_chain(self.directory / "peer.pem", self.directory / "peer.key")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
        connection = socket.create_connection((ADDRESS, 5061), timeout=1, source_address=(source, 0))
        return context.wrap_socket(connection)

    def ask(
        self,
        method: str = "OPTIONS",
        uri: str = f"sip:{FQDN}:5061;transport=tls",
        source: str = PROXIES[0],
        *headers: str,
    ) -> str:
        """Send one request on a connection of its own; raises TimeoutError when there is no answer within 1 s."""
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
        with self.connect(source) as session:
            session.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
            return session.recv(65536).decode()


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


Start = Callable[..., Sbc]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Start Kamailio with the product's configuration, these proxies and variables; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def begin(hosts: list[str] = PROXIES, **variables: Any) -> Sbc:
            handshakes.make_certificates(directory)
            facts = {
                "proxies": [{"host": host, "port": 5061} for host in hosts],
                "signalling_networks": ["127.7.2.0/25", "127.7.2.128/25"],
            }
            render(directory, sbc_cloud_facts=facts, **variables)
            proxies = [Proxy(address, directory) for address in PROXIES]
            for proxy in proxies:
                stack.callback(proxy.close)
            kamailio = start_kamailio(directory)
            stack.callback(wait_for, lambda: not listens_on_port(), 10)
            stack.callback(kamailio.wait, timeout=10)
            stack.callback(kamailio.kill)
            sbc = Sbc(directory, proxies)

            def listens() -> bool:
                assert kamailio.poll() is None, (directory / "log").read_text()
                with contextlib.suppress(OSError):
                    return bool(sbc.rpc("core.uptime"))
                return False

            assert wait_for(listens, 10)
            return sbc

        yield begin


@needs_kamailio
def test_kamailio_ends_with_a_test_run_that_is_killed(directory: Path) -> None:
    handshakes.make_certificates(directory)
    render(directory, sbc_cloud_facts={"proxies": [{"host": PROXIES[0], "port": 5061}], "signalling_networks": []})
    code = "import pathlib, sys, time, tests.kamailio.test_templates as run\n"
    code += "run.start_kamailio(pathlib.Path(sys.argv[1])); time.sleep(60)"

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code, directory], cwd=REPOSITORY, env=environment) as test_run:
        assert wait_for(listens_on_port, 15)
        test_run.kill()
    assert wait_for(lambda: not listens_on_port(), 5)


@needs_kamailio
def test_every_proxy_is_asked_at_the_start_and_proven(start: Start) -> None:
    sbc = start(sbc_options_interval=60)
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 3)
    answers = sbc.table("sbc_answers")
    assert sorted(answers) == sorted(
        f"{proxy}:{key}" for proxy in PROXIES for key in ("sent", "time", "code", "reason", "since", "certificate")
    )
    assert [answers[f"{proxy}:code"] for proxy in PROXIES] == [200, 200, 200]
    assert all(sbc.table("sbc_self")["loaded"] <= answers[f"{proxy}:time"] <= time.time() for proxy in PROXIES)
    for proxy in sbc.proxies:
        assert proxy.names == [proxy.address]  # server name indication
        (request,) = proxy.requests
        assert request.startswith(f"OPTIONS sip:{proxy.address}:5061;transport=tls SIP/2.0\r\n")
        assert f"\r\nContact: <sip:{FQDN}:5061;transport=tls>" in request
        assert f"\r\nVia: SIP/2.0/TLS {FQDN}:5061;" in request
        assert f"\r\nFrom: <sip:{FQDN}>;" in request
        assert "\r\nUser-Agent: teams-sbc" in request


@needs_kamailio
def test_proxies_are_asked_again_on_demand_and_after_a_reload(start: Start) -> None:
    sbc = start(sbc_options_interval=60)
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 3)
    for count in (2, 3):
        sbc.rpc("evrexec.run", "evrexec:ping")
        assert wait_for(lambda: [len(proxy.requests) for proxy in sbc.proxies] == [count] * 3, 3)  # noqa: B023
    time.sleep(0.3)  # the last answers, still on their way, would make them active
    sbc.rpc("dispatcher.reload")
    assert sbc.flags() == ["AX", "AX", "AX"]
    sbc.rpc("evrexec.run", "evrexec:ping")
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 3)


@needs_kamailio
def test_a_proxy_fails_with_its_reason_and_comes_back(start: Start) -> None:
    sbc = start(sbc_options_interval=1)
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 3)
    since = sbc.table("sbc_answers")[f"{PROXIES[0]}:since"]
    assert wait_for(lambda: time.time() >= since + 1, 2)  # it counts whole seconds
    sbc.proxies[0].status = '403 Forbidden\r\nReason: Q.850;cause=63;text="unknown trunk"'
    sbc.proxies[1].status = None
    sbc.proxies[2].status = "503 Overload"
    assert wait_for(lambda: sbc.flags() == ["IP", "IP", "IP"], 15)
    answers = sbc.table("sbc_answers")
    assert (answers[f"{PROXIES[0]}:code"], answers[f"{PROXIES[0]}:reason"]) == (
        403,
        'Forbidden; Q.850;cause=63;text="unknown trunk"',
    )
    assert answers[f"{PROXIES[0]}:since"] > since
    assert answers[f"{PROXIES[1]}:time"] < answers[f"{PROXIES[1]}:sent"] - 2
    assert (answers[f"{PROXIES[2]}:code"], answers[f"{PROXIES[2]}:reason"]) == (503, "Overload")
    for proxy in sbc.proxies:
        proxy.status = "200 OK"
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 8)
    log = (sbc.directory / "log").read_text()
    for proxy in sbc.proxies:
        for said in ("is out of service", "is in service again"):
            assert log.count(f"sip:{proxy.address}:5061;transport=tls {said}\n") == 1


@needs_kamailio
def test_one_lost_answer_is_no_failure(start: Start) -> None:
    sbc = start(sbc_options_interval=1)
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"], 3)
    sbc.proxies[0].status = "503 Overload"
    assert wait_for(lambda: sbc.flags()[0] == "TP", 3)
    sbc.proxies[0].status = "200 OK"
    assert wait_for(lambda: sbc.flags()[0] == "AP", 3)
    assert "out of service" not in (sbc.directory / "log").read_text()


@needs_kamailio
def test_a_proxy_of_another_authority_is_never_active(start: Start, tmp_path: Path) -> None:
    sbc = start()
    handshakes.make_certificates(tmp_path)
    foreign = Proxy("127.7.2.4", tmp_path)
    foreign.context.load_verify_locations(sbc.directory / "ca.pem")
    with contextlib.closing(foreign):
        (sbc.directory / "dispatcher.list").write_text(f"1 sip:{foreign.address}:5061;transport=tls 0 1\n")
        sbc.rpc("dispatcher.reload")
        sbc.rpc("evrexec.run", "evrexec:ping")
        assert wait_for(lambda: foreign.names == [foreign.address], 3)
        time.sleep(0.5)
        assert sbc.flags() == ["AX"]
        assert foreign.requests == []


@needs_kamailio
def test_the_probe_tells_a_trusted_proxy_of_another_name(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sbc = start()
    proxies = {"127.7.2.4": "127.7.2.4", "127.7.2.5": "sip.fabrikam.example"}
    config = Config.parse(
        {
            "customer": "contoso",
            "fqdn": FQDN,
            "address": ADDRESS,
            "proxies": list(proxies),
            "signalling_networks": ["127.7.2.0/24"],
            "rpc_socket": str(sbc.directory / "rpc.sock"),
            "certificate": str(sbc.directory / "sbc.pem"),
            "trusted_roots": str(sbc.directory / "ca.pem"),
            "proxy_roots": str(sbc.directory / "ca.pem"),
        }
    )
    monkeypatch.setattr("sbc_probe.evidence.lookup", lambda name: Lookup((ADDRESS if name == FQDN else name,)))
    (sbc.directory / "dispatcher.list").write_text(
        "".join(f"1 sip:{address}:5061;transport=tls 0 1\n" for address in proxies)
    )
    with contextlib.ExitStack() as stack:
        for address, name in proxies.items():
            handshakes.issue(sbc.directory, "peer", name)
            stack.callback(Proxy(address, sbc.directory).close)
        sbc.rpc("dispatcher.reload")
        sbc.rpc("evrexec.run", "evrexec:ping")
        assert wait_for(lambda: sbc.flags() == ["AP", "AP"], 3)
        found = {item.destination.host: item.finding for item in judge(config, collect(config)).destinations}
    assert found.pop("127.7.2.4") is None
    (another,) = found.values()
    assert another
    assert another.cause is Cause.PROXY_CERTIFICATE_NAME
    assert "sip.fabrikam.example" in another.evidence


@needs_kamailio
def test_a_proxy_is_not_left_out_when_its_name_does_not_resolve_yet(start: Start) -> None:
    sbc = start(hosts=["127.7.2.1", "sip.nowhere.invalid"])
    assert wait_for(lambda: sbc.flags() == ["AP", "AX"], 10)


@needs_kamailio
def test_microsoft_is_answered_and_its_options_are_kept_as_evidence(start: Start) -> None:
    sbc = start()
    answer = sbc.ask(source=PROXIES[1])
    assert answer.startswith("SIP/2.0 200 ")
    assert "kamailio" not in answer.lower()
    assert f"\r\nContact: <sip:{FQDN}:5061;transport=tls>\r\n" in answer
    (allow,) = (line for line in answer.split("\r\n") if line.startswith("Allow:"))
    assert "INVITE" in allow
    assert "REFER" not in allow
    theirs = sbc.theirs(1)
    assert abs(theirs.pop(f"{FQDN}:time") - time.time()) <= 2
    assert theirs == {
        f"{FQDN}:source": PROXIES[1],
        f"{FQDN}:peer": "peer",
        f"{FQDN}:agent": "Microsoft.PSTNHub.SIPProxy v.2026.1",
        f"{FQDN}:code": 200,
        f"{FQDN}:count": 1,
    }
    sbc.ask(source=PROXIES[2])
    assert sbc.theirs(2)[f"{FQDN}:source"] == PROXIES[2]


@needs_kamailio
def test_the_code_that_microsoft_really_got_is_kept(start: Start) -> None:
    sbc = start()
    assert sbc.ask("OPTIONS", f"sip:{FQDN}:5061", PROXIES[0], "Proxy-Require: gruu").startswith("SIP/2.0 420 ")
    assert sbc.theirs(1)[f"{FQDN}:code"] == 420
    assert sbc.ask().startswith("SIP/2.0 200 ")
    before = sbc.theirs(2)
    assert before[f"{FQDN}:code"] == 200
    assert sbc.ask("INVITE").startswith("SIP/2.0 503 ")
    time.sleep(0.2)
    assert sbc.table("sbc_theirs") == before


@needs_kamailio
@pytest.mark.parametrize("ours", [FQDN, "SBC.Contoso.Example"])
def test_our_name_is_known_in_any_case_and_kept_in_lower_case(start: Start, ours: str) -> None:
    sbc = start(sbc_fqdn=ours)
    assert sbc.ask(uri="sip:SBC.contoso.EXAMPLE:5061;transport=tls").startswith("SIP/2.0 200 ")
    assert {key.partition(":")[0] for key in sbc.theirs(1)} == {FQDN}


@needs_kamailio
def test_this_machine_is_answered_and_leaves_no_evidence(start: Start) -> None:
    sbc = start()
    assert sbc.ask(source=ADDRESS).startswith("SIP/2.0 200 ")
    time.sleep(0.2)
    assert sbc.table("sbc_theirs") == {}


@needs_kamailio
def test_nobody_else_gets_an_answer(start: Start) -> None:
    sbc = start()
    for method in ("OPTIONS", "INVITE", "REGISTER"):
        with pytest.raises(TimeoutError):
            sbc.ask(method, source=STRANGER)
    assert sbc.table("sbc_theirs") == {}


@needs_kamailio
@pytest.mark.parametrize(
    ("method", "uri", "status"),
    [
        ("OPTIONS", "sip:sbc.fabrikam.example:5061;transport=tls", "404 Not Here"),
        ("INVITE", f"sip:+14255550100@{FQDN}:5061;user=phone", "503 No Carrier"),
    ],
)
def test_what_is_not_for_us_or_not_possible_is_refused(start: Start, method: str, uri: str, status: str) -> None:
    sbc = start()
    assert sbc.ask(method, uri).startswith(f"SIP/2.0 {status}\r\n")
    time.sleep(0.2)
    assert sbc.table("sbc_theirs") == {}


@needs_kamailio
def test_tls_takes_what_microsoft_offers_and_nothing_weaker(start: Start) -> None:
    sbc = start()
    for suite in handshakes.SUITES.split(":"):
        with sbc.connect(suites=suite) as session:
            assert session.cipher() == (suite, "TLSv1.2", 256 if "256-GCM" in suite else 128)
    for suite in ("ECDHE-RSA-AES256-SHA384", "AES256-GCM-SHA384"):
        with pytest.raises(ssl.SSLError):
            sbc.connect(suites=suite)


@needs_kamailio
def test_the_tls_module_and_its_workers_are_those_that_the_handshakes_prove(start: Start) -> None:
    sbc = start()
    assert sbc.rpc("core.tcp_info")["readers"] == 1
    assert "tls" in sbc.rpc("core.modules")


@needs_kamailio
def test_a_renewed_certificate_is_served_after_a_reload(start: Start) -> None:
    sbc = start()
    with sbc.connect() as session:
        before = session.getpeercert(binary_form=True)
    handshakes.make_certificates(sbc.directory)
    assert "reloaded" in sbc.rpc("tls.reload")
    with sbc.connect() as session:
        renewed = session.getpeercert(binary_form=True)
    assert before != renewed
    (sbc.directory / "sbc.key").write_bytes((sbc.directory / "peer.key").read_bytes())
    with pytest.raises(LookupError, match="TLS configuration"):
        sbc.rpc("tls.reload")
    with sbc.connect() as session:
        assert session.getpeercert(binary_form=True) == renewed
