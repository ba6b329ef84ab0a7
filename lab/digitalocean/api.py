"""DigitalOcean's API v2 over HTTP, as far as a rollout needs it.

Shapes follow the published OpenAPI document. Droplets cannot be destroyed by tag here: nobody should.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lab.digitalocean import scopes
from lab.digitalocean.account import Account
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError, not_found, pending_event
from lab.digitalocean.machines import Machines
from lab.digitalocean.routes import ROUTES
from lab.digitalocean.traffic import REQUESTS_PER_HOUR, Exchange, Fault, LoggedRequest
from lab.digitalocean.wire import ACCOUNT

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID = web.RequestKey("request_id", str)
_FAULT = web.RequestKey("fault", str)


def make_app(account: Account, machines: Machines) -> web.Application:
    """The API of one account; the account starts and stops with it, its droplets backed by `machines`."""
    app = web.Application(middlewares=[_record, _disturb, _answer])
    app[ACCOUNT] = account

    async def life(app: web.Application) -> Any:
        await account.start(machines)
        yield
        await account.stop()

    app.cleanup_ctx.append(life)
    for method, path, handler in ROUTES:
        # Clients write collections with and without a final slash.
        app.router.add_route(method, "/v2" + path + "{slash:/?}", handler)
    return app


# What happens around every request, from the outside in.


@web.middleware
async def _record(request: web.Request, handler: Handler) -> web.StreamResponse:
    account = request.app[ACCOUNT]
    began = time.time()
    request_id = request[_REQUEST_ID] = str(uuid.uuid4())
    limit = account.profile.requests_per_hour
    remaining, reset = account.traffic.quota(limit)
    body = await request.read()  # as long as there is a connection to read from
    response: web.StreamResponse | None = None
    try:
        # The hour's limit has no retry-after: its end is ratelimit-reset.
        response = _too_many(request, None) if remaining < 0 else await handler(request)
        response.headers.update(
            {
                "ratelimit-limit": str(limit or REQUESTS_PER_HOUR),
                "ratelimit-remaining": str(max(0, remaining)),
                "ratelimit-reset": str(reset),
                "x-request-id": request_id,
            }
        )
    finally:
        account.traffic.requests.append(
            LoggedRequest(
                time=began,
                method=request.method,
                path=request.path_qs,
                status=response.status if response else 0,
                request_id=request_id,
                seconds=round(time.time() - began, 3),
                fault=request.get(_FAULT),
            )
        )
        account.traffic.exchanges.append(_exchange(request, body, response))
    return response


def _exchange(request: web.Request, body: bytes, response: web.StreamResponse | None) -> Exchange:
    made = response if isinstance(response, web.Response) and request.get(_FAULT) != "dropped" else None
    return Exchange(
        method=request.method,
        path=request.path_qs,
        user_agent=request.headers.get("User-Agent", ""),
        content_type=request.headers.get("Content-Type", ""),
        body=body,
        status=made.status if made else None,
        headers={name.lower(): value for name, value in made.headers.items()} if made else {},
        answer=made.body if made and isinstance(made.body, bytes) else b"",
        fault=request.get(_FAULT),
    )


@web.middleware
async def _disturb(request: web.Request, handler: Handler) -> web.StreamResponse:
    account = request.app[ACCOUNT]
    fault = account.traffic.fault_for(request.method, request.path.rstrip("/"))
    if fault is None:
        return await handler(request)
    request[_FAULT] = fault.kind
    if fault.kind == "slow":
        response = await handler(request)
        await asyncio.sleep(fault.seconds)
        return response
    if fault.kind in ("lost", "dropped"):
        response = await handler(request) if fault.kind == "lost" else web.Response()
        if request.transport:
            request.transport.abort()
        return response
    return _struck(request, fault)


def _struck(request: web.Request, fault: Fault) -> web.Response:
    match fault.kind:
        case "429":
            return _too_many(request, fault.retry_after)
        case "500":
            return _error(request, ApiError(500, "server_error", "Unexpected server-side error"))
        case "502html":
            page = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
            return web.Response(status=502, text=page, content_type="text/html")
        case "422pending":
            return _error(request, pending_event())
        case _:
            return _error(request, not_found())


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    account = request.app[ACCOUNT]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or token.strip() in account.refused_tokens:
        return _error(request, ApiError(401, "Unauthorized", "Unable to authenticate you"))
    limits = {"requests": account.profile.requests_per_minute}
    if request.method == "GET" and request.path.rstrip("/") == "/v2/account/keys":
        limits["key_reads"] = account.profile.key_reads_per_minute
    if request.method == "POST" and request.path.rstrip("/") == "/v2/reserved_ips":
        limits["reserved_ips"] = account.profile.reserved_ips_per_minute
    for name, limit in limits.items():
        wait = account.traffic.too_many(name, limit)
        if wait is not None:
            return _too_many(request, wait)
    try:
        await _check_scopes(request, account.scopes.get(token.strip()))
        response = await handler(request)
    except ApiError as error:
        return _error(request, error)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _error(request, not_found())
    if request.method != "GET":
        await account.commit()
    return _as_seen(response, account.scopes.get(token.strip()))


async def _check_scopes(request: web.Request, given: frozenset[str] | None) -> None:
    """Raises ApiError 403 if the token has scopes, and not those of the call."""
    resource = request.match_info.route.resource
    if given is None or resource is None:
        return
    try:
        body = json.loads(await request.text() or "{}")
    except ValueError:
        body = None
    scopes.check(given, request.method, resource.canonical.removesuffix("{slash}"), body)


def _as_seen(response: web.StreamResponse, given: frozenset[str] | None) -> web.StreamResponse:
    """The answer as far as the token's scopes show it."""
    if given is not None and isinstance(response, web.Response) and response.text:
        response.text = json.dumps(scopes.visible(given, json.loads(response.text)))
    return response


def _error(request: web.Request, error: ApiError) -> web.Response:
    body: JSON = {"id": error.id, "message": error.message, "request_id": request[_REQUEST_ID]}
    if error.status == HTTPStatus.BAD_REQUEST:
        body |= {"error": error.message, "messages": [error.message], "root_causes": []}
    return web.json_response(body, status=error.status)


def _too_many(request: web.Request, retry_after: float | None) -> web.Response:
    response = _error(request, ApiError(429, "too_many_requests", "API Rate limit exceeded."))
    if retry_after is not None:
        response.headers["retry-after"] = str(max(1, round(retry_after)))
    return response
