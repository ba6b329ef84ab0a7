"""Images: those on offer to everybody, and the account's own snapshots."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.digitalocean.actions import now
from lab.digitalocean.catalogue import IMAGES, JSON, REGIONS
from lab.digitalocean.errors import not_found, unprocessable


@dataclass
class Snapshot:
    """A droplet's disk as it was; `base` is the slug of the image that it began with, `min_disk_size` is in GiB."""

    id: int
    name: str
    droplet_id: int
    base: str
    regions: list[str]
    min_disk_size: int
    created_at: str
    size_gigabytes: float = 0.0
    tags: list[str] = field(default_factory=list)
    status: str = "pending"

    @property
    def is_listed(self) -> bool:
        return self.status != "deleted"

    def image(self) -> JSON:
        """As /v2/images shows it."""
        base = IMAGES[self.base]
        return {
            "id": self.id,
            "name": self.name,
            "distribution": base["distribution"],
            "slug": None,
            "public": False,
            "regions": self.regions,
            "created_at": self.created_at,
            "min_disk_size": self.min_disk_size,
            "type": "snapshot",
            "size_gigabytes": self.size_gigabytes,
            "description": "",
            "tags": self.tags,
            "status": self.status,
        }

    def snapshot(self) -> JSON:
        """As /v2/snapshots shows it."""
        return {
            **self._common(),
            "id": str(self.id),
            "resource_id": str(self.droplet_id),
            "resource_type": "droplet",
            "tags": self.tags,
        }

    def of_droplet(self) -> JSON:
        """As /v2/droplets/ID/snapshots shows it."""
        return {**self._common(), "id": self.id, "type": "snapshot"}

    def _common(self) -> JSON:
        return {
            "name": self.name,
            "created_at": self.created_at,
            "regions": self.regions,
            "min_disk_size": self.min_disk_size,
            "size_gigabytes": self.size_gigabytes,
        }


class Images:
    """The catalogue's images and the account's snapshots. Methods raise ApiError 404 and 422."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        self._snapshots: dict[int, Snapshot] = {}

    def find(self, identifier: Any) -> JSON:
        """An image by slug or id."""
        for image in IMAGES.values():
            if str(identifier) in (image["slug"], str(image["id"])):
                return image
        return self.snapshot(identifier).image()

    def document(self, id: int) -> JSON:
        """The image that a droplet was made from, even if the account has it no more."""
        return next((i for i in IMAGES.values() if i["id"] == id), None) or self._snapshots[id].image()

    def base_of(self, id: int) -> str:
        """The slug of the image that a snapshot's first droplet began with."""
        return self._snapshots[id].base

    def snapshot(self, identifier: Any) -> Snapshot:
        try:
            snapshot = self._snapshots[int(identifier)]
        except (KeyError, TypeError, ValueError):
            raise not_found() from None
        if not snapshot.is_listed:
            raise not_found()
        return snapshot

    def snapshots(self) -> list[Snapshot]:
        """Those that are ready or in the making."""
        return [snapshot for snapshot in self._snapshots.values() if snapshot.is_listed]

    def ready(self) -> list[Snapshot]:
        return [snapshot for snapshot in self.snapshots() if snapshot.status == "available"]

    def of(self, droplet_id: int) -> list[Snapshot]:
        """Those of one droplet, which may be gone."""
        return [snapshot for snapshot in self.ready() if snapshot.droplet_id == droplet_id]

    def documents(self, *, private: bool = False, kind: str | None = None, tag: str | None = None) -> list[JSON]:
        """What GET /v2/images lists: everything, or the account's own only, or one kind, or those with a tag."""
        own = [snapshot.image() for snapshot in self.snapshots()]
        if tag is not None:
            return [image for image in own if tag.lower() in (other.lower() for other in image["tags"])]
        offered = list(IMAGES.values()) if kind in (None, "distribution") else []
        return own if private else [*offered, *(own if kind is None else [])]

    def begin(self, name: str, droplet_id: int, base: str, region: str, disk: int) -> Snapshot:
        """A snapshot that is still being made."""
        snapshot = Snapshot(self._new_id(), name, droplet_id, base, [region], disk, now())
        self._snapshots[snapshot.id] = snapshot
        return snapshot

    def rename(self, identifier: Any, name: Any) -> JSON:
        snapshot = self.snapshot(identifier)
        if not isinstance(name, str) or not name:
            raise unprocessable("Name can't be blank")
        snapshot.name = name
        return snapshot.image()

    def transfer(self, identifier: Any, region: Any) -> Snapshot:
        """Have a snapshot in one region more."""
        snapshot = self.snapshot(identifier)
        if region not in REGIONS:
            raise unprocessable("Region is invalid")
        if region in snapshot.regions:
            raise unprocessable("Image is already available in this region.")
        snapshot.regions = [*snapshot.regions, region]
        return snapshot

    def delete(self, identifier: Any) -> Snapshot:
        """Forget a snapshot, but for the droplets that were made from it."""
        snapshot = self.snapshot(identifier)
        snapshot.status, snapshot.tags = "deleted", []
        return snapshot

    def forget_tag(self, tag: str) -> None:
        for snapshot in self._snapshots.values():
            snapshot.tags = [other for other in snapshot.tags if other != tag]

    def tagged(self, tag: str) -> Collection[Snapshot]:
        return [snapshot for snapshot in self.snapshots() if tag in snapshot.tags]

    def dump(self) -> list[JSON]:
        return [asdict(snapshot) for snapshot in self._snapshots.values()]

    def load(self, dump: list[JSON]) -> None:
        self._snapshots = {document["id"]: Snapshot(**document) for document in dump}
