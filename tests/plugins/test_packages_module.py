"""Packages in one transaction, with apt and dpkg played by scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import Programs, load, run
from tests.plugins.support import Failed

Packages = Callable[..., dict[str, Any]]
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
LISTS_LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 612 (apt-get)"


class Machine:
    """Its dpkg database is a file of lines `package status`; apt-get installs what it is told to."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.programs, self.database = programs, directory / "status"
        self.database.touch()
        programs.add(
            "dpkg-query",
            f"""
            for name; do
                case $name in -*) continue ;; esac
                grep "^$name " {self.database} || echo "dpkg-query: no packages found matching $name" >&2
            done
            """,
        )
        programs.add("dpkg")
        self.apt()

    def apt(self, before: str = "") -> None:
        programs = f"""
        test "$DEBIAN_FRONTEND" = noninteractive || exit 99
        {before}
        case "$*" in *" install "*)
            while [ "$1" != --no-install-recommends ]; do shift; done; shift
            for name; do echo "$name installed" >>{self.database}; done ;;
        esac
        """
        self.programs.add("apt-get", programs)

    def has(self, **status: str) -> None:
        self.database.write_text("".join(f"{name} {status}\n" for name, status in status.items()))

    def runs(self) -> list[str]:
        """What was run that changes the machine: program, verb and packages, without options."""
        calls = [call.split() for call in self.programs.calls()]
        options = ("DPkg::", "Dpkg::", "--option", "--quiet", "--yes", "--force-", "--no-install-recommends")
        return [
            " ".join(word for word in call if not word.startswith(options)) for call in calls if call[0] != "dpkg-query"
        ]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
    return Machine(tmp_path, Programs(tmp_path, monkeypatch))


@pytest.fixture
def plugin(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loaded = load("modules", "packages")
    system = tmp_path / "os-release"
    system.write_text(DEBIAN)
    monkeypatch.setattr(loaded, "OS_RELEASE", system)
    return loaded


@pytest.fixture
def packages(plugin: ModuleType) -> Packages:
    return lambda *names, check=False: run(plugin, check, names=list(names), release="13")


def test_nothing_is_missing(packages: Packages, machine: Machine) -> None:
    machine.has(certbot="installed", nftables="installed")
    result = packages("certbot", "nftables")
    assert (result["changed"], result["missing"]) == (False, [])
    assert machine.runs() == []


def test_all_that_is_missing_comes_at_once(packages: Packages, machine: Machine) -> None:
    machine.has(certbot="installed", nftables="config-files", kamailio="half-configured")
    result = packages("nftables", "certbot", "kamailio", "ssl-cert")
    assert result["changed"]
    assert result["missing"] == ["kamailio", "nftables", "ssl-cert"]
    assert result["diff"]["after"] == "kamailio\nnftables\nssl-cert\n"
    assert machine.runs() == [
        "dpkg --configure --pending",
        "apt-get update",
        "apt-get install kamailio nftables ssl-cert",
    ]
    assert not packages("nftables", "certbot", "kamailio", "ssl-cert")["changed"]


def test_check_mode_installs_nothing(packages: Packages, machine: Machine) -> None:
    result = packages("certbot", check=True)
    assert (result["changed"], result["missing"]) == (True, ["certbot"])
    assert machine.runs() == []


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("W: Failed to fetch http://mirror.example/ Temporary failure resolving 'mirror.example'", "resolvectl status"),
        ("E: Failed to fetch http://mirror.example/ Could not resolve 'mirror.example'", "resolvectl status"),
        ("E: Could not connect to 198.51.100.2:3128 (198.51.100.2). - connect (111: Refused)", "see base_apt_proxy"),
        ("E: You don't have enough free space: No space left on device", "df -h"),
        ("E: Unable to locate package nftables", "see what it said"),
    ],
)
@pytest.mark.parametrize("verb", ["update", "install"])
def test_apt_fails(packages: Packages, machine: Machine, verb: str, said: str, advice: str) -> None:
    machine.apt(f'case "$*" in *" {verb}"*) echo Reading package lists...; echo "{said}" >&2; exit 100 ;; esac')
    with pytest.raises(Failed) as failure:
        packages("nftables")
    result = failure.value.args[0]
    assert result["msg"].startswith(f"apt-get {verb} failed: ")
    assert advice in result["msg"]
    assert result["said"] == [said]
    assert machine.runs()[-1].startswith(f"apt-get {verb}")


def test_a_lock_on_the_lists_is_waited_for(
    packages: Packages, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    machine.apt(f'if [ -e {lock} ]; then echo "{LISTS_LOCKED}" >&2; exit 100; fi')
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            lock.unlink()

    monkeypatch.setattr("time.sleep", sleep)
    assert packages("nftables")["changed"]
    assert len(slept) == 2
    assert machine.runs()[1:] == ["apt-get update"] * 3 + ["apt-get install nftables"]


def test_a_lock_that_stays(packages: Packages, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.apt(f'echo "{LISTS_LOCKED}" >&2; exit 100')
    monkeypatch.setattr("ansible.module_utils.apt.LOCK_SECONDS", 0)
    with pytest.raises(Failed, match="apt-get update failed: another package run holds the lock"):
        packages("nftables")


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (UBUNTU, "Ubuntu 24.04.3 LTS"),
        (DEBIAN.replace("13", "12"), "Debian GNU/Linux 12"),
        ("", "of an unknown kind"),
    ],
)
def test_another_system(packages: Packages, plugin: ModuleType, machine: Machine, system: str, found: str) -> None:
    plugin.OS_RELEASE.write_text(system)
    with pytest.raises(Failed, match=rf"this machine is {found}.*, and Debian 13 is needed: see droplet_image"):
        packages("nftables")
    assert machine.programs.calls() == []
