"""Callback: one table of all verdicts at the end of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: verdicts
type: aggregate
short_description: One table of all verdicts at the end of a run
description:
  - Shows for each customer that was verified its address, FQDN, Microsoft's last OPTIONS and the verdict; its
    certificate, how renewals go, and how old the controller's copy is; for each proxy its flags, the round trip, the
    age of the last answer and the verdict; below, the cause and the next step.
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


def lines_of(
    reports: dict[str, dict[str, Any]], copies: dict[str, dict[str, Any]], now: datetime | None = None
) -> list[str]:
    """The whole table, for the reports and the copies of certificates by customer."""
    now = now or datetime.now(UTC)
    customers, certificates, proxies, remarks = [], [], [], []
    for name, report in sorted(reports.items()):
        theirs, overall, copy = report["theirs"], report["overall"], copies.get(name, {})
        age = f"{seconds(theirs['age_s'])} ago from {theirs['source']}" if theirs else "never"
        age = age if report["destinations"] else "-"
        customers.append([name, report["address"] or "-", report["fqdn"], age, overall["state"].upper()])
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
    text = table(["CUSTOMER", "ADDRESS", "FQDN", "MICROSOFT'S LAST OPTIONS", "VERDICT"], customers)
    head = ["CUSTOMER", "CERTIFICATE", "STATE", "CLIENTAUTH", "RENEWAL", "SAVED COPY"]
    text += ["", *table(head, certificates)]
    if proxies:
        text += ["", *table(["CUSTOMER", "PROXY", "FLAGS", "ROUND TRIP", "LAST ANSWER", "VERDICT"], proxies)]
    return text + (["", *remarks] if remarks else [])


class CallbackModule(CallbackBase):  # type: ignore[misc]  # no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "verdicts"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._reports: dict[str, dict[str, Any]] = {}
        self._copies: dict[str, dict[str, Any]] = {}

    def _keep(self, result: Any) -> None:
        data = result.result if hasattr(result, "result") else result._result
        if "sbc_report" in data:
            host = result.host if hasattr(result, "host") else result._host
            self._reports[host.get_name()] = data["sbc_report"]
            self._copies[host.get_name()] = data["sbc_copy"]

    def v2_runner_on_ok(self, result: Any) -> None:
        self._keep(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._keep(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._reports:
            self._display.display("\n" + "\n".join(lines_of(self._reports, self._copies)))
