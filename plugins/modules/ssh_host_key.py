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
        a second droplet of the host, while the first is in use. Both keys are good for the host until one is asked for
        with O(replace).
    type: bool
    default: false
  state:
    description: Whether the key shall exist and be known. An existing key is never replaced.
    type: str
    choices: [present, absent]
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


class HostKey:
    """One host's key under a state directory that all hosts of an inventory share."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.host = module, module.params["host"]
        self.directory = Path(module.params["state_dir"])
        self.known_hosts = self.directory / "known_hosts"
        self.private = self.directory / self.host / "ssh_host_ed25519_key"
        self.public = self.private.with_name(self.private.name + ".pub")

    def keygen(self, *arguments: str) -> str:
        _, output, _ = self.module.run_command(["ssh-keygen", *arguments], check_rc=True)
        return str(output)

    def public_key(self) -> str | None:
        if not self.private.exists():
            return None
        text = self.public.read_text() if self.public.exists() else self.keygen("-y", "-f", str(self.private))
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

    def apply(self, present: bool) -> dict[str, object]:
        with self.locked():
            before = self.lines()
            noted = [" ".join(line.split()[1:3]) for line in before if line.split()[:1] == [self.host]]
            stays = present and (self.module.params["beside"] or not self.module.params["replace"])
            kept = stays and bool(noted) and not self.private.exists() and not self.module.params["beside"]
            had_key = self.private.exists() or kept
            if present and not had_key and not self.module.check_mode:
                self.make()
            key = noted[0] if kept else self.public_key() if present else None
            after = [line for line in before if stays or line.split()[:1] != [self.host]]
            if present and not (stays and key in noted):
                after.append(f"{self.host} {key or 'ssh-ed25519 (to be made)'}")
            if sorted(before) == sorted(after):
                after = before
            elif not self.module.check_mode:
                self.write(after)
            if not present and not self.module.check_mode:
                self.private.unlink(missing_ok=True)
                self.public.unlink(missing_ok=True)
        changed = had_key != present or before != after
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


def main() -> None:
    spec = {
        "host": {"type": "str", "required": True},
        "state_dir": {"type": "path", "required": True},
        "replace": {"type": "bool", "default": True},
        "beside": {"type": "bool", "default": False},
        "state": {"choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if not HOST.fullmatch(module.params["host"]):
        module.fail_json(msg=f"host {module.params['host']!r} cannot be the name of a directory and of a known host")
    try:
        result = HostKey(module).apply(module.params["state"] == "present")
    except OSError as error:
        module.fail_json(msg=f"host key of {module.params['host']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
