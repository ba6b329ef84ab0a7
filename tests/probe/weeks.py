"""A week in the life of an SBC, gathering by gathering, and the page that it ends with."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from by_hand import CONFIG, DAY, GOOD, NAMES, NOW, PROXIES, evidence, kamailio, port

from sbc_probe import page
from sbc_probe.config import Config
from sbc_probe.history import History
from sbc_probe.model import (
    Answer,
    Clock,
    Connection,
    Destination,
    Evidence,
    Loaded,
    Lookup,
    Memory,
    PacketFilter,
    Reach,
    Renewal,
    Theirs,
)
from sbc_probe.verdict import Verdict, judge

MINUTE, HOUR = 60.0, 3600.0
WEEK = 7 * DAY
CERTIFICATE = replace(GOOD, not_before=NOW - 29 * DAY, not_after=NOW + 61 * DAY)
# The quickest round trip (s) to each proxy.
TRIPS = dict(zip(PROXIES, (0.021, 0.034, 0.118), strict=True))
FILES = {"kamailio.cfg": "1a" * 32, "dispatcher.list": "2b" * 32}
ANSWERS = {"good": (200, "OK"), "forbids": (403, "Forbidden"), "overloaded": (503, "Service Unavailable")}


@dataclass(frozen=True, slots=True)
class Fault:
    """From `begin` to `end` (s before NOW) `host` is in this condition; no host: nobody watches."""

    begin: float
    end: float
    host: str | None = None
    kind: str = "silent"


@dataclass(slots=True)
class Week:
    """One SBC. `watched` is for how long (s) the probe has been there; `known`: Microsoft knows the trunk."""

    faults: Iterable[Fault] = ()
    watched: float = WEEK + HOUR
    known: bool = True
    config: Config = CONFIG
    change: Callable[[Evidence], Evidence] = lambda found: found
    random: random.Random = field(default_factory=lambda: random.Random(20))

    def live(self, path: Path) -> tuple[Evidence, Verdict, History]:
        """Let it pass, and tell what is found at its end."""
        history = History(path)
        moment = NOW - self.watched
        last: dict[str, Answer] = {}
        turns: dict[str, list[float]] = {host: [] for host in PROXIES}
        answers: dict[str, dict[int, int]] = {host: {} for host in PROXIES}
        sent = 0
        before = dict.fromkeys(PROXIES, "good")
        while True:
            left = NOW - moment
            active = [fault for fault in self.faults if fault.end < left <= fault.begin]
            kinds = dict.fromkeys(PROXIES, "good" if self.known else "forbids")
            kinds.update({fault.host: fault.kind for fault in active if fault.host})
            sent += 1
            for host, kind in kinds.items():
                if (kind == "good") is not (before[host] == "good"):
                    turns[host] = [*(turn for turn in turns[host] if turn > moment - 15 * MINUTE), moment]
                if kind in ANSWERS:
                    code, reason = ANSWERS[kind]
                    since = last[host].since if host in last and last[host].code == code else moment
                    last[host] = Answer(moment - 4, code, reason, since, NAMES, self._trip(host, moment))
                    answers[host][code] = answers[host].get(code, 0) + 1
            before = kinds
            if not any(fault.host is None for fault in active):
                destinations = tuple(
                    Destination(
                        f"sip:{host}:5061;transport=tls",
                        host,
                        "AP" if kind == "good" else "IP",
                        TRIPS[host] * 1150,
                        moment - (20 if kind == "silent" else 4),
                        last.get(host),
                        sent=sent,
                        answers=dict(answers[host]),
                        lost=sent - sum(answers[host].values()),
                        turns=tuple(turns[host]),
                    )
                    for host, kind in kinds.items()
                )
                found = self.change(self._evidence(moment, destinations, kinds, sent))
                verdict = judge(self.config, found)
                if sent % 1000 == 0:
                    # It is written by the clock on the wall, by which this week takes seconds.
                    history.close()
                    history = History(path)
                history.note(found, verdict)
            if moment >= NOW:
                return found, verdict, history
            moment = min(NOW, moment + MINUTE)

    def _trip(self, host: str, moment: float) -> float:
        """Longer in the afternoon, and now and then much longer."""
        busy = 1 + 0.25 * max(0.0, math.sin(moment / DAY * 2 * math.pi))
        return TRIPS[host] * busy * (1 + self.random.expovariate(7) + (self.random.random() < 0.004) * 1.5)

    def _evidence(
        self, moment: float, destinations: tuple[Destination, ...], kinds: dict[str, str], count: int
    ) -> Evidence:
        codes = {200: count}
        asked = Theirs(
            moment - 22,
            "52.114.7.24",
            "sip.pstnhub.microsoft.com",
            200,
            "Microsoft.PSTNHub.SIPProxy",
            count,
            codes,
        )
        unreachable = {
            host: Reach(Lookup((f"52.114.{place}.2",)), tcp="timeout")
            for place, (host, kind) in enumerate(kinds.items(), 7)
            if kind == "unreachable"
        }
        connections = tuple(
            Connection("52.114.7.2", outbound, True, "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384")
            for outbound in (True, True, True, False, False)
        )
        return evidence(
            taken_at=moment,
            kamailio=kamailio(
                loaded_at=NOW - 12 * DAY,
                destinations=destinations,
                theirs=asked if self.known else None,
                version="6.0.1",
                uptime=moment - NOW + 12 * DAY,
                memory=Memory(128 << 20, 9_337_000),
                connections=connections,
            ),
            port=port(certificate=CERTIFICATE),
            on_disk=CERTIFICATE,
            installed_at=NOW - 29 * DAY,
            renewal=Renewal(NOW - DAY / 3),
            reach=unreachable,
            clock=Clock(True, 0.0021, "ntp.example.net"),
            packet_filter=PacketFilter(("52.112.0.0/14", "52.122.0.0/15"), 4711),
            listening=("203.0.113.10",),
            loaded=Loaded(NOW - 12 * DAY, FILES, FILES),
            tenants={name: Lookup((self.config.address,)) for name in self.config.tenants},
        )


SECOND, THIRD = PROXIES[1], PROXIES[2]
QUIET = (
    Fault(5.3 * DAY, 5.3 * DAY - 40 * MINUTE, THIRD, "overloaded"),
    Fault(2.6 * DAY, 2.6 * DAY - 3 * HOUR),
    Fault(0.4 * DAY, 0.4 * DAY - 3 * MINUTE, SECOND),
)
FLAPPING = [Fault(minute * MINUTE, (minute - 2) * MINUTE, SECOND) for minute in range(53, 0, -5)]
WEEKS = {
    "green": Week(QUIET),
    "red": Week((*QUIET, Fault(25 * MINUTE, -1, SECOND, "unreachable"))),
    "flapping": Week((*QUIET, *FLAPPING)),
    "waiting": Week(watched=5 * HOUR, known=False),
}


def shown(week: Week, directory: Path, now: float = NOW + 3, refresh: bool = True) -> str:
    """The page at the end of a week."""
    found, verdict, history = week.live(directory / "history.sqlite")
    text = page.render(week.config, found, verdict, history, now, refresh=refresh)
    history.close()
    return text
