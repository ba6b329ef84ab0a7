"""What is being done, and was: every action on a droplet, a reserved IP or an image."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lab.digitalocean.catalogue import JSON, REGIONS
from lab.digitalocean.errors import not_found


class Actions:
    """Actions by id, and by what they are done to: a type of resource and its id. `get` raises ApiError 404."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        self._all: dict[int, JSON] = {}
        self._of: dict[tuple[str, int], list[JSON]] = {}

    def begin(self, kind: str, resource_type: str, resource_id: int, region: str, **more: Any) -> JSON:
        action: JSON = {
            "id": self._new_id(),
            "status": "in-progress",
            "type": kind,
            "started_at": now(),
            "completed_at": None,
            "resource_id": resource_id,
            "resource_type": resource_type,
            "region": REGIONS[region],
            "region_slug": region,
            **more,
        }
        self._add(action)
        return action

    def running(self, resource_type: str, resource_id: int) -> list[JSON]:
        """Those on one resource that have not ended. No resource has ever more than a few."""
        return [action for action in self._of.get((resource_type, resource_id), ()) if not action["completed_at"]]

    def end(self, resource_type: str, resource_id: int, status: str) -> None:
        """End all that run on a resource."""
        for action in self.running(resource_type, resource_id):
            action.update(status=status, completed_at=now())

    def of(self, resource_type: str, resource_id: int) -> list[JSON]:
        """Every action on a resource, the newest first."""
        return self._of.get((resource_type, resource_id), [])[::-1]

    def all(self) -> list[JSON]:
        """Every action, the newest first."""
        return list(self._all.values())[::-1]

    def get(self, id: int, resource_type: str | None = None, resource_id: int | None = None) -> JSON:
        """One action, of the given resource if one is given."""
        action = self._all.get(id)
        if action is None:
            raise not_found()
        if resource_type and (action["resource_type"], action["resource_id"]) != (resource_type, resource_id):
            raise not_found()
        return action

    def dump(self) -> list[JSON]:
        return list(self._all.values())

    def load(self, dump: list[JSON]) -> None:
        self._all, self._of = {}, {}
        for action in dump:
            self._add(action)

    def _add(self, action: JSON) -> None:
        self._all[action["id"]] = action
        self._of.setdefault((action["resource_type"], action["resource_id"]), []).append(action)


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
