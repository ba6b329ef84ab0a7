"""The account itself and its SSH keys."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from lab.digitalocean.errors import unprocessable
from lab.digitalocean.wire import Routes, account_of, body_of, done, page


async def account_get(request: web.Request) -> web.Response:
    profile = account_of(request).profile
    account = {
        "droplet_limit": profile.droplet_limit,
        "floating_ip_limit": profile.reserved_ip_limit,
        "email": profile.email,
        "name": "Lab",
        "uuid": profile.uuid,
        "email_verified": True,
        "status": profile.status,
        "status_message": profile.status_message,
        "team": {"uuid": profile.uuid, "name": "Lab"},
    }
    return web.json_response({"account": account})


async def keys_list(request: web.Request) -> web.Response:
    return page(request, "ssh_keys", list(account_of(request).keys.values()), asdict)


async def keys_create(request: web.Request) -> web.Response:
    body = await body_of(request)
    key = account_of(request).add_key(body.get("name"), body.get("public_key"))
    return web.json_response({"ssh_key": asdict(key)}, status=201)


async def keys_get(request: web.Request) -> web.Response:
    return web.json_response({"ssh_key": asdict(account_of(request).key(request.match_info["key"]))})


async def keys_update(request: web.Request) -> web.Response:
    body = await body_of(request)
    key = account_of(request).key(request.match_info["key"])
    if not body.get("name"):
        raise unprocessable("Name can't be blank")
    key.name = body["name"]
    return web.json_response({"ssh_key": asdict(key)})


async def keys_delete(request: web.Request) -> web.Response:
    account = account_of(request)
    del account.keys[account.key(request.match_info["key"]).id]
    return done()


ROUTES: Routes = [
    ("GET", "/account", account_get),
    ("GET", "/account/keys", keys_list),
    ("POST", "/account/keys", keys_create),
    ("GET", "/account/keys/{key}", keys_get),
    ("PUT", "/account/keys/{key}", keys_update),
    ("DELETE", "/account/keys/{key}", keys_delete),
]
