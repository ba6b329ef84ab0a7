"""Whom nftables lets in, by the real nft's own words about real rules, each in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sbc_probe import packet_filter
from sbc_probe.config import Config
from sbc_probe.model import PacketFilter, Unread
from sbc_probe.packet_filter import NotUnderstood, parse

MICROSOFT = ("52.112.0.0/14", "52.122.0.0/15")
OURS = """
table inet sbc {
    set challenge { type inet_proto . inet_service; flags timeout; elements = { tcp . 80 timeout 10m }; }
    set sip { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 52.112.0.1 }; }
    chain sip {
        ip saddr 52.112.0.0/14 drop
    }
    chain others {
        ip saddr 10.0.0.0/8 return
        drop
    }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } limit rate 50/second accept
        ip saddr 192.0.2.0/24 tcp dport 22 accept comment "SSH"
        ip6 saddr 2001:db8::/32 tcp dport 22 accept
        meta l4proto . th dport @challenge accept
        ip saddr { 52.112.0.0/14, 52.122.0.0/15 } tcp dport 5061 counter packets 7 bytes 420 accept
    }
    chain output { type filter hook output priority filter; policy accept; ip daddr 169.254.169.254 drop; }
    chain forward { type filter hook forward priority filter; policy drop; }
}
"""
HEAD = "type filter hook input priority filter; policy drop;\n"
EMPTY = f"table inet sbc {{\nchain input {{\n{HEAD}}}\n}}\n"
GUARD = "table ip guard {\nchain input {\ntype filter hook input priority -10; policy accept;\n%s\n}\n}\n"


def listing(rules: str) -> str:
    """What nft says of these rules."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", "nft -f - && nft --json list ruleset"],
        input=rules,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def whom(rules: str, port: int = 5061) -> tuple[str, ...] | None:
    return parse(json.loads(listing(rules)), port).admitted


def first(rules: str) -> str:
    """These rules before the droplet's own."""
    return OURS.replace(HEAD, f"{HEAD}{rules}\n", 1)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft, for a network namespace")
class TestRules:
    def test_the_droplets_own(self) -> None:
        assert parse(json.loads(listing(OURS)), 5061) == PacketFilter(MICROSOFT, 7)
        assert parse(json.loads(listing(OURS)), 22) == PacketFilter(("192.0.2.0/24",))
        assert whom(OURS, 80) is None
        assert whom(OURS, 443) == ()

    @pytest.mark.parametrize(
        ("rules", "admitted"),
        [
            ("", None),
            (EMPTY, ()),
            (EMPTY.replace("policy drop", "policy accept"), None),
            (OURS.replace("input priority filter; policy drop", "input priority filter; policy accept"), None),
            (OURS.replace("5061", "5060"), ()),
            (OURS.replace("tcp dport 5061", "tcp dport { 22, 5060-5061 }"), MICROSOFT),
            (OURS.replace("tcp dport 5061", "tcp dport != 5061"), ()),
            (OURS.replace("tcp dport 5061", "udp dport 5061"), ()),
            (OURS.replace("{ 52.112.0.0/14, 52.122.0.0/15 }", "@sip"), ("10.0.0.0/8", "52.112.0.1/32")),
            (first("ip saddr 52.112.0.0/15 drop"), ("52.114.0.0/15", "52.122.0.0/15")),
            (first("ip saddr 52.112.0.0-52.113.255.255 reject"), ("52.114.0.0/15", "52.122.0.0/15")),
            (first("tcp dport 5061 drop"), ()),
            (first("tcp dport 22 drop"), MICROSOFT),
            (first("tcp dport 5061 accept"), None),
            (first("ct state new tcp dport 5061 log drop"), ()),
            (first("ip saddr != 52.112.0.0/14 drop"), MICROSOFT[:1]),
            (first('iifname != "lo" tcp dport 5061 drop'), ()),
            (first("jump sip"), MICROSOFT[1:]),
            (first("ip saddr 52.112.0.0/14 jump others"), MICROSOFT[1:]),
            (first("jump others"), ()),
            (first("ip saddr 52.122.0.0/15 goto others"), MICROSOFT[:1]),
            (OURS + GUARD % "tcp dport 5061 drop", ()),
            (OURS + GUARD % "ip saddr 52.122.0.0/15 counter drop", MICROSOFT[:1]),
            (
                OURS + GUARD.replace("input priority", "prerouting priority") % "ip saddr 52.112.0.0/14 drop",
                MICROSOFT[1:],
            ),
        ],
    )
    def test_others(self, rules: str, admitted: tuple[str, ...] | None) -> None:
        assert whom(rules) == admitted

    @pytest.mark.parametrize(
        "rule",
        [
            "tcp dport 5061 limit rate 5/second accept",
            "ip saddr 52.112.0.0/14 tcp sport 1024-65535 drop",
            'iifname "eth0" drop',
            "tcp dport vmap { 5061 : drop }",
            "meta mark 7 drop",
        ],
    )
    def test_one_that_may_concern_us_and_is_not_understood_is_said(self, rule: str) -> None:
        with pytest.raises(NotUnderstood):
            whom(first(rule))

    def test_one_that_is_not_understood_and_does_not_concern_us_is_nothing(self) -> None:
        assert whom(first("udp dport 5061 meta mark 7 drop\ntcp dport 22 limit rate 5/second accept")) == MICROSOFT


class TestSocket:
    """Who answers on the socket may say anything, or nothing."""

    @pytest.fixture
    def answer(self, tmp_path: Path) -> Iterator[Callable[[bytes | None], PacketFilter | Unread]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            path = str(tmp_path / "filter.sock")
            listener.bind(path)
            listener.listen()
            done = threading.Event()

            def ask(said: bytes | None) -> PacketFilter | Unread:
                def serve() -> None:
                    client, _ = listener.accept()
                    with client:
                        if said is None:
                            done.wait(30)
                        else:
                            try:
                                client.sendall(said)
                            except OSError:
                                return

                thread = threading.Thread(target=serve)
                thread.start()
                found = packet_filter.read(path, 5061)
                done.set()
                thread.join()
                return found

            yield ask

    def test_a_good_answer(self, answer: Callable[[bytes | None], PacketFilter | Unread]) -> None:
        assert answer(b'{"nftables": [{"metainfo": {"version": "1.1.3"}}]}') == PacketFilter(None)

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"Error: Operation not permitted",
            b'{"nftables": [{"chain": {"family": "inet"',
            b"[]",
            b'{"nftables": [7]}',
            b'{"nftables": [{"chain": {"hook": "input", "type": "filter", "family": "inet", "name": "x"}}]}',
            b"[" * 100_000,
            b"\xff" * 300,
        ],
    )
    def test_junk_is_said(self, answer: Callable[[bytes | None], PacketFilter | Unread], said: bytes) -> None:
        found = answer(said)
        assert isinstance(found, Unread)
        assert found.why.startswith("nft does not list its rules: ")
        assert len(found.why) < 300

    def test_no_end_is_waited_for(
        self, answer: Callable[[bytes | None], PacketFilter | Unread], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packet_filter, "TIMEOUT", 0.3)
        found = answer(None)
        assert isinstance(found, Unread)
        assert "no answer" in found.why
        monkeypatch.setattr(packet_filter, "TIMEOUT", 60)
        monkeypatch.setattr(packet_filter, "LIMIT", 1000)
        found = answer(b" " * 2000)
        assert isinstance(found, Unread)
        assert "more than 1000 bytes" in found.why

    def test_it_is_asked_as_often_as_options_leave(
        self, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        now, asked = [0.0], []

        def read(path: str, port: int) -> PacketFilter:
            asked.append((path, port))
            return PacketFilter(None)

        monkeypatch.setattr(packet_filter, "read", read)
        monkeypatch.setattr("sbc_probe.packet_filter.time.monotonic", lambda: now[0])
        for moment in (0, 4, 6, 9, 12):
            now[0] = moment
            assert packet_filter.ask(replace(config, options_interval=5)) == PacketFilter(None)
        assert asked == [(config.packet_filter, config.port)] * 3

    def test_nobody_there(self, tmp_path: Path) -> None:
        path = str(tmp_path / "none.sock")
        assert packet_filter.read(path, 5061) == Unread(f"{path}: No such file or directory")
