"""A fleet that is looked at once: what the modules then ask, and what they do where the survey is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.digitalocean import ApiError

from tests.plugins.fleet import DOMAIN, Fleet, changes, inventory, provision
from tests.plugins.machine import load, run
from tests.plugins.support import Api, Failed, run_module

survey = load("action", "digitalocean_customers_info").survey
LISTS = ["GET droplets 200", "GET firewalls 200", "GET account/keys 200", f"GET domains/{DOMAIN}/records 200"]
MODULES = ["digitalocean_key", "digitalocean_firewall", "digitalocean_droplet", "digitalocean_rrset"]


def variables(customers: list[str], **more: Any) -> dict[str, dict[str, Any]]:
    common = {"sbc_domain": DOMAIN, "sbc_dns": "digitalocean"}
    return {customer: common | {"sbc_fqdn": f"{customer}.{DOMAIN}"} | more for customer in customers}


def test_two_hundred_customers_in_order_are_a_handful_of_calls(api: Api) -> None:
    fleet = Fleet(api, 200)
    fleet.complete()
    api.requests()
    seen = survey(api.client, variables(fleet.customers))
    # 200 of a kind in one call; the zone has its own records besides those of the customers.
    assert api.requests() == [*LISTS, LISTS[-1]]
    modules = {name: load("modules", name) for name in MODULES}
    for customer in fleet.customers:
        for name, arguments in fleet.wanted(customer).items():
            assert not run(modules[name], seen=seen[customer], **arguments)["changed"]
    assert api.requests() == []


@pytest.mark.parametrize("name", MODULES)
def test_what_it_does_not_show_is_looked_for_and_made(api: Api, name: str) -> None:
    fleet = Fleet(api, 1)
    (customer,) = fleet.customers
    arguments = fleet.wanted(customer)[name]
    empty: dict[str, Any] = {path: [] for path in survey(api.client, variables(fleet.customers))[customer]}
    live = run_module(name, check=True, **arguments)
    api.requests()
    assert run_module(name, check=True, seen=empty, **arguments) == live
    assert len(api.requests()) == 1
    assert run_module(name, seen=empty, **arguments)["changed"] == live["changed"]
    assert not run_module(name, seen=empty, **arguments)["changed"]


@pytest.mark.parametrize("name", MODULES)
def test_it_is_believed_where_all_is_as_wanted(api: Api, name: str) -> None:
    fleet = Fleet(api, 1)
    (customer,) = fleet.customers
    arguments = fleet.wanted(customer)[name]
    live = run_module(name, **arguments)
    seen = survey(api.client, variables(fleet.customers))[customer]
    api.requests()
    result = run_module(name, seen=seen, **arguments)
    assert api.requests() == []
    assert not result["changed"]
    assert {key: result[key] for key in ("fingerprint", "id", "records") if key in result} == {
        key: live[key] for key in ("fingerprint", "id", "records") if key in live
    }


def test_the_policies_of_backups_are_one_more_call_for_all(api: Api) -> None:
    fleet = Fleet(api, 3)
    policy = {"plan": "weekly", "weekday": "SUN", "hour": 4}
    backups: dict[str, Any] = {"backups": True, "backup_policy": policy}
    wanted = {customer: fleet.wanted(customer)["digitalocean_droplet"] | backups for customer in fleet.customers}
    for customer in fleet.customers[1:]:
        run_module("digitalocean_droplet", **wanted[customer])
    api.requests()
    seen = survey(api.client, variables(fleet.customers, droplet_backup_policy=policy))
    assert api.requests() == [*LISTS, "GET droplets/backups/policies 200"]
    for customer in fleet.customers[1:]:
        assert not run_module("digitalocean_droplet", seen=seen[customer], **wanted[customer])["changed"]
    assert api.requests() == []
    later = wanted[customer] | {"backup_policy": policy | {"hour": 8}}
    assert run_module("digitalocean_droplet", seen=seen[customer], **later)["changed"]
    assert run_module("digitalocean_droplet", seen=seen[fleet.customers[0]], **wanted[fleet.customers[0]])["changed"]


def test_a_droplet_that_was_still_starting_is_waited_for(api: Api) -> None:
    api.control("POST", "account", {"boot_seconds": 2.0})
    api.droplet("sbc", "sbc:customer:contoso", wait=False)
    hosts = {"contoso": {"sbc_fqdn": "sbc1.example.com"}}
    seen = survey(api.client, hosts)["contoso"]
    assert seen["droplets"][0]["status"] == "new"
    arguments: dict[str, Any] = {
        "name": "sbc1.example.com",
        "region": "fra1",
        "size": "s-1vcpu-1gb",
        "image": "debian-13-x64",
    }
    result = run_module("digitalocean_droplet", customer="contoso", seen=seen, **arguments)
    assert result["droplet"]["status"] == "active"
    assert result["droplet"]["address"]


def test_two_droplets_that_it_shows_and_that_are_no_more_are_no_reason_to_fail(api: Api) -> None:
    fleet = Fleet(api, 1)
    (customer,) = fleet.customers
    arguments = fleet.wanted(customer)["digitalocean_droplet"]
    second = api.droplet("sbc", f"sbc:customer:{customer}")
    seen = survey(api.client, variables(fleet.customers))[customer]
    api.client.delete(f"droplets/{second['id']}")
    assert not run_module("digitalocean_droplet", seen=seen, **arguments)["changed"]


def test_a_droplet_that_lost_the_common_tag_is_seen(api: Api) -> None:
    """So is a second one that nobody looks for by that tag."""
    fleet = Fleet(api, 2)
    first, second = fleet.customers
    for droplet in api.client.get_all("droplets", "droplets", tag_name=f"sbc:customer:{first}"):
        api.client.untag_droplet(droplet["id"], "sbc")
    api.droplet(f"sbc:customer:{second}")
    api.requests()
    seen = survey(api.client, variables(fleet.customers))
    assert api.requests() == LISTS
    assert [len(seen[customer]["droplets"]) for customer in fleet.customers] == [1, 2]


def test_what_it_could_not_see_fails_without_asking_again(api: Api) -> None:
    fleet = Fleet(api, 1)
    api.fault("500", "GET", "firewalls*", count=99)
    with pytest.raises(ApiError):
        survey(api.client, variables(fleet.customers))
    arguments = fleet.wanted(fleet.customers[0])["digitalocean_key"]
    api.requests()
    with pytest.raises(Failed, match="the account could not be asked"):
        run_module("digitalocean_key", seen={"error": "the account could not be asked"}, **arguments)
    assert api.requests() == []


def test_a_domain_that_is_not_there_is_for_others_to_say(api: Api) -> None:
    hosts = variables(["contoso"]) | variables(["fabrikam"], sbc_domain="example.net")
    seen = survey(api.client, hosts)
    assert "domains/example.com/records" in seen["contoso"]
    assert "domains/example.net/records" not in seen["fabrikam"]


@pytest.mark.parametrize(("wish", "listed"), [(False, 0), ("false", 0), (True, 1), ("198.51.100.7", 1)])
def test_only_what_somebody_wants_is_listed(api: Api, wish: bool | str, listed: int) -> None:
    survey(api.client, variables(["contoso"], droplet_reserved_ip=wish) | variables(["fabrikam"]))
    assert api.requests() == LISTS + ["GET reserved_ips 200"] * listed


def test_a_name_of_another_customer_is_not_ones_own(api: Api) -> None:
    for name in ("sbc1", "fabrikam.sbc1", "_acme-challenge.sbc1", "xsbc1", "sbc10"):
        api.client.call("POST", "domains/example.com/records", {"type": "A", "name": name, "data": "192.0.2.1"})
    seen = survey(api.client, {"contoso": variables([""])[""] | {"sbc_fqdn": "sbc1.example.com"}})
    names = {each["name"] for each in seen["contoso"]["domains/example.com/records"]}
    assert names == {"sbc1", "fabrikam.sbc1", "_acme-challenge.sbc1"}


def test_the_playbook_asks_once_for_all(api: Api, tmp_path: Path) -> None:
    fleet = Fleet(api, 2)
    keeper, other = fleet.customers
    hosts: dict[str, dict[str, Any]] = {each: {"sbc_fqdn": f"{each}.{DOMAIN}"} for each in fleet.customers}
    hosts[keeper]["droplet_reserved_ip"] = True
    directory = inventory(tmp_path / "inventory", api, hosts, droplet_project="Telephony")
    first = changes(provision(directory))
    assert first[keeper]
    assert first[other]

    (reserved,) = api.client.get_all("reserved_ips", "reserved_ips")
    records = {each["name"]: each["data"] for each in api.client.get_all(f"domains/{DOMAIN}/records", "domain_records")}
    assert {customer: records[customer] for customer in fleet.customers} == fleet.addresses | {keeper: reserved["ip"]}
    assert (directory / "state" / keeper / "reserved_ip").read_text() == reserved["ip"] + "\n"
    (project,) = (each for each in api.client.get_all("projects", "projects") if each["name"] == "Telephony")
    filed = f"projects/{project['id']}/resources"
    assert len(api.client.get_all(filed, "resources")) == 3

    # An account that does not answer stops its own customers only, and is asked once.
    refused = "dop_v1_" + "bad" * 20
    api.control("POST", "tokens/refuse", {"token": refused})
    more = hosts | {each: {"sbc_fqdn": f"{each}.{DOMAIN}", "sbc_api_token": refused} for each in ("bad-1", "bad-2")}
    (directory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": more}}))
    api.requests()
    again = provision(directory)
    assert again.returncode == 2, again.stdout
    assert f"the account at {api.endpoint} could not be asked" in " ".join(again.stdout.split())
    recap = dict(re.findall(r"^(\S+) +: (ok=.*)$", again.stdout, re.MULTILINE))
    for customer in fleet.customers:
        assert "changed=0 " in recap[customer]
        assert "failed=0 " in recap[customer]
    assert all("failed=1 " in recap[customer] for customer in ("bad-1", "bad-2"))
    # The inventory plugin has its own list of droplets.
    also = ["GET reserved_ips 200", "GET projects 200", f"GET {filed} 200"]
    assert sorted(api.requests()) == sorted([LISTS[0], *LISTS, *also, "GET droplets 401"])
