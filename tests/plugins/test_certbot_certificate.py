"""When a certificate is asked for, when it is only installed, and what is said when there is none."""

from __future__ import annotations

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
    """Its certificates are files with their names and a serial number; only its certbot makes them."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.programs, self.letsencrypt, self.installed = programs, directory / "letsencrypt", directory / "tls.pem"
        self.chain = self.letsencrypt / "live" / NAME / "fullchain.pem"
        self.renewal = self.letsencrypt / "renewal" / f"{NAME}.conf"
        issued = directory / "issued"
        issued.touch()
        programs.add(
            "certbot",
            f"""
            while [ $# -gt 0 ]; do
                case $1 in
                --domain) names="$names${{names:+, }}DNS:$2"; shift ;;
                --server) server=$2; shift ;;
                --cert-name) name=$2; shift ;;
                --key-type) key_type=$2; shift ;;
                esac
                shift
            done
            echo >>{issued}
            mkdir -p "{self.letsencrypt}/live/$name" "{self.letsencrypt}/renewal"
            {{ echo "$names"; wc -l <{issued}; }} >"{self.letsencrypt}/live/$name/fullchain.pem"
            cat >"{self.letsencrypt}/renewal/$name.conf" <<END
            # renew_before_expiry = 30 days
            version = 4.0.0
            archive_dir = {self.letsencrypt}/archive/$name
            [renewalparams]
            server = $server
            key_type = $key_type
            END
            """.replace("\n            ", "\n"),
        )
        programs.add("openssl", 'echo "X509v3 Subject Alternative Name:"; sed -n "1s/^/    /p" "$3"')
        self.hook = programs.add(
            "hook", f'cp "$RENEWED_LINEAGE/fullchain.pem" {self.installed}; rm -f {self.installed}.due'
        )

    def runs(self) -> list[str]:
        """What was run that changes the machine."""
        return [name for name, *_ in map(str.split, self.programs.calls()) if name != "openssl"]


@pytest.fixture
def plugin() -> ModuleType:
    return load("modules", "certbot_certificate")


@pytest.fixture
def machine(plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, Programs(tmp_path, monkeypatch))
    monkeypatch.setattr(plugin, "LETSENCRYPT", str(made.letsencrypt))
    return made


@pytest.fixture
def certificate(plugin: ModuleType, machine: Machine) -> Certificate:
    usual = {
        "name": NAME,
        "names": [NAME],
        "directory": DIRECTORY,
        "email": "it@example.com",
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
            {"directory": "https://staging.example/directory"},
            f"its directory is {DIRECTORY}, not https://staging.example/directory",
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


@pytest.mark.parametrize("lost", ["chain", "renewal"])
def test_half_a_lineage_is_none(certificate: Certificate, machine: Machine, lost: str) -> None:
    certificate()
    getattr(machine, lost).unlink()
    assert certificate()["reasons"] == ["there is none"]


def test_a_certificate_that_cannot_be_read_is_none(certificate: Certificate, machine: Machine) -> None:
    certificate()
    machine.programs.add("openssl", "echo 'Could not read certificate' >&2; exit 1")
    assert certificate()["reasons"] == ["there is none"]


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
    assert result["diff"] == {"before": {}, "after": {"names": [NAME], "directory": DIRECTORY, "key_type": "rsa"}}
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
    result = certificate(ask=False, directory="https://staging.example/directory")
    assert (result["present"], len(result["reasons"])) == (True, 1)
    assert machine.runs() == []
    assert certificate(ask=False)["changed"]
    assert machine.runs() == ["hook"]


def test_certbot_gets_none(certificate: Certificate, machine: Machine) -> None:
    machine.programs.add(
        "certbot",
        "echo 'Detail: Fetching http://sbc.example.com/.well-known/x: Timeout during connect'; echo; exit 1",
    )
    with pytest.raises(Failed) as failure:
        certificate()
    result = failure.value.args[0]
    assert result["msg"] == (
        f"certbot got no certificate for {NAME}: port 80 cannot be reached from outside: look at the firewalls"
    )
    assert len(result["said"]) == 1
    assert machine.runs() == ["certbot"]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("urn:ietf:params:acme:error:rateLimited :: too many certificates (5) already issued", "rate limit"),
        ("DNS problem: NXDOMAIN looking up A for sbc.example.com", "A record"),
        ("no valid A records found for sbc.example.com", "A record"),
        (
            "203.0.113.10: Fetching http://sbc.example.com/.well-known/x: Connection refused",
            "port 80 cannot be reached",
        ),
        ("Could not bind TCP port 80 because it is already in use by another process", "something else listens"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "base_trusted_roots"),
        ("NameResolutionError: Failed to resolve 'acme.example'", "certificate_directory"),
        pytest.param(
            "HTTPSConnectionPool(host='acme.example', port=443): Max retries exceeded with url: /directory (Caused by"
            " NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused'))",
            "certificate_directory",
        ),
        ("An unexpected error occurred", "/var/log/letsencrypt/letsencrypt.log"),
    ],
)
def test_the_remedy_follows_from_certbots_words(plugin: ModuleType, said: str, advice: str) -> None:
    assert advice in plugin.remedy(said)


def test_the_command(plugin: ModuleType) -> None:
    wanted = plugin.Lineage(("a.example.com", "b.example.com"), DIRECTORY, "rsa")
    command = plugin.command(NAME, wanted, "it@example.com")
    options = dict(pairwise(command))
    assert command[:2] == ["certbot", "certonly"]
    assert (options["--server"], options["--email"], options["--cert-name"]) == (DIRECTORY, "it@example.com", NAME)
    assert (options["--key-type"], options["--rsa-key-size"]) == ("rsa", "2048")
    assert [word for before, word in pairwise(command) if before == "--domain"] == [
        "a.example.com",
        "b.example.com",
    ]
    assert {"--standalone", "--non-interactive", "--agree-tos", "--renew-with-new-domains"} <= set(command)
