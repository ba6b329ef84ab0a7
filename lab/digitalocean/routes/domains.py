"""Domains and their records."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from lab.digitalocean.wire import Routes, account_of, body_of, done, number_of, page


async def domains_list(request: web.Request) -> web.Response:
    domains = account_of(request).domains
    return page(request, "domains", domains.names(), domains.document)


async def domains_create(request: web.Request) -> web.Response:
    body = await body_of(request)
    domains = account_of(request).domains
    domains.create(body.get("name"), body.get("ip_address"))
    # A zone that was just made has no zone file yet.
    return web.json_response({"domain": {"name": body["name"], "ttl": None, "zone_file": None}}, status=201)


async def domains_get(request: web.Request) -> web.Response:
    document = account_of(request).domains.document(request.match_info["domain"])
    return web.json_response({"domain": document})


async def domains_delete(request: web.Request) -> web.Response:
    account_of(request).domains.delete(request.match_info["domain"])
    return done()


async def records_list(request: web.Request) -> web.Response:
    domains = account_of(request).domains
    records = domains.records(request.match_info["domain"], request.query.get("type"), request.query.get("name"))
    return page(request, "domain_records", records, asdict)


async def records_create(request: web.Request) -> web.Response:
    record = account_of(request).domains.add(request.match_info["domain"], await body_of(request))
    return web.json_response({"domain_record": record}, status=201)


async def records_get(request: web.Request) -> web.Response:
    record = account_of(request).domains.record(request.match_info["domain"], number_of(request, "record"))
    return web.json_response({"domain_record": record})


async def records_update(request: web.Request) -> web.Response:
    body = await body_of(request)
    record = account_of(request).domains.change(request.match_info["domain"], number_of(request, "record"), body)
    return web.json_response({"domain_record": record})


async def records_delete(request: web.Request) -> web.Response:
    account_of(request).domains.remove(request.match_info["domain"], number_of(request, "record"))
    return done()


ROUTES: Routes = [
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
]
