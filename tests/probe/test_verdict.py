"""The verdict on evidence made by hand: one healthy SBC, and one thing at a time gone wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from by_hand import (
    ADDRESSES,
    CLOSED,
    CONFIG,
    DAY,
    FILES,
    FQDN,
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
    reach,
    theirs,
    with_certificate,
)

from sbc_probe import renewal
from sbc_probe.config import Config
from sbc_probe.findings import Cause, ExitCode, State
from sbc_probe.model import (
    NOT_LOOKED,
    Answer,
    ChainFlaw,
    Clock,
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
from sbc_probe.verdict import Verdict, aged, judge, judge_outbound, judge_swap


def primary(verdict: Verdict) -> Cause | None:
    return verdict.findings[0].cause if verdict.findings else None


def test_all_in_order_is_proven() -> None:
    verdict = judge(CONFIG, evidence())
    assert verdict.state is State.PROVEN
    assert verdict.exit_code is ExitCode.PROVEN
    assert verdict.findings == verdict.remarks == ()
    assert [item.state for item in verdict.destinations] == [State.PROVEN] * 3
    assert [item.answer_age for item in verdict.destinations] == [10] * 3
    assert verdict.worth_waiting(NOW, NOW) == 0


def test_names_lead_to_the_address_that_is_reserved() -> None:
    reserved = replace(CONFIG, public_address="198.51.100.7", tenants=("fabrikam.sbc.example.com",))
    known = kamailio(tenants=frozenset(reserved.tenants))
    there, here = Lookup(("198.51.100.7",)), Lookup((CONFIG.address,))
    assert judge(reserved, evidence(kamailio=known, fqdn=there, tenants={reserved.tenants[0]: there})).findings == ()
    for name, tenant, cause in ((here, there, Cause.FQDN_ELSEWHERE), (there, here, Cause.TENANT_ELSEWHERE)):
        verdict = judge(reserved, evidence(kamailio=known, fqdn=name, tenants={reserved.tenants[0]: tenant}))
        assert [each.cause for each in verdict.findings] == [cause]
        assert "this SBC is 198.51.100.7" in verdict.findings[0].evidence
        assert verdict.findings[0].next_step.endswith(" A 198.51.100.7")


UNTRUSTED = ChainFlaw(False, "it ends at CN=YR1, whose issuer, CN=Root YR, is no accepted root")
ADDRESS_REFUSED = answered(403, "Forbidden; Q.850;text=\"Provided Trunk FQDN '203.0.113.1' is not allowed\"")
# It answers well, on a connection with a certificate of its own.
STRANGER = destination("evil.example.com", answer=answered(names=("evil.example.com",)))
OUR_FAULTS = {
    "kamailio does not run": (evidence(kamailio=Unread("no socket"), port=CLOSED), Cause.KAMAILIO_DOWN),
    "kamailio hangs": (evidence(kamailio=Unread("nothing answers")), Cause.KAMAILIO_RPC),
    "port 5061 is not open here": (evidence(port=CLOSED), Cause.NOT_LISTENING),
    "no certificate on disk": (evidence(on_disk=Unread("none.pem: No such file")), Cause.CERTIFICATE_UNREADABLE),
    "a renewal that was not loaded": (
        evidence(on_disk=replace(GOOD, fingerprint="f" * 64)),
        Cause.CERTIFICATE_NOT_LOADED,
    ),
    "an ECDSA key": (with_certificate(key_type="ECDSA", key_bits=256), Cause.CERTIFICATE_KEY_TYPE),
    "none of Microsoft's suites": (evidence(port=port(rsa_suites=False)), Cause.TLS_REFUSED),
    "no TLS": (evidence(port=port(certificate=Unread("closed"), options=Unread("closed"))), Cause.TLS_REFUSED),
    "another name": (with_certificate(names=("www.example.com",)), Cause.CERTIFICATE_NAME),
    "a wildcard of the wrong level": (with_certificate(names=("*.com", "*.sbc.example.com")), Cause.CERTIFICATE_NAME),
    "expired": (with_certificate(not_after=NOW - 1), Cause.CERTIFICATE_EXPIRED),
    "not yet valid": (with_certificate(not_before=NOW + 1), Cause.CERTIFICATE_NOT_YET_VALID),
    "no trusted root": (evidence(port=port(chain_flaw=UNTRUSTED)), Cause.CERTIFICATE_UNTRUSTED),
    "no intermediate": (
        evidence(port=port(chain_flaw=ChainFlaw(True, "its issuer is missing"))),
        Cause.CERTIFICATE_INCOMPLETE,
    ),
    "an intermediate that has expired": (
        evidence(port=port(intermediates=(replace(GOOD, subject="CN=YR1", not_after=NOW - 1),))),
        Cause.CERTIFICATE_EXPIRED,
    ),
    "a short key": (with_certificate(key_bits=1024), Cause.CERTIFICATE_KEY_TYPE),
    "another certificate's key": (evidence(key="0" * 64), Cause.CERTIFICATE_KEY_MISMATCH),
    "no key on disk": (evidence(key=Unread("privkey.pem: No such file")), Cause.CERTIFICATE_KEY_UNREADABLE),
    "not for servers": (with_certificate(server_auth=False), Cause.CERTIFICATE_USAGE),
    "OPTIONS refused": (evidence(port=port(options=OptionsReply(404, "Not Here", None))), Cause.OPTIONS_UNANSWERED),
    "OPTIONS unanswered": (evidence(port=port(options=Unread("no answer"))), Cause.OPTIONS_UNANSWERED),
    "an address in Contact": (
        evidence(port=port(options=OptionsReply(200, "OK", "<sip:203.0.113.10:5061;transport=tls>"))),
        Cause.CONTACT_WRONG,
    ),
    "no Contact": (evidence(port=port(options=OptionsReply(200, "OK", None))), Cause.CONTACT_WRONG),
    "nothing of ours listens": (evidence(listening=("127.0.0.1",)), Cause.NOT_LISTENING),
    "a destination that was not loaded": (
        evidence(kamailio=kamailio(destinations=kamailio().destinations[:2])),
        Cause.DESTINATION_MISSING,
    ),
    "a destination that nobody declared": (
        evidence(kamailio=kamailio(destinations=(*kamailio().destinations, STRANGER))),
        Cause.DESTINATION_UNKNOWN,
    ),
    "no destination at all": (evidence(kamailio=kamailio(destinations=())), Cause.DESTINATION_MISSING),
    "no record for our name": (evidence(fqdn=Lookup((), "NXDOMAIN", True)), Cause.FQDN_UNRESOLVED),
    "our name is elsewhere": (evidence(fqdn=Lookup(("203.0.113.99",))), Cause.FQDN_ELSEWHERE),
    "our name has two addresses": (
        evidence(fqdn=Lookup(("203.0.113.10", "203.0.113.99"))),
        Cause.FQDN_ELSEWHERE,
    ),
}


@pytest.mark.parametrize(("found", "cause"), OUR_FAULTS.values(), ids=OUR_FAULTS.keys())
def test_a_fault_of_ours_is_the_primary_cause(found: Evidence, cause: Cause) -> None:
    verdict = judge(CONFIG, found)
    assert primary(verdict) is cause
    assert verdict.state is State.FAILED
    assert verdict.exit_code == 1
    assert verdict.findings[0].evidence
    assert verdict.findings[0].next_step
    # Our side is read directly: a few seconds settle it.
    assert 0 < verdict.worth_waiting(NOW, NOW) <= 5
    assert verdict.worth_waiting(NOW - 6, NOW) == 0


@pytest.mark.parametrize("fault", OUR_FAULTS.keys())
def test_the_judge_of_a_swap_looks_only_at_what_a_configuration_can_break(fault: str) -> None:
    found, cause = OUR_FAULTS[fault]
    judged = {
        Cause.KAMAILIO_DOWN,
        Cause.KAMAILIO_RPC,
        Cause.NOT_LISTENING,
        Cause.TLS_REFUSED,
        Cause.CERTIFICATE_NOT_LOADED,
        Cause.OPTIONS_UNANSWERED,
        Cause.CONTACT_WRONG,
        Cause.DESTINATION_MISSING,
        Cause.DESTINATION_UNKNOWN,
    }
    verdict = judge_swap(CONFIG, found)
    assert verdict.state is (State.FAILED if cause in judged else State.PROVEN)
    assert cause in {finding.cause for finding in (*verdict.findings, *verdict.remarks)}


def test_a_key_that_does_not_match_is_why_kamailio_kept_the_old_certificate() -> None:
    verdict = judge(CONFIG, evidence(key="0" * 64, on_disk=replace(GOOD, fingerprint="f" * 64)))
    assert [finding.cause for finding in verdict.findings] == [
        Cause.CERTIFICATE_KEY_MISMATCH,
        Cause.CERTIFICATE_NOT_LOADED,
    ]


def test_who_may_not_read_the_key_does_not_judge_it() -> None:
    verdict = judge(CONFIG, evidence(key=Unread("privkey.pem: Permission denied", denied=True)))
    assert verdict.state is State.PROVEN


def test_a_microsoft_that_is_down_never_fails_a_swap() -> None:
    silent = kamailio(sip=SILENT, sip2=SILENT, sip3=SILENT, theirs=None)
    verdict = judge_swap(CONFIG, evidence(kamailio=silent, reach=reach(tcp="timeout", tls=None)))
    assert verdict.exit_code == 0


ELSEWHERE = Lookup(("203.0.113.99",))
TENANT = f"fabrikam.{FQDN}"


def test_a_droplet_that_no_name_leads_to_yet_proves_what_it_can() -> None:
    for fqdn in (ELSEWHERE, Lookup((), "NXDOMAIN", True), Lookup((), "timed out")):
        known = kamailio(theirs=None, tenants=frozenset({TENANT}))
        found = evidence(fqdn=fqdn, tenants={TENANT: fqdn}, kamailio=known)
        config = replace(CONFIG, tenants=(TENANT,), certificate_names=(FQDN,))
        verdict = judge_outbound(config, found)
        assert (verdict.state, verdict.findings, verdict.remarks) == (State.PROVEN, (), ())


@pytest.mark.parametrize(("found", "cause"), OUR_FAULTS.values(), ids=OUR_FAULTS.keys())
def test_what_is_wrong_with_it_itself_is_found_all_the_same(found: Evidence, cause: Cause) -> None:
    verdict = judge_outbound(CONFIG, replace(found, fqdn=ELSEWHERE))
    expected = None if cause in (Cause.FQDN_UNRESOLVED, Cause.FQDN_ELSEWHERE) else cause
    assert primary(verdict) is expected


def test_each_proxy_must_answer_it_with_200() -> None:
    found = evidence(fqdn=ELSEWHERE, kamailio=kamailio(sip2=REFUSED, theirs=None))
    assert (primary(judge_outbound(CONFIG, found)), judge_outbound(CONFIG, found).exit_code) == (Cause.PROXY_FORBIDS, 1)
    fresh = evidence(fqdn=ELSEWHERE, kamailio=kamailio(theirs=None, loaded_at=NOW - 1))
    assert judge_outbound(CONFIG, fresh).state is State.UNKNOWN


def test_without_a_trunk_it_waits_and_concludes_nothing_from_what_did_not_come() -> None:
    found = evidence(fqdn=ELSEWHERE, kamailio=kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED, theirs=None))
    verdict = judge_outbound(CONFIG, found)
    assert (primary(verdict), verdict.state, verdict.exit_code) == (Cause.TRUNK_MISSING, State.WAITING, 3)
    assert "never sent" not in verdict.findings[0].evidence
    assert primary(judge(CONFIG, found)) is Cause.FQDN_ELSEWHERE


def test_every_configured_proxy_is_in_the_report() -> None:
    partly = evidence(kamailio=kamailio(destinations=kamailio().destinations[:2]))
    down = evidence(kamailio=Unread("no socket"), port=CLOSED)
    denied = evidence(kamailio=Unread("Permission denied", denied=True))
    for found, states in (
        (partly, [State.PROVEN, State.PROVEN, State.FAILED]),
        (down, [State.FAILED] * 3),
        (denied, [State.UNKNOWN] * 3),
    ):
        verdict = judge(CONFIG, found)
        assert tuple(item.destination.host for item in verdict.destinations) == PROXIES
        assert [item.state for item in verdict.destinations] == states
    assert verdict.destinations[0].flags_meaning is None


@pytest.mark.parametrize("host", ["evil.example.com", "sip9.pstnhub.microsoft.com"])
@pytest.mark.parametrize("answer", [answered(), answered(403, "Forbidden"), None], ids=["well", "refuses", "silent"])
def test_nobody_else_gets_calls_however_it_answers(host: str, answer: Answer | None) -> None:
    one = destination(host, "AP", replace(answer, names=(host,)) if answer else None)
    verdict = judge(CONFIG, evidence(kamailio=kamailio(destinations=(*kamailio().destinations, one))))
    assert [finding.cause for finding in verdict.findings] == [Cause.DESTINATION_UNKNOWN]
    assert host in verdict.findings[0].evidence
    assert host not in verdict.findings[0].next_step
    assert verdict.findings[0].destinations == (one.uri,)
    assert [item.state for item in verdict.destinations] == [*[State.PROVEN] * 3, State.FAILED]


def test_a_stranger_that_answers_well_is_no_word_of_microsofts() -> None:
    silent = kamailio(sip=SILENT, sip2=SILENT, sip3=SILENT, theirs=None).destinations
    found = evidence(kamailio=kamailio(destinations=(*silent, STRANGER), theirs=None))
    assert [one.cause for one in judge(CONFIG, found).findings] == [Cause.DESTINATION_UNKNOWN, Cause.PROXY_SILENT]
    refused = kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED).destinations
    verdict = judge(CONFIG, evidence(kamailio=kamailio(destinations=(*refused, STRANGER))))
    assert "the trunk is disabled, renamed or removed" in verdict.findings[1].next_step


def test_what_may_not_be_read_is_unknown() -> None:
    for found in (
        evidence(kamailio=Unread("/run/kamailio/rpc.sock: Permission denied", denied=True)),
        evidence(on_disk=Unread("fullchain.pem: Permission denied", denied=True)),
    ):
        for verdict in (judge(CONFIG, found), *([judge_swap(CONFIG, found)])):
            assert (verdict.state, verdict.exit_code, primary(verdict)) == (State.UNKNOWN, 2, Cause.DENIED)
            assert verdict.worth_waiting(NOW, NOW) == 0


def test_a_resolver_that_fails_is_no_reason_to_doubt_a_proof() -> None:
    verdict = judge(CONFIG, evidence(fqdn=Lookup((), "name server 67.207.67.2 does not answer")))
    assert verdict.state is State.PROVEN
    assert [finding.cause for finding in verdict.remarks] == [Cause.FQDN_UNCHECKED]


PROXY_FAULTS = {
    "its name has no address": (
        SILENT,
        reach(lookup=Lookup((), "NXDOMAIN", True), tcp=None, tls=None),
        Cause.PROXY_DNS,
    ),
    "its name has had no address from the start": (
        {"flags": "IP", "answer": None, "sent_ago": None},
        reach(lookup=Lookup((), "NXDOMAIN", True), tcp=None, tls=None),
        Cause.PROXY_DNS,
    ),
    "its name lost its address long ago": (
        {"flags": "IP", "answer": answered(ago=900), "sent_ago": 900},
        reach(lookup=Lookup((), "SERVFAIL"), tcp=None, tls=None),
        Cause.PROXY_DNS,
    ),
    "TCP refused": (SILENT, reach(tcp="refused", tls=None), Cause.PROXY_UNREACHABLE),
    "TCP times out": (SILENT, reach(tcp="timeout", tls=None), Cause.PROXY_UNREACHABLE),
    "a certificate that does not verify": (SILENT, reach(tls="untrusted"), Cause.PROXY_CERTIFICATE_UNTRUSTED),
    "it hangs up before TLS": (SILENT, reach(tls="broken"), Cause.PROXY_TLS),
    "silence after the handshake": (SILENT, reach(), Cause.PROXY_SILENT),
    "a certificate for another name": (
        {"answer": answered(names=("sip.example.net",))},
        {},
        Cause.PROXY_CERTIFICATE_NAME,
    ),
    "an answer without a certificate": ({"answer": answered(names=())}, {}, Cause.PROXY_CERTIFICATE_NAME),
    "a refusal by another": (
        {"flags": "IP", "answer": answered(403, "Forbidden", names=("sip.example.net",))},
        {},
        Cause.PROXY_CERTIFICATE_NAME,
    ),
    "403": (REFUSED, {}, Cause.PROXY_FORBIDS),
    "403 while the next OPTIONS is on its way": (
        {"flags": "IP", "answer": answered(403, "Forbidden", ago=61), "sent_ago": 1},
        {},
        Cause.PROXY_FORBIDS,
    ),
    "403 that names our FQDN": (
        {"flags": "IP", "answer": answered(403, f"Forbidden; text=\"Provided Trunk FQDN '{FQDN}' is not known\"")},
        {},
        Cause.PROXY_FORBIDS,
    ),
    "403 that names another": ({"flags": "IP", "answer": ADDRESS_REFUSED}, {}, Cause.CONTACT_WRONG),
    "another refusal": (
        {"flags": "IP", "answer": answered(400, "Bad Request; SIP;text=no Contact")},
        {},
        Cause.PROXY_REFUSES,
    ),
    "a refusal of theirs": ({"flags": "IP", "answer": answered(500, "Server Error")}, {}, Cause.PROXY_REFUSES),
    "overload": ({"flags": "IP", "answer": answered(503, "Overload")}, {}, Cause.PROXY_OVERLOADED),
    "a certificate of the past": (
        SILENT,
        reach(tls="untrusted", tls_detail="certificate has expired"),
        Cause.PROXY_CERTIFICATE_EXPIRED,
    ),
    "a certificate of the future": (
        SILENT,
        reach(tls="untrusted", tls_detail="certificate is not yet valid"),
        Cause.PROXY_CERTIFICATE_EXPIRED,
    ),
    "a visit finds another name": (
        SILENT,
        reach(tls="untrusted", tls_detail="Hostname mismatch, certificate is not valid for 'sip2'"),
        Cause.PROXY_CERTIFICATE_NAME,
    ),
    "its name leads to somebody else": (SILENT, reach(lookup=Lookup(("198.51.100.7",))), Cause.PROXY_DNS),
    "AP by an answer from long ago": (
        {"flags": "AP", "answer": answered(ago=300), "sent_ago": 30},
        {},
        Cause.PROXY_SILENT,
    ),
    "disabled": ({"flags": "DX", "answer": answered()}, {}, Cause.DESTINATION_DISABLED),
    "inactive by hand": ({"flags": "IX", "answer": answered()}, {}, Cause.DESTINATION_DISABLED),
    "no OPTIONS leave": ({"flags": "AP", "answer": answered(ago=300), "sent_ago": 300}, {}, Cause.PINGS_STOPPED),
    "excluded from OPTIONS": ({"flags": "AN", "answer": None, "sent_ago": None}, {}, Cause.PINGS_STOPPED),
    "excluded, and yet it answers": ({"flags": "AN", "answer": answered()}, {}, Cause.PINGS_STOPPED),
    "inactive in spite of its answers": ({"flags": "IP", "answer": answered()}, {}, Cause.NOT_ACTIVE),
}


@pytest.mark.parametrize(("proxy", "reaches", "cause"), PROXY_FAULTS.values(), ids=PROXY_FAULTS.keys())
def test_one_proxy_of_three_that_fails_is_named(proxy: dict[str, Any], reaches: dict[str, Reach], cause: Cause) -> None:
    verdict = judge(CONFIG, evidence(kamailio=kamailio(sip2=proxy), reach=reaches))
    assert primary(verdict) is cause
    assert verdict.exit_code == 1
    assert verdict.findings[0].destinations == ("sip:sip2.pstnhub.microsoft.com:5061;transport=tls",)
    assert verdict.findings[0].evidence.startswith("sip2.pstnhub.microsoft.com: ")
    assert [item.state for item in verdict.destinations] == [State.PROVEN, State.FAILED, State.PROVEN]


def test_a_handshake_that_kamailio_never_completes_is_no_mere_silence() -> None:
    found = kamailio(sip2=SILENT, established=frozenset({ADDRESSES[PROXIES[0]]}))
    assert primary(judge(CONFIG, evidence(kamailio=found, reach=reach()))) is Cause.PROXY_TLS
    unread = kamailio(sip2=SILENT, established=Unread("tls.list: 500"))
    assert primary(judge(CONFIG, evidence(kamailio=unread, reach=reach()))) is Cause.PROXY_SILENT


def test_the_same_fault_of_several_proxies_is_one_finding() -> None:
    found = evidence(kamailio=kamailio(sip=SILENT, sip2=SILENT, sip3=SILENT))
    verdict = judge(CONFIG, found)
    assert [finding.cause for finding in verdict.findings] == [Cause.PROXY_SILENT]
    assert verdict.findings[0].evidence.startswith(f"{', '.join(PROXIES)}: does not answer")
    assert len(verdict.findings[0].destinations) == 3


def test_further_findings_are_ranked_below_the_primary_cause() -> None:
    found = evidence(
        kamailio=kamailio(sip2=REFUSED, sip3=SILENT, theirs=None),
        port=port(certificate=replace(GOOD, names=("www.example.com",))),
        on_disk=replace(GOOD, names=("www.example.com",)),
    )
    causes = [finding.cause for finding in judge(CONFIG, found).findings]
    assert causes == [Cause.CERTIFICATE_NAME, Cause.PROXY_SILENT, Cause.PROXY_FORBIDS, Cause.THEIRS_MISSING]


class TestTime:
    """What is not known yet, and how long it pays to wait."""

    def test_just_started(self) -> None:
        fresh = {"flags": "AX", "answer": None, "sent_ago": None}
        found = evidence(kamailio=kamailio(loaded_at=NOW - 2, sip=fresh, sip2=fresh, sip3=fresh, theirs=None))
        verdict = judge(CONFIG, found)
        assert (verdict.state, verdict.exit_code, primary(verdict)) == (State.UNKNOWN, 2, Cause.NOT_YET_KNOWN)
        # One interval, the answer timeout, and a little slack; two seconds are gone.
        assert verdict.worth_waiting(NOW - 100, NOW) == 60 + 5 + 3 - 2
        assert "an answer is due in 66 s" in verdict.findings[0].evidence

    def test_an_answer_from_before_the_start_proves_nothing(self) -> None:
        found = evidence(kamailio=kamailio(loaded_at=NOW - 5, sip={"answer": answered(ago=6), "sent_ago": None}))
        assert primary(judge(CONFIG, found)) is Cause.NOT_YET_KNOWN

    def test_a_proxy_that_never_answered_fails_when_its_time_is_over(self) -> None:
        never = {"flags": "AX", "answer": None, "sent_ago": 9}
        assert primary(judge(CONFIG, evidence(kamailio=kamailio(loaded_at=NOW - 69, sip=never)))) is Cause.PROXY_SILENT

    def test_a_reload_asks_for_a_new_answer(self) -> None:
        found = evidence(kamailio=kamailio(sip={"flags": "AX", "answer": answered()}))
        verdict = judge(CONFIG, found)
        assert primary(verdict) is Cause.NOT_YET_KNOWN
        assert verdict.worth_waiting(NOW, NOW) == 58

    def test_one_lost_answer_is_no_failure(self) -> None:
        lost = {"answer": answered(ago=70), "sent_ago": 10}
        assert judge(CONFIG, evidence(kamailio=kamailio(sip={"flags": "AP", **lost}))).state is State.PROVEN
        verdict = judge(CONFIG, evidence(kamailio=kamailio(sip={"flags": "TP", **lost})))
        assert (verdict.state, primary(verdict)) == (State.UNKNOWN, Cause.NOT_YET_KNOWN)

    def test_what_a_visit_proves_needs_no_further_round(self) -> None:
        found = evidence(
            kamailio=kamailio(sip2={"flags": "AP", "answer": answered(ago=62), "sent_ago": 2}),
            reach=reach(tcp="refused", tls=None),
        )
        verdict = judge(CONFIG, found)
        assert primary(verdict) is Cause.PROXY_UNREACHABLE
        assert verdict.worth_waiting(NOW - 1, NOW) == 4

    def test_a_refusal_is_settled_when_it_is_newer_than_the_look(self) -> None:
        verdict = judge(CONFIG, evidence(kamailio=kamailio(sip2=REFUSED)))
        assert verdict.worth_waiting(NOW - 11, NOW) == 0
        assert verdict.worth_waiting(NOW - 9, NOW) == 68 - 9

    def test_a_finding_knows_no_time_unless_told(self) -> None:
        assert judge(CONFIG, evidence(fqdn=Lookup((), "NXDOMAIN", True))).findings[0].seen_at == -math.inf


OLD_REFUSAL = {"flags": "IP", "answer": answered(403, "Forbidden", ago=200), "sent_ago": 200}
REFUSED_BY_ANOTHER = {"flags": "IP", "answer": answered(403, "Forbidden", names=("sip.example.net",))}


class TestTrunk:
    """'Ready, waiting for Microsoft' against everything that looks like it."""

    ALL_REFUSE: ClassVar[dict[str, Any]] = {"sip": REFUSED, "sip2": REFUSED, "sip3": REFUSED}

    def test_every_proxy_refuses_and_microsoft_never_came(self) -> None:
        verdict = judge(CONFIG, evidence(kamailio=kamailio(**self.ALL_REFUSE, theirs=None)))
        assert (verdict.state, verdict.exit_code) == (State.WAITING, 3)
        assert [finding.cause for finding in verdict.findings] == [Cause.TRUNK_MISSING]
        assert f"New-CsOnlinePSTNGateway -Fqdn {FQDN} -SipSignalingPort 5061" in verdict.findings[0].next_step
        assert "-SendSipOptions $true -Enabled $true" in verdict.findings[0].next_step
        assert [item.state for item in verdict.destinations] == [State.WAITING] * 3
        assert verdict.worth_waiting(NOW - 11, NOW) == 0

    def test_what_all_say_is_said_once_whatever_identifies_each_answer(self) -> None:
        def refused(number: int) -> dict[str, Any]:
            reason = f"Forbidden; text=\"{number:08}-35a8-4104-8014-4f29219ce432;Trunk FQDN '{FQDN}' is not known\""
            return {"flags": "IP", "answer": answered(403, reason)}

        verdict = judge(CONFIG, evidence(kamailio=kamailio(sip=refused(1), sip2=refused(2), sip3=refused(3))))
        said = f"answers our OPTIONS with 403 Forbidden; text=\"Trunk FQDN '{FQDN}' is not known\""
        assert verdict.findings[0].evidence == f"{', '.join(PROXIES)}: {said}"

    def test_it_is_seen_before_the_first_ping_of_the_dispatcher(self) -> None:
        refused = {"flags": "AX", "answer": answered(403, "Forbidden", ago=1, since=1), "sent_ago": 1}
        found = kamailio(loaded_at=NOW - 1, sip=refused, sip2=refused, sip3=refused, theirs=None)
        assert judge(CONFIG, evidence(kamailio=found)).exit_code == 3

    def test_a_cloud_with_one_proxy(self) -> None:
        config = replace(CONFIG, proxies=("sip.pstnhub.dod.teams.microsoft.us",))
        one = destination(config.proxies[0], "IP", answered(403, "Forbidden"))
        found = evidence(kamailio=kamailio(destinations=(one,), theirs=None))
        assert judge(config, found).exit_code == 3

    @pytest.mark.parametrize(
        ("changes", "cause"),
        [
            ({"kamailio": kamailio(sip=REFUSED, sip2=REFUSED, theirs=None)}, Cause.PROXY_FORBIDS),
            ({"kamailio": kamailio(sip=REFUSED, sip2=REFUSED, sip3=SILENT, theirs=None)}, Cause.PROXY_SILENT),
            ({"kamailio": kamailio(**ALL_REFUSE)}, Cause.PROXY_FORBIDS),
            (
                {"kamailio": kamailio(**{name: {"answer": ADDRESS_REFUSED} for name in ALL_REFUSE}, theirs=None)},
                Cause.CONTACT_WRONG,
            ),
            (
                {"kamailio": kamailio(sip=OLD_REFUSAL, sip2=OLD_REFUSAL, sip3=OLD_REFUSAL, theirs=None)},
                Cause.PINGS_STOPPED,
            ),
            (
                {"kamailio": kamailio(sip=REFUSED, sip2=REFUSED, sip3={**REFUSED, "flags": "DX"}, theirs=None)},
                Cause.DESTINATION_DISABLED,
            ),
            (
                {"kamailio": kamailio(**ALL_REFUSE, theirs=None), "proxies": {PROXIES[0]: Lookup(("198.51.100.7",))}},
                Cause.PROXY_DNS,
            ),
            (
                {"kamailio": kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED_BY_ANOTHER, theirs=None)},
                Cause.PROXY_CERTIFICATE_NAME,
            ),
            (
                {"kamailio": kamailio(**ALL_REFUSE, theirs=None), "fqdn": Lookup((), "NXDOMAIN", True)},
                Cause.FQDN_UNRESOLVED,
            ),
            (
                {
                    "kamailio": kamailio(**ALL_REFUSE, theirs=None),
                    "port": port(options=OptionsReply(200, "OK", "<sip:203.0.113.10:5061>")),
                },
                Cause.CONTACT_WRONG,
            ),
        ],
        ids=[
            "one answers",
            "one is silent",
            "microsoft came before",
            "they name another Contact",
            "they refused long ago",
            "one was disabled",
            "one is somewhere else",
            "one is another",
            "our name is missing",
            "our Contact is wrong",
        ],
    )
    def test_anything_else_is_a_fault(self, changes: dict[str, Any], cause: Cause) -> None:
        verdict = judge(CONFIG, evidence(**changes))
        assert (primary(verdict), verdict.exit_code) == (cause, 1)

    def test_a_refusal_by_all_with_another_code_is_no_missing_trunk(self) -> None:
        bad = {"flags": "IP", "answer": answered(400, "Bad Request")}
        found = evidence(kamailio=kamailio(sip=bad, sip2=bad, sip3=bad, theirs=None))
        assert primary(judge(CONFIG, found)) is Cause.PROXY_REFUSES


class TestTheirOptions:
    def test_a_closed_port_is_red_since_the_200_proves_the_trunk(self) -> None:
        nobody = {"kamailio": kamailio(theirs=None, connections=()), "packet_filter": PacketFilter(NETWORKS, 0)}
        verdict = judge(CONFIG, evidence(**nobody))
        assert (primary(verdict), verdict.exit_code) == (Cause.THEIRS_MISSING, 1)
        assert "not one connection of its has reached this machine" in verdict.findings[0].evidence
        assert "Open TCP 5061 for 52.112.0.0/14, 52.122.0.0/15" in verdict.findings[0].next_step

    def test_they_may_stop(self) -> None:
        assert judge(CONFIG, evidence(kamailio=kamailio(theirs=theirs(ago=180)))).state is State.PROVEN
        verdict = judge(CONFIG, evidence(kamailio=kamailio(theirs=theirs(ago=190))))
        assert primary(verdict) is Cause.THEIRS_MISSING
        assert "stopped 190 s ago" in verdict.findings[0].evidence

    def test_they_must_come_from_microsoft(self) -> None:
        verdict = judge(CONFIG, evidence(kamailio=kamailio(theirs=theirs(source="198.51.100.7"))))
        assert primary(verdict) is Cause.THEIRS_MISSING
        assert "198.51.100.7" in verdict.findings[0].evidence
        assert primary(judge(CONFIG, evidence(kamailio=kamailio(theirs=theirs(source=""))))) is Cause.THEIRS_MISSING

    def test_they_must_have_been_answered_with_200(self) -> None:
        for code in (404, None):
            found = evidence(kamailio=kamailio(theirs=theirs(code=code)))
            assert primary(judge(CONFIG, found)) is Cause.THEIRS_REFUSED

    def test_they_get_time_after_the_first_200(self) -> None:
        young = {"answer": answered(ago=3, since=3), "sent_ago": 3}
        for missing in (None, theirs(ago=600)):
            found = evidence(kamailio=kamailio(sip=young, sip2=young, sip3=young, theirs=missing))
            verdict = judge(CONFIG, found)
            assert (primary(verdict), verdict.exit_code) == (Cause.THEIRS_NOT_YET_SEEN, 2)
            assert verdict.worth_waiting(NOW - 1000, NOW) == 2 * 60 + 3 - 3

    def test_without_any_200_they_are_not_missed(self) -> None:
        found = evidence(kamailio=kamailio(sip=SILENT, sip2=SILENT, sip3=SILENT, theirs=None))
        assert {finding.cause for finding in judge(CONFIG, found).findings} == {Cause.PROXY_SILENT}


class TestRenewal:
    """A failing renewal is a remark until the certificate has ended."""

    ADVICE = renewal.ADVICE[renewal.Cause.CHALLENGE_FAILED]
    FAILING = Renewal(NOW - 60, True, NOW - 9 * DAY, 3, "challenge_failed", "Timeout during connect", ADVICE)

    def test_it_does_not_change_the_proof(self) -> None:
        verdict = judge(CONFIG, evidence(renewal=self.FAILING, installed_at=NOW - 60 * DAY))
        assert verdict.state is State.PROVEN
        (remark,) = verdict.remarks
        assert remark.cause is Cause.RENEWAL_FAILING
        assert "3 times since 2027-01-06 08:00 UTC, challenge_failed: Timeout during connect" in remark.evidence
        assert "serves on until 2027-04-14" in remark.evidence
        assert remark.next_step == f"{self.ADVICE} {renewal.NEXT_TRY}"

    @pytest.mark.parametrize(
        ("cause", "advice", "step"),
        [
            ("challenge_failed", "Pay us.", ADVICE),
            ("disk_full", "", renewal.ADVICE[renewal.Cause.DISK_FULL]),
            ("whatever", "Pay us.", renewal.ADVICE[renewal.Cause.UNKNOWN]),
            (None, "", renewal.ADVICE[renewal.Cause.UNKNOWN]),
        ],
    )
    def test_only_advice_of_ours_is_given(self, cause: str | None, advice: str, step: str) -> None:
        record = replace(self.FAILING, cause=cause, advice=advice)
        (remark,) = judge(CONFIG, evidence(renewal=record, installed_at=NOW - 60 * DAY)).remarks
        assert remark.next_step == f"{step} {renewal.NEXT_TRY}"

    def test_it_is_the_cause_when_the_certificate_has_ended(self) -> None:
        ended = with_certificate(not_before=NOW - 91 * DAY, not_after=NOW - DAY)
        verdict = judge(CONFIG, replace(ended, renewal=self.FAILING, installed_at=NOW - 90 * DAY))
        assert [finding.cause for finding in verdict.findings] == [Cause.RENEWAL_FAILING, Cause.CERTIFICATE_EXPIRED]
        assert verdict.exit_code == 1
        assert "ended 2027-01-14" in verdict.findings[0].evidence
        assert verdict.remarks == ()

    @pytest.mark.parametrize(
        "changes",
        [
            {"renewal": None},
            {"renewal": Renewal(NOW - 60)},
            {"renewal": FAILING, "installed_at": NOW - 30},
        ],
        ids=["never ran", "was good", "another way brought one since"],
    )
    def test_nothing_is_said(self, changes: dict[str, Any]) -> None:
        assert judge(CONFIG, evidence(**changes)).remarks == ()

    def test_who_brings_a_certificate_has_no_renewal(self) -> None:
        assert judge(BOUGHT, evidence(renewal=self.FAILING, installed_at=None)).remarks == ()


BOUGHT = replace(CONFIG, issued_by="files")


class TestEnding:
    """certbot 4.0 renews at a third of the life left, at half of it below ten days; a tenth more is patience."""

    @pytest.mark.parametrize(
        ("life", "left", "ending"),
        [(90, 22, False), (90, 20, True), (45, 11, False), (45, 10, True), (6, 2.5, False), (6, 2.3, True)],
    )
    def test_it_should_have_been_renewed(self, life: float, left: float, ending: bool) -> None:
        found = with_certificate(not_before=NOW + (left - life) * DAY, not_after=NOW + left * DAY)
        verdict = judge(CONFIG, found)
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == ([Cause.CERTIFICATE_ENDING] if ending else [])
        assert not ending or "certbot" in verdict.remarks[0].evidence

    @pytest.mark.parametrize(("left", "ending"), [(31, False), (29, True)])
    def test_one_that_was_bought_is_announced_a_month_before(self, left: float, ending: bool) -> None:
        found = with_certificate(not_before=NOW - 300 * DAY, not_after=NOW + left * DAY)
        remarks = judge(BOUGHT, found).remarks
        assert [remark.cause for remark in remarks] == ([Cause.CERTIFICATE_ENDING] if ending else [])
        assert not ending or "sbc_certificate_files" in remarks[0].next_step
        assert not ending or "certbot" not in remarks[0].next_step


def test_who_brings_a_certificate_is_not_sent_to_certbot() -> None:
    for found, cause in OUR_FAULTS.values():
        if cause.startswith("certificate_") and cause is not Cause.CERTIFICATE_NOT_LOADED:
            finding = judge(BOUGHT, found).findings[0]
            assert finding.cause is cause
            assert "certbot" not in finding.next_step
            assert "site.yml" in finding.next_step


def test_a_government_cloud_is_told_its_roots() -> None:
    found = evidence(port=port(chain_flaw=UNTRUSTED))
    for cloud, named in (("commercial", False), ("gcc_high", True), ("dod", True)):
        finding = judge(replace(CONFIG, cloud=cloud), found).findings[0]
        assert finding.cause is Cause.CERTIFICATE_UNTRUSTED
        assert ("DigiCert" in finding.evidence) is named


class TestRehearsal:
    """A certificate that nobody trusts, on purpose."""

    CONFIG: ClassVar[Config] = replace(CONFIG, rehearsal=True)
    REFUSED: ClassVar[dict[str, Any]] = {
        "kamailio": kamailio(sip=SILENT, sip2=SILENT, sip3=SILENT, theirs=None, established=frozenset()),
        "reach": {**reach(PROXIES[0]), **reach(PROXIES[1]), **reach(PROXIES[2])},
        "port": port(chain_flaw=UNTRUSTED),
    }

    def test_it_waits_for_production_whatever_the_proxies_say_of_it(self) -> None:
        verdict = judge(self.CONFIG, evidence(**self.REFUSED))
        assert (verdict.state, verdict.exit_code) == (State.WAITING, 3)
        assert [finding.cause for finding in verdict.findings] == [Cause.CERTIFICATE_REHEARSAL]
        assert "certificate_directory: production" in verdict.findings[0].next_step
        assert [item.state for item in verdict.destinations] == [State.WAITING] * 3

    def test_what_does_not_follow_from_it_comes_first(self) -> None:
        for changes, cause in (
            ({"fqdn": Lookup((), "NXDOMAIN", True)}, Cause.FQDN_UNRESOLVED),
            ({"key": "0" * 64}, Cause.CERTIFICATE_KEY_MISMATCH),
            ({"reach": reach(lookup=Lookup((), "NXDOMAIN", True), tcp=None, tls=None)}, Cause.PROXY_DNS),
            ({"port": port(chain_flaw=ChainFlaw(True, "its issuer is missing"))}, Cause.CERTIFICATE_INCOMPLETE),
        ):
            verdict = judge(self.CONFIG, evidence(**{**self.REFUSED, **changes}))
            assert (primary(verdict), verdict.exit_code) == (cause, 1)

    def test_without_the_setting_it_is_a_fault(self) -> None:
        assert primary(judge(CONFIG, evidence(**self.REFUSED))) is Cause.CERTIFICATE_UNTRUSTED

    def test_a_trusted_chain_is_no_rehearsal(self) -> None:
        assert judge(self.CONFIG, evidence()).state is State.PROVEN


class TestTenants:
    TENANTS = (f"fabrikam.{FQDN}", f"wingtip.{FQDN}")
    CONFIG: ClassVar[Config] = replace(CONFIG, tenants=TENANTS, certificate_names=(FQDN, f"*.{FQDN}"))
    HERE = Lookup((CONFIG.address,))

    def judge(self, *found: Lookup, **changes: Any) -> Verdict:
        wildcard = with_certificate(names=(FQDN, f"*.{FQDN}"))
        changes.setdefault("kamailio", kamailio(tenants=frozenset(self.TENANTS)))
        return judge(self.CONFIG, replace(wildcard, tenants=dict(zip(self.TENANTS, found, strict=True)), **changes))

    def test_all_lead_here(self) -> None:
        verdict = self.judge(self.HERE, self.HERE)
        assert verdict.state is State.PROVEN
        assert verdict.remarks == ()

    def test_the_wildcard_is_asked_for(self) -> None:
        found = evidence(tenants=dict.fromkeys(self.TENANTS, self.HERE))
        finding = judge(self.CONFIG, found).findings[0]
        assert finding.cause is Cause.CERTIFICATE_NAME
        assert finding.evidence == f"The certificate is for {FQDN}, not for *.{FQDN}"

    @pytest.mark.parametrize(
        ("lookup", "cause", "said"),
        [
            (Lookup((), "NXDOMAIN", True), Cause.TENANT_UNRESOLVED, "NXDOMAIN"),
            (Lookup(("203.0.113.99",)), Cause.TENANT_ELSEWHERE, "resolves to 203.0.113.99"),
            (Lookup(("203.0.113.10", "203.0.113.99")), Cause.TENANT_ELSEWHERE, "203.0.113.99"),
        ],
    )
    def test_one_that_does_not_is_named(self, lookup: Lookup, cause: Cause, said: str) -> None:
        verdict = self.judge(self.HERE, lookup)
        assert (primary(verdict), verdict.exit_code) == (cause, 1)
        assert self.TENANTS[1] in verdict.findings[0].evidence
        assert self.TENANTS[0] not in verdict.findings[0].evidence
        assert said in verdict.findings[0].evidence
        assert f"NAME. A {CONFIG.address}" in verdict.findings[0].next_step
        assert [item.state for item in verdict.destinations] == [State.PROVEN] * 3

    def test_several_in_the_same_way_are_one_finding(self) -> None:
        missing = Lookup((), "NXDOMAIN", True)
        (finding,) = self.judge(missing, missing).findings
        assert all(name in finding.evidence for name in self.TENANTS)

    def test_it_keeps_nobody_from_seeing_that_the_trunk_is_missing(self) -> None:
        known = frozenset(self.TENANTS)
        no_trunk = kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED, theirs=None, tenants=known)
        verdict = self.judge(self.HERE, Lookup((), "NXDOMAIN", True), kamailio=no_trunk)
        assert [finding.cause for finding in verdict.findings] == [Cause.TENANT_UNRESOLVED, Cause.TRUNK_MISSING]

    def test_a_resolver_that_fails_is_a_remark(self) -> None:
        verdict = self.judge(self.HERE, Lookup((), "SERVFAIL"))
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == [Cause.TENANT_UNCHECKED]

    def test_one_that_kamailio_does_not_know_is_named(self) -> None:
        known = kamailio(tenants=frozenset(self.TENANTS[:1]))
        verdict = self.judge(self.HERE, self.HERE, kamailio=known)
        assert (primary(verdict), verdict.exit_code) == (Cause.TENANT_NOT_LOADED, 1)
        assert self.TENANTS[1] in verdict.findings[0].evidence
        assert self.TENANTS[0] not in verdict.findings[0].evidence

    def test_whether_kamailio_knows_them_may_be_unread(self) -> None:
        unread = self.judge(self.HERE, self.HERE, kamailio=kamailio(tenants=Unread("permissions.domainDump: 500")))
        assert unread.state is State.PROVEN
        assert [remark.cause for remark in unread.remarks] == [Cause.WITNESS_UNREAD]
        assert "permissions.domainDump: 500" in unread.remarks[0].evidence
        assert self.judge(self.HERE, self.HERE, kamailio=kamailio(tenants=NOT_LOOKED)).remarks == ()

    def test_microsofts_options_to_a_tenant_are_no_part_of_the_proof(self) -> None:
        asked = kamailio(tenants=frozenset(self.TENANTS), theirs_of_tenants={self.TENANTS[0]: theirs(code=404)})
        assert self.judge(self.HERE, self.HERE, kamailio=asked).state is State.PROVEN


@pytest.mark.parametrize(("days", "outdated"), [(365, False), (367, True)])
def test_the_table_of_clouds_is_to_be_compared_once_a_year(days: int, outdated: bool) -> None:
    reviewed = datetime.fromtimestamp(NOW - days * DAY, UTC).date()
    verdict = judge(replace(CONFIG, clouds_reviewed=reviewed), evidence())
    assert verdict.state is State.PROVEN
    assert [remark.cause for remark in verdict.remarks] == ([Cause.CLOUDS_OUTDATED] if outdated else [])
    assert not outdated or f"{reviewed}, {days} days ago: roles/sbc/vars/main/clouds.yml" in verdict.remarks[0].evidence


class TestMisnamed:
    """Kamailio hangs up on a proxy whose certificate does not carry its name, and says so."""

    def test_it_is_named_though_nothing_was_answered(self) -> None:
        silent = destination(PROXIES[1], "IP", None, 20)
        found = kamailio(
            destinations=(
                *kamailio().destinations[:1],
                replace(silent, misnamed=Misnamed(NOW - 20, ("sip.example.net",))),
                *kamailio().destinations[2:],
            )
        )
        verdict = judge(CONFIG, evidence(kamailio=found, reach=reach(tls="untrusted", tls_detail="Hostname mismatch")))
        assert primary(verdict) is Cause.PROXY_CERTIFICATE_NAME
        assert "sip.example.net" in verdict.findings[0].evidence

    @pytest.mark.parametrize(
        ("at", "answer", "cause"),
        [
            (NOW - 4000, answered(), None),
            (NOW - 20, answered(ago=10), None),
            (NOW - 10, answered(ago=70), Cause.PROXY_CERTIFICATE_NAME),
        ],
        ids=["before the start", "before a good answer", "after one"],
    )
    def test_the_last_one_counts(self, at: float, answer: Answer, cause: Cause | None) -> None:
        one = replace(destination(PROXIES[0], "AP", answer), misnamed=Misnamed(at, ("sip.example.net",)))
        verdict = judge(CONFIG, evidence(kamailio=kamailio(destinations=(one, *kamailio().destinations[1:]))))
        assert primary(verdict) is cause


# Each is a healthy SBC but for one thing, by which Teams might not place a call, or by which nothing is known any more.
FUTURE = NOW + 3600
NOT_AP = {
    "an answer from the future": kamailio(sip={"answer": answered(ago=-3600)}),
    "an answer from the future to an OPTIONS of the past": kamailio(
        sip={"answer": answered(ago=-3600), "sent_ago": 30}
    ),
    "an OPTIONS from the future": kamailio(sip={"answer": answered(), "sent_ago": -3600}),
    "an OPTIONS of Microsoft's from the future": kamailio(theirs=theirs(ago=-3600)),
    "an OPTIONS of Microsoft's from before the start": kamailio(loaded_at=NOW - 15),
    "a stale answer": kamailio(sip={"answer": answered(ago=140), "sent_ago": 10}),
    "pings that stopped": kamailio(sip={"answer": answered(ago=140), "sent_ago": 140}),
    "a refusal before the start": kamailio(loaded_at=NOW - 5, sip={"answer": answered(403, ago=6), "sent_ago": 8}),
    "an answer to an OPTIONS from before the start": kamailio(
        loaded_at=NOW - 5, sip={"answer": answered(ago=6), "sent_ago": 8}
    ),
    "flags that nobody knows": kamailio(sip={"flags": "QQ", "answer": answered()}),
    "no flags": kamailio(sip={"flags": "", "answer": answered()}),
    "no pings": kamailio(sip={"flags": "AN", "answer": answered()}),
    "active by assumption": kamailio(sip={"flags": "AX", "answer": answered()}),
}


@pytest.mark.parametrize("changed", NOT_AP.values(), ids=NOT_AP.keys())
@pytest.mark.parametrize("vouched", [True, False], ids=["vouched", "nobody vouches"])
def test_it_is_not_proven(changed: Kamailio, vouched: bool) -> None:
    clock = Clock(True, 0.0, "192.0.2.123") if vouched else NOT_LOOKED
    verdict = judge(CONFIG, evidence(kamailio=changed, clock=clock))
    assert verdict.state in (State.UNKNOWN, State.FAILED)


class TestClock:
    SERVER = "192.0.2.123"

    @pytest.mark.parametrize(
        ("clock", "said"),
        [
            (Clock(True, 86400.0, SERVER), "86400 s ahead of that of 192.0.2.123"),
            (Clock(True, -61.0, SERVER), "61 s behind that of 192.0.2.123"),
            (Clock(True, None, None, -86400.0, NOW - 500), "jumped back by 86400 s"),
            (Clock(False, None, None, 86400.0, NOW - 5000), "jumped forward by 86400 s"),
        ],
    )
    def test_a_wrong_one_comes_before_everything_else(self, clock: Clock, said: str) -> None:
        verdict = judge(CONFIG, evidence(clock=clock, kamailio=kamailio(sip=SILENT)))
        assert (primary(verdict), verdict.exit_code) == (Cause.CLOCK_WRONG, 1)
        assert said in verdict.findings[0].evidence
        assert "timedatectl" in verdict.findings[0].next_step

    @pytest.mark.parametrize(
        "clock",
        [
            Clock(True, 0.2, SERVER, -86400.0, NOW - 5),
            Clock(True, None, None, 2.0, NOW - 5),
            Clock(True, None, None, 86400.0, NOW - 700),
            Clock(True, 59.0, SERVER),
        ],
        ids=["a server vouches for it after the jump", "a small jump", "the kernel is sure again", "nearly right"],
    )
    def test_a_good_one_says_nothing(self, clock: Clock) -> None:
        verdict = judge(CONFIG, evidence(clock=clock))
        assert verdict.state is State.PROVEN
        assert verdict.remarks == ()

    @pytest.mark.parametrize("clock", [Clock(False), Unread("adjtimex: no")])
    def test_one_that_nobody_checks_is_a_remark(self, clock: Clock | Unread) -> None:
        verdict = judge(CONFIG, evidence(clock=clock))
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == [Cause.CLOCK_UNCHECKED]

    def test_times_to_come_accuse_a_clock_for_which_nobody_vouches(self) -> None:
        found = kamailio(loaded_at=FUTURE)
        assert primary(judge(CONFIG, evidence(kamailio=found, clock=Clock(True)))) is Cause.CLOCK_WRONG
        # Set right after a wrong start: what came since then is as good as ever.
        right = judge(CONFIG, evidence(kamailio=found, loaded=Loaded(FUTURE, FILES, FILES)))
        assert right.state is State.PROVEN

    def test_after_it_was_set_back_the_next_options_tells(self) -> None:
        before = {"answer": answered(ago=-3600), "sent_ago": -3600}
        found = evidence(kamailio=kamailio(sip=before, sip2=before, sip3=before, theirs=theirs(ago=-3600)))
        verdict = judge(CONFIG, found)
        assert (primary(verdict), verdict.state) == (Cause.NOT_YET_KNOWN, State.UNKNOWN)
        assert verdict.worth_waiting(NOW, NOW) == 68
        assert [item.answer_age for item in verdict.destinations] == [None] * 3

    def test_after_it_was_set_back_microsofts_own_options_have_their_time(self) -> None:
        found = kamailio(theirs=theirs(ago=-3600))
        clock = Clock(True, 0.0, self.SERVER, -3700.0, NOW - 60)
        assert primary(judge(CONFIG, evidence(kamailio=found, clock=clock))) is Cause.THEIRS_NOT_YET_SEEN
        later = replace(clock, stepped_at=NOW - 200)
        assert primary(judge(CONFIG, evidence(kamailio=found, clock=later))) is Cause.THEIRS_MISSING


class TestFlapping:
    @staticmethod
    def judge(*ago: float, **changes: Any) -> Verdict:
        one = destination(PROXIES[1], **{"answer": answered()} | changes)
        one = replace(one, turns=tuple(NOW - each for each in ago))
        others = kamailio().destinations
        return judge(CONFIG, evidence(kamailio=kamailio(destinations=(others[0], one, others[2]))))

    def test_it_is_shown_with_its_rate_and_not_as_its_last_value(self) -> None:
        well = self.judge(600, 450, 300, 150)
        bad = self.judge(600, 450, 300, 150, 20, flags="IP", answer=answered(ago=80), sent_ago=20)
        for verdict, turns in ((well, 4), (bad, 5)):
            assert (primary(verdict), verdict.exit_code) == (Cause.PROXY_FLAPPING, 1)
            assert f"{turns} times within 15 min, {turns * 4} an hour" in verdict.findings[0].evidence
            item = verdict.destinations[1]
            assert item.state is State.FAILED
            assert item.flapping
            assert (item.flapping.turns, item.flapping.per_hour, item.flapping.window) == (turns, turns * 4, 900)
        assert well.findings[0].next_step == bad.findings[0].next_step
        assert well.findings[0].evidence.endswith("at this moment: answers")
        assert "at this moment: does not answer our OPTIONS" in bad.findings[0].evidence
        # Well for 300 s before the first turn, from 450 to 300 s ago, and for the last 150 s.
        assert "answered for 67% of that time" in well.findings[0].evidence

    def test_it_ends_by_itself(self) -> None:
        assert self.judge(901, 450, 300, 150).state is State.PROVEN
        verdict = self.judge(880, 450, 300, 150)
        assert primary(verdict) is Cause.PROXY_FLAPPING
        assert verdict.worth_waiting(NOW, NOW) == 900
        assert verdict.worth_waiting(NOW - 900, NOW) == 0

    def test_one_that_stays_down_is_down(self) -> None:
        verdict = self.judge(880, 700, 500, 310, flags="IP", answer=answered(ago=320), sent_ago=20)
        assert primary(verdict) is Cause.PROXY_SILENT
        assert verdict.destinations[1].flapping is None

    @pytest.mark.parametrize(
        ("changes", "cause"),
        [
            ({"flags": "DX"}, Cause.DESTINATION_DISABLED),
            ({"answer": answered(names=("sip.example.net",))}, Cause.PROXY_CERTIFICATE_NAME),
            ({"answer": answered(ago=140), "sent_ago": 140}, Cause.PINGS_STOPPED),
        ],
    )
    def test_what_stays_is_told_as_it_is(self, changes: dict[str, Any], cause: Cause) -> None:
        assert primary(self.judge(200, 190, 180, 160, **changes)) is cause

    def test_the_rate_is_over_the_time_since_the_start(self) -> None:
        one = replace(destination(PROXIES[1], answer=answered()), turns=(NOW - 150, NOW - 100, NOW - 60, NOW - 10))
        others = kamailio().destinations
        found = kamailio(destinations=(others[0], one, others[2]), loaded_at=NOW - 180)
        item = judge(CONFIG, evidence(kamailio=found)).destinations[1]
        assert item.flapping
        assert (item.flapping.window, item.flapping.per_hour) == (180, 80)

    def test_a_trunk_that_comes_and_goes_is_not_missing(self) -> None:
        turns = tuple(NOW - each for each in (500, 400, 300, 200))
        refused = [replace(destination(host, **REFUSED), turns=turns) for host in PROXIES]
        verdict = judge(CONFIG, evidence(kamailio=kamailio(destinations=tuple(refused), theirs=None)))
        assert primary(verdict) is Cause.PROXY_FLAPPING


class TestWitnesses:
    """What says more about a cause, or is worth a remark."""

    @pytest.mark.parametrize(
        "lookup",
        [Lookup(("198.51.100.7",)), Lookup((ADDRESSES[PROXIES[1]], "198.51.100.7")), Lookup((), "NXDOMAIN", True)],
    )
    def test_dns_that_leads_elsewhere_counts_while_an_old_connection_still_answers(self, lookup: Lookup) -> None:
        found = evidence(proxies={**evidence().proxies, PROXIES[1]: lookup})
        verdict = judge(CONFIG, found)
        assert (primary(verdict), verdict.exit_code) == (Cause.PROXY_DNS, 1)
        assert (lookup.error or "198.51.100.7") in verdict.findings[0].evidence

    def test_a_resolver_that_fails_does_not(self) -> None:
        found = evidence(proxies={host: Lookup((), "SERVFAIL") for host in PROXIES})
        verdict = judge(CONFIG, found)
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == [Cause.WITNESS_UNREAD]
        assert "the proxies in DNS: SERVFAIL" in verdict.remarks[0].evidence
        one = evidence(proxies={**found.proxies, PROXIES[0]: Lookup((ADDRESSES[PROXIES[0]],))})
        assert judge(CONFIG, one).remarks == ()

    def test_overload_says_for_how_long(self) -> None:
        answer = replace(answered(503, "Service Unavailable"), retry_after=30.0)
        verdict = judge(CONFIG, evidence(kamailio=kamailio(sip2={"flags": "IP", "answer": answer})))
        assert "503 Service Unavailable; Retry-After 30 s" in verdict.findings[0].evidence

    def test_a_reload_asks_for_an_answer_since_then(self) -> None:
        verdict = judge(CONFIG, evidence(loaded=Loaded(NOW - 5, FILES, FILES)))
        assert (primary(verdict), verdict.state) == (Cause.NOT_YET_KNOWN, State.UNKNOWN)
        assert "since Kamailio read its files anew 5 s ago" in verdict.findings[0].evidence
        assert verdict.worth_waiting(NOW, NOW) == 58

    def test_an_answer_within_the_second_of_the_start_counts(self) -> None:
        at_once = {"answer": answered(ago=3, since=3), "sent_ago": 3}
        found = kamailio(loaded_at=NOW - 3, sip=at_once, sip2=at_once, sip3=at_once, theirs=theirs(ago=1))
        assert judge(CONFIG, evidence(kamailio=found, loaded=Loaded(NOW - 2.1, FILES, FILES))).state is State.PROVEN
        later = judge(CONFIG, evidence(kamailio=found, loaded=Loaded(NOW - 2, FILES, FILES)))
        assert primary(later) is Cause.NOT_YET_KNOWN

    def test_a_start_is_named(self) -> None:
        fresh = {"flags": "AX", "answer": None, "sent_ago": None}
        found = kamailio(loaded_at=NOW - 2, sip=fresh, sip2=fresh, sip3=fresh, theirs=None)
        verdict = judge(CONFIG, evidence(kamailio=found, loaded=Loaded(NOW - 2, FILES, FILES)))
        assert "since Kamailio started 2 s ago" in verdict.findings[0].evidence

    def test_connections_that_come_without_options_point_at_tls(self) -> None:
        for changes, said in (
            ({"connections": ()}, "5 connections of its reached this machine, but no OPTIONS came on them"),
            ({}, "1 TLS connections of its stand, but no OPTIONS came on them"),
        ):
            finding = judge(CONFIG, evidence(kamailio=kamailio(theirs=None, **changes))).findings[0]
            assert finding.cause is Cause.THEIRS_MISSING
            assert said in finding.evidence
            assert "TLS alerts" in finding.next_step

    def test_the_next_step_does_not_follow_connections_that_come_and_go(self) -> None:
        steps = {
            judge(CONFIG, evidence(kamailio=kamailio(theirs=seen, connections=connections))).findings[0].next_step
            for seen in (None, theirs(ago=600))
            for connections in ((), (connection("52.112.0.1", outbound=False),))
        }
        assert len(steps) == 2

    def test_a_name_that_microsoft_asks_for_instead_is_evidence(self) -> None:
        asked = NotHere(NOW - 20, "pay-us.example.net", "52.112.0.1", 3)
        finding = judge(CONFIG, evidence(kamailio=kamailio(theirs=None, not_here=asked))).findings[0]
        assert finding.cause is Cause.THEIRS_MISSING
        assert "it asks for pay-us.example.net instead" in finding.evidence
        assert "pay-us" not in finding.next_step
        assert "sbc_tenants" in finding.next_step

    @pytest.mark.parametrize(
        ("unread", "said"),
        [
            ("packet_filter", "nftables: rude"),
            ("loaded", "the files that Kamailio has read: rude"),
            ("listening", "what listens on this machine: rude"),
            ("renewal", "certbot's last run: rude"),
            ("connections", "Kamailio's TLS connections: rude"),
            ("memory", "Kamailio's memory: rude"),
        ],
    )
    def test_what_could_not_be_read_is_remarked_upon(self, unread: str, said: str) -> None:
        def found(why: Unread) -> Evidence:
            mine = {unread: why}
            return evidence(kamailio=kamailio(**mine)) if unread in ("connections", "memory") else evidence(**mine)

        verdict = judge(CONFIG, found(Unread("rude")))
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == [Cause.WITNESS_UNREAD]
        assert said in verdict.remarks[0].evidence
        assert "rude" not in verdict.remarks[0].next_step
        for why in (Unread("Permission denied", denied=True), NOT_LOOKED):
            assert judge(CONFIG, found(why)).remarks == ()

    def test_several_are_one_remark(self) -> None:
        (remark,) = judge(CONFIG, evidence(packet_filter=Unread("one"), listening=Unread("another"))).remarks
        assert "one" in remark.evidence
        assert "another" in remark.evidence

    def test_connections_of_others_are_not_microsofts(self) -> None:
        strange = (connection("198.51.100.7", outbound=False), connection("52.112.0.1"))
        found = evidence(
            kamailio=kamailio(theirs=None, connections=strange), packet_filter=Unread("denied", denied=True)
        )
        assert "Open TCP 5061" in judge(CONFIG, found).findings[0].next_step

    def test_a_closed_packet_filter_is_not_called_a_missing_trunk(self) -> None:
        refused = kamailio(sip=REFUSED, sip2=REFUSED, sip3=REFUSED, theirs=None)
        verdict = judge(CONFIG, evidence(kamailio=refused, packet_filter=PacketFilter(("198.51.100.0/24",), 0)))
        assert (primary(verdict), verdict.exit_code) == (Cause.PACKET_FILTER, 1)
        assert "does not let 52.112.0.0/14, 52.122.0.0/15 in" in verdict.findings[0].evidence

    @pytest.mark.parametrize("admitted", [NETWORKS[:1], ("52.112.0.0/15", *NETWORKS[1:]), ()])
    def test_a_packet_filter_must_let_all_of_microsofts_networks_in(self, admitted: tuple[str, ...]) -> None:
        found = evidence(packet_filter=PacketFilter(admitted, 5))
        verdict = judge(CONFIG, found)
        assert (primary(verdict), verdict.exit_code) == (Cause.PACKET_FILTER, 1)
        assert judge_swap(CONFIG, found).state is State.PROVEN

    def test_networks_may_be_admitted_in_other_words(self) -> None:
        found = ("52.112.0.0/15", "52.114.0.0/15", "52.120.0.0/14", "2603::/16", "@set")
        assert judge(CONFIG, evidence(packet_filter=PacketFilter(found))).state is State.PROVEN

    @pytest.mark.parametrize(
        ("changes", "cause", "said"),
        [
            ({"packet_filter": PacketFilter(None)}, Cause.PACKET_FILTER_OPEN, "lets everybody in"),
            ({"kamailio": kamailio(memory=Memory(100 * 2**20, 91 * 2**20))}, Cause.MEMORY_LOW, "91 of 100 MiB"),
            ({"loaded": Loaded(NOW - 900, FILES, {**FILES, "tls.cfg": "x"})}, Cause.CONFIG_DIFFERS, "tls.cfg"),
            ({"loaded": Loaded(NOW - 900, FILES, {"tls.cfg": FILES["tls.cfg"]})}, Cause.CONFIG_DIFFERS, "kamailio.cfg"),
        ],
    )
    def test_a_remark_is_no_reason_to_doubt(self, changes: dict[str, Any], cause: Cause, said: str) -> None:
        verdict = judge(CONFIG, evidence(**changes))
        assert verdict.state is State.PROVEN
        assert [remark.cause for remark in verdict.remarks] == [cause]
        assert said in verdict.remarks[0].evidence

    def test_without_any_of_them_the_rest_still_proves(self) -> None:
        plain = replace(
            kamailio(), version=None, uptime=None, memory=NOT_LOOKED, connections=NOT_LOOKED, tenants=NOT_LOOKED
        )
        found = evidence(
            kamailio=plain,
            proxies={},
            clock=NOT_LOOKED,
            listening=NOT_LOOKED,
            packet_filter=NOT_LOOKED,
            loaded=NOT_LOOKED,
        )
        verdict = judge(CONFIG, found)
        assert verdict.state is State.PROVEN
        assert verdict.remarks == ()


def test_old_evidence_proves_nothing() -> None:
    verdict = judge(CONFIG, evidence())
    assert aged(verdict, 60, 60) is verdict
    for age in (61.0, 3600.0, -1.0):
        old = aged(verdict, age, 60)
        assert (primary(old), old.state, old.exit_code) == (Cause.EVIDENCE_OLD, State.UNKNOWN, 2)
        assert [item.state for item in old.destinations] == [State.UNKNOWN] * 3
    failed = aged(judge(CONFIG, evidence(kamailio=kamailio(sip2=REFUSED))), 61, 60)
    assert [finding.cause for finding in failed.findings] == [Cause.EVIDENCE_OLD, Cause.PROXY_FORBIDS]


def test_without_a_proxy_nothing_is_proven() -> None:
    verdict = judge(replace(CONFIG, proxies=()), evidence(kamailio=kamailio(destinations=())))
    assert (primary(verdict), verdict.exit_code) == (Cause.DESTINATION_MISSING, 1)
