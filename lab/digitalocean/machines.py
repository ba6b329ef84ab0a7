"""What stands behind a droplet: the seam between the API's records and real machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class MachineSpec:
    """Everything a machine is made from.

    `public_keys` are OpenSSH lines for root, `prefix` is the network's length, `image` a slug or a snapshot's id, and
    `anchor` the address at which packets for a reserved IP arrive.
    """

    id: int
    name: str
    region: str
    size: str
    image: str
    address: str
    prefix: int
    gateway: str
    anchor: str
    user_data: str
    public_keys: tuple[str, ...]


@dataclass(frozen=True)
class PortRule:
    """One admission: `protocol` tcp, udp or icmp; `ports` like "22" or "8000-9000", None for all; CIDR networks."""

    protocol: str
    ports: str | None
    networks: tuple[str, ...]


@dataclass(frozen=True)
class FirewallRules:
    """What may pass to and from a droplet; all else is dropped."""

    inbound: tuple[PortRule, ...]
    outbound: tuple[PortRule, ...]


class Machines(Protocol):
    """Whoever runs the machines. Calls for one droplet never overlap."""

    async def create(self, droplet: MachineSpec) -> None:
        """Start a machine; return once it has its link, before it has booted.

        Called again for every droplet that is on when an account comes back from its state file.
        """

    async def destroy(self, droplet_id: int) -> None:
        """End the machine and remove all it left; a machine that is not there is no error."""

    async def power(self, droplet_id: int, on: bool) -> None:
        """Switch an existing machine on or off; its disk, address and firewall stay."""

    async def set_firewall(self, droplet_id: int, rules: FirewallRules | None) -> None:
        """Replace the rules on the droplet's link; None admits everything."""

    async def snapshot(self, droplet_id: int, image: str) -> int:
        """Keep a copy of the droplet's disk, on or off, under that name; return how many bytes it has of its own."""

    async def delete_snapshot(self, image: str) -> None:
        """Forget a copy, but for the droplets that were made from it; one that is not there is no error."""

    async def route(self, reserved_ip: str, anchor: str | None) -> None:
        """Lead what is sent to a reserved IP to the droplet with that anchor address, and to nobody for None."""


class RecordsOnly:
    """Machines for an account that exists on paper: it remembers what it was told and runs nothing."""

    def __init__(self) -> None:
        self.specs: dict[int, MachineSpec] = {}
        self.running: dict[int, bool] = {}
        self.firewalls: dict[int, FirewallRules | None] = {}
        self.images: dict[str, int] = {}
        self.routes: dict[str, str] = {}

    async def create(self, droplet: MachineSpec) -> None:
        self.specs[droplet.id] = droplet
        self.running[droplet.id] = True

    async def destroy(self, droplet_id: int) -> None:
        for table in (self.specs, self.running, self.firewalls):
            table.pop(droplet_id, None)

    async def power(self, droplet_id: int, on: bool) -> None:
        self.running[droplet_id] = on

    async def set_firewall(self, droplet_id: int, rules: FirewallRules | None) -> None:
        self.firewalls[droplet_id] = rules

    async def snapshot(self, droplet_id: int, image: str) -> int:
        self.images[image] = droplet_id
        return 0

    async def delete_snapshot(self, image: str) -> None:
        self.images.pop(image, None)

    async def route(self, reserved_ip: str, anchor: str | None) -> None:
        if anchor is None:
            self.routes.pop(reserved_ip, None)
        else:
            self.routes[reserved_ip] = anchor
