"""One lab for all end-to-end tests, and one rollout in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.__main__ import control
from tests.e2e import world


@pytest.fixture(autouse=True)
def judged() -> Iterator[None]:
    """What each test asked of the lab's API is judged when it ends."""
    yield
    world.judge()


@pytest.fixture(scope="session")
def network_before() -> str:
    """The host's network without a lab, whatever was there before."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs root: run the tests with sudo")
    world.lab("down")
    return world.host_network()


@pytest.fixture(scope="session")
def empty_lab(network_before: str) -> Iterator[None]:
    """A lab with nobody in it."""
    world.lab("up")
    yield
    world.lab("down")


@pytest.fixture(scope="session")
def rehearsal(empty_lab: None) -> tuple[world.Run, set[str]]:
    """A rollout in check mode where nothing exists yet, and the methods of the API calls that it made."""
    control("DELETE", "requests")
    done = world.playbook("site.yml", "--check", "--diff")
    return done, {entry["method"] for entry in control("GET", "requests")["requests"]}


@pytest.fixture(scope="session")
def before_the_trunk(rehearsal: tuple[world.Run, set[str]]) -> tuple[world.Run, world.Run]:
    """The first rollout, before there is a trunk at Microsoft, and a verify that accepts this."""
    first = world.playbook("site.yml", "-vvv", "--diff")
    return first, world.playbook("playbooks/verify.yml", "-e", "verify_accept_waiting=true")


@pytest.fixture(scope="session")
def trunk(before_the_trunk: tuple[world.Run, world.Run]) -> None:
    """From here on Microsoft knows the customer."""
    world.trunk(True)


@pytest.fixture
def proven(trunk: None) -> Iterator[None]:
    """The customer is proven AP before the test, and again after what the test undid."""
    world.proven()
    yield
    world.proven()
    after = world.verify()
    assert after.code == 0, after.text
