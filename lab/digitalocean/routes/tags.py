"""Tags, and what carries them."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from lab.digitalocean.account import Account
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import unprocessable
from lab.digitalocean.wire import Routes, account_of, body_of, done, page


def _tag(account: Account, name: str) -> JSON:
    def count(kind: str, ids: list[int]) -> JSON:
        last = {"last_tagged_uri": f"https://api.digitalocean.com/v2/{kind}/{ids[-1]}"} if ids else {}
        return {"count": len(ids), **last}

    droplets = [droplet.id for droplet in account.droplets.tagged(name)]
    images = [snapshot.id for snapshot in account.images.tagged(name)]
    resources = {"droplets": count("droplets", droplets), "images": count("images", images)}
    last = (resources["droplets"] if droplets else resources["images"]) | {"count": len(droplets) + len(images)}
    others = {kind: {"count": 0} for kind in ("volumes", "volume_snapshots", "databases")}
    return {"name": name, "resources": {**last, **resources, **others}}


async def tags_list(request: web.Request) -> web.Response:
    account = account_of(request)
    return page(request, "tags", account.tags(), partial(_tag, account))


async def tags_create(request: web.Request) -> web.Response:
    account = account_of(request)
    name = account.add_tag((await body_of(request)).get("name"))
    return web.json_response({"tag": _tag(account, name)}, status=201)


async def tags_get(request: web.Request) -> web.Response:
    account = account_of(request)
    return web.json_response({"tag": _tag(account, account.tag(request.match_info["tag"]))})


async def tags_delete(request: web.Request) -> web.Response:
    account_of(request).delete_tag(request.match_info["tag"])
    return done()


async def tags_resources(request: web.Request) -> web.Response:
    body = await body_of(request)
    resources = body.get("resources")
    if not isinstance(resources, list) or not all(isinstance(resource, dict) for resource in resources):
        raise unprocessable("resources must be a list")
    account_of(request).tag_resources(request.match_info["tag"], resources, add=request.method == "POST")
    return done()


ROUTES: Routes = [
    ("GET", "/tags", tags_list),
    ("POST", "/tags", tags_create),
    ("GET", "/tags/{tag}", tags_get),
    ("DELETE", "/tags/{tag}", tags_delete),
    ("POST", "/tags/{tag}/resources", tags_resources),
    ("DELETE", "/tags/{tag}/resources", tags_resources),
]
