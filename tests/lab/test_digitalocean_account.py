"""An account with thousands of droplets on paper: what concerns one of them is no work for the others."""

from __future__ import annotations

import asyncio

from lab.digitalocean import Account, FirewallRules, RecordsOnly
from tests.lab.api import DROPLET, SSH

CUSTOMERS = 2000


class Counting(RecordsOnly):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    async def set_firewall(self, droplet_id: int, rules: FirewallRules | None) -> None:
        self.told.append(droplet_id)
        await super().set_firewall(droplet_id, rules)


def tag(number: int) -> str:
    return f"sbc:customer:n{number}"


async def fleet(machines: RecordsOnly) -> Account:
    account = Account(domains=["voip.test"])
    account.profile.update({"droplet_limit": 2 * CUSTOMERS, "boot_seconds": 0.0, "address_seconds": 0.0})
    await account.start(machines)
    for number in range(CUSTOMERS):
        account.create_droplet({**DROPLET, "name": f"n{number}", "tags": ["sbc", tag(number)]})
        body = {"name": f"fw{number}", "inbound_rules": [SSH], "tags": [tag(number)]}
        account.firewalls.create(body, "2026-01-01T00:00:00Z", account.tags(), account.droplets.ids())
    while not all(droplet.has_address for droplet in account.droplets):
        await asyncio.sleep(0.01)
    await account.commit()
    return account


def test_every_droplet_has_addresses_and_a_firewall_of_its_own() -> None:
    machines = Counting()
    account = asyncio.run(fleet(machines))
    documents = [account.droplet_document(droplet) for droplet in account.droplets.tagged("sbc")]
    assert len(documents) == CUSTOMERS
    for kind in ("private", "public"):
        addresses = {n["ip_address"] for d in documents for n in d["networks"]["v4"] if n["type"] == kind}
        assert len(addresses) == CUSTOMERS
    assert len({spec.anchor for spec in machines.specs.values()}) == CUSTOMERS
    assert [d.name for d in account.droplets.tagged(tag(7))] == ["n7"]
    assert all(rules is not None for rules in machines.firewalls.values())


def test_a_change_of_one_firewall_or_tag_reaches_only_the_droplets_that_it_concerns() -> None:
    async def change() -> None:
        machines = Counting()
        account = await fleet(machines)
        seventh = account.droplets.tagged(tag(7))[0]

        machines.told.clear()
        (firewall,) = account.firewalls.selecting(seventh.id, seventh.tags)
        account.firewalls.add(firewall["id"], "inbound_rules", [{**SSH, "ports": "5061"}])
        await account.commit()
        assert machines.told == [seventh.id]

        machines.told.clear()
        account.tag_resources(tag(8), [{"resource_type": "droplet", "resource_id": str(seventh.id)}], add=True)
        account.firewalls.remove(firewall["id"], "tags", [tag(7)])
        await account.commit()
        assert machines.told == [seventh.id]
        rules = machines.firewalls[seventh.id]
        assert rules is not None
        assert [rule.ports for rule in rules.inbound] == ["22"], "the rules of the other firewall are left"

        (ninth,) = account.droplets.tagged(tag(9))
        machines.told.clear()
        admitted = {"protocol": "tcp", "ports": "9", "sources": {"tags": [tag(9)]}}
        account.firewalls.add(firewall["id"], "inbound_rules", [admitted])
        account.firewalls.add(firewall["id"], "droplet_ids", [seventh.id])
        account.delete_tag(tag(9))
        await account.commit()
        rules = machines.firewalls[seventh.id]
        assert rules is not None
        assert [rule.networks for rule in rules.inbound if rule.ports == "9"] == [()], "nobody carries the tag any more"
        assert machines.told == [seventh.id, ninth.id]
        assert machines.firewalls[ninth.id] is None

    asyncio.run(change())
