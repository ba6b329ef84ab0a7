"""The verdict on evidence made by hand: one healthy SBC, and one thing at a time gone wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from by_hand import (
    ADDRESSES,
    CLOSED,
    CONFIG,
    FQDN,
    GOOD,
    NOW,
    PROXIES,
    REFUSED,
    SILENT,
    answered,
    destination,
    evidence,
    kamailio,
    port,
    reach,
    theirs,
    with_certificate,
)

from sbc_probe.findings import Cause, ExitCode, State
from sbc_probe.model import ChainFlaw, Evidence, Lookup, OptionsReply, Reach, Unread
from sbc_probe.verdict import Verdict, judge, judge_swap


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


UNTRUSTED = ChainFlaw(False, "it ends at CN=YR1, whose issuer, CN=Root YR, is no accepted root")
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
    "a destination that was not loaded": (
        evidence(kamailio=kamailio(destinations=kamailio().destinations[:2])),
        Cause.DESTINATION_MISSING,
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
    "a certificate that does not verify": (SILENT, reach(tls="untrusted"), Cause.PROXY_CERTIFICATE),
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
    "another refusal": (
        {"flags": "IP", "answer": answered(400, "Bad Request; SIP;text=no Contact")},
        {},
        Cause.PROXY_REFUSES,
    ),
    "overload": ({"flags": "IP", "answer": answered(503, "Overload")}, {}, Cause.PROXY_REFUSES),
    "AP by an answer from long ago": (
        {"flags": "AP", "answer": answered(ago=300), "sent_ago": 30},
        {},
        Cause.PROXY_SILENT,
    ),
    "disabled": ({"flags": "DX", "answer": answered()}, {}, Cause.DESTINATION_DISABLED),
    "inactive by hand": ({"flags": "IX", "answer": answered()}, {}, Cause.DESTINATION_DISABLED),
    "no OPTIONS leave": ({"flags": "AP", "answer": answered(ago=300), "sent_ago": 300}, {}, Cause.PINGS_STOPPED),
    "excluded from OPTIONS": ({"flags": "AN", "answer": None, "sent_ago": None}, {}, Cause.PINGS_STOPPED),
    "inactive in spite of its answers": ({"flags": "IN", "answer": answered()}, {}, Cause.NOT_ACTIVE),
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
        assert "66 s" in verdict.findings[0].next_step

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
        verdict = judge(CONFIG, evidence(kamailio=kamailio(theirs=None)))
        assert (primary(verdict), verdict.exit_code) == (Cause.THEIRS_MISSING, 1)
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
