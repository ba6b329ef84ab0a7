"""Reserved IPs and projects: what the modules change, what they leave alone, and what bad answers come to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugins.support import Api, Failed, run_module


def wrote(requests: list[str]) -> list[str]:
    return [line for line in requests if not line.startswith("GET")]


def failure(name: str, /, **arguments: Any) -> str:
    with pytest.raises(Failed) as caught:
        run_module(name, **arguments)
    return str(caught.value.args[0]["msg"])


def reserve(api: Api, region: str = "fra1") -> str:
    """An address that leads nowhere, behind the product's back."""
    return str(api.client.call("POST", "reserved_ips", {"region": region})["reserved_ip"]["ip"])


def leads(api: Api) -> dict[str, int | None]:
    """Where the account's reserved IPs lead."""
    found = api.client.get_all("reserved_ips", "reserved_ips")
    return {each["ip"]: each["droplet"] and each["droplet"]["id"] for each in found}


class TestReservedIp:
    NAME = "digitalocean_reserved_ip"

    @pytest.fixture
    def droplet(self, api: Api) -> int:
        number: int = api.droplet()["id"]
        api.requests()
        return number

    def test_a_droplet_gets_one_and_keeps_it(self, api: Api, droplet: int) -> None:
        foretold = run_module(self.NAME, check=True, droplet_id=droplet)
        assert foretold["changed"]
        assert foretold["address"] is None
        assert wrote(api.requests()) == []
        first = run_module(self.NAME, droplet_id=droplet)
        assert (first["changed"], first["reserved"], first["region"]) == (True, True, "fra1")
        assert leads(api) == {first["address"]: droplet}
        api.requests()
        again = run_module(self.NAME, droplet_id=droplet)
        assert (again["changed"], again["reserved"], again["address"]) == (False, False, first["address"])
        assert api.requests() == ["GET reserved_ips 200"]

    def test_one_that_leads_nowhere_is_given_to_the_droplet(self, api: Api, droplet: int) -> None:
        address = reserve(api)
        foretold = run_module(self.NAME, check=True, droplet_id=droplet, address=address)
        assert leads(api) == {address: None}
        done = run_module(self.NAME, droplet_id=droplet, address=address)
        assert done["diff"] == foretold["diff"] == {"before": {address: None}, "after": {address: droplet}}
        assert leads(api) == {address: droplet}
        assert not run_module(self.NAME, droplet_id=droplet, address=address)["changed"]

    def test_a_droplet_that_is_lost_leaves_its_address_to_the_next(self, api: Api, droplet: int) -> None:
        address = run_module(self.NAME, droplet_id=droplet)["address"]
        api.client.delete(f"droplets/{droplet}")
        successor = api.droplet()["id"]
        assert run_module(self.NAME, droplet_id=successor, address=address)["changed"]
        assert leads(api) == {address: successor}

    def test_it_moves_only_from_the_droplet_that_is_named(self, api: Api, droplet: int) -> None:
        address, successor = run_module(self.NAME, droplet_id=droplet)["address"], api.droplet()["id"]
        refused = failure(self.NAME, droplet_id=successor, address=address)
        assert f"{address} leads to droplet {droplet} (sbc1.example.com), not to {successor}" in refused
        assert leads(api) == {address: droplet}
        moved = run_module(self.NAME, droplet_id=successor, address=address, from_droplet_id=droplet)
        assert moved["changed"]
        assert leads(api) == {address: successor}

    def test_what_cannot_be_is_said(self, api: Api, droplet: int) -> None:
        assert "'sbc1' is no IPv4 address" in failure(self.NAME, droplet_id=droplet, address="sbc1")
        assert "is no reserved IP of this account, which has none" in failure(
            self.NAME, droplet_id=droplet, address="192.0.2.1"
        )
        elsewhere = reserve(api, "nyc3")
        assert "must be in the same region" in failure(self.NAME, droplet_id=droplet, address=elsewhere)
        own, other = run_module(self.NAME, droplet_id=droplet)["address"], reserve(api)
        refused = failure(self.NAME, droplet_id=droplet, address=other)
        assert f"droplet {droplet} has the reserved IP {own} already" in refused
        assert "reached the limit of reserved IPs" in failure(self.NAME, droplet_id=api.droplet()["id"])
        assert leads(api) == {elsewhere: None, own: droplet, other: None}

    def test_one_that_a_killed_run_reserved_is_waited_for(self, api: Api, droplet: int) -> None:
        """It is assigned some time after it is reserved, and does not say to which droplet until then."""
        api.control("POST", "account", {"action_seconds": 3.0})
        made = api.client.call("POST", "reserved_ips", {"droplet_id": droplet})["reserved_ip"]["ip"]
        late = failure(self.NAME, droplet_id=droplet, timeout=0)
        assert late == "a reserved IP is being assigned, nobody knows to which droplet, after 0 s"
        done = run_module(self.NAME, droplet_id=droplet)
        assert (done["address"], done["reserved"], done["changed"]) == (made, False, False)
        assert leads(api) == {made: droplet}

    def test_one_that_goes_to_another_droplet_is_waited_for_only(self, api: Api, droplet: int) -> None:
        api.control("POST", "account", {"action_seconds": 1.0})
        other = api.droplet()["id"]
        theirs = api.client.call("POST", "reserved_ips", {"droplet_id": other})["reserved_ip"]["ip"]
        done = run_module(self.NAME, droplet_id=droplet)
        assert done["reserved"]
        assert leads(api) == {theirs: other, done["address"]: droplet}

    @pytest.mark.parametrize("kind", ["lost", "dropped", "500", "502html", "429", "422pending"])
    def test_a_bad_answer_makes_none_twice(self, api: Api, droplet: int, kind: str) -> None:
        reserve(api)
        api.fault(kind, "POST", "reserved_ips*")
        assert run_module(self.NAME, droplet_id=droplet)["changed"]
        assert sorted(map(bool, leads(api).values())) == [False, True]

    @pytest.mark.parametrize("kind", ["lost", "dropped", "500", "502html", "429", "422pending"])
    def test_a_bad_answer_does_not_stop_a_move(self, api: Api, droplet: int, kind: str) -> None:
        address = reserve(api)
        api.fault(kind, "POST", "reserved_ips/*/actions")
        assert run_module(self.NAME, droplet_id=droplet, address=address)["changed"]
        assert leads(api) == {address: droplet}

    def test_it_is_given_back_if_it_leads_to_the_droplet_or_nowhere(self, api: Api, droplet: int) -> None:
        address, free, other = run_module(self.NAME, droplet_id=droplet)["address"], reserve(api), api.droplet()["id"]
        for wrong in ({}, {"droplet_id": other}):
            assert f"{address} leads to droplet {droplet}" in failure(
                self.NAME, state="absent", address=address, **wrong
            )
        assert run_module(self.NAME, check=True, state="absent", address=address, droplet_id=droplet)["changed"]
        assert leads(api) == {address: droplet, free: None}
        assert run_module(self.NAME, state="absent", address=address, droplet_id=droplet)["changed"]
        assert run_module(self.NAME, state="absent", address=free)["changed"]
        assert leads(api) == {}
        assert not run_module(self.NAME, state="absent", address=free)["changed"]


class TestProject:
    NAME = "digitalocean_project"

    def held(self, api: Api, name: str) -> list[str]:
        (project,) = (each for each in api.client.get_all("projects", "projects") if each["name"] == name)
        return [each["urn"] for each in api.client.get_all(f"projects/{project['id']}/resources", "resources")]

    def test_it_is_made_and_holds_what_it_shall(self, api: Api) -> None:
        mine, other = (f"do:droplet:{api.droplet()['id']}" for _ in range(2))
        foretold = run_module(self.NAME, check=True, name="Telephony", resources=[mine])
        assert foretold["id"] is None
        assert len(api.client.get_all("projects", "projects")) == 1
        done = run_module(self.NAME, name="Telephony", resources=[mine])
        assert done["diff"] == foretold["diff"]
        assert self.held(api, "Telephony") == [mine]
        api.requests()
        assert not run_module(self.NAME, name="Telephony", resources=[mine])["changed"]
        assert api.requests() == ["GET projects 200", f"GET projects/{done['id']}/resources 200"]
        assert run_module(self.NAME, name="Telephony", resources=[other])["added"] == [other]
        assert sorted(self.held(api, "Telephony")) == sorted([mine, other])

    def test_a_resource_leaves_the_project_where_it_was(self, api: Api) -> None:
        urn = f"do:droplet:{api.droplet()['id']}"
        for name in ("first", "second"):
            assert run_module(self.NAME, name=name, resources=[urn])["changed"]
        assert self.held(api, "first") == []
        assert self.held(api, "second") == [urn]

    def test_a_resource_that_is_not_there_is_said(self, api: Api) -> None:
        refused = failure(self.NAME, name="Telephony", resources=["do:droplet:1"], timeout=1)
        assert "does not file do:droplet:1 in the project Telephony after 1 s" in refused

    @pytest.mark.parametrize("kind", ["lost", "dropped", "500", "502html", "429"])
    @pytest.mark.parametrize("path", ["projects", "projects/*/resources"])
    def test_a_bad_answer_makes_none_twice(self, api: Api, kind: str, path: str) -> None:
        urn = f"do:droplet:{api.droplet()['id']}"
        api.fault(kind, "POST", path)
        run_module(self.NAME, name="Telephony", resources=[urn])
        assert self.held(api, "Telephony") == [urn]

    def test_an_empty_one_is_deleted_and_another_is_not(self, api: Api) -> None:
        urn = f"do:droplet:{api.droplet()['id']}"
        run_module(self.NAME, name="Telephony", resources=[urn])
        assert "412" in failure(self.NAME, name="Telephony", state="absent")
        run_module(self.NAME, name="first-project", resources=[urn])
        assert run_module(self.NAME, check=True, name="Telephony", state="absent")["changed"]
        assert run_module(self.NAME, name="Telephony", state="absent")["changed"]
        assert not run_module(self.NAME, name="Telephony", state="absent")["changed"]
