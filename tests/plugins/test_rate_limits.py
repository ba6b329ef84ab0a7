"""A whole fleet against the limits of requests: it slows down and ends, or stops and says until when."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest
from ansible.module_utils.digitalocean import ApiError

from tests.plugins.support import TOKEN, Api, Client

FORKS = 20


def ask(api: Api) -> int | None:
    """One customer's look at its droplet, by a client of its own as each module has; the status of what goes wrong."""
    try:
        Client(TOKEN, api.endpoint).get_all("droplets", "droplets", tag_name="sbc")
    except ApiError as error:
        status: int = error.status
        return status
    return None


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
