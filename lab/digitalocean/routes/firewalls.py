"""Cloud firewalls."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiohttp import web

from lab.digitalocean.account import Account
from lab.digitalocean.actions import now
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.firewalls import known, parse_rules
from lab.digitalocean.wire import Routes, account_of, body_of, done, page


async def firewalls_list(request: web.Request) -> web.Response:
    return page(request, "firewalls", account_of(request).firewalls.documents())


async def firewalls_create(request: web.Request) -> web.Response:
    account = account_of(request)
    body = await body_of(request)
    document = account.firewalls.create(body, now(), account.tags(), account.droplets.ids())
    return web.json_response({"firewall": _waiting(account, document)}, status=202)


async def firewalls_get(request: web.Request) -> web.Response:
    return web.json_response({"firewall": account_of(request).firewalls.get(request.match_info["firewall"])})


async def firewalls_replace(request: web.Request) -> web.Response:
    account = account_of(request)
    body = await body_of(request)
    document = account.firewalls.replace(request.match_info["firewall"], body, account.tags(), account.droplets.ids())
    return web.json_response({"firewall": _waiting(account, document)})


async def firewalls_delete(request: web.Request) -> web.Response:
    account_of(request).firewalls.delete(request.match_info["firewall"])
    return done()


async def firewalls_members(request: web.Request) -> web.Response:
    """Add or remove droplets or tags, whichever the path names."""
    account = account_of(request)
    field = {"droplets": "droplet_ids", "tags": "tags"}[request.match_info["members"]]
    body = await body_of(request)
    existing: Collection[Any] = account.droplets.ids() if field == "droplet_ids" else account.tags()
    change = account.firewalls.add if request.method == "POST" else account.firewalls.remove
    change(request.match_info["firewall"], field, known(body, field, existing))
    return done()


async def firewalls_rules(request: web.Request) -> web.Response:
    firewalls = account_of(request).firewalls
    change = firewalls.add if request.method == "POST" else firewalls.remove
    for direction, rules in parse_rules(await body_of(request)).items():
        change(request.match_info["firewall"], direction, rules)
    return done()


def _waiting(account: Account, document: JSON) -> JSON:
    """A firewall as it is answered before its droplets have it."""
    tagged = [droplet.id for droplet in account.droplets.tagged(*document["tags"])]
    members = dict.fromkeys([*document["droplet_ids"], *tagged])
    changes = [{"droplet_id": id, "removing": False, "status": "waiting"} for id in sorted(members)]
    return {**document, "status": "waiting" if changes else "succeeded", "pending_changes": changes}


ROUTES: Routes = [
    ("GET", "/firewalls", firewalls_list),
    ("POST", "/firewalls", firewalls_create),
    ("GET", "/firewalls/{firewall}", firewalls_get),
    ("PUT", "/firewalls/{firewall}", firewalls_replace),
    ("DELETE", "/firewalls/{firewall}", firewalls_delete),
    ("POST", "/firewalls/{firewall}/{members:droplets|tags}", firewalls_members),
    ("DELETE", "/firewalls/{firewall}/{members:droplets|tags}", firewalls_members),
    ("POST", "/firewalls/{firewall}/rules", firewalls_rules),
    ("DELETE", "/firewalls/{firewall}/rules", firewalls_rules),
]
