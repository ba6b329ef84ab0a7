"""Projects and what is filed in them. The id `default` stands for the default project."""

from __future__ import annotations

from aiohttp import web

from lab.digitalocean.wire import Routes, account_of, body_of, done, page


async def projects_list(request: web.Request) -> web.Response:
    return page(request, "projects", account_of(request).projects.documents())


async def projects_create(request: web.Request) -> web.Response:
    body = await body_of(request)
    return web.json_response({"project": account_of(request).projects.create(body)}, status=201)


async def projects_get(request: web.Request) -> web.Response:
    return web.json_response({"project": account_of(request).projects.get(request.match_info["project"])})


async def projects_change(request: web.Request) -> web.Response:
    body = await body_of(request)
    projects = account_of(request).projects
    changed = projects.change(request.match_info["project"], body, whole=request.method == "PUT")
    return web.json_response({"project": changed})


async def projects_delete(request: web.Request) -> web.Response:
    account_of(request).projects.delete(request.match_info["project"])
    return done()


async def resources_list(request: web.Request) -> web.Response:
    return page(request, "resources", account_of(request).projects.resources(request.match_info["project"]))


async def resources_assign(request: web.Request) -> web.Response:
    body = await body_of(request)
    assigned = account_of(request).projects.assign(request.match_info["project"], body.get("resources"))
    return web.json_response({"resources": assigned})


ROUTES: Routes = [
    ("GET", "/projects", projects_list),
    ("POST", "/projects", projects_create),
    ("GET", "/projects/{project}", projects_get),
    ("PUT", "/projects/{project}", projects_change),
    ("PATCH", "/projects/{project}", projects_change),
    ("DELETE", "/projects/{project}", projects_delete),
    ("GET", "/projects/{project}/resources", resources_list),
    ("POST", "/projects/{project}/resources", resources_assign),
]
