"""The lab's DNS: the whole name space of its Internet, in one server.

Zones are the API's domains ({domain: [record]}, `lab.digitalocean.domains.Domains.dump`), beside them single names of
hosts such as Microsoft's proxies. Machines use it as their resolver, so what it does not know does not exist: NXDOMAIN
from the root. That a name is missing may be remembered for one second only, since zones change all the time.

The one thing that it asks others for is what a zone delegates to a name server of its own, as a resolver has to.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import random
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from aiohttp import web

log = logging.getLogger(__name__)

NAME_TTL = 60
NEGATIVE_TTL = 1
FAULT_TTL = 1
UDP_PAYLOAD = 1232
LOG_LENGTH = 10_000
CHILD_PORT = 53
CHILD_TIMEOUT = 4.0
_CNAME_CHAIN = 8
_HOST_DATA = {"CNAME", "MX", "NS", "SRV"}
_TXT_STRING = 255

RRsets = dict[dns.rdatatype.RdataType, dns.rrset.RRset]
Ask = Callable[[dns.name.Name, dns.rdatatype.RdataType, list[str]], Awaitable[dns.message.Message | None]]
HostRecords = str | list[str] | dict[str, str | list[str]]
# What a name may suffer in place of its records: no answer at all, or that it does not exist.
SILENT, ABSENT = "silent", "absent"


@dataclass(frozen=True)
class Query:
    """One question as it was answered, `rcode` none if it was not; `time` in Unix seconds, `source` the asker's."""

    time: float
    source: str
    transport: str
    name: str
    type: str
    rcode: str


async def ask_child(
    name: dns.name.Name,
    type: dns.rdatatype.RdataType,
    servers: list[str],
    port: int = CHILD_PORT,
    timeout: float = CHILD_TIMEOUT,
) -> dns.message.Message | None:
    """What the first of a delegation's name servers that answers says of a name; None when none does in time (s).

    The name goes out in random case, as Let's Encrypt's resolvers write it.
    """
    mixed = dns.name.Name([bytes(random.choice((byte, *bytes([byte]).swapcase())) for byte in x) for x in name.labels])
    query = dns.message.make_query(mixed, type, use_edns=0, payload=UDP_PAYLOAD)
    query.flags &= ~dns.flags.RD
    backend: Any = dns.asyncbackend.get_default_backend()
    for server in servers:
        try:
            # Connected, so that a closed port is known at once.
            async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM, 0, None, (server, port)) as sock:
                answer, _ = await dns.asyncquery.udp_with_fallback(query, server, timeout, port, udp_sock=sock)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            log.info("%s %s: asked %s: %s", name, dns.rdatatype.to_text(type), server, error)
            continue
        if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return answer
        log.info("%s: %s answers %s", name, server, dns.rcode.to_text(answer.rcode()))
    return None


class NameSpace:
    """All names of the lab and how they are answered; `ask` asks the name servers of what is delegated."""

    def __init__(self, ask: Ask = ask_child) -> None:
        self._ask = ask
        self._names: dict[dns.name.Name, RRsets] = {}
        self._exist: set[dns.name.Name] = {dns.name.root}
        self._apexes: set[dns.name.Name] = {dns.name.root}
        self._absent: set[dns.name.Name] = set()
        self.silent: set[dns.name.Name] = set()
        self.zones: dict[str, list[dict[str, Any]]] = {}
        self.hosts: dict[str, HostRecords] = {}
        self.faults: dict[str, HostRecords] = {}

    def set_zones(self, zones: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Replace all zones. Raises ValueError or a DNSException, and changes nothing, when a record is wrong."""
        copied = {domain: [dict(record) for record in records] for domain, records in zones.items()}
        self._build(copied, self.hosts, self.faults)

    def set_hosts(self, hosts: Mapping[str, HostRecords]) -> None:
        """Replace the single names, each with its address or addresses, or with {type: data or list of data}.

        Raises ValueError or a DNSException, and changes nothing, for what is no address and no data of its type.
        """
        self._build(self.zones, dict(hosts), self.faults)

    def set_faults(self, faults: Mapping[str, HostRecords]) -> None:
        """Replace what is wrong with names, whatever else is known of them: "silent", "absent", or other records.

        Raises what `set_hosts` raises, and changes nothing then.
        """
        self._build(self.zones, self.hosts, dict(faults))

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The response to a query, complete whatever its length."""
        response = dns.message.make_response(query, our_payload=UDP_PAYLOAD)
        response.flags |= dns.flags.RA
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        if question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        response.flags |= dns.flags.AA
        name = question.name
        for _ in range(_CNAME_CHAIN):
            if (servers := self.delegated(name, question.rdtype)) is not None:
                response.flags &= ~dns.flags.AA
                return await self._add_answer_of(servers, name, response)
            rrsets = self._find(name)
            if rrsets is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            found = list(rrsets.values()) if question.rdtype == dns.rdatatype.ANY else [rrsets.get(question.rdtype)]
            response.answer += [_named(rrset, name) for rrset in found if rrset]
            alias = rrsets.get(dns.rdatatype.CNAME)
            if any(found) or alias is None:
                break
            response.answer.append(_named(alias, name))
            name = alias[0].target
        if not response.answer or response.answer[-1].name != name or response.rcode() == dns.rcode.NXDOMAIN:
            response.authority.append(self._soa(name))
        return response

    def delegated(self, name: dns.name.Name, type: dns.rdatatype.RdataType) -> list[str] | None:
        """The addresses of the name servers that have to be asked for a name; None where this server knows itself."""
        apex = self._apex(name)
        # From the top: what a zone has below a delegation is out of sight (RFC 4592, section 2.2.1).
        for owner in reversed([above for above in _ancestors(name) if above.is_subdomain(apex) and above != apex]):
            if servers := self._names.get(owner, {}).get(dns.rdatatype.NS):
                if owner == name and type == dns.rdatatype.DS:
                    return None
                addresses = [self._names.get(server.target, {}).get(dns.rdatatype.A, ()) for server in servers]
                return [record.address for records in addresses for record in records]
        return None

    async def _add_answer_of(
        self, servers: list[str], name: dns.name.Name, response: dns.message.Message
    ) -> dns.message.Message:
        answer = await self._ask(name, response.question[0].rdtype, servers)
        if answer is None:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        response.set_rcode(answer.rcode())
        # The question's name in the spelling in which it was asked; nothing that lies outside of what was asked for.
        response.answer += [_named(rrset, name if rrset.name == name else rrset.name) for rrset in answer.answer]
        response.authority += [rrset for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA]
        return response

    def _build(
        self, zones: dict[str, list[dict[str, Any]]], hosts: dict[str, HostRecords], faults: dict[str, HostRecords]
    ) -> None:
        names: dict[dns.name.Name, RRsets] = {}

        def add(name: dns.name.Name, ttl: int, type: str, text: str, origin: dns.name.Name) -> None:
            rdata = dns.rdata.from_text(dns.rdataclass.IN, type, text, origin=origin, relativize=False)
            rrsets = names.setdefault(name, {})
            if rdata.rdtype not in rrsets:
                rrsets[rdata.rdtype] = dns.rrset.RRset(name, dns.rdataclass.IN, rdata.rdtype)
            rrsets[rdata.rdtype].add(rdata, ttl)

        for domain, records in zones.items():
            apex = dns.name.from_text(domain)
            for record in records:
                name = dns.name.from_text(record["name"], apex)
                add(name, record["ttl"], record["type"], _text(record, domain), apex)
        for host, given in hosts.items():
            name = dns.name.from_text(host)
            for type, data in _host_records(given):
                add(name, NAME_TTL, type, data, dns.name.root)
        faulty = {dns.name.from_text(host): given for host, given in faults.items()}
        for name, given in faulty.items():
            names.pop(name, None)
            if given not in (SILENT, ABSENT):
                for type, data in _host_records(given):
                    add(name, FAULT_TTL, type, data, dns.name.root)
        # An ancestor of a name exists too, with nothing there (RFC 8020).
        self._exist = {ancestor for name in names for ancestor in _ancestors(name)} | {dns.name.root}
        self._names = names
        addressed = [host for host, given in hosts.items() if not isinstance(given, dict)]
        self._apexes = {dns.name.from_text(domain) for domain in (*zones, *addressed)} | {dns.name.root}
        self._absent, self.silent = (
            {name for name, given in faulty.items() if given == kind} for kind in (ABSENT, SILENT)
        )
        self.zones, self.hosts, self.faults = zones, hosts, faults

    def _find(self, name: dns.name.Name) -> RRsets | None:
        """What stands at a name or, where nothing does, at the wildcard beside its closest encloser (RFC 4592)."""
        if name in self._absent:
            return None
        if name in self._exist:
            return self._names.get(name, {})
        encloser = name.parent()
        while encloser not in self._exist:
            encloser = encloser.parent()
        return self._names.get(dns.name.Name(("*", *encloser.labels)))

    def _apex(self, name: dns.name.Name) -> dns.name.Name:
        return next(ancestor for ancestor in _ancestors(name) if ancestor in self._apexes)

    def _soa(self, name: dns.name.Name) -> dns.rrset.RRset:
        apex = self._apex(name)
        soa = self._names.get(apex, {}).get(dns.rdatatype.SOA)
        # A negative answer lasts for the lesser of the SOA's own TTL and its minimum (RFC 2308, section 3).
        return dns.rrset.from_rdata(apex, NEGATIVE_TTL, soa[0] if soa else _soa_rdata("lab.test"))


def _ancestors(name: dns.name.Name) -> Iterable[dns.name.Name]:
    while name != dns.name.root:
        yield name
        name = name.parent()
    yield name


def _host_records(given: HostRecords) -> Iterable[tuple[str, str]]:
    """Type and data of each record of a single name."""
    if isinstance(given, dict):
        for type, data in given.items():
            for each in [data] if isinstance(data, str) else data:
                yield type, each
    else:
        for address in [given] if isinstance(given, str) else given:
            yield "A" if isinstance(ipaddress.ip_address(address), ipaddress.IPv4Address) else "AAAA", address


def _named(rrset: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


def _soa_text(domain: str) -> str:
    return f"ns1.digitalocean.com. hostmaster.{domain}. {int(time.time())} 10800 3600 604800 {NEGATIVE_TTL}"


def _soa_rdata(domain: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, "SOA", _soa_text(domain))


def _text(record: Mapping[str, Any], domain: str) -> str:
    """A record of the API in the presentation format of its type."""
    type, data = record["type"], record["data"]
    if type in _HOST_DATA:
        data = f"{domain}." if data == "@" else f"{data.removesuffix('.')}."
    match type:
        case "SOA":
            return _soa_text(domain)
        case "TXT":
            raw = data.removeprefix('"').removesuffix('"').replace("\\", "\\\\").replace('"', '\\"')
            return " ".join(f'"{raw[i : i + _TXT_STRING]}"' for i in range(0, max(1, len(raw)), _TXT_STRING))
        case "MX":
            return f"{record['priority']} {data}"
        case "SRV":
            return f"{record['priority']} {record['weight']} {record['port']} {data}"
        case "CAA":
            return f'{record["flags"]} {record["tag"]} "{data.removesuffix(".")}"'
        case _:
            return str(data)


class Server:
    """Answers over UDP and TCP on one address, and keeps a log of the questions."""

    def __init__(self, names: NameSpace) -> None:
        self.names = names
        self.queries: deque[Query] = deque(maxlen=LOG_LENGTH)
        self._transport: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int = 53) -> int:
        """Listen; port 0 takes a free one. Returns the port. Raises OSError when it cannot be had."""
        self._tcp = await asyncio.start_server(self._serve, address, port)
        port = self._tcp.sockets[0].getsockname()[1]
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self), (address, port), family=socket.AF_INET
        )
        return port

    async def stop(self) -> None:
        if self._transport:
            self._transport.close()
        if self._tcp:
            self._tcp.close()
        for task in self._tasks:
            task.cancel()

    def begin(self, answering: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Answer in a task of its own: a question that others have to be asked for keeps nobody waiting."""
        task = asyncio.create_task(answering)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def respond(self, wire: bytes, source: str, transport: str) -> bytes | None:
        """The answer to one message; None for what is not answered at all: no DNS query, or a name with that fault."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR:
            return None
        silent = any(question.name in self.names.silent for question in query.question)
        response = await self.names.answer(query)
        for question in query.question:
            self.queries.append(
                Query(
                    time=time.time(),
                    source=source,
                    transport=transport,
                    name=question.name.to_text(omit_final_dot=True).lower(),
                    type=dns.rdatatype.to_text(question.rdtype),
                    rcode="none" if silent else dns.rcode.to_text(response.rcode()),
                )
            )
        if silent:
            return None
        if transport == "tcp":
            return response.to_wire(max_size=65535)
        limit = max(512, min(query.payload, UDP_PAYLOAD)) if query.edns >= 0 else 512
        return response.to_wire(max_size=limit, prefer_truncation=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]

        async def answer(wire: bytes) -> None:
            if response := await self.respond(wire, source, "tcp"):
                writer.write(struct.pack("!H", len(response)) + response)
            else:
                writer.close()

        answering: list[asyncio.Task[None]] = []
        try:
            while True:
                async with asyncio.timeout(10):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    answering.append(self.begin(answer(await reader.readexactly(length))))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await asyncio.gather(*answering, return_exceptions=True)
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance check: Python 3.11's own datagram transport is none by its bases.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._server.begin(self._answer(data, address))

    async def _answer(self, data: bytes, address: tuple[str, int]) -> None:
        answer = await self._server.respond(data, address[0], "udp")
        if answer and not self._transport.is_closing():
            self._transport.sendto(answer, address)


def make_control(server: Server) -> web.Application:
    """HTTP routes of one server: GET/PUT /zones, /names and /faults, GET/DELETE /queries. A wrong body answers 400."""

    def put(change: Any) -> Any:
        async def handler(request: web.Request) -> web.Response:
            try:
                change(json.loads(await request.text()))
            except (ValueError, TypeError, KeyError, AttributeError, dns.exception.DNSException) as error:
                return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
            return web.json_response({})

        return handler

    async def zones(request: web.Request) -> web.Response:
        return web.json_response(server.names.zones)

    async def names(request: web.Request) -> web.Response:
        return web.json_response(server.names.hosts)

    async def faults(request: web.Request) -> web.Response:
        return web.json_response(server.names.faults)

    async def queries(request: web.Request) -> web.Response:
        return web.json_response({"queries": [asdict(query) for query in server.queries]})

    async def forget(request: web.Request) -> web.Response:
        server.queries.clear()
        return web.json_response({})

    app = web.Application(client_max_size=64 * 1024**2)
    app.add_routes(
        [
            web.get("/zones", zones),
            web.put("/zones", put(server.names.set_zones)),
            web.get("/names", names),
            web.put("/names", put(server.names.set_hosts)),
            web.get("/faults", faults),
            web.put("/faults", put(server.names.set_faults)),
            web.get("/queries", queries),
            web.delete("/queries", forget),
        ]
    )
    return app


async def serve(address: str, port: int, control: Path, child_port: int, child_timeout: float) -> None:
    """Run a server and its control socket until SIGTERM or SIGINT."""
    server = Server(NameSpace(partial(ask_child, port=child_port, timeout=child_timeout)))
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    runner = web.AppRunner(make_control(server), access_log=None)
    await runner.setup()
    control.unlink(missing_ok=True)
    port = await server.start(address, port)
    await web.UnixSite(runner, str(control)).start()
    print(f"DNS {address}:{port} control {control}", flush=True)
    await stop.wait()
    await runner.cleanup()
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.dns", description="The lab's DNS server.")
    parser.add_argument("--listen", required=True, help="IPv4 address, UDP and TCP")
    parser.add_argument("--port", type=int, default=53, help="0 takes a free one")
    parser.add_argument("--control", type=Path, required=True, help="Unix socket of the control interface")
    parser.add_argument("--child-port", type=int, default=CHILD_PORT, help="of the name servers zones delegate to")
    parser.add_argument("--child-timeout", type=float, default=CHILD_TIMEOUT, help="for each of them to answer (s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(options.listen, options.port, options.control, options.child_port, options.child_timeout))


if __name__ == "__main__":
    main()
