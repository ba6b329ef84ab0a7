"""The account's droplets as records: by id, by tag, and where their addresses come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lab import settings
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import not_found, unprocessable

FIRST_HOST = 10
"""The addresses below are the gateway's and the like."""


@dataclass
class Droplet:
    """`image` is the id of what it was made from; `disk` (GiB) is its own, which a resize may leave as it is."""

    id: int
    name: str
    region: str
    size: str
    image: int
    disk: int
    address: str
    created_at: str
    user_data: str
    public_keys: list[str]
    tags: list[str]
    features: list[str]
    backup_policy: JSON | None = None
    status: str = "new"
    has_address: bool = False


class Droplets:
    """Droplets by id, in the order of their creation."""

    def __init__(self, network: str = settings.DROPLETS_NETWORK) -> None:
        self.network = ipaddress.IPv4Network(network)
        self._all: dict[int, Droplet] = {}
        self._tagged: dict[str, dict[int, Droplet]] = {}
        self._hosts: set[int] = set()
        self._lowest_free = FIRST_HOST

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Droplet]:
        return iter(list(self._all.values()))

    def __contains__(self, id: object) -> bool:
        return id in self._all

    def ids(self) -> Collection[int]:
        return self._all.keys()

    def get(self, id: Any) -> Droplet:
        """Raises ApiError 404."""
        try:
            return self._all[int(id)]
        except (KeyError, TypeError, ValueError):
            raise not_found() from None

    def tagged(self, *tags: str) -> list[Droplet]:
        """Those with any of these tags, as they are spelt in the account."""
        found: dict[int, Droplet] = {}
        for tag in tags:
            found |= self._tagged.get(tag, {})
        return [found[id] for id in sorted(found)] if len(tags) > 1 else list(found.values())

    def add(self, droplet: Droplet) -> None:
        self._all[droplet.id] = droplet
        self._hosts.add(self.host_of(droplet))
        for tag in droplet.tags:
            self._tagged.setdefault(tag, {})[droplet.id] = droplet

    def remove(self, droplet: Droplet) -> None:
        """Forget a droplet; its address is free again."""
        self.set_tags(droplet, [])
        self._hosts.remove(self.host_of(droplet))
        self._lowest_free = min(self._lowest_free, self.host_of(droplet))
        del self._all[droplet.id]

    def set_tags(self, droplet: Droplet, tags: Iterable[str]) -> None:
        for tag in droplet.tags:
            self._tagged[tag].pop(droplet.id)
        droplet.tags = list(tags)
        for tag in droplet.tags:
            self._tagged.setdefault(tag, {})[droplet.id] = droplet

    def host_of(self, droplet: Droplet) -> int:
        """A droplet's number in each of its networks: public, private, and the one of anchor addresses."""
        return int(ipaddress.IPv4Address(droplet.address)) - int(self.network.network_address)

    def free_address(self) -> str:
        """The lowest that nobody has. Raises ApiError 422 when there is none."""
        while self._lowest_free in self._hosts:
            self._lowest_free += 1
        if self._lowest_free >= self.network.num_addresses - 1:
            raise unprocessable("No address is left in this region.")
        return str(self.network[self._lowest_free])

    def dump(self) -> list[JSON]:
        return [asdict(droplet) for droplet in self._all.values()]

    def load(self, dump: list[JSON]) -> None:
        for document in dump:
            self.add(Droplet(**document))
