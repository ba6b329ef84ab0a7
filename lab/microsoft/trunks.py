"""The SBCs that Microsoft knows, what each proxy saw of them, and what Microsoft makes of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab.microsoft import sip

FaultKind = Literal[
    "none", "down", "blackhole", "distrust", "refuse", "error", "silent", "mute", "misnamed", "expired", "untrusted"
]
# Whoever has one of these sends no OPTIONS of its own.
QUIET: tuple[FaultKind, ...] = ("down", "blackhole", "mute")


@dataclass(slots=True)
class Settings:
    """Microsoft's timers, in seconds."""

    options_interval: float = 10.0
    """Between two of a proxy's own OPTIONS to one SBC."""
    demote_after: float = 180.0
    """An SBC that sent no OPTIONS for this long is not Active (older Microsoft pages; later ones say 300)."""
    timeout: float = 10.0
    """For a peer's handshake, and for a connection and the answer to a proxy's own OPTIONS together."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a proxy does wrong on purpose.

    `code`, `reason`, `text` (of a Reason header) and `retry_after` (seconds) belong to kind `error`. With a `period`
    the fault goes off after so many seconds, comes back after as many more, and so on. Who has `distrust` accepts no
    certificate of anybody, as if every root had lost its trust.

    What is `misnamed`, `expired` or `untrusted` is so with its certificate, on every connection in either direction:
    another's from the same root, one that ended a day ago, one of a root that nobody knows.
    """

    kind: FaultKind = "none"
    code: int = 503
    reason: str = "Service Unavailable"
    text: str = ""
    retry_after: int | None = None
    period: float | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """An SBC's OPTIONS and the answer to it; no code means that none was given."""

    time: float
    source: str
    contact: str | None
    agent: str | None
    certificate: str | None
    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A TLS handshake that failed."""

    time: float
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A proxy's own OPTIONS: the answer, or the error that came instead."""

    time: float
    target: str
    address: str | None = None
    certificate: str | None = None
    code: int | None = None
    reason: str = ""
    error: str | None = None
    round_trip: float | None = None
    contact: str | None = None


@dataclass(slots=True)
class Evidence:
    """What one proxy saw last of one SBC."""

    received: Received | None = None
    refused: Refused | None = None
    sent: Sent | None = None


@dataclass(slots=True)
class Trunk:
    """An SBC's FQDN as an administrator made it known to Microsoft."""

    fqdn: str
    enabled: bool = True
    cloud: str = "commercial"
    evidence: dict[str, Evidence] = field(default_factory=dict)

    def seen_by(self, proxy: str) -> Evidence:
        return self.evidence.setdefault(proxy, Evidence())


def why_not_active(trunk: Trunk, proxy: str, fault: Fault, now: float, settings: Settings) -> str | None:
    """The one cause that keeps the SBC from being Active at this proxy; None if it is."""
    seen = trunk.evidence.get(proxy) or Evidence()
    received, refused, sent = seen.received, seen.refused, seen.sent
    if not trunk.enabled:
        return "the trunk is disabled"
    if fault.kind in ("down", "blackhole"):
        return "this proxy is down" if fault.kind == "down" else "nothing reaches this proxy"
    if refused and (not received or refused.time > received.time):
        return f"TLS handshake from {refused.source} failed: {refused.reason}"
    if not received:
        return "no OPTIONS received"
    if received.code is None:
        return "OPTIONS received and not answered"
    if received.code != sip.OK:
        return f"OPTIONS answered {received.code}: {received.reason}"
    if now - received.time > settings.demote_after:
        return f"no OPTIONS received for {now - received.time:.0f} s"
    if fault.kind == "mute":
        return "this proxy sends no OPTIONS"
    if not sent or now - sent.time > settings.demote_after:
        return "own OPTIONS not sent"
    if sent.error:
        return f"own OPTIONS to {sent.target}: {sent.error}"
    if sent.code != sip.OK:
        return f"own OPTIONS to {sent.target} answered {sent.code} {sent.reason}"
    return None


def may_probe(trunk: Trunk, proxy: str, fault: Fault, now: float, settings: Settings) -> bool:
    """Whether the proxy sends its own OPTIONS: only to an SBC whose OPTIONS it answered well, and lately."""
    received = trunk.seen_by(proxy).received
    return (
        trunk.enabled
        and fault.kind not in QUIET
        and received is not None
        and received.code == sip.OK
        and now - received.time <= settings.demote_after
    )


MAX_NAME = 253
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def fully_qualified(name: str) -> str:
    """`name` in lower case without a last dot. Raises ValueError if it is no FQDN."""
    fqdn = name.lower().rstrip(".")
    if len(fqdn) > MAX_NAME or not re.fullmatch(rf"({_LABEL}\.)+(?!\d+$){_LABEL}", fqdn):
        raise ValueError(f"{name!r} is no fully qualified domain name")
    return fqdn


class Registry:
    """The trunks by FQDN; who they are is kept in a file, what was seen of them is not."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._trunks: dict[str, Trunk] = {}
        if path and path.exists():
            for entry in json.loads(path.read_text())["trunks"]:
                self._trunks[entry["fqdn"]] = Trunk(**entry)

    def __iter__(self) -> Iterator[Trunk]:
        return iter(list(self._trunks.values()))

    def get(self, fqdn: str) -> Trunk | None:
        return self._trunks.get(fqdn)

    def of_cloud(self, cloud: str) -> list[str]:
        return [trunk.fqdn for trunk in self._trunks.values() if trunk.cloud == cloud]

    def put(self, fqdn: str, *, enabled: bool, cloud: str) -> Trunk:
        """Make the trunk, or change it; what was seen of it stays unless its cloud is another one now."""
        trunk = self._trunks.get(fqdn)
        if trunk is None or trunk.cloud != cloud:
            trunk = self._trunks[fqdn] = Trunk(fqdn, cloud=cloud)
        trunk.enabled = enabled
        self._save()
        return trunk

    def delete(self, fqdn: str) -> Trunk | None:
        trunk = self._trunks.pop(fqdn, None)
        if trunk:
            self._save()
        return trunk

    def clear(self) -> None:
        self._trunks.clear()
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        trunks = [{"fqdn": trunk.fqdn, "enabled": trunk.enabled, "cloud": trunk.cloud} for trunk in self]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps({"trunks": trunks}, indent=1) + "\n")
        os.replace(temporary, self._path)


def as_json(item: Received | Refused | Sent | None, now: float) -> dict[str, Any] | None:
    """The evidence with its `age` in seconds."""
    return asdict(item) | {"age": round(now - item.time, 3)} if item else None
