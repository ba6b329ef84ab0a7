"""Reserved IPs: addresses that the account keeps, each in a region and with one droplet or none."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass

from lab import settings
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError, not_found, unprocessable


@dataclass
class ReservedIp:
    ip: str
    region: str
    droplet_id: int | None = None

    @property
    def number(self) -> int:
        """The id of the resource in its actions: the address as a number, as in the API."""
        return int(ipaddress.IPv4Address(self.ip))


class ReservedIps:
    """Reserved IPs by address. Methods raise ApiError 404 and 422."""

    def __init__(self, network: str = settings.RESERVED_NETWORK) -> None:
        self._network = ipaddress.IPv4Network(network)
        self._all: dict[str, ReservedIp] = {}

    def all(self) -> list[ReservedIp]:
        return list(self._all.values())

    def get(self, ip: str) -> ReservedIp:
        if ip not in self._all:
            raise not_found()
        return self._all[ip]

    def of(self, droplet_id: int) -> ReservedIp | None:
        """The one that leads to a droplet."""
        return next((each for each in self._all.values() if each.droplet_id == droplet_id), None)

    def create(self, region: str, limit: int) -> ReservedIp:
        if len(self._all) >= limit:
            raise unprocessable("You have reached the limit of reserved IPs that your account can have.")
        ip = next((str(host) for host in self._network.hosts() if str(host) not in self._all), None)
        if ip is None:
            raise unprocessable("No reserved IP is left in this region.")
        self._all[ip] = ReservedIp(ip, region)
        return self._all[ip]

    def delete(self, ip: str) -> ReservedIp:
        return self._all.pop(self.get(ip).ip)

    def dump(self) -> list[JSON]:
        return [asdict(each) for each in self._all.values()]

    def load(self, dump: list[JSON]) -> None:
        self._all = {each["ip"]: ReservedIp(**each) for each in dump}


def pending() -> ApiError:
    """The reserved IP's last action has not ended (422); to be waited out."""
    return unprocessable("The reserved IP already has a pending event.")
