"""Projects: where the account's resources are filed. Everything that nobody filed lies in the default project."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

from lab.digitalocean.actions import now
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError, not_found, unprocessable

ENVIRONMENTS = ("Development", "Staging", "Production")
FIELDS = ("name", "description", "purpose", "environment", "is_default")
_NAME_LENGTH = 175
_URN = re.compile(r"do:(?P<kind>[a-z]+):(?P<id>.+)")
# Reserved IPs keep their old name here: https://docs.digitalocean.com/reference/pydo/reference/reserved_ips/
_KINDS = {"droplet": "droplets", "domain": "domains", "floatingip": "reserved_ips"}


class Projects:
    """Projects by id. `urns` names everything the account has. Methods raise ApiError 404, 409, 412 and 422."""

    def __init__(self, owner: str, urns: Callable[[], Iterable[str]]) -> None:
        self._urns = urns
        self._projects: dict[str, JSON] = {}
        # What is filed elsewhere than in the default project: urn to project and time.
        self._filed: dict[str, tuple[str, str]] = {}
        self._owner = owner
        self._add(
            name="first-project",
            purpose="Just trying out DigitalOcean",
            description="",
            environment="",
            is_default=True,
        )

    def documents(self) -> list[JSON]:
        return list(self._projects.values())

    def get(self, id: str) -> JSON:
        """A project by id, or the one that is called `default`."""
        return self._projects[self.default_id] if id == "default" else self._project(id)

    @property
    def default_id(self) -> str:
        return next(id for id, project in self._projects.items() if project["is_default"])

    def create(self, body: JSON) -> JSON:
        for key in ("name", "purpose"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise unprocessable(f"{key} can't be blank")
        self._check(body)
        fields = {
            "description": "",
            "environment": "",
            **{key: body[key] for key in FIELDS if body.get(key) is not None},
        }
        return self._add(**{**fields, "is_default": False})

    def change(self, id: str, body: JSON, *, whole: bool) -> JSON:
        """Change what is given, or all of it when the `whole` text is put in place."""
        project = self.get(id)
        if whole and (missing := [key for key in FIELDS if key not in body]):
            raise unprocessable(f"{', '.join(missing)} is missing")
        self._check(body, itself=project["id"])
        if body.get("is_default") is False and project["is_default"]:
            raise unprocessable("the default project can't be made another than by making another one the default")
        if body.get("is_default"):
            self._make_default(project)
        project.update({key: body[key] for key in FIELDS if body.get(key) is not None}, updated_at=now())
        return project

    def delete(self, id: str) -> None:
        """Remove an empty project (412 when it is not)."""
        project = self._project(id)
        if project["is_default"] or any(place == id for place, _ in self._filed.values()):
            message = "cannot delete a project with resources. move or remove the resources first"
            raise ApiError(412, "precondition_failed", message)
        del self._projects[id]

    def resources(self, id: str) -> list[JSON]:
        project = self.get(id)
        if project["is_default"]:
            return [_resource(urn, project["created_at"]) for urn in self._urns() if urn not in self._filed]
        return [_resource(urn, time) for urn, (place, time) in self._filed.items() if place == project["id"]]

    def assign(self, id: str, urns: Any) -> list[JSON]:
        """File resources in a project, out of the one where they were; each is answered with what became of it."""
        project = self.get(id)
        if not isinstance(urns, list) or not all(isinstance(urn, str) and _URN.fullmatch(urn) for urn in urns):
            raise unprocessable("resources must be a list of uniform resource names")
        known = set(self._urns()) if urns else set()
        return [self._file(project, urn) if urn in known else _resource(urn, now(), "not_found") for urn in urns]

    def project_of(self, urn: str) -> str:
        return self._filed[urn][0] if urn in self._filed else self.default_id

    def forget(self, urn: str) -> None:
        """A resource is no more."""
        self._filed.pop(urn, None)

    def dump(self) -> JSON:
        return {"projects": self._projects, "filed": {urn: list(place) for urn, place in self._filed.items()}}

    def load(self, dump: JSON) -> None:
        self._projects = dump["projects"]
        self._filed = {urn: (place, time) for urn, (place, time) in dump["filed"].items()}

    def _file(self, project: JSON, urn: str) -> JSON:
        if self.project_of(urn) == project["id"]:
            return _resource(urn, now(), "already_assigned")
        if project["is_default"]:
            self.forget(urn)
        else:
            self._filed[urn] = (project["id"], now())
        return _resource(urn, now(), "assigned")

    def _make_default(self, project: JSON) -> None:
        """What lay in the old default project stays there; what was filed in the new one is now there by default."""
        old = self.default_id
        if old == project["id"]:
            return
        staying = [urn for urn in self._urns() if urn not in self._filed]
        self._filed = {urn: place for urn, place in self._filed.items() if place[0] != project["id"]}
        self._filed |= dict.fromkeys(staying, (old, now()))
        self._projects[old]["is_default"], project["is_default"] = False, True

    def _project(self, id: str) -> JSON:
        if id not in self._projects:
            raise not_found()
        return self._projects[id]

    def _add(self, **fields: Any) -> JSON:
        project = {
            "id": str(uuid.uuid4()),
            "owner_uuid": self._owner,
            "owner_id": 1,
            **fields,
            "created_at": now(),
            "updated_at": now(),
        }
        # Nobody's choice is left out, since the published schema knows three words only.
        project["environment"] = fields["environment"] or "Development"
        self._projects[project["id"]] = project
        return project

    def _check(self, body: JSON, itself: str | None = None) -> None:
        name = body.get("name")
        if name is not None and (not isinstance(name, str) or not 0 < len(name) <= _NAME_LENGTH):
            raise unprocessable("name is invalid")
        if any(other["name"] == name and id != itself for id, other in self._projects.items()):
            raise ApiError(409, "conflict", "name is already in use")
        if body.get("environment") not in (None, "", *ENVIRONMENTS):
            raise unprocessable(f"environment must be one of {', '.join(ENVIRONMENTS)}")


def _resource(urn: str, time: str, status: str = "ok") -> JSON:
    match = _URN.fullmatch(urn)
    collection = _KINDS.get(match["kind"], match["kind"]) if match else ""
    link = f"https://api.digitalocean.com/v2/{collection}/{match['id'] if match else ''}"
    return {"urn": urn, "assigned_at": time, "links": {"self": link}, "status": status}


def urns(droplets: Collection[int], domains: Collection[str], reserved_ips: Collection[str]) -> Iterable[str]:
    """The uniform resource names of what an account has."""
    for kind, ids in (("droplet", droplets), ("domain", domains), ("floatingip", reserved_ips)):
        yield from (f"do:{kind}:{id}" for id in ids)
