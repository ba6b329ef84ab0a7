"""Kamailio's side of the evidence, from answers captured of 6.0.1: p1 answers 200, p2 answers 403, p3 is silent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from miniature import CAPTURED, Authority, KamailioRpc

from sbc_probe.config import Config
from sbc_probe.evidence import lookups, to_visit
from sbc_probe.kamailio import read_kamailio
from sbc_probe.model import Answer, Connection, Kamailio, Lookup, Memory, Misnamed, NotHere, Theirs, Unread
from sbc_probe.rpc import Rpc

TAKEN = 1795419785.0


def read(config: Config) -> Kamailio:
    kamailio = read_kamailio(config)
    assert isinstance(kamailio, Kamailio), kamailio
    return kamailio


def refused(config: Config) -> Unread:
    kamailio = read_kamailio(config)
    assert isinstance(kamailio, Unread)
    return kamailio


def test_destinations_carry_flags_latency_and_answers(rpc: KamailioRpc, config: Config) -> None:
    good, forbidden, silent = read(config).destinations
    assert (good.host, good.flags, good.latency_ms) == ("p1.example.net", "AP", 4.333333)
    assert good.answer == Answer(1795419781, 200, "OK", since=1795419766, names=(), round_trip=0.000703)
    assert forbidden.answer == Answer(1795419781, 403, "Forbidden", since=1795419766, names=())
    assert (silent.flags, silent.answer, silent.sent_at) == ("IP", None, 1795419781)


def test_a_latency_that_was_never_measured_is_absent(rpc: KamailioRpc, config: Config) -> None:
    assert read(config).destinations[2].latency_ms is None
    rpc.table("sbc_answers", **{"p3.example.net:time": 5, "p3.example.net:code": 200})
    assert read(config).destinations[2].latency_ms == 0


def test_an_answer_carries_the_names_in_its_certificate(rpc: KamailioRpc, config: Config, authority: Authority) -> None:
    pem = authority.issue("p3", "p3.example.net", "*.example.org").read_text()
    for text, names in ((quote(pem), ("p3.example.net", "*.example.org")), ("-----BEGIN%20", ())):
        rpc.table(
            "sbc_answers", **{"p3.example.net:time": 5, "p3.example.net:code": 200, "p3.example.net:certificate": text}
        )
        answer = read(config).destinations[2].answer
        assert answer
        assert answer.names == names


def test_a_peer_that_kamailio_hung_up_on_is_named(rpc: KamailioRpc, config: Config, authority: Authority) -> None:
    pem = authority.issue("impostor", "sip.example.net").read_text()
    assert read(config).destinations[2].misnamed is None
    rpc.table("sbc_answers", **{"p3.example.net:refused": 7, "p3.example.net:certificate": quote(pem)})
    found = read(config).destinations[2]
    assert (found.answer, found.misnamed) == (None, Misnamed(7, ("sip.example.net",)))


def test_microsofts_options_for_a_tenant_are_kept_apart(rpc: KamailioRpc, config: Config) -> None:
    tenants = tuple(f"{name}.{config.fqdn}" for name in ("fabrikam", "wingtip"))
    values = {"time": 9, "source": "10.9.9.12", "code": 200}
    rpc.table("sbc_theirs", **{f"{tenants[0]}:{key}": value for key, value in values.items()})
    kamailio = read(replace(config, tenants=tenants))
    assert kamailio.theirs is None
    assert kamailio.theirs_of_tenants == {tenants[0]: Theirs(9, "10.9.9.12", None, 200, None, None)}


class TestLookups:
    """Tenants' names, side by side, while the resolver works at all."""

    NAMES = tuple(f"t{number}.sbc.example.com" for number in range(40))

    def test_each_name_gets_its_own_answer(self) -> None:
        threads = threading.Barrier(32, timeout=60)

        def lookup(name: str) -> Lookup:
            if self.NAMES.index(name) < 32:
                threads.wait()
            return Lookup((name,))

        nowhere = Lookup((), "NXDOMAIN", True)
        assert lookups(self.NAMES, nowhere, lookup) == {name: Lookup((name,)) for name in self.NAMES}
        assert lookups((), Lookup(("127.0.0.1",)), lookup) == {}

    def test_a_resolver_that_is_down_is_not_asked_again(self) -> None:
        asked: list[str] = []

        def lookup(name: str) -> Lookup:
            asked.append(name)
            return Lookup((name,))

        down = Lookup((), "name server 192.0.2.1 does not answer")
        assert lookups(self.NAMES, down, lookup) == dict.fromkeys(self.NAMES, down)
        assert not asked


def test_theirs_and_the_start_come_from_the_tables(rpc: KamailioRpc, config: Config) -> None:
    kamailio = read(config)
    assert kamailio.loaded_at == 1795419766
    theirs = kamailio.theirs
    assert theirs
    assert (theirs.at, theirs.source, theirs.code) == (1795419781, "10.9.9.11", 200)
    assert (theirs.peer, theirs.count) == ("p.example.net", 4)
    rpc.table("sbc_theirs")
    assert read(config).theirs is None


def test_without_the_table_of_itself_the_uptime_tells_the_start(
    rpc: KamailioRpc, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc.table("sbc_self")
    monkeypatch.setattr("time.time", lambda: TAKEN + 0.5)
    assert read(config).loaded_at == TAKEN - 19


def test_only_connections_that_kamailio_opened_count_as_established(rpc: KamailioRpc, config: Config) -> None:
    connection = {"src_ip": "52.112.7.7", "src_port": 40000, "state": "established"}
    connecting = {"src_ip": "52.112.7.8", "src_port": 5061, "state": "tls_connect"}
    rpc.answers["tls.list"]["result"] += [connection, connecting]
    assert read(config).established == frozenset({"10.9.9.11", "10.9.9.12", "10.9.9.13"})
    del rpc.answers["tls.list"]
    assert isinstance(read(config).established, Unread)


def test_only_a_proxy_that_owes_an_answer_is_visited(rpc: KamailioRpc, config: Config) -> None:
    kamailio = read(config)
    assert to_visit(kamailio, TAKEN) == ["p3.example.net"]
    good, forbidden, silent = kamailio.destinations
    never_sent = replace(silent, flags="AX", sent_at=None)
    for destination, expected in (
        (replace(good, sent_at=TAKEN - 1), False),
        (replace(good, sent_at=TAKEN - 3), True),
        (replace(good, flags="IP"), True),
        (replace(forbidden, sent_at=TAKEN - 3), True),
        (replace(silent, flags="AX", sent_at=TAKEN - 1), False),
        (never_sent, True),
    ):
        assert bool(to_visit(replace(kamailio, destinations=(destination,)), TAKEN)) is expected
    assert not to_visit(replace(kamailio, loaded_at=TAKEN - 1, destinations=(never_sent,)), TAKEN)


def test_no_destination_sets_is_an_answer(rpc: KamailioRpc, config: Config) -> None:
    rpc.answers["dispatcher.list"] = {"error": {"code": 500, "message": "No Destination Sets"}}
    assert read(config).destinations == ()


def test_what_kamailio_counts_is_read(rpc: KamailioRpc, config: Config) -> None:
    kamailio = read(config)
    good, forbidden, silent = kamailio.destinations
    assert (good.sent, good.answers, good.lost) == (5, {200: 5}, 0)
    assert (forbidden.sent, forbidden.answers, forbidden.lost) == (5, {403: 5}, 0)
    assert (silent.sent, silent.answers, silent.lost) == (5, {}, 4)
    assert (good.turns, silent.turns) == ((1795419776.195719, 1795419777.196662), ())
    assert kamailio.theirs
    assert kamailio.theirs.codes == {200: 4}
    assert kamailio.not_here == NotHere(1795419780, "other.example", "10.9.9.12", 1)
    assert (kamailio.version, kamailio.uptime, kamailio.memory) == ("6.0.1", 19, Memory(67108864, 6403968))
    assert kamailio.tenants == frozenset({"fabrikam.sbc.example.com"})
    assert isinstance(kamailio.connections, tuple)
    (one, *_) = kamailio.connections
    assert one == Connection("10.9.9.11", True, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384")


def test_what_an_older_configuration_does_not_count_is_not_zero(rpc: KamailioRpc, config: Config) -> None:
    for name in ("sbc_counts", "sbc_turns"):
        del rpc.answers[f"htable.dump {name}"]
    good, *_ = read(config).destinations
    assert (good.flags, good.sent, good.answers, good.lost, good.turns) == ("AP", None, {}, None, ())


@pytest.mark.parametrize(
    ("said", "seconds"), [("30", 30), (" 120 (later)", 120), (60, 60), ("soon", None), ("-1", None), ("9" * 99, None)]
)
def test_what_an_answer_asks_for_is_read(rpc: KamailioRpc, config: Config, said: str | int, seconds: int) -> None:
    facts = {"time": 5, "code": 503, "retry_after": said, "rtt": -86399999000}
    rpc.table("sbc_answers", **{f"p3.example.net:{key}": value for key, value in facts.items()})
    answer = read(config).destinations[2].answer
    assert answer
    assert (answer.retry_after, answer.round_trip) == (seconds, None)


class TestSpoilt:
    """Answers that are cut short, no JSON, of other types or too long: said in words, never an exception or a zero."""

    PARTS = ("core.version", "core.shmmem", "tls.info", "tls.list", "permissions.domainDump")

    @pytest.mark.parametrize("asked", [*json.loads(CAPTURED.read_text())][:-1])
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda answer: answer[: len(answer) // 2],
            lambda _: b"",
            lambda _: b"\xff\xfe",
            lambda _: b"[" * 100_000,
            lambda answer: b"[" + answer + b"]",
            lambda answer: answer.replace(b'"result"', b'"results"'),
            lambda answer: re.sub(rb'("result": ).*', rb"\1null}", answer),
            lambda answer: re.sub(rb'("result": ).*', rb"\1[[[7]]]}", answer),
            lambda answer: re.sub(rb'("result": ).*', rb'\1{"uptime": NaN}}', answer),
            lambda answer: re.sub(rb'("result": ).*', rb'\1{"uptime": 1e999, "total": true}}', answer),
            lambda answer: re.sub(rb'("result": ).*', rb'\1[{"slot": [{"value": 1}]}]}', answer),
            lambda answer: re.sub(
                rb'("result": ).*', rb'\1{"RECORDS": [{"SET": {"TARGETS": [{"DEST": 1}]}}]}}', answer
            ),
        ],
    )
    def test_in_words(self, rpc: KamailioRpc, config: Config, asked: str, spoil: Callable[[bytes], bytes]) -> None:
        rpc.spoil = lambda name, answer: spoil(answer) if name == asked else answer
        kamailio = read_kamailio(config)
        if asked not in self.PARTS:
            assert isinstance(kamailio, Unread)
            assert "form that is not known" in kamailio.why
            return
        assert isinstance(kamailio, Kamailio)
        parts = {
            "core.shmmem": kamailio.memory,
            "permissions.domainDump": kamailio.tenants,
            "tls.info": kamailio.connections,
            "tls.list": kamailio.established,
        }
        if asked in parts:
            assert isinstance(parts[asked], Unread)

    @pytest.mark.parametrize("huge", [10**400, "1e999", "-inf", True, [1], {"a": 1}, None, "late"])
    def test_no_sensible_number(self, rpc: KamailioRpc, config: Config, huge: object) -> None:
        rpc.table("sbc_self", loaded=huge)
        assert "form that is not known" in refused(config).why

    def test_more_connections_than_an_answer_can_hold(self, rpc: KamailioRpc, config: Config) -> None:
        rpc.answers["tls.info"]["result"]["opened_connections"] = 1395
        established = read(config).established
        assert established == Unread("tls.list: 1395 connections are too many to list")

    def test_somebody_who_goes_on_with_answers_to_others(self, config: Config, tmp_path: Path) -> None:
        with Rpc(config.rpc_socket, timeout=0.5) as client, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(config.rpc_socket)
            done = threading.Event()

            def chatter() -> None:
                with contextlib.suppress(OSError):
                    while not done.is_set():
                        other.sendto(b'{"id": -1}', client._socket.getsockname())

            thread = threading.Thread(target=chatter)
            thread.start()
            with pytest.raises(TimeoutError):
                client.call("core.uptime")
            done.set()
            client._socket.close()
            thread.join()


def test_what_keeps_kamailio_from_being_read_is_told_apart(rpc: KamailioRpc, config: Config, tmp_path: Path) -> None:
    del rpc.answers["htable.dump sbc_self"]
    assert "Method Not Found" in refused(config).why
    rpc.answers["core.uptime"] = {"result": "long"}
    assert "form that is not known" in refused(config).why
    rpc.close()
    assert "No such file" in refused(config).why
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abandoned:
        abandoned.bind(config.rpc_socket)
    assert "left behind" in refused(config).why


def test_a_kamailio_that_hangs_is_not_waited_for(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbc_probe.kamailio.Rpc", lambda path: Rpc(path, timeout=0.1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mute:
        mute.bind(config.rpc_socket)
        assert "nothing answers" in refused(config).why


def test_a_socket_that_may_not_be_written_says_nothing_about_kamailio(rpc: KamailioRpc, config: Config) -> None:
    rpc.path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert refused(config).denied
    finally:
        if root:
            os.seteuid(0)


def test_an_answer_to_somebody_else_is_skipped(rpc: KamailioRpc, config: Config) -> None:
    with Rpc(config.rpc_socket) as client, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b'{"jsonrpc": "2.0", "id": -1, "result": {"uptime": 0}}', client._socket.getsockname())
        assert client.call("core.uptime")["uptime"] == 19
