"""What the control interfaces of the lab's services have in common."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A ValueError is answered 400, a KeyError 404, both as {"error": text}."""
    try:
        return await handler(request)
    except ValueError as exc:
        return web.json_response({"error": str(exc)}, status=400)
    except KeyError as exc:
        return web.json_response({"error": f"{exc.args[0]} is not known"}, status=404)


async def body_of(request: web.Request, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The JSON object in the request, empty if there is none. Raises ValueError for a key or a type not in `types`."""
    text = await request.text()
    body = json.loads(text) if text.strip() else {}
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    for key, value in body.items():
        if key not in types:
            raise ValueError(f"{key} is not one of {', '.join(types)}")
        if not isinstance(value, types[key]) or (isinstance(value, bool) and types[key] is not bool):
            raise ValueError(f"{key} = {value!r} has the wrong type")
    return body
