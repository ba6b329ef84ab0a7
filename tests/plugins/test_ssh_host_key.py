"""The host key exists, and is known, before its host."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.support import ROOT, Failed, run_module


def fingerprint_of(file: str) -> str:
    return subprocess.run(["ssh-keygen", "-l", "-f", file], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]


def known_key(host: str, file: str) -> str:
    """What ssh would find for the host."""
    command = ["ssh-keygen", "-F", host, "-f", file]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return " ".join(line for line in lines if not line.startswith("#"))


def test_a_key_is_made_once_and_known(tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = run_module("ssh_host_key", host="contoso", state_dir=str(state))
    again = run_module("ssh_host_key", host="contoso", state_dir=str(state))
    assert (made["changed"], again["changed"]) == (True, False)
    assert made["public_key"] == again["public_key"]
    assert known_key("contoso", made["known_hosts"]) == f"contoso {made['public_key']}"
    assert fingerprint_of(made["private_key_file"]) == fingerprint_of(made["private_key_file"] + ".pub")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, Path(made["private_key_file"]))}
    assert modes == {"state": 0o700, "ssh_host_ed25519_key": 0o600}
    assert Path(made["private_key_file"]).read_text() not in str(made)


def test_check_mode_makes_nothing(tmp_path: Path) -> None:
    result = run_module("ssh_host_key", check=True, host="contoso", state_dir=str(tmp_path / "state"))
    assert result["changed"]
    assert result["public_key"] is None
    assert not (tmp_path / "state").exists()


def test_what_is_lost_is_made_again_from_the_private_key(tmp_path: Path) -> None:
    made = run_module("ssh_host_key", host="contoso", state_dir=str(tmp_path))
    Path(made["private_key_file"] + ".pub").unlink()
    Path(made["known_hosts"]).write_text("fabrikam ssh-ed25519 AAAA\ncontoso ssh-ed25519 BBBB\n")
    again = run_module("ssh_host_key", host="contoso", state_dir=str(tmp_path))
    assert again["changed"]
    assert again["public_key"] == made["public_key"]
    assert Path(made["known_hosts"]).read_text().splitlines() == [
        "fabrikam ssh-ed25519 AAAA",
        f"contoso {made['public_key']}",
    ]


def test_what_a_droplet_has_is_not_forgotten_while_another_is_built(tmp_path: Path) -> None:
    """The private half is with a colleague, who made the droplet that is in use."""
    (tmp_path / "known_hosts").write_text("contoso ssh-ed25519 BBBB\n")
    in_use: dict[str, Any] = {"host": "contoso", "state_dir": str(tmp_path), "replace": False}
    assert run_module("ssh_host_key", **in_use)["public_key"] == "ssh-ed25519 BBBB"
    foretold = run_module("ssh_host_key", check=True, **in_use, beside=True)
    made = run_module("ssh_host_key", **in_use, beside=True)
    assert foretold["changed"]
    both = ["contoso ssh-ed25519 BBBB", f"contoso {made['public_key']}"]
    assert Path(made["known_hosts"]).read_text().splitlines() == both
    for again in ({"beside": True}, {}):
        assert not run_module("ssh_host_key", **in_use, **again)["changed"]
    # Whoever looks for the key of the droplet that is in use does not find the other one's.
    assert not Path(run_module("ssh_host_key", **in_use)["private_key_file"]).exists()
    other: dict[str, Any] = {"host": "contoso", "state_dir": str(tmp_path), "state": "promoted"}
    foretold = run_module("ssh_host_key", check=True, **other)
    promoted = run_module("ssh_host_key", **other)
    assert foretold["diff"] == promoted["diff"]
    assert promoted["public_key"] == made["public_key"]
    assert fingerprint_of(promoted["private_key_file"]) == fingerprint_of(promoted["private_key_file"] + ".pub")
    assert Path(made["known_hosts"]).read_text().splitlines() == both[1:]
    for state in ({"state": "promoted"}, {"beside": True}, {}):
        again = run_module("ssh_host_key", **in_use | state)
        assert (again["changed"], again["public_key"]) == (False, made["public_key"])


@pytest.mark.parametrize("left", ["private", "both"])
def test_a_promotion_that_was_killed_is_gone_on_with(tmp_path: Path, left: str) -> None:
    in_use: dict[str, Any] = {"host": "contoso", "state_dir": str(tmp_path)}
    (tmp_path / "known_hosts").write_text("contoso ssh-ed25519 BBBB\n")
    made = run_module("ssh_host_key", **in_use, beside=True)
    (tmp_path / "known_hosts").write_text(f"contoso {made['public_key']}\n")
    own = tmp_path / "contoso/ssh_host_ed25519_key"
    if left == "private":
        Path(made["private_key_file"] + ".pub").rename(f"{own}.pub")
    promoted = run_module("ssh_host_key", **in_use, state="promoted")
    assert promoted["changed"]
    assert promoted["public_key"] == made["public_key"]
    assert fingerprint_of(str(own)) == fingerprint_of(f"{own}.pub")
    assert not run_module("ssh_host_key", **in_use)["changed"]


def test_absent(tmp_path: Path) -> None:
    run_module("ssh_host_key", host="contoso", state_dir=str(tmp_path), beside=True)
    for host in ("contoso", "fabrikam"):
        run_module("ssh_host_key", host=host, state_dir=str(tmp_path))
    gone = run_module("ssh_host_key", host="contoso", state_dir=str(tmp_path), state="absent")
    assert gone["changed"]
    assert not [each for each in (tmp_path / "contoso").rglob("*") if each.is_file()]
    assert [line.split()[0] for line in Path(gone["known_hosts"]).read_text().splitlines()] == ["fabrikam"]
    assert not run_module("ssh_host_key", host="contoso", state_dir=str(tmp_path), state="absent")["changed"]


def test_many_at_once_lose_no_line(tmp_path: Path) -> None:
    script = (
        "import sys; from tests.plugins.support import run_module; "
        "run_module('ssh_host_key', host=sys.argv[1], state_dir=sys.argv[2])"
    )
    hosts = [f"customer{number}" for number in range(8)]
    commands = [[sys.executable, "-c", script, host, str(tmp_path)] for host in hosts]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait() for process in processes] == [0] * len(hosts)
    assert sorted(line.split()[0] for line in (tmp_path / "known_hosts").read_text().splitlines()) == hosts


def test_a_host_that_would_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be the name"):
        run_module("ssh_host_key", host="../contoso", state_dir=str(tmp_path))
