"""The lab's own side of the API, for tests: look inside, make faults, start again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from lab.digitalocean.account import Account
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.traffic import Fault


def make_control(account: Account) -> web.Application:
    """An application with the account's routes; more can be added to its router before it runs.

    GET /state, POST /reset, GET/POST/DELETE /faults, GET/DELETE /requests, POST/DELETE /tokens/refuse, POST/DELETE
    /tokens/scopes, GET/POST /account, and GET/DELETE /exchanges, whose DELETE answers with what it takes away; a reset
    leaves them. A wrong request answers 400 with one sentence.
    """

    async def state(request: web.Request) -> web.Response:
        return web.json_response(_without_user_data(account.dump()))

    async def reset(request: web.Request) -> web.Response:
        await account.reset()
        return web.json_response({})

    async def faults(request: web.Request) -> web.Response:
        return web.json_response({"faults": [asdict(fault) for fault in account.traffic.faults]})

    async def add_fault(request: web.Request) -> web.Response:
        fault = Fault.parse(await _json(request))
        account.traffic.faults.append(fault)
        return web.json_response(asdict(fault), status=201)

    async def clear_faults(request: web.Request) -> web.Response:
        account.traffic.faults.clear()
        return web.json_response({})

    async def requests(request: web.Request) -> web.Response:
        return web.json_response({"requests": [asdict(entry) for entry in account.traffic.requests]})

    async def clear_requests(request: web.Request) -> web.Response:
        account.traffic.requests.clear()
        return web.json_response({})

    async def exchanges(request: web.Request) -> web.Response:
        document = account.traffic.exchanges.document()
        if request.method == "DELETE":
            account.traffic.exchanges.clear()
        return web.json_response(document)

    async def refuse_token(request: web.Request) -> web.Response:
        account.refused_tokens.add(str((await _json(request))["token"]))
        return web.json_response({})

    async def accept_tokens(request: web.Request) -> web.Response:
        account.refused_tokens.clear()
        return web.json_response({})

    async def limit_token(request: web.Request) -> web.Response:
        body = await _json(request)
        if not isinstance(body["scopes"], list):
            raise ValueError(f"scopes = {body['scopes']!r}: must be a list like droplet:read, domain:update")
        account.scopes[str(body["token"])] = frozenset(map(str, body["scopes"]))
        return web.json_response({})

    async def unlimit_tokens(request: web.Request) -> web.Response:
        account.scopes.clear()
        return web.json_response({})

    async def profile(request: web.Request) -> web.Response:
        return web.json_response(asdict(account.profile))

    async def change_profile(request: web.Request) -> web.Response:
        account.profile.update(await _json(request))
        await account.commit()
        return web.json_response(asdict(account.profile))

    app = web.Application(middlewares=[_say_what_is_wrong])
    app.add_routes(
        [
            web.get("/state", state),
            web.post("/reset", reset),
            web.get("/faults", faults),
            web.post("/faults", add_fault),
            web.delete("/faults", clear_faults),
            web.get("/requests", requests),
            web.delete("/requests", clear_requests),
            web.get("/exchanges", exchanges),
            web.delete("/exchanges", exchanges),
            web.post("/tokens/refuse", refuse_token),
            web.delete("/tokens/refuse", accept_tokens),
            web.post("/tokens/scopes", limit_token),
            web.delete("/tokens/scopes", unlimit_tokens),
            web.get("/account", profile),
            web.post("/account", change_profile),
        ]
    )
    return app


@web.middleware
async def _say_what_is_wrong(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ValueError, TypeError, KeyError) as error:
        return web.json_response({"error": str(error)}, status=400)


async def _json(request: web.Request) -> dict[str, Any]:
    body = json.loads(await request.text() or "{}")
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object")
    return body


def _without_user_data(state: JSON) -> JSON:
    droplets = [{**droplet, "user_data": len(droplet["user_data"])} for droplet in state["droplets"]]
    return {**state, "droplets": droplets}
