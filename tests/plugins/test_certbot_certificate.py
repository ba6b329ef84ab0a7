"""When a certificate is asked for, when it is only installed, and what is said when there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import Programs, load, run
from tests.plugins.support import Failed

NAME = "sbc.example.com"
DIRECTORY = "https://acme.example/directory"
Certificate = Callable[..., dict[str, Any]]


class Machine:
    """Its certbot makes real keys and certificates and keeps them and their settings as certbot 4.0 does."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.programs, self.letsencrypt, self.installed = programs, directory / "letsencrypt", directory / "tls.pem"
        self.live = self.letsencrypt / "live" / NAME
        self.chain = self.live / "fullchain.pem"
        self.renewal = self.letsencrypt / "renewal" / f"{NAME}.conf"
        programs.add(
            "certbot",
            f"""
            while [ $# -gt 0 ]; do
                case $1 in
                --domain) names="$names${{names:+,}}DNS:$2"; shift ;;
                --server) server=$2; shift ;;
                --cert-name) name=$2; shift ;;
                --key-type) key_type=$2; shift ;;
                --preferred-challenges) kept="$kept
            pref_challs = $2,"; shift ;;
                --*=*) key=${{1%%=*}}; key=$(echo "${{key#--}}" | tr - _); kept="$kept
            $key = ${{1#*=}}" ;;
                esac
                shift
            done
            live="{self.letsencrypt}/live/$name"
            mkdir -p "$live" "{self.letsencrypt}/archive/$name" "{self.letsencrypt}/renewal"
            openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=$name" -addext "subjectAltName=$names" \\
                -keyout "$live/privkey.pem" -out "$live/cert.pem" 2>/dev/null
            echo "the chain" >"$live/chain.pem"
            cat "$live/cert.pem" "$live/chain.pem" >"$live/fullchain.pem"
            cat >"{self.letsencrypt}/renewal/$name.conf" <<END
            # renew_before_expiry = 30 days
            version = 4.0.0
            archive_dir = {self.letsencrypt}/archive/$name

            # Options used in the renewal process
            [renewalparams]
            account = 9fc7b584c57df756fc923d6f762bf6a4
            rsa_key_size = 2048
            key_type = $key_type$kept
            server = $server
            END
            """.replace("\n            ", "\n"),
        )
        self.hook = programs.add(
            "hook", f'cp "$RENEWED_LINEAGE/fullchain.pem" {self.installed}; rm -f {self.installed}.due'
        )
        self.gate = programs.add("gate")
        self.probe = programs.add("probe")

    def runs(self) -> list[str]:
        """What was run since the last look that changes the certificate."""
        return [name for name, *_ in map(str.split, self.programs.calls()) if name in ("certbot", "hook")]

    def settings(self) -> dict[str, str]:
        """What certbot keeps for the renewal."""
        text = self.renewal.read_text().partition("[renewalparams]\n")[2]
        return {key: value for key, _, value in (line.partition(" = ") for line in text.splitlines())}


@pytest.fixture
def plugin() -> ModuleType:
    return load("modules", "certbot_certificate")


@pytest.fixture
def machine(plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, Programs(tmp_path, monkeypatch))
    monkeypatch.setattr(plugin, "LETSENCRYPT", str(made.letsencrypt))
    monkeypatch.setattr(plugin, "PROBE", str(made.probe))
    monkeypatch.setattr(plugin, "PAUSE", 0.01)
    return made


@pytest.fixture
def certificate(plugin: ModuleType, machine: Machine) -> Certificate:
    usual = {
        "name": NAME,
        "names": [NAME],
        "directory": DIRECTORY,
        "email": "it@example.com",
        "challenge_hook": str(machine.gate),
        "deploy_hook": str(machine.hook),
        "installed": str(machine.installed),
        "state_dir": "/nonexistent",
        "password_file": "/nonexistent",
    }
    return lambda check=False, **other: run(plugin, check, **usual | other)


def test_from_nothing_to_an_installed_certificate_and_then_no_change(
    certificate: Certificate, machine: Machine
) -> None:
    first = certificate()
    assert (first["changed"], first["issued"], first["reasons"]) == (True, True, ["there is none"])
    assert machine.installed.read_text() == machine.chain.read_text()
    assert machine.runs() == ["certbot", "hook"]

    again = certificate(names=[NAME.upper()])
    assert (again["changed"], again["issued"], again["reasons"], again["diff"]) == (False, False, [], {})
    assert machine.runs() == []


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"directory": "https://other.example/directory"},
            f"its directory is {DIRECTORY}, not https://other.example/directory",
        ),
        (
            {"names": [NAME, "SBC2.example.com"]},
            f"its names is {NAME}, not {NAME}, sbc2.example.com",
        ),
    ],
)
def test_what_does_not_fit_is_issued_again(
    certificate: Certificate, machine: Machine, other: dict[str, Any], reason: str
) -> None:
    certificate()
    machine.runs()
    result = certificate(**other)
    assert (result["issued"], result["reasons"]) == (True, [reason])
    assert machine.installed.read_text() == machine.chain.read_text()
    assert machine.runs() == ["certbot", "hook"]
    assert not certificate(**other)["changed"]


def test_an_ecdsa_key_is_not_kept(certificate: Certificate, machine: Machine) -> None:
    certificate()
    machine.renewal.write_text(machine.renewal.read_text().replace("key_type = rsa", "key_type = ecdsa"))
    assert certificate()["reasons"] == ["its key type is ecdsa, not rsa"]
    assert "key_type = rsa" in machine.renewal.read_text()


def key_of_another(machine: Machine) -> None:
    subprocess.run(["openssl", "genrsa", "-out", machine.live / "privkey.pem", "2048"], check=True, capture_output=True)


def emptied(machine: Machine) -> None:
    machine.chain.write_bytes(b"")


def unreadable(machine: Machine) -> None:
    (machine.live / "cert.pem").write_text("no certificate\n")
    machine.chain.write_text("no certificate\nthe chain\n")


def unset(machine: Machine) -> None:
    machine.renewal.write_bytes(b"")


@pytest.mark.parametrize(
    "harm",
    [
        *(lambda machine, name=name: (machine.live / name).unlink() for name in ("fullchain.pem", "privkey.pem")),
        lambda machine: machine.renewal.unlink(),
        key_of_another,
        emptied,
        unreadable,
        unset,
    ],
)
def test_half_a_lineage_is_none_and_is_not_in_the_way(
    certificate: Certificate, machine: Machine, harm: Callable[[Machine], None]
) -> None:
    certificate()
    harm(machine)
    left = sorted(path.name for path in machine.live.iterdir())
    looked = certificate(ask=False)
    assert (looked["present"], looked["reasons"]) == (False, ["there is none"])
    machine.programs.add(
        "certbot", f'test -e {machine.live} -o -e {machine.renewal} && echo "directory exists"; exit 1'
    )
    with pytest.raises(Failed) as failure:
        certificate()
    assert failure.value.args[0]["said"] == []
    assert sorted(path.name for path in (machine.letsencrypt / "broken" / NAME / "live").iterdir()) == left


def replaced(machine: Machine) -> None:
    machine.installed.write_text("another certificate")


def removed(machine: Machine) -> None:
    machine.installed.unlink()


def cut_off(machine: Machine) -> None:
    Path(f"{machine.installed}.due").touch()


@pytest.mark.parametrize("harm", [replaced, removed, cut_off])
def test_what_is_not_in_force_is_installed_but_not_issued(
    certificate: Certificate, machine: Machine, harm: Callable[[Machine], None]
) -> None:
    certificate()
    machine.runs()
    harm(machine)
    result = certificate()
    assert (result["changed"], result["issued"]) == (True, False)
    assert machine.runs() == ["hook"]
    assert machine.installed.read_text() == machine.chain.read_text()
    assert not certificate()["changed"]


def test_the_hook_learns_what_certbot_would_tell_it(certificate: Certificate, machine: Machine) -> None:
    told = machine.installed.with_name("told")
    machine.programs.add(
        "hook", f'echo "$RENEWED_LINEAGE $RENEWED_DOMAINS" >{told}; cp "{machine.chain}" "{machine.installed}"'
    )
    certificate(names=["b.example.com", "a.example.com"])
    assert told.read_text() == f"{machine.chain.parent} a.example.com b.example.com\n"


def test_a_hook_that_fails(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add("hook", "echo kamcmd tls.reload: error >&2; exit 1")
    with pytest.raises(Failed, match=r"hook failed: kamcmd tls\.reload: error"):
        certificate()
    machine.runs()
    with pytest.raises(Failed, match="hook failed"):
        certificate()
    assert machine.runs() == ["hook"], "the certificate is there: it must not be asked for again"


def test_check_mode_asks_for_nothing(certificate: Certificate, machine: Machine) -> None:
    result = certificate(check=True)
    assert (result["changed"], result["issued"]) == (True, True)
    assert result["diff"]["before"] == {}
    assert {key: result["diff"]["after"][key] for key in ("names", "directory", "key_type")} == {
        "names": [NAME],
        "directory": DIRECTORY,
        "key_type": "rsa",
    }
    assert machine.runs() == []

    certificate()
    machine.installed.unlink()
    machine.runs()
    result = certificate(check=True)
    assert (result["changed"], result["issued"]) == (True, False)
    assert machine.runs() == []
    assert not machine.installed.exists()


def test_who_may_not_ask_learns_why(certificate: Certificate, machine: Machine) -> None:
    result = certificate(ask=False)
    assert (result["present"], result["issued"], result["reasons"]) == (False, True, ["there is none"])
    assert machine.runs() == []
    certificate()
    machine.installed.unlink()
    machine.runs()
    result = certificate(ask=False, directory="https://other.example/directory")
    assert (result["present"], len(result["reasons"])) == (True, 1)
    assert machine.runs() == []
    assert certificate(ask=False)["changed"]
    assert machine.runs() == ["hook"]


def test_certbot_gets_none(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add(
        "certbot", "echo 'Detail: Fetching http://sbc.example.com/: Timeout during connect'; echo; exit 1"
    )
    machine.programs.add("probe", "echo 'challenge_failed: port 80 is closed. Look at the firewalls.'; exit 1")
    with pytest.raises(Failed) as failure:
        certificate()
    result = failure.value.args[0]
    assert result["msg"] == (
        f"certbot got no certificate for {NAME}: challenge_failed: port 80 is closed. Look at the firewalls."
    )
    assert (len(result["said"]), result["asked"]) == (1, True)
    assert machine.programs.calls()[-1] == "probe renewal"


def test_certbot_gets_none_and_nobody_knows_why(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add("certbot", "exit 1")
    with pytest.raises(Failed, match=r"certbot's own account is in /var/log/letsencrypt/letsencrypt\.log"):
        certificate()


def test_nothing_is_asked_for_that_could_not_be_stored(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add("gate", "echo 'there is no room for one in /etc/letsencrypt' >&2; exit 1")
    with pytest.raises(Failed) as failure:
        certificate()
    assert failure.value.args[0]["msg"] == (f"no certificate for {NAME}: there is no room for one in /etc/letsencrypt")
    assert not failure.value.args[0]["asked"]
    assert machine.programs.calls() == ["gate room"]


WILDCARD: dict[str, Any] = {"names": [NAME, f"*.{NAME}"], "challenge": "dns", "address": "203.0.113.10"}


def test_a_wildcard_is_proven_over_dns_and_so_renewed(certificate: Certificate, machine: Machine) -> None:
    certificate()
    assert machine.settings()["authenticator"] == "standalone"
    machine.programs.calls()
    result = certificate(**WILDCARD)
    assert result["reasons"] == [f"its names is {NAME}, not *.{NAME}, {NAME}"]
    calls = machine.programs.calls()
    assert calls[:4] == ["gate room", "gate open dns", f"probe delegation {NAME}", "gate close dns"]
    kept = machine.settings()
    assert {key: kept[key] for key in kept if key not in ("account", "server", "rsa_key_size", "key_type")} == {
        "authenticator": "dns-standalone",
        "pref_challs": "dns-01,",
        "pre_hook": f"{machine.gate} open dns",
        "post_hook": f"{machine.gate} close dns",
        "dns_standalone_address": "203.0.113.10",
        "dns_standalone_ipv6_address": "::ffff:203.0.113.10",
    }
    assert not certificate(**WILDCARD)["changed"]
    assert certificate()["issued"], "and back"


def test_the_delegation_is_waited_for(certificate: Certificate, machine: Machine, tmp_path: Path) -> None:
    looks = tmp_path / "looks"
    machine.programs.add("probe", f"echo >>{looks}; test $(wc -l <{looks}) -ge 3 || {{ echo 'NXDOMAIN'; exit 1; }}")
    certificate(**WILDCARD)
    calls = machine.programs.calls()
    assert calls.count("gate open dns") == calls.count("gate close dns") == 3


def test_without_a_delegation_nothing_is_asked_for(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add("probe", "echo 'the resolver says NXDOMAIN'; exit 1")
    with pytest.raises(Failed) as failure:
        certificate(**WILDCARD, delegation_wait=0)
    message = failure.value.args[0]["msg"]
    assert f"questions for _acme-challenge.{NAME} do not reach this machine: the resolver says NXDOMAIN" in message
    calls = machine.programs.calls()
    assert calls[-1] == "gate close dns"
    assert not [call for call in calls if call.startswith("certbot")]


def test_how_it_is_renewed_is_mended_without_asking(certificate: Certificate, machine: Machine) -> None:
    certificate(**WILDCARD, profile="classic")
    machine.renewal.write_text(machine.renewal.read_text() + "autorenew = False\n[[webroot_map]]\na = b\n")
    machine.renewal.chmod(0o640)
    machine.runs()
    moved = WILDCARD | {"address": "203.0.113.11", "profile": "tlsserver"}
    foretold = certificate(check=True, **moved)
    result = certificate(**moved)
    assert foretold["diff"] == result["diff"]
    assert (result["changed"], result["issued"]) == (True, False)
    assert result["settings"] == [
        "dns_standalone_address is 203.0.113.10, not 203.0.113.11",
        "dns_standalone_ipv6_address is ::ffff:203.0.113.10, not ::ffff:203.0.113.11",
        "preferred_profile is classic, not tlsserver",
        "autorenew is False",
    ]
    assert machine.runs() == []
    text = machine.renewal.read_text()
    assert "dns_standalone_address = 203.0.113.11\n" in text
    assert text.startswith("# renew_before_expiry = 30 days\nversion = 4.0.0\n")
    assert text.endswith("\n[[webroot_map]]\na = b\n")
    assert machine.renewal.stat().st_mode & 0o777 == 0o640
    assert not certificate(**moved)["changed"]
    assert certificate(**moved | {"profile": ""})["settings"] == ["preferred_profile is tlsserver"]
    assert "preferred_profile" not in machine.settings()


def test_another_certificate_is_no_longer_renewed(certificate: Certificate, machine: Machine) -> None:
    certificate(name="old.example.com", names=["old.example.com"])
    foretold = certificate(check=True)
    result = certificate()
    assert foretold["stopped"] == result["stopped"] == ["old.example.com"]
    old = machine.renewal.with_name("old.example.com.conf").read_text()
    assert "\nautorenew = False\n" in old
    assert "autorenew" not in machine.settings()
    assert not certificate()["changed"]


def test_a_rehearsal_does_not_replace_what_is_trusted(certificate: Certificate, machine: Machine) -> None:
    staging, production = "https://acme-staging.example/directory", DIRECTORY
    certificate(directory=staging)
    assert certificate(directory=production)["issued"]
    machine.runs()
    with pytest.raises(Failed, match="would take the trunk down"):
        certificate(directory=staging)
    assert machine.runs() == []
    assert not certificate(directory=production)["changed"]


def test_the_command(plugin: ModuleType) -> None:
    given = {
        "names": ["b.example.com", "a.example.com"],
        "directory": DIRECTORY,
        "profile": "classic",
        "challenge": "http",
        "challenge_hook": "/sbin/gate",
    }
    command = plugin.command(NAME, plugin.wanted_lineage(given), "it@example.com")
    options = dict(pairwise(command))
    assert command[:2] == ["certbot", "certonly"]
    assert (options["--server"], options["--email"], options["--cert-name"]) == (DIRECTORY, "it@example.com", NAME)
    assert (options["--key-type"], options["--rsa-key-size"]) == ("rsa", "2048")
    assert [word for before, word in pairwise(command) if before == "--domain"] == [
        "a.example.com",
        "b.example.com",
    ]
    assert {
        "--authenticator=standalone",
        "--pre-hook=/sbin/gate open http",
        "--preferred-profile=classic",
        "--non-interactive",
        "--agree-tos",
        "--renew-with-new-domains",
    } <= set(command)
