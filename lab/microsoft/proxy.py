"""One of Microsoft's SIP proxies: answers an SBC's OPTIONS and sends its own, as Teams Direct Routing does.

Behaviour: Microsoft, "Plan Direct Routing" and "Direct Routing - SIP protocol", May 2025; the wording of the messages
follows public traces of 2020.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import ssl
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.microsoft import blackhole, ca, sip, tls
from lab.microsoft.names import Resolver
from lab.microsoft.trunks import (
    Fault,
    Received,
    Refused,
    Registry,
    Sent,
    Settings,
    Trunk,
    may_probe,
)

log = logging.getLogger(__name__)

PRODUCT = "Microsoft.PSTNHub.SIPProxy v.2026.11.1.1 i.LAB.1"
ALLOW = "INVITE,ACK,OPTIONS,CANCEL,BYE,NOTIFY"
SIP_TLS_PORT = 5061


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Who the proxy is, as the configuration file says."""

    cloud: str
    name: str
    address: str
    certificate: Path
    key: Path
    faulty: Mapping[ca.CertificateFault, ca.Files]
    trusted_roots: tuple[Path, ...]
    port: int = SIP_TLS_PORT


@dataclass(slots=True)
class World:
    """What all proxies share."""

    registry: Registry
    settings: Settings
    resolver: Resolver
    refusals: deque[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an incoming connection."""

    source: str
    verifier: tls.PeerVerifier


class Forbidden(Exception):
    """An SBC's OPTIONS is not accepted; `code` goes into the answer, the text into its Reason header."""

    def __init__(self, code: int, phrase: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.phrase = phrase


class Proxy:
    """Listens at its address, and connects from it."""

    def __init__(self, config: ProxyConfig, world: World) -> None:
        self.config = config
        self.world = world
        self.given = Fault()
        """What was asked for; it may come and go."""
        self.fault = Fault()
        """What is wrong now."""
        self._own = tls.Identity(config.certificate, config.key, config.trusted_roots)
        self._faulty = {
            kind: tls.Identity(files.certificate, files.key, config.trusted_roots)
            for kind, files in config.faulty.items()
        }
        self._distrusting = tls.Identity(config.certificate, config.key, ())
        self._flapping: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}

    @property
    def listening(self) -> bool:
        return self._server is not None

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def _identity(self) -> tls.Identity:
        if self.fault.kind == "distrust":
            return self._distrusting
        return next((self._faulty[kind] for kind in ca.CERTIFICATE_FAULTS if kind == self.fault.kind), self._own)

    async def start(self) -> None:
        """Raises OSError when the address cannot be had, and what `tls.Identity.contexts` raises."""
        if self._server is None:
            for identity in (self._own, self._distrusting, *self._faulty.values()):
                identity.contexts()
            self._server = await asyncio.start_server(self._accept, self.config.address, self.config.port, backlog=1024)

    async def stop(self) -> None:
        """Close the listener, drop every connection and end the proxy's own OPTIONS; the fault stays as it is."""
        await self._hold()
        await self._close()

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server:
            server.close()
        await _end([*self._connections, *self._probes.values()])
        self._probes.clear()

    async def set_fault(self, fault: Fault) -> None:
        """Raises OSError when the listener cannot come back."""
        await self._hold()
        self.given = fault
        await self._become(fault)
        if fault.period is not None:
            self._flapping = asyncio.create_task(self._flap(fault, fault.period))

    async def _flap(self, fault: Fault, period: float) -> None:
        for now in itertools.cycle((Fault(), fault)):
            await asyncio.sleep(period)
            try:
                await self._become(now)
            except OSError as exc:
                log.error("%s does not come back: %s", self.config.name, exc)

    async def _hold(self) -> None:
        """Let the fault come and go no longer."""
        if self._flapping:
            await _end([self._flapping])
        self._flapping = None

    async def _become(self, fault: Fault) -> None:
        identity = self._identity
        self.fault = fault
        if fault.kind == "down":
            await self._close()
            return
        if self._identity is not identity:
            await _end([*self._connections])
        await self.start()
        assert self._server
        open_now = [writer for writer in self._connections.values() if not writer.is_closing()]
        for sock in (*self._server.sockets, *(writer.get_extra_info("socket") for writer in open_now)):
            blackhole.drop(sock, fault.kind == "blackhole")

    def forget(self, fqdn: str) -> None:
        """End the proxy's own OPTIONS to a trunk that is no more."""
        if probe := self._probes.pop(fqdn, None):
            probe.cancel()

    # The SBC's OPTIONS

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.listening:
            return writer.transport.abort()
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = str(writer.get_extra_info("peername")[0])
        try:
            peer = Peer(source, tls.PeerVerifier(await self._known_at(source)))
            stream = tls.ServerStream(reader, writer, self._identity.contexts()[0], peer.verifier)
            try:
                async with asyncio.timeout(self.world.settings.timeout):
                    await stream.handshake()
            except tls.TlsError as exc:
                self._note_refusal(source, str(exc), peer.verifier.candidates)
                return
            await self._converse(stream, peer)
            await stream.close()
        except sip.SipError as exc:
            self._note_refusal(source, str(exc), ())
        except (OSError, TimeoutError) as exc:
            log.debug("%s: connection from %s ended: %s", self.config.name, source, exc)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _known_at(self, source: str) -> list[str]:
        fqdns = self.world.registry.of_cloud(self.config.cloud)
        answers = await asyncio.gather(*map(self.world.resolver.addresses, fqdns))
        return [fqdn for fqdn, addresses in zip(fqdns, answers, strict=True) if source in addresses]

    async def _converse(self, stream: tls.ServerStream, peer: Peer) -> None:
        parser = sip.Parser()
        while data := await stream.read():
            for item in parser.feed(data):
                if isinstance(item, sip.Ping):
                    await stream.write(sip.CRLF)
                elif item.method == "OPTIONS":
                    await self._answer_options(stream, item, peer)
                elif item.method not in (None, "ACK"):
                    await stream.write(self._reply(item, 405, "Method Not Allowed"))

    async def _answer_options(self, stream: tls.ServerStream, request: sip.Message, peer: Peer) -> None:
        trunks: list[Trunk] = []
        code: int | None = sip.OK
        phrase, text = "OK", ""
        try:
            trunks = [self._trunk_of(request, peer)]
        except Forbidden as exc:
            code, phrase, text = exc.code, exc.phrase, str(exc)
            trunks = [trunk for fqdn in peer.verifier.covered if (trunk := self.world.registry.get(fqdn))]
        extra: list[tuple[str, str]] = []
        match self.fault.kind:
            case "silent":
                code, phrase, text = None, "", "this proxy answers nothing"
            case "refuse":
                code, phrase, text = 403, "Forbidden", "this proxy refuses everybody"
            case "error":
                code, phrase, text = self.fault.code, self.fault.reason, self.fault.text
                if self.fault.retry_after is not None:
                    extra = [("RETRY-AFTER", str(self.fault.retry_after))]
        received = Received(
            time=time.time(),
            source=peer.source,
            contact=request.first("contact"),
            agent=request.first("user-agent"),
            certificate=peer.verifier.fingerprint,
            code=code,
            reason=text or phrase,
        )
        for trunk in trunks:
            self._note_received(trunk, received)
        if code is None:
            return
        if code != sip.OK:
            self._note(peer.source, f"OPTIONS answered {code}: {received.reason}")
        if text:
            extra.append(("REASON", f'Q.850;cause=63;text="{uuid.uuid4()};{text}"'))
        await stream.write(self._reply(request, code, phrase, extra))
        for trunk in trunks:
            self._probe(trunk)

    def _trunk_of(self, request: sip.Message, peer: Peer) -> Trunk:
        missing = [name for name in ("via", "from", "to", "call-id", "cseq") if request.first(name) is None]
        if missing:
            raise Forbidden(400, "Bad Request", f"{', '.join(missing)} missing")
        contact = sip.uri_of(request.first("contact"))
        route = sip.uri_of(request.first("record-route"))
        who = contact or route
        if who is None:
            raise Forbidden(400, "Bad Request", "Record-Route and Contact headers are missing")
        if who.is_address:
            raise Forbidden(403, "Forbidden", f"Provided Trunk FQDN '{who.host}' is not allowed")
        if route and not route.is_address and route.host != who.host:
            raise Forbidden(403, "Forbidden", f"Record-Route names {route.host} and Contact {who.host}")
        trunk = self.world.registry.get(who.host)
        if trunk is None or trunk.cloud != self.config.cloud:
            raise Forbidden(403, "Forbidden", f"Provided Trunk FQDN '{who.host}' is not known")
        if not tls.covers(peer.verifier.names, who.host):
            raise Forbidden(403, "Forbidden", f"Certificate does not carry '{who.host}'")
        return trunk

    def _reply(self, request: sip.Message, code: int, phrase: str, extra: list[tuple[str, str]] | None = None) -> bytes:
        return sip.reply(request, code, phrase, [("ALLOW", ALLOW), ("SERVER", PRODUCT), *(extra or [])])

    # The proxy's own OPTIONS

    def _probe(self, trunk: Trunk) -> None:
        running = self._probes.get(trunk.fqdn)
        if (running is None or running.done()) and self._may_probe(trunk):
            self._probes[trunk.fqdn] = asyncio.create_task(self._probe_regularly(trunk))

    def _may_probe(self, trunk: Trunk) -> bool:
        return may_probe(trunk, self.config.name, self.fault, time.time(), self.world.settings)

    async def _probe_regularly(self, trunk: Trunk) -> None:
        seen = trunk.seen_by(self.config.name)
        while self._may_probe(trunk) and seen.received:
            contact = sip.uri_of(seen.received.contact)
            sent, _ = await self.options(trunk.fqdn, contact.port if contact and contact.port else SIP_TLS_PORT)
            if seen.sent is None or (sent.code, sent.error) != (seen.sent.code, seen.sent.error):
                log.info("%s: own OPTIONS to %s: %s", self.config.name, sent.target, sent.error or sent.code)
            seen.sent = sent
            await asyncio.sleep(self.world.settings.options_interval)

    async def options(self, fqdn: str, port: int = SIP_TLS_PORT) -> tuple[Sent, bytes | None]:
        """One OPTIONS over a connection of its own, so that each shows the certificate that is served now.

        Beside the outcome the certificate (DER), if one was accepted.
        """
        begun = time.time()
        target = f"{fqdn}:{port}"
        addresses = sorted(await self.world.resolver.addresses(fqdn))
        if len(addresses) != 1:
            what = f"resolves to {', '.join(addresses)}, where one address is supported" if addresses else "no A record"
            return Sent(begun, target, error=f"{fqdn}: {what}"), None
        [address] = addresses
        der: bytes | None = None
        certificate = None
        try:
            async with asyncio.timeout(self.world.settings.timeout):
                reader, writer = await asyncio.open_connection(
                    address,
                    port,
                    ssl=self._identity.contexts()[1],
                    server_hostname=fqdn,
                    local_addr=(self.config.address, 0),
                    ssl_shutdown_timeout=2,
                )
                try:
                    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                    assert der is not None
                    certificate = tls.fingerprint(der)
                    asked = time.perf_counter()
                    answer = await self._ask(reader, writer, fqdn, port)
                    round_trip = round(time.perf_counter() - asked, 6)
                finally:
                    writer.close()
        except (OSError, TimeoutError, sip.SipError) as exc:
            return Sent(begun, target, address, certificate, error=_describe(exc, der is not None)), der
        contact = answer.first("contact")
        return Sent(
            begun, target, address, certificate, answer.code, answer.reason, round_trip=round_trip, contact=contact
        ), der

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fqdn: str, port: int
    ) -> sip.Message:
        """The final answer. Raises OSError, sip.SipError."""
        call_id = str(uuid.uuid4())
        host, source_port = writer.get_extra_info("sockname")[:2]
        own = f"sip:{self.config.name}:{self.config.port}"
        headers = [
            ("FROM", f"<{own}>;tag={secrets.token_hex(8)}"),
            ("TO", f"<sip:{fqdn}>"),
            ("CSEQ", "1 OPTIONS"),
            ("CALL-ID", call_id),
            ("MAX-FORWARDS", "70"),
            ("VIA", f"SIP/2.0/TLS {host}:{source_port};branch=z9hG4bK{secrets.token_hex(8)}"),
            ("CONTACT", f"<{own};transport=tls>"),
            ("CONTENT-LENGTH", "0"),
            ("USER-AGENT", PRODUCT),
            ("ALLOW", ALLOW),
        ]
        writer.write(sip.render(f"OPTIONS sip:{fqdn}:{port};transport=tls SIP/2.0", headers))
        await writer.drain()
        parser = sip.Parser()
        while data := await reader.read(tls.CHUNK):
            for item in parser.feed(data):
                if isinstance(item, sip.Message) and (item.code or 0) >= sip.OK and item.first("call-id") == call_id:
                    return item
        raise ConnectionError("connection closed without an answer")

    # What is kept of it

    def _note(self, source: str, reason: str) -> None:
        log.info("%s: %s: %s", self.config.name, source, reason)
        self.world.refusals.append({"time": time.time(), "proxy": self.config.name, "source": source, "reason": reason})

    def _note_refusal(self, source: str, reason: str, fqdns: Iterable[str]) -> None:
        self._note(source, reason)
        for fqdn in fqdns:
            if trunk := self.world.registry.get(fqdn):
                trunk.seen_by(self.config.name).refused = Refused(time.time(), source, reason)

    def _note_received(self, trunk: Trunk, received: Received) -> None:
        seen = trunk.seen_by(self.config.name)
        if seen.received is None or seen.received.code != received.code:
            log.info("%s: OPTIONS of %s from %s: %s", self.config.name, trunk.fqdn, received.source, received.code)
        seen.received = received


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _describe(exc: Exception, connected: bool) -> str:
    match exc:
        case ssl.SSLCertVerificationError():
            return f"certificate not accepted: {exc.verify_message}"
        case ssl.SSLError():
            return f"TLS: {exc.reason or exc}"
        case TimeoutError():
            return "no answer" if connected else "no connection: timed out"
        case ConnectionRefusedError():
            return "no connection: refused"
    return str(exc) or type(exc).__name__
