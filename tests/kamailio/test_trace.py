"""The switch for a SIP trace, as its unit runs it, with a real Kamailio: what is in the file, and that it ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.kamailio.running import (
    ADDRESS,
    FQDN,
    PATIENCE,
    PROXIES,
    REPOSITORY,
    ROOT,
    Sbc,
    Start,
    command,
    needs_kamailio,
    wait_for,
)

pytestmark = needs_kamailio


@dataclass(frozen=True)
class Packet:
    source: str
    target: str
    message: str

    @property
    def first_line(self) -> str:
        return self.message.partition("\r\n")[0]


def packets(file: Path) -> list[Packet]:
    """A pcap file of Ethernet frames, each of which holds one UDP datagram over IPv4. Raises struct.error."""
    data, found = file.read_bytes(), []
    magic, _, _, _, _, _, kind = struct.unpack_from("<IHHiIII", data)
    assert (magic, kind) == (0xA1B2C3D4, 1)
    at = 24
    while at < len(data):
        _, _, length, whole = struct.unpack_from("<IIII", data, at)
        assert length == whole
        frame = struct.unpack_from(f"{length}s", data, at + 16)[0]
        assert frame[12:15] == b"\x08\x00\x45"
        source, target = (".".join(map(str, frame[begin : begin + 4])) for begin in (26, 30))
        found.append(Packet(source, target, frame[42:].decode()))
        at += 16 + length
    return found


class Switch:
    """sbc-trace on Kamailio's machine, without systemd."""

    def __init__(self, sbc: Sbc, **changes: str) -> None:
        self.sbc, self.bin = sbc, sbc.directory / "bin"
        self.bin.mkdir()
        variables = {"ansible_managed": "Ansible managed", "inventory_hostname": "contoso", "sbc_fqdn": FQDN}
        template = trust_as_template((REPOSITORY / "roles/kamailio/templates/sbc-trace").read_text())
        text = Templar(loader=DataLoader(), variables=variables).template(template, overrides={"trim_blocks": True})
        for old, new in {"/var/lib/sbc-trace": str(sbc.directory), **changes}.items():
            assert old in text
            text = text.replace(old, new)
        ctl = "/" / sbc.directory.relative_to(ROOT) / "kamailio_ctl"
        kamcmd = shlex.join(command("kamcmd", "-s", f"unix:{ctl}"))
        notify = f'echo "$*" >{sbc.directory}/notified'
        for name, script in {"sbc-trace": text, "kamcmd": f'exec {kamcmd} "$@"', "systemd-notify": notify}.items():
            path = self.bin / name
            path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    def program(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        argv = [str(self.bin / "sbc-trace"), *arguments]
        log = (self.sbc.directory / "trace.log").open("ab")
        return subprocess.Popen(argv, env=environment, umask=0o077, stdout=log, stderr=log)

    @contextlib.contextmanager
    def recording(self) -> Iterator[subprocess.Popen[bytes]]:
        """As systemd does it: `record` for as long as it lasts, then `collect`."""
        recorder = self.program("record", "1")
        try:
            notified = self.sbc.directory / "notified"
            assert wait_for(notified.exists), self.said()
            yield recorder
        finally:
            recorder.terminate()
            recorder.wait()
            assert self.program("collect").wait() == 0

    def said(self) -> str:
        return (self.sbc.directory / "trace.log").read_text()

    def files(self) -> list[Path]:
        return sorted(self.sbc.directory.glob("*.pcap"))


def is_on(sbc: Sbc) -> bool:
    return bool(sbc.rpc("sipdump.enable")["newval"])


def test_both_ways_are_in_it_and_nothing_after_its_end(start: Start) -> None:
    sbc = start()
    switch = Switch(sbc)
    assert "200 OK" in sbc.ask()
    assert not is_on(sbc)
    assert switch.files() == []

    with switch.recording():
        assert "200 OK" in sbc.ask()
        sbc.rpc("evrexec.run", "evrexec:ping")
        # Theirs with our answer, and one of ours to each proxy with its answer.
        assert wait_for(lambda: sum(len(packets(file)) for file in switch.files()) >= 2 + 2 * len(PROXIES))

    (file,) = switch.files()
    assert file.name.startswith("contoso-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = packets(file)
    theirs, *_ = [each for each in content if each.first_line.startswith(f"OPTIONS sip:{FQDN}")]
    assert (theirs.source, theirs.target) == (PROXIES[0], ADDRESS)
    answers = [(each.source, each.target) for each in content if each.first_line == "SIP/2.0 200 OK"]
    assert (ADDRESS, PROXIES[0]) in answers
    for proxy in PROXIES:
        assert (proxy, ADDRESS) in answers
        assert [each for each in content if each.target == proxy and each.first_line.startswith(f"OPTIONS sip:{proxy}")]

    size = file.stat().st_size
    assert not is_on(sbc)
    assert "200 OK" in sbc.ask()
    sbc.theirs(3)
    assert switch.files() == [file]
    assert file.stat().st_size == size
    assert list(sbc.directory.glob("raw-*")) == []


def test_kamailio_ends_it_by_itself(start: Start) -> None:
    sbc = start()
    sbc.rpc("htable.setxi", "sbc_trace", "on", 1, 1)
    sbc.rpc("sipdump.enable", 1)
    assert is_on(sbc)
    assert wait_for(lambda: not is_on(sbc))
    assert "cause=trace_expired" in (sbc.directory / "log").read_text()


def test_it_ends_when_it_is_large(start: Start) -> None:
    sbc = start()
    switch = Switch(sbc, **{"max_megabytes * 1000000": "max_megabytes"})
    with switch.recording() as recorder:
        sbc.ask()
        assert recorder.wait(PATIENCE) == 0
        assert "the trace ends: it has 100 MB" in switch.said()
    assert len(switch.files()) == 1


@pytest.mark.parametrize("minutes", ["0", "61", "-1", "five", ""])
def test_so_many_minutes_there_are_not(start: Start, minutes: str) -> None:
    switch = Switch(start())
    assert switch.program(minutes).wait() == 64
    assert "usage: " in switch.said()
