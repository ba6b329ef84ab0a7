"""Images and snapshots, regions, sizes."""

from __future__ import annotations

from aiohttp import web

from lab.digitalocean.catalogue import REGIONS, SIZES
from lab.digitalocean.errors import unprocessable
from lab.digitalocean.images import Snapshot
from lab.digitalocean.wire import Routes, account_of, body_of, done, number_of, page


async def images_list(request: web.Request) -> web.Response:
    query = request.query
    documents = account_of(request).images.documents(
        private=query.get("private") == "true", kind=query.get("type"), tag=query.get("tag_name")
    )
    return page(request, "images", documents)


async def images_get(request: web.Request) -> web.Response:
    return web.json_response({"image": account_of(request).images.find(request.match_info["image"])})


async def images_update(request: web.Request) -> web.Response:
    body = await body_of(request)
    images = account_of(request).images
    return web.json_response({"image": images.rename(number_of(request, "image"), body.get("name"))})


async def images_delete(request: web.Request) -> web.Response:
    await account_of(request).delete_snapshot(number_of(request, "image"))
    return done()


async def image_actions_list(request: web.Request) -> web.Response:
    account = account_of(request)
    snapshot = account.images.snapshot(number_of(request, "image"))
    return page(request, "actions", account.actions.of("image", snapshot.id))


async def image_actions_create(request: web.Request) -> web.Response:
    """The one action there is: to have a snapshot in another region, too."""
    body = await body_of(request)
    if body.get("type") != "transfer":
        raise unprocessable("You specified an invalid action type.")
    action = account_of(request).transfer_snapshot(number_of(request, "image"), body.get("region"))
    return web.json_response(action, status=201)


async def image_actions_get(request: web.Request) -> web.Response:
    action = account_of(request).actions.get(number_of(request, "action"), "image", number_of(request, "image"))
    return web.json_response(action)


async def snapshots_list(request: web.Request) -> web.Response:
    wanted = request.query.get("resource_type") in (None, "droplet")
    return page(request, "snapshots", account_of(request).images.ready() if wanted else [], Snapshot.snapshot)


async def snapshots_get(request: web.Request) -> web.Response:
    snapshot = account_of(request).images.snapshot(request.match_info["snapshot"])
    return web.json_response({"snapshot": snapshot.snapshot()})


async def snapshots_delete(request: web.Request) -> web.Response:
    await account_of(request).delete_snapshot(request.match_info["snapshot"])
    return done()


async def regions_list(request: web.Request) -> web.Response:
    return page(request, "regions", list(REGIONS.values()))


async def sizes_list(request: web.Request) -> web.Response:
    return page(request, "sizes", list(SIZES.values()))


ROUTES: Routes = [
    ("GET", "/images", images_list),
    ("GET", "/images/{image}", images_get),
    ("PUT", "/images/{image}", images_update),
    ("DELETE", "/images/{image}", images_delete),
    ("GET", "/images/{image}/actions", image_actions_list),
    ("POST", "/images/{image}/actions", image_actions_create),
    ("GET", "/images/{image}/actions/{action}", image_actions_get),
    ("GET", "/snapshots", snapshots_list),
    ("GET", "/snapshots/{snapshot}", snapshots_get),
    ("DELETE", "/snapshots/{snapshot}", snapshots_delete),
    ("GET", "/regions", regions_list),
    ("GET", "/sizes", sizes_list),
]
