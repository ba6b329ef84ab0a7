"""The role droplet in its playbook, with droplets on paper, which nobody can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.fleet import inventory, provision
from tests.plugins.support import Api, run_module

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


def test_an_address_is_remembered_where_nothing_else_is(api: Api, directory: Path) -> None:
    """The host key is with the colleague who made the droplet, and so nothing of the customer's is here."""
    droplet = api.droplet("sbc", f"sbc:customer:{HOST}", name=FQDN)
    reserved = api.client.call("POST", "reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"]
    (directory / "state").mkdir()
    (directory / "state" / "known_hosts").write_text(f"{HOST} ssh-ed25519 BBBB\n")
    text = said(directory, "-e", f"droplet_reserved_ip={reserved}")
    assert (directory / "state" / HOST / "reserved_ip").read_text() == f"{reserved}\n", text
    holder = api.client.call("GET", f"reserved_ips/{reserved}")["reserved_ip"]["droplet"]
    assert holder["id"] == droplet["id"]


@pytest.mark.parametrize("by", ["the rollout", "hand"])
def test_who_reserved_an_address_is_remembered(api: Api, directory: Path, by: str) -> None:
    droplet = api.droplet("sbc", f"sbc:customer:{HOST}", name=FQDN)
    if by == "hand":
        run_module("digitalocean_reserved_ip", droplet_id=droplet["id"])
    text = said(directory, "-e", "droplet_reserved_ip=true")
    (reserved,) = api.client.get_all("reserved_ips", "reserved_ips")
    state = directory / "state" / HOST
    assert (state / "reserved_ip").read_text() == f"{reserved['ip']}\n", text
    assert (state / "reserved_here").exists() == (by == "the rollout")
    if by == "the rollout":
        said(directory, "-e", f"droplet_reserved_ip={reserved['ip']}")
        assert (state / "reserved_here").read_text() == (state / "reserved_ip").read_text()


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
