"""DigitalOcean's API v2 over HTTP, as far as a rollout needs it.

Shapes follow the published OpenAPI document. Droplets cannot be destroyed by tag here: nobody should.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lab.digitalocean.account import Account, Droplet, now
from lab.digitalocean.catalogue import IMAGES, JSON, REGIONS, SIZES
from lab.digitalocean.errors import ApiError, not_found, pending_event, unprocessable
from lab.digitalocean.firewalls import RULES, known, parse_rules
from lab.digitalocean.machines import Machines
from lab.digitalocean.traffic import REQUESTS_PER_HOUR, Exchange, Fault, LoggedRequest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACCOUNT = web.AppKey("account", Account)
DEFAULT_PAGE, LARGEST_PAGE = 20, 200
_REQUEST_ID = web.RequestKey("request_id", str)
_FAULT = web.RequestKey("fault", str)
_UNKNOWN_KEYS = web.RequestKey("unknown_keys", list[str])


def make_app(account: Account, machines: Machines) -> web.Application:
    """The API of one account; the account starts and stops with it, its droplets backed by `machines`."""
    app = web.Application(middlewares=[_record, _disturb, _answer])
    app[ACCOUNT] = account

    async def life(app: web.Application) -> Any:
        await account.start(machines)
        yield
        await account.stop()

    app.cleanup_ctx.append(life)
    for method, path, handler in _ROUTES:
        # Clients write collections with and without a final slash.
        app.router.add_route(method, "/v2" + path + "{slash:/?}", handler)
    return app


# What happens around every request, from the outside in.


@web.middleware
async def _record(request: web.Request, handler: Handler) -> web.StreamResponse:
    account = request.app[ACCOUNT]
    began = time.time()
    request_id = request[_REQUEST_ID] = str(uuid.uuid4())
    remaining, reset = account.traffic.quota()
    body = await request.read()  # as long as there is a connection to read from
    response: web.StreamResponse | None = None
    try:
        response = await handler(request)
        response.headers.update(
            {
                "ratelimit-limit": str(REQUESTS_PER_HOUR),
                "ratelimit-remaining": str(remaining),
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
                unknown_keys=tuple(request.get(_UNKNOWN_KEYS, ())),
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
    for name, limit in limits.items():
        wait = account.traffic.too_many(name, limit)
        if wait is not None:
            return _too_many(request, wait)
    try:
        response = await handler(request)
    except ApiError as error:
        return _error(request, error)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _error(request, not_found())
    if request.method != "GET":
        await account.commit()
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


async def _body(request: web.Request, *keys: str) -> JSON:
    """The JSON object of a request, `keys` being those that the API knows. Raises ApiError 400 when it is none."""
    try:
        body = json.loads(await request.text() or "{}")
    except ValueError:
        raise ApiError(400, "bad_request", "The request body is not JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "bad_request", "The request body is not a JSON object.")
    request[_UNKNOWN_KEYS] = sorted(body.keys() - set(keys))
    return body


def _page(request: web.Request, name: str, items: list[JSON]) -> web.Response:
    """One page of a collection, with absolute links to the others."""

    def number(key: str, default: int) -> int:
        text = request.query.get(key, str(default))
        return max(1, int(text)) if text.isdecimal() else default

    size = min(number("per_page", DEFAULT_PAGE), LARGEST_PAGE)
    page, last = number("page", 1), max(1, -(-len(items) // size))

    def link(to: int) -> str:
        return str(request.url.update_query(page=to, per_page=size))

    links: dict[str, str] = {}
    if page > 1:
        links |= {"first": link(1), "prev": link(page - 1)}
    if page < last:
        links |= {"next": link(page + 1), "last": link(last)}
    return web.json_response(
        {
            name: items[(page - 1) * size : page * size],
            "links": {"pages": links} if links else {},
            "meta": {"total": len(items)},
        }
    )


def _number(request: web.Request, name: str) -> int:
    text = request.match_info[name]
    if not text.isdecimal():
        raise not_found()
    return int(text)


def _done() -> web.Response:
    return web.Response(status=204)


# Account and keys


async def account_get(request: web.Request) -> web.Response:
    profile = request.app[ACCOUNT].profile
    account = {
        "droplet_limit": profile.droplet_limit,
        "floating_ip_limit": 3,
        "reserved_ip_limit": 3,
        "volume_limit": 100,
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
    return _page(request, "ssh_keys", [asdict(key) for key in request.app[ACCOUNT].keys.values()])


async def keys_create(request: web.Request) -> web.Response:
    body = await _body(request, "name", "public_key")
    key = request.app[ACCOUNT].add_key(body.get("name"), body.get("public_key"))
    return web.json_response({"ssh_key": asdict(key)}, status=201)


async def keys_get(request: web.Request) -> web.Response:
    return web.json_response({"ssh_key": asdict(request.app[ACCOUNT].key(request.match_info["key"]))})


async def keys_update(request: web.Request) -> web.Response:
    body = await _body(request, "name")
    key = request.app[ACCOUNT].key(request.match_info["key"])
    if not body.get("name"):
        raise unprocessable("Name can't be blank")
    key.name = body["name"]
    return web.json_response({"ssh_key": asdict(key)})


async def keys_delete(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    del account.keys[account.key(request.match_info["key"]).id]
    return _done()


# Tags


def _tag(account: Account, name: str) -> JSON:
    tagged = [droplet.id for droplet in account.droplets.values() if name in droplet.tags]
    count: JSON = {"count": len(tagged)}
    if tagged:
        count["last_tagged_uri"] = f"https://api.digitalocean.com/v2/droplets/{tagged[-1]}"
    others = ("images", "volumes", "volume_snapshots", "databases")
    return {"name": name, "resources": {**count, "droplets": count, **{kind: {"count": 0} for kind in others}}}


async def tags_list(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    return _page(request, "tags", [_tag(account, name) for name in account.tags])


async def tags_create(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    name = account.add_tag((await _body(request, "name")).get("name"))
    return web.json_response({"tag": _tag(account, name)}, status=201)


async def tags_get(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    return web.json_response({"tag": _tag(account, account.tag(request.match_info["tag"]))})


async def tags_delete(request: web.Request) -> web.Response:
    request.app[ACCOUNT].delete_tag(request.match_info["tag"])
    return _done()


async def tags_resources(request: web.Request) -> web.Response:
    body = await _body(request, "resources")
    resources = body.get("resources")
    if not isinstance(resources, list) or not all(isinstance(resource, dict) for resource in resources):
        raise unprocessable("resources must be a list")
    request.app[ACCOUNT].tag_resources(request.match_info["tag"], resources, add=request.method == "POST")
    return _done()


# Droplets and actions

_DROPLET_KEYS = (
    "name",
    "region",
    "size",
    "image",
    "ssh_keys",
    "backups",
    "backup_policy",
    "ipv6",
    "monitoring",
    "tags",
    "user_data",
    "private_networking",
    "public_networking",
    "volumes",
    "vpc_uuid",
    "with_droplet_agent",
)


async def droplets_list(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    tag, name = request.query.get("tag_name"), request.query.get("name")
    if tag is not None and name is not None:
        raise unprocessable("name and tag_name cannot be combined")

    def selected(droplet: Droplet) -> bool:
        if tag is not None:
            return tag.lower() in (other.lower() for other in droplet.tags)
        return name in (None, droplet.name)

    chosen = [account.droplet_document(droplet) for droplet in account.droplets.values() if selected(droplet)]
    return _page(request, "droplets", chosen)


async def droplets_create(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    droplet, action = account.create_droplet(await _body(request, *_DROPLET_KEYS))
    link = {
        "id": action["id"],
        "rel": "create",
        "href": str(request.url.with_path(f"/v2/actions/{action['id']}").with_query(None)),
    }
    body = {"droplet": account.droplet_document(droplet), "links": {"actions": [link]}}
    return web.json_response(body, status=202)


async def droplets_get(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    droplet = account.droplet(_number(request, "droplet"))
    return web.json_response({"droplet": account.droplet_document(droplet)})


async def droplets_delete(request: web.Request) -> web.Response:
    await request.app[ACCOUNT].destroy_droplet(_number(request, "droplet"))
    return _done()


async def droplet_actions_list(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    droplet = account.droplet(_number(request, "droplet"))
    actions = [action for action in account.actions.values() if action["resource_id"] == droplet.id]
    return _page(request, "actions", actions[::-1])


async def droplet_actions_create(request: web.Request) -> web.Response:
    body = await _body(request, "type", "name")
    action = request.app[ACCOUNT].act(_number(request, "droplet"), body)
    return web.json_response({"action": action}, status=201)


async def actions_list(request: web.Request) -> web.Response:
    return _page(request, "actions", list(request.app[ACCOUNT].actions.values())[::-1])


async def actions_get(request: web.Request) -> web.Response:
    action = request.app[ACCOUNT].actions.get(_number(request, "action"))
    droplet = request.match_info.get("droplet")
    if action is None or (droplet is not None and str(action["resource_id"]) != droplet):
        raise not_found()
    return web.json_response({"action": action})


# Domains and records

_RECORD_KEYS = ("type", "name", "data", "priority", "port", "ttl", "weight", "flags", "tag")


async def domains_list(request: web.Request) -> web.Response:
    domains = request.app[ACCOUNT].domains
    return _page(request, "domains", [domains.document(name) for name in domains.names()])


async def domains_create(request: web.Request) -> web.Response:
    body = await _body(request, "name", "ip_address")
    domains = request.app[ACCOUNT].domains
    domains.create(body.get("name"), body.get("ip_address"))
    # A zone that was just made has no zone file yet.
    return web.json_response({"domain": {"name": body["name"], "ttl": None, "zone_file": None}}, status=201)


async def domains_get(request: web.Request) -> web.Response:
    document = request.app[ACCOUNT].domains.document(request.match_info["domain"])
    return web.json_response({"domain": document})


async def domains_delete(request: web.Request) -> web.Response:
    request.app[ACCOUNT].domains.delete(request.match_info["domain"])
    return _done()


async def records_list(request: web.Request) -> web.Response:
    domains = request.app[ACCOUNT].domains
    records = domains.records(request.match_info["domain"], request.query.get("type"), request.query.get("name"))
    return _page(request, "domain_records", records)


async def records_create(request: web.Request) -> web.Response:
    record = request.app[ACCOUNT].domains.add(request.match_info["domain"], await _body(request, *_RECORD_KEYS))
    return web.json_response({"domain_record": record}, status=201)


async def records_get(request: web.Request) -> web.Response:
    record = request.app[ACCOUNT].domains.record(request.match_info["domain"], _number(request, "record"))
    return web.json_response({"domain_record": record})


async def records_update(request: web.Request) -> web.Response:
    body = await _body(request, *_RECORD_KEYS)
    record = request.app[ACCOUNT].domains.change(request.match_info["domain"], _number(request, "record"), body)
    return web.json_response({"domain_record": record})


async def records_delete(request: web.Request) -> web.Response:
    request.app[ACCOUNT].domains.remove(request.match_info["domain"], _number(request, "record"))
    return _done()


# Firewalls

_FIREWALL_KEYS = ("name", "inbound_rules", "outbound_rules", "droplet_ids", "tags")


async def firewalls_list(request: web.Request) -> web.Response:
    return _page(request, "firewalls", request.app[ACCOUNT].firewalls.documents())


async def firewalls_create(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    body = await _body(request, *_FIREWALL_KEYS)
    document = account.firewalls.create(body, now(), account.tags, account.droplets)
    return web.json_response({"firewall": _waiting(account, document)}, status=202)


async def firewalls_get(request: web.Request) -> web.Response:
    return web.json_response({"firewall": request.app[ACCOUNT].firewalls.get(request.match_info["firewall"])})


async def firewalls_replace(request: web.Request) -> web.Response:
    account = request.app[ACCOUNT]
    body = await _body(request, *_FIREWALL_KEYS)
    document = account.firewalls.replace(request.match_info["firewall"], body, account.tags, account.droplets)
    return web.json_response({"firewall": _waiting(account, document)})


async def firewalls_delete(request: web.Request) -> web.Response:
    request.app[ACCOUNT].firewalls.delete(request.match_info["firewall"])
    return _done()


async def firewalls_members(request: web.Request) -> web.Response:
    """Add or remove droplets or tags, whichever the path names."""
    account = request.app[ACCOUNT]
    field = {"droplets": "droplet_ids", "tags": "tags"}[request.match_info["members"]]
    body = await _body(request, field)
    existing = account.droplets if field == "droplet_ids" else account.tags
    change = account.firewalls.add if request.method == "POST" else account.firewalls.remove
    change(request.match_info["firewall"], field, known(body, field, existing))
    return _done()


async def firewalls_rules(request: web.Request) -> web.Response:
    firewalls = request.app[ACCOUNT].firewalls
    change = firewalls.add if request.method == "POST" else firewalls.remove
    for direction, rules in parse_rules(await _body(request, *RULES)).items():
        change(request.match_info["firewall"], direction, rules)
    return _done()


def _waiting(account: Account, document: JSON) -> JSON:
    """A firewall as it is answered before its droplets have it."""
    members = [
        droplet.id
        for droplet in account.droplets.values()
        if droplet.id in document["droplet_ids"] or set(droplet.tags) & set(document["tags"])
    ]
    changes = [{"droplet_id": id, "removing": False, "status": "waiting"} for id in members]
    return {**document, "status": "waiting" if changes else "succeeded", "pending_changes": changes}


# What is on offer


async def images_list(request: web.Request) -> web.Response:
    everything = request.query.get("private") != "true" and request.query.get("type") in (None, "distribution")
    return _page(request, "images", list(IMAGES.values()) if everything else [])


async def images_get(request: web.Request) -> web.Response:
    wanted = request.match_info["image"]
    for image in IMAGES.values():
        if wanted in (image["slug"], str(image["id"])):
            return web.json_response({"image": image})
    raise not_found()


async def regions_list(request: web.Request) -> web.Response:
    return _page(request, "regions", list(REGIONS.values()))


async def sizes_list(request: web.Request) -> web.Response:
    return _page(request, "sizes", list(SIZES.values()))


_ROUTES: list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]] = [
    ("GET", "/account", account_get),
    ("GET", "/account/keys", keys_list),
    ("POST", "/account/keys", keys_create),
    ("GET", "/account/keys/{key}", keys_get),
    ("PUT", "/account/keys/{key}", keys_update),
    ("DELETE", "/account/keys/{key}", keys_delete),
    ("GET", "/tags", tags_list),
    ("POST", "/tags", tags_create),
    ("GET", "/tags/{tag}", tags_get),
    ("DELETE", "/tags/{tag}", tags_delete),
    ("POST", "/tags/{tag}/resources", tags_resources),
    ("DELETE", "/tags/{tag}/resources", tags_resources),
    ("GET", "/droplets", droplets_list),
    ("POST", "/droplets", droplets_create),
    ("GET", "/droplets/{droplet}", droplets_get),
    ("DELETE", "/droplets/{droplet}", droplets_delete),
    ("GET", "/droplets/{droplet}/actions", droplet_actions_list),
    ("POST", "/droplets/{droplet}/actions", droplet_actions_create),
    ("GET", "/droplets/{droplet}/actions/{action}", actions_get),
    ("GET", "/actions", actions_list),
    ("GET", "/actions/{action}", actions_get),
    ("GET", "/domains", domains_list),
    ("POST", "/domains", domains_create),
    ("GET", "/domains/{domain}", domains_get),
    ("DELETE", "/domains/{domain}", domains_delete),
    ("GET", "/domains/{domain}/records", records_list),
    ("POST", "/domains/{domain}/records", records_create),
    ("GET", "/domains/{domain}/records/{record}", records_get),
    ("PUT", "/domains/{domain}/records/{record}", records_update),
    ("PATCH", "/domains/{domain}/records/{record}", records_update),
    ("DELETE", "/domains/{domain}/records/{record}", records_delete),
    ("GET", "/firewalls", firewalls_list),
    ("POST", "/firewalls", firewalls_create),
    ("GET", "/firewalls/{firewall}", firewalls_get),
    ("PUT", "/firewalls/{firewall}", firewalls_replace),
    ("DELETE", "/firewalls/{firewall}", firewalls_delete),
    ("POST", "/firewalls/{firewall}/{members:droplets|tags}", firewalls_members),
    ("DELETE", "/firewalls/{firewall}/{members:droplets|tags}", firewalls_members),
    ("POST", "/firewalls/{firewall}/rules", firewalls_rules),
    ("DELETE", "/firewalls/{firewall}/rules", firewalls_rules),
    ("GET", "/images", images_list),
    ("GET", "/images/{image}", images_get),
    ("GET", "/regions", regions_list),
    ("GET", "/sizes", sizes_list),
]
