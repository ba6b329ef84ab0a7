"""Customers on paper: what their probes printed, and what a run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sbc_probe.report import SCHEMA
from tests.plugins.machine import load

fleet_status = load("module_utils", "fleet_status")
Entry = dict[str, Any]

NOW = 1_800_000_000.0
RUDE = "403 <script>document.title = 'gone'</script>"
PROXIES = [f"sip{number}.pstnhub.microsoft.com" for number in ("", 2, 3)]


def report(
    customer: str,
    state: str = "proven",
    cause: str | None = None,
    evidence: str | None = None,
    bad: tuple[int, ...] = (0, 1, 2),
    **changes: Any,
) -> dict[str, Any]:
    """What a probe printed; where it is not proven, the proxies with the numbers `bad` are the reason."""
    reason: dict[str, str | None] = {"evidence": evidence or RUDE, "next_step": "The words of `sbc-probe explain`."}
    if state == "proven":
        reason, bad = {"evidence": None, "next_step": None}, ()
    overall = {"state": state, "cause": cause, **reason}
    destinations = [
        {
            "uri": f"sip:{host}:5061;transport=tls",
            "host": host,
            "flags": "IP" if number in bad else "AP",
            "flags_meaning": "in words",
            "verdict": state if number in bad else "proven",
            "latency_ms": 3.0,
            "answer_age_s": 3.0,
        }
        for number, host in enumerate(PROXIES)
    ]
    common = {
        "schema": SCHEMA,
        "fqdn": f"sbc.{customer}.example",
        "address": "203.0.113.10",
        "overall": overall,
        "destinations": destinations,
        "certificate": {"days_left": 60.0, "life_days": 90.0, "key_type": "RSA", "client_auth": False},
        "renewal": None,
        "theirs": {"age_s": 20.0, "source": "52.112.0.1"},
        "findings": [],
        "remarks": [],
    }
    return common | changes


def entries(*reports: tuple[str, dict[str, Any] | None], at: float = NOW) -> dict[str, Entry]:
    return {
        customer: fleet_status.entry_of(customer, found, None, "No route to host", at) for customer, found in reports
    }


def page_of_many(directory: Path, count: int) -> Path:
    """The page of a fleet of that many proven customers and of some that are not, written to a directory."""
    forbidden = f'{PROXIES[1]}: answers our OPTIONS with 403 Forbidden; Q.850;cause=63;text="no such trunk"'
    expired = "The certificate ended on 2026-11-20 10:00 UTC"
    ending = {"evidence": "certbot failed 3 times since 2026-11-20", "next_step": "Make room: `df -h`."}
    some = entries(
        *((f"customer-{number:04}", report(f"customer-{number:04}")) for number in range(count)),
        ("fabrikam", report("fabrikam", "failed", "proxy_forbids", forbidden, bad=(1,))),
        ("tailspin", report("tailspin", "failed", "certificate_expired", expired)),
        ("wingtip", report("wingtip", "waiting", "trunk_missing", "Every proxy answers 403")),
        ("adatum", report("adatum", remarks=[ending])),
        ("northwind", None),
    )
    page: Path = fleet_status.write(directory, some, some, NOW)
    return page
