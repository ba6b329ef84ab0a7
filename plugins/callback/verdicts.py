"""Callback: one table of all verdicts at the end of a run."""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: verdicts
type: aggregate
short_description: One table of all verdicts at the end of a run
description:
  - Shows for each customer that was verified its address, FQDN, certificate and Microsoft's last OPTIONS, and for each
    proxy its flags, the round trip, the age of the last answer and the verdict; below, the cause and the next step.
author: teams-sbc
"""


def seconds(value: float | None) -> str:
    """An age for people; a dash for what is not known."""
    return "-" if value is None else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


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


def lines_of(reports: dict[str, dict[str, Any]]) -> list[str]:
    """The whole table, for the reports by customer."""
    customers, proxies, remarks = [], [], []
    for name, report in sorted(reports.items()):
        certificate, theirs, overall = report["certificate"], report["theirs"], report["overall"]
        leaf = f"{certificate['days_left']:.0f} days, {certificate['key_type']}" if certificate else "-"
        age = f"{seconds(theirs['age_s'])} ago from {theirs['source']}" if theirs else "never"
        customers.append([name, report["address"], report["fqdn"], leaf, age, overall["state"].upper()])
        for entry in report["destinations"]:
            trip = milliseconds(entry["latency_ms"])
            answer = seconds(entry["answer_age_s"])
            proxies.append([name, entry["host"], entry["flags"] or "-", trip, answer, entry["verdict"]])
        remarks += [
            f"{name}: {label}: {overall[key]}"
            for label, key in (("cause", "cause"), ("evidence", "evidence"), ("next step", "next_step"))
            if overall[key]
        ]
    head = ["CUSTOMER", "ADDRESS", "FQDN", "CERTIFICATE", "MICROSOFT'S LAST OPTIONS", "VERDICT"]
    text = table(head, customers)
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

    def _keep(self, result: Any) -> None:
        data = result.result if hasattr(result, "result") else result._result
        if "sbc_report" in data:
            host = result.host if hasattr(result, "host") else result._host
            self._reports[host.get_name()] = data["sbc_report"]

    def v2_runner_on_ok(self, result: Any) -> None:
        self._keep(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._keep(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._reports:
            self._display.display("\n" + "\n".join(lines_of(self._reports)))
