"""templates/kamailio rendered by Ansible's engine, accepted by `kamailio -c`, and run against SIP peers over TLS."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sbc_probe.config import Config
from sbc_probe.evidence import collect
from sbc_probe.findings import Cause
from sbc_probe.model import Lookup
from sbc_probe.verdict import judge
from tests.kamailio import handshakes
from tests.kamailio.running import (
    ADDRESS,
    FQDN,
    INTERVAL,
    PROXIES,
    REPOSITORY,
    ROOT,
    STRANGER,
    Proxy,
    Start,
    command,
    exchange,
    listens_on_port,
    needs_kamailio,
    render,
    wait_for,
)

# Of a proxy that answered.
KEPT = ("sent", "time", "code", "reason", "since", "certificate", "rtt", "well")
CLOUDS: dict[str, Any] = yaml.safe_load((REPOSITORY / "roles/sbc/vars/main/clouds.yml").read_text())["sbc_clouds"]


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


@needs_kamailio
def test_kamailio_ends_with_a_test_run_that_is_killed(directory: Path) -> None:
    handshakes.make_certificates(directory)
    render(directory, sbc_cloud_facts={"proxies": [{"host": PROXIES[0], "port": 5061}], "signalling_networks": []})
    code = "import pathlib, sys, time, tests.kamailio.running as run\n"
    code += "run.start_kamailio(pathlib.Path(sys.argv[1])); time.sleep(600)"

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code, directory], cwd=REPOSITORY, env=environment) as test_run:
        try:
            assert wait_for(listens_on_port)
        finally:
            test_run.kill()
    assert wait_for(lambda: not listens_on_port())


@needs_kamailio
def test_every_proxy_is_asked_at_the_start_and_proven(start: Start) -> None:
    sbc = start()
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    answers = sbc.table("sbc_answers")
    assert sorted(answers) == sorted(f"{proxy}:{key}" for proxy in PROXIES for key in KEPT)
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
    sbc = start()
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    for count in (2, 3):
        for proxy in PROXIES:
            sbc.rpc("dispatcher.set_state", "ax", 1, f"sip:{proxy}:5061;transport=tls")
        sbc.rpc("evrexec.run", "evrexec:ping")
        # Active by the answers to this round alone: afterwards none is on its way any more.
        assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
        assert [len(proxy.requests) for proxy in sbc.proxies] == [count] * 3
    sbc.rpc("dispatcher.reload")
    assert sbc.flags() == ["AX", "AX", "AX"]
    sbc.rpc("evrexec.run", "evrexec:ping")
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])


@needs_kamailio
def test_a_proxy_fails_with_its_reason_and_comes_back(start: Start) -> None:
    sbc = start(sbc_options_interval=INTERVAL)
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    since = sbc.table("sbc_answers")[f"{PROXIES[0]}:since"]
    assert wait_for(lambda: time.time() >= since + 1, 2)  # it counts whole seconds
    sbc.proxies[0].status = '403 Forbidden\r\nReason: Q.850;cause=63;text="unknown trunk"'
    sbc.proxies[1].status = None
    sbc.proxies[2].status = "503 Overload"
    assert wait_for(lambda: sbc.flags() == ["IP", "IP", "IP"])
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
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])

    def said() -> list[int]:
        log = (sbc.directory / "log").read_text()
        return [
            log.count(f"cause={cause} proxy={proxy}\n")
            for proxy in PROXIES
            for cause in ("out_of_service", "in_service")
        ]

    assert wait_for(lambda: all(said()))
    assert said() == [1] * 6


@needs_kamailio
def test_one_lost_answer_is_no_failure(start: Start) -> None:
    sbc = start(sbc_options_interval=5)  # long enough to be seen in between
    assert wait_for(lambda: sbc.flags() == ["AP", "AP", "AP"])
    sbc.proxies[0].once = ["503 Overload"]
    assert wait_for(lambda: sbc.flags()[0] == "TP")
    assert wait_for(lambda: sbc.flags()[0] == "AP")
    assert "out_of_service" not in (sbc.directory / "log").read_text()


@needs_kamailio
def test_a_proxy_of_another_authority_is_never_active(start: Start, tmp_path: Path) -> None:
    sbc = start()
    handshakes.make_certificates(tmp_path)
    foreign = Proxy("127.7.2.4", tmp_path)
    foreign.context.load_verify_locations(sbc.directory / "ca.pem")
    with contextlib.closing(foreign):
        (sbc.directory / "dispatcher.list").write_text(f"1 sip:{foreign.address}:5061;transport=tls 0 1\n")
        sbc.rpc("dispatcher.reload")

        def asked_thrice() -> bool:
            """Asked over another connection only when the last one has failed."""
            sbc.rpc("evrexec.run", "evrexec:ping")
            return foreign.names.count(foreign.address) >= 3

        assert wait_for(asked_thrice)
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
            "time_servers": [],
        }
    )
    monkeypatch.setattr("sbc_probe.evidence.lookup", lambda name: Lookup((ADDRESS if name == FQDN else name,)))
    (sbc.directory / "dispatcher.list").write_text(
        "".join(f"1 sip:{address}:5061;transport=tls 0 1\n" for address in proxies)
    )
    with contextlib.ExitStack() as stack:
        for address, name in proxies.items():
            handshakes.issue(sbc.directory, "peer", name, name)
            stack.callback(Proxy(address, sbc.directory).close)
        sbc.rpc("dispatcher.reload")
        sbc.rpc("evrexec.run", "evrexec:ping")
        assert wait_for(lambda: sorted(sbc.flags()) == ["AP", "IP"])
        found = {item.destination.host: item.finding for item in judge(config, collect(config)).destinations}
    assert found.pop("127.7.2.4") is None
    (another,) = found.values()
    assert another
    assert another.cause is Cause.PROXY_CERTIFICATE_NAME
    assert "sip.fabrikam.example" in another.evidence


@needs_kamailio
def test_a_proxy_is_not_left_out_when_its_name_does_not_resolve_yet(start: Start) -> None:
    sbc = start(hosts=["127.7.2.1", "sip.nowhere.invalid"])
    assert wait_for(lambda: sbc.flags() == ["AP", "AX"])


@needs_kamailio
def test_microsoft_is_answered_and_its_options_are_kept_as_evidence(start: Start) -> None:
    sbc, begun = start(), int(time.time())
    answer = sbc.ask(source=PROXIES[1])
    assert answer.startswith("SIP/2.0 200 ")
    assert "kamailio" not in answer.lower()
    assert f"\r\nContact: <sip:{FQDN}:5061;transport=tls>\r\n" in answer
    (allow,) = (line for line in answer.split("\r\n") if line.startswith("Allow:"))
    assert "INVITE" in allow
    assert "REFER" not in allow
    theirs = sbc.theirs(1)
    assert begun <= theirs.pop(f"{FQDN}:time") <= time.time()
    assert theirs == {
        f"{FQDN}:source": PROXIES[1],
        f"{FQDN}:peer": "peer",
        f"{FQDN}:agent": "Microsoft.PSTNHub.SIPProxy v.2026.1",
        f"{FQDN}:code": 200,
        f"{FQDN}:code:200": 1,
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
    for _ in range(2):  # There is one worker: with the second answer, all that comes of the first request is done.
        assert sbc.ask("INVITE").startswith("SIP/2.0 503 ")
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
    for _ in range(2):
        assert sbc.ask(source=ADDRESS).startswith("SIP/2.0 200 ")
    assert sbc.table("sbc_theirs") == {}


@needs_kamailio
def test_nobody_else_gets_an_answer(start: Start) -> None:
    sbc = start()
    for method in ("OPTIONS", "INVITE", "REGISTER"):
        with sbc.connect(STRANGER) as session:
            session.settimeout(1)
            with pytest.raises(TimeoutError):
                exchange(session, method, source=STRANGER)
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
    for _ in range(2):
        assert sbc.ask(method, uri).startswith(f"SIP/2.0 {status}\r\n")
    assert sbc.table("sbc_theirs") == {}


@needs_kamailio
def test_the_tls_module_and_its_workers_are_those_that_the_handshakes_prove(start: Start) -> None:
    sbc = start()
    assert sbc.rpc("core.tcp_info")["readers"] == 1
    assert "tls" in sbc.rpc("core.modules")


@needs_kamailio
def test_a_renewed_certificate_is_served_after_a_reload_and_old_connections_stay(start: Start) -> None:
    sbc = start()
    with contextlib.ExitStack() as stack:
        old = [stack.enter_context(sbc.connect(source)) for source in PROXIES]
        before = old[0].getpeercert(binary_form=True)
        handshakes.make_certificates(sbc.directory)
        assert "reloaded" in sbc.rpc("tls.reload")
        with sbc.connect() as session:
            renewed = session.getpeercert(binary_form=True)
            assert exchange(session).startswith("SIP/2.0 200 ")
        for session in old:
            assert exchange(session).startswith("SIP/2.0 200 ")
    assert before != renewed
    (sbc.directory / "sbc.key").write_bytes((sbc.directory / "peer.key").read_bytes())
    with pytest.raises(LookupError, match="TLS configuration"):
        sbc.rpc("tls.reload")
    with sbc.connect() as session:
        assert session.getpeercert(binary_form=True) == renewed
