"""Golden images: which snapshots of the account are ours, what is in them, and which one a new droplet starts from.

A snapshot's name tells the image that it was built on, a mark for the packages in it, and when. Its tag says that it
was tried: a snapshot without the tag may be of a build that was cut off, and nothing starts from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Resource = dict[str, Any]

TAG_PREFIX = "sbc:golden:"
# Part of the mark: changed when what a build leaves behind changes so that older images no longer do.
EDITION = 1
NAME = re.compile(r"sbc-golden-(?P<base>.+)-(?P<mark>[0-9a-f]{12})-(?P<built>\d{8}T\d{6}Z)")


def mark(base: str, packages: Iterable[str]) -> str:
    """Twelve hex digits that stand for an image and the packages installed on top of it."""
    content = json.dumps([EDITION, base, sorted(set(packages))])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class GoldenImage:
    """A snapshot of ours. min_disk is in GiB; proven says that a droplet was started from it and found right."""

    id: int
    name: str
    base: str
    mark: str
    created_at: str
    regions: tuple[str, ...]
    min_disk: int
    available: bool
    proven: bool

    @classmethod
    def of(cls, image: Resource) -> GoldenImage | None:
        """The API's image, if it is a golden one."""
        parts = NAME.fullmatch(image.get("name") or "")
        if parts is None or image.get("type") != "snapshot":
            return None
        return cls(
            id=image["id"],
            name=image["name"],
            base=parts["base"],
            mark=parts["mark"],
            created_at=image["created_at"],
            regions=tuple(image["regions"]),
            min_disk=image.get("min_disk_size") or 0,
            available=image.get("status", "available") == "available",
            proven=TAG_PREFIX + parts["mark"] in (image.get("tags") or []),
        )

    def fits(self, mark: str, region: str) -> bool:
        """Whether it holds what the mark stands for, and droplets can start from it in this region."""
        return self.mark == mark and self.available and region in self.regions

    def days(self, now: datetime) -> int:
        """How many whole days ago it was made; now has a time zone."""
        return (now - datetime.fromisoformat(self.created_at)).days


def golden_images(images: Iterable[Resource]) -> list[GoldenImage]:
    """Those of the API's images that are golden, the newest first."""
    found = (GoldenImage.of(image) for image in images)
    return sorted((image for image in found if image), key=lambda image: (image.created_at, image.id), reverse=True)


def base_of(image: Resource) -> str | None:
    """The image that a droplet's golden image was built on, or None if it is not golden."""
    golden = GoldenImage.of(image)
    return golden.base if golden else None
