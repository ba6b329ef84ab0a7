"""The packet filter and the program that opens it: accepted by nft, and tried where nobody else's rules are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from sbc_probe.model import PacketFilter
from sbc_probe.packet_filter import parse
from tests.plugins.support import ROOT

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft, for a network namespace of its own"
)
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def rendered(template: str, **variables: Any) -> str:
    templar = Templar(loader=DataLoader(), variables={"ansible_managed": "by a test"} | variables)
    text = trust_as_template((ROOT / "roles" / template).read_text())
    return str(templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}))


@pytest.fixture
def shell(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """A shell in a network namespace with the droplet's packet filter and sbc-challenge on its PATH."""
    filter_file, program = tmp_path / "nftables.conf", tmp_path / "sbc-challenge"
    filter_file.write_text(
        rendered(
            "base/templates/nftables.conf",
            sbc_ssh_sources=["192.0.2.0/24", "2001:db8::/32"],
            sbc_cloud_facts={"signalling_networks": ["52.112.0.0/14"]},
            sbc_probe_networks=request.param if hasattr(request, "param") else [],
            sbc_probe_port=9061,
            sbc_address="203.0.113.10",
        )
    )
    program.write_text(rendered("certificate/templates/sbc-challenge", certificate_target=tmp_path))
    program.chmod(0o755)
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read _"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout
        holder.stdout.readline()

        def run(command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "sh", "-c", command],
                env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )

        for command in (f"nft --check --file {filter_file}", f"nft --file {filter_file}"):
            done = run(command)
            assert done.returncode == 0, done.stderr
        yield run
        holder.communicate(b"\n")


def open_ports(shell: Shell) -> dict[str, int]:
    """What is open for a challenge, and for how many seconds."""
    found = json.loads(shell("nft --json list set inet sbc challenge").stdout)["nftables"]
    elements = [each["elem"] for entry in found if "set" in entry for each in entry["set"].get("elem", [])]
    return {" ".join(map(str, each["val"]["concat"])): each["timeout"] for each in elements}


def test_nothing_is_open_by_itself(shell: Shell) -> None:
    assert open_ports(shell) == {}
    rules = shell("nft list chain inet sbc input").stdout
    assert set(re.findall(r"dport (\d+) (?:counter packets 0 bytes 0 )?accept", rules)) == {"22", "5061"}


def test_the_probe_understands_it(shell: Shell) -> None:
    assert shell("sbc-challenge open http").returncode == 0
    listing = json.loads(shell("nft --json list ruleset").stdout)
    assert parse(listing, 5061) == PacketFilter(("52.112.0.0/14",), 0)
    assert parse(listing, 22) == PacketFilter(("192.0.2.0/24",), None)
    assert parse(listing, 80) == PacketFilter(None, None)
    assert parse(listing, 9061) == PacketFilter((), None)


@pytest.mark.parametrize("shell", [["192.0.2.0/25", "192.0.2.7/32"]], indirect=True)
def test_the_probe_is_open_to_the_networks_that_are_named(shell: Shell) -> None:
    rules = shell("nft list chain inet sbc input").stdout
    assert "ip saddr 192.0.2.0/25 tcp dport 9061 accept" in rules
    assert "ip saddr 192.0.2.7 tcp dport 9061 accept" in rules
    assert rules.count("dport 9061") == 2


def test_what_arrives_at_the_anchor_of_a_reserved_address_is_answered(shell: Shell, tmp_path: Path) -> None:
    """Nothing listens there, and the answers still come from it, as the peer expects."""
    server = tmp_path / "server"
    server.write_text(
        "import socket\n"
        "listener = socket.create_server(('203.0.113.10', 22))\n"
        "for _ in range(2):\n"
        "    listener.accept()[0].sendall(b'here')\n"
    )
    ask = "import socket; print(socket.create_connection(('%s', 22), 30).recv(9).decode())"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read _"], stdin=-1, stdout=-1) as peer:
        assert peer.stdout
        peer.stdout.readline()
        inside = ["nsenter", f"--net=/proc/{peer.pid}/ns/net"]
        done = shell(
            f"ip link set lo up; ip link add eth0 type veth peer name eth0 netns {peer.pid}; ip link set eth0 up;"
            "ip addr add 203.0.113.10/32 dev eth0; ip addr add 10.19.0.5/16 dev eth0; ip route add 192.0.2.9 dev eth0"
        )
        assert done.returncode == 0, done.stderr
        there = "ip addr add 192.0.2.9/32 dev eth0; ip link set eth0 up; ip route add default dev eth0"
        subprocess.run([*inside, "sh", "-c", there], check=True)
        shell(f"{sys.executable} {server} >{server}.log 2>&1 & until ss -Hltn | grep -q :22; do sleep 0.05; done")
        for address in ("203.0.113.10", "10.19.0.5"):
            said = subprocess.run([*inside, sys.executable, "-c", ask % address], stdout=-1, text=True, check=False)
            assert said.stdout == "here\n", address
        peer.communicate(b"\n")


@pytest.mark.parametrize(("challenge", "ports"), [("http", {"tcp 80": 600}), ("dns", {"tcp 53": 600, "udp 53": 600})])
def test_a_challenge_opens_its_ports_for_a_while(shell: Shell, challenge: str, ports: dict[str, int]) -> None:
    assert shell(f"sbc-challenge open {challenge}").returncode == 0
    assert open_ports(shell) == ports
    again = shell(f"sbc-challenge open {challenge}")
    assert (again.returncode, again.stderr) == (0, "")
    assert open_ports(shell) == ports
    for _ in range(2):
        assert shell(f"sbc-challenge close {challenge}").returncode == 0
        assert open_ports(shell) == {}


def test_what_nobody_closes_closes_by_itself(shell: Shell) -> None:
    shell("sbc-challenge open http")
    assert "flags timeout" in shell("nft list set inet sbc challenge").stdout
    shell("nft add element inet sbc challenge '{ udp . 53 timeout 5s }'")
    assert open_ports(shell) == {"tcp 80": 600, "udp 53": 5}
    deadline = time.monotonic() + 60
    while open_ports(shell) != {"tcp 80": 600}:
        assert time.monotonic() < deadline, open_ports(shell)
        time.sleep(0.1)


def test_room_for_a_certificate(shell: Shell, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (tmp_path / "sbc-challenge").write_text(rendered("certificate/templates/sbc-challenge", certificate_target=full))
    assert shell("sbc-challenge room").returncode == 0
    small = f"mount -t tmpfs -o size=64k none {full}"
    said = shell(f"unshare --mount sh -c '{small}; sbc-challenge room; code=$?; ls -A {full}; exit $code'")
    assert said.returncode == 1
    assert f"there is no room for one in {full}" in said.stderr
    assert said.stdout == ""


@pytest.mark.parametrize("wrong", ["", "open", "open ssh", "close http now"])
def test_what_it_does_not_know(shell: Shell, wrong: str) -> None:
    assert shell(f"sbc-challenge {wrong}").returncode == 64
    assert open_ports(shell) == {}
