#!/usr/bin/python
"""Ansible module: Debian's packages brought up to date, and what ran on replaced files restarted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrades
short_description: Debian's packages brought up to date, and what ran on replaced files restarted
description:
  - Installs the upgrades that wait, those that unattended-upgrades leaves alone among them. Nothing is removed for one.
  - A service that still runs on files that were replaced, by this run or before, is restarted.
  - Says whether a reboot is needed; it does not reboot.
options: {}
attributes:
  check_mode:
    description: Changes nothing and says what would be upgraded, by the machine's latest look at the mirrors.
    support: full
  diff_mode:
    description: Lists the packages with their versions.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: What waits is installed
  upgrades:
"""

RETURN = r"""
upgraded:
  description: The packages that were, or would be, upgraded.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The package., type: str}
    old: {description: The version that was installed; empty for a package that comes with another., type: str}
    new: {description: The version that takes its place., type: str}
restarted:
  description: The services that were, or would be, restarted because they ran on replaced files.
  returned: always
  type: list
  elements: str
reboot:
  description: Why the machine needs a reboot; empty if it does not.
  returned: always
  type: list
  elements: str
"""

import contextlib
import fnmatch
import re
from pathlib import Path

from ansible.module_utils.apt import apt, finish_interrupted
from ansible.module_utils.basic import AnsibleModule

PROC = Path("/proc")
# Made by packages that want one when they are installed: a kernel's, by unattended-upgrades' hook, and others.
REBOOT_REQUIRED = Path("/run/reboot-required")
# A restart of these takes more with it than a reboot does.
SPARED = ("dbus.service", "dbus-broker.service", "systemd-logind.service")
# These are as old as somebody's session, and end with it.
SESSIONS = ("user@*.service", "getty@*.service", "serial-getty@*.service")
# Nothing is removed to make an upgrade possible, and what a new version needs besides comes with it.
UPGRADE = ("upgrade", "--with-new-pkgs")


def upgrades_in(simulated: str) -> list[dict[str, str]]:
    """What apt-get would install, read from what `apt-get --simulate` prints."""
    found = re.findall(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+) ", simulated, flags=re.MULTILINE)
    return [{"name": name, "old": old, "new": new} for name, old, new in sorted(found)]


def runs_on_replaced_files(process: Path) -> bool:
    """Whether a process has a file of a package in use that is no longer there. Raises OSError if it has ended."""
    maps = (process / "maps").read_text(errors="replace")
    return bool(re.search(r" /usr/\S+ \(deleted\)$", maps, flags=re.MULTILINE))


def outdated(module: AnsibleModule) -> set[str]:
    """The units whose processes run on replaced files, but for sessions; `init.scope` is systemd itself."""
    units: dict[str, set[str]] = {}
    for process in PROC.glob("[0-9]*"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            if runs_on_replaced_files(process):
                unit = (process / "cgroup").read_text().rpartition("0::")[2].strip().rpartition("/")[2]
                units.setdefault(unit, set()).add(process.name)
    return {
        unit
        for unit, processes in units.items()
        if not any(fnmatch.fnmatch(unit, pattern) for pattern in SESSIONS)
        and (not unit.endswith(".service") or processes & ended_by_restart(module, unit, processes))
    }


def ended_by_restart(module: AnsibleModule, unit: str, processes: set[str]) -> set[str]:
    """Those of a service's processes that a restart ends: sshd's sessions, for one, go on."""
    _, shown, _ = module.run_command(["systemctl", "show", "--property=KillMode,MainPID", unit], check_rc=True)
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {facts["MainPID"]} if facts.get("KillMode") == "process" else processes


def asked_for() -> list[str]:
    """Who asks for a reboot, by the files that Debian's packages leave for this; the names may be missing."""
    if not REBOOT_REQUIRED.exists():
        return []
    try:
        packages = sorted(set(REBOOT_REQUIRED.with_suffix(".pkgs").read_text().split()))
    except FileNotFoundError:
        packages = []
    return [f"a reboot is asked for by {', '.join(packages)}" if packages else "a reboot is asked for"]


def main() -> None:
    module = AnsibleModule({}, supports_check_mode=True)
    if not module.check_mode:
        finish_interrupted(module)
        apt(module, "update")
    upgraded = upgrades_in(apt(module, "--simulate", *UPGRADE))
    if upgraded and not module.check_mode:
        apt(module, *UPGRADE)
    old = outdated(module)
    restarted = sorted(unit for unit in old if unit.endswith(".service") and unit not in SPARED)
    reboot = [f"{unit} runs on replaced files and cannot be restarted" for unit in sorted(old.intersection(SPARED))]
    reboot += asked_for()
    if not module.check_mode:
        if "init.scope" in old:
            module.run_command(["systemctl", "daemon-reexec"], check_rc=True)
        for unit in restarted:
            module.run_command(["systemctl", "restart", unit], check_rc=True)
    module.exit_json(
        changed=bool(upgraded or restarted),
        upgraded=upgraded,
        restarted=restarted,
        reboot=reboot,
        diff={
            "before": "".join(f"{each['name']} {each['old']}\n" for each in upgraded),
            "after": "".join(f"{each['name']} {each['new']}\n" for each in upgraded),
        },
    )


if __name__ == "__main__":
    main()
