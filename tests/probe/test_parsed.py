"""Certificates are parsed by a child: its answers, what is remembered of them, and what comes of one that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from miniature import FQDN, Authority

from sbc_probe import parsed
from sbc_probe.model import Certificate, Unread


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_remembered", {})


def test_the_same_is_parsed_once_and_a_key_is_not_kept(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ders, key = parsed.ders_from_file(str(certificate)), str(certificate.with_suffix(".key"))
    first, fingerprint = parsed.from_ders(ders), parsed.key_from_file(key)
    (one,) = first
    assert isinstance(one, Certificate)
    assert one.names == (FQDN,)
    assert one.key_fingerprint == fingerprint
    assert "PRIVATE" not in repr(parsed._remembered)
    monkeypatch.setattr(parsed, "CHILD", "raise SystemExit('a child was started')")
    assert parsed.from_ders(ders) == first
    assert parsed.key_from_file(key) == fingerprint


def test_a_child_that_fails_is_said_and_asked_again(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(parsed, "CHILD", "raise SystemExit('no memory')")
        assert parsed.from_file(str(certificate)) == Unread(f"{certificate}: certificates are not parsed: no memory")
        with pytest.raises(parsed.NotParsed):
            parsed.from_kamailio([certificate.read_text()])
        broken.setattr(parsed, "CHILD", "print('[')")
        assert isinstance(parsed.key_from_file(str(certificate.with_suffix(".key"))), Unread)
    assert isinstance(parsed.from_file(str(certificate)), Certificate)


def test_each_of_several_keeps_its_place(authority: Authority) -> None:
    pems = [authority.issue(f"place{number}", f"p{number}.example.net").read_text() for number in range(3)]
    junk = pems[0].replace(pems[0].splitlines()[1], "A" * 64)
    first, bad, none, last = parsed.from_kamailio([pems[2], junk, "-----BEGIN%20", pems[0]])
    assert isinstance(first, Certificate)
    assert isinstance(last, Certificate)
    assert (first.names, last.names) == (("p2.example.net",), ("p0.example.net",))
    assert (isinstance(bad, Unread), isinstance(none, Unread)) == (True, True)


def test_what_is_remembered_is_bounded(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "LIMIT", 2)
    (der,) = parsed.ders_from_file(str(certificate))
    answers = parsed.from_ders([der, *(der[:number] for number in range(1, 4))])
    assert [isinstance(one, Certificate) for one in answers] == [True, False, False, False]
    parsed.from_ders([der[:9]])
    assert len(parsed._remembered) == 1


def test_reading_and_serving_leave_the_library_to_the_child() -> None:
    code = "import sys, sbc_probe.evidence, sbc_probe.service; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": parsed.HOME})
