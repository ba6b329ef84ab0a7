"""A certificate that was brought along reaches Kamailio, and its key nobody else: ansible-playbook over SSH."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.plugins.sshd import Machine, is_available
from tests.plugins.support import ROOT
from tests.plugins.tls import Authority

pytestmark = pytest.mark.skipif(not is_available(), reason="needs root and KAMAILIO_ROOT (python -m lab kamailio-root)")

TLS = "/etc/kamailio/tls"
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "certificate_files": {
                    "chain": "own/chain.pem",
                    "key": "{{ inventory_dir }}/own/key.pem",
                    "base": "{{ inventory_dir }}",
                    "password_file": "{{ inventory_dir }}/vault-password",
                    "target": TLS,
                    "reload": "/usr/local/bin/reload",
                },
                "register": "done",
            },
            {"debug": {"msg": "{{ done }}"}},
        ],
    }
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.add(
        "reload", "#!/bin/sh\n[ ! -e /shared/broken ] || { echo no reload >&2; exit 1; }\necho >>/shared/reloads\n"
    )
    (made.shared / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"contoso": made.variables}}}))
    (made.shared / "play.yml").write_text(json.dumps(PLAY))
    (made.shared / "own").mkdir()
    made.start()
    yield made
    made.destroy()


def bring(machine: Machine, authority: Authority) -> list[str]:
    """Put another certificate where the inventory names it, the key encrypted. Returns the key's lines."""
    key, leaf = authority.issue(["sbc.example.com"])
    (machine.shared / "own" / "chain.pem").write_text(leaf + authority.pem)
    (machine.shared / "vault-password").write_text("a password\n")
    encrypted = VaultLib().encrypt(key, secret=VaultSecret(b"a password"))
    (machine.shared / "own" / "key.pem").write_bytes(encrypted)
    return key.splitlines()


def play(machine: Machine, *arguments: str, works: bool = True) -> str:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(machine.shared / "hosts.yml")]
    done = subprocess.run(
        [*command, str(machine.shared / "play.yml"), *arguments],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == works, text
    return text


def changes(text: str) -> int:
    found = re.search(r"changed=(\d+)", text)
    assert found, text
    return int(found[1])


def test_the_pair_is_installed_and_replaced_and_never_shown(machine: Machine) -> None:
    authority = Authority()
    key = bring(machine, authority)
    rehearsed = play(machine, "-vvvvv", "--check", "--diff")
    assert changes(rehearsed) == 1
    assert machine.run(f"ls {TLS} 2>/dev/null || true") == ""
    shown = play(machine, "-vvvvv", "--diff")
    assert "(not shown)" in shown
    assert machine.run(f"cat {TLS}/privkey.pem").splitlines() == key
    assert machine.run(f"cat {TLS}/fullchain.pem") == (machine.shared / "own" / "chain.pem").read_text()
    assert machine.run(f"stat -c '%U %G %a' {TLS}/privkey.pem {TLS}/fullchain.pem").splitlines() == [
        "kamailio kamailio 400",
        "root kamailio 640",
    ]
    assert changes(play(machine)) == 0
    assert len((machine.shared / "reloads").read_text().splitlines()) == 1

    # Kamailio cannot load it at first; and certbot's hook once was cut off.
    later = bring(machine, authority)
    (machine.shared / "broken").touch()
    machine.run(f": >{TLS}/fullchain.pem.due")
    failed = play(machine, "-vvvvv", works=False)
    assert "no reload" in failed
    (machine.shared / "broken").unlink()
    assert changes(play(machine)) == 1
    assert machine.run(f"cat {TLS}/privkey.pem").splitlines() == later
    assert machine.run(f"ls {TLS}").split() == ["fullchain.pem", "privkey.pem"]
    assert len((machine.shared / "reloads").read_text().splitlines()) == 2

    everything = (
        rehearsed + shown + failed + (machine.shared / "log").read_text() + (machine.shared / "argv").read_text()
    )
    for line in (*key, *later):
        assert line not in everything, "the key was shown"
    assert "a password" not in everything


def test_a_file_that_is_missing_is_named(machine: Machine) -> None:
    bring(machine, Authority())
    (machine.shared / "own" / "key.pem").unlink()
    assert f"{machine.shared}/own/key.pem: is missing" in " ".join(play(machine, works=False).split())
