"""Kamailio's side of the evidence, from its RPC: its destinations, and what its configuration keeps in htables.

What the verdict cannot do without is read first; if any of it cannot be read, nothing of Kamailio is. The rest is
`Unread` or None by itself.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sbc_probe import parsed
from sbc_probe.config import Config
from sbc_probe.model import (
    Answer,
    Certificate,
    Connection,
    Destination,
    Kamailio,
    Memory,
    Misnamed,
    NotHere,
    Theirs,
    Unread,
)
from sbc_probe.rpc import Rpc, RpcError

Part = TypeVar("Part")
Table = dict[str, str | int]
# One takes 430 bytes in tls.list, which is one datagram, so that a longer list never comes (`rpc.REPLY_LIMIT`).
CONNECTIONS_LIMIT = 400
# No answer is waited for longer (s), so that a longer round trip was measured while the clock was set.
ROUND_TRIP_LIMIT = 60.0


def read_kamailio(config: Config) -> Kamailio | Unread:
    """Everything; it takes 13 calls of 0.1 ms, or as many timeouts as Kamailio needs to be taken for hanging: one."""
    try:
        with Rpc(config.rpc_socket) as rpc:
            return _read(rpc, config)
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Unread(f"Kamailio's RPC answers in a form that is not known: {error!r}")


def _read(rpc: Rpc, config: Config) -> Kamailio:
    uptime = _number(rpc.call("core.uptime")["uptime"])
    own, answers, theirs = (rpc.table(name) for name in ("sbc_self", "sbc_answers", "sbc_theirs"))
    targets = _targets(rpc)
    names = _names(targets, answers)
    counts, turns = (_younger_table(rpc, name) for name in ("sbc_counts", "sbc_turns"))
    connections = _part(lambda: _connections(rpc, config.port), "tls.list")
    version = _part(lambda: str(rpc.call("core.version")), "core.version")
    return Kamailio(
        loaded_at=_number(own.get("loaded", int(time.time() - uptime))),
        destinations=tuple(_destination(item, answers, names, counts, turns) for item in targets),
        theirs=_theirs(theirs, config.fqdn),
        theirs_of_tenants={name: one for name in config.tenants if (one := _theirs(theirs, name))},
        established=connections
        if isinstance(connections, Unread)
        else frozenset(one.peer for one in connections if one.outbound and one.established),
        version=version.removeprefix("kamailio").split("(")[0].strip() if isinstance(version, str) else None,
        uptime=uptime,
        memory=_part(lambda: _memory(rpc), "core.shmmem"),
        connections=connections,
        tenants=_part(lambda: _tenants(rpc), "permissions.domainDump"),
        not_here=_not_here(own, counts),
    )


def _part(read: Callable[[], Part], what: str) -> Part | Unread:
    """A part of the evidence that the rest does not depend on."""
    try:
        return read()
    except TimeoutError:
        return Unread(f"{what}: no answer")
    except RpcError as error:
        return Unread(f"{what}: {error}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Unread(f"{what}: an answer in a form that is not known: {error!r}")


def _younger_table(rpc: Rpc, name: str) -> Table:
    """A table that the configuration of before an upgrade does not keep: nothing is in it then."""
    try:
        return rpc.table(name)
    except RpcError:
        return {}


def _number(value: Any) -> float:
    """A number in an answer; ValueError or TypeError: it is none that makes sense."""
    try:
        if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise ValueError(f"{str(value)[:40]} is no number")


def _count(table: Table, key: str) -> int | None:
    return int(_number(table[key])) if key in table else None


def _codes(table: Table, name: str) -> dict[int, int]:
    """How often each status code was counted under NAME:code:CODE."""
    prefix = f"{name}:code:"
    return {int(key.removeprefix(prefix)): int(_number(table[key])) for key in table if key.startswith(prefix)}


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


def _destination(
    item: dict[str, Any], answers: Table, certified: dict[str, tuple[str, ...]], counts: Table, turns: Table
) -> Destination:
    host = _host(item)
    names = certified.get(host, ())
    refused, sent = answers.get(f"{host}:refused"), answers.get(f"{host}:sent")
    answer = _answer(host, answers, names)
    average = item.get("LATENCY", {}).get("AVG")
    sent_count = _count(counts, f"{host}:sent")
    return Destination(
        uri=item["URI"],
        host=host,
        flags=str(item["FLAGS"]),
        # Kamailio says 0 both for "none yet" and for less than a millisecond.
        latency_ms=_number(average) if average is not None and (answer or average) else None,
        sent_at=_number(sent) if sent else None,
        answer=answer,
        misnamed=Misnamed(_number(refused), names) if refused else None,
        sent=sent_count,
        answers=_codes(counts, host),
        # Kamailio counts nothing until there is something to count.
        lost=None if sent_count is None else _count(counts, f"{host}:lost") or 0,
        turns=tuple(sorted(_turns(turns, host))),
    )


def _answer(host: str, answers: Table, names: tuple[str, ...]) -> Answer | None:
    at, code = answers.get(f"{host}:time"), answers.get(f"{host}:code")
    if not at or not code:
        return None
    round_trip = _count(answers, f"{host}:rtt")
    wish = re.match(r"\s*(\d{1,9})\b", str(answers.get(f"{host}:retry_after", "")))
    return Answer(
        at=_number(at),
        code=int(_number(code)),
        reason=str(answers.get(f"{host}:reason", "")),
        since=_number(answers.get(f"{host}:since", at)),
        names=names,
        round_trip=round_trip / 1e6 if round_trip and 0 < round_trip < ROUND_TRIP_LIMIT * 1e6 else None,
        retry_after=float(wish[1]) if wish else None,
    )


def _turns(table: Table, host: str) -> Iterator[float]:
    for key in table:
        name, _, moment = key.rpartition(":")
        if name == host:
            yield _number(moment)


def _theirs(table: Table, fqdn: str) -> Theirs | None:
    def value(name: str) -> str | int | None:
        return table.get(f"{fqdn}:{name}")

    if not (at := value("time")):
        return None
    code, agent, peer = value("code"), value("agent"), value("peer")
    return Theirs(
        at=_number(at),
        source=str(value("source") or ""),
        peer=str(peer) if peer else None,
        code=int(_number(code)) if code else None,
        agent=str(agent) if agent else None,
        count=_count(table, f"{fqdn}:count") or None,
        codes=_codes(table, fqdn),
    )


def _not_here(own: Table, counts: Table) -> NotHere | None:
    if not (at := own.get("not_here:time")):
        return None
    name, source = str(own.get("not_here:name", "")), str(own.get("not_here:source", ""))
    return NotHere(_number(at), name, source, _count(counts, "not_here"))


def _memory(rpc: Rpc) -> Memory:
    said = rpc.call("core.shmmem")
    return Memory(total=int(_number(said["total"])), used=int(_number(said["real_used"])))


def _connections(rpc: Rpc, port: int) -> tuple[Connection, ...] | Unread:
    """`src` is always the far end; where Kamailio has opened the connection, its port is that of a proxy."""
    opened = int(_number(rpc.call("tls.info")["opened_connections"]))
    if opened > CONNECTIONS_LIMIT:
        return Unread(f"tls.list: {opened} connections are too many to list")
    return tuple(
        Connection(
            peer=str(item["src_ip"]),
            outbound=item["src_port"] == port,
            established=item["state"] == "established",
            version=words[1] if len(words) > 1 else "",
            suite=words[0] if words else "",
        )
        for item in rpc.call("tls.list")
        for words in [str(item.get("cipher", "")).split()]
    )


def _tenants(rpc: Rpc) -> frozenset[str]:
    """The names of tenants.list that Kamailio works with; it writes the same keys again for each of them."""
    said = rpc.call("permissions.domainDump")
    items = [] if said in ({}, []) else said["item"]
    return frozenset(str(item["domain_name"]).lower() for item in (items if isinstance(items, list) else [items]))
