"""A replacement that does not go through at once: the verdict fails after the move, or the run is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e import world
from tests.e2e.replacing import addresses, droplets, leads_to, note, replace, replace_until

pytestmark = pytest.mark.full


def test_a_move_without_a_proof_is_undone_and_given_up(proven: None) -> None:
    """The proxies answer the new droplet, and send nothing of their own."""
    [old] = droplets()
    before = leads_to()
    for proxy in world.PROXIES:
        world.fault(proxy, "mute")
    control("DELETE", "requests")
    failed = replace("-e", "replacement_patience=30")
    for proxy in world.PROXIES:
        world.fault(proxy, "none")
    said = " ".join(failed.text.split())
    assert failed.code != 0
    assert "theirs_missing" in said
    done = [each for each in control("GET", "requests")["requests"] if each["status"] == 200]
    written = [each for each in done if each["method"] == "PUT" and "/records/" in each["path"]]
    assert len(written) == 3, "lowered, moved, and moved back"
    assert leads_to() == before
    assert sorted(droplets().values()) == ["droplet", "successor"]

    given_up = replace("-e", "replacement_abandon=true")
    assert given_up.code == 0, given_up.text
    assert (droplets(), leads_to(), note().exists()) == ({old: "droplet"}, before, False)


# In the order of a run; a run that goes on comes to all that the one before it has not done.
BEFORE_THE_MOVE = (
    "They ask again after a short time",
    "A droplet beside the old one",
    "It can be reached",
    "kamailio : Kamailio's configuration, judged by the probe",
    "Every proxy answers it",
)
AFTER_IT = (
    "Microsoft talks to it",
    "Resolvers may remember it as long as usual",
    "replacement : The successor is the customer's droplet, and the old one goes",
    "replacement : Nothing is left to go on with",
)


def test_it_is_killed_again_and_again_and_ends_as_if_nothing_had_happened(proven: None, tmp_path: Path) -> None:
    [old] = droplets()
    address, ttl = leads_to()
    orders = control("GET", "acme/orders")
    successors: set[int] = set()
    for task in BEFORE_THE_MOVE:
        replace_until(task, tmp_path)
        assert droplets()[old] == "droplet", task
        assert leads_to()[0] == address, task
        assert world.options(world.FQDN)["code"] == 200, task
        successors |= droplets().keys() - {old}
    for task in AFTER_IT:
        replace_until(task, tmp_path)
        successors |= droplets().keys() - {old}
        assert leads_to()[0] != address, task
        assert world.options(world.FQDN)["code"] == 200, task
    [new] = successors
    assert droplets() == {new: "droplet"}
    assert note().exists()

    done = replace()
    assert done.code == 0, done.text
    assert (droplets(), leads_to(), note().exists()) == ({new: "droplet"}, (addresses()[new], ttl), False)
    assert control("GET", "acme/orders") == orders
    again = world.playbook("site.yml")
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0, again.text
