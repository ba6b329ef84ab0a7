"""Droplets, their actions, and what is kept of them."""

from __future__ import annotations

import json

from aiohttp import web

from lab.digitalocean import backups
from lab.digitalocean.errors import not_found, unprocessable
from lab.digitalocean.images import Snapshot
from lab.digitalocean.wire import Routes, account_of, body_of, done, link_to, number_of, page


async def droplets_list(request: web.Request) -> web.Response:
    account = account_of(request)
    tag, name = request.query.get("tag_name"), request.query.get("name")
    if tag is not None and name is not None:
        raise unprocessable("name and tag_name cannot be combined")

    if tag is not None:
        chosen = account.droplets.tagged(account.spelling(tag))
    else:
        chosen = [droplet for droplet in account.droplets if name in (None, droplet.name)]
    return page(request, "droplets", chosen, account.droplet_document)


async def droplets_create(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet, action = account.create_droplet(await body_of(request))
    links = {"actions": [link_to(request, "create", "actions", action["id"])]}
    body = {"droplet": account.droplet_document(droplet), "links": links}
    return web.json_response(body, status=202)


async def droplets_get(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet = account.droplets.get(number_of(request, "droplet"))
    return web.json_response({"droplet": account.droplet_document(droplet)})


async def droplets_delete(request: web.Request) -> web.Response:
    await account_of(request).destroy_droplet(number_of(request, "droplet"))
    return done()


async def droplet_firewalls(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet = account.droplets.get(number_of(request, "droplet"))
    return page(request, "firewalls", account.firewalls.selecting(droplet.id, droplet.tags))


async def droplet_snapshots(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet = account.droplets.get(number_of(request, "droplet"))
    return page(request, "snapshots", account.images.of(droplet.id), Snapshot.of_droplet)


async def droplet_backups(request: web.Request) -> web.Response:
    """None: no droplet of the lab is old enough to have one."""
    account_of(request).droplets.get(number_of(request, "droplet"))
    return page(request, "backups", [])


async def droplet_backup_policy(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet = account.droplets.get(number_of(request, "droplet"))
    return web.json_response({"policy": account.backups_document(droplet)})


async def backup_policies(request: web.Request) -> web.Response:
    """The one list whose pages are objects: by the droplets' ids."""
    account = account_of(request)
    listed = json.loads(page(request, "policies", list(account.droplets), account.backups_document).text or "")
    return web.json_response({**listed, "policies": {str(each["droplet_id"]): each for each in listed["policies"]}})


async def supported_backup_policies(request: web.Request) -> web.Response:
    return web.json_response({"supported_policies": backups.SUPPORTED})


async def droplets_destruction(request: web.Request) -> web.Response:
    """How far the destruction of a droplet and what belongs to it has come: nobody destroys one in that way here."""
    raise not_found()


async def droplet_actions_list(request: web.Request) -> web.Response:
    account = account_of(request)
    droplet = account.droplets.get(number_of(request, "droplet"))
    return page(request, "actions", account.actions.of("droplet", droplet.id))


async def droplet_actions_create(request: web.Request) -> web.Response:
    body = await body_of(request)
    action = account_of(request).act(number_of(request, "droplet"), body)
    return web.json_response({"action": action}, status=201)


async def droplet_actions_get(request: web.Request) -> web.Response:
    account = account_of(request)
    action = account.actions.get(number_of(request, "action"), "droplet", number_of(request, "droplet"))
    return web.json_response({"action": action})


async def actions_list(request: web.Request) -> web.Response:
    return page(request, "actions", account_of(request).actions.all())


async def actions_get(request: web.Request) -> web.Response:
    return web.json_response({"action": account_of(request).actions.get(number_of(request, "action"))})


ROUTES: Routes = [
    ("GET", "/droplets", droplets_list),
    ("POST", "/droplets", droplets_create),
    ("GET", "/droplets/backups/policies", backup_policies),
    ("GET", "/droplets/backups/supported_policies", supported_backup_policies),
    ("GET", "/droplets/{droplet}", droplets_get),
    ("DELETE", "/droplets/{droplet}", droplets_delete),
    ("GET", "/droplets/{droplet}/firewalls", droplet_firewalls),
    ("GET", "/droplets/{droplet}/snapshots", droplet_snapshots),
    ("GET", "/droplets/{droplet}/backups", droplet_backups),
    ("GET", "/droplets/{droplet}/backups/policy", droplet_backup_policy),
    ("GET", "/droplets/{droplet}/destroy_with_associated_resources/status", droplets_destruction),
    ("GET", "/droplets/{droplet}/actions", droplet_actions_list),
    ("POST", "/droplets/{droplet}/actions", droplet_actions_create),
    ("GET", "/droplets/{droplet}/actions/{action}", droplet_actions_get),
    ("GET", "/actions", actions_list),
    ("GET", "/actions/{action}", actions_get),
]
