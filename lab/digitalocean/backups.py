"""Backups of a droplet: the policy that it has, and the policies there are.

Weekly ones are kept for four weeks, daily ones for seven days, and made in a window of four hours:
https://docs.digitalocean.com/products/backups/details/
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import unprocessable

_WINDOW_HOURS = 4
_RETENTION_DAYS = {"weekly": 28, "daily": 7}
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_HOURS = tuple(range(0, 24, _WINDOW_HOURS))
_MONDAY = 1
SUPPORTED: list[JSON] = [
    {
        "name": plan,
        "possible_window_starts": list(_HOURS),
        "window_length_hours": _WINDOW_HOURS,
        "retention_period_days": days,
        "possible_days": list(_WEEKDAYS) if plan == "weekly" else [],
    }
    for plan, days in _RETENTION_DAYS.items()
]


def policy(given: Any) -> JSON:
    """A whole policy from what a request says of it. Raises ApiError 422."""
    if given is not None and not isinstance(given, dict):
        raise unprocessable("backup_policy must be an object")
    given = given or {}
    plan, hour = given.get("plan", "weekly"), given.get("hour", 0)
    weekday = given.get("weekday") or ("SUN" if plan == "weekly" else None)
    if plan not in _RETENTION_DAYS:
        raise unprocessable("backup policy plan must be one of daily, weekly")
    if hour not in _HOURS or isinstance(hour, bool):
        raise unprocessable("backup policy hour must be one of 0, 4, 8, 12, 16, 20")
    if plan == "daily" and weekday:
        raise unprocessable("backup policy weekday must not be set for daily backups")
    if plan == "weekly" and weekday not in _WEEKDAYS:
        raise unprocessable("backup policy weekday is invalid")
    return {
        "plan": plan,
        **({"weekday": weekday} if weekday else {}),
        "hour": hour,
        "window_length_hours": _WINDOW_HOURS,
        "retention_period_days": _RETENTION_DAYS[plan],
    }


def next_window(policy: JSON | None) -> JSON | None:
    """When the next backup is made, in the API's shape; None without a policy."""
    if policy is None:
        return None
    start = datetime.now(UTC).replace(hour=policy["hour"], minute=0, second=0, microsecond=0) + timedelta(days=1)
    while "weekday" in policy and _WEEKDAYS[(start.weekday() + _MONDAY) % len(_WEEKDAYS)] != policy["weekday"]:
        start += timedelta(days=1)
    end = start + timedelta(hours=policy["window_length_hours"])
    return {name: time.strftime("%Y-%m-%dT%H:%M:%SZ") for name, time in (("start", start), ("end", end))}
