"""Kamailio's side of the evidence, from answers captured of 6.0.1: p1 answers 200, p2 answers 403, p3 is silent."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from miniature import Authority, KamailioRpc

from sbc_probe.config import Config
from sbc_probe.evidence import lookups, read_kamailio, to_visit
from sbc_probe.model import Answer, Kamailio, Lookup, Misnamed, Theirs, Unread
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
    assert good.answer == Answer(1795419781, 200, "OK", since=1795419766, names=())
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

    def test_each_name_gets_its_own_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        threads = threading.Barrier(32, timeout=5)

        def lookup(name: str) -> Lookup:
            if self.NAMES.index(name) < 32:
                threads.wait()
            return Lookup((name,))

        monkeypatch.setattr("sbc_probe.evidence.lookup", lookup)
        assert lookups(self.NAMES, Lookup((), "NXDOMAIN", True)) == {name: Lookup((name,)) for name in self.NAMES}
        assert lookups((), Lookup(("127.0.0.1",))) == {}

    def test_a_resolver_that_is_down_is_not_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("sbc_probe.evidence.lookup")
        down = Lookup((), "name server 192.0.2.1 does not answer")
        assert lookups(self.NAMES, down) == dict.fromkeys(self.NAMES, down)


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
    monkeypatch.setattr("sbc_probe.evidence.Rpc", lambda path: Rpc(path, timeout=0.1))
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
