"""A thin client of DigitalOcean's API v2 on python-digitalocean.

The library's one seam is the private request method of its BaseAPI. Client replaces it, so that every exchange has a
timeout, is repeated when (and only when) that is safe, keeps status and request id of an error, and logs no body.
Facts about the API: https://docs.digitalocean.com/reference/api/ (read November 2026).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
import os
import random
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib

LIBRARY_ERROR = None
try:
    import requests
    from digitalocean.baseapi import BaseAPI, Error
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()
    BaseAPI = object

Resource = dict[str, Any]

PRODUCTION = "https://api.digitalocean.com/v2/"
COMMON_TAG = "sbc"
TAG_PREFIX = "sbc:"
# What a customer's droplet is besides, while it is being replaced.
SUCCESSOR_TAG = "sbc:successor"
RETIRED_TAG = "sbc:retired"
# Before a digest of the user_data that a droplet was made with: the API does not give user_data back.
USER_DATA_PREFIX = "sbc:user-data:"
BACKUP_POLICIES = "droplets/backups/policies"
BACKOFF_LONGEST = 8.0
# Seconds that a droplet gets to shut down by itself before its power is cut.
SHUTDOWN_LONGEST = 60


def customer_tag(customer: str) -> str:
    """The tag by which a customer's droplet is found."""
    return f"{TAG_PREFIX}customer:{customer}"


def spelt(tags: Iterable[str], present: Iterable[str]) -> set[str]:
    """These tags, those that are present in their own spelling.

    Case does not tell tags apart: the account goes on with the spelling that was first
    (https://docs.digitalocean.com/reference/api/reference/tags/, read November 2026).
    """
    known = {tag.casefold(): tag for tag in present}
    return {known.get(tag.casefold(), tag) for tag in tags}


def unfinished(customer: str) -> str:
    """What to say where a replacement has left a successor, or a retired droplet, behind."""
    return (
        f"a replacement of {customer} was not finished: run `ansible-playbook playbooks/replace.yml --limit {customer}`"
        f" again, or with -e replacement_abandon=true"
    )


def household(customer: str, droplets: Iterable[Resource]) -> dict[str, Resource]:
    """The customer's own of these droplets, by what they are: "droplet", "successor" or "retired".

    Raises ValueError, with a list, if there are two of a kind: none of them can be told to be the right one.
    """
    tag = customer_tag(customer)
    kinds: dict[str, list[Resource]] = {}
    for each in droplets:
        if spelt([tag], each["tags"]) & set(each["tags"]):
            retired, successor = RETIRED_TAG in each["tags"], SUCCESSOR_TAG in each["tags"]
            kinds.setdefault("retired" if retired else "successor" if successor else "droplet", []).append(each)
    for kind, found in kinds.items():
        if len(found) > 1:
            listed = ", ".join(f"{d['id']} ({d['name']}, {public_address(d) or 'no address'})" for d in found)
            also = "" if kind == "droplet" else f" and {TAG_PREFIX}{kind}"
            raise ValueError(
                f"{len(found)} droplets carry the tag {tag}{also}: {listed}. Look which one is in use, and take the "
                f"tag off the others, or destroy them, in DigitalOcean's control panel"
            )
    return {kind: found[0] for kind, found in kinds.items()}


def public_addresses(droplet: Resource) -> list[str]:
    """The droplet's own public IPv4 address and a reserved IP that leads to it, in no order."""
    return [each["ip_address"] for each in droplet.get("networks", {}).get("v4", []) if each["type"] == "public"]


def public_address(droplet: Resource, *reserved: str | None) -> str | None:
    """The droplet's own public IPv4 address; networks.v4 may list the private one first, or be empty at first.

    A reserved IP that leads to the droplet is listed like its own, after it, which nothing promises: those that are
    known are left out (https://github.com/digitalocean/godo/issues/343, read November 2026).
    """
    return next((each for each in public_addresses(droplet) if each not in reserved), None)


def user_data_tag(user_data: str) -> str:
    """The tag that tells what a droplet was made with; twelve hexadecimal digits of the text's SHA-256."""
    return USER_DATA_PREFIX + hashlib.sha256(user_data.encode()).hexdigest()[:12]


def wants_address(value: object) -> bool:
    """Whether a value of droplet_reserved_ip asks for a reserved IP: true, an address, or a text that says so."""
    return str(value).strip().lower() not in ("false", "no", "none", "")


def fingerprint(public_key: str) -> str:
    """The MD5 fingerprint by which the API knows an OpenSSH public key. Raises ValueError if the text is none."""
    kind, _, rest = public_key.strip().partition(" ")
    try:
        blob = base64.b64decode(rest.split()[0], validate=True)
    except (IndexError, binascii.Error):
        blob = b""
    if not kind or not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        raise ValueError("not an OpenSSH public key: one line 'TYPE BASE64 COMMENT' is expected")
    return hashlib.md5(blob, usedforsecurity=False).digest().hex(":")


def checked_endpoint(endpoint: str) -> str:
    """The endpoint with its final slash. Raises ValueError if it cannot be one, or would carry the token in clear."""
    parts = urlsplit(endpoint)
    if not parts.hostname or parts.scheme not in ("http", "https") or parts.path.rstrip("/") != "/v2":
        raise ValueError(f"API endpoint {endpoint!r}: a URL such as {PRODUCTION} is expected")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"API endpoint {endpoint!r}: http would carry the token in clear, use https")
    return endpoint.rstrip("/") + "/"


@dataclass(eq=False)
class ApiError(Exception):
    """An exchange that failed for good; status is None when no answer came."""

    method: str
    path: str
    message: str
    status: int | None = None
    id: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        answer = " ".join(str(part) for part in (self.status, self.id) if part) or "no answer"
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.method} {self.path}: {answer}: {self.message}{request}"

    @property
    def unsettled(self) -> bool:
        """The API may have done what was asked although it did not say so."""
        return self.status is None or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class Client(BaseAPI):  # type: ignore[misc]  # the library has no types
    """One account at one endpoint: the argument's, else the environment's, else production.

    timeout: seconds for one exchange to connect, and between two bytes of its answer.
    attempts: how often an exchange is tried that fails with 5xx or without an answer.
    patience: seconds to wait, all in all, for a rate limit or another pending event of the same resource.
    """

    # Seconds before the first repetition; each further one waits twice as long, up to BACKOFF_LONGEST.
    backoff = 0.5
    # Seconds between the looks for what a POST without an answer may have created, before it is repeated.
    settling = (1.0, 2.0, 4.0)

    def __init__(
        self,
        token: str,
        endpoint: str | None = None,
        *,
        timeout: float = 30,
        attempts: int = 6,
        patience: float = 120,
    ) -> None:
        endpoint = endpoint or os.environ.get("DIGITALOCEAN_END_POINT") or PRODUCTION
        super().__init__(token=token, end_point=checked_endpoint(endpoint))
        self._secret = token
        self._timeout, self._attempts, self._patience = timeout, attempts, patience
        # As an auth callable, because a netrc entry for the host would replace a plain header.
        self._session.auth = self._authorize
        self._session.headers["User-Agent"] = "teams-sbc python-digitalocean"

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._secret}"
        return request

    def _BaseAPI__perform_request(self, url: str, type: str = "GET", params: Any = None) -> requests.Response:
        return self._exchange(type, url, **{"query" if type == "GET" else "body": params})

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Resource | None = None,
        repeatable: bool = True,
    ) -> requests.Response:
        url = urljoin(self.end_point, path)
        if not url.startswith(self.end_point):
            raise ApiError(method, path, f"refused: the address lies outside {self.end_point}")
        deadline = time.monotonic() + self._patience
        for attempt in itertools.count(1):
            pause = min(BACKOFF_LONGEST, self.backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            try:
                answer: requests.Response = self._session.request(
                    method, url, params=query, json=body, timeout=self._timeout, allow_redirects=False
                )
            except requests.RequestException as problem:
                error = ApiError(method, path, self._redacted(str(problem)))
            else:
                if answer.ok and not answer.is_redirect:
                    return answer
                error = self._error(method, path, answer)
                if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                    pause = _rate_limit_pause(answer.headers, pause)
            if error.status == HTTPStatus.TOO_MANY_REQUESTS or "pending event" in error.message:
                again = time.monotonic() + pause < deadline
            else:
                again = repeatable and error.unsettled and attempt < self._attempts
            if not again:
                raise error
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _error(self, method: str, path: str, answer: requests.Response) -> ApiError:
        try:
            body = answer.json()
        except ValueError:
            body = {}
        if not isinstance(body, dict):
            body = {}
        message = body.get("message") or answer.reason or "an error without a message"
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS and (reset := _end_of_hour(answer.headers)):
            again = datetime.fromtimestamp(reset, UTC)
            message += f" The account's requests of the hour are used up: run it again after {again:%H:%M:%S} UTC"
        request_id = body.get("request_id") or answer.headers.get("x-request-id", "")
        return ApiError(
            method, path, self._redacted(message), answer.status_code, str(body.get("id", "")), str(request_id)
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "********") if self._secret else text

    def call(
        self,
        method: str,
        path: str,
        body: Resource | None = None,
        query: Mapping[str, Any] | None = None,
        repeatable: bool | None = None,
    ) -> Resource:
        """One exchange; repeated on 5xx or silence unless it is a POST that is not said to be repeatable.

        Raises ApiError.
        """
        repeatable = method != "POST" if repeatable is None else repeatable
        answer = self._exchange(method, path, query, body, repeatable)
        if not answer.content:
            return {}
        try:
            data = answer.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ApiError(method, path, "the answer is not a JSON object", answer.status_code)
        return data

    def get(self, path: str, key: str) -> Resource | None:
        """The resource at path, or None if there is none. Raises ApiError."""
        try:
            found: Resource = self.call("GET", path)[key]
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    def get_all(self, path: str, key: str, **filters: str) -> list[Resource]:
        """All resources of a collection, 200 a page. Raises ApiError."""
        try:
            found: list[Resource] = self.get_data(path, params=dict(filters))[key]
        except (Error, ValueError) as problem:
            raise ApiError("GET", path, self._redacted(str(problem))) from problem
        return found

    def delete(self, path: str, body: Resource | None = None, gone: Callable[[], bool] | None = None) -> bool:
        """Whether there was something to delete. Raises ApiError, also for a 404 that is not true.

        gone: tells whether there is nothing to delete any more; without it, the path itself is asked.
        """
        try:
            self.call("DELETE", path, body)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND and (gone or (lambda: self._is_gone(path)))():
                return False
            raise
        return True

    def _is_gone(self, path: str) -> bool:
        try:
            self.call("GET", path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return True
            raise
        return False

    def create(self, path: str, key: str, body: Resource, find: Callable[[], Resource | None]) -> Resource:
        """Create exactly one resource: a POST that may have been carried out is repeated only if find() finds nothing.

        A refusal (409, 422) is no error either if find() shows that another run was quicker. Raises ApiError.
        """
        for last in (False, False, True):
            try:
                made: Resource = self.call("POST", path, body)[key]
                return made
            except ApiError as error:
                if not error.unsettled and error.status not in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY):
                    raise
                for pause in self.settling if error.unsettled else (0,):
                    time.sleep(pause)
                    if found := find():
                        return found
                if last or not error.unsettled:
                    raise
        raise AssertionError("unreachable")

    def act(self, number: int, body: Resource, done: Callable[[Resource], bool], timeout: float) -> None:
        """Have an action carried out; one that was, although its answer got lost, is refused when it is repeated.

        done: tells from the droplet whether it was. Raises ApiError, and ValueError if it fails or takes longer than
        timeout seconds.
        """
        try:
            action = self.call("POST", f"droplets/{number}/actions", body, repeatable=True)["action"]
        except ApiError:
            seen = self.get(f"droplets/{number}", "droplet")
            if seen and done(seen):
                return
            raise
        self.follow(number, action, timeout)

    def follow(self, number: int, begun: Resource, timeout: float) -> None:
        """Wait for a droplet's action. Raises ApiError, and ValueError if it fails or takes too long."""
        name = f"action {begun['id']} ({begun['type']}) of droplet {number}"
        action: Resource | None = begun
        for _ in patiently(timeout, f"{name} is not completed"):
            # A fresh one may be unknown for a moment.
            if action and action["status"] == "completed":
                return
            if action and action["status"] == "errored":
                raise ValueError(f"{name} failed at DigitalOcean")
            action = self.get(f"actions/{begun['id']}", "action")

    def switch_off(self, number: int, timeout: float) -> None:
        """Let a droplet shut down; one that does not is switched off.

        Raises ApiError, and ValueError if that takes longer than timeout seconds.
        """

        def is_off(seen: Resource) -> bool:
            return bool(seen["status"] == "off")

        try:
            self.act(number, {"type": "shutdown"}, is_off, SHUTDOWN_LONGEST)
            for _ in patiently(SHUTDOWN_LONGEST, f"droplet {number} does not shut down"):
                if is_off(self.call("GET", f"droplets/{number}")["droplet"]):
                    return
        except ValueError:
            self.act(number, {"type": "power_off"}, is_off, timeout)

    def backup_policy(self, number: int) -> Resource:
        """When a droplet's backups are made, as the API says it; empty if none are. Raises ApiError."""
        policy: Resource | None = self.call("GET", f"droplets/{number}/backups/policy")["policy"].get("backup_policy")
        return policy or {}

    def backup_policies(self) -> dict[str, Resource]:
        """The policies of all droplets that have one, by the droplet's number in words. Raises ApiError."""
        found: dict[str, Resource] = {}
        for page in itertools.count(1):
            answer = self.call("GET", BACKUP_POLICIES, query={"page": page, "per_page": 200})
            found |= {number: each.get("backup_policy") or {} for number, each in answer["policies"].items()}
            if not (answer.get("links") or {}).get("pages", {}).get("next"):
                break
        return found

    def own_address(self, droplet: Resource) -> str | None:
        """The droplet's own public IPv4 address; which are reserved is asked only if it has more. Raises ApiError."""
        several = len(public_addresses(droplet)) > 1
        reserved = self.get_all("reserved_ips", "reserved_ips") if several else []
        return public_address(droplet, *(each["ip"] for each in reserved))

    def ensure_tag(self, name: str) -> str:
        """Create the tag unless it exists; its name as it was first written, by which alone it is found in a path.

        Raises ApiError.
        """
        return str(self.create("tags", "tag", {"name": name}, lambda: self.get(f"tags/{name}", "tag"))["name"])

    def tag_droplet(self, number: int, tag: str) -> None:
        """Put a tag, which is made if need be, on a droplet, in the spelling that the account has. Raises ApiError."""
        name = self.ensure_tag(tag)
        self.call("POST", f"tags/{name}/resources", _tagged(number), repeatable=True)

    def untag_droplet(self, number: int, tag: str) -> None:
        """Take a tag off a droplet, if it has it. Raises ApiError."""

        def gone() -> bool:
            droplet = self.get(f"droplets/{number}", "droplet")
            return droplet is None or tag not in droplet["tags"]

        self.delete(f"tags/{tag}/resources", _tagged(number), gone)

    def destroy_droplet(self, droplet: Resource, timeout: float) -> None:
        """Destroy a droplet and wait until it is gone, and with it the tag that tells its user_data.

        Raises ApiError, and ValueError if it takes longer than timeout seconds.
        """
        path = f"droplets/{droplet['id']}"
        self.delete(path)
        for _ in patiently(timeout, f"droplet {droplet['id']} is still there"):
            if self.get(path, "droplet") is None:
                break
        for name in droplet["tags"]:
            if name.startswith(USER_DATA_PREFIX):
                tag = self.get(f"tags/{name}", "tag")
                # Another droplet may have been made with the same.
                if tag and not tag["resources"]["count"]:
                    self.delete(f"tags/{name}")


class Unseen(Exception):
    """The survey does not tell this."""


class Survey(Client):
    """What the API's lists said of one customer's things: answers as a client does, and asks nobody.

    `seen` has lists by their path, each with all that concerns the customer. Raises Unseen for everything else, above
    all for what would change something.
    """

    def __init__(self, seen: Mapping[str, Any]) -> None:
        super().__init__("")
        self._seen = seen

    def _exchange(self, *_arguments: Any, **_more: Any) -> requests.Response:
        raise Unseen

    def get_all(self, path: str, key: str, **filters: str) -> list[Resource]:
        if self._seen.get(path) is None or filters.keys() - {"tag_name", "name"}:
            raise Unseen
        found: list[Resource] = self._seen[path]
        if tag := filters.get("tag_name"):
            found = [each for each in found if spelt([tag], each["tags"]) & set(each["tags"])]
        if name := filters.get("name"):
            domain = path.split("/")[1]
            found = [each for each in found if record_name(each, domain) == name]
        return found

    def get(self, path: str, key: str) -> Resource | None:
        """Only what never changes: whoever asks for one droplet waits for something to happen to it."""
        collection, _, identifier = path.rpartition("/")
        keys = self.get_all(collection, key) if collection == "account/keys" else []
        for each in keys:
            if each["fingerprint"] == identifier:
                return each
        raise Unseen

    def backup_policy(self, number: int) -> Resource:
        policy: Resource | None = self._seen.get(BACKUP_POLICIES, {}).get(str(number))
        if policy is None:
            raise Unseen
        return policy


def record_name(record: Resource, domain: str) -> str:
    """The full name of a domain's record, without a final dot."""
    return domain if record["name"] == "@" else f"{record['name']}.{domain}"


def _tagged(number: int) -> Resource:
    return {"resources": [{"resource_id": str(number), "resource_type": "droplet"}]}


def patiently(timeout: float, complaint: str) -> Iterator[None]:
    """One turn now, and more at growing intervals. Raises ValueError with the complaint after timeout seconds."""
    deadline, pause = time.monotonic() + timeout, 0.2
    while True:
        yield
        if time.monotonic() + pause > deadline:
            raise ValueError(f"{complaint} after {timeout} s")
        time.sleep(pause)
        pause = min(3.0, pause * 1.5)


def _rate_limit_pause(headers: Mapping[str, str], backoff: float) -> float:
    """Seconds to wait after a 429: retry-after comes with the burst limit only, the hourly one says when it resets."""
    if (after := headers.get("retry-after", "")).isdigit():
        return float(after) + random.uniform(0, 0.5)
    if reset := _end_of_hour(headers):
        return max(backoff, reset - time.time())
    return backoff


def _end_of_hour(headers: Mapping[str, str]) -> int | None:
    """When (Unix seconds) there are requests again, if it is those of the hour that are used up."""
    used_up = headers.get("ratelimit-remaining") == "0" and "retry-after" not in headers
    reset = headers.get("ratelimit-reset", "")
    return int(reset) if used_up and reset.isdigit() else None


def shared(argument_spec: Resource) -> Resource:
    """These arguments and those that all modules share."""
    state = {"choices": ["present", "absent"], "default": "present"}
    return {"token": TOKEN, "state": state, **argument_spec}


def make_module(argument_spec: Resource, **keywords: Any) -> AnsibleModule:
    """An AnsibleModule with the arguments that all modules share; supports check mode."""
    return AnsibleModule(argument_spec=shared(argument_spec), supports_check_mode=True, **keywords)


def make_info_module(argument_spec: Resource, **keywords: Any) -> AnsibleModule:
    """An AnsibleModule that only looks, and so has no state."""
    return AnsibleModule(argument_spec={"token": TOKEN, **argument_spec}, supports_check_mode=True, **keywords)


TOKEN: Resource = {
    "type": "str",
    "required": True,
    "no_log": True,
    "fallback": (env_fallback, ["DIGITALOCEAN_ACCESS_TOKEN"]),
}
# The argument of the modules that believe a survey.
SEEN: Resource = {"seen": {"type": "dict"}}


def in_order(module: AnsibleModule, work: Callable[[AnsibleModule, Client], Resource]) -> Resource | None:
    """What work returns where a survey shows that all is as it should be already; else None.

    Raises ValueError with the reason why there could be no survey.
    """
    seen = module.params.get("seen") or {}
    if error := seen.get("error"):
        raise ValueError(error)
    if seen and module.params["state"] == "present":
        # What it says may be outdated: a reason to fail is one only if the API itself gives it.
        with contextlib.suppress(Unseen, ValueError):
            result = work(module, Survey(seen))
            if not result["changed"]:
                return result
    return None


def run(module: AnsibleModule, work: Callable[[AnsibleModule, Client], Resource]) -> None:
    """Leave the module with what work returns, or with the one reason why it failed.

    Where a survey already shows that everything is as it should be, the API is not asked.
    """
    if LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("python-digitalocean"), exception=LIBRARY_ERROR)
    try:
        result = in_order(module, work) or work(module, Client(module.params["token"]))
    except ApiError as error:
        module.fail_json(msg=str(error), error=asdict(error))
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)
