"""Close the TLS connections of before a new certificate, one by one, so that each comes back with the new one.

Kamailio shows a new certificate to new connections only, and Microsoft expects that old ones come down. Its tls.kill
(tried on 6.0.1) marks a connection as over: one in use is served on and ends as soon as the worker that reads from it
gives it back, 5 to 6 s after it took it. One that lies idle is not looked at for minutes; after that time nothing is on
its way there, and the kernel closes it (ss --kill: Debian 13's kernels have CONFIG_INET_DIAG_DESTROY).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sbc_probe.rpc import Rpc, RpcError
from sbc_probe.sockets import ESTABLISHED, End, sockets

# From tls.kill on, a connection in use ends within this long (s).
GRACE = 7.0
# From tls.kill on, every connection is gone after this long (s).
CLOSING = GRACE + 3
PACE = 1.0


class Connection(NamedTuple):
    """As Kamailio lists it. Its numbers begin anew with each start; when it was opened tells such ones apart.

    Of a connection that it opened itself from a given address, Kamailio says 0 for our port.
    """

    number: int
    opened: str
    theirs: End
    ours: End


@dataclass(frozen=True, slots=True)
class Outcome:
    """`old` connections there were at the start, `left` are there at the end; `why` is what went wrong, if anything."""

    old: int
    left: int
    why: str | None = None


def retire(rpc_socket: str, within: float) -> Outcome:
    """Close what is open now, evenly spread over `within` seconds; what is opened meanwhile is left alone.

    A Kamailio that is stopped or started again meanwhile has ended the old connections by that.
    """
    begin, end = time.monotonic(), time.monotonic() + within
    before = _sockets()
    try:
        old = _open(rpc_socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return Outcome(0, 0)
    except (OSError, RpcError, ValueError) as error:
        return Outcome(0, 0, f"Kamailio does not list its connections: {error}")
    times = _schedule(len(old), begin, within)
    due, left, why = next(times, end), old, None
    pending, marked = sorted(old), dict[Connection, float]()
    while left:
        try:
            left = old & _open(rpc_socket)
            pending = [connection for connection in pending if connection in left]
            while pending and time.monotonic() >= due:
                marked[pending[0]] = time.monotonic()
                _mark(rpc_socket, pending.pop(0))
                due = next(times, end)
            for connection in [one for one in left if time.monotonic() >= marked.get(one, end) + GRACE]:
                _cut(connection, before)
            why = None
        except (FileNotFoundError, ConnectionRefusedError):
            left = set()
        except (OSError, RpcError, ValueError) as error:
            why = str(error) or type(error).__name__
        if time.monotonic() >= end:
            break
        if left:
            time.sleep(min(PACE, end - time.monotonic()))
    return Outcome(len(old), len(left), why)


def _schedule(count: int, begin: float, within: float) -> Iterator[float]:
    """When to mark each: none at once, and the last early enough to be gone in time."""
    window = max(0.0, within - CLOSING)
    return (begin + window * number / count for number in range(1, count + 1))


def _open(rpc_socket: str) -> set[Connection]:
    with Rpc(rpc_socket) as rpc:
        return {
            Connection(
                item["id"],
                str(item.get("timestamp")),
                (item["src_ip"], item["src_port"]),
                (item["dst_ip"], item["dst_port"]),
            )
            for item in rpc.call("tls.list")
        }


def _mark(rpc_socket: str, connection: Connection) -> None:
    with Rpc(rpc_socket) as rpc:
        rpc.call("tls.kill", connection.number)


def _cut(connection: Connection, before: set[tuple[End, End]]) -> None:
    """Let the kernel close it. Where our port is not known, any one to the same peer that is as old will do."""
    for ours, theirs in sorted(before & _sockets()):
        if theirs == connection.theirs and connection.ours in (ours, (ours[0], 0)):
            command = ["ss", "--kill", "--tcp", "src", "{}:{}".format(*ours), "dst", "{}:{}".format(*theirs)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            return


def _sockets() -> set[tuple[End, End]]:
    """Both ends of every established TCP connection of this machine, ours first."""
    return {(one.ours, one.theirs) for one in sockets() if one.state == ESTABLISHED}
