"""What happens to a request besides its work: the log, the rate limit and faults made on purpose."""

from __future__ import annotations

import fnmatch
import time
from collections import deque
from dataclasses import dataclass, fields
from typing import Any

LOG_LENGTH = 10_000
EXCHANGES_BYTES = 64 * 2**20
REQUESTS_PER_HOUR = 5_000
"""https://docs.digitalocean.com/reference/api/api-reference/#section/Introduction/Rate-Limit"""

KINDS = {
    "429": "too many requests; with retry-after when `retry_after` (seconds) is given",
    "500": "an error in the API's own shape",
    "502html": "a gateway's HTML page",
    "422pending": "Droplet already has a pending event",
    "404": "not found",
    "lost": "the work is done, then the connection is closed without an answer",
    "dropped": "the connection is closed and nothing is done",
    "slow": "the work is done, the answer comes `seconds` later",
}


@dataclass
class Fault:
    """One disturbance: the next `count` requests that match, after `after` of them passed, fail in the way of `kind`.

    `path_glob` is matched against the path without query and final slash, for instance `/v2/droplets/*`. Raises
    ValueError for a kind that does not exist and for counts that are none.
    """

    kind: str
    method: str = "*"
    path_glob: str = "*"
    count: int = 1
    after: int = 0
    retry_after: float | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}: must be one of {', '.join(KINDS)}")
        for name in ("count", "after"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be a whole number")

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Fault:
        """A fault from JSON. Raises ValueError with what is wrong."""
        known = [field.name for field in fields(cls)]
        if unknown := body.keys() - set(known):
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        if "kind" not in body:
            raise ValueError(f"kind is missing: one of {', '.join(KINDS)}")
        return cls(**body)


@dataclass(frozen=True)
class LoggedRequest:
    """One line of the log."""

    time: float
    method: str
    path: str
    status: int
    request_id: str
    seconds: float
    fault: str | None


@dataclass(frozen=True)
class Exchange:
    """A whole request and its answer, for whoever judges them; the token is not part of it.

    `status`, `headers` (of the answer, in lower case) and `answer` are those that the API made, whether or not a fault
    let them arrive. `status` is None if it made none.
    """

    method: str
    path: str
    user_agent: str
    content_type: str
    body: bytes
    status: int | None
    headers: dict[str, str]
    answer: bytes
    fault: str | None

    @property
    def size(self) -> int:
        return len(self.body) + len(self.answer)

    def document(self) -> dict[str, Any]:
        """As JSON has it; bytes that are no UTF-8 are replaced."""
        texts = {name: getattr(self, name).decode(errors="replace") for name in ("body", "answer")}
        return {field.name: getattr(self, field.name) for field in fields(self)} | texts


class Exchanges:
    """The latest exchanges, as many as EXCHANGES_BYTES hold; `forgotten` counts those that were before."""

    def __init__(self) -> None:
        self._kept: deque[Exchange] = deque()
        self._size = 0
        self.forgotten = 0

    def append(self, exchange: Exchange) -> None:
        self._kept.append(exchange)
        self._size += exchange.size
        while self._size > EXCHANGES_BYTES:
            self._size -= self._kept.popleft().size
            self.forgotten += 1

    def document(self) -> dict[str, Any]:
        return {"exchanges": [exchange.document() for exchange in self._kept], "forgotten": self.forgotten}

    def clear(self) -> None:
        self._kept.clear()
        self._size = self.forgotten = 0


class Traffic:
    """The log, the exchanges and the faults of one account."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: deque[LoggedRequest] = deque(maxlen=LOG_LENGTH)
        self.exchanges = Exchanges()
        self._arrivals: dict[str, deque[float]] = {}

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if any; it is used up by one."""
        for fault in self.faults:
            if fault.method in ("*", method) and fnmatch.fnmatchcase(path, fault.path_glob):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.count -= 1
                if fault.count <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def too_many(self, name: str, limit: int) -> float | None:
        """Count one request against a limit a minute (0: none); return seconds to wait when it is over."""
        arrivals = self._window(name, 60)
        if limit and len(arrivals) >= limit:
            return arrivals[0] + 60 - time.time()
        arrivals.append(time.time())
        return None

    def quota(self, limit: int) -> tuple[int, int]:
        """Count one request in the hour; return how many are left and when (Unix seconds) the oldest expires.

        Where there is no limit (0) it is the usual one that is told, and the last request of it never comes.
        """
        arrivals = self._window("hour", 3600)
        arrivals.append(time.time())
        left = limit - len(arrivals) if limit else max(1, REQUESTS_PER_HOUR - len(arrivals))
        return left, int(arrivals[0] + 3600)

    def clear(self) -> None:
        """Forget every request and every fault."""
        self.faults.clear()
        self.requests.clear()
        self._arrivals.clear()

    def _window(self, name: str, seconds: float) -> deque[float]:
        arrivals = self._arrivals.setdefault(name, deque())
        while arrivals and arrivals[0] < time.time() - seconds:
            arrivals.popleft()
        return arrivals
