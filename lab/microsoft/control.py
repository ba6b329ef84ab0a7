"""Microsoft's side for administrators and tests, over HTTP: trunks, faults, timers, and what the proxies saw.

GET    /trunks, /trunks/{fqdn}   Microsoft's view of the SBCs
PUT    /trunks/{fqdn}            {"enabled": true, "cloud": "commercial"}, both optional
DELETE /trunks/{fqdn}
GET    /proxies                  the proxies, their faults and connections
POST   /proxies/{name}/fault     {"kind": "none", ...}: the fields of `Fault`; where trust or certificate become others
                                 all connections end
POST   /options                  {"fqdn", "cloud": "commercial"}: OPTIONS to fqdn:5061 now, and what came of it
GET    /settings                 the timers, in seconds
PUT    /settings                 {"options_interval", "demote_after", "timeout"}, all optional
GET    /refusals                 the last handshakes that failed and OPTIONS that were not accepted
POST   /reset                    no trunks, no faults, the timers of the start
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, get_args

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lab.http import body_of, errors_as_json
from lab.microsoft.proxy import SIP_TLS_PORT, Proxy, World
from lab.microsoft.tls import fingerprint, names_of
from lab.microsoft.trunks import Fault, FaultKind, Settings, Trunk, as_json, fully_qualified, why_not_active


def make_app(proxies: dict[str, Proxy], world: World) -> web.Application:
    """The application; a bad request is answered 400, an unknown name 404, both as {"error": text}."""
    control = Control(proxies, world)
    app = web.Application(middlewares=[errors_as_json])
    app.add_routes(
        [
            web.get("/trunks", control.list_trunks),
            web.get("/trunks/{fqdn}", control.get_trunk),
            web.put("/trunks/{fqdn}", control.put_trunk),
            web.delete("/trunks/{fqdn}", control.delete_trunk),
            web.get("/proxies", control.list_proxies),
            web.post("/proxies/{name}/fault", control.set_fault),
            web.post("/options", control.send_options),
            web.get("/settings", control.get_settings),
            web.put("/settings", control.put_settings),
            web.get("/refusals", control.list_refusals),
            web.post("/reset", control.reset),
        ]
    )
    return app


class Control:
    """The handlers."""

    def __init__(self, proxies: dict[str, Proxy], world: World) -> None:
        self._proxies = proxies
        self._world = world
        self._initial = dataclasses.replace(world.settings)

    async def list_trunks(self, request: web.Request) -> web.Response:
        return web.json_response({trunk.fqdn: self._view(trunk) for trunk in self._world.registry})

    async def get_trunk(self, request: web.Request) -> web.Response:
        return web.json_response(self._view(self._trunk(request)))

    async def put_trunk(self, request: web.Request) -> web.Response:
        fqdn = fully_qualified(request.match_info["fqdn"])
        old = self._world.registry.get(fqdn)
        body = await body_of(request, enabled=bool, cloud=str)
        cloud = body.get("cloud", old.cloud if old else "commercial")
        self._of_cloud(cloud)
        if old and old.cloud != cloud:
            self._forget(fqdn)
        trunk = self._world.registry.put(fqdn, enabled=body.get("enabled", old.enabled if old else True), cloud=cloud)
        return web.json_response(self._view(trunk), status=200 if old else 201)

    async def delete_trunk(self, request: web.Request) -> web.Response:
        trunk = self._trunk(request)
        self._world.registry.delete(trunk.fqdn)
        self._forget(trunk.fqdn)
        return web.Response(status=204)

    async def list_proxies(self, request: web.Request) -> web.Response:
        return web.json_response({name: _proxy_view(proxy) for name, proxy in self._proxies.items()})

    async def set_fault(self, request: web.Request) -> web.Response:
        proxy = self._proxies[request.match_info["name"]]
        fault = Fault(
            **await body_of(request, kind=str, code=int, reason=str, text=str, retry_after=int, period=(int, float))
        )
        if fault.kind not in get_args(FaultKind):
            raise ValueError(f"kind = {fault.kind!r} is not one of {', '.join(get_args(FaultKind))}")
        if fault.code // 100 not in range(3, 7):
            raise ValueError(f"code = {fault.code} is no error")
        if fault.period is not None and fault.period <= 0:
            raise ValueError(f"period = {fault.period} is not above zero")
        await proxy.set_fault(fault)
        return web.json_response(_proxy_view(proxy))

    async def send_options(self, request: web.Request) -> web.Response:
        body = await body_of(request, fqdn=str, cloud=str, port=int)
        fqdn = fully_qualified(body.get("fqdn", ""))
        proxy = self._of_cloud(body.get("cloud", "commercial"))[0]
        sent, der = await proxy.options(fqdn, body.get("port", SIP_TLS_PORT))
        return web.json_response(
            {
                "proxy": proxy.config.name,
                "target": sent.target,
                "address": sent.address,
                "code": sent.code,
                "reason": sent.reason,
                "error": sent.error,
                "contact": sent.contact,
                "certificate": _certificate_view(x509.load_der_x509_certificate(der)) if der else None,
            }
        )

    async def get_settings(self, request: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(self._world.settings))

    async def put_settings(self, request: web.Request) -> web.Response:
        number = (int, float)
        body = await body_of(request, options_interval=number, demote_after=number, timeout=number)
        for key, value in body.items():
            if value <= 0:
                raise ValueError(f"{key} = {value} is not above zero")
        for key, value in body.items():
            setattr(self._world.settings, key, float(value))
        return await self.get_settings(request)

    async def list_refusals(self, request: web.Request) -> web.Response:
        return web.json_response(list(self._world.refusals))

    async def reset(self, request: web.Request) -> web.Response:
        for trunk in self._world.registry:
            self._forget(trunk.fqdn)
        self._world.registry.clear()
        self._world.refusals.clear()
        for field in dataclasses.fields(Settings):
            setattr(self._world.settings, field.name, getattr(self._initial, field.name))
        for proxy in self._proxies.values():
            await proxy.set_fault(Fault())
        return web.Response(status=204)

    def _of_cloud(self, cloud: str) -> list[Proxy]:
        found = [proxy for proxy in self._proxies.values() if proxy.config.cloud == cloud]
        if not found:
            clouds = sorted({proxy.config.cloud for proxy in self._proxies.values()})
            raise ValueError(f"cloud = {cloud!r} is not one of {', '.join(clouds)}")
        return found

    def _trunk(self, request: web.Request) -> Trunk:
        fqdn = request.match_info["fqdn"]
        trunk = self._world.registry.get(fully_qualified(fqdn))
        if trunk is None:
            raise KeyError(fqdn)
        return trunk

    def _forget(self, fqdn: str) -> None:
        for proxy in self._proxies.values():
            proxy.forget(fqdn)

    def _view(self, trunk: Trunk) -> dict[str, Any]:
        now = time.time()
        views = {}
        for name, proxy in self._proxies.items():
            if proxy.config.cloud != trunk.cloud:
                continue
            seen = trunk.seen_by(name)
            why_not = why_not_active(trunk, name, proxy.fault, now, self._world.settings)
            views[name] = {
                "active": why_not is None,
                "why_not": why_not,
                "received": as_json(seen.received, now),
                "refused": as_json(seen.refused, now),
                "sent": as_json(seen.sent, now),
            }
        return {
            "fqdn": trunk.fqdn,
            "enabled": trunk.enabled,
            "cloud": trunk.cloud,
            "active": bool(views) and all(view["active"] for view in views.values()),
            "proxies": views,
        }


def _certificate_view(certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "names": sorted(names_of(certificate)),
        "issuer": certificate.issuer.rfc4514_string(),
        "fingerprint": fingerprint(certificate.public_bytes(Encoding.DER)),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }


def _proxy_view(proxy: Proxy) -> dict[str, Any]:
    return {
        "cloud": proxy.config.cloud,
        "address": proxy.config.address,
        "port": proxy.config.port,
        "listening": proxy.listening,
        "connections": proxy.connections,
        "fault": dataclasses.asdict(proxy.given),
    }
