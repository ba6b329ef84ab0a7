"""What every part of the API needs to read a request and to answer it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from lab.digitalocean.account import Account
from lab.digitalocean.catalogue import JSON
from lab.digitalocean.errors import ApiError, not_found

ACCOUNT = web.AppKey("account", Account)
DEFAULT_PAGE, LARGEST_PAGE = 20, 200
Routes = list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]]
Item = TypeVar("Item")


def account_of(request: web.Request) -> Account:
    return request.app[ACCOUNT]


async def body_of(request: web.Request) -> JSON:
    """The JSON object of a request; the API ignores keys that it does not know. Raises ApiError 400 when it is none."""
    try:
        body = json.loads(await request.text() or "{}")
    except ValueError:
        raise ApiError(400, "bad_request", "The request body is not JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "bad_request", "The request body is not a JSON object.")
    return body


def page(
    request: web.Request, name: str, items: Sequence[Item], document: Callable[[Item], JSON] | None = None
) -> web.Response:
    """One page of a collection, with absolute links to the others; `document` shapes what is on it, and no more."""

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
    chosen = items[(page - 1) * size : page * size]
    return web.json_response(
        {
            name: [document(item) for item in chosen] if document else chosen,
            "links": {"pages": links} if links else {},
            "meta": {"total": len(items)},
        }
    )


def number_of(request: web.Request, name: str) -> int:
    """A number in the path. Raises ApiError 404 when it is none."""
    text = request.match_info[name]
    if not text.isdecimal():
        raise not_found()
    return int(text)


def link_to(request: web.Request, rel: str, collection: str, id: Any) -> JSON:
    """A link in the answer to another resource of the API."""
    return {"id": id, "rel": rel, "href": str(request.url.with_path(f"/v2/{collection}/{id}").with_query(None))}


def done() -> web.Response:
    return web.Response(status=204)
