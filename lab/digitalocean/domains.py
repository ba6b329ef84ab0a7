"""The account's DNS zones."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from types import NoneType
from typing import Any

from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import not_found, unprocessable

TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SOA", "SRV", "TXT")
NAMESERVERS = ("ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com")
DEFAULT_TTL = 1800
MINIMUM_TTL = 30

_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_RECORD_NAME = re.compile(rf"@|(\*|{_LABEL})(\.{_LABEL})*")
# Their data is a host name, written with a final dot and read back without it.
_HOST_DATA = ("CNAME", "MX", "NS", "SRV")
_REQUIRED = {"MX": ("priority",), "SRV": ("priority", "port", "weight"), "CAA": ("flags", "tag")}


@dataclass(frozen=True)
class Record:
    """One resource record in the API's own shape; `name` is relative to the zone, `@` its apex; `ttl` in seconds."""

    id: int
    type: str
    name: str
    data: str
    ttl: int = DEFAULT_TTL
    priority: int | None = None
    port: int | None = None
    weight: int | None = None
    flags: int | None = None
    tag: str | None = None

    def full_name(self, domain: str) -> str:
        return domain if self.name == "@" else f"{self.name}.{domain}"


_WRITABLE = tuple(field.name for field in fields(Record) if field.name != "id")


class Domains:
    """Zones by name. Methods raise ApiError 404 for what is not there and 422 for what the API would not take."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        self.version = 0
        """Another one after every change."""
        self._zones: dict[str, list[Record]] = {}

    def names(self) -> list[str]:
        return list(self._zones)

    def create(self, name: Any, address: Any = None) -> None:
        """Make a zone with DigitalOcean's SOA and NS records, and an A record at its apex when an address is given."""
        if not isinstance(name, str) or not _DOMAIN.fullmatch(name):
            raise unprocessable("Name is invalid")
        if name in self._zones:
            raise unprocessable("Name already exists")
        records = [Record(self._new_id(), "SOA", "@", str(DEFAULT_TTL))]
        records += [Record(self._new_id(), "NS", "@", server) for server in NAMESERVERS]
        if address:
            records.append(self._checked(Record(self._new_id(), "A", "@", address)))
        self._zones[name] = records
        self.version += 1

    def delete(self, name: str) -> None:
        self._zone(name)
        del self._zones[name]
        self.version += 1

    def document(self, name: str) -> JSON:
        lines = [f"$ORIGIN {name}.", f"$TTL {DEFAULT_TTL}"]
        for record in self._zone(name):
            extra = (record.priority, record.weight, record.port, record.flags, record.tag)
            data = f"{record.data}." if record.type in _HOST_DATA else record.data
            words = (record.name, record.ttl, "IN", record.type, *(x for x in extra if x is not None), data)
            lines.append(" ".join(map(str, words)))
        return {"name": name, "ttl": DEFAULT_TTL, "zone_file": "\n".join(lines) + "\n"}

    def records(self, domain: str, type: str | None = None, name: str | None = None) -> list[Record]:
        """A zone's records; `name` is a full name, as the API's filter asks for."""
        if type is not None and type not in TYPES:
            raise unprocessable("Type is not a valid record type")
        return [
            record
            for record in self._zone(domain)
            if type in (None, record.type) and name in (None, record.full_name(domain))
        ]

    def record(self, domain: str, id: int) -> JSON:
        return asdict(self._find(domain, id))

    def add(self, domain: str, body: JSON) -> JSON:
        """Add a record; equal ones are allowed, as in the API."""
        zone = self._zone(domain)
        given = {key: body[key] for key in _WRITABLE if body.get(key) is not None}
        if given.get("type") not in TYPES or given["type"] == "SOA":
            raise unprocessable("Type is not a valid record type")
        for key in ("data", *(("name",) if given["type"] != "MX" else ()), *_REQUIRED.get(given["type"], ())):
            if key not in given:
                raise unprocessable(f"{key.capitalize()} can't be blank")
        given.setdefault("name", "@")
        if "ttl" not in given:
            given["ttl"] = next((r.ttl for r in zone if r.name == given["name"] and r.type != "SOA"), DEFAULT_TTL)
        record = self._checked(Record(self._new_id(), **given))
        self._refuse_cname_beside_others(zone, record)
        zone.append(record)
        self._share_ttl(zone, record)
        self.version += 1
        return asdict(record)

    def change(self, domain: str, id: int, body: JSON) -> JSON:
        """Change what is given; a host name's final dot is asked for even when the data stay as they are."""
        zone = self._zone(domain)
        old = self._find(domain, id)
        given = {key: body[key] for key in _WRITABLE if body.get(key) is not None}
        if given.pop("type", old.type) != old.type:
            raise unprocessable("Type can't be changed")
        if old.type == "SOA" and given.keys() - {"ttl"}:
            raise unprocessable("Only the TTL of an SOA record can be changed")
        record = self._checked(replace(old, **given))
        self._refuse_cname_beside_others([r for r in zone if r.id != id], record)
        zone[zone.index(old)] = record
        self._share_ttl(zone, record)
        self.version += 1
        return asdict(record)

    def remove(self, domain: str, id: int) -> None:
        record = self._find(domain, id)
        if record.type == "SOA":
            raise unprocessable("SOA records can't be deleted")
        self._zone(domain).remove(record)
        self.version += 1

    def dump(self) -> dict[str, list[JSON]]:
        """All zones and their records, as they are saved and as lab.dns serves them."""
        return {name: [asdict(record) for record in records] for name, records in self._zones.items()}

    def load(self, dump: dict[str, list[JSON]]) -> None:
        self._zones = {name: [Record(**record) for record in records] for name, records in dump.items()}
        self.version += 1

    def _zone(self, domain: str) -> list[Record]:
        if domain not in self._zones:
            raise not_found()
        return self._zones[domain]

    def _find(self, domain: str, id: int) -> Record:
        for record in self._zone(domain):
            if record.id == id:
                return record
        raise not_found()

    @staticmethod
    def _checked(record: Record) -> Record:
        if not isinstance(record.name, str) or not _RECORD_NAME.fullmatch(record.name):
            raise unprocessable("Name is invalid")
        if not isinstance(record.ttl, int) or isinstance(record.ttl, bool) or record.ttl < MINIMUM_TTL:
            raise unprocessable(f"record ttl must be greater than {MINIMUM_TTL}")
        if not isinstance(record.data, str) or not record.data:
            raise unprocessable("Data can't be blank")
        for number in ("priority", "port", "weight", "flags"):
            if type(getattr(record, number)) not in (int, NoneType):
                raise unprocessable(f"{number.capitalize()} is not a number")
        if record.type in _HOST_DATA:
            if record.data != "@" and not record.data.endswith("."):
                raise unprocessable("Data needs to end with a dot (.)")
            return replace(record, data=record.data.removesuffix("."))
        if record.type in ("A", "AAAA"):
            family = {"A": ipaddress.IPv4Address, "AAAA": ipaddress.IPv6Address}[record.type]
            try:
                family(record.data)
            except ValueError:
                raise unprocessable(f"{record.type} records need a valid IP address as data") from None
        return record

    @staticmethod
    def _refuse_cname_beside_others(others: list[Record], record: Record) -> None:
        same_name = [other for other in others if other.name == record.name]
        if same_name and (record.type == "CNAME" or any(other.type == "CNAME" for other in same_name)):
            raise unprocessable("CNAME records cannot share a name with other records")

    @staticmethod
    def _share_ttl(zone: list[Record], changed: Record) -> None:
        if changed.type == "SOA":
            return
        for index, record in enumerate(zone):
            if record.name == changed.name and record.type != "SOA":
                zone[index] = replace(record, ttl=changed.ttl)
