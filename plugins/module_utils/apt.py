"""apt-get for modules: nobody is asked, what the user changed in files of packages stays, other runs are waited for."""

from __future__ import annotations

import re
import time

from ansible.module_utils.basic import AnsibleModule

ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
LOCK_SECONDS = 300
APT = [
    *("apt-get", "--quiet", "--yes", "--option", f"DPkg::Lock::Timeout={LOCK_SECONDS}"),
    *("--option", "Dpkg::Options::=--force-confdef", "--option", "Dpkg::Options::=--force-confold"),
]
REMEDIES = (
    ("Could not resolve|Temporary failure resolving", "the machine resolves no names: resolvectl status"),
    (
        "Could not connect|Connection timed out|Connection refused|Unable to connect",
        "no mirror is reached: see base_apt_proxy",
    ),
    ("No space left", "its disk is full: df -h"),
    ("Could not get lock", "another package run holds the lock; run again when it has ended"),
)


def finish_interrupted(module: AnsibleModule) -> None:
    """Finish what a run that was cut off inside dpkg has left: nothing more can be installed until then."""
    configure = ["dpkg", "--configure", "--pending", "--force-confdef", "--force-confold"]
    module.run_command(configure, environ_update=ENVIRONMENT)


def apt(module: AnsibleModule, *arguments: str, **result: object) -> str:
    """Run apt-get and return what it printed; when it fails, end the module with its words, advice and `result`.

    While another one holds the lists, which DPkg::Lock::Timeout does not cover, it is waited for.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        rc, out, err = module.run_command([*APT, *arguments], environ_update=ENVIRONMENT)
        if rc == 0:
            return str(out)
        if "Could not get lock" not in err or time.monotonic() > deadline:
            break
        time.sleep(2)
    said = out + err
    advice = next((advice for pattern, advice in REMEDIES if re.search(pattern, said)), "see what it said")
    verb = next(argument for argument in arguments if not argument.startswith("-"))
    problem = f"apt-get {verb} failed: {advice}"
    module.fail_json(msg=problem, said=[line for line in said.splitlines() if line[:2] in ("E:", "W:")], **result)
    raise AssertionError("fail_json does not return")
