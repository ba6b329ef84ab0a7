"""The command from end to end: a miniature SBC on loopback, three proxies, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from miniature import FQDN, Authority, KamailioRpc, SipPort

import sbc_probe
from sbc_probe import cli
from sbc_probe.flags import PAIRS
from sbc_probe.model import Lookup
from sbc_probe.words import WORDS

HOSTS = ("p1.example.net", "p2.example.net", "p3.example.net")


class Sbc:
    """What the command finds; every test spoils something."""

    def __init__(self, file: Path, port: SipPort, rpc: KamailioRpc, proxies: Path) -> None:
        self.file, self.port, self.rpc, self.proxies = file, port, rpc, proxies
        self.loaded = int(time.time()) - 300
        self.addresses = {FQDN: "127.0.0.1", **{host: f"127.0.0.1{number}" for number, host in enumerate(HOSTS, 1)}}
        self.answers(200, 200, 200)
        self.theirs(20)

    def answers(self, *codes: int | None, ago: int = 1) -> None:
        """Let the proxies' last answers have these codes; None: no answer to the last OPTIONS, 30 s ago."""
        now, targets = int(time.time()), []
        table: dict[str, Any] = {}
        for host, code in zip(HOSTS, codes, strict=True):
            table[f"{host}:sent"] = now - (ago if code else 30)
            if code:
                table |= {f"{host}:time": now - ago, f"{host}:code": code, f"{host}:since": self.loaded}
                table[f"{host}:certificate"] = quote(self.proxies.read_text())
            flags = {200: "AP", None: "IP"}.get(code, "IP")
            latency = {"AVG": 5.0, "TIMEOUT": 0}
            targets.append(
                {"DEST": {"URI": f"sip:{host}:5061;transport=tls", "FLAGS": flags, "LATENCY": latency}},
            )
        self.rpc.table("sbc_answers", **table)
        self.rpc.table("sbc_self", loaded=self.loaded)
        self.rpc.answers["dispatcher.list"] = {"result": {"RECORDS": [{"SET": {"ID": 1, "TARGETS": targets}}]}}

    def theirs(self, ago: int) -> None:
        values = {"time": int(time.time()) - ago, "source": "10.9.9.11", "code": 200}
        self.rpc.table("sbc_theirs", **{f"{FQDN}:{name}": value for name, value in values.items()})

    def check(self, *options: str) -> int:
        return int(cli.main(["check", "--config", str(self.file), *options]))


@pytest.fixture(scope="module")
def proxies(authority: Authority) -> Path:
    """One certificate for all proxies."""
    return authority.issue("proxies", *HOSTS)


@pytest.fixture
def sbc(
    tmp_path: Path,
    settings: dict[str, Any],
    rpc: KamailioRpc,
    open_port: Callable[..., SipPort],
    certificate: Path,
    proxies: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Sbc:
    port = open_port(certificate)
    file = tmp_path / "probe.json"
    file.write_text(json.dumps({**settings, "port": port.port}))
    made = Sbc(file, port, rpc, proxies)
    monkeypatch.setattr("sbc_probe.evidence.lookup", lambda name: Lookup((made.addresses[name],)))
    return made


def test_proven(sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbc.check("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["scope"], report["overall"]["state"]) == ("all", "proven")
    assert sbc.check() == 0
    assert capsys.readouterr().out.startswith("PROVEN  acme")


def test_a_proxy_that_is_down(
    sbc: Sbc, capsys: pytest.CaptureFixture[str], open_port: Callable[..., SipPort], authority: Authority
) -> None:
    sbc.answers(200, None, 200)
    assert sbc.check("--json") == 1
    assert json.loads(capsys.readouterr().out)["overall"]["cause"] == "proxy_unreachable"
    proxy = open_port(authority.issue("p2", HOSTS[1]), "127.0.0.12", sbc.port.port)
    proxy.demand_client_certificate(authority.roots)
    assert sbc.check() == 1
    output = capsys.readouterr().out
    first = f"NOT PROVEN  acme: {FQDN} (127.0.0.1), cloud commercial; proxy_tls: No TLS comes about with a proxy"
    assert output.splitlines()[0] == first, "Nagios shows this line alone"
    assert "cause: proxy_tls" in output
    assert "Kamailio completes no TLS handshake" in output


def test_waiting_for_microsoft(sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
    sbc.answers(403, 403, 403)
    sbc.rpc.table("sbc_theirs")
    assert sbc.check() == 3
    assert f"New-CsOnlinePSTNGateway -Fqdn {FQDN}" in " ".join(capsys.readouterr().out.split())


def test_a_droplet_that_takes_anothers_place_is_judged_before_names_lead_to_it(
    sbc: Sbc, capsys: pytest.CaptureFixture[str]
) -> None:
    sbc.addresses[FQDN] = "192.0.2.99"
    sbc.rpc.table("sbc_theirs")
    assert sbc.check() == 1
    capsys.readouterr()
    assert sbc.check("--outbound", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scope"] == "outbound"
    sbc.answers(200, 503, 200)
    assert sbc.check("--outbound") == 1
    assert "proxy_overloaded" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        sbc.check("--outbound", "--ours")


def test_a_configuration_swap_is_judged_by_our_side_alone(sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
    sbc.answers(403, None, 200)
    assert sbc.check("--ours", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scope"] == "ours"
    sbc.port.answer = "SIP/2.0 503 No Carrier\r\n\r\n"
    assert sbc.check("--ours") == 1
    assert "got 503 No Carrier" in capsys.readouterr().out


def test_an_unusable_configuration_is_unknown(sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
    sbc.file.write_text("{}")
    assert sbc.check() == 2
    assert "missing key customer" in capsys.readouterr().err


class TestExplain:
    """It needs no configuration: it also runs where there is no SBC."""

    def test_a_state_and_a_cause(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["explain", "ip"]) == 0
        assert capsys.readouterr().out.startswith("IP: inactive")
        assert cli.main(["explain", "proxy_tls"]) == 0
        assert capsys.readouterr().out.startswith("proxy_tls (failed): ")

    def test_all_of_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["explain"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len([line for line in lines if line]) == len(PAIRS) + len(WORDS)
        assert "proxy_tls                     No TLS comes about with a proxy (failed)" in lines

    def test_a_word_that_is_neither(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["explain", "proxy_tsl"]) == 2
        assert "proxy_tsl is no state and no cause; proxy_tls" in capsys.readouterr().err


class TestRetire:
    def retire(self, sbc: Sbc, within: str = "0") -> int:
        return cli.main(["retire", "--within", within, "--config", str(sbc.file)])

    def test_where_nothing_is_open(self, sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
        sbc.rpc.answers["tls.list"] = {"result": []}
        assert self.retire(sbc) == 0
        sbc.rpc.close()
        assert self.retire(sbc) == 0, "no Kamailio, no old connections"
        assert capsys.readouterr().out == "0 TLS connections of before have ended\n" * 2

    def test_what_is_left_is_told(self, sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.retire(sbc) == 1
        assert "6 of 6 TLS connections: 500 Method Not Found" in capsys.readouterr().err
        for connection in sbc.rpc.answers["tls.list"]["result"]:
            sbc.rpc.answers[f"tls.kill {connection['id']}"] = {"result": "OK"}
        assert self.retire(sbc) == 1
        assert "6 of 6 TLS connections: not closed after 0 s" in capsys.readouterr().err
        sbc.rpc.answers["tls.list"] = {"error": {"code": 500, "message": "No"}}
        assert self.retire(sbc) == 1
        assert "does not list its connections: 500 No" in capsys.readouterr().err

    def test_a_time_that_makes_no_sense(self, sbc: Sbc, capsys: pytest.CaptureFixture[str]) -> None:
        for within in ("-1", "soon", "nan"):
            with pytest.raises(SystemExit):
                self.retire(sbc, within)


class TestWait:
    """`--wait` with a clock that runs as fast as it is slept."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        slept: list[float] = []
        begin = time.time()
        monkeypatch.setattr("time.time", lambda: begin + sum(slept))
        monkeypatch.setattr("time.sleep", slept.append)
        return slept

    def test_it_ends_with_the_proof(self, sbc: Sbc, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        sbc.answers(403, 200, 200)

        def sleep(seconds: float) -> None:
            clock.append(seconds)
            if sum(clock) > 30:
                sbc.answers(200, 200, 200)

        monkeypatch.setattr("time.sleep", sleep)
        assert sbc.check("--wait") == 0
        assert 30 < sum(clock) < 33

    def test_it_ends_when_a_new_refusal_settles_it(
        self, sbc: Sbc, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sbc.answers(403, 200, 200)

        def sleep(seconds: float) -> None:
            clock.append(seconds)
            if sum(clock) > 40:
                sbc.answers(403, 200, 200)

        monkeypatch.setattr("time.sleep", sleep)
        assert sbc.check("--wait") == 1
        assert 40 < sum(clock) < 44

    def test_it_gives_our_own_side_a_few_seconds(self, sbc: Sbc, clock: list[float]) -> None:
        sbc.port.answer = "SIP/2.0 503 No Carrier\r\n\r\n"
        assert sbc.check("--ours", "--wait") == 1
        assert 4 < sum(clock) <= 5.1

    def test_a_number_is_the_limit(self, sbc: Sbc, clock: list[float]) -> None:
        sbc.port.answer = "SIP/2.0 503 No Carrier\r\n\r\n"
        assert sbc.check("--wait", "12") == 1
        assert sum(clock) == pytest.approx(12, abs=0.1)


def test_it_runs_as_one_file(sbc: Sbc, tmp_path: Path) -> None:
    sbc.rpc.close()
    archive = tmp_path / "sbc-probe"
    package = Path(sbc_probe.__file__).parent
    staging = tmp_path / "staging"
    (staging / "sbc_probe").mkdir(parents=True)
    for file in package.iterdir():
        if file.is_file():
            (staging / "sbc_probe" / file.name).write_bytes(file.read_bytes())
    (staging / "__main__.py").write_bytes((package / "__main__.py").read_bytes())
    zipapp.create_archive(staging, archive)
    command = [sys.executable, str(archive), "check", "--ours", "--config", str(sbc.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "cause: kamailio_rpc" in done.stdout
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as deaf:
        assert deaf.stdout
        assert deaf.stderr
        deaf.stdout.close()
        assert (deaf.wait(30), deaf.stderr.read()) == (1, "")
