"""The entries that the service writes, as a journal takes them: a datagram each, read by the rules of the protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import CLOSED, CONFIG, answered, evidence, kamailio

from sbc_probe.journal import Changes, send
from sbc_probe.model import Evidence, Unread
from sbc_probe.verdict import judge


class Journal:
    """A socket at the journal's place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def entries(self) -> list[dict[str, str]]:
        """What has come since the last look."""
        found = []
        while True:
            try:
                found.append(self.parsed(self.socket.recv(1 << 16)))
            except BlockingIOError:
                return found

    @staticmethod
    def parsed(datagram: bytes) -> dict[str, str]:
        fields = {}
        while datagram:
            line, _, datagram = datagram.partition(b"\n")
            name, assigned, value = line.partition(b"=")
            if not assigned:
                size = int.from_bytes(datagram[:8], "little")
                value, end, datagram = datagram[8 : 8 + size], datagram[8 + size : 9 + size], datagram[9 + size :]
                assert end == b"\n"
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.socket.close()


def note(changes: Changes, *looks: Evidence) -> None:
    for found in looks:
        changes.note(judge(CONFIG, found))


def test_a_change_is_one_entry_and_a_verdict_that_stays_is_none(journal: Journal) -> None:
    good, down = evidence(), evidence(kamailio=Unread("connection refused"), port=CLOSED)
    changes = Changes(CONFIG.fqdn, journal.path)
    note(changes, good, good, down, down, good)
    first, second, third = journal.entries()
    assert first["SBC_STATE"] == "proven"
    assert first["MESSAGE"] == "state=proven before=none"
    assert second["SBC_STATE"] == "failed"
    assert second["SBC_CAUSE"] == "kamailio_down"
    assert second["SBC_FQDN"] == CONFIG.fqdn
    assert second["MESSAGE"].startswith("state=failed before=proven cause=kamailio_down ")
    assert second["SBC_EVIDENCE"] in second["MESSAGE"]
    assert second["SBC_NEXT_STEP"]
    assert int(second["PRIORITY"]) < int(first["PRIORITY"])
    assert third["MESSAGE"] == "state=proven before=failed"


def test_another_proxy_with_the_same_cause_is_a_change(journal: Journal) -> None:
    changes = Changes(CONFIG.fqdn, journal.path)
    disabled = {"flags": "IX", "answer": answered()}
    note(changes, *(evidence(kamailio=kamailio(**{name: disabled})) for name in ("sip", "sip2")))
    assert [entry["SBC_CAUSE"] for entry in journal.entries()] == ["destination_disabled"] * 2


def test_a_line_feed_forges_no_field(journal: Journal) -> None:
    send({"MESSAGE": "one\nSBC_STATE=proven", "SBC_STATE": "failed"}, journal.path)
    assert journal.entries() == [{"MESSAGE": "one\nSBC_STATE=proven", "SBC_STATE": "failed"}]


@pytest.mark.parametrize("stream", ["8:1", None])
def test_without_a_journal_it_is_said_all_the_same(
    stream: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if stream is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    send({"MESSAGE": "state=proven"}, tmp_path / "nobody")
    assert capsys.readouterr().err == "state=proven\n"
