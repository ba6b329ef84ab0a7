"""What Kamailio writes of the messages that it refuses, and what it never writes."""

from __future__ import annotations

import re

from tests.kamailio.running import FQDN, PROXIES, STRANGER, Sbc, Start, exchange, needs_kamailio, wait_for

pytestmark = needs_kamailio
SECRET = f'Authorization: Digest username="alice", realm="x", nonce="5ec2e7", uri="sip:x", response="{"5ec2e7aa" * 4}"'


def lines(sbc: Sbc, cause: str) -> list[str]:
    log = (sbc.directory / "log").read_text(errors="replace")
    return [line for line in log.splitlines() if re.search(rf"\bcause={cause}\b", line)]


def line(sbc: Sbc, cause: str) -> str:
    assert wait_for(lambda: bool(lines(sbc, cause))), f"no line with cause={cause}"
    return lines(sbc, cause)[0]


def call_id(answer: str) -> str:
    found = re.search(r"^Call-ID: (\S+)", answer, re.MULTILINE)
    assert found
    return found[1]


def test_a_refusal_is_found_by_its_cause_and_by_its_call_id(start: Start) -> None:
    sbc = start()
    assert wait_for(lambda: len(lines(sbc, "answer_changed")) == len(PROXIES))
    for cause, code, answer in (
        ("no_carrier", 503, sbc.ask("INVITE")),
        ("unknown_name", 404, sbc.ask("OPTIONS", "sip:other.example")),
        ("malformed", 420, sbc.ask("OPTIONS", f"sip:{FQDN}", PROXIES[0], "Proxy-Require: what")),
    ):
        assert answer.startswith(f"SIP/2.0 {code} ")
        written = line(sbc, cause)
        assert f" call_id={call_id(answer)} " in written
        assert f" source={PROXIES[0]} " in written
        assert f" code={code} " in written
    assert "200 OK" in sbc.ask()
    assert len(lines(sbc, r"\w+")) == 3 + len(PROXIES)


def test_an_answer_that_changes_is_written_with_its_proxy(start: Start) -> None:
    sbc = start()
    assert wait_for(lambda: len(lines(sbc, "answer_changed")) == len(PROXIES))
    sbc.proxies[1].status = "403 Forbidden"
    sbc.rpc("evrexec.run", "evrexec:ping")
    assert wait_for(lambda: len(lines(sbc, "answer_changed")) == len(PROXIES) + 1)
    assert f"proxy={PROXIES[1]} code=403 before=200" in lines(sbc, "answer_changed")[-1]


def test_a_flood_of_refusals_is_a_bounded_number_of_lines(start: Start) -> None:
    sbc = start()
    for source in PROXIES[:2]:
        with sbc.connect(source) as session:
            for _ in range(100):
                assert "404" in exchange(session, uri="sip:other.example", source=source)
    assert wait_for(lambda: len(lines(sbc, "unknown_name")) >= 2 * 21)
    assert len(lines(sbc, "unknown_name")) == 2 * 21
    assert sum("not written for the rest of the minute" in each for each in lines(sbc, "unknown_name")) == 2


def test_a_stranger_gets_no_answer_but_a_line(start: Start) -> None:
    sbc = start()
    with sbc.connect(STRANGER) as session:
        session.sendall(
            f"OPTIONS sip:{FQDN} SIP/2.0\r\nVia: SIP/2.0/TLS {STRANGER};branch=z9hG4bK1\r\nCall-ID: strange\r\n"
            "From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert f"source={STRANGER} " in line(sbc, "stranger")


def test_nothing_of_a_message_that_is_secret_is_written(start: Start) -> None:
    sbc = start()
    sbc.ask("INVITE", f"sip:+4989123456@{FQDN}", PROXIES[0], SECRET)
    sbc.ask("OPTIONS", "sip:+4989123456@other.example", PROXIES[0], SECRET)
    with sbc.connect() as session:
        session.sendall(
            f"OPTIONS {SECRET} what is this\r\n{SECRET}\r\nVia: nonsense\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert f"source={PROXIES[0]}" in line(sbc, "unreadable")
    line(sbc, "no_carrier")
    line(sbc, "unknown_name")
    log = (sbc.directory / "log").read_text(errors="replace")
    for secret in ("Digest", "5ec2e7", "4989123456", "alice"):
        assert secret not in log
