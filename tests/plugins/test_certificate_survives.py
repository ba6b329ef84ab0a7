"""The certificate and the ACME account survive the droplet: ansible-playbook over SSH, to a machine that gets lost.

certbot is a stand-in that makes real keys and certificates and keeps them as certbot does; everything else is real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.saved_certificates import date

from tests.plugins.sshd import Machine, is_available
from tests.plugins.support import ROOT

pytestmark = pytest.mark.skipif(not is_available(), reason="needs root and KAMAILIO_ROOT (python -m lab kamailio-root)")

NAME = "sbc.example.com"
DIRECTORY = "https://acme.example/directory"
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"names": [NAME], "directory": DIRECTORY},
        "tasks": [
            {
                "tags": "certificate",
                "certbot_certificate": {
                    "name": NAME,
                    "names": "{{ names }}",
                    "directory": "{{ directory }}",
                    "email": "it@example.com",
                    "challenge_hook": "/bin/true",
                    "deploy_hook": "/usr/local/bin/hook",
                    "installed": "/shared/installed.pem",
                    "state_dir": "{{ inventory_dir }}/state",
                    "password_file": "{{ inventory_dir }}/vault-password",
                },
                "register": "certificate",
            },
            {
                "tags": "copy",
                "saved_certificate": {
                    "name": NAME,
                    "state_dir": "{{ inventory_dir }}/state",
                    "password_file": "{{ inventory_dir }}/vault-password",
                },
                "register": "saved",
            },
            {"tags": "copy", "debug": {"msg": "{{ certificate | default }} same: {{ saved.same }}"}},
        ],
    }
]
CERTBOT = r'''#!/usr/bin/python3
"""certbot certonly, as far as keeping goes; what it is asked for is noted in /shared/orders."""
import argparse, datetime, json, os, pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization as form
from cryptography.hazmat.primitives.asymmetric import rsa

options = argparse.ArgumentParser()
options.add_argument("command")
options.add_argument("--domain", action="append")
options.add_argument("--cert-name")
options.add_argument("--server")
given, _ = options.parse_known_args()
shared, base, name = pathlib.Path("/shared"), pathlib.Path("/etc/letsencrypt"), given.cert_name
record = json.loads((shared / "state/contoso/certificate.json").read_text())
with open(shared / "orders", "a") as orders:
    accounts = sorted(path.read_text() for path in base.glob("accounts/**/private_key.json"))
    orders.write(json.dumps({"names": given.domain, "noted": record["issued"], "accounts": accounts}) + "\n")
if (shared / "refuse").exists():
    sys.exit("rateLimited: too many certificates already issued")
days = float((shared / "days").read_text()) if (shared / "days").exists() else 90
server = given.server.removeprefix("https://")
for path in ("archive", "live", "renewal", f"archive/{name}", f"live/{name}", f"accounts/{server}/0af3"):
    (base / path).mkdir(parents=True, exist_ok=True)
account = base / "accounts" / server / "0af3" / "private_key.json"
if not account.exists():
    account.write_text(json.dumps({"n": os.urandom(8).hex()}))
key = rsa.generate_private_key(65537, 2048)
now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
leaf = (
    x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=days))
    .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, given.domain))), False)
    .sign(key, hashes.SHA256()).public_bytes(form.Encoding.PEM)
)
secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
number = len(list((base / "archive" / name).glob("cert*.pem"))) + 1
for item, text in {"cert": leaf, "chain": leaf, "fullchain": leaf + leaf, "privkey": secret}.items():
    target, link = base / "archive" / name / f"{item}{number}.pem", base / "live" / name / f"{item}.pem"
    target.write_bytes(text)
    if item == "privkey":
        target.chmod(0o600)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
(base / "renewal" / f"{name}.conf").write_text(f"[renewalparams]\nserver = {given.server}\nkey_type = rsa\n")
'''
HOOK = '#!/bin/sh\ncp "$RENEWED_LINEAGE/fullchain.pem" /shared/installed.pem\n'


@dataclass
class World:
    """One customer: an inventory, whose state the machine's certbot can see, and the machine."""

    machine: Machine
    inventory: Path

    def play(self, *arguments: str, works: bool = True, **environment: str) -> str:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(self.inventory / "hosts.yml"), str(self.inventory / "play.yml"), *arguments),
            ],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout + done.stderr
        assert (done.returncode == 0) == works, text
        assert not (leaked := self.leaked(text)), f"{leaked} was shown"
        return text

    def leaked(self, text: str) -> list[str]:
        """What of the secrets is to be found where it must not be."""
        places = [text, *(file.read_text() for file in (self.shared / "log", self.shared / "argv") if file.exists())]
        # What travels is a compressed archive: nothing else that is shown is as long and in base64.
        blobs = [f"{blob[:40]}..." for place in places for blob in re.findall(r"[A-Za-z0-9+/]{300,}", place)]
        return [secret for secret in self.secrets() for place in places if secret in place] + blobs

    def secrets(self) -> list[str]:
        """Lines of the key, and the password, where they exist yet."""
        found = ["PRIVATE KEY"]
        try:
            found += self.machine.run(f"cat /etc/letsencrypt/live/{NAME}/privkey.pem").splitlines()[1:-1]
        except subprocess.CalledProcessError:
            return found
        return [*found, (self.inventory / "vault-password").read_text().strip()]

    @property
    def shared(self) -> Path:
        return self.machine.shared

    @property
    def state(self) -> Path:
        return self.inventory / "state" / "contoso"

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "certificate.json").read_text()))

    def orders(self) -> list[dict[str, Any]]:
        """What certbot was asked for since the last look."""
        file = self.shared / "orders"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    def remote_calls(self) -> int:
        """How often Ansible ran a module on the machine since the last look."""
        file = self.shared / "argv"
        count = len(file.read_text().splitlines()) if file.exists() else 0
        file.unlink(missing_ok=True)
        return count

    def rebuild(self) -> None:
        self.machine.destroy()
        (self.shared / "installed.pem").unlink(missing_ok=True)
        self.machine.start()

    def serial(self) -> str:
        return self.machine.run(f"openssl x509 -noout -serial -in /etc/letsencrypt/live/{NAME}/cert.pem")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    machine = Machine(tmp_path)
    machine.add("certbot", CERTBOT)
    machine.add("hook", HOOK)
    inventory = machine.shared
    hosts = {"all": {"hosts": {"contoso": machine.variables}}}
    (inventory / "hosts.yml").write_text(json.dumps(hosts))
    (inventory / "play.yml").write_text(json.dumps(PLAY))
    machine.start()
    yield World(machine, inventory)
    machine.destroy()


def recap(text: str) -> tuple[int, int]:
    found = re.search(r"ok=(\d+) +changed=(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def test_from_droplet_to_droplet(world: World) -> None:
    first = world.play("-vvvvv", "--diff")
    assert "keep a copy of it" in " ".join(first.split())
    assert "certbot_copy" in first, "the module's run is not in the output that is searched for secrets"
    assert "censored due to no log" in first
    (order,) = world.orders()
    assert [each["names"] for each in order["noted"]] == [[NAME]], "not noted before it was asked for"
    deadline = time.monotonic() + 60
    while "certbot_copy" not in (world.shared / "log").read_text():
        assert time.monotonic() < deadline, "the machine's log is not seen"
        time.sleep(0.1)
    serial, account = world.serial(), world.machine.run("cat /etc/letsencrypt/accounts/acme.example/directory/0af3/*")

    world.remote_calls()
    assert recap(world.play())[1] == 0
    assert world.remote_calls() == 2, "a run without a change asks once for each task"

    world.rebuild()
    back = world.play("-vvvvv")
    compared = r"less than a minute|\d+ minutes?"
    assert re.search(f"is brought back from a copy that was last compared with the droplet ({compared}) ago", back)
    assert "If the former droplet renewed it since" in back
    assert (world.orders(), world.serial()) == ([], serial)
    assert world.machine.run("cat /etc/letsencrypt/accounts/acme.example/directory/0af3/*") == account
    assert (world.shared / "installed.pem").read_text()
    assert world.machine.run("stat -c %a /etc/letsencrypt/archive/*/privkey1.pem") == "600\n"
    assert [each["names"] for each in world.record()["issued"]] == [[NAME]]
    assert recap(world.play())[1] == 0


def test_a_rehearsal_brings_nothing_back_and_saves_nothing(world: World) -> None:
    world.play("--check")
    assert not (world.inventory / "state").exists()
    assert not (world.inventory / "vault-password").exists()
    world.play()
    before = {path: path.read_bytes() for path in world.state.iterdir()}
    world.rebuild()
    rehearsed = world.play("--check")
    assert "is brought back from a copy" in rehearsed
    assert recap(rehearsed)[1] == 1
    assert world.machine.run("ls -d /etc/letsencrypt/live /etc/letsencrypt/accounts 2>/dev/null || true") == ""
    assert {path: path.read_bytes() for path in world.state.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"names": [NAME, f"*.{NAME}"]}, f"is for {NAME}, not for *.{NAME}, {NAME}"),
        ({"directory": "https://acme.example/other"}, f"is from {DIRECTORY}, not from https://acme.example/other"),
        ({}, "ended on "),
    ],
)
def test_a_copy_that_will_not_do_keeps_the_account(world: World, change: dict[str, Any], why: str) -> None:
    (world.shared / "days").write_text("90" if change else "0.01")
    world.play()
    account = world.machine.run("cat /etc/letsencrypt/accounts/acme.example/directory/0af3/*")
    world.orders()
    (world.shared / "days").unlink()
    world.rebuild()
    said = " ".join(world.play("-e", json.dumps(change)).split())
    assert f"the saved certificate {why}" in said
    assert "only the ACME account is brought back" in said
    (order,) = world.orders()
    assert order["accounts"] == [account]
    assert len(order["noted"]) == 2
    assert world.record()["names"] == sorted(change.get("names", [NAME]))


def test_a_renewal_on_the_droplet_is_saved_and_counted(world: World) -> None:
    world.play()
    record = json.loads((world.state / "certificate.json").read_text())
    # The run was last week; the timer renewed just now.
    record["issued"][0]["at"] = date((datetime.now(UTC) - timedelta(days=6)).timestamp())
    (world.state / "certificate.json").write_text(json.dumps(record))
    world.machine.run(f"certbot certonly --cert-name {NAME} --domain {NAME} --server {DIRECTORY}")
    rehearsed = world.play("--check", "--tags", "copy")
    assert "same: False" in rehearsed
    assert recap(world.play("--tags", "copy"))[1] == 1
    renewed = world.record()
    assert renewed["fingerprint"] != record["fingerprint"]
    assert len(renewed["issued"]) == 3, "the first one's certificate, whose asking seems a week old, and the renewal"
    assert recap(world.play("--tags", "copy"))[1] == 0
    assert len(world.record()["issued"]) == 3
    serial = world.serial()
    world.rebuild()
    world.play()
    assert world.serial() == serial


@pytest.mark.parametrize("harm", ["missing", "wrong"])
def test_without_the_password_nothing_is_asked_for(world: World, harm: str) -> None:
    world.play()
    world.orders()
    password = world.inventory / "vault-password"
    kept = password.read_text()
    if harm == "missing":
        password.unlink()
    else:
        password.write_text("another\n")
    world.rebuild()
    said = " ".join(world.play(works=False).split())
    assert f"{world.state / 'certificate.vault'}" in said
    assert str(password) in said
    assert "certificate_vault_password_file" in said
    assert world.orders() == []
    password.write_text(kept)
    world.play()
    assert world.orders() == []


def test_what_fails_is_readable_and_was_noted(world: World) -> None:
    (world.shared / "refuse").touch()
    said = world.play("-vvvvv", works=False)
    assert "rateLimited: too many certificates already issued" in said
    assert len(world.record()["issued"]) == 1
    assert not (world.state / "certificate.vault").exists()
    world.machine.run("rm /shared/refuse /usr/local/bin/hook")
    world.orders()
    said = world.play("-vvvvv", works=False)
    assert "hook" in said
    assert (world.state / "certificate.vault").exists(), "issued and not saved, since its installation failed"
    world.rebuild()
    world.orders()
    world.play()
    assert world.orders() == []


def test_a_droplets_answer_that_cannot_be_read_is_not_shown(world: World) -> None:
    world.play()
    world.machine.run("printf '#!/bin/sh\\n/usr/bin/python3 \"$@\" | tr -d {}\\n' >/usr/local/bin/logged-python")
    world.machine.run(f"certbot certonly --cert-name {NAME} --domain {NAME} --server {DIRECTORY}")
    said = world.play("-vvvvv", "--tags", "copy", works=False)
    assert "deserialization failed" in said


def test_a_droplet_that_cannot_be_reached_says_so(world: World) -> None:
    world.play()
    world.machine.destroy()
    said = world.play("--tags", "copy", works=False)
    assert "Connection refused" in said
