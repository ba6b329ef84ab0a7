"""What the probe reads of the machine around Kamailio: listening sockets, and the files that Kamailio has read."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from sbc_probe import loaded, sockets
from sbc_probe.model import Loaded, Unread


def test_who_listens_on_a_port_is_seen_and_who_only_talks_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        assert sockets.listening(port) == ("127.0.0.1",)
        with socket.create_server(("127.7.9.1", port)), socket.create_connection(("127.0.0.1", port)) as client:
            assert sockets.listening(port) == ("127.0.0.1", "127.7.9.1")
            assert sockets.listening(client.getsockname()[1]) == ()
            ends = {(one.ours, one.theirs) for one in sockets.sockets() if one.state == sockets.ESTABLISHED}
            assert (client.getsockname(), client.getpeername()) in ends
    assert sockets.listening(port) == ()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 in this Python")
def test_ipv6_is_seen_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "tcp6"
    ends = {
        "00000000000000000000000000000000": "::",
        "00000000000000000000000001000000": "::1",
        "0000000000000000FFFF0000010200C6": "198.0.2.1",
    }
    rows = [f"   0: {ours}:13C5 00000000000000000000000000000000:0000 0A 0 0" for ours in ends]
    table.write_text("\n".join(["  sl  local_address ...", *rows]) + "\n")
    monkeypatch.setattr(sockets, "TABLES", (sockets.TABLES[0], table, tmp_path / "none"))
    found = sockets.listening(5061)
    assert isinstance(found, tuple)
    assert set(ends.values()) <= set(found)


def test_a_kernel_that_shows_no_sockets_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sockets, "TABLES", (tmp_path / "tcp",))
    assert sockets.listening(5061) == Unread(f"{tmp_path}/tcp: No such file or directory")


class TestLoaded:
    """The record as Kamailio's unit writes it, with sha256sum."""

    @pytest.fixture
    def live(self, tmp_path: Path) -> Path:
        live = tmp_path / "live"
        live.mkdir()
        for name in ("kamailio.cfg", "tls.cfg"):
            (live / name).write_text(f"this is {name}\n")
        return live

    def note(self, record: Path, *files: Path) -> None:
        with record.open("a") as log:
            subprocess.run(["sha256sum", *files], stdout=log, check=True)

    def test_an_edit_shows_until_the_file_is_read_again(self, live: Path, tmp_path: Path) -> None:
        record = tmp_path / "loaded"
        self.note(record, *sorted(live.iterdir()))
        os.utime(record, (0, 1_800_000_000))
        found = loaded.read(str(record))
        assert isinstance(found, Loaded)
        assert found.at == 1_800_000_000
        assert found.read == found.on_disk
        assert set(found.read) == {"kamailio.cfg", "tls.cfg"}
        (live / "tls.cfg").write_text("edited\n")
        found = loaded.read(str(record))
        assert isinstance(found, Loaded)
        assert [name for name in found.read if found.read[name] != found.on_disk[name]] == ["tls.cfg"]
        self.note(record, live / "tls.cfg")
        found = loaded.read(str(record))
        assert isinstance(found, Loaded)
        assert found.read == found.on_disk

    def test_a_file_that_has_gone_is_missing(self, live: Path, tmp_path: Path) -> None:
        self.note(tmp_path / "loaded", *sorted(live.iterdir()))
        (live / "tls.cfg").unlink()
        found = loaded.read(str(tmp_path / "loaded"))
        assert isinstance(found, Loaded)
        assert (set(found.read), set(found.on_disk)) == ({"kamailio.cfg", "tls.cfg"}, {"kamailio.cfg"})

    def test_what_cannot_be_read_is_said(self, live: Path, tmp_path: Path) -> None:
        record = tmp_path / "loaded"
        assert loaded.read(str(record)) == Unread(f"{record}: No such file or directory")
        record.write_bytes(b"\xff\0 junk\n")
        assert loaded.read(str(record)) == Unread(f"{record} holds no file's SHA-256")
        self.note(record, live / "tls.cfg")
        (live / "tls.cfg").unlink()
        (live / "tls.cfg").mkdir()
        assert loaded.read(str(record)) == Unread(f"{live}/tls.cfg: Is a directory")
