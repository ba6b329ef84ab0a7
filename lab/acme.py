"""Let's Encrypt as the world meets it: its two directories under their own names, each with a Pebble behind it.

Run with python -m lab.acme --config FILE: JSON with `control`, the unix socket of the control interface; `ca`, the root
behind the certificates of the fronts and of their Pebbles; `directories`: {name: settings, see Directory}. The control
interface comes last: when it is there, all directories answer and their roots are published.

GET  /directories          host, address, fault and number of orders of each
POST /fault                {"kind": "none|down|error|rate_limited", "directory": "production"}
GET  /orders               how often a new order was asked for, {directory: number}
GET  /orders/{directory}   each of them: time, names, status of the answer
POST /aged                 {"certificate": PEM, "seconds_left": number}: the same certificate, issued earlier
POST /reset                no faults, no orders
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import signal
import ssl
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from multidict import CIMultiDict

from lab.http import body_of, errors_as_json

log = logging.getLogger(__name__)

FaultKind = Literal["none", "down", "error", "rate_limited"]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)

# As Let's Encrypt's classic profile has it.
CERTIFICATE_LIFE = 90 * 86_400

# Validation without a pause, no nonce refused at random (which Let's Encrypt does not do either), and no authorization
# used again: whether the challenge is asked for must not be a matter of chance.
PEBBLE_ENVIRONMENT = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}

# Five certificates for one set of names in a week: one more every 34 hours.
_RETRY_AFTER = 34 * 3600
_OF_ONE_CONNECTION = {"connection", "content-length", "date", "keep-alive", "transfer-encoding"}
_BROKEN = (
    "<html><head><title>500 Internal Server Error</title></head><body><h1>Internal Server Error</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Directory:
    """One ACME directory: where it is met, the certificate it shows there, and the Pebble that does its work."""

    host: str
    address: str
    certificate: Path
    key: Path
    pebble: str
    """host:port of Pebble's own directory, which shows the same certificate."""
    management: str
    """host:port of Pebble's management interface."""
    root: Path
    """Where the root of its certificates is published: a file in PEM."""
    port: int = 443


@dataclass(frozen=True, slots=True)
class Order:
    """A request for a new order and the status of the answer."""

    time: float
    names: list[str]
    status: int


def pebble_config(directory: Directory, http_port: int = 80) -> dict[str, Any]:
    """The configuration file of the Pebble behind a directory."""
    return {
        "pebble": {
            "listenAddress": directory.pebble,
            "managementListenAddress": directory.management,
            "certificate": str(directory.certificate),
            "privateKey": str(directory.key),
            "httpPort": http_port,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "certificateValidityPeriod": CERTIFICATE_LIFE,
        }
    }


class Front:
    """Answers for one directory, and passes on what it has no fault for."""

    def __init__(self, directory: Directory, ca: Path) -> None:
        self.directory = directory
        self.fault: FaultKind = "none"
        self.orders: list[Order] = []
        self._to_pebble = ssl.create_default_context(cafile=ca)
        self._here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._here.load_cert_chain(directory.certificate, directory.key)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._new_order = self._new_nonce = ""

    @property
    def listening(self) -> bool:
        return self._runner is not None

    async def start(self) -> None:
        """Wait for Pebble, publish its root and answer. Raises OSError when the address cannot be had."""
        self._session = aiohttp.ClientSession(auto_decompress=False)
        while True:
            try:
                _, _, body = await self._ask("GET", self.directory.pebble, "/dir")
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
        urls = json.loads(body)
        self._new_order, self._new_nonce = (urlsplit(urls[name]).path for name in ("newOrder", "newNonce"))
        _publish(self.directory.root, await self._managed("roots"))
        await self._listen()

    async def stop(self) -> None:
        await self._hang_up()
        if self._session:
            await self._session.close()

    async def set_fault(self, kind: FaultKind) -> None:
        """Raises OSError when the listener cannot come back."""
        self.fault = kind
        if kind == "down":
            await self._hang_up()
        elif not self.listening:
            await self._listen()

    async def aged(self, certificate: x509.Certificate, left: timedelta) -> str:
        """A certificate of this directory had it been issued so long ago that only `left` is left of it, as a chain.

        Raises ValueError when this directory has not issued it.
        """
        issuer = x509.load_pem_x509_certificate((await self._managed("intermediates")).encode())
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise ValueError(f"{self.directory.host} has not issued this certificate") from None
        key = serialization.load_pem_private_key((await self._managed("intermediate-keys")).encode(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        end = datetime.now(UTC) + left
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificate.subject)
            .issuer_name(certificate.issuer)
            .public_key(certificate.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - (certificate.not_valid_after_utc - certificate.not_valid_before_utc))
            .not_valid_after(end)
        )
        for extension in certificate.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        chain = (builder.sign(key, hashes.SHA256()), issuer)
        return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in chain)

    async def _listen(self) -> None:
        app = web.Application(client_max_size=1024**2)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(
            self._runner, self.directory.address, self.directory.port, ssl_context=self._here, reuse_address=True
        ).start()

    async def _hang_up(self) -> None:
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        ordering = request.method == "POST" and request.path == self._new_order
        if self.fault == "error":
            answer = web.Response(status=500, text=_BROKEN, content_type="text/html")
        elif self.fault == "rate_limited" and ordering:
            answer = await self._rate_limited(request.host)
        else:
            path = "/dir" if request.path == "/directory" else request.path_qs
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
            status, given, content = await self._ask(request.method, self.directory.pebble, path, headers, body)
            kept = [(name, value) for name, value in given.items() if name.lower() not in _OF_ONE_CONNECTION]
            answer = web.Response(status=status, headers=CIMultiDict(kept), body=content)
        if ordering:
            self.orders.append(Order(time.time(), _names_in(body), answer.status))
        log.info("%s: %s %s %s: %d", self.directory.host, request.remote, request.method, request.path, answer.status)
        return answer

    async def _rate_limited(self, host: str) -> web.Response:
        retry = datetime.now(UTC) + timedelta(seconds=_RETRY_AFTER)
        _, given, _ = await self._ask("HEAD", self.directory.pebble, self._new_nonce, {"Host": host})
        problem = {
            "type": "urn:ietf:params:acme:error:rateLimited",
            "detail": "too many certificates (5) already issued for this exact set of identifiers "
            f"in the last 168h0m0s, retry after {retry:%Y-%m-%d %H:%M:%S} UTC: see "
            "https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers",
            "status": 429,
        }
        headers = {
            "Retry-After": str(_RETRY_AFTER),
            "Replay-Nonce": given["Replay-Nonce"],
            "Cache-Control": "public, max-age=0, no-cache",
            "Link": '<https://letsencrypt.org/docs/rate-limits>;rel="help"',
        }
        return web.json_response(problem, status=429, headers=headers, content_type="application/problem+json")

    async def _managed(self, what: str) -> str:
        status, _, body = await self._ask("GET", self.directory.management, f"/{what}/0")
        if status != 200:
            raise RuntimeError(f"Pebble's management interface answers {status} for {what}")
        return body.decode()

    async def _ask(
        self, method: str, server: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, Any, bytes]:
        """One request to Pebble. Raises aiohttp.ClientConnectionError while it does not listen."""
        assert self._session
        async with self._session.request(
            method,
            f"https://{server}{path}",
            headers=headers or {"Host": self.directory.host},
            data=body or None,
            ssl=self._to_pebble,
            server_hostname=self.directory.host,
            allow_redirects=False,
        ) as response:
            return response.status, response.headers, await response.read()


def _names_in(jws: bytes) -> list[str]:
    try:
        payload = json.loads(jws)["payload"]
        order = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return [str(identifier["value"]) for identifier in order["identifiers"]]
    except (ValueError, KeyError, TypeError):
        return []


def _publish(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def make_control(fronts: dict[str, Front]) -> web.Application:
    """The control interface; a bad request is answered 400, an unknown name 404, both as {"error": text}."""

    def view(front: Front) -> dict[str, Any]:
        directory = front.directory
        return {
            "host": directory.host,
            "address": directory.address,
            "listening": front.listening,
            "fault": front.fault,
            "orders": len(front.orders),
        }

    async def directories(request: web.Request) -> web.Response:
        return web.json_response({name: view(front) for name, front in fronts.items()})

    async def fault(request: web.Request) -> web.Response:
        body = await body_of(request, kind=str, directory=str)
        kind, name = body.get("kind", ""), body.get("directory", "production")
        if kind not in FAULTS:
            raise ValueError(f"kind = {kind!r} is not one of {', '.join(FAULTS)}")
        if name not in fronts:
            raise ValueError(f"directory = {name!r} is not one of {', '.join(fronts)}")
        await fronts[name].set_fault(kind)
        return web.json_response(view(fronts[name]))

    async def orders(request: web.Request) -> web.Response:
        return web.json_response({name: len(front.orders) for name, front in fronts.items()})

    async def orders_of(request: web.Request) -> web.Response:
        return web.json_response([asdict(order) for order in fronts[request.match_info["directory"]].orders])

    async def aged(request: web.Request) -> web.Response:
        body = await body_of(request, certificate=str, seconds_left=(int, float))
        if body.keys() != {"certificate", "seconds_left"}:
            raise ValueError("certificate and seconds_left are needed")
        certificate = x509.load_pem_x509_certificate(body["certificate"].encode())
        problem = ValueError("no directories")
        for front in fronts.values():
            try:
                return web.json_response(
                    {"chain": await front.aged(certificate, timedelta(seconds=body["seconds_left"]))}
                )
            except ValueError as error:
                problem = error
        raise problem

    async def reset(request: web.Request) -> web.Response:
        for front in fronts.values():
            front.orders.clear()
            await front.set_fault("none")
        return web.Response(status=204)

    app = web.Application(middlewares=[errors_as_json])
    app.add_routes(
        [
            web.get("/directories", directories),
            web.post("/fault", fault),
            web.get("/orders", orders),
            web.get("/orders/{directory}", orders_of),
            web.post("/aged", aged),
            web.post("/reset", reset),
        ]
    )
    return app


async def serve(config: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    fronts = {}
    for name, given in config["directories"].items():
        paths = {key: Path(given[key]) for key in ("certificate", "key", "root")}
        fronts[name] = Front(Directory(**(given | paths)), Path(config["ca"]))
    runner = web.AppRunner(make_control(fronts), access_log=None)
    try:
        await asyncio.gather(*(front.start() for front in fronts.values()))
        await runner.setup()
        await web.UnixSite(runner, config["control"]).start()
        await stop.wait()
    finally:
        await runner.cleanup()
        for front in fronts.values():
            await front.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.acme", description="The lab's ACME directories.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(json.loads(parser.parse_args().config.read_text())))


if __name__ == "__main__":
    main()
