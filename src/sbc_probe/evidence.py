"""Gather the evidence: everything that reads something is called from here, and nothing here judges it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from sbc_probe import clock, loaded, packet_filter, parsed, renewal, sockets, wire
from sbc_probe.config import Config
from sbc_probe.kamailio import read_kamailio
from sbc_probe.model import Evidence, Kamailio, Lookup, Reach
from sbc_probe.resolver import Remembered, lookup
from sbc_probe.side_by_side import Task, each

# An answer that takes longer (s) than this is worth a look at the way to the proxy.
PROMPT = 2.0
# Every gathering looks at the proxies' names, and their name servers are other people's.
_proxies = Remembered()


def collect(config: Config) -> Evidence:
    """Read everything once, side by side: about 20 ms when all is well, a few timeouts (seconds) when it is not."""
    kamailio = Task(partial(read_kamailio, config))
    port = Task(partial(wire.read_port, config))
    fqdn = Task(partial(lookup, config.fqdn))
    on_disk = Task(partial(parsed.from_file, config.certificate))
    hour = Task(partial(clock.read, config))
    rules = Task(partial(packet_filter.ask, config))
    key = Task(partial(parsed.key_from_file, config.private_key))
    reaches = {}
    if isinstance(said := kamailio.result(), Kamailio):
        for host in to_visit(said, time.time()):
            reaches[host] = Task(partial(_reach, host, config))
    return Evidence(
        kamailio=said,
        port=port.result(),
        on_disk=on_disk.result(),
        fqdn=fqdn.result(),
        tenants=lookups(config.tenants, fqdn.result(), lookup),
        proxies=lookups(config.proxies, fqdn.result(), lambda name: _proxies.lookup(name, lookup)),
        listening=sockets.listening(config.port),
        packet_filter=rules.result(),
        clock=hour.result(),
        loaded=loaded.read(config.loaded),
        key=key.result(),
        installed_at=_modified(config.certificate),
        renewal=renewal.read(config.renewal_record),
        reach={host: task.result() for host, task in reaches.items()},
        taken_at=time.time(),
    )


def lookups(names: Sequence[str], base: Lookup, ask: Callable[[str], Lookup]) -> dict[str, Lookup]:
    """Look all of them up side by side, so that some names without servers hold nothing up for long.

    Where not even `base`, the look-up of our own name, got an answer, nobody is asked again.
    """
    if not base.addresses and not base.negative:
        return {name: base for name in names}
    return dict(zip(names, each(ask, names), strict=True))


def _modified(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def to_visit(kamailio: Kamailio, now: float) -> list[str]:
    """The proxies that owe an answer, or that Kamailio holds inactive for no refusal: only these are worth a visit.

    A destination whose name has no address is never sent anything, so an old `sent_at` says nothing good of it.
    """
    hosts = []
    for destination in kamailio.destinations:
        answer, sent_at = destination.answer, destination.sent_at or kamailio.loaded_at
        owes = answer is None or answer.at < sent_at
        refuses = answer is not None and answer.code >= 300 and not owes
        if (owes and now > sent_at + PROMPT) or (destination.flags[:1] in "TI" and not refuses):
            hosts.append(destination.host)
    return hosts


def _reach(host: str, config: Config) -> Reach:
    return wire.reach(host, lookup(host), config.port, config.proxy_roots)
