#!/usr/bin/python
"""Ansible module: many small files of one machine in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Many small files of one machine in one task
description:
  - Makes sure that files have exactly this content, owner, group and mode, or that they do not exist, and that what
    they are for is running.
  - Each is written beside its place and renamed, so that a reader sees the old file or the new one.
  - One task for all of them, because each task of its own costs a round trip to every machine.
options:
  files:
    description: The files. Missing directories are made (mode 0755).
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: Its text. With neither this nor O(files[].base64) the file shall not exist.
        type: str
      base64:
        description: Its bytes, in base64.
        type: str
      validate:
        description: Shell command that must accept it before it is put in its place; C(%s) stands for the new file.
        type: str
      mode:
        description: Its permissions, in octal.
        type: str
        default: "0644"
      owner:
        description: Its owner; by default the user that the task runs as.
        type: str
      group:
        description: Its group; by default that of the user that the task runs as.
        type: str
  exclusive:
    description:
      - Patterns of absolute paths; a file that matches one and is not among O(files) is removed.
      - So is a directory that a pattern's wildcard stands for, if nothing is left in it.
    type: list
    elements: str
    default: []
  apply:
    description:
      - What puts changed files in force, in this order.
      - A command that is due is noted on the machine before the first file is written, and crossed out when it has
        succeeded, so that a run that was interrupted is finished by the next one.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description: A shell command.
        type: str
        required: true
      paths:
        description: Patterns of the paths that it is for.
        type: list
        elements: str
        required: true
  units:
    description: Units of systemd that shall be running and enabled, looked at when everything else is done.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing and says what would be changed.
    support: full
  diff_mode:
    description: One difference for each file that changes. Files of mode 0600 or 0640, and binary ones, are not shown.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: The machine's own files
  files:
    files:
      - {path: /etc/nftables.conf, content: "{{ lookup('ansible.builtin.template', 'nftables.conf') }}", mode: "0755"}
      - {path: /etc/apt/apt.conf.d/proxy}
    apply:
      - {command: nft -f /etc/nftables.conf, paths: [/etc/nftables.conf]}
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were, or would be, changed or removed.
  returned: always
  type: list
  elements: str
  sample: [/etc/nftables.conf]
applied:
  description: The commands that were, or would be, run.
  returned: always
  type: list
  elements: str
started_units:
  description: The units that did not run or were not enabled.
  returned: success
  type: list
  elements: str
"""

import base64
import contextlib
import fnmatch
import glob
import grp
import hashlib
import os
import pwd
import shlex
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DUE = Path("/var/lib/teams-sbc/due")


@dataclass(frozen=True)
class File:
    """What a file shall be; `content` None means that it shall not exist."""

    path: str
    content: bytes | None
    mode: int
    owner: str | None = None
    group: str | None = None
    validate: str | None = None

    @classmethod
    def parse(cls, given: dict[str, Any]) -> File:
        """Read a file's parameters. Raises ValueError that names the path and what is wrong with it."""
        path, text, encoded = given["path"], given["content"], given["base64"]
        if not os.path.isabs(path):
            raise ValueError(f"{path}: not an absolute path")
        try:
            content = text.encode() if text is not None else None if encoded is None else base64.b64decode(encoded)
            mode = int(given["mode"], 8)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(path, content, mode, given["owner"], given["group"], given["validate"])

    @property
    def secret(self) -> bool:
        return not self.mode & stat.S_IROTH

    def numbers(self) -> tuple[int, int] | None:
        """Owner and group as numbers; None while the machine does not know one of them."""
        try:
            owner = os.geteuid() if self.owner is None else pwd.getpwnam(self.owner).pw_uid
            return owner, os.getegid() if self.group is None else grp.getgrnam(self.group).gr_gid
        except KeyError:
            return None


def read(path: str) -> bytes | None:
    """A file's content; None if there is none."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


def differs(file: File, present: bytes | None) -> bool:
    """Whether the file on disk is not what it shall be."""
    if present != file.content:
        return True
    if file.content is None:
        return False
    found = os.stat(file.path)
    return stat.S_IMODE(found.st_mode) != file.mode or (found.st_uid, found.st_gid) != file.numbers()


def put(file: File, run: Callable[..., tuple[int, str, str]]) -> None:
    """Write or remove a file. Raises OSError, or ValueError for an unknown owner or content that is not valid."""
    if file.content is None:
        os.unlink(file.path)
        return
    numbers = file.numbers()
    if numbers is None:
        raise ValueError(f"the machine has no user {file.owner} or no group {file.group}")
    directory = os.path.dirname(file.path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=directory, prefix=".sbc-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(file.content)
            stream.flush()
            os.fchown(handle, *numbers)
            os.fchmod(handle, file.mode)
            os.fsync(handle)
        if file.validate:
            rc, out, err = run(file.validate.replace("%s", shlex.quote(unfinished)), use_unsafe_shell=True)
            if rc != 0:
                raise ValueError(f"not installed, since `{file.validate}` exited {rc}: {(err or out).strip()}")
        os.replace(unfinished, file.path)
    except BaseException:
        os.unlink(unfinished)
        raise


def describe(file: File, present: bytes | None) -> dict[str, str]:
    """The difference that is shown to the reader."""

    def shown(content: bytes | None) -> str:
        if content is None:
            return ""
        if file.secret:
            return "(not shown)\n"
        try:
            return content.decode()
        except UnicodeDecodeError:
            return f"({len(content)} bytes)\n"

    return {
        "before_header": file.path,
        "after_header": file.path,
        "before": shown(present),
        "after": shown(file.content),
    }


FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str"},
    "base64": {"type": "str"},
    "validate": {"type": "str"},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(
        {
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": FILE,
                "mutually_exclusive": [("content", "base64")],
            },
            "exclusive": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "apply": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "command": {"type": "str", "required": True},
                    "paths": {"type": "list", "elements": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        files = [File.parse(given) for given in module.params["files"]]
    except ValueError as error:
        module.fail_json(msg=str(error))
    wanted = {file.path for file in files}
    strays = {path for pattern in module.params["exclusive"] for path in glob.glob(pattern)} - wanted
    files += [File(path, None, 0) for path in sorted(strays)]
    pending = [(file, present) for file in files if differs(file, present := read(file.path))]
    changed = [file.path for file, _ in pending]
    due = [
        (apply["command"], noted)
        for place, apply in enumerate(module.params["apply"])
        if (noted := note(place, apply["paths"])).exists()
        or any(fnmatch.filter(changed, pattern) for pattern in apply["paths"])
    ]
    result = {
        "changed": bool(changed or due),
        "changed_files": changed,
        "applied": [command for command, _ in due],
        "diff": [describe(file, present) for file, present in pending],
    }
    if not module.check_mode:
        if due:
            DUE.mkdir(parents=True, exist_ok=True)
        for command, noted in due:
            noted.write_text(command + "\n")
        for file, _ in pending:
            try:
                put(file, module.run_command)
            except (OSError, ValueError) as error:
                module.fail_json(msg=f"{file.path}: {error}", **result)
        for directory in {os.path.dirname(path) for path in strays if in_a_wildcard(path, module.params["exclusive"])}:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        for command, noted in due:
            rc, out, err = module.run_command(command, use_unsafe_shell=True)
            if rc != 0:
                module.fail_json(msg=f"`{command}` exited {rc}: {(err or out).strip()}", **result)
            noted.unlink()
    idle = [unit for unit in module.params["units"] if not runs(module, unit)]
    if idle and not module.check_mode:
        # Without --no-reload every enable would let systemd read all units again.
        for verb in ("enable --quiet --no-reload", "start"):
            rc, out, err = module.run_command(["systemctl", *verb.split(), *idle])
            if rc != 0:
                module.fail_json(msg=f"systemctl {verb} {' '.join(idle)}: {(err or out).strip()}", **result)
    module.exit_json(**result | {"changed": result["changed"] or bool(idle), "started_units": idle})


def in_a_wildcard(path: str, patterns: list[str]) -> bool:
    """Whether the directory of a path is one that a pattern's wildcard stands for."""
    directories = map(os.path.dirname, patterns)
    return any(glob.has_magic(each) and fnmatch.fnmatch(os.path.dirname(path), each) for each in directories)


def runs(module: AnsibleModule, unit: str) -> bool:
    """Whether a unit is running and enabled."""
    _, out, _ = module.run_command(["systemctl", "show", "--property=ActiveState,UnitFileState", "--value", unit])
    return bool(out.split() == ["active", "enabled"])


def note(place: int, paths: list[str]) -> Path:
    """The file that says that what these paths are for is not in force yet; the command itself may change meanwhile."""
    return DUE / hashlib.sha256("\n".join([str(place), *paths]).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
