"""A judge of exchanges that knows DigitalOcean's published OpenAPI document, and nothing of the lab.

openapi-core says what an exchange breaks. The document does not forbid keys that it does not know, neither in bodies
nor in queries; who misspells one is found by a check of its own here, in requests and in answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jsonschema.exceptions import ValidationError
from openapi_core import OpenAPI
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.templating.paths.finders import APICallPathFinder
from openapi_core.testing import MockRequest, MockResponse
from openapi_core.validation.request.exceptions import ParameterValidationError
from openapi_schema_validator import OAS30Validator

JSON = Any
HOST = "https://api.digitalocean.com"
ON_PURPOSE = "wrong-on-purpose"
"""The User-Agent of a test that asks what the document does not allow, to see what comes of it."""

# Headers of an answer that differ each time: only their names matter, and every answer has them.
_EACH_ITS_OWN = ("ratelimit-remaining", "ratelimit-reset", "x-request-id", "content-length")


@dataclass(frozen=True)
class Exchange:
    """A request and the answer to it, as the lab's control interface hands it out.

    `status` is None when no answer was made. `fault` names the disturbance that was asked for, if it struck here.
    """

    method: str
    path: str
    user_agent: str = ""
    content_type: str = ""
    body: str = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    fault: str | None = None

    @property
    def essence(self) -> tuple[object, ...]:
        """What its judgement depends on: all but the values of headers that count or name the request."""
        told = {name: value for name, value in self.headers.items() if name not in _EACH_ITS_OWN}
        return (*(getattr(self, each.name) for each in fields(self) if each.name != "headers"), *sorted(told.items()))


@dataclass(frozen=True)
class Violation:
    """What an exchange breaks: `operation` as the document has it (`POST /v2/droplets`), side `request` or `answer`."""

    operation: str
    side: str
    problem: str
    exchange: Exchange

    def __str__(self) -> str:
        exchange = self.exchange
        shown = exchange.body if self.side == "request" else exchange.answer
        asked = f"{exchange.method} {exchange.path} by {exchange.user_agent}, answered {exchange.status}"
        return f"{self.operation}: {self.side}: {self.problem}\n    {asked}: {shown[:500]}"


@dataclass(frozen=True)
class _Operation:
    """One of the document's: its name, its text without references, the names of its query's parameters."""

    name: str
    document: JSON
    query: frozenset[str]


class Contract:
    """The document. Raises OSError or ValueError when it cannot be read."""

    def __init__(self, file: Path) -> None:
        document = json.loads(file.read_text())
        self._openapi = OpenAPI.from_dict(document)
        self._finder = APICallPathFinder(self._openapi.spec)
        self._paths = _inlined(document["paths"], document)

    def violations(self, exchange: Exchange) -> list[Violation]:
        """All that an exchange breaks."""
        operation = self._find(exchange)
        name = operation.name if operation else f"{exchange.method} {exchange.path.partition('?')[0]}"
        request = [] if exchange.user_agent == ON_PURPOSE else self._of_request(exchange, operation)
        problems = {
            **dict.fromkeys(("request", problem) for problem in request),
            **dict.fromkeys(("answer", problem) for problem in self._of_answer(exchange, operation)),
        }
        return [Violation(name, side, problem, exchange) for side, problem in problems]

    def scopes(self, exchange: Exchange) -> list[frozenset[str]]:
        """The sets of scopes each of which lets a token make the request; none for what the document does not have."""
        operation = self._find(exchange)
        return [frozenset(each["bearer_auth"]) for each in operation.document["security"]] if operation else []

    def _find(self, exchange: Exchange) -> _Operation | None:
        method = exchange.method.lower()
        try:
            found = self._finder.find(method, HOST + exchange.path.partition("?")[0].rstrip("/"))
        except PathError:
            return None
        pattern = found.path_result.pattern
        path = self._paths[pattern]
        parameters = [*path.get("parameters", ()), *path[method].get("parameters", ())]
        query = frozenset(each["name"] for each in parameters if each["in"] == "query")
        return _Operation(f"{exchange.method} {pattern}", path[method], query)

    def _of_request(self, exchange: Exchange, operation: _Operation | None) -> Iterator[str]:
        if operation is None:
            yield "the document has no such path and method"
            return
        yield from _errors(self._openapi.request_validator.iter_errors(_request(exchange)))
        for name in _query(exchange):
            if name not in operation.query:
                yield f"query: {name} is unknown"
        if exchange.body:
            yield from _unknown(exchange.body, operation.document.get("requestBody", {}))

    def _of_answer(self, exchange: Exchange, operation: _Operation | None) -> Iterator[str]:
        if exchange.status is None:
            if exchange.fault is None:
                yield "there is none"
            return
        if operation is None:
            return
        media_type = exchange.headers.get("content-type", "").partition(";")[0]
        answer = MockResponse(exchange.answer.encode(), exchange.status, dict(exchange.headers), media_type)
        yield from _errors(self._openapi.response_validator.iter_errors(_request(exchange), answer))
        responses = operation.document["responses"]
        if exchange.answer:
            yield from _unknown(exchange.answer, responses.get(str(exchange.status), responses.get("default", {})))


def _query(exchange: Exchange) -> dict[str, str]:
    return dict(parse_qsl(exchange.path.partition("?")[2], keep_blank_values=True))


def _request(exchange: Exchange) -> MockRequest:
    return MockRequest(
        HOST,
        exchange.method.lower(),
        exchange.path.partition("?")[0].rstrip("/"),
        args=_query(exchange),
        # Who may ask is not the document's concern, but it wants to see that somebody says who asks.
        headers={"Authorization": "Bearer of-somebody"},
        data=exchange.body.encode(),
        content_type=exchange.content_type.partition(";")[0] or "application/json",
    )


def _errors(found: Iterable[Exception]) -> Iterator[str]:
    """What openapi-core finds; where it stumbles over a body, that body is none that the document describes."""
    try:
        for error in found:
            yield from _told(error)
    except (TypeError, ValueError, AttributeError) as problem:
        yield f"body: cannot be judged ({type(problem).__name__}: {problem})"


def _told(error: BaseException) -> Iterator[str]:
    """What openapi-core found, a line for each: of a schema, where and why; else the error and what led to it."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    parameter = next((each for each in chain if isinstance(each, ParameterValidationError)), None)
    place = f"{parameter.location} {parameter.name}" if parameter else "body"
    schema_errors = [leaf for link in chain for each in getattr(link, "schema_errors", ()) for leaf in _leaves(each)]
    for each in schema_errors:
        yield f"{place}{each.json_path[1:]}: {each.message[:200]}"
    if not schema_errors:
        yield ": ".join(dict.fromkeys(f"{type(link).__name__}: {link}" for link in chain))[:500]


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The errors behind one of `oneOf` or `anyOf`: those of the variant that has the fewest."""
    variants: dict[Any, list[ValidationError]] = {}
    for each in error.context:
        variants.setdefault(each.schema_path[0], []).append(each)
    if not variants:
        yield error
        return
    for each in min(variants.values(), key=len):
        yield from _leaves(each)


def _unknown(text: str, content: JSON) -> Iterator[str]:
    """The keys of a body that the document does not have."""
    schema = content.get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        yield "body: the document has none"
        return
    try:
        body = json.loads(text)
    except ValueError:
        return  # openapi-core has said so
    yield from _unknown_keys(body, [schema], "body")


def _unknown_keys(value: JSON, schemas: list[JSON], place: str) -> Iterator[str]:
    """Where a value has keys that none of the schemas knows. One without any properties leaves them free."""
    flat = [each for schema in schemas for each in _that_apply(value, schema)]
    if isinstance(value, list):
        items = [schema["items"] for schema in flat if "items" in schema]
        for number, item in enumerate(value):
            yield from _unknown_keys(item, items, f"{place}[{number}]")
    elif isinstance(value, dict):
        free = not any("properties" in schema for schema in flat)
        for key, item in value.items():
            known = [schema["properties"][key] for schema in flat if key in schema.get("properties", {})]
            extra = [schema["additionalProperties"] for schema in flat if schema.get("additionalProperties")]
            if known or extra:
                yield from _unknown_keys(item, known or [each for each in extra if each is not True], f"{place}.{key}")
            elif not free:
                yield f"{place}.{key} is unknown"
    elif any("properties" in schema for schema in flat) and not any("type" in schema for schema in flat):
        # Properties without a type: JSON Schema lets pass what has none.
        yield f"{place}: {value!r} is no object"


def _that_apply(value: JSON, schema: JSON, outer: tuple[int, ...] = ()) -> Iterator[JSON]:
    """A schema and those that it is composed of; of variants the one that the discriminator names, else those that fit.

    If none fits, all of them. `outer` are the schemas on the way here: a variant may name the one that has variants.
    """
    if id(schema) in outer:
        return
    outer = (*outer, id(schema))
    yield schema
    for part in schema.get("allOf", ()):
        yield from _that_apply(value, part, outer)
    named = schema.get("discriminator", {})
    if isinstance(value, dict) and (chosen := named.get("mapping", {}).get(str(value.get(named.get("propertyName"))))):
        yield from _that_apply(value, chosen, outer)
        return
    for variants in (schema.get("oneOf", ()), schema.get("anyOf", ())):
        fitting = [variant for variant in variants if OAS30Validator(variant).is_valid(value)]
        for part in fitting or variants:
            yield from _that_apply(value, part, outer)


def _inlined(node: JSON, document: JSON) -> JSON:
    """A part of a document with what it refers to in place of the references; each of these is made once and shared."""
    made: dict[str, JSON] = {}

    def resolve(reference: str) -> JSON:
        if reference not in made:
            made[reference] = {}  # for what refers to itself
            target = document
            for step in reference.removeprefix("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]
            made[reference].update(inline(target))
        return made[reference]

    def inline(node: JSON) -> JSON:
        if isinstance(node, list):
            return [inline(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(node["$ref"])
        if "propertyName" in node and "mapping" in node:  # a discriminator
            return {**node, "mapping": {name: resolve(target) for name, target in node["mapping"].items()}}
        return {key: inline(each) for key, each in node.items()}

    return inline(node)
