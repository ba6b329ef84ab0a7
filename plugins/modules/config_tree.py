# Copyright: teams-sbc contributors
"""Install a directory of configuration files as one tree, with a way back."""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import grp
import hashlib
import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: config_tree
short_description: Install a directory of templates as one tree, judged after the swap, with a way back
description:
  - Renders every file below O(src) on the controller and installs all of them in one task.
  - Each change makes a new directory below I(dest)/trees. The link I(dest)/live is swapped to it in one step, so
    programs read I(dest)/live and never see half a change.
  - The new tree is checked with O(validate) before the swap. After it, the program is restarted, or only told to
    reload, and O(judge) decides. If any of these fails, the last good tree (I(dest)/good) returns, the program is
    restarted, and the task fails and says so.
  - On a first installation there is nothing to return to. The task then fails, and the next run tries again.
  - A run that was interrupted between the swap and the verdict is finished by the next one.
  - Files are equal when path, content, owner, group and mode are. Edits made by hand below I(dest)/live are drift, and
    are replaced.
options:
  src:
    description:
      - Directory of templates on the controller, subdirectories included. Names that start with a dot are left out.
      - Paths are searched for, and templates rendered, as M(ansible.builtin.template) does.
    type: str
    required: true
  files:
    description:
      - The rendered files, content by relative path. The action plugin fills this in; it is not set in a playbook.
    type: dict
  dest:
    description: Directory that holds I(trees), I(live) and I(good). Its parent must exist.
    type: path
    required: true
  owner:
    description: Owner of files and directories. By default the user that the task runs as.
    type: str
  group:
    description: Group of files and directories. By default the group of the user that the task runs as.
    type: str
  mode:
    description: Mode of the files, in octal. A directory can also be entered by whoever may read it.
    type: str
    default: "0644"
  validate:
    description: Shell command that checks a tree before the swap; C(%s) stands for its directory.
    type: str
  reload:
    description:
      - Shell commands for files that the program can read again while it runs, by path pattern (C(*) matches C(/) too).
      - They are run, in the order given, when every changed file matches a pattern. Any other change restarts.
    type: dict
    default: {}
  restart:
    description: Shell command that restarts the program, and starts it if it does not run.
    type: str
    required: true
  alive:
    description: Shell command that exits 0 while the program runs. If it does not run, it is restarted and judged.
    type: str
  judge:
    description: Shell command that exits 0 when the program works as it should with the new tree.
    type: str
  keep:
    description: How many trees to keep, the live one and the last good one included. These two are never removed.
    type: int
    default: 3
attributes:
  check_mode:
    support: full
    description:
      - Renders and compares; changes nothing. Of the commands only O(alive) is run, so it must change nothing either.
      - An O(owner) or O(group) that does not exist yet is no failure then. A task before this one would have made it.
  diff_mode:
    support: full
    description: One diff for each file.
"""

EXAMPLES = r"""
- name: Install Kamailio's configuration
  config_tree:
    src: kamailio
    dest: /etc/kamailio
    group: kamailio
    mode: "0640"
    validate: kamailio -c -f %s/kamailio.cfg
    reload:
      tls.cfg: kamcmd tls.reload | grep ^Ok
      dispatcher.list: kamcmd dispatcher.reload | grep ^Ok && kamcmd evrexec.run evrexec:ping
    restart: systemctl restart kamailio
    alive: systemctl --quiet is-active kamailio
    judge: sbc-probe check --ours
"""

RETURN = r"""
tree:
  description: Directory of the new tree; where nothing changed and in check mode, the one that I(live) points to.
  returned: always
  type: str
  sample: /etc/kamailio/trees/20260131T120000.000000Z-3f2a9c1d
action:
  description: What the change took.
  returned: always
  type: str
  choices: [none, reload, restart]
files:
  description: The files that were added, changed or removed.
  returned: always
  type: list
  elements: str
  sample: [dispatcher.list]
"""

UNKNOWN = -1


@dataclass(frozen=True)
class File:
    content: str
    uid: int
    gid: int
    mode: int

    @property
    def rights(self) -> str:
        return f"{self.uid}:{self.gid} {self.mode:04o}\n"


class StepFailed(Exception):
    """A command that should have exited 0 did not; the text says which, and what it printed."""


def read_tree(root: Path) -> dict[str, File]:
    """All files below root, by relative path. An absent root is an empty tree."""
    tree = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            status = path.stat()
            content = path.read_text(encoding="utf-8", errors="surrogateescape")
            tree[str(path.relative_to(root))] = File(content, status.st_uid, status.st_gid, status.st_mode & 0o7777)
    return tree


def write_tree(root: Path, tree: dict[str, File]) -> None:
    """Write the files to disk, directories with the files' owner and an x for every r of their mode."""
    root.mkdir()
    for name, file in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            os.fchown(stream.fileno(), file.uid, file.gid)
            os.fchmod(stream.fileno(), file.mode)
            stream.write(file.content)
            stream.flush()
            os.fsync(stream.fileno())
        for directory in path.parents:
            os.chown(directory, file.uid, file.gid)
            directory.chmod(0o700 | file.mode | (file.mode & 0o444) >> 2)
            if directory == root:
                break


def point(link: Path, target: Path) -> None:
    """Let link point to target, in one step."""
    new = link.with_name(f".{link.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(os.path.relpath(target, link.parent))
    new.replace(link)


def target_of(link: Path) -> Path | None:
    """Where link points to, if anything is there."""
    return link.resolve() if link.is_symlink() and link.exists() else None


def identity(module: AnsibleModule, parameter: str, kind: str, number: Callable[[str], int]) -> int:
    """The number of the owner or group; UNKNOWN, which no file has, where check mode finds none yet."""
    name = module.params[parameter]
    try:
        return number(name)
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"{parameter} = {name}: no such {kind} on this machine")
        return UNKNOWN


def wanted_tree(module: AnsibleModule) -> dict[str, File]:
    parameters = module.params
    uid, gid = os.geteuid(), os.getegid()
    if parameters["owner"]:
        uid = identity(module, "owner", "user", lambda name: pwd.getpwnam(name).pw_uid)
    if parameters["group"]:
        gid = identity(module, "group", "group", lambda name: grp.getgrnam(name).gr_gid)
    try:
        mode = int(parameters["mode"], 8)
    except ValueError:
        module.fail_json(msg=f"mode = {parameters['mode']}: not an octal number such as 0640")
    return {name: File(content, uid, gid, mode) for name, content in sorted(parameters["files"].items())}


def differences(module: AnsibleModule, before: dict[str, File], after: dict[str, File]) -> list[dict[str, str]]:
    """One diff for each file whose content differs, and one line for each that differs in owner or mode only."""
    diffs = []
    for name in changed_files(before, after):
        old, new = before.get(name), after.get(name)
        entry = {
            "before_header": f"{module.params['dest']}/live/{name}" if old else "/dev/null",
            "after_header": f"{module.params['src']}/{name}" if new else "/dev/null",
            "before": old.content if old else "",
            "after": new.content if new else "",
        }
        if old and new and old.content == new.content:
            entry |= {"before": old.rights, "after": new.rights}
        diffs.append(entry)
    return diffs


def changed_files(before: dict[str, File], after: dict[str, File]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def reload_commands(patterns: dict[str, str], changed: list[str]) -> list[str] | None:
    """The commands that cover every changed file, or None when only a restart does."""
    if not all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in changed):
        return None
    return [command for pattern, command in patterns.items() if fnmatch.filter(changed, pattern)]


class Installation:
    """The directory `dest`: its trees, and the links to the live one and to the last good one."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        dest = Path(module.params["dest"])
        self.trees = dest / "trees"
        self.live = dest / "live"
        self.good = dest / "good"

    def run(self, step: str, command: str | None) -> None:
        if command is None:
            return
        code, out, err = self.module.run_command(command, use_unsafe_shell=True)
        if code != 0:
            said = "\n".join(text.strip() for text in (out, err) if text.strip()) or "(it printed nothing)"
            raise StepFailed(f"{step} (`{command}`) exited {code}:\n{said}")

    def is_alive(self) -> bool:
        alive = self.module.params["alive"]
        return alive is None or self.module.run_command(alive, use_unsafe_shell=True)[0] == 0

    def lay(self, wanted: dict[str, File]) -> Path:
        """Write the new tree beside the others and validate it."""
        digest = hashlib.sha256(repr(wanted).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        now = datetime.datetime.now(datetime.UTC)
        tree = self.trees / f"{now:%Y%m%dT%H%M%S.%fZ}-{digest}"
        self.trees.mkdir(parents=True, exist_ok=True)
        self.trees.chmod(0o755)
        write_tree(tree, wanted)
        validate = self.module.params["validate"]
        try:
            self.run("validate", validate.replace("%s", str(tree)) if validate else None)
        except StepFailed as failure:
            shutil.rmtree(tree)
            self.module.fail_json(msg=f"Nothing was changed, the new configuration is not valid: {failure}")
        return tree

    def apply(self, tree: Path, reloads: list[str] | None) -> None:
        """Make the tree live and let the program and the judge speak."""
        point(self.live, tree)
        if reloads is None:
            self.run("restart", self.module.params["restart"])
        for command in reloads or []:
            self.run("reload", command)
        self.run("judge", self.module.params["judge"])
        point(self.good, tree)

    def go_back(self, good: Path) -> str:
        """Return to the last good tree; tells how that went."""
        try:
            self.apply(good, None)
        except StepFailed as failure:
            return f"The last good configuration ({good}) is back, but it does not work either: {failure}"
        return f"The last good configuration ({good}) is back and works."

    def prune(self) -> None:
        held = {target_of(self.live), target_of(self.good)} - {None}
        others = sorted(tree for tree in self.trees.iterdir() if tree.resolve() not in held)
        spare = max(self.module.params["keep"] - len(held), 0)
        for tree in others[: max(len(others) - spare, 0)]:
            shutil.rmtree(tree)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "str", "required": True},
            "files": {"type": "dict"},
            "dest": {"type": "path", "required": True},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str", "default": "0644"},
            "validate": {"type": "str"},
            "reload": {"type": "dict", "default": {}},
            "restart": {"type": "str", "required": True},
            "alive": {"type": "str"},
            "judge": {"type": "str"},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    if not module.params["files"]:
        module.fail_json(msg=f"src = {module.params['src']}: no files. The action plugin config_tree renders them.")

    installation = Installation(module)
    wanted = wanted_tree(module)
    live, good = target_of(installation.live), target_of(installation.good)
    present = read_tree(live) if live else {}
    # A tree that was never judged good is not what the program is known to run.
    changed = changed_files(present if live == good else read_tree(good) if good else {}, wanted)
    result: dict[str, object] = {"changed": True, "files": changed, "action": "restart", "tree": live and str(live)}
    if module._diff:
        result["diff"] = differences(module, present, wanted)

    in_place = live is not None and live == good
    if in_place and not changed and installation.is_alive():
        module.exit_json(**result | {"changed": False, "action": "none"})
    reloads = reload_commands(module.params["reload"], changed) if in_place and installation.is_alive() else None
    if reloads is not None:
        result["action"] = "reload"
    if module.check_mode:
        module.exit_json(**result)

    tree = installation.lay(wanted) if changed or not live else live
    result["tree"] = str(tree)
    try:
        installation.apply(tree, reloads)
    except StepFailed as failure:
        ending = installation.go_back(good) if good else "There is no earlier good configuration to return to."
        installation.prune()
        module.fail_json(msg=f"The new configuration was refused. {ending}\n{failure}", **result)
    installation.prune()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
