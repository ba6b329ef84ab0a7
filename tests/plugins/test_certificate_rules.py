"""What preflight says of certificates: those asked for lately, and those that a customer brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import certificate_rules as rules
from ansible.module_utils.preflight_rules import Customer
from ansible.module_utils.saved_certificates import Asked, date
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.plugins.support import ROOT, Api
from tests.plugins.tls import Authority

NAMES = ("sbc.example.com", "*.sbc.example.com")
URL = "https://acme.example/directory"
DAY = 86400.0
NOW = 1_800_000_000.0
CUSTOMER = Customer("contoso", "inventory/x/customers.yml", {"sbc_cloud": "gcc_high"})


def asked(*days: float, names: tuple[str, ...] = NAMES, directory: str = URL) -> list[Asked]:
    return [Asked(NOW - each * DAY, tuple(sorted(names)), directory) for each in days]


@pytest.mark.parametrize(
    ("record", "count"),
    [
        (asked(1, 2, 3), 0),
        (asked(1, 2, 3, 6.9), 4),
        (asked(1, 2, 3, 7.1), 0),
        (asked(0, 1, 2, 3, 4, 5), 6),
        (asked(1, 2, 3) + asked(4, names=NAMES[:1]), 0),
        (asked(1, 2, 3) + asked(4, directory="https://acme.example/other"), 0),
    ],
)
def test_the_warning_counts_the_same_names_of_the_same_directory(record: list[Asked], count: int) -> None:
    said = rules.limit_warning(CUSTOMER, record, reversed(NAMES), URL, NOW)
    assert (said is None) == (count == 0)
    if said:
        assert said.startswith(f"contoso: {count} certificates for *.sbc.example.com, sbc.example.com were asked for")
        oldest = max(NOW - each.at for each in record)
        assert date(NOW - oldest + 7 * DAY) in said
        assert "5 per exact set of names in 7 days" in said
        assert "certificate_directory: staging (inventory/x/customers.yml)" in said
        assert ("the next is the last one" in said) == (count == 4)


def test_a_rehearsal_is_not_counted() -> None:
    staging = "https://acme-staging-v02.api.letsencrypt.org/directory"
    assert rules.limit_warning(CUSTOMER, asked(1, 2, 3, 4, 5, directory=staging), NAMES, staging, NOW) is None


ROOT_CA = Authority("Accepted Root")
INTERMEDIATE = Authority("Accepted Intermediate", ROOT_CA)
STRANGER = Authority("Other Root")


@dataclass
class Files:
    """A customer's files and what preflight is told beside them."""

    directory: Path
    issuer: Authority = INTERMEDIATE
    behind: str = INTERMEDIATE.pem
    leaf: dict[str, Any] = field(default_factory=dict)
    roots: tuple[str, ...] = ("Accepted_Root",)
    added: dict[str, str] = field(default_factory=dict)

    def write(self) -> Files:
        key, leaf = self.issuer.issue(**{"names": NAMES, "days": (-1.0, 300.0)} | self.leaf)
        self.chain.write_text(leaf + self.behind)
        self.key.write_text(key)
        return self

    @property
    def chain(self) -> Path:
        return self.directory / "chain.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    def judge(self) -> tuple[list[str], list[str]]:
        given = {"chain": "chain.pem", "key": str(self.key)}
        password = str(self.directory / "password")
        base = str(self.directory)
        mistakes, warnings = rules.check_files(
            CUSTOMER, given, NAMES, self.roots, self.added, base, DataLoader(), password
        )
        return [str(each) for each in mistakes], warnings


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    (tmp_path / "Accepted_Root.crt").write_text(ROOT_CA.pem)
    (tmp_path / "bundle.crt").write_text(ROOT_CA.pem)
    monkeypatch.setattr(rules, "NAMED_ROOTS", tmp_path)
    monkeypatch.setattr(rules, "ALL_ROOTS", tmp_path / "bundle.crt")
    return Files(tmp_path)


@pytest.mark.parametrize("roots", [("Accepted_Root",), ()])
def test_nothing_to_say_of_a_good_one(files: Files, roots: tuple[str, ...]) -> None:
    files.roots = roots
    assert files.write().judge() == ([], [])


def no_chain(files: Files) -> None:
    files.chain.unlink()


def no_key(files: Files) -> None:
    files.key.unlink()


def chain_is_a_directory(files: Files) -> None:
    files.chain.unlink()
    files.chain.mkdir()


def other_key(files: Files) -> None:
    files.key.write_text(STRANGER.issue(NAMES)[0])


def no_certificate(files: Files) -> None:
    files.chain.write_text("-----BEGIN NOTHING-----")


def no_private_key(files: Files) -> None:
    files.key.write_text("a secret that is no key")


def encrypted(password: str) -> Callable[[Files], None]:
    def encrypt(files: Files) -> None:
        (files.directory / "password").write_text("right\n")
        secret = VaultSecret(password.encode())
        files.key.write_bytes(VaultLib().encrypt(files.key.read_bytes(), secret=secret))

    return encrypt


@pytest.mark.parametrize(
    ("change", "harm", "part", "problem"),
    [
        ({}, no_chain, "chain", "is missing; correct the path"),
        ({}, no_key, "key", "is missing; correct the path"),
        ({}, chain_is_a_directory, "chain", "cannot be read (Is a directory)"),
        ({}, no_certificate, "chain", "the chain holds no readable certificate"),
        ({}, no_private_key, "key", "holds no readable private key"),
        ({}, other_key, "key", "the private key does not belong to the certificate"),
        ({}, encrypted("wrong"), "key", "is encrypted, and does not open with the password in"),
        ({"leaf": {"key": ec.generate_private_key(ec.SECP256R1())}}, None, "chain", "the certificate's key is ECDSA"),
        ({"leaf": {"days": (-90.0, -1.0)}}, None, "chain", "the certificate ended on"),
        ({"leaf": {"days": (1.0, 90.0)}}, None, "chain", "the certificate begins on"),
        ({"leaf": {"names": NAMES[:1]}}, None, "chain", "not for *.sbc.example.com"),
        ({"leaf": {"usages": [ExtendedKeyUsageOID.CLIENT_AUTH]}}, None, "chain", "lacks serverAuth"),
        ({"behind": ""}, None, "chain", "lacks an intermediate certificate"),
        ({"behind": "", "roots": ()}, None, "chain", "lacks an intermediate certificate"),
        (
            {"issuer": (other := Authority("Other Intermediate", STRANGER)), "behind": other.pem},
            None,
            "chain",
            "leads to no accepted root: it ends at CN=Other Intermediate, whose issuer, CN=Other Root",
        ),
        ({"issuer": STRANGER, "behind": STRANGER.pem}, None, "chain", "it ends at CN=Other Root, which issued itself"),
    ],
)
def test_one_mistake_is_one_line_with_its_file(
    files: Files, change: dict[str, Any], harm: Callable[[Files], None] | None, part: str, problem: str
) -> None:
    for name, value in change.items():
        setattr(files, name, value)
    files.write()
    if harm:
        harm(files)
    (said,), _ = files.judge()
    value = "chain.pem" if part == "chain" else str(files.key)
    assert said.startswith(f"contoso: sbc_certificate_files.{part} = {value}: ")
    assert problem in said
    assert said.endswith("(inventory/x/customers.yml)")
    assert "\n" not in said
    assert "PRIVATE" not in said
    assert "a secret" not in said


def test_an_encrypted_key_is_read(files: Files) -> None:
    encrypted("right")(files.write())
    assert files.judge() == ([], [])


def test_several_mistakes_are_several_lines(files: Files) -> None:
    files.leaf, files.behind = {"names": ["other.example.com"], "days": (-9.0, -1.0)}, ""
    other_key(files.write())
    mistakes, _ = files.judge()
    assert len(mistakes) == 4


def test_roots_that_are_not_known_here_are_not_guessed(files: Files) -> None:
    files.roots = ("Accepted_Root", "Root_Of_A_Newer_Debian")
    assert files.write().judge() == ([], []), "it leads to the one that is known"
    for roots in (("Root_Of_A_Newer_Debian",), ("Root_Of_A_Newer_Debian", "other")):
        files.roots, files.added = roots, {"other": STRANGER.pem}
        mistakes, (warning,) = files.judge()
        assert mistakes == []
        assert "cannot be told here" in warning
        assert "Root_Of_A_Newer_Debian.crt" in warning


def test_where_every_root_counts_this_machine_does_not_decide(files: Files) -> None:
    files.roots, files.issuer = (), Authority("Unknown Intermediate", STRANGER)
    files.behind = files.issuer.pem
    mistakes, (warning,) = files.write().judge()
    assert mistakes == []
    assert "verify will say so" in warning
    files.added = {"other": STRANGER.pem}
    assert files.judge() == ([], [])
    files.roots = ("other",)
    assert files.judge() == ([], [])
    files.roots, files.added = ("Accepted_Root",), {"other": STRANGER.pem}
    (mistake,), _ = files.judge()
    assert "leads to no accepted root" in mistake


def test_a_certificate_near_its_end(files: Files) -> None:
    files.leaf = {"days": (-300.0, 12.5)}
    mistakes, (warning,) = files.write().judge()
    assert mistakes == []
    assert "ends in 12 days" in warning
    assert "nothing renews it" in warning


@pytest.mark.parametrize("given", ["chain.pem", {"chain": "chain.pem"}, {}])
def test_files_that_are_not_named(files: Files, given: Any) -> None:
    files.write()
    mistakes, _ = rules.check_files(CUSTOMER, given, NAMES, (), {}, str(files.directory), DataLoader(), "/nonexistent")
    assert any(
        "sbc_certificate_files.key: is missing; name the PEM file with its private key" in str(m) for m in mistakes
    )


def test_preflight_says_so(api: Api, tmp_path: Path, files: Files) -> None:
    """The playbook as it is: a customer who asked often, one with files of its own, and one whose record is broken."""
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    common = {
        "sbc_domain": "example.com",
        "sbc_contact_email": "it@example.com",
        "sbc_ssh_sources": ["198.51.100.0/24"],
        "sbc_api_endpoint": api.endpoint,
        "droplet_ssh_public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM",
        "certificate_vault_password_file": str(tmp_path / "password"),
    }
    files.leaf = {"names": ["sbc2.example.com"], "days": (-90.0, -1.0)}
    files.write()
    hosts = {
        "contoso": {"sbc_fqdn": "sbc1.example.com"},
        "fabrikam": {
            "sbc_fqdn": "sbc2.example.com",
            "sbc_certificate_files": {"chain": "../chain.pem", "key": "../key.pem"},
        },
        "tailspin": {"sbc_fqdn": "sbc3.example.com"},
    }
    (inventory / "group_vars" / "sbc.yml").write_text(yaml.safe_dump(common))
    (inventory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": hosts}}))
    (inventory / "state" / "contoso").mkdir(parents=True)
    (inventory / "state" / "tailspin").mkdir()
    (inventory / "state" / "tailspin" / "certificate.json").write_text("nonsense")
    directory = "https://acme-v02.api.letsencrypt.org/directory"
    record = [
        {"at": date(time.time() - n * DAY), "names": ["sbc1.example.com"], "directory": directory} for n in range(4)
    ]
    (inventory / "state" / "contoso" / "certificate.json").write_text(json.dumps({"issued": record}))

    def preflight(*limit: str) -> tuple[int, str]:
        environment = os.environ | {"ANSIBLE_NOCOLOR": "0", "ANSIBLE_FORCE_COLOR": "1", "COLUMNS": "400"}
        environment.pop("DIGITALOCEAN_END_POINT")
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(inventory),
            "playbooks/preflight.yml",
        ]
        done = subprocess.run(
            [*command, *limit], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, " ".join((done.stdout + done.stderr).replace("\\n", " ").split())

    code, said = preflight("--limit", "contoso,localhost")
    assert code == 0, said
    assert "4 certificates for sbc1.example.com were asked for in the last 7 days" in said
    assert "\x1b[0;33m[WARNING]" in said, "it is not yellow"
    code, said = preflight()
    assert code != 0
    assert "2 mistakes" in said
    assert "fabrikam: sbc_certificate_files.chain = ../chain.pem: the certificate ended on" in said
    assert "tailspin: certificate.json" in said
    assert "4 certificates for sbc1.example.com" in said
