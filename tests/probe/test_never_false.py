"""Never a false proof: whatever is changed in the evidence of a healthy SBC, `proven` keeps its conditions.

The conditions are written down here once more, in other words than those of the rules, as what Teams needs.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from by_hand import (
    ADDRESSES,
    CONFIG,
    DAY,
    FILES,
    FQDN,
    GOOD,
    NETWORKS,
    NOW,
    PROXIES,
    REFUSED,
    answered,
    destination,
    evidence,
    kamailio,
    port,
    theirs,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sbc_probe import renewal
from sbc_probe.findings import Cause, State
from sbc_probe.flags import PAIRS
from sbc_probe.model import (
    NOT_LOOKED,
    Clock,
    Destination,
    Evidence,
    Kamailio,
    Loaded,
    Lookup,
    Memory,
    Misnamed,
    NotHere,
    OptionsReply,
    PacketFilter,
    Reach,
    Renewal,
    Unread,
)
from sbc_probe.report import as_json, as_text
from sbc_probe.verdict import aged, judge, judge_outbound, judge_swap

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs/status.schema.json").read_text()))
# Two rounds of OPTIONS, and three intervals of Microsoft's: the oldest that may still prove something (s).
OURS, THEIRS = 2 * (60 + 5 + 3), 3 * 60 + 3
# What passes for the same moment, since Kamailio's times are whole seconds.
TICK = 3.0

# Mostly around the limits, sometimes anywhere.
EDGES = [0, 1, 3, 4, 10, 20, 60, 62, 68, 73, 135, 136, 137, 183, 184, 500, 899, 901, 3599, 3600, 3601, DAY]
moments = st.one_of(
    st.sampled_from([NOW - edge for edge in EDGES]),
    st.sampled_from([NOW + edge for edge in EDGES]),
    st.floats(NOW - 2 * DAY, NOW + 2 * DAY),
)
unread = st.builds(Unread, st.just("x"), st.booleans())
addresses = st.sampled_from([*ADDRESSES.values(), "52.123.0.1", "52.124.0.1", "198.51.100.7", "2001:db8::1", ""])
lookups = st.one_of(
    st.builds(Lookup, st.lists(addresses, min_size=1, max_size=2).map(tuple)),
    st.builds(Lookup, st.just(()), st.just("SERVFAIL"), st.booleans()),
)


def altered(good: Any, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The same with one or two of these fields changed."""
    names = st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2)
    drawn = names.flatmap(lambda chosen: st.fixed_dictionaries({name: values[name] for name in chosen}))
    return drawn.map(lambda changes: replace(good, **changes))


answers = altered(
    answered(),
    at=moments,
    code=st.sampled_from([100, 199, 202, 299, 300, 403, 404, 503, 603]),
    reason=st.sampled_from(["", "x; FQDN '203.0.113.1'"]),
    since=moments,
    names=st.sampled_from([(), ("sip.example.net",), ("*.microsoft.com",), (PROXIES[0],)]),
    retry_after=st.floats(0, 1000),
)
DESTINATION: dict[str, st.SearchStrategy[Any]] = {
    "flags": st.sampled_from([*PAIRS, "", "QQ"]),
    "answer": st.none() | answers,
    "sent_at": st.none() | moments,
    "misnamed": st.none() | st.builds(Misnamed, moments, st.just(())),
    "turns": st.lists(moments, max_size=6).map(tuple),
    "host": st.sampled_from([*PROXIES, "sip.example.net"]),
}
WITH_ANOTHER = (*kamailio().destinations, destination("sip9.example.net", answer=answered(names=("sip9.example.net",))))
KAMAILIO: dict[str, st.SearchStrategy[Any]] = {
    "loaded_at": moments,
    "theirs": st.none()
    | altered(theirs(), at=moments, source=addresses, code=st.sampled_from([None, 404, 500]), count=st.none()),
    "established": unread | st.frozensets(addresses),
    "memory": unread | st.builds(Memory, st.just(100), st.integers(0, 120)),
    "connections": unread | st.just(()),
    "destinations": st.sampled_from([(), kamailio().destinations[:2], kamailio().destinations * 2, WITH_ANOTHER]),
    "tenants": unread,
    "not_here": st.builds(NotHere, moments, st.text(max_size=5), addresses, st.none()),
}
certificates = st.builds(
    lambda changes: replace(GOOD, **changes),
    st.sampled_from(
        [
            {"not_after": NOW},
            {"not_after": NOW + 1},
            {"not_before": NOW + 1},
            {"names": ("*.example.com",)},
            {"names": ("example.com",)},
            {"key_type": "ECDSA"},
            {"key_bits": 1024},
            {"server_auth": False},
            {"fingerprint": "f" * 64},
        ]
    ),
)
PORT: dict[str, st.SearchStrategy[Any]] = {
    "tcp": st.sampled_from(["refused", "timeout", "unreachable"]),
    "certificate": unread | certificates,
    "options": unread
    | st.builds(
        OptionsReply,
        st.sampled_from([200, 202, 404]),
        st.just(""),
        st.sampled_from([None, "", f"<sip:{FQDN}>", f"sip:{FQDN}:5061", "<sip:203.0.113.10:5061>", f"<sip:x.{FQDN}>"]),
    ),
    "rsa_suites": st.just(False),
}
EVIDENCE: dict[str, st.SearchStrategy[Any]] = {
    "kamailio": unread,
    "on_disk": unread | certificates,
    "fqdn": lookups | st.just(Lookup((CONFIG.address,))),
    "reach": st.dictionaries(
        st.sampled_from(PROXIES),
        st.builds(
            Reach,
            lookups,
            st.sampled_from([None, "open", "refused", "timeout"]),
            st.sampled_from([None, "complete", "alert", "untrusted", "broken"]),
            st.sampled_from(["", "certificate has expired", "Hostname mismatch"]),
        ),
    ),
    "key": unread | st.just("0" * 64),
    "proxies": st.dictionaries(st.sampled_from(PROXIES), lookups),
    "clock": unread
    | st.just(NOT_LOOKED)
    | st.builds(
        Clock,
        st.booleans(),
        st.none() | st.sampled_from([0.0, 60.0, -60.0, 61.0, -61.0, DAY]),
        st.none(),
        st.none() | st.sampled_from([0.0, 61.0, -DAY]),
        st.none() | moments,
    ),
    "listening": unread | st.sampled_from([(), ("0.0.0.0",), ("127.0.0.1",), ("::", "127.0.0.1")]),
    "packet_filter": unread
    | st.builds(
        PacketFilter,
        st.sampled_from([None, (), NETWORKS, NETWORKS[:1], ("0.0.0.0/0",), ("52.112.0.0/13", "52.120.0.0/14"), ("x",)]),
        st.none() | st.integers(0, 5),
    ),
    "renewal": unread
    | st.builds(
        Renewal, moments, st.just(True), moments, st.integers(1, 99), *[st.none() | st.text(max_size=5)] * 2, st.text()
    ),
    "tenants": st.dictionaries(st.text(max_size=5), lookups),
    "loaded": unread | st.builds(Loaded, moments, st.just(FILES), st.sampled_from([FILES, {}])),
}


@st.composite
def changed(draw: st.DrawFn, trunk: bool = True) -> Evidence:
    """An SBC that is healthy, with a trunk or not yet, and at most three things changed."""
    ours: dict[str, Any] = {}
    of_kamailio: dict[str, Any] = {}
    of_port: dict[str, Any] = {}
    of_destinations: list[dict[str, Any]] = [{}, {}, {}]
    places = [
        *((DESTINATION, each, name) for each in of_destinations for name in DESTINATION),
        *((KAMAILIO, of_kamailio, name) for name in KAMAILIO),
        *((PORT, of_port, name) for name in PORT),
        *((EVIDENCE, ours, name) for name in EVIDENCE),
    ]
    for fields, into, name in draw(st.lists(st.sampled_from(places), max_size=3)):
        into[name] = draw(fields[name])
    healthy = kamailio() if trunk else kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED)
    destinations = [replace(one, **changes) for one, changes in zip(healthy.destinations, of_destinations, strict=True)]
    fields = {"destinations": tuple(destinations), "theirs": healthy.theirs if trunk else None}
    found = kamailio(**{**fields, **of_kamailio})
    return evidence(**{"kamailio": found, "port": port(**of_port), **ours})


def within(address: str) -> bool:
    try:
        return any(IPv4Address(address) in IPv4Network(network) for network in NETWORKS)
    except ValueError:
        return False


def recent(moment: float, oldest: float, found: Kamailio) -> bool:
    """Neither old nor still to come, nor from before a start that lies behind us."""
    started = found.loaded_at if found.loaded_at <= NOW + TICK else 0
    return max(NOW - oldest, started) <= moment <= NOW + TICK


def asks(known: Kamailio, one: Destination) -> bool:
    """Its last OPTIONS, or the start after which it will ask, is not old; nor is it still to come."""
    begun = [known.loaded_at] if known.loaded_at <= NOW + TICK else []
    begun += [] if one.sent_at is None else [one.sent_at]
    return bool(begun) and max(begun) >= NOW - OURS and (one.sent_at is None or one.sent_at <= NOW + TICK)


def answers_well(found: Evidence, one: Destination) -> bool:
    """What has to hold of a destination, at least, for a call to go there."""
    assert isinstance(found.kamailio, Kamailio)
    looked_up = [found.proxies.get(one.host), reach.lookup if (reach := found.reach.get(one.host)) else None]
    answer, reload = one.answer, found.loaded
    return (
        one.host in PROXIES
        and one.flags == "AP"
        and answer is not None
        and 200 <= answer.code <= 299
        and recent(answer.at, OURS, found.kamailio)
        and not (isinstance(reload, Loaded) and answer.at + 1 <= reload.at <= NOW)
        and (one.host in answer.names or "*." + one.host.split(".", 1)[1] in answer.names)
        and not (one.misnamed and one.misnamed.at >= answer.at)
        and asks(found.kamailio, one)
        and all(within(address) for each in looked_up if each for address in each.addresses)
        and sum(turn >= NOW - 900 for turn in one.turns) < 4
    )


def would_work(found: Evidence) -> bool:
    """What has to hold, at least, for Teams to place a call here."""
    known = found.kamailio
    return (
        isinstance(known, Kamailio)
        and known.theirs is not None
        and all(answers_well(found, one) for one in known.destinations)
        and known.theirs.code == 200
        and within(known.theirs.source)
        and recent(known.theirs.at, THEIRS, known)
        and ours_works(found)
    )


def ours_works(found: Evidence) -> bool:
    """What has to hold of our own side, at least."""
    known = found.kamailio
    wire, options, clock, filtered = found.port.certificate, found.port.options, found.clock, found.packet_filter
    return (
        isinstance(known, Kamailio)
        and {one.host for one in known.destinations} == set(PROXIES)
        and found.port.tcp == "open"
        and found.port.rsa_suites
        and not isinstance(wire, Unread)
        and not isinstance(found.on_disk, Unread)
        and wire.fingerprint == found.on_disk.fingerprint
        and (wire.key_type, wire.server_auth) == ("RSA", True)
        and wire.not_before <= NOW < wire.not_after
        and found.key in (wire.key_fingerprint, Unread("x", denied=True))
        and isinstance(options, OptionsReply)
        and options.code == 200
        and FQDN in (options.contact or "")
        and (found.fqdn.addresses == (CONFIG.address,) or (not found.fqdn.addresses and not found.fqdn.negative))
        and not (isinstance(clock, Clock) and clock.offset is not None and abs(clock.offset) > 60)
        and not (isinstance(filtered, PacketFilter) and filtered.admitted in ((), NETWORKS[:1], ("x",)))
        and found.listening not in ((), ("127.0.0.1",))
    )


# The same each time, so that nobody is stopped by another's luck.
# On a busy machine everything is slow.
often = settings(
    max_examples=1500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@often
@given(changed())
def test_proven_keeps_its_conditions(found: Evidence) -> None:
    verdict = judge(CONFIG, found)
    if verdict.state is State.PROVEN:
        assert would_work(found)
        assert verdict.findings == ()
    for item in verdict.destinations:
        if item.state is State.PROVEN:
            assert answers_well(found, item.destination)
    assert bool(verdict.findings) is (verdict.state is not State.PROVEN)
    assert {one.host for one in map(lambda item: item.destination, verdict.destinations)} >= set(PROXIES)


@settings(often, max_examples=500)
@given(changed(trunk=False))
def test_waiting_for_microsoft_keeps_its_conditions(found: Evidence) -> None:
    """Every proxy has said lately that it knows no trunk, Microsoft asks for nothing, and our side lacks nothing."""
    verdict = judge(CONFIG, found)
    assert verdict.state is not State.PROVEN
    if verdict.state is State.WAITING:
        assert isinstance(found.kamailio, Kamailio)
        assert found.kamailio.theirs is None
        for one in found.kamailio.destinations:
            assert one.answer
            assert one.answer.code == 403
            assert recent(one.answer.at, OURS, found.kamailio)
            assert one.flags[:1] != "D"
        assert ours_works(found)


@settings(often, max_examples=300)
@given(changed(), st.floats(OURS + TICK, 30 * DAY))
def test_time_alone_proves_nothing(found: Evidence, later: float) -> None:
    """Evidence in which nothing happened since is no proof, whatever the clock of the machine says meanwhile."""
    verdict = judge(CONFIG, found)
    assert aged(verdict, later, 60).state is State.UNKNOWN
    if verdict.state is State.PROVEN:
        assert judge(CONFIG, replace(found, taken_at=NOW + later)).state is not State.PROVEN


def test_next_steps_are_few_and_follow_neither_the_time_nor_what_others_say() -> None:
    """They are labels and texts of alerts: one that is new at every look would be a new alert at every look."""
    steps: dict[Cause, set[str]] = defaultdict(set)

    @settings(often, max_examples=1000)
    @given(changed(), st.floats(0, OURS))
    def look(found: Evidence, later: float) -> None:
        verdict = judge(CONFIG, replace(found, taken_at=NOW + later))
        for each in (*verdict.findings, *verdict.remarks):
            steps[each.cause].add(re.sub("|".join(PROXIES), "PROXY", each.next_step))

    look()
    assert Cause.THEIRS_MISSING in steps
    for cause, found in steps.items():
        assert len(found) <= (len(renewal.Cause) if cause is Cause.RENEWAL_FAILING else 5), cause
        # Ports, systemd's and certbot's options, our own names and networks.
        numbers = set(re.findall(r"\d+", re.sub(r"[0-9.]+/\d+|203\.0\.113\.10|=\w+", "", " ".join(found))))
        assert numbers <= {"5061", "50", "20", "100", "80", "53", "1", "2", "200"}, cause


@settings(often, max_examples=300)
@given(changed())
def test_whatever_is_found_can_be_told(found: Evidence) -> None:
    for verdict in (judge(CONFIG, found), judge_swap(CONFIG, found), judge_outbound(CONFIG, found)):
        SCHEMA.validate(json.loads(json.dumps(as_json(CONFIG, found, verdict), allow_nan=False)))
        assert as_text(CONFIG, found, verdict)
        assert all(each.evidence and each.next_step for each in (*verdict.findings, *verdict.remarks))
        assert verdict.worth_waiting(NOW, NOW) < 3 * DAY
