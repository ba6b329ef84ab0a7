from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from by_hand import (
    CLOSED,
    CONFIG,
    GOOD,
    NETWORKS,
    NOW,
    PROXIES,
    REFUSED,
    SILENT,
    answered,
    connection,
    destination,
    evidence,
    kamailio,
    port,
    theirs,
)
from jsonschema import Draft202012Validator

from sbc_probe.model import ChainFlaw, Clock, Evidence, Loaded, Lookup, NotHere, PacketFilter, Renewal, Unread
from sbc_probe.report import as_json, as_text
from sbc_probe.verdict import judge


def report(found: Evidence) -> dict[str, object]:
    """The JSON as another program gets it."""
    decoded = json.loads(json.dumps(as_json(CONFIG, found, judge(CONFIG, found))))
    assert isinstance(decoded, dict)
    return decoded


def text(found: Evidence, width: int = 100) -> str:
    return as_text(CONFIG, found, judge(CONFIG, found), width)


def test_the_json_of_a_proven_sbc() -> None:
    timed = replace(answered(), round_trip=0.0115)
    found = report(evidence(kamailio=kamailio(sip={"answer": timed}, theirs=theirs(ago=20.04))))
    assert found["schema"] == 1
    assert found["taken_at"] == "2027-01-15T08:00:00Z"
    assert found["overall"] == {
        "state": "proven",
        "exit_code": 0,
        "cause": None,
        "evidence": None,
        "next_step": None,
    }
    assert found["destinations"][0] == {  # type: ignore[index]
        "uri": "sip:sip.pstnhub.microsoft.com:5061;transport=tls",
        "host": "sip.pstnhub.microsoft.com",
        "flags": "AP",
        "flags_meaning": "active, probed: answers our OPTIONS",
        "latency_ms": 12.0,
        "answer_age_s": 10.0,
        "answer_code": 200,
        "answer_reason": "OK",
        "verdict": "proven",
        "cause": None,
        "round_trip_ms": 11.5,
        "retry_after_s": None,
        "sent": 61,
        "lost": 1,
        "answers": {"200": 60},
        "flapping": None,
        "dns": {"addresses": ["52.112.0.1"], "error": None},
    }
    assert found["certificate"] == {
        "read_from": "wire",
        "names": ["sbc.example.com"],
        "key_type": "RSA",
        "key_bits": 2048,
        "not_before": "2027-01-14T08:00:00Z",
        "not_after": "2027-04-14T08:00:00Z",
        "days_left": 89.0,
        "life_days": 90.0,
        "installed_at": "2027-01-14T20:00:00Z",
        "issuer": "CN=YR1,O=Let's Encrypt,C=US",
        "server_auth": True,
        "client_auth": False,
        "same_on_disk": True,
        "chain_trusted": True,
        "fingerprint": "0123456789abcdef" * 4,
    }
    assert (found["renewal"], found["tenants"]) == (None, [])
    assert found["theirs"] == {
        "age_s": 20.0,
        "source": "52.112.0.1",
        "peer": None,
        "agent": "Microsoft.PSTNHub.SIPProxy v.2026",
        "code": 200,
        "count": 7,
        "codes": {"200": 7},
    }
    assert found["kamailio"] == {
        "version": "6.0.1",
        "uptime_s": 3600.0,
        "started_at": "2027-01-15T07:00:00Z",
        "memory": {"total_bytes": 2**27, "used_bytes": 2**24},
        "connections": {"inbound": 1, "outbound": 3},
        "not_here": None,
    }
    assert found["loaded"] == {"at": "2027-01-15T07:00:00Z", "differs": []}
    assert found["clock"] == {
        "synchronized": True,
        "offset_s": 0.01,
        "server": "192.0.2.123",
        "step_s": None,
        "stepped_at": None,
    }
    assert found["listening"] == ["203.0.113.10"]
    assert found["packet_filter"] == {"everybody": False, "admitted": list(NETWORKS), "new_connections": 5}
    assert found["findings"] == found["remarks"] == []


def test_a_connection_without_a_completed_handshake_is_none() -> None:
    begun = replace(connection("198.51.100.7", outbound=False), established=False)
    found = report(evidence(kamailio=kamailio(connections=(begun, connection("52.112.0.1")))))
    assert found["kamailio"]["connections"] == {"inbound": 0, "outbound": 1}  # type: ignore[index]


def test_the_json_of_a_failure_names_cause_evidence_and_next_step() -> None:
    found = report(evidence(kamailio=kamailio(sip2=REFUSED)))
    overall, findings = found["overall"], found["findings"]
    assert isinstance(overall, dict)
    assert isinstance(findings, list)
    assert (overall["state"], overall["exit_code"], overall["cause"]) == ("failed", 1, "proxy_forbids")
    assert findings[0]["evidence"] == overall["evidence"]
    assert findings[0]["next_step"] == overall["next_step"]
    assert findings[0]["destinations"] == ["sip:sip2.pstnhub.microsoft.com:5061;transport=tls"]


def test_what_could_not_be_read_is_null_and_never_zero() -> None:
    found = report(evidence(kamailio=Unread("no socket"), port=CLOSED, on_disk=Unread("no file")))
    for item in found["destinations"]:  # type: ignore[attr-defined]
        assert (item["flags"], item["flags_meaning"], item["latency_ms"], item["answer_age_s"]) == (None,) * 4
        assert (item["verdict"], item["cause"]) == ("failed", "kamailio_down")
    assert found["certificate"] is None
    assert found["theirs"] is None
    assert found["kamailio"] is None
    others = {"clock": Unread("x"), "listening": Unread("x"), "packet_filter": Unread("x"), "loaded": Unread("x")}
    unread = report(evidence(**others, kamailio=kamailio(memory=Unread("x"), connections=Unread("x"))))
    assert [unread[name] for name in others] == [None] * 4
    assert unread["kamailio"]["memory"] is unread["kamailio"]["connections"] is None  # type: ignore[index]
    never = {**SILENT, "answer": None}
    silent = kamailio(sip2=never)
    silent = replace(silent, destinations=tuple(replace(item, latency_ms=None) for item in silent.destinations))
    item = report(evidence(kamailio=silent))["destinations"][1]  # type: ignore[index]
    assert (item["latency_ms"], item["answer_age_s"], item["answer_code"]) == (None, None, None)
    on_disk_only = report(evidence(kamailio=Unread("no socket"), port=CLOSED))["certificate"]
    assert isinstance(on_disk_only, dict)
    assert on_disk_only["read_from"] == "disk"
    assert (on_disk_only["same_on_disk"], on_disk_only["chain_trusted"]) == (None, None)


def test_the_table_of_a_proven_sbc() -> None:
    *lines, machine, configuration, clock = text(evidence()).splitlines()
    assert machine == "Kamailio             6.0.1, up 60 min, 16 of 128 MiB used, 3 TLS connections out, 1 in"
    assert configuration == "                     configuration read 60 min ago"
    assert clock == "clock                0.010 s ahead of 192.0.2.123"
    assert lines[0] == "PROVEN  acme: sbc.example.com (203.0.113.10), cloud commercial"
    assert lines[2].split() == ["destination", "flags", "round", "trip", "last", "answer", "verdict"]
    assert lines[3].split() == ["sip.pstnhub.microsoft.com", "AP", "12", "ms", "200", "10", "s", "ago", "proven"]
    assert "AP: active, probed: answers our OPTIONS" in lines
    assert "89 of 90 days left, RSA 2048, sbc.example.com, the same on the wire and on disk, chain trusted" in lines[-3]
    assert lines[-2].strip() == "installed 2027-01-14, clientAuth absent, issuer CN=YR1,O=Let's Encrypt,C=US"
    assert lines[-1].startswith("Microsoft's OPTIONS  20 s ago from 52.112.0.1, answered 200")


def test_the_table_of_a_failure_keeps_to_the_width() -> None:
    lines = text(evidence(kamailio=kamailio(sip2=SILENT, theirs=None)), 80).splitlines()
    assert lines[0].startswith("NOT PROVEN")
    cause = lines.index("cause: proxy_silent")
    assert lines[cause + 1].startswith("  evidence   sip2.pstnhub.microsoft.com: does not answer")
    assert "also: theirs_missing" in lines[cause:]
    assert all(len(line) <= 80 for line in lines[cause:])


def test_the_table_says_what_is_not_known() -> None:
    nothing = text(evidence(kamailio=Unread("no socket"), port=CLOSED, on_disk=Unread("none.pem: No such file")))
    assert "none: none.pem: No such file" in nothing
    assert "Microsoft's OPTIONS  not known" in nothing
    other = text(
        evidence(on_disk=replace(GOOD, fingerprint="f" * 64), port=port(chain_flaw=ChainFlaw(False, "no issuer")))
    )
    assert "ANOTHER on disk, chain NOT trusted" in other
    assert "NOT YET KNOWN" in text(evidence(on_disk=Unread("Permission denied", denied=True)))


TENANTS = ("fabrikam.sbc.example.com", "wingtip.sbc.example.com", "unknown.sbc.example.com")
SEVERAL = replace(CONFIG, tenants=TENANTS)
LOOKUPS = dict(
    zip(TENANTS, (Lookup((CONFIG.address,)), Lookup((), "NXDOMAIN", True), Lookup((), "SERVFAIL")), strict=True)
)


def test_every_tenant_is_reported() -> None:
    found = evidence(tenants=LOOKUPS, kamailio=kamailio(theirs_of_tenants={TENANTS[0]: theirs(ago=5)}))
    verdict = judge(SEVERAL, found)
    fabrikam, wingtip, unknown = json.loads(json.dumps(as_json(SEVERAL, found, verdict)))["tenants"]
    assert (fabrikam["name"], fabrikam["addresses"], fabrikam["leads_here"]) == (TENANTS[0], [CONFIG.address], True)
    assert (fabrikam["theirs"]["age_s"], fabrikam["theirs"]["code"]) == (5.0, 200)
    assert (wingtip["addresses"], wingtip["leads_here"], wingtip["theirs"]) == ([], False, None)
    assert unknown["leads_here"] is None
    assert "tenants              1 of 3 names lead here, 1 not known, Microsoft has asked for 1" in as_text(
        SEVERAL, found, verdict
    )


def test_a_renewal_that_fails_is_reported_beside_the_proof() -> None:
    record = Renewal(NOW - 60, True, NOW - 3600, 2, "rate_limited", "too many certificates", "Wait.")
    found = report(evidence(renewal=record))
    assert found["overall"]["state"] == "proven"  # type: ignore[index]
    assert found["renewal"] == {
        "at": "2027-01-15T07:59:00Z",
        "failing": True,
        "since": "2027-01-15T07:00:00Z",
        "attempts": 2,
        "cause": "rate_limited",
        "said": "too many certificates",
        "advice": "Wait.",
    }
    remarks = found["remarks"]
    assert isinstance(remarks, list)
    assert [remark["cause"] for remark in remarks] == ["renewal_failing"]
    shown = text(evidence(renewal=record))
    assert shown.startswith("PROVEN")
    assert "also: renewal_failing" in shown
    good = report(evidence(renewal=Renewal(NOW - 60)))["renewal"]
    assert isinstance(good, dict)
    assert (good["failing"], good["attempts"], good["cause"], good["said"]) == (False, 0, None, None)


def test_a_rehearsal_is_called_one() -> None:
    config, found = replace(CONFIG, rehearsal=True), evidence(port=port(chain_flaw=ChainFlaw(False, "it ends at X")))
    shown = as_text(config, found, judge(config, found))
    assert shown.startswith("REHEARSAL  acme")
    assert "cause: certificate_rehearsal" in shown
    no_trunk = kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED, theirs=None)
    assert text(evidence(kamailio=no_trunk)).startswith("READY, WAITING FOR MICROSOFT")


def flapping() -> Evidence:
    turns = tuple(NOW - each for each in (600, 450, 300, 150))
    one = replace(destination(PROXIES[1], answer=answered()), turns=turns)
    return evidence(kamailio=kamailio(destinations=(kamailio().destinations[0], one)))


def test_a_destination_that_flaps_is_shown_with_its_rate() -> None:
    found = report(flapping())["destinations"][1]  # type: ignore[index]
    assert found["flapping"] == {"turns": 4, "per_hour": 16.0, "window_s": 900.0, "share": 0.667}
    assert found["verdict"] == "failed"
    row = next(line for line in text(flapping()).splitlines() if line.startswith(PROXIES[1]))
    assert row.endswith("flapping, 16 turns an hour  proxy_flapping")


SCHEMA = json.loads((Path(__file__).parents[2] / "docs/status.schema.json").read_text())


def strict(schema: Any) -> Any:
    """The same schema without room for what it does not tell of."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**closed, **{key: strict(value) for key, value in schema.items()}}


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)


REPORTS = {
    "proven": evidence(),
    "nothing could be read": evidence(
        kamailio=Unread("x"),
        port=CLOSED,
        on_disk=Unread("x"),
        fqdn=Lookup((), "SERVFAIL"),
        proxies={},
        clock=Unread("x"),
        listening=Unread("x"),
        packet_filter=Unread("x"),
        loaded=Unread("x"),
    ),
    "flapping": flapping(),
    "silent": evidence(kamailio=kamailio(sip=SILENT, sip2=REFUSED, theirs=None)),
    "a renewal that fails": evidence(
        renewal=Renewal(NOW - 60, True, NOW - 3600, 2, "rate_limited", "too many", "Wait.")
    ),
    "a machine in trouble": evidence(
        kamailio=kamailio(not_here=NotHere(NOW - 5, "x.example.com", "52.112.0.1", 3)),
        clock=Clock(False, 86400.0, "192.0.2.123", -5.0, NOW - 5),
        packet_filter=PacketFilter(None),
        loaded=Loaded(NOW - 3600, {"a": "1"}, {"a": "2"}),
    ),
}


@pytest.mark.parametrize("found", REPORTS.values(), ids=REPORTS.keys())
def test_the_schema_tells_all_of_a_report(found: Evidence) -> None:
    config = replace(CONFIG, tenants=("fabrikam.sbc.example.com",))
    shown = json.loads(json.dumps(as_json(config, found, judge(config, found))))
    Draft202012Validator(strict(SCHEMA)).validate(shown)


def test_the_schema_can_be_violated_and_leaves_room_for_more() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert all(each["required"] == list(each["properties"]) for each in objects(SCHEMA))
    shown = report(evidence())
    assert Draft202012Validator(SCHEMA).is_valid({**shown, "more": 1})
    for name in shown:
        assert not Draft202012Validator(SCHEMA).is_valid({key: value for key, value in shown.items() if key != name})
    assert not Draft202012Validator(SCHEMA).is_valid({**shown, "taken_at": 0})
