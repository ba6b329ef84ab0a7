"""Action plugin: the probe's verdict as the end of a task."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.saved_certificates import Saved, SavedError, age, seconds

PROVEN, WAITING, UNREACHABLE, ABSENT = "proven", "waiting", "unreachable", "no droplet"


def flags_of(dispatcher: str) -> dict[str, str]:
    """Flags by URI from what `kamcmd dispatcher.list` prints (Kamailio 6.0: one item a line, the URI before FLAGS)."""
    return dict(re.findall(r"URI: (\S+)(?:(?!URI:).)*?FLAGS: (\S+)", dispatcher, flags=re.DOTALL))


def explain(report: dict[str, Any], flags: dict[str, str]) -> str:
    """The failure's text: the destinations that are not proven, then cause, evidence and next step."""
    overall = report["overall"]
    lines = [f"{report['fqdn']}: {overall['state']}."]
    lines += [
        f"{entry['host']} is {entry['flags'] or 'not loaded'}"
        + (f" ({entry['flags_meaning']})" if entry["flags_meaning"] else "")
        for entry in report["destinations"]
        if entry["verdict"] != PROVEN
    ]
    named = {entry["uri"] for entry in report["destinations"] if entry["verdict"] != PROVEN}
    lines += [f"{uri}: kamcmd shows {shown}" for uri, shown in flags.items() if shown != "AP" and uri not in named]
    if not flags and overall["state"] not in (UNREACHABLE, ABSENT):
        lines.append("kamcmd dispatcher.list shows no destination")
    lines += [
        f"{label}: {overall[key]}"
        for label, key in (("Cause", "cause"), ("Evidence", "evidence"), ("Next step", "next_step"))
        if overall[key]
    ]
    return "\n".join(lines)


def silent(host: str, fqdn: str, address: str | None, why: str) -> dict[str, Any]:
    """In place of a report, of a droplet that gave none."""
    step = "ansible-playbook playbooks/verify.yml once it can be reached; sbc_ssh_sources says who may log in."
    if not address:
        step = f"ansible-playbook site.yml --limit {host} makes one."
    reasons = {"cause": "no_report", "evidence": why or "The probe said nothing", "next_step": step}
    return {
        "fqdn": fqdn,
        "address": address,
        "overall": {"state": UNREACHABLE if address else ABSENT, **reasons},
        "destinations": [],
        "certificate": None,
        "renewal": None,
        "theirs": None,
        "findings": [],
        "remarks": [],
    }


def copy_of(saved: Saved, answer: dict[str, Any], certificate: str, now: float) -> dict[str, Any]:
    """What there is to say of the controller's copy: in a word, and at length where something is wrong with it."""
    if certificate == "files":
        return {"shown": "not needed", "problem": None}
    try:
        known = saved.known() if saved.vault.exists() else {}
    except SavedError as error:
        return {"shown": "unreadable", "problem": str(error)}
    if "saved_at" not in known:
        return {"shown": "none", "problem": answer.get("problem")}
    saved_at = seconds(known["saved_at"])
    when = "just saved" if now - saved_at < 60 else f"{age(saved_at, now)} old"
    if "same" not in answer:
        seen, ends = age(saved.seen(), now), known["not_after"]
        problem = f"the droplet had it {seen} ago, and may have renewed since; the certificate in it ends on {ends}"
        return {"shown": when, "problem": f"The saved copy is {when}: {problem}"}
    if answer["same"]:
        return {"shown": f"same, {when}", "problem": None}
    problem = answer.get("problem") or "it was not replaced in this run"
    return {"shown": f"another, {when}", "problem": f"The saved copy is not what the droplet has: {problem}"}


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, given = self.validate_argument_spec(
            {
                "fqdn": {"type": "str", "required": True},
                "address": {"type": "str"},
                "report": {"type": "dict"},
                "dispatcher": {"type": "str", "required": True},
                "why_not": {"type": "str", "default": ""},
                "state_dir": {"type": "path", "required": True},
                "certificate": {"choices": ["certbot", "files"], "default": "certbot"},
                "saved": {"type": "dict", "default": {}},
                "accept_waiting": {"type": "bool", "default": False},
                "judge": {"type": "bool", "default": True},
            }
        )
        host = task_vars["inventory_hostname"]
        report = given["report"] or silent(host, given["fqdn"], given["address"], given["why_not"])
        flags = flags_of(given["dispatcher"])
        copy = copy_of(
            Saved(given["state_dir"], host, "", self._loader), given["saved"], given["certificate"], time.time()
        )
        result = {"changed": False, "sbc_report": report, "sbc_copy": copy, "flags": flags}
        return result | self._end(given, report, flags, copy)

    def _end(
        self, given: dict[str, Any], report: dict[str, Any], flags: dict[str, str], copy: dict[str, Any]
    ) -> dict[str, Any]:
        state = report["overall"]["state"]
        proven = state == PROVEN and set(flags.values()) == {"AP"}
        text = f"{report['fqdn']} is AP at every proxy, and that is true." if proven else explain(report, flags)
        passes = proven or (state == WAITING and given["accept_waiting"])
        if copy["problem"]:
            text += f"\n{copy['problem']}"
        # A certificate that is lost with its droplet is one of the five a week: worth a failure, once all else is said.
        passes = passes and not (copy["problem"] and given["saved"].get("problem"))
        return {"msg": text} if passes or not given["judge"] else {"msg": text, "failed": True}
