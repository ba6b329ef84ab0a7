"""Snapshots, and which of them a new droplet starts from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.fleet import inventory
from tests.plugins.support import ROOT, TOKEN, Api, Failed, run_module

# Needs what `support` does to the path.
from ansible.module_utils.digitalocean import fingerprint  # isort: skip
from ansible.module_utils.golden_images import GoldenImage, mark  # isort: skip

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM operator"
BASE, REGION, PACKAGES = "debian-13-x64", "fra1", ["kamailio", "certbot"]
MARK = mark(BASE, PACKAGES)
NAME = f"sbc-golden-{BASE}-{MARK}-20261120T100000Z"
INFO: dict[str, Any] = {"image": BASE, "packages": PACKAGES, "region": REGION}
DROPLET: dict[str, Any] = {
    "customer": "contoso",
    "name": "sbc1.example.com",
    "region": REGION,
    "size": "s-1vcpu-1gb",
    "image": BASE,
    "packages": PACKAGES,
}


def failure(name: str, /, **arguments: Any) -> str:
    with pytest.raises(Failed) as caught:
        run_module(name, **arguments)
    return str(caught.value.args[0]["msg"])


def snapshot(api: Api, name: str = NAME, *tags: str, droplet: dict[str, Any] | None = None, **made: Any) -> int:
    """A snapshot that the module has made of a droplet that is gone afterwards; its number."""
    machine = droplet or api.droplet("sbc:builder", **made)
    done = run_module("digitalocean_snapshot", name=name, droplet_id=machine["id"], tags=list(tags))
    api.client.call("DELETE", f"droplets/{machine['id']}")
    number: int = done["snapshot"]["id"]
    return number


def golden(
    api: Api, built: str = "20261120T100000Z", base: str = BASE, packages: list[str] = PACKAGES, **made: Any
) -> int:
    """A golden image as a whole run of playbooks/snapshot.yml leaves it; its number."""
    content = mark(base, packages)
    return snapshot(api, f"sbc-golden-{base}-{content}-{built}", "sbc", f"sbc:golden:{content}", image=base, **made)


class TestSnapshot:
    def test_it_is_made_of_a_droplet_that_is_off(self, api: Api) -> None:
        droplet = api.droplet("sbc:builder")
        done = run_module("digitalocean_snapshot", name=NAME, droplet_id=droplet["id"], tags=["sbc"])
        assert done["changed"]
        assert done["snapshot"]["name"] == NAME
        assert done["snapshot"]["regions"] == [REGION]
        assert done["snapshot"]["tags"] == ["sbc"]
        actions = api.client.get_all(f"droplets/{droplet['id']}/actions", "actions")
        assert [each["type"] for each in actions] == ["snapshot", "shutdown", "create"]
        assert api.client.call("GET", f"droplets/{droplet['id']}")["droplet"]["status"] == "off"

    def test_check_mode_foretells_and_changes_nothing(self, api: Api) -> None:
        droplet = api.droplet()
        api.requests()
        arguments: dict[str, Any] = {"name": NAME, "droplet_id": droplet["id"], "tags": ["sbc"]}
        foretold = run_module("digitalocean_snapshot", check=True, **arguments)
        assert {line.split()[0] for line in api.requests()} == {"GET"}
        done = run_module("digitalocean_snapshot", **arguments)
        assert foretold["changed"]
        assert foretold["snapshot"]["id"] is None
        assert foretold["diff"] == done["diff"]

    def test_again_changes_nothing(self, api: Api) -> None:
        droplet = api.droplet()
        arguments: dict[str, Any] = {"name": NAME, "droplet_id": droplet["id"], "tags": ["sbc"]}
        run_module("digitalocean_snapshot", **arguments)
        api.requests()
        again = run_module("digitalocean_snapshot", **arguments)
        assert not again["changed"]
        assert api.requests() == ["GET images 200"]

    @pytest.mark.parametrize("kind", ["lost", "dropped", "500", "502html", "429", "422pending"])
    def test_whatever_the_api_answers_there_is_one(self, api: Api, kind: str) -> None:
        droplet = api.droplet()
        for path in ("droplets/*/actions", "tags", "tags/*/resources"):
            api.fault(kind, "POST", path)
        run_module("digitalocean_snapshot", name=NAME, droplet_id=droplet["id"], tags=["sbc"])
        (image,) = api.client.get_all("images", "images", private="true")
        assert (image["name"], image["tags"]) == (NAME, ["sbc"])

    def test_a_lost_answer_makes_no_second_one(self, api: Api) -> None:
        droplet = api.droplet()
        api.client.call("POST", f"droplets/{droplet['id']}/actions", {"type": "power_off"})
        api.fault("lost", "POST", "droplets/*/actions")
        run_module("digitalocean_snapshot", name=NAME, droplet_id=droplet["id"])
        assert len(api.client.get_all("images", "images", private="true")) == 1

    def test_other_tags_stay(self, api: Api) -> None:
        number = snapshot(api, NAME, "mine")
        done = run_module("digitalocean_snapshot", name=NAME, snapshot_id=number, tags=["sbc"])
        assert done["diff"] == {
            "before": {"name": NAME, "tags": ["mine"]},
            "after": {"name": NAME, "tags": ["mine", "sbc"]},
        }
        assert sorted(api.client.call("GET", f"images/{number}")["image"]["tags"]) == ["mine", "sbc"]

    def test_nothing_to_make_one_of(self, api: Api) -> None:
        assert "droplet 1 does not exist" in failure("digitalocean_snapshot", name=NAME, droplet_id=1)
        assert "without a droplet_id" in failure("digitalocean_snapshot", name=NAME)
        assert "without a droplet_id" in failure("digitalocean_snapshot", name=NAME, snapshot_id=1, droplet_id=1)

    def test_two_of_one_name(self, api: Api) -> None:
        numbers = [snapshot(api), snapshot(api, "another")]
        api.client.call("PUT", f"images/{numbers[1]}", {"name": NAME})
        said = failure("digitalocean_snapshot", name=NAME)
        assert f"2 snapshots are called {NAME}: {numbers[0]}, {numbers[1]}" in said

    def test_absent(self, api: Api) -> None:
        number = snapshot(api)
        arguments: dict[str, Any] = {"name": NAME, "snapshot_id": number, "state": "absent"}
        assert run_module("digitalocean_snapshot", check=True, **arguments)["changed"]
        assert run_module("digitalocean_snapshot", **arguments)["changed"]
        assert not run_module("digitalocean_snapshot", **arguments)["changed"]
        assert api.client.get_all("images", "images", private="true") == []

    def test_number_and_name_must_agree(self, api: Api) -> None:
        number = snapshot(api)
        said = failure("digitalocean_snapshot", name="another", snapshot_id=number, state="absent")
        assert f"image {number} is {NAME} (snapshot), not the snapshot another" in said
        image = api.client.call("GET", f"images/{BASE}")["image"]
        said = failure("digitalocean_snapshot", name=image["name"], snapshot_id=image["id"], state="absent")
        assert "(base), not the snapshot" in said
        assert len(api.client.get_all("images", "images", private="true")) == 1

    def test_a_token_that_is_refused(self, api: Api) -> None:
        api.control("POST", "tokens/refuse", {"token": TOKEN})
        for name, arguments in (("digitalocean_snapshot", {"name": NAME}), ("digitalocean_snapshot_info", INFO)):
            assert "401 Unauthorized" in failure(name, **arguments)


def scopes(page: str, *, after: str) -> list[str]:
    """The scopes that a page names in the paragraph after these words."""
    paragraph = (ROOT / page).read_text().partition(after)[2].partition("\n\n")[0]
    found = re.findall(r"`(\w+):([a-z_,]+)`", paragraph)
    return [f"{noun}:{verb}" for noun, verbs in found for verb in verbs.split(",")]


def test_the_documented_scopes_suffice(api: Api) -> None:
    api.client.call("POST", "account/keys", {"name": "operator", "public_key": KEY})
    needed = [*scopes("README.md", after="With custom scopes"), *scopes("docs/images.md", after="custom scopes needs")]
    api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": needed})
    builder = DROPLET | {"ssh_keys": [fingerprint(KEY)], "tags": ["sbc:builder"]}
    number = run_module("digitalocean_droplet", **builder)["droplet"]["id"]
    image = run_module("digitalocean_snapshot", name=NAME, droplet_id=number)["snapshot"]["id"]
    run_module("digitalocean_snapshot", name=NAME, snapshot_id=image, tags=["sbc", f"sbc:golden:{MARK}"])
    run_module("digitalocean_droplet", customer="contoso", droplet_id=number, state="absent")
    assert run_module("digitalocean_droplet", **builder)["golden"] == NAME
    run_module("digitalocean_firewall", name="sbc-contoso", inbound=[], tags=["sbc:customer:contoso"])
    run_module("digitalocean_firewall", name="sbc-contoso", state="absent")
    run_module("digitalocean_tags", names=["sbc:builder"], state="absent")
    run_module("digitalocean_snapshot", name=NAME, snapshot_id=image, state="absent")


class TestInfo:
    def test_without_any(self, api: Api) -> None:
        snapshot(api, "somebody's own")
        found = run_module("digitalocean_snapshot_info", **INFO)
        assert found["images"] == []
        assert "newest" not in found
        assert (found["mark"], found["tag"]) == (MARK, f"sbc:golden:{MARK}")

    def test_what_is_said_of_them(self, api: Api) -> None:
        old = golden(api, "20261101T100000Z")
        elsewhere = golden(api, "20261102T100000Z", region="nyc3")
        other = golden(api, "20261103T100000Z", packages=["kamailio"])
        untried = snapshot(api, f"sbc-golden-{BASE}-{MARK}-20261104T100000Z")
        api.requests()
        found = run_module("digitalocean_snapshot_info", check=True, **INFO)
        assert api.requests() == ["GET images 200"]
        assert not found["changed"]
        assert {each["id"]: (each["fits"], each["proven"]) for each in found["images"]} == {
            old: (True, True),
            elsewhere: (False, True),
            other: (False, True),
            untried: (True, False),
        }
        assert found["newest"]["id"] == old
        assert {each["base"] for each in found["images"]} == {BASE}

    def test_the_order_of_packages_does_not_count(self, api: Api) -> None:
        assert run_module("digitalocean_snapshot_info", **INFO | {"packages": PACKAGES[::-1]})["mark"] == MARK


class TestDroplet:
    def image(self, api: Api) -> int:
        (droplet,) = api.client.get_all("droplets", "droplets")
        number: int = droplet["image"]["id"]
        return number

    def test_it_starts_from_the_newest(self, api: Api) -> None:
        golden(api, "20261101T100000Z")
        newest = golden(api, "20261102T100000Z")
        foretold = run_module("digitalocean_droplet", check=True, **DROPLET)
        done = run_module("digitalocean_droplet", **DROPLET)
        assert foretold["golden"] == done["golden"] == f"sbc-golden-{BASE}-{MARK}-20261102T100000Z"
        assert foretold["diff"] == done["diff"]
        assert self.image(api) == newest

    @pytest.mark.parametrize(
        "unfit",
        [
            {"region": "nyc3"},
            {"packages": ["kamailio"]},
            {"packages": [*PACKAGES, "sngrep"]},
            {"base": "debian-12-x64"},
            {"size": "s-1vcpu-2gb"},
        ],
        ids=str,
    )
    def test_one_that_does_not_fit_is_not_taken(self, api: Api, unfit: dict[str, Any]) -> None:
        fitting = golden(api, "20261101T100000Z")
        golden(api, "20261102T100000Z", **unfit)
        run_module("digitalocean_droplet", **DROPLET)
        assert self.image(api) == fitting

    def test_without_one_that_fits_it_is_the_plain_image(self, api: Api) -> None:
        snapshot(api)
        golden(api, "20261119T100000Z", size="s-1vcpu-2gb")
        assert "golden" not in run_module("digitalocean_droplet", **DROPLET)
        assert self.image(api) == api.client.call("GET", f"images/{BASE}")["image"]["id"]

    def test_without_packages_nobody_looks(self, api: Api) -> None:
        golden(api)
        api.requests()
        assert "golden" not in run_module("digitalocean_droplet", **DROPLET | {"packages": []})
        assert not [line for line in api.requests() if "images" in line]

    def test_it_is_no_difference_and_costs_no_request(self, api: Api) -> None:
        first = golden(api, "20261101T100000Z")
        run_module("digitalocean_droplet", **DROPLET)
        golden(api, "20261102T100000Z")
        api.requests()
        again = run_module("digitalocean_droplet", **DROPLET)
        assert (again["changed"], again["drift"]) == (False, [])
        assert api.requests() == ["GET droplets 200"]
        api.client.delete(f"images/{first}")
        assert run_module("digitalocean_droplet", **DROPLET)["drift"] == []

    def test_the_plain_image_is_no_difference_either(self, api: Api) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        golden(api)
        assert run_module("digitalocean_droplet", **DROPLET)["drift"] == []

    def test_an_old_one_is_taken_and_named(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        taken = golden(api)
        monkeypatch.setattr(GoldenImage, "days", lambda *_: 31)
        warnings = run_module("digitalocean_droplet", **DROPLET)["warnings"]
        assert self.image(api) == taken
        assert "is 31 days old: `ansible-playbook playbooks/snapshot.yml` makes a new one" in str(warnings)


# playbooks/snapshot.yml, as far as nobody has to be there: what looks like ssh gives one and the same answer to
# everything, as often as it is told to, and then none any more. It runs nothing of what it is sent.

SSH = """#!/bin/sh
case "$*" in *python3*) ;; *) exit 0 ;; esac
[ "$(wc -l <"$0.asked")" -lt ANSWERS ] || { echo "Connection timed out" >&2; exit 255; }
echo >>"$0.asked"
cat >/dev/null
echo '{"ping": "pong", "rc": 0, "changed": false}'
"""


def build(api: Api, directory: Path, answers: int, *arguments: str) -> tuple[int, str]:
    """Exit code and words of a run whose machines answer so many times over SSH."""
    ssh = directory / "ssh"
    ssh.write_text(SSH.replace("ANSWERS", str(answers)))
    ssh.chmod(0o755)
    (directory / "ssh.asked").touch()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(inventory(directory / "inventory", api, {"contoso": {"sbc_fqdn": "sbc1.example.com"}}))),
            *("playbooks/snapshot.yml", "-e", f"ansible_ssh_executable={ssh}", "-e", "ansible_ssh_retries=0"),
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def left(api: Api) -> list[str]:
    """Names of all that a builder could leave behind, but for its key."""
    kinds = ("droplets", "firewalls", "tags")
    return [each["name"] for kind in kinds for each in api.client.get_all(kind, kind) if each["name"] != "sbc"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        pytest.param(0, "timed out waiting for ping", marks=pytest.mark.full),
        (2, "could not be reached over SSH any more: "),
    ],
)
def test_a_builder_that_is_lost_leaves_nothing_behind(api: Api, tmp_path: Path, answers: int, reason: str) -> None:
    code, said = build(api, tmp_path, answers)
    assert code == 2, said
    assert reason in said
    assert "POST droplets 202" in api.requests(), "there was one"
    assert left(api) == []
    assert api.client.get_all("images", "images", private="true") == []


@pytest.mark.full
def test_nor_does_one_that_is_lost_when_the_image_is_tried(api: Api, tmp_path: Path) -> None:
    packages = yaml.safe_load((ROOT / "roles/sbc/vars/main/packages.yml").read_text())["sbc_packages"]
    golden_name = f"sbc-golden-{BASE}-{mark(BASE, packages)}-20261120T100000Z"
    number = snapshot(api, golden_name)
    code, said = build(api, tmp_path, 2, "-e", "droplet_image=debian-13-x64")
    assert code == 2, said
    assert f"The golden image {golden_name} was made, but" in said
    assert "could not be reached over SSH any more: " in said
    assert left(api) == []
    assert api.client.get_all("images", "images", private="true") == []
    exchanges = api.control("GET", "exchanges")["exchanges"]
    made = [each for each in exchanges if (each["method"], each["path"]) == ("POST", "/v2/droplets")][-1]
    assert str(json.loads(made["body"])["image"]) == str(number)


@pytest.mark.full
def test_one_that_the_account_has_no_room_to_try_stays_for_the_next_run(api: Api, tmp_path: Path) -> None:
    packages = yaml.safe_load((ROOT / "roles/sbc/vars/main/packages.yml").read_text())["sbc_packages"]
    number = snapshot(api, f"sbc-golden-{BASE}-{mark(BASE, packages)}-20261120T100000Z")
    api.fault("500", "POST", "droplets", after=1, count=100)
    code, said = build(api, tmp_path, 2)
    assert (code, "The customer has one droplet" in said) == (2, True), said
    assert [each["id"] for each in api.client.get_all("images", "images", private="true")] == [number]


def test_one_that_was_never_tried_does_not_take_the_place_of_a_newer_one(api: Api, tmp_path: Path) -> None:
    """It is not in the way of the build, which is rehearsed here."""
    packages = yaml.safe_load((ROOT / "roles/sbc/vars/main/packages.yml").read_text())["sbc_packages"]
    snapshot(api, f"sbc-golden-{BASE}-{mark(BASE, packages)}-20261101T100000Z")
    assert "Would try sbc-golden-" in build(api, tmp_path, 0, "--check")[1]
    golden(api, "20261102T100000Z", packages=packages)
    (tmp_path / "again").mkdir()
    said = build(api, tmp_path / "again", 0, "--check")[1]
    assert f"Would build a golden image on {BASE}" in said
