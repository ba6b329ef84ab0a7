"""Gather the evidence: everything that reads something is called from here, and nothing here judges it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sbc_probe import parsed, renewal, wire
from sbc_probe.config import Config
from sbc_probe.model import (
    Answer,
    Certificate,
    Destination,
    Evidence,
    Kamailio,
    Lookup,
    Misnamed,
    Reach,
    Theirs,
    Unread,
)
from sbc_probe.resolver import lookup
from sbc_probe.rpc import Rpc, RpcError

Table = dict[str, str | int]
# An answer that takes longer (s) than this is worth a look at the way to the proxy.
PROMPT = 2.0


def collect(config: Config) -> Evidence:
    """Read everything once, side by side: about 20 ms when all is well, a few timeouts (seconds) when it is not."""
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="evidence") as pool:
        kamailio = pool.submit(read_kamailio, config)
        port = pool.submit(wire.read_port, config)
        fqdn = pool.submit(lookup, config.fqdn)
        on_disk = pool.submit(parsed.from_file, config.certificate)
        key = pool.submit(parsed.key_from_file, config.private_key)
        reaches = {}
        if isinstance(said := kamailio.result(), Kamailio):
            for host in to_visit(said, time.time()):
                reaches[host] = pool.submit(_reach, host, config)
        return Evidence(
            kamailio=said,
            port=port.result(),
            on_disk=on_disk.result(),
            fqdn=fqdn.result(),
            tenants=lookups(config.tenants, fqdn.result()),
            key=key.result(),
            installed_at=_modified(config.certificate),
            renewal=renewal.read(config.renewal_record),
            reach={host: future.result() for host, future in reaches.items()},
            taken_at=time.time(),
        )


def lookups(names: Sequence[str], base: Lookup) -> dict[str, Lookup]:
    """Look all of them up side by side, so that some names without servers hold nothing up for long."""
    if not base.addresses and not base.negative:
        return {name: base for name in names}
    if not names:
        return {}
    with ThreadPoolExecutor(max_workers=min(32, len(names)), thread_name_prefix="tenants") as pool:
        return dict(zip(names, pool.map(lookup, names), strict=True))


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


def read_kamailio(config: Config) -> Kamailio | Unread:
    """Ask Kamailio for its destinations and for the evidence that its configuration keeps in htables."""
    try:
        with Rpc(config.rpc_socket) as rpc:
            uptime = rpc.call("core.uptime")["uptime"]
            own, answers, theirs = (rpc.table(name) for name in ("sbc_self", "sbc_answers", "sbc_theirs"))
            targets = _targets(rpc)
            names = _names(targets, answers)
            return Kamailio(
                loaded_at=float(own.get("loaded", int(time.time()) - uptime)),
                destinations=tuple(_destination(item, answers, names) for item in targets),
                theirs=_theirs(theirs, config.fqdn),
                theirs_of_tenants={name: one for name in config.tenants if (one := _theirs(theirs, name))},
                established=_established(rpc, config.port),
            )
    except TimeoutError:
        return Unread(f"{config.rpc_socket} exists, but nothing answers there")
    except ConnectionRefusedError:
        return Unread(f"{config.rpc_socket} was left behind: no process serves it")
    except OSError as error:
        return Unread(f"{config.rpc_socket}: {error.strerror}", denied=isinstance(error, PermissionError))
    except RpcError as error:
        return Unread(f"Kamailio's RPC refuses: {error}")
    except parsed.NotParsed as error:
        return Unread(str(error))
    except (ValueError, KeyError, TypeError) as error:
        return Unread(f"Kamailio's RPC answers in a form that is not known: {error!r}")


def _targets(rpc: Rpc) -> list[dict[str, Any]]:
    try:
        records = rpc.call("dispatcher.list")["RECORDS"]
    except RpcError as error:
        if "No Destination Sets" in str(error):
            return []
        raise
    return [target["DEST"] for record in records for target in record["SET"]["TARGETS"]]


def _host(item: dict[str, Any]) -> str:
    """The host name in the URI of a dispatcher record, in lower case."""
    host: str = item["URI"].partition(":")[2].split(";")[0].rpartition("@")[2].partition(":")[0].lower()
    return host


def _names(targets: list[dict[str, Any]], answers: Table) -> dict[str, tuple[str, ...]]:
    """The names in the certificate that each proxy last showed, without entries where Kamailio kept none."""
    texts = {host: str(text) for item in targets if (text := answers.get(f"{(host := _host(item))}:certificate"))}
    peers = zip(texts, parsed.from_kamailio(list(texts.values())), strict=True)
    return {host: peer.names for host, peer in peers if isinstance(peer, Certificate)}


def _destination(item: dict[str, Any], answers: Table, certified: dict[str, tuple[str, ...]]) -> Destination:
    host = _host(item)
    answer = misnamed = None
    names = certified.get(host, ())
    if refused := answers.get(f"{host}:refused"):
        misnamed = Misnamed(float(refused), names)
    if (at := answers.get(f"{host}:time")) and (code := answers.get(f"{host}:code")):
        reason, since = str(answers.get(f"{host}:reason", "")), float(answers.get(f"{host}:since", at))
        answer = Answer(float(at), int(code), reason, since, names)
    sent = answers.get(f"{host}:sent")
    average = item.get("LATENCY", {}).get("AVG")
    return Destination(
        uri=item["URI"],
        host=host,
        flags=item["FLAGS"],
        # Kamailio says 0 both for "none yet" and for less than a millisecond.
        latency_ms=float(average) if average is not None and (answer or average) else None,
        sent_at=float(sent) if sent else None,
        answer=answer,
        misnamed=misnamed,
    )


def _theirs(table: Table, fqdn: str) -> Theirs | None:
    def value(name: str) -> str | int | None:
        return table.get(f"{fqdn}:{name}")

    if not (at := value("time")):
        return None
    code, count, agent, peer = value("code"), value("count"), value("agent"), value("peer")
    return Theirs(
        at=float(at),
        source=str(value("source") or ""),
        peer=str(peer) if peer else None,
        code=int(code) if code else None,
        agent=str(agent) if agent else None,
        count=int(count) if count else None,
    )


def _established(rpc: Rpc, port: int) -> frozenset[str] | Unread:
    """The peers to which Kamailio opened a connection and completed the handshake; `src` is always the far end."""
    try:
        connections = rpc.call("tls.list")
    except RpcError as error:
        return Unread(f"tls.list: {error}")
    except TimeoutError:
        return Unread("tls.list: no answer; there may be too many connections to list")
    return frozenset(
        item["src_ip"] for item in connections if item["state"] == "established" and item["src_port"] == port
    )
