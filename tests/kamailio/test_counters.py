"""What Kamailio counts for the probe: OPTIONS, answers, losses, turns, and whom Microsoft asked for."""

from __future__ import annotations

import itertools

import pytest

from sbc_probe.config import Config
from sbc_probe.kamailio import read_kamailio
from sbc_probe.model import Destination, Kamailio, Memory
from tests.kamailio.running import (
    ADDRESS,
    FQDN,
    INTERVAL,
    PROXIES,
    STRANGER,
    Sbc,
    Start,
    exchange,
    needs_kamailio,
    wait_for,
)
from tests.kamailio.test_tenants import reload

TENANTS = [f"{name}.{FQDN}" for name in ("fabrikam", "northwind", "wingtip")]


def read(sbc: Sbc) -> Kamailio:
    config = Config.parse(
        {
            "customer": "contoso",
            "fqdn": FQDN,
            "address": ADDRESS,
            "proxies": PROXIES,
            "tenants": TENANTS,
            "signalling_networks": ["127.7.2.0/24"],
            "rpc_socket": str(sbc.directory / "rpc.sock"),
        }
    )
    kamailio = read_kamailio(config)
    assert isinstance(kamailio, Kamailio), kamailio
    return kamailio


def all_well(sbc: Sbc) -> bool:
    return all(200 in destination.answers for destination in read(sbc).destinations)


@needs_kamailio
def test_every_options_is_sent_and_answered_or_lost(start: Start) -> None:
    sbc = start(sbc_options_interval=INTERVAL)
    assert wait_for(lambda: all_well(sbc))
    sbc.proxies[0].status = "503 Overload\r\nRetry-After: 30 (for now)"
    sbc.proxies[1].status = None

    def failed() -> bool:
        refusing, silent, _ = read(sbc).destinations
        return refusing.answers.get(503, 0) >= 2 and (silent.lost or 0) >= 2

    assert wait_for(failed)
    refusing, silent, good = read(sbc).destinations
    assert refusing.answer
    assert (refusing.answer.code, refusing.answer.retry_after) == (503, 30)
    assert good.answer
    assert good.answer.retry_after is None
    assert good.answer.round_trip
    assert 0 < good.answer.round_trip < 5
    assert (good.lost, good.turns, refusing.lost) == (0, (), 0)
    assert (len(refusing.turns), len(silent.turns)) == (1, 1)
    for destination in (refusing, silent, good):
        assert destination.sent
        # One may be on its way.
        assert 0 <= destination.sent - sum(destination.answers.values()) - (destination.lost or 0) <= 1
    for proxy in sbc.proxies:
        proxy.status = "200 OK"
    assert wait_for(lambda: [len(one.turns) for one in read(sbc).destinations] == [2, 2, 0])
    (back, *_) = read(sbc).destinations
    assert back.answer
    assert (back.answer.code, back.answer.retry_after) == (200, None)


@needs_kamailio
def test_a_proxy_that_comes_and_goes_leaves_its_turns(start: Start) -> None:
    sbc = start(sbc_options_interval=INTERVAL)
    assert wait_for(lambda: all_well(sbc))

    def first() -> Destination:
        return read(sbc).destinations[0]

    for count, status in enumerate(("503 Overload", "200 OK", "403 Forbidden", "200 OK"), 1):
        sbc.proxies[0].status = status
        assert wait_for(lambda: len(first().turns) == count)  # noqa: B023
    turns = first().turns
    assert all(earlier < later for earlier, later in itertools.pairwise(turns))
    assert [len(one.turns) for one in read(sbc).destinations[1:]] == [0, 0]


@needs_kamailio
@pytest.mark.full
def test_turns_are_forgotten_after_a_while(start: Start) -> None:
    sbc = start(sbc_options_interval=1)
    assert wait_for(lambda: all_well(sbc))
    sbc.rpc("htable.sets", "sbc_turns", f"{PROXIES[0]}:1795441310.196662", "0")
    assert read(sbc).destinations[0].turns == (1795441310.196662,)
    # They are kept for 15 intervals, and looked through every 20 s.
    assert wait_for(lambda: read(sbc).destinations[0].turns == ())


@needs_kamailio
def test_a_peer_with_another_name_is_a_turn_of_that_proxy_alone(start: Start) -> None:
    sbc = start(sbc_options_interval=INTERVAL)
    assert wait_for(lambda: all_well(sbc))
    sbc.proxies[2].change_certificate("sip.fabrikam.example")
    sbc.proxies[2].hang_up()
    assert wait_for(lambda: read(sbc).destinations[2].misnamed is not None)
    assert [len(one.turns) for one in read(sbc).destinations] == [0, 0, 1]
    assert sbc.table("sbc_counts").get(f"{PROXIES[2]}:lost") is None
    sbc.proxies[1].status = "503 Overload"
    assert wait_for(lambda: f"cause=out_of_service proxy={PROXIES[1]}\n" in (sbc.directory / "log").read_text())
    assert [len(one.turns) for one in read(sbc).destinations] == [0, 1, 1]


@needs_kamailio
def test_what_microsoft_asks_for_is_counted_by_our_answer(start: Start) -> None:
    sbc = start(sbc_tenants=TENANTS[:2])
    for _ in range(2):
        assert sbc.ask().startswith("SIP/2.0 200 ")
    assert sbc.ask("OPTIONS", f"sip:{FQDN}:5061", PROXIES[0], "Proxy-Require: gruu").startswith("SIP/2.0 420 ")
    assert sbc.ask(uri=f"sip:{TENANTS[0]}:5061;transport=tls").startswith("SIP/2.0 200 ")
    sbc.theirs(3)
    assert read(sbc).not_here is None
    for name, source in (("SIP.wingtip.example", PROXIES[2]), ("of.this.machine", ADDRESS)):
        assert sbc.ask(uri=f"sip:{name}:5061;transport=tls", source=source).startswith("SIP/2.0 404 ")
    kamailio = read(sbc)
    assert kamailio.theirs
    assert kamailio.theirs.codes == {200: 2, 420: 1}
    assert kamailio.theirs_of_tenants[TENANTS[0]].codes == {200: 1}
    refused = kamailio.not_here
    assert refused
    assert (refused.name, refused.source, refused.count) == ("sip.wingtip.example", PROXIES[2], 1)
    assert STRANGER not in str(kamailio)


@needs_kamailio
def test_kamailio_tells_of_itself(start: Start) -> None:
    sbc = start(sbc_tenants=TENANTS[:2])
    assert wait_for(lambda: all_well(sbc))
    kamailio = read(sbc)
    assert kamailio.version
    assert kamailio.version.startswith("6.")
    assert kamailio.uptime is not None
    assert kamailio.tenants == frozenset(TENANTS[:2])
    assert isinstance(kamailio.memory, Memory)
    assert 0 < kamailio.memory.used < kamailio.memory.total
    with sbc.connect(PROXIES[1]) as session:
        assert exchange(session, source=PROXIES[1]).startswith("SIP/2.0 200 ")
        connections = read(sbc).connections
    assert isinstance(connections, tuple)
    assert {one.peer for one in connections if one.outbound} == set(PROXIES)
    assert [one.peer for one in connections if not one.outbound] == [PROXIES[1]]
    assert {(one.established, one.version) for one in connections} == {(True, "TLSv1.2")}
    sbc.render(sbc_tenants=[])
    reload(sbc)
    assert read(sbc).tenants == frozenset()
