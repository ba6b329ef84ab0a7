"""A golden image is built, tried and used; what a killed run or a bad image leaves behind does no harm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import settings
from lab.__main__ import control
from tests.e2e import world

pytestmark = pytest.mark.full

BUILDER = "sbc-builder"
CUSTOMERS = {name: {"sbc_fqdn": f"{name}.voip.test"} for name in ("fabrikam", "woodgrove")}


def images() -> list[dict[str, Any]]:
    """The account's own images, the newest last."""
    found: list[dict[str, Any]] = world.api("GET", "images?private=true")["images"]
    return found


def tag_of(image: dict[str, Any]) -> str:
    """The tag that says that a golden image was tried."""
    return next(str(tag) for tag in image["tags"] if tag.startswith("sbc:golden:"))


def droplets(tag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.api("GET", f"droplets?tag_name={tag}")["droplets"]
    return found


def untried(image: dict[str, Any]) -> None:
    """Take the tag off a golden image, as if the run that made it had been killed right after."""
    resource = {"resource_id": str(image["id"]), "resource_type": "image"}
    world.api("DELETE", f"tags/{tag_of(image)}/resources", {"resources": [resource]})


def assert_nothing_of_the_builder_is_left(inventory: Path) -> None:
    assert droplets("sbc:builder") == []
    assert [each["name"] for each in world.api("GET", "firewalls")["firewalls"] if BUILDER in each["name"]] == []
    assert [each["name"] for each in world.api("GET", "tags")["tags"] if "builder" in each["name"]] == []
    assert [path for path in (inventory / "state").rglob("*") if path.is_file() and BUILDER in str(path)] == []
    assert BUILDER not in (inventory / "state/known_hosts").read_text()


@pytest.fixture(scope="module")
def inventory(empty_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two customers of this test's own; they and all images are gone afterwards, so that no other test uses one."""
    yield world.inventory(tmp_path_factory.mktemp("golden") / "inventory", CUSTOMERS)
    for customer in (*CUSTOMERS, BUILDER):
        world.destroy(customer)
    for image in images():
        world.api("DELETE", f"images/{image['id']}")


@pytest.fixture(scope="module")
def build(inventory: Path) -> Callable[..., world.Run]:
    """Run the playbook."""
    return lambda *arguments: world.playbook("playbooks/snapshot.yml", "-i", str(inventory), *arguments)


@pytest.fixture(scope="module")
def golden(build: Callable[..., world.Run]) -> dict[str, Any]:
    """The golden image, as the first run made it."""
    done = build()
    assert done.code == 0, done.text
    (image,) = images()
    return image


@pytest.fixture(scope="module")
def rolled_out(golden: dict[str, Any], inventory: Path) -> None:
    """Both customers, rolled out while there is the golden image."""
    for customer in CUSTOMERS.values():
        control("PUT", f"microsoft/trunks/{customer['sbc_fqdn']}", {"enabled": True})
    done = world.playbook("site.yml", "-i", str(inventory))
    assert done.code == 0, done.text


def killed(inventory: Path, when: Callable[[], bool], what: str) -> None:
    """Start the playbook, and kill it and all that it has started as soon as something is the case."""
    with subprocess.Popen(
        ["ansible-playbook", "-i", str(inventory), "playbooks/snapshot.yml"],
        cwd=world.ROOT,
        env=world.environment(),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            world.until(when, what)
            assert process.poll() is None, "it has ended before"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_it_is_tried_and_nothing_is_left_of_the_builder(golden: dict[str, Any], inventory: Path) -> None:
    assert golden["name"].startswith("sbc-golden-debian-13-x64-")
    assert golden["name"].split("-")[-2] == tag_of(golden).removeprefix("sbc:golden:")
    assert_nothing_of_the_builder_is_left(inventory)


def test_nothing_secret_and_nothing_of_the_builder_is_on_its_disk(golden: dict[str, Any]) -> None:
    layer = settings.SNAPSHOTS / str(golden["id"])
    assert (layer / "usr/sbin/kamailio").exists()
    operator = (world.ROOT / "inventory/lab/state/id_ed25519.pub").read_text().split()[1]
    for text in ("PRIVATE KEY", operator, BUILDER, "packages.lab.test"):
        places = [str(layer / place) for place in ("etc", "root", "home", "var", "opt", "srv", "usr/local", "tmp")]
        found = world.run("grep", "-rlsF", "--devices=skip", "-e", text, *places)
        assert found.text == "", text
    assert [str(path) for path in (layer / "var/log").rglob("*") if path.is_file()] == []
    assert (layer / "etc/machine-id").read_text() == ""


def test_rollouts_start_from_it_and_have_nothing_in_common(
    golden: dict[str, Any], rolled_out: None, inventory: Path
) -> None:
    assert [each["image"]["id"] for name in CUSTOMERS for each in droplets(f"sbc:customer:{name}")] == [
        golden["id"]
    ] * 2
    looked = "cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key; hostname; ls /etc/ssh/ssh_host_*_key"
    shown = world.run("ansible", "sbc", "-i", str(inventory), "-m", "shell", "-a", looked)
    lines = [line for line in shown.text.splitlines() if "CHANGED" not in line]
    assert shown.code == 0, shown.text
    shared = {line for line in lines if lines.count(line) > 1}
    assert shared == {"/etc/ssh/ssh_host_ed25519_key"}, shown.text
    again = world.playbook("site.yml", "-i", str(inventory))
    assert again.code == 0, again.text
    assert set(re.findall(r"changed=(\d+)", again.text)) == {"0"}, again.text


def test_a_snapshot_that_is_not_right_is_deleted_and_the_one_before_stays(
    golden: dict[str, Any], build: Callable[..., world.Run], inventory: Path
) -> None:
    """One of a droplet with the plain image and somebody's key, under the name of a golden image that was not tried."""
    key = world.api("GET", "account/keys")["ssh_keys"][0]["id"]
    body = {"name": "dirty", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "ssh_keys": [key]}
    dirty = world.api("POST", "droplets", body)["droplet"]["id"]
    world.until(lambda: world.api("GET", f"droplets/{dirty}")["droplet"]["status"] == "active", "it is active")
    name = golden["name"].rpartition("-")[0] + "-20261123T000000Z"
    world.api("POST", f"droplets/{dirty}/actions", {"type": "snapshot", "name": name})
    world.until(lambda: images()[-1]["name"] == name and images()[-1]["status"] == "available", "there is a snapshot")
    world.api("DELETE", f"droplets/{dirty}")

    done = build()
    assert done.code == 2, done.text
    assert f"The golden image {name} was made, but a droplet that was started from it is not as it should" in done.text
    assert "kamailio is not installed" in done.text
    assert [each["id"] for each in images()] == [golden["id"]]
    assert_nothing_of_the_builder_is_left(inventory)


def test_a_killed_run_is_gone_on_with(golden: dict[str, Any], build: Callable[..., world.Run], inventory: Path) -> None:
    killed(inventory, lambda: bool(droplets("sbc:builder")), "there is a droplet to build on")
    assert len(droplets("sbc:builder")) == 1
    untried(golden)
    killed(
        inventory,
        lambda: [each["image"]["id"] for each in droplets("sbc:builder")] == [golden["id"]],
        "the droplet to build on was removed, and one to try the image with is there",
    )
    again = build()
    assert again.code == 0, again.text
    (image,) = images()
    assert tag_of(image) == tag_of(golden)
    assert_nothing_of_the_builder_is_left(inventory)


def test_older_ones_go_when_that_is_asked_for(
    golden: dict[str, Any], rolled_out: None, build: Callable[..., world.Run], inventory: Path
) -> None:
    foretold = build("--check")
    assert foretold.code == 0, foretold.text
    said = " ".join(foretold.text.split())
    assert "Would build a golden image on debian-13-x64 (s-1vcpu-1gb, fra1) and try it." in said
    assert f"New droplets start from {golden['name']} now." in said
    done = build("-e", "image_keep=1")
    assert done.code == 0, done.text
    (newest,) = images()
    assert newest["id"] != golden["id"]
    assert tag_of(newest) == tag_of(golden)
    # Those that were started from the older one do not miss it.
    assert world.run("ansible", "sbc", "-i", str(inventory), "-m", "ping").code == 0
