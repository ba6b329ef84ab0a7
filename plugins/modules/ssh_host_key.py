#!/usr/bin/python
"""Ansible module: a droplet's SSH host key, made before the droplet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_key
short_description: A host's SSH host key, made before the host
description:
  - Makes an Ed25519 host key for a host that does not exist yet, and writes it into a C(known_hosts) file, so that the
    first connection is verified. The key is given to the host by cloud-init.
  - The private key is returned by its file's name only, so that no output can show it.
options:
  host:
    description: The inventory's name of the host, which is the C(HostKeyAlias) of its connections.
    type: str
    required: true
  state_dir:
    description:
      - Directory for the keys (C(HOST/ssh_host_ed25519_key), C(HOST/ssh_host_ed25519_key.pub)) and C(known_hosts).
      - It is created, for the owner only, if it does not exist.
    type: path
    required: true
  replace:
    description:
      - Whether a key that is known, but whose private half is not here, may be replaced by a new one. Only while no
        droplet has it; otherwise every noted key stays, since it is the only way to recognise the droplet.
    type: bool
    default: true
  beside:
    description:
      - Whether a new key is made, and noted beside the one that is known, if the private half of that is not here. For
        a second droplet of the host, while the first is in use.
      - It lies apart (C(HOST/successor/ssh_host_ed25519_key)), where nothing but O(beside) looks for it, until
        O(state=promoted) makes it the host's own. Both keys are good for the host until then.
    type: bool
    default: false
  state:
    description:
      - Whether the key shall exist and be known. An existing key is never replaced.
      - V(promoted) makes the key that O(beside) has made, if it has, the host's own and the only one that is known. For
        the time when no other droplet of the host is left.
    type: str
    choices: [present, promoted, absent]
    default: present
requirements:
  - ssh-keygen
attributes:
  check_mode:
    description: Changes nothing and says what would be changed.
    support: full
  diff_mode:
    description: Shows the lines of C(known_hosts).
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: The host key is known before the droplet exists
  ssh_host_key:
    host: "{{ inventory_hostname }}"
    state_dir: "{{ inventory_dir }}/state"
  delegate_to: localhost
  register: host_key

- name: The private key reaches the droplet through its user_data
  ansible.builtin.set_fact:
    droplet_user_data: "{{ lookup('ansible.builtin.template', 'user_data') }}"
  no_log: true
  vars:
    private_key: "{{ lookup('ansible.builtin.file', host_key.private_key_file) }}"
"""

RETURN = r"""
private_key_file:
  description: Path of the private key (mode 0600). In check mode it may not exist yet.
  returned: success
  type: path
public_key:
  description: Type and base64 of the public key; null if it does not exist (yet).
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyNLpD6S3p5oZ8v5u4
known_hosts:
  description: Path of the known_hosts file.
  returned: success
  type: path
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# The public key, whether the key's files change, and the lines of known_hosts that are to be.
Outcome = tuple[str | None, bool, list[str]]


class HostKey:
    """One host's key under a state directory that all hosts of an inventory share."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.host = module, module.params["host"]
        self.directory = Path(module.params["state_dir"])
        self.known_hosts = self.directory / "known_hosts"
        self.private = self.directory / self.host / "ssh_host_ed25519_key"
        self.public = self.private.with_name(self.private.name + ".pub")
        apart = self.private.parent / "successor"
        self.apart = apart / self.private.name, apart / self.public.name
        if module.params["beside"] and not self.private.exists():
            self.private, self.public = self.apart

    def keygen(self, *arguments: str) -> str:
        _, output, _ = self.module.run_command(["ssh-keygen", *arguments], check_rc=True)
        return str(output)

    def public_key(self) -> str | None:
        return self.public_half(self.private, self.public) if self.private.exists() else None

    def public_half(self, private: Path, public: Path) -> str:
        text = public.read_text() if public.exists() else self.keygen("-y", "-f", str(private))
        return " ".join(text.split()[:2])

    def make(self) -> None:
        """Made apart and renamed, the private key last: a killed run leaves a whole key or none."""
        self.private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.private.parent, prefix=".new-") as apart:
            fresh = Path(apart) / self.private.name
            self.keygen("-q", "-t", "ed25519", "-N", "", "-C", self.host, "-f", str(fresh))
            fresh.with_name(self.public.name).replace(self.public)
            fresh.replace(self.private)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Other hosts' tasks run at the same time and write the same file; check mode writes nothing."""
        if self.module.check_mode:
            yield
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / ".known_hosts.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def lines(self) -> list[str]:
        return self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []

    def write(self, lines: list[str]) -> None:
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=".known_hosts-")
        with os.fdopen(handle, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
        os.replace(name, self.known_hosts)

    def apply(self) -> dict[str, object]:
        state = self.module.params["state"]
        with self.locked():
            before = self.lines()
            others = [line for line in before if line.split()[:1] != [self.host]]
            act = {"present": self.present, "promoted": self.promoted, "absent": self.absent}[state]
            key, changed, after = act(before, others)
            if sorted(before) == sorted(after):
                after = before
            elif not self.module.check_mode:
                self.write(after)
            if changed and not self.module.check_mode:
                self.settle(state)
        changed = changed or before != after
        diff = {
            "before_header": str(self.known_hosts),
            "after_header": str(self.known_hosts),
            "before": "".join(f"{line}\n" for line in before),
            "after": "".join(f"{line}\n" for line in after),
        }
        return {
            "changed": changed,
            "private_key_file": str(self.private),
            "public_key": key,
            "known_hosts": str(self.known_hosts),
            **({"diff": diff} if changed else {}),
        }

    def line(self, key: str | None) -> str:
        return f"{self.host} {key or 'ssh-ed25519 (to be made)'}"

    def present(self, before: list[str], others: list[str]) -> Outcome:
        beside, stays = self.module.params["beside"], self.module.params["beside"] or not self.module.params["replace"]
        noted = [" ".join(line.split()[1:3]) for line in before if line.split()[:1] == [self.host]]
        kept = stays and not beside and bool(noted) and not self.private.exists()
        missing = not kept and not self.private.exists()
        if missing and not self.module.check_mode:
            self.make()
        key = noted[0] if kept else self.public_key()
        after = before if stays else others
        return key, missing, after if stays and key in noted else [*after, self.line(key)]

    def promoted(self, before: list[str], others: list[str]) -> Outcome:
        if self.private.exists() or not self.apart[0].exists():
            return self.public_key(), False, before
        key = self.public_half(*self.apart)
        return key, True, [*others, self.line(key)]

    def absent(self, _before: list[str], others: list[str]) -> Outcome:
        return None, self.private.exists() or self.apart[0].exists(), others

    def settle(self, state: str) -> None:
        """The files, after known_hosts. A private key goes or moves last, so that a killed run is gone on with."""
        private, public = self.apart
        if state == "promoted":
            if public.exists():
                public.replace(self.public)
            private.replace(self.private)
        elif state == "absent":
            for file in (self.public, public, self.private, private):
                file.unlink(missing_ok=True)


def main() -> None:
    spec = {
        "host": {"type": "str", "required": True},
        "state_dir": {"type": "path", "required": True},
        "replace": {"type": "bool", "default": True},
        "beside": {"type": "bool", "default": False},
        "state": {"choices": ["present", "promoted", "absent"], "default": "present"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if not HOST.fullmatch(module.params["host"]):
        module.fail_json(msg=f"host {module.params['host']!r} cannot be the name of a directory and of a known host")
    try:
        result = HostKey(module).apply()
    except OSError as error:
        module.fail_json(msg=f"host key of {module.params['host']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
