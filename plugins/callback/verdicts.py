"""Callback: one table of all verdicts at the end of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import context
from ansible.plugins.callback import CallbackBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

DOCUMENTATION = r"""
name: verdicts
type: aggregate
short_description: One table of all verdicts at the end of a run
description:
  - Shows for each customer that was verified its address, FQDN, Microsoft's last OPTIONS and the verdict; its
    certificate, how renewals go, and how old the controller's copy is; for each proxy its flags, the round trip, the
    age of the last answer and the verdict; below, the cause and the next step. What is not proven comes first.
  - In a play with C(verify_pages), the whole fleet is also written to C(status/status.json) and C(status/status.html)
    beside the inventory, with every customer that it declares; see docs/fleet.md.
author: teams-sbc
"""


def seconds(value: float | None) -> str:
    """An age for people; a dash for what is not known."""
    if value is None:
        return "-"
    for limit, size, unit in ((600, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / size:.0f} {unit}"
    return f"{value / 86400:.0f} days"


def milliseconds(value: float | None) -> str:
    """A round trip for people; Kamailio measures in whole milliseconds."""
    return "-" if value is None else "<1 ms" if value < 1 else f"{value:.0f} ms"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines with columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *rows]
    ]


def certificate_of(report: dict[str, Any], now: datetime) -> list[str]:
    """Cells on a customer's certificate: its life, what is wrong with it, clientAuth, and how its renewals go."""
    facts, renewal = report["certificate"], report["renewal"]
    if facts:
        life = f" of {facts['life_days']:.0f}" if facts["life_days"] else ""
        leaf = f"{facts['days_left']:.0f}{life} days, {facts['key_type']}"
        causes = [each["cause"] for each in report["findings"]]
        wrong = [cause.removeprefix("certificate_") for cause in causes if cause.startswith("certificate_")]
        cells = [leaf, ", ".join(wrong) or "in order", "present" if facts["client_auth"] else "absent"]
    else:
        cells = ["-", "-", "-"]
    if renewal is None:
        return [*cells, "none yet" if facts else "-"]
    if renewal["failing"]:
        return [*cells, f"fails: {renewal['cause']}"]
    return [*cells, f"ran {seconds((now - datetime.fromisoformat(renewal['at'])).total_seconds())} ago"]


# How many customers are all shown in the terminal; of more, those that are proven are only counted.
SHOWN = 50


def by_severity(reports: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The most severe first, and by name; without those that are proven where there are too many."""
    from ansible.module_utils.fleet_status import severity

    ranked = sorted(reports.items(), key=lambda item: (severity(item[1]["overall"]["state"]), item[0]))
    return {name: one for name, one in ranked if len(ranked) <= SHOWN or one["overall"]["state"] != "proven"}


def lines_of(
    reports: dict[str, dict[str, Any]], copies: dict[str, dict[str, Any]], now: datetime | None = None
) -> list[str]:
    """The whole table, for the reports and the copies of certificates by customer."""
    now = now or datetime.now(UTC)
    customers, certificates, proxies, remarks = [], [], [], []
    shown = by_severity(reports)
    for name, report in shown.items():
        theirs, overall, copy = report["theirs"], report["overall"], copies.get(name, {})
        age = f"{seconds(theirs['age_s'])} ago from {theirs['source']}" if theirs else "never"
        age = age if report["destinations"] else "-"
        state = overall["state"].upper() + (" OUTBOUND" if report.get("scope") == "outbound" else "")
        customers.append([name, report["address"] or "-", report["fqdn"], age, state])
        certificates.append([name, *certificate_of(report, now), copy.get("shown", "-")])
        for entry in report["destinations"]:
            trip = milliseconds(entry["latency_ms"])
            answer = seconds(entry["answer_age_s"])
            proxies.append([name, entry["host"], entry["flags"] or "-", trip, answer, entry["verdict"]])
        remarks += [
            f"{name}: {label}: {overall[key]}"
            for label, key in (("cause", "cause"), ("evidence", "evidence"), ("next step", "next_step"))
            if overall[key]
        ]
        remarks += [f"{name}: also: {each['evidence']}. {each['next_step']}" for each in report["remarks"]]
        remarks += [f"{name}: also: {copy['problem']}"] if copy.get("problem") else []
    more = len(reports) - len(shown)
    remarks += [f"{more} more customer{' is' if more == 1 else 's are'} proven"] if more else []
    text = table(["CUSTOMER", "ADDRESS", "FQDN", "MICROSOFT'S LAST OPTIONS", "VERDICT"], customers)
    head = ["CUSTOMER", "CERTIFICATE", "STATE", "CLIENTAUTH", "RENEWAL", "SAVED COPY"]
    text += ["", *table(head, certificates)]
    if proxies:
        text += ["", *table(["CUSTOMER", "PROXY", "FLAGS", "ROUND TRIP", "LAST ANSWER", "VERDICT"], proxies)]
    return text + (["", *remarks] if remarks else [])


def believed(customer: str, report: dict[str, Any]) -> dict[str, Any]:
    """The report, or that of an old probe only in as far as it can be relied on."""
    from ansible.module_utils.fleet_status import entry_of

    entry = entry_of(customer, report, None, "", 0)
    if entry["cause"] != "old_probe":
        return report
    overall = {key: entry[key] for key in ("state", "cause", "evidence", "next_step")}
    nothing = dict.fromkeys(("certificate", "renewal", "theirs")) | {"destinations": [], "findings": [], "remarks": []}
    return {"fqdn": entry["fqdn"], "address": entry["address"], "overall": overall, **nothing}


class CallbackModule(CallbackBase):  # type: ignore[misc]  # no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "verdicts"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._reports: dict[str, dict[str, Any]] = {}
        self._copies: dict[str, dict[str, Any]] = {}
        # Why there is no report of a customer, and, where pages are wanted, each customer's inventory.
        self._silent: dict[str, str] = {}
        self._declared: dict[str, str | None] = {}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if play.get_vars().get("verify_pages"):
            # All of them, whatever --limit says: who is not asked must not seem not to be there.
            inventory = play.get_variable_manager()._inventory
            hosts = inventory.get_hosts(play.hosts, ignore_limits=True, ignore_restrictions=True)
            self._declared |= {host.name: host.vars.get("inventory_dir") for host in hosts}

    def _keep(self, result: Any) -> None:
        data = result.result if hasattr(result, "result") else result._result
        if "sbc_report" in data:
            host = result.host if hasattr(result, "host") else result._host
            self._reports[host.get_name()] = data["sbc_report"]
            self._copies[host.get_name()] = data["sbc_copy"]

    def _miss(self, result: Any) -> None:
        host = result.host if hasattr(result, "host") else result._host
        data = result.result if hasattr(result, "result") else result._result
        self._silent[host.get_name()] = str(data.get("msg") or "A task failed before the probe was asked")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._miss(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._keep(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._keep(result)
        if not ignore_errors:
            self._miss(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._reports:
            reports = {name: believed(name, report) for name, report in self._reports.items()}
            self._display.display("\n" + "\n".join(lines_of(reports, self._copies)))
        if not context.CLIARGS.get("check"):
            for directory in sorted({place for place in self._declared.values() if place}):
                self._write(Path(directory), [name for name, place in self._declared.items() if place == directory])

    def _write(self, inventory: Path, customers: Iterable[str]) -> None:
        from ansible.module_utils.fleet_status import entry_of, write

        now = time.time()
        asked = {
            name: entry_of(name, self._reports.get(name), self._copies.get(name), self._silent.get(name, ""), now)
            for name in customers
            if name in self._reports or name in self._silent
        }
        try:
            page = write(inventory, customers, asked, now)
        except OSError as error:
            self._display.warning(f"the status of all customers was not written: {error}")
        else:
            self._display.display(f"\nAll customers: {page} and status.json beside it")
