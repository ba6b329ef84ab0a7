"""A whole fleet against the limits of requests: it slows down and ends, or stops and says until when."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.digitalocean import ApiError

from tests.plugins.fleet import KEY
from tests.plugins.support import PLUGINS, TOKEN, Api, Client

FORKS = 20


def ask(api: Api) -> int | None:
    """One customer's look at its droplet, by a client of its own as each module has; the status of what goes wrong."""
    try:
        Client(TOKEN, api.endpoint).get_all("droplets", "droplets", tag_name="sbc")
    except ApiError as error:
        status: int = error.status
        return status
    return None


def test_a_new_fleets_key_is_put_there_once(api: Api) -> None:
    """All customers ask for the same key at the same moment; the limit of lists of keys is not theirs."""
    api.control("POST", "account", {"key_reads_per_minute": 1})
    spec = importlib.util.spec_from_file_location("digitalocean_key", PLUGINS / "modules/digitalocean_key.py")
    assert spec
    assert spec.loader
    key = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(key)
    together = Barrier(FORKS)

    def put(number: int) -> str:
        params = {"name": f"sbc-customer-{number}", "public_key": KEY, "state": "present"}
        client = Client(TOKEN, api.endpoint)
        call = client.call

        def late(method: str, *rest: Any, **more: Any) -> Any:
            if method == "POST":
                together.wait(60)
            return call(method, *rest, **more)

        client.call = late
        return str(key.work(SimpleNamespace(params=params, check_mode=False), client)["key"]["fingerprint"])

    with ThreadPoolExecutor(FORKS) as pool:
        assert len(set(pool.map(put, range(FORKS)))) == 1
    asked = Counter(line.partition(" ")[0] + line[-4:] for line in api.requests())
    assert asked == {"GET 404": FORKS, "POST 201": 1, "POST 422": FORKS - 1, "GET 200": FORKS - 1}


@pytest.mark.full
def test_the_minutes_limit_slows_a_fleet_down(api: Api) -> None:
    api.control("POST", "account", {"requests_per_minute": 100})
    began = time.monotonic()
    with ThreadPoolExecutor(FORKS) as pool:
        problems = list(pool.map(lambda _: ask(api), range(150)))
    assert problems == [None] * 150
    assert time.monotonic() - began > 50
    answers = [line.rpartition(" ")[2] for line in api.requests()]
    assert answers.count("200") == 150
    # Those that were refused came back when they had been told to, not at once.
    assert answers.count("429") < 150


def test_the_hours_limit_stops_a_fleet_at_once(api: Api) -> None:
    api.control("POST", "account", {"requests_per_hour": 30})
    with ThreadPoolExecutor(FORKS) as pool:
        problems = list(pool.map(lambda _: ask(api), range(100)))
    assert problems.count(None) == 30
    assert problems.count(HTTPStatus.TOO_MANY_REQUESTS) == 70
    assert len(api.requests()) == 100
