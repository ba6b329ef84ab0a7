"""The role droplet in its playbook, with droplets on paper, which nobody can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.fleet import inventory, provision
from tests.plugins.support import Api

FQDN, HOST = "sbc1.example.com", "contoso"


@pytest.fixture
def directory(api: Api, tmp_path: Path) -> Path:
    return inventory(tmp_path / "inventory", api, {HOST: {"sbc_fqdn": FQDN}})


def said(directory: Path, *arguments: str) -> str:
    done = provision(directory, *arguments)
    return " ".join((done.stdout + done.stderr).replace("\\n", " ").split())


def test_an_inventory_that_did_not_find_the_droplet_loses_no_host_key(api: Api, directory: Path) -> None:
    """The private half is with the colleague who made the droplet."""
    api.droplet("sbc", f"sbc:customer:{HOST}", name=FQDN)
    known = f"{HOST} ssh-ed25519 BBBB\n"
    (directory / "state").mkdir()
    (directory / "state" / "known_hosts").write_text(known)
    # As often as the inventory plugin asks.
    api.fault("500", "GET", "droplets", count=2)
    text = said(directory)
    assert "the droplets' addresses are unknown" in text
    assert (directory / "state" / "known_hosts").read_text() == known
    assert not (directory / "state" / HOST / "ssh_host_ed25519_key").exists()


def test_a_droplet_that_lost_the_common_tag_loses_no_host_key(api: Api, directory: Path) -> None:
    """The private half is with the colleague who made the droplet."""
    droplet = api.droplet(f"sbc:customer:{HOST}", name=FQDN)
    known = f"{HOST} ssh-ed25519 BBBB\n"
    (directory / "state").mkdir()
    (directory / "state" / "known_hosts").write_text(known)
    said(directory)
    assert (directory / "state" / "known_hosts").read_text() == known
    (there,) = api.control("GET", "state")["droplets"]
    assert (there["id"], "sbc" in there["tags"]) == (droplet["id"], True)


def test_what_takes_a_new_droplet_stops_the_customer(api: Api, directory: Path) -> None:
    api.droplet("sbc", f"sbc:customer:{HOST}", name=FQDN, image="debian-12-x64")
    api.requests()
    text = said(directory)
    assert "image is debian-12-x64, debian-13-x64 is wanted" in text, text
    assert f"run `ansible-playbook playbooks/replace.yml --limit {HOST}`" in text
    assert not [line for line in api.requests() if "droplets" in line and not line.startswith("GET")]
    assert "WARNING" not in text.partition("PLAY [Provision]")[2]


def test_an_unfinished_replacement_stops_the_customer(api: Api, directory: Path) -> None:
    for tags in ((), ("sbc:successor",)):
        api.droplet("sbc", f"sbc:customer:{HOST}", *tags, name=FQDN)
    text = said(directory)
    assert f"a replacement of {HOST} was not finished" in text, text
    assert len(api.control("GET", "state")["droplets"]) == 2
