"""Reserved IPs and their actions."""

from __future__ import annotations

from aiohttp import web

from lab.digitalocean.catalogue import JSON
from lab.digitalocean.wire import Routes, account_of, body_of, done, link_to, number_of, page


async def reserved_ips_list(request: web.Request) -> web.Response:
    account = account_of(request)
    return page(request, "reserved_ips", account.reserved_ips.all(), account.reserved_ip_document)


async def reserved_ips_create(request: web.Request) -> web.Response:
    account = account_of(request)
    body = await body_of(request)
    reserved, actions = account.reserve_ip(body)
    droplets = [link_to(request, "droplet", "droplets", body["droplet_id"])] if actions else []
    links = {
        "droplets": droplets,
        "actions": [link_to(request, action["type"], "actions", action["id"]) for action in actions],
    }
    return web.json_response({"reserved_ip": account.reserved_ip_document(reserved), "links": links}, status=202)


async def reserved_ips_get(request: web.Request) -> web.Response:
    account = account_of(request)
    reserved = account.reserved_ips.get(request.match_info["ip"])
    return web.json_response({"reserved_ip": account.reserved_ip_document(reserved)})


async def reserved_ips_delete(request: web.Request) -> web.Response:
    await account_of(request).release_ip(request.match_info["ip"])
    return done()


async def reserved_ip_actions_list(request: web.Request) -> web.Response:
    account = account_of(request)
    reserved = account.reserved_ips.get(request.match_info["ip"])
    return page(request, "actions", account.actions.of("reserved_ip", reserved.number))


async def reserved_ip_actions_create(request: web.Request) -> web.Response:
    account = account_of(request)
    action = account.act_on_ip(request.match_info["ip"], await body_of(request))
    return web.json_response({"action": _with_project(request, action)}, status=201)


async def reserved_ip_actions_get(request: web.Request) -> web.Response:
    account = account_of(request)
    reserved = account.reserved_ips.get(request.match_info["ip"])
    action = account.actions.get(number_of(request, "action"), "reserved_ip", reserved.number)
    return web.json_response({"action": _with_project(request, action)})


def _with_project(request: web.Request, action: JSON) -> JSON:
    """An action as it is told below its reserved IP, and only there."""
    account = account_of(request)
    reserved = account.reserved_ips.get(request.match_info["ip"])
    return action | {"project_id": account.reserved_ip_document(reserved)["project_id"]}


ROUTES: Routes = [
    ("GET", "/reserved_ips", reserved_ips_list),
    ("POST", "/reserved_ips", reserved_ips_create),
    ("GET", "/reserved_ips/{ip}", reserved_ips_get),
    ("DELETE", "/reserved_ips/{ip}", reserved_ips_delete),
    ("GET", "/reserved_ips/{ip}/actions", reserved_ip_actions_list),
    ("POST", "/reserved_ips/{ip}/actions", reserved_ip_actions_create),
    ("GET", "/reserved_ips/{ip}/actions/{action}", reserved_ip_actions_get),
]
