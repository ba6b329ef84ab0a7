"""The judge bites: real exchanges are in order, and each one with something wrong put into it is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.judge import JUDGE, MISSING, ROOT, Judge
from tests.contract.validator import ON_PURPOSE, Contract, Exchange
from tests.contract.waivers import WAIVERS, Waiver
from tests.plugins.support import Api, records_only

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM operator"
RULE = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["198.51.100.0/24"]}}
Mutants = Iterator[tuple[str, Exchange]]


def test_the_contract_is_at_hand() -> None:
    if JUDGE.contract is None:
        pytest.skip(MISSING)
    assert JUDGE.contract.violations(Exchange("GET", "/v2/account"))


needs_contract = pytest.mark.skipif(JUDGE.contract is None, reason=MISSING)


def life(api: Api) -> None:
    """One of everything that a customer may need: made, read, listed, changed and taken away."""
    call = api.client.call

    def act(path: str, **body: Any) -> None:
        action = call("POST", f"{path}/actions", body)["action"]
        while call("GET", f"actions/{action['id']}")["action"]["status"] == "in-progress":
            pass

    key = call("POST", "account/keys", {"name": "operator", "public_key": KEY})["ssh_key"]
    call("POST", "tags", {"name": "sbc"})
    firewall = {"name": "sbc-contoso", "inbound_rules": [RULE], "tags": ["sbc"]}
    made = call("POST", "firewalls", firewall)["firewall"]
    call("PUT", f"firewalls/{made['id']}", firewall | {"droplet_ids": []})
    droplet = api.droplet("sbc", ssh_keys=[key["fingerprint"]], user_data="#cloud-config\n", monitoring=True)
    itself = f"droplets/{droplet['id']}"
    of_droplet = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    call("POST", "tags/sbc/resources", of_droplet)
    act(itself, type="enable_backups", backup_policy={"plan": "weekly", "weekday": "SUN", "hour": 4})
    act(itself, type="snapshot", name="golden")
    (snapshot,) = call("GET", f"{itself}/snapshots")["snapshots"]
    address = call("POST", "reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"]
    act(f"reserved_ips/{address}", type="assign", droplet_id=droplet["id"])
    project = call("POST", "projects", {"name": "Telephony", "purpose": "Service or API"})["project"]["id"]
    call("POST", f"projects/{project}/resources", {"resources": [f"do:droplet:{droplet['id']}"]})
    record = {"type": "A", "name": "sbc1", "data": "203.0.113.10", "ttl": 300}
    named = call("POST", "domains/example.com/records", record)["domain_record"]
    call("PUT", f"domains/example.com/records/{named['id']}", record | {"ttl": 30})
    collections = ("account/keys", "droplets", "firewalls", "domains", "domains/example.com/records", "tags", "actions")
    more = ("images", "projects", f"projects/{project}/resources", "regions", "reserved_ips", "sizes", "snapshots")
    for path in (*collections, *more):
        call("GET", path, query={"per_page": 3})
    for path in ("account", f"{itself}/backups/policy", f"reserved_ips/{address}", f"snapshots/{snapshot['id']}"):
        call("GET", path)
    act(f"reserved_ips/{address}", type="unassign")
    call("DELETE", "tags/sbc/resources", of_droplet)
    paths = (f"domains/example.com/records/{named['id']}", itself, f"snapshots/{snapshot['id']}", "tags/sbc")
    for path in (*paths, f"firewalls/{made['id']}", f"reserved_ips/{address}", f"account/keys/{key['id']}"):
        call("DELETE", path)


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    """Of a life: one exchange for each method, path and status."""
    with records_only("--domain", "example.com") as api:
        life(api)
        taken = [Exchange(**each) for each in api.control("DELETE", "exchanges")["exchanges"]]
    return list({(each.method, _shape(each.path), each.status): each for each in taken}.values())


def _shape(path: str) -> str:
    steps = path.partition("?")[0].split("/")[2:]
    return "/".join("N" if any(letter.isdigit() for letter in step) else step for step in steps)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value in a body and the way to it, the whole first; of a list its first item."""
    yield path, value
    steps = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from places(inner, (*path, step))


def put(body: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> str:
    """A copy of a body in which something happens to the last step of a way."""
    copy = deepcopy(body)
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    change(holder, path[-1])
    return json.dumps(copy)


def with_wrong_types(exchange: Exchange, side: str) -> Mutants:
    """An object where there is none, and a word where there is one."""
    for path, value in places(_json(exchange, side)):
        if path and value is not None:
            wrong = "word" if isinstance(value, (dict, list)) else {"word": 1}

            def change(holder: Any, step: Any, wrong: Any = wrong) -> None:
                holder[step] = wrong

            yield f"{side} {path} = {wrong}", _with(exchange, side, put(_json(exchange, side), path, change))


def with_unknown_keys(exchange: Exchange, side: str) -> Mutants:
    for path, value in places(_json(exchange, side)):
        if isinstance(value, dict):

            def change(holder: Any, step: Any) -> None:
                holder[step] = 1

            whole = put(_json(exchange, side), (*path, "unheard_of"), change)
            yield f"{side} {path} unheard_of", _with(exchange, side, whole)


def _with(exchange: Exchange, side: str, text: str) -> Exchange:
    return replace(exchange, body=text) if side == "body" else replace(exchange, answer=text)


def _json(exchange: Exchange, side: str) -> Any:
    text: str = getattr(exchange, side)
    return json.loads(text) if text else None


# Where the document is open: a word that it misspells, pages, and a reserved IP's droplet, which may be any object.
OPEN = re.compile(r"'resources', 'images'|'links', 'pages'\) =|'reserved_ips?', (0, )?'droplet', .* =")


def survivors(mutants: list[tuple[str, Exchange]]) -> list[str]:
    """The mutants that the judge lets pass although the document is not open there."""
    judge = Judge(JUDGE.contract)
    passed = [f"{mutant.method} {mutant.path}: {what}" for what, mutant in mutants if not judge.judge(mutant)]
    return [each for each in passed if not OPEN.search(each)]


@needs_contract
def test_real_exchanges_are_in_order(exchanges: list[Exchange]) -> None:
    assert len(exchanges) > 40
    judge = Judge(JUDGE.contract)
    assert [str(violation) for exchange in exchanges for violation in judge.judge(exchange)] == []


@needs_contract
@pytest.mark.parametrize("side", ["body", "answer"])
def test_wrong_types_are_found_everywhere(exchanges: list[Exchange], side: str) -> None:
    mutants = [mutant for exchange in exchanges for mutant in with_wrong_types(exchange, side)]
    assert len(mutants) > {"body": 30, "answer": 300}[side]
    assert survivors(mutants) == []


@needs_contract
@pytest.mark.parametrize("side", ["body", "answer"])
def test_unknown_keys_are_found_everywhere(exchanges: list[Exchange], side: str) -> None:
    mutants = [mutant for exchange in exchanges for mutant in with_unknown_keys(exchange, side)]
    assert len(mutants) > {"body": 10, "answer": 80}[side]
    assert survivors(mutants) == []


def without(path: tuple[Any, ...], exchange: Exchange, side: str) -> Exchange:
    def change(holder: Any, step: Any) -> None:
        del holder[step]

    return _with(exchange, side, put(_json(exchange, side), path, change))


@needs_contract
@pytest.mark.parametrize(
    ("method", "path", "side", "key"),
    [
        ("POST", "account/keys", "body", ("public_key",)),
        ("POST", "account/keys", "body", ("name",)),
        ("POST", "droplets", "body", ("name",)),
        ("POST", "droplets", "body", ("size",)),
        ("POST", "droplets", "body", ("image",)),
        ("POST", "droplets/N/actions", "body", ("type",)),
        ("POST", "domains/example.com/records", "body", ("type",)),
        ("POST", "domains/example.com/records", "body", ("data",)),
        ("POST", "firewalls", "body", ("inbound_rules", 0, "sources")),
        ("POST", "tags/sbc/resources", "body", ("resources",)),
        ("GET", "account", "answer", ("account", "droplet_limit")),
        ("POST", "droplets", "answer", ("droplet",)),
        ("POST", "droplets", "answer", ("droplet", "id")),
        ("POST", "droplets", "answer", ("links",)),
        ("GET", "droplets/N", "answer", ("droplet", "networks")),
        ("GET", "droplets", "answer", ("meta",)),
        ("GET", "droplets", "answer", ("droplets", 0, "tags")),
        ("GET", "regions", "answer", ("regions", 0, "available")),
        ("GET", "sizes", "answer", ("sizes", 0, "price_monthly")),
        ("POST", "account/keys", "answer", ("ssh_key", "public_key")),
    ],
)
def test_what_is_missing_is_found(
    exchanges: list[Exchange], method: str, path: str, side: str, key: tuple[Any, ...]
) -> None:
    exchange = next(each for each in exchanges if (each.method, _shape(each.path)) == (method, path))
    assert survivors([(str(key), without(key, exchange, side))]) == []


@needs_contract
def test_a_key_of_another_kind_of_the_same_thing_is_found() -> None:
    action = '{"type": "resize", "size": "s-2vcpu-2gb", "disk": false, "name": "sbc1"}'
    (violation,) = Judge(JUDGE.contract).judge(Exchange("POST", "/v2/droplets/1/actions", body=action, fault="lost"))
    assert violation.problem == "body.name is unknown"


@needs_contract
def test_another_status_is_found(exchanges: list[Exchange]) -> None:
    done = [each for each in exchanges if each.status in (200, 201, 202, 204)]
    mutants = [
        (f"status {status}", replace(exchange, status=status))
        for exchange in done
        for status in (200, 201, 202, 204, 404, 422, 500)
        if status != exchange.status
    ]
    assert survivors(mutants) == []


@needs_contract
def test_what_the_document_does_not_have_is_found(exchanges: list[Exchange]) -> None:
    mutants = []
    for each in exchanges:
        path = each.path.partition("?")[0]
        mutants += [
            ("path", replace(each, path=f"{path}/no/such/path")),
            ("method", replace(each, method="PURGE")),
            ("query", replace(each, path=f"{path}?unheard_of=1")),
            ("no answer", replace(each, status=None, answer="")),
            ("no number", replace(each, headers={**each.headers, "ratelimit-remaining": "many"})),
            ("no JSON in the request", replace(each, body="{")),
            ("no JSON in the answer", replace(each, answer="{")),
        ]
        if each.answer:
            mutants.append(("text", replace(each, headers={**each.headers, "content-type": "text/plain"})))
    assert survivors(mutants) == []


@needs_contract
def test_who_is_wrong_on_purpose_is_excused_and_the_answer_is_not(exchanges: list[Exchange]) -> None:
    made = next(each for each in exchanges if (each.method, each.path) == ("POST", "/v2/tags"))
    wrong = replace(made, body='{"nmae": "sbc"}', user_agent=ON_PURPOSE)
    assert Judge(JUDGE.contract).judge(wrong) == []
    assert Judge(JUDGE.contract).judge(replace(wrong, status=200))


def test_an_answer_that_a_fault_took_away_is_not_asked_for() -> None:
    assert Judge(JUDGE.contract).judge(Exchange("GET", "/v2/account", fault="dropped")) == []


ERROR = '{"id": "a", "message": "b", "request_id": "c", "error": "b", "messages": [], "root_causes": []}'
JSON = {"content-type": "application/json"}
TAG = '{"tag": {"name": "a", "resources": {"count": 0, "images": {"count": 0}}}}'
EXCUSED = {
    "records without flags and tag": Exchange(
        "POST", "/v2/domains/a.com/records", body='{"type": "TXT", "name": "a", "data": "b"}', fault="dropped"
    ),
    "keys named in a path": Exchange("GET", "/v2/account/keys/512190", fault="dropped"),
    "change_backup_policy": Exchange(
        "POST",
        "/v2/droplets/1/actions",
        body='{"type": "change_backup_policy", "backup_policy": {"plan": "daily", "hour": 4}}',
        fault="dropped",
    ),
    "imgages": Exchange("GET", "/v2/tags/a", status=200, headers=JSON, answer=TAG),
    "errors in two shapes": Exchange("POST", "/v2/tags", body='{"name": "a"}', status=400, headers=JSON, answer=ERROR),
    "a gateway's page": Exchange(
        "GET", "/v2/account", status=502, headers={"content-type": "text/html"}, answer="<html>", fault="502html"
    ),
    "python-digitalocean's bodies": Exchange(
        "DELETE", "/v2/droplets/1", body="{}", user_agent="python-digitalocean/1.17.0 requests/2.34", fault="dropped"
    ),
}


@needs_contract
@pytest.mark.parametrize("waiver", WAIVERS, ids=lambda waiver: str(waiver.name))
def test_each_waiver_is_needed_and_has_its_reason(waiver: Waiver) -> None:
    assert waiver.reason.endswith(".")
    exchange = EXCUSED[waiver.name]
    judge = Judge(JUDGE.contract)
    assert judge.judge(exchange) == []
    assert judge.waived.keys() == {waiver.name}
    assert Judge(JUDGE.contract, [other for other in WAIVERS if other is not waiver]).judge(exchange)


@needs_contract
def test_a_run_fails_at_a_violation_and_at_what_was_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(JUDGE.contract)
    with records_only() as api:
        api.client.call("GET", "tags", query={"unheard_of": 1})
        with pytest.raises(AssertionError, match="GET /v2/tags: request: query: unheard_of is unknown"):
            judge.take(api.control_url)
        judge.take(api.control_url)
        assert judge.exchanges == 1


@needs_contract
def test_the_command_fails_at_a_violation_and_once_only() -> None:
    with records_only() as api:
        api.client.call("GET", "tags", query={"unheard_of": 1})
        command = [sys.executable, "-m", "tests.contract", api.control_url]
        first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2))
    assert (first.returncode, second.returncode) == (1, 0)
    assert "GET /v2/tags: request: query: unheard_of is unknown" in first.stdout
    assert "0 exchanges held against" in second.stdout
    nobody = subprocess.run([*command[:-1], "http://127.0.0.1:1"], cwd=ROOT, capture_output=True, text=True)
    assert (nobody.returncode, nobody.stdout[:12]) == (0, "No lab is up")


def test_without_the_document_every_run_says_so_loudly() -> None:
    test = f"{__file__}::test_an_answer_that_a_fault_took_away_is_not_asked_for"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test],
        cwd=ROOT,
        env=os.environ | {"DIGITALOCEAN_CONTRACT": "/no/such/file"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "!!! NO CONTRACT CHECK !!!" in run.stdout
    assert "/no/such/file is missing, so nothing says whether" in run.stdout


@needs_contract
def test_the_document_tells_which_scopes_a_request_needs() -> None:
    assert isinstance(JUDGE.contract, Contract)
    assert JUDGE.contract.scopes(Exchange("POST", "/v2/droplets")) == [{"droplet:create"}]
    assert JUDGE.contract.scopes(Exchange("PURGE", "/v2/droplets")) == []
