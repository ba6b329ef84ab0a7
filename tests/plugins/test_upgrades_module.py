"""Upgrades and the restarts after them, with apt-get and systemctl played by scripts and /proc by files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import Programs, load, run
from tests.plugins.support import Failed

Upgrades = Callable[..., dict[str, Any]]
SIMULATED = """Reading package lists...
Inst libssl3t64 [3.5.4-1~deb13u1] (3.5.4-1~deb13u2 Debian-Security:13/stable-security [amd64]) []
Inst linux-image-6.12.60+deb13-amd64 (6.12.60-1 Debian-Security:13/stable-security [amd64])
Inst kamailio [6.0.1-1+deb13u1] (6.0.1-1+deb13u2 Debian-Security:13/stable-security [amd64])
Conf libssl3t64 (3.5.4-1~deb13u2 Debian-Security:13/stable-security [amd64])
"""
OLD = "7f00-7f01 r-xp 00000000 fe:01 131 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)\n"
NEW = OLD.replace(" (deleted)", "") + "7f02-7f03 rw-s 00000000 00:01 5 /dev/zero (deleted)\n"


class Machine:
    """Its apt-get upgrades what waits; its processes are directories."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.proc, self.waiting = (
            Programs(directory, monkeypatch),
            directory / "proc",
            directory / "waiting",
        )
        self.proc.mkdir()
        self.waits("")
        self.programs.add("dpkg")
        self.programs.add(
            "systemctl",
            """
            case "$*" in
            "show "*" ssh.service") echo KillMode=process; echo MainPID=700 ;;
            "show "*) echo KillMode=control-group; echo MainPID=1 ;;
            esac
            """,
        )
        self.programs.add(
            "apt-get",
            f"""
            case "$*" in *" --simulate "*) cat {self.waiting} ;; *" upgrade "*) : >{self.waiting} ;; esac
            """,
        )

    def waits(self, simulated: str) -> None:
        self.waiting.write_text(simulated)

    def process(self, number: int, unit: str, maps: str) -> None:
        directory = self.proc / str(number)
        directory.mkdir()
        (directory / "maps").write_text(maps)
        (directory / "cgroup").write_text(f"0::/system.slice/{unit}\n")

    def runs(self) -> list[str]:
        """What was run that changes the machine, without options."""
        calls = [call.split() for call in self.programs.calls() if "--simulate" not in call and " show " not in call]
        return [" ".join(word for word in call if "::" not in word and not word.startswith("--")) for call in calls]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def plugin(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loaded = load("modules", "upgrades")
    monkeypatch.setattr(loaded, "PROC", machine.proc)
    monkeypatch.setattr(loaded, "REBOOT_REQUIRED", tmp_path / "reboot-required")
    return loaded


@pytest.fixture
def upgrades(plugin: ModuleType) -> Upgrades:
    return lambda check=False: run(plugin, check)


def test_nothing_waits_and_nothing_is_old(upgrades: Upgrades, machine: Machine) -> None:
    machine.process(612, "kamailio.service", NEW)
    assert not upgrades()["changed"]
    assert machine.runs() == ["dpkg", "apt-get update"]


def test_what_waits_is_installed_and_named(upgrades: Upgrades, machine: Machine) -> None:
    machine.waits(SIMULATED)
    result = upgrades()
    assert result["changed"]
    assert result["upgraded"] == [
        {"name": "kamailio", "old": "6.0.1-1+deb13u1", "new": "6.0.1-1+deb13u2"},
        {"name": "libssl3t64", "old": "3.5.4-1~deb13u1", "new": "3.5.4-1~deb13u2"},
        {"name": "linux-image-6.12.60+deb13-amd64", "old": "", "new": "6.12.60-1"},
    ]
    assert "kamailio 6.0.1-1+deb13u2\n" in result["diff"]["after"]
    assert machine.runs() == ["dpkg", "apt-get update", "apt-get upgrade"]
    assert not upgrades()["changed"]


def test_check_mode_changes_nothing(upgrades: Upgrades, machine: Machine) -> None:
    machine.waits(SIMULATED)
    machine.process(612, "kamailio.service", OLD)
    result = upgrades(check=True)
    assert result["changed"]
    assert len(result["upgraded"]) == 3
    assert result["restarted"] == ["kamailio.service"]
    assert machine.runs() == []


def test_what_runs_on_replaced_files_is_restarted(upgrades: Upgrades, machine: Machine) -> None:
    for number, (unit, maps) in enumerate(
        [
            ("kamailio.service", NEW),
            ("kamailio.service", OLD),
            ("sbc-probe.service", OLD),
            ("cron.service", NEW),
            ("user@0.service", OLD),
            ("session-3.scope", OLD),
            ("init.scope", OLD),
        ],
        start=1,
    ):
        machine.process(number, unit, maps)
    result = upgrades()
    assert result["restarted"] == ["kamailio.service", "sbc-probe.service"]
    assert result["reboot"] == []
    assert machine.runs()[2:] == [
        "systemctl daemon-reexec",
        "systemctl restart kamailio.service",
        "systemctl restart sbc-probe.service",
    ]


def test_a_session_that_outlives_a_restart_asks_for_none(upgrades: Upgrades, machine: Machine) -> None:
    machine.process(700, "ssh.service", NEW)
    machine.process(812, "ssh.service", OLD)
    assert not upgrades()["changed"]
    (machine.proc / "700/maps").write_text(OLD)
    assert upgrades()["restarted"] == ["ssh.service"]


def test_what_only_a_reboot_can_do_is_said(upgrades: Upgrades, machine: Machine, plugin: ModuleType) -> None:
    machine.process(1, "dbus.service", OLD)
    plugin.REBOOT_REQUIRED.touch()
    result = upgrades()
    assert not result["changed"]
    assert result["reboot"] == [
        "dbus.service runs on replaced files and cannot be restarted",
        "a reboot is asked for",
    ]
    assert machine.runs() == ["dpkg", "apt-get update"]


def test_who_asks_for_a_reboot_is_named(upgrades: Upgrades, plugin: ModuleType) -> None:
    packages = plugin.REBOOT_REQUIRED.with_name("reboot-required.pkgs")
    packages.write_text("linux-image-6.12.60+deb13-amd64\nlibc6\nlibc6\n")
    assert upgrades()["reboot"] == []
    plugin.REBOOT_REQUIRED.touch()
    assert upgrades()["reboot"] == ["a reboot is asked for by libc6, linux-image-6.12.60+deb13-amd64"]
    packages.write_text("")
    assert upgrades()["reboot"] == ["a reboot is asked for"]


def test_apt_fails(upgrades: Upgrades, machine: Machine) -> None:
    machine.programs.add(
        "apt-get", 'case "$*" in *--simulate*) ;; *) echo "E: No space left on device" >&2; exit 100 ;; esac'
    )
    with pytest.raises(Failed, match="apt-get update failed: its disk is full: df -h"):
        upgrades()
