"""Action plugin: the probe's verdict as the end of a task."""

from __future__ import annotations

import re
from typing import Any

from ansible.plugins.action import ActionBase

PROVEN, WAITING = "proven", "waiting"


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
    if not flags:
        lines.append("kamcmd dispatcher.list shows no destination")
    lines += [
        f"{label}: {overall[key]}"
        for label, key in (("Cause", "cause"), ("Evidence", "evidence"), ("Next step", "next_step"))
        if overall[key]
    ]
    return "\n".join(lines)


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "report": {"type": "dict", "required": True},
                "dispatcher": {"type": "str", "required": True},
                "accept_waiting": {"type": "bool", "default": False},
            }
        )
        report, flags = arguments["report"], flags_of(arguments["dispatcher"])
        state = report["overall"]["state"]
        proven = state == PROVEN and set(flags.values()) == {"AP"}
        result = {"changed": False, "sbc_report": report, "flags": flags}
        if proven:
            return result | {"msg": f"{report['fqdn']} is AP at every proxy, and that is true."}
        if state == WAITING and arguments["accept_waiting"]:
            return result | {"msg": explain(report, flags)}
        return result | {"failed": True, "msg": explain(report, flags)}
