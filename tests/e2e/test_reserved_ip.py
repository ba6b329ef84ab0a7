"""A customer whose names lead to a reserved IP, which a droplet that is lost leaves to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e import world

CUSTOMER, FQDN, TENANT = "fabrikam", "fabrikam.voip.test", "adatum.fabrikam.voip.test"
pytestmark = pytest.mark.full


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    hosts = {CUSTOMER: {"sbc_fqdn": FQDN, "sbc_tenants": [TENANT], "droplet_reserved_ip": True}}
    return world.inventory(tmp_path / "reserved", hosts)


def rollout(inventory: Path, *arguments: str, playbook: str = "site.yml") -> str:
    done = world.playbook(playbook, "-i", str(inventory), *arguments)
    assert done.code == 0, done.text
    return done.text


def addresses() -> set[str]:
    """What the customer's names lead to."""
    records = world.api("GET", "domains/voip.test/records?per_page=200")["domain_records"]
    names = [name.removesuffix(".voip.test") for name in (FQDN, TENANT)]
    found = {each["name"]: each["data"] for each in records if each["type"] == "A" and each["name"] in names}
    assert sorted(found) == sorted(names)
    return set(found.values())


def reserved_ip() -> tuple[str, int]:
    """The account's one reserved IP, and where it leads."""
    (found,) = world.api("GET", "reserved_ips")["reserved_ips"]
    return found["ip"], found["droplet"]["id"]


def test_the_address_is_the_customers_and_not_its_droplets(empty_lab: None, inventory: Path) -> None:
    control("PUT", f"microsoft/trunks/{FQDN}", {"enabled": True})
    try:
        # Over DNS-01 the authority asks the name server at the address, over TLS Microsoft the SBC.
        assert "PROVEN" in rollout(inventory)
        address, droplet = reserved_ip()
        own = world.address(CUSTOMER)
        assert own != address
        assert addresses() == {address}
        for name in (FQDN, TENANT):
            assert world.options(name)["code"] == 200
        assert "changed=0 " in rollout(inventory, playbook="playbooks/provision.yml")

        world.destroy(CUSTOMER)
        assert world.api("GET", "reserved_ips")["reserved_ips"][0]["droplet"] is None
        assert "PROVEN" in rollout(inventory)
        assert reserved_ip()[0] == address
        assert reserved_ip()[1] != droplet
        assert addresses() == {address}
        assert world.options(FQDN)["code"] == 200

        rollout(inventory, "-e", "droplet_reserved_ip=false", playbook="playbooks/provision.yml")
        assert addresses() == {world.address(CUSTOMER)}
        assert reserved_ip()[0] == address
    finally:
        control("DELETE", f"microsoft/trunks/{FQDN}")
        world.destroy(CUSTOMER)
        for each in world.api("GET", "reserved_ips")["reserved_ips"]:
            world.api("DELETE", f"reserved_ips/{each['ip']}")
