"""The modules, run as tasks run them: what they change, what they leave alone, and how often they ask."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.plugins.support import TOKEN, Api, Client, Failed, run_module

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM operator"
FINGERPRINT = "84:ca:b1:de:1c:1a:91:31:f3:35:78:6f:ed:a4:72:bf"
DROPLET: dict[str, Any] = {
    "customer": "contoso",
    "name": "sbc1.example.com",
    "region": "fra1",
    "size": "s-1vcpu-1gb",
    "image": "debian-13-x64",
}
RULES: list[dict[str, Any]] = [
    {"protocol": "tcp", "ports": "22", "sources": ["198.51.100.0/24"]},
    {"protocol": "tcp", "ports": "5061", "sources": ["52.112.0.0/14", "52.122.0.0/15"]},
    {"protocol": "icmp", "sources": ["0.0.0.0/0", "::/0"]},
]
FIREWALL: dict[str, Any] = {"name": "sbc-contoso", "inbound": RULES, "tags": ["sbc:customer:contoso"]}
RECORD: dict[str, Any] = {"domain": "example.com", "name": "sbc1.example.com", "values": ["203.0.113.10"]}
EVERYTHING: list[tuple[str, dict[str, Any]]] = [
    ("digitalocean_key", {"name": "operator", "public_key": KEY}),
    ("digitalocean_tags", {"names": ["sbc", "sbc:customer:contoso"]}),
    ("digitalocean_firewall", FIREWALL),
    ("digitalocean_droplet", DROPLET),
    ("digitalocean_rrset", RECORD),
]


def wrote(requests: list[str]) -> list[str]:
    return [line for line in requests if not line.startswith("GET")]


def failure(name: str, /, **arguments: Any) -> str:
    with pytest.raises(Failed) as caught:
        run_module(name, **arguments)
    return str(caught.value.args[0]["msg"])


@pytest.mark.parametrize(("name", "arguments"), EVERYTHING)
def test_check_mode_foretells_and_changes_nothing(api: Api, name: str, arguments: dict[str, Any]) -> None:
    foretold = run_module(name, check=True, **arguments)
    assert wrote(api.requests()) == []
    done = run_module(name, **arguments)
    assert foretold["changed"]
    assert done["changed"]
    assert foretold["diff"] == done["diff"]


@pytest.mark.parametrize(("name", "arguments"), EVERYTHING)
def test_again_changes_nothing(api: Api, name: str, arguments: dict[str, Any]) -> None:
    run_module(name, **arguments)
    api.requests()
    again = run_module(name, **arguments)
    assert not again["changed"]
    asked = api.requests()
    assert wrote(asked) == []
    assert len(asked) == (2 if name == "digitalocean_tags" else 1)


@pytest.mark.parametrize(("name", "arguments"), EVERYTHING)
def test_an_error_is_told_in_full_but_for_the_token(api: Api, name: str, arguments: dict[str, Any]) -> None:
    api.control("POST", "tokens/refuse", {"token": TOKEN})
    with pytest.raises(Failed) as caught:
        run_module(name, **arguments)
    result = caught.value.args[0]
    assert "401 Unauthorized: Unable to authenticate you (request " in result["msg"]
    assert result["error"]["status"] == 401
    assert result["error"]["request_id"] in result["msg"]


@pytest.mark.parametrize(("name", "arguments"), EVERYTHING)
def test_a_lost_answer_makes_nothing_twice(api: Api, name: str, arguments: dict[str, Any]) -> None:
    api.fault("lost", "POST")
    run_module(name, **arguments)
    assert not run_module(name, **arguments)["changed"]
    state = api.control("GET", "state")
    assert len(state["droplets"]) == (name == "digitalocean_droplet")
    assert len(state["firewalls"]) == (name == "digitalocean_firewall")


@pytest.mark.parametrize(("name", "arguments"), EVERYTHING)
def test_no_token_is_a_clear_failure(
    api: Api, name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN")
    assert "missing required arguments: token" in failure(name, **arguments)


def test_the_endpoint_must_be_one(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALOCEAN_END_POINT", "http://api.digitalocean.com/v2/")
    assert "use https" in failure("digitalocean_tags", names=["sbc"])


class TestKey:
    def test_fingerprint_is_known_before_the_key_exists(self, api: Api) -> None:
        result = run_module("digitalocean_key", check=True, name="operator", public_key=KEY)
        assert result["fingerprint"] == FINGERPRINT

    def test_a_shared_key_keeps_its_name(self, api: Api) -> None:
        run_module("digitalocean_key", name="first", public_key=KEY)
        again = run_module("digitalocean_key", name="second", public_key=KEY)
        assert not again["changed"]
        assert again["key"]["name"] == "first"

    def test_another_run_may_be_quicker(self, api: Api) -> None:
        run_module("digitalocean_key", name="operator", public_key=KEY)
        api.fault("404", "GET", "account/keys/*")
        assert run_module("digitalocean_key", name="operator", public_key=KEY)["key"]["fingerprint"] == FINGERPRINT

    def test_absent(self, api: Api) -> None:
        run_module("digitalocean_key", name="operator", public_key=KEY)
        assert run_module("digitalocean_key", public_key=KEY, state="absent")["changed"]
        assert not run_module("digitalocean_key", public_key=KEY, state="absent")["changed"]

    def test_what_is_no_key(self, api: Api) -> None:
        assert "not an OpenSSH public key" in failure("digitalocean_key", name="x", public_key="~/.ssh/id.pub")


class TestTags:
    def test_only_what_is_missing_is_created(self, api: Api) -> None:
        run_module("digitalocean_tags", names=["sbc"])
        assert run_module("digitalocean_tags", names=["sbc", "sbc:b"])["created"] == ["sbc:b"]

    def test_absent(self, api: Api) -> None:
        run_module("digitalocean_tags", names=["sbc"])
        assert run_module("digitalocean_tags", names=["sbc", "sbc:b"], state="absent")["deleted"] == ["sbc"]

    def test_what_cannot_be_a_tag(self, api: Api) -> None:
        assert "'sbc.b'" in failure("digitalocean_tags", names=["sbc", "sbc.b"])


class TestDroplet:
    def test_it_is_waited_for_until_it_has_its_address(self, api: Api) -> None:
        droplet = run_module("digitalocean_droplet", **DROPLET)["droplet"]
        assert droplet["status"] == "active"
        assert droplet["address"] == api.control("GET", "state")["droplets"][0]["address"]
        assert droplet["tags"] == ["sbc", "sbc:customer:contoso"]

    def test_a_fresh_one_may_be_unknown_for_a_moment(self, api: Api) -> None:
        api.fault("404", "GET", "droplets/*", count=2)
        assert run_module("digitalocean_droplet", **DROPLET)["droplet"]["address"]

    def test_one_that_is_still_starting_is_waited_for(self, api: Api) -> None:
        api.control("POST", "account", {"boot_seconds": 0.5})
        api.droplet("sbc", "sbc:customer:contoso", wait=False)
        result = run_module("digitalocean_droplet", **DROPLET)
        assert not result["created"]
        assert result["droplet"]["address"]

    def test_waiting_ends(self, api: Api) -> None:
        api.control("POST", "account", {"boot_seconds": 30})
        assert "is not active with a public address after 1 s" in failure("digitalocean_droplet", **DROPLET, timeout=1)

    def test_two_are_listed(self, api: Api) -> None:
        numbers = [api.droplet("sbc:customer:contoso")["id"] for _ in range(2)]
        message = failure("digitalocean_droplet", **DROPLET)
        assert all(str(number) in message for number in numbers)
        assert "2 droplets carry the tag sbc:customer:contoso" in message

    def test_the_name_is_no_identity(self, api: Api) -> None:
        api.droplet("web", name=DROPLET["name"])
        assert run_module("digitalocean_droplet", **DROPLET)["created"]

    def test_name_tags_and_power_are_mended(self, api: Api) -> None:
        number = api.droplet("sbc:customer:contoso", "sbc:old", "mine", name="old.example.com")["id"]
        api.client.call("POST", f"droplets/{number}/actions", {"type": "power_off"})
        while api.client.call("GET", f"droplets/{number}")["droplet"]["status"] != "off":
            pass
        foretold = run_module("digitalocean_droplet", check=True, **DROPLET)
        result = run_module("digitalocean_droplet", **DROPLET)
        assert foretold["diff"] == result["diff"]
        assert result["diff"]["before"]["status"] == "off"
        assert (result["droplet"]["id"], result["droplet"]["name"]) == (number, "sbc1.example.com")
        assert result["droplet"]["tags"] == ["mine", "sbc", "sbc:customer:contoso"]
        assert result["droplet"]["status"] == "active"
        assert not run_module("digitalocean_droplet", **DROPLET)["changed"]

    @pytest.mark.parametrize("kind", ["lost", "dropped", "422pending"])
    def test_mending_survives_a_bad_answer(self, api: Api, kind: str) -> None:
        number = api.droplet("sbc:customer:contoso", name="old.example.com")["id"]
        api.client.call("POST", f"droplets/{number}/actions", {"type": "power_off"})
        while api.client.call("GET", f"droplets/{number}")["droplet"]["status"] != "off":
            pass
        api.fault(kind, "POST", "droplets/*/actions", count=1)
        api.fault(kind, "POST", "droplets/*/actions", count=1, after=2)
        assert run_module("digitalocean_droplet", **DROPLET)["droplet"]["status"] == "active"
        assert not run_module("digitalocean_droplet", **DROPLET)["changed"]

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"region": "ams3"}, "replacement required for droplet NUMBER of contoso: region is fra1, ams3 is wanted"),
            ({"image": "debian-12-x64"}, "image is debian-13-x64, debian-12-x64 is wanted"),
            ({"monitoring": True}, "monitoring is not installed, installed is wanted"),
            ({"user_data": "#cloud-config\nx: y\n"}, "user_data is of digest 88c95955b024, 3fe5bea09245 is wanted"),
            ({"size": "s-1vcpu-512mb-10gb"}, "size is s-1vcpu-1gb (disk 25 GiB), s-1vcpu-512mb-10gb (disk 10 GiB) is"),
            (
                {"size": "s-1vcpu-2gb"},
                "resize required for droplet NUMBER of contoso: size is s-1vcpu-1gb, s-1vcpu-2gb",
            ),
            ({"region": "ams3", "size": "s-1vcpu-2gb"}, "replacement and resize required"),
        ],
    )
    def test_what_cannot_be_mended_is_refused(self, api: Api, other: dict[str, Any], reason: str) -> None:
        made_with: dict[str, Any] = {"user_data": "#cloud-config\n"}
        number = run_module("digitalocean_droplet", **DROPLET, **made_with)["droplet"]["id"]
        api.requests()
        # Not even what could be mended is: the name.
        message = failure("digitalocean_droplet", **(DROPLET | made_with | {"name": "sbc2.example.com"} | other))
        assert reason.replace("NUMBER", str(number)) in message
        assert "Nothing was changed" in message
        assert ("playbooks/replace.yml --limit contoso" in message) == ("replacement" in message)
        assert ("droplet_allow_resize=true" in message) == ("resize required" in message)
        assert "droplet_accept_drift: true" in message
        assert wrote(api.requests()) == []

    def test_drift_that_is_accepted_is_told_and_left(self, api: Api) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        other: dict[str, Any] = {"region": "ams3", "size": "s-1vcpu-2gb", "image": "debian-12-x64"}
        result = run_module("digitalocean_droplet", **(DROPLET | other), accept_drift=True)
        assert not result["changed"]
        assert {each["attribute"]: each["wanted"] for each in result["drift"]} == other
        assert {each["attribute"]: each["remedy"] for each in result["drift"]}["size"] == "resize"
        assert "It is left as it is" in str(result["warnings"])

    @pytest.mark.parametrize("there", [True, False], ids=["on the droplet", "in the account"])
    def test_a_tag_that_is_written_otherwise_is_the_same(self, api: Api, there: bool) -> None:
        api.client.call("POST", "tags", {"name": "prod"})
        number = run_module("digitalocean_droplet", **DROPLET, tags=["prod"] if there else [])["droplet"]["id"]
        result = run_module("digitalocean_droplet", **DROPLET, tags=["Prod"])
        assert (result["changed"], run_module("digitalocean_droplet", **DROPLET, tags=["Prod"])["changed"]) == (
            not there,
            False,
        )
        droplet = api.client.call("GET", f"droplets/{number}")["droplet"]
        assert droplet["tags"].count("prod") == 1

    def test_a_customer_that_is_written_otherwise_gets_no_second_one(self, api: Api) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        assert not run_module("digitalocean_droplet", **DROPLET | {"customer": "Contoso"})["changed"]

    def test_a_size_that_is_not_on_offer(self, api: Api) -> None:
        run_module("digitalocean_droplet", **(DROPLET | {"region": "lon1"}))
        for size in ("s-1vcpu-512mb-10gb", "s-9vcpu"):
            wanted = DROPLET | {"region": "lon1", "size": size}
            assert f"size {size} of droplet" in failure("digitalocean_droplet", **wanted, resize=True)

    def test_user_data_is_compared_where_both_sides_know_it(self, api: Api) -> None:
        api.droplet("sbc:customer:contoso", "sbc")
        assert not run_module("digitalocean_droplet", **DROPLET, user_data="#cloud-config\n")["changed"]
        run_module("digitalocean_droplet", **(DROPLET | {"customer": "fabrikam"}), user_data="#cloud-config\n")
        assert not run_module("digitalocean_droplet", **(DROPLET | {"customer": "fabrikam"}))["changed"]

    def test_a_resize_that_is_allowed(self, api: Api) -> None:
        number = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]
        wanted: dict[str, Any] = DROPLET | {"size": "s-1vcpu-2gb", "resize": True}
        foretold = run_module("digitalocean_droplet", check=True, **wanted)
        api.requests()
        result = run_module("digitalocean_droplet", **wanted)
        assert foretold["diff"] == result["diff"]
        assert (result["diff"]["before"]["size"], result["diff"]["after"]["size"]) == ("s-1vcpu-1gb", "s-1vcpu-2gb")
        assert wrote(api.requests()) == [f"POST droplets/{number}/actions 201"] * 3
        droplet = api.client.call("GET", f"droplets/{number}")["droplet"]
        assert (droplet["status"], droplet["size_slug"], droplet["disk"]) == ("active", "s-1vcpu-2gb", 25)
        assert not run_module("digitalocean_droplet", **wanted)["changed"]
        # The disk is as it was, so there is a way back.
        assert run_module("digitalocean_droplet", **DROPLET, resize=True)["droplet"]["size"] == "s-1vcpu-1gb"

    def test_a_resize_that_fails_leaves_it_on(self, api: Api) -> None:
        number = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]
        api.fault("404", "POST", "droplets/*/actions", count=1, after=1)
        wanted: dict[str, Any] = DROPLET | {"size": "s-1vcpu-2gb", "resize": True}
        assert "404" in failure("digitalocean_droplet", **wanted)
        assert api.client.call("GET", f"droplets/{number}")["droplet"]["status"] == "active"
        assert run_module("digitalocean_droplet", **wanted)["droplet"]["size"] == "s-1vcpu-2gb"

    def test_a_resize_that_was_cut_off_is_finished(self, api: Api) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        self.off(api)
        result = run_module("digitalocean_droplet", **DROPLET | {"size": "s-1vcpu-2gb"}, resize=True)["droplet"]
        assert (result["status"], result["size"]) == ("active", "s-1vcpu-2gb")

    @staticmethod
    def off(api: Api) -> dict[str, Any]:
        droplet: dict[str, Any] = api.client.get_all("droplets", "droplets")[0]
        api.client.switch_off(droplet["id"], 30)
        api.requests()
        droplet["status"] = "off"
        return droplet

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"size": "s-1vcpu-2gb"}, "resize required"),
            ({"size": "s-9vcpu", "resize": True}, "is not on offer"),
            ({"image": "debian-12-x64"}, "replacement required"),
        ],
    )
    def test_one_that_is_off_is_switched_on_although_it_is_not_mended(
        self, api: Api, other: dict[str, Any], reason: str
    ) -> None:
        """As a resize leaves it that was killed, and that the next run is not allowed to go on with."""
        before = run_module("digitalocean_droplet", **DROPLET)["droplet"]
        seen = {"droplets": [self.off(api)]}
        with pytest.raises(Failed) as caught:
            run_module("digitalocean_droplet", check=True, **DROPLET | other, seen=seen)
        foretold = caught.value.args[0]["msg"]
        assert reason in foretold
        assert "it is off, and would be switched on" in foretold
        assert wrote(api.requests()) == []
        said = failure("digitalocean_droplet", **DROPLET | other, seen=seen)
        assert reason in said
        assert "it was off, and has been switched on" in said
        assert wrote(api.requests()) == [f"POST droplets/{before['id']}/actions 201"]
        assert run_module("digitalocean_droplet", **DROPLET)["droplet"] == before
        assert "switched on" not in failure("digitalocean_droplet", **DROPLET | other)

    @pytest.mark.parametrize("kind", ["lost", "dropped"])
    @pytest.mark.parametrize("step", range(3))
    def test_a_resize_survives_a_bad_answer(self, api: Api, kind: str, step: int) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        api.fault(kind, "POST", "droplets/*/actions", count=1, after=step)
        wanted: dict[str, Any] = DROPLET | {"size": "s-1vcpu-2gb", "resize": True}
        result = run_module("digitalocean_droplet", **wanted)["droplet"]
        assert (result["status"], result["size"]) == ("active", "s-1vcpu-2gb")

    def test_backups_and_their_policy_are_mended(self, api: Api) -> None:
        number = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]

        def policy() -> dict[str, Any] | None:
            answer = api.client.call("GET", f"droplets/{number}/backups/policy")["policy"]
            return answer["backup_policy"] if answer["backup_enabled"] else None

        weekly: dict[str, Any] = {"backups": True, "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4}}
        later: dict[str, Any] = {"backups": True, "backup_policy": {"plan": "weekly", "hour": 8}}
        for wanted in (weekly, later, {}):
            foretold = run_module("digitalocean_droplet", check=True, **DROPLET, **wanted)
            api.requests()
            done = run_module("digitalocean_droplet", **DROPLET, **wanted)
            assert foretold["diff"] == done["diff"]
            assert done["droplet"]["backups"] == bool(wanted)
            assert wrote(api.requests()) == [f"POST droplets/{number}/actions 201"]
            assert not run_module("digitalocean_droplet", **DROPLET, **wanted)["changed"]
            assert len(api.requests()) == (2 if wanted else 1)
            found = policy()
            assert (found is not None) == bool(wanted)
            assert (found or {}).items() >= wanted.get("backup_policy", {}).items()

    def test_backups_from_the_beginning(self, api: Api) -> None:
        policy = {"plan": "daily", "hour": 4}
        made = run_module("digitalocean_droplet", **DROPLET, backups=True, backup_policy=policy)["droplet"]
        assert made["backups"]
        api.requests()
        assert not run_module("digitalocean_droplet", **DROPLET, backups=True, backup_policy=policy)["changed"]
        # What is not asked for is not asked about.
        assert not run_module("digitalocean_droplet", **DROPLET, backups=True)["changed"]
        assert len(api.requests()) == 3

    @pytest.mark.parametrize("kind", ["lost", "422pending"])
    def test_backups_survive_a_bad_answer(self, api: Api, kind: str) -> None:
        run_module("digitalocean_droplet", **DROPLET)
        evenings = {"plan": "daily", "hour": 20}
        wishes: list[dict[str, Any]] = [{"backups": True}, {"backups": True, "backup_policy": evenings}, {}]
        for wanted in wishes:
            api.fault(kind, "POST", "droplets/*/actions", count=1)
            assert run_module("digitalocean_droplet", **DROPLET, **wanted)["changed"]
            assert not run_module("digitalocean_droplet", **DROPLET, **wanted)["changed"]

    def test_what_cannot_be_a_policy(self, api: Api) -> None:
        assert "needs backups: true" in failure("digitalocean_droplet", **DROPLET, backup_policy={"plan": "daily"})
        daily = {"plan": "daily", "weekday": "SUN"}
        assert "weekly plan only" in failure("digitalocean_droplet", **DROPLET, backups=True, backup_policy=daily)

    def test_a_successor_is_built_beside_it_and_is_not_it(self, api: Api) -> None:
        old = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]
        made = run_module("digitalocean_droplet", **DROPLET, successor=True)
        assert made["created"]
        assert made["droplet"]["id"] != old
        assert made["droplet"]["tags"] == ["sbc", "sbc:customer:contoso", "sbc:successor"]
        assert not run_module("digitalocean_droplet", **DROPLET, successor=True)["changed"]
        gone: dict[str, Any] = {"customer": "contoso", "state": "absent", "successor": True}
        assert "nothing was deleted" in failure("digitalocean_droplet", **gone, droplet_id=old)
        assert run_module("digitalocean_droplet", **gone, droplet_id=made["droplet"]["id"])["changed"]
        assert not run_module("digitalocean_droplet", **gone, droplet_id=made["droplet"]["id"])["changed"]
        assert not run_module("digitalocean_droplet", **DROPLET)["changed"]

    @pytest.mark.parametrize(
        "others",
        [
            ["sbc:successor"],
            ["sbc:retired"],
            ["sbc:successor", "sbc:retired"],
            ["", "sbc:successor"],
            ["", "sbc:retired"],
        ],
    )
    def test_none_is_made_or_mended_where_a_replacement_is_unfinished(self, api: Api, others: list[str]) -> None:
        for other in others:
            api.droplet("sbc:customer:contoso", *filter(None, [other]))
        api.requests()
        message = failure("digitalocean_droplet", **DROPLET)
        assert "a replacement of contoso was not finished: run `ansible-playbook playbooks/replace.yml" in message
        assert wrote(api.requests()) == []

    def test_no_successor_is_made_beside_a_retired_one(self, api: Api) -> None:
        for tags in ([], ["sbc:retired"]):
            api.droplet("sbc:customer:contoso", *tags)
        assert "was not finished" in failure("digitalocean_droplet", **DROPLET, successor=True)

    @pytest.mark.parametrize("tag", ["sbc:customer:fabrikam", "sbc:successor", "sbc:retired", "sbc:user-data:0"])
    def test_a_tag_that_would_make_it_another_droplet(self, api: Api, tag: str) -> None:
        assert f"{tag} would make it another droplet" in failure("digitalocean_droplet", **DROPLET, tags=["x", tag])

    def test_its_tag_tells_the_user_data_and_stays(self, api: Api) -> None:
        made = run_module("digitalocean_droplet", **DROPLET, user_data="#cloud-config\n")
        tag = "sbc:user-data:" + hashlib.sha256(b"#cloud-config\n").hexdigest()[:12]
        assert tag in made["droplet"]["tags"]
        assert not run_module("digitalocean_droplet", **DROPLET, user_data="#cloud-config\n")["changed"]

    def test_its_tag_goes_with_the_last_droplet_that_has_it(self, api: Api) -> None:
        made_with: dict[str, Any] = {"user_data": "#cloud-config\n"}
        old = run_module("digitalocean_droplet", **DROPLET, **made_with)["droplet"]["id"]
        new = run_module("digitalocean_droplet", **DROPLET, **made_with, successor=True)["droplet"]["id"]

        def told() -> list[str]:
            tags = [each["name"] for each in api.client.get_all("tags", "tags")]
            return [tag for tag in tags if tag.startswith("sbc:user-data:")]

        run_module("digitalocean_promotion", customer="contoso", droplet_id=old, successor_id=new)
        assert len(told()) == 1
        assert not run_module("digitalocean_droplet", **DROPLET, **made_with)["changed"]
        run_module("digitalocean_droplet", customer="contoso", state="absent", droplet_id=new)
        assert told() == []

    def test_user_data_is_given_and_not_shown(self, api: Api) -> None:
        secret = "#cloud-config\nssh_keys: {ed25519_private: 5ec2e7}\n"
        assert "5ec2e7" not in str(run_module("digitalocean_droplet", **DROPLET, user_data=secret))
        assert api.control("GET", "state")["droplets"][0]["user_data"] == len(secret)

    @pytest.mark.parametrize("user_data", ["ä", "x" * (64 * 1024 + 1)])
    def test_user_data_that_the_api_would_not_take(self, api: Api, user_data: str) -> None:
        assert "ASCII and 65536 bytes" in failure("digitalocean_droplet", **DROPLET, user_data=user_data)

    @pytest.mark.parametrize("ours_is_first", [True, False])
    def test_of_two_runs_at_the_same_moment_one_makes_it(
        self, api: Api, monkeypatch: pytest.MonkeyPatch, ours_is_first: bool
    ) -> None:
        create, others = Client.create, list[dict[str, Any]]()

        def together(self: Client, path: str, *rest: Any) -> Any:
            made = create(self, path, *rest) if ours_is_first else None
            if path == "droplets":
                others.append(api.droplet("sbc", "sbc:customer:contoso"))
            return made or create(self, path, *rest)

        monkeypatch.setattr(Client, "create", together)
        if ours_is_first:
            # The other run is about to see that it was not the first.
            number = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]
            api.client.destroy_droplet(others[0], 30)
        else:
            message = failure("digitalocean_droplet", **DROPLET)
            assert f"another run made droplet {others[0]['id']} for contoso at the same moment" in message
            number = others[0]["id"]
        assert [each["id"] for each in api.control("GET", "state")["droplets"]] == [number]
        assert not run_module("digitalocean_droplet", **DROPLET)["created"]

    def test_absent_needs_number_and_tag(self, api: Api) -> None:
        number = run_module("digitalocean_droplet", **DROPLET)["droplet"]["id"]
        gone: dict[str, Any] = {"customer": "contoso", "state": "absent"}
        assert "droplet_id" in failure("digitalocean_droplet", **gone)
        assert "nothing was deleted" in failure("digitalocean_droplet", **gone, droplet_id=number + 1)
        assert not run_module("digitalocean_droplet", customer="fabrikam", state="absent", droplet_id=number)["changed"]
        assert run_module("digitalocean_droplet", check=True, **gone, droplet_id=number)["changed"]
        assert len(api.control("GET", "state")["droplets"]) == 1
        assert run_module("digitalocean_droplet", **gone, droplet_id=number)["changed"]
        assert api.control("GET", "state")["droplets"] == []
        assert not run_module("digitalocean_droplet", **gone, droplet_id=number)["changed"]


class TestPromotion:
    """The successor takes over; whatever was done already by a run that was cut off is not done again."""

    def build(self, api: Api, *kinds: str) -> list[int]:
        made = [api.droplet("sbc", "sbc:customer:contoso", *filter(None, [kind])) for kind in kinds]
        api.requests()
        return [each["id"] for each in made]

    def left(self, api: Api) -> dict[int, list[str]]:
        return {each["id"]: sorted(each["tags"]) for each in api.control("GET", "state")["droplets"]}

    @pytest.mark.parametrize(
        ("kinds", "steps"),
        [
            (["", "sbc:successor"], ["POST tags", "POST tags", "DELETE tags", "DELETE droplets"]),
            (["sbc:retired", "sbc:successor"], ["DELETE tags", "DELETE droplets"]),
            (["sbc:retired", ""], ["DELETE droplets"]),
        ],
    )
    def test_from_wherever_it_was_left(self, api: Api, kinds: list[str], steps: list[str]) -> None:
        old, new = self.build(api, *kinds)
        arguments: dict[str, Any] = {"customer": "contoso", "droplet_id": old, "successor_id": new}
        foretold = run_module("digitalocean_promotion", check=True, **arguments)
        assert wrote(api.requests()) == []
        done = run_module("digitalocean_promotion", **arguments)
        assert foretold["diff"] == done["diff"]
        assert [" ".join(line.partition("/")[0].split()[:2]) for line in wrote(api.requests())] == steps
        assert self.left(api) == {new: ["sbc", "sbc:customer:contoso"]}
        assert done["droplets"] == [{"id": new, "kind": "droplet"}]
        assert not run_module("digitalocean_promotion", **arguments)["changed"]
        assert wrote(api.requests()) == []

    @pytest.mark.parametrize("kind", ["lost", "500", "429"])
    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_a_bad_answer_is_overcome(self, api: Api, method: str, kind: str) -> None:
        old, new = self.build(api, "", "sbc:successor")
        api.fault(kind, method)
        run_module("digitalocean_promotion", customer="contoso", droplet_id=old, successor_id=new)
        assert self.left(api) == {new: ["sbc", "sbc:customer:contoso"]}

    def test_the_old_one_may_be_lost_already(self, api: Api) -> None:
        old, new = self.build(api, "", "sbc:successor")
        api.client.delete(f"droplets/{old}")
        assert run_module("digitalocean_promotion", customer="contoso", droplet_id=old, successor_id=new)["changed"]
        assert self.left(api) == {new: ["sbc", "sbc:customer:contoso"]}

    @pytest.mark.parametrize(
        "kinds", [["", ""], ["sbc:successor", ""], ["sbc:retired", "sbc:retired"], ["", "sbc:retired"]]
    )
    def test_nothing_is_destroyed_where_tags_and_numbers_disagree(self, api: Api, kinds: list[str]) -> None:
        old, new = self.build(api, *kinds)
        failure("digitalocean_promotion", customer="contoso", droplet_id=old, successor_id=new)
        assert wrote(api.requests()) == []

    def test_nothing_is_destroyed_of_anyone_else(self, api: Api) -> None:
        old, new = self.build(api, "", "sbc:successor")
        other = api.droplet("sbc", "sbc:customer:fabrikam")["id"]
        for numbers in ((other, new), (old, other), (other, other)):
            arguments = dict(zip(("droplet_id", "successor_id"), numbers, strict=True))
            message = failure("digitalocean_promotion", customer="contoso", **arguments)
            assert f"{old} (droplet), {new} (successor). Nothing was changed" in message
        assert len(self.left(api)) == 3

    def test_it_is_taken_back_while_the_successor_is_one(self, api: Api) -> None:
        old, new = self.build(api, "sbc:retired", "sbc:successor")
        arguments: dict[str, Any] = {"customer": "contoso", "droplet_id": old, "successor_id": new, "state": "absent"}
        assert run_module("digitalocean_promotion", **arguments)["changed"]
        assert self.left(api)[old] == ["sbc", "sbc:customer:contoso"]
        assert "sbc:successor" in self.left(api)[new]
        assert not run_module("digitalocean_promotion", **arguments)["changed"]

    def test_it_is_not_taken_back_later(self, api: Api) -> None:
        old, new = self.build(api, "sbc:retired", "")
        message = failure(
            "digitalocean_promotion", customer="contoso", droplet_id=old, successor_id=new, state="absent"
        )
        assert f"cannot give way again to droplet {old}" in message
        assert wrote(api.requests()) == []


class TestFirewall:
    def test_it_reads_back_as_it_was_written(self, api: Api) -> None:
        result = run_module("digitalocean_firewall", **FIREWALL)
        document = api.client.get(f"firewalls/{result['id']}", "firewall")
        assert document
        assert document["tags"] == ["sbc:customer:contoso"]
        assert [rule["ports"] for rule in document["inbound_rules"]] == ["22", "5061", "0"]
        assert {rule["protocol"] for rule in document["outbound_rules"]} == {"tcp", "udp", "icmp"}

    def test_rules_and_tags_are_replaced_and_droplets_stay(self, api: Api) -> None:
        number = api.droplet("other")["id"]
        id = run_module("digitalocean_firewall", **FIREWALL)["id"]
        api.client.call("POST", f"firewalls/{id}/droplets", {"droplet_ids": [number]})
        result = run_module("digitalocean_firewall", **(FIREWALL | {"inbound": RULES[:1], "tags": ["sbc"]}))
        assert result["changed"]
        assert result["diff"]["after"]["inbound"] == ["tcp 22 198.51.100.0/24"]
        document = api.client.get(f"firewalls/{id}", "firewall")
        assert document
        assert (document["tags"], document["droplet_ids"], len(document["inbound_rules"])) == (["sbc"], [number], 1)

    def test_order_and_spelling_do_not_matter(self, api: Api) -> None:
        run_module("digitalocean_firewall", **FIREWALL)
        split = [rule | {"sources": [source]} for rule in reversed(RULES) for source in rule["sources"]]
        assert not run_module("digitalocean_firewall", **(FIREWALL | {"inbound": split}))["changed"]

    def test_a_tag_that_is_written_otherwise_is_the_same(self, api: Api) -> None:
        run_module("digitalocean_firewall", **FIREWALL)
        assert not run_module("digitalocean_firewall", **FIREWALL | {"tags": ["sbc:customer:Contoso"]})["changed"]
        more = {"tags": ["sbc:customer:Contoso", "Prod"]}
        assert run_module("digitalocean_firewall", **FIREWALL | more)["changed"]
        assert not run_module("digitalocean_firewall", **FIREWALL | more)["changed"]

    def test_a_rule_made_by_hand_is_undone(self, api: Api) -> None:
        id = run_module("digitalocean_firewall", **FIREWALL)["id"]
        rule = {"protocol": "tcp", "ports": "all", "sources": {"tags": ["sbc:customer:contoso"]}}
        api.client.call("POST", f"firewalls/{id}/rules", {"inbound_rules": [rule]})
        result = run_module("digitalocean_firewall", **FIREWALL)
        assert "tcp all tags sbc:customer:contoso" in result["diff"]["before"]["inbound"]
        assert not run_module("digitalocean_firewall", **FIREWALL)["changed"]

    def test_absent(self, api: Api) -> None:
        run_module("digitalocean_firewall", **FIREWALL)
        assert run_module("digitalocean_firewall", name="sbc-contoso", state="absent")["changed"]
        assert not run_module("digitalocean_firewall", name="sbc-contoso", state="absent")["changed"]

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            ({"protocol": "tcp", "ports": "ssh", "sources": ["::/0"]}, "ports 'ssh'"),
            ({"protocol": "tcp", "ports": "22", "sources": ["198.51.100.7/24"]}, "has host bits set"),
        ],
    )
    def test_what_cannot_be_a_rule(self, api: Api, rule: dict[str, Any], message: str) -> None:
        assert message in failure("digitalocean_firewall", **(FIREWALL | {"inbound": [rule]}))


class TestRRset:
    def records(self, api: Api) -> list[tuple[str, str, str, int]]:
        found = api.client.get_all("domains/example.com/records", "domain_records")
        return sorted((r["name"], r["type"], r["data"], r["ttl"]) for r in found if r["type"] not in ("SOA", "NS"))

    def test_names_in_all_their_forms(self, api: Api) -> None:
        run_module("digitalocean_rrset", **RECORD)
        for name in ("sbc1", "sbc1.example.com.", "SBC1.Example.Com"):
            assert not run_module("digitalocean_rrset", **(RECORD | {"name": name}))["changed"]
        for name in ("@", "example.com"):
            result = run_module("digitalocean_rrset", check=True, **(RECORD | {"name": name}))
            assert [each["fqdn"] for each in result["records"]] == ["example.com"]
        assert "not within" in failure("digitalocean_rrset", **(RECORD | {"name": "sbc1.example.org."}))

    def test_an_address_changes_in_place(self, api: Api) -> None:
        before = run_module("digitalocean_rrset", **RECORD)["records"]
        api.requests()
        result = run_module("digitalocean_rrset", **(RECORD | {"values": ["203.0.113.11"]}))
        assert [each["id"] for each in result["records"]] == [each["id"] for each in before]
        assert [line.split()[0] for line in wrote(api.requests())] == ["PUT"]
        assert result["diff"] == {
            "before": "sbc1.example.com. 300 IN A 203.0.113.10\n",
            "after": "sbc1.example.com. 300 IN A 203.0.113.11\n",
        }

    def test_exactly_these_and_no_other_name_or_type(self, api: Api) -> None:
        others = [("sbc1", "AAAA", "2001:db8::1", 300), ("sbc2", "A", "203.0.113.9", 300)]
        twice = [("sbc1", "A", "203.0.113.10", 300)] * 2 + [("sbc1", "A", "203.0.113.7", 300)]
        for name, kind, data, ttl in others + twice:
            body = {"type": kind, "name": name, "data": data, "ttl": ttl}
            api.client.call("POST", "domains/example.com/records", body)
        result = run_module("digitalocean_rrset", **(RECORD | {"values": ["203.0.113.12", "203.0.113.10"]}))
        wanted = [("sbc1", "A", f"203.0.113.{last}", 300) for last in (10, 12)]
        assert self.records(api) == sorted(wanted + others)
        assert sorted(each["data"] for each in result["records"]) == ["203.0.113.10", "203.0.113.12"]

    def test_ttl_is_mended(self, api: Api) -> None:
        run_module("digitalocean_rrset", **RECORD)
        assert run_module("digitalocean_rrset", **RECORD, ttl=60)["changed"]
        assert self.records(api) == [("sbc1", "A", "203.0.113.10", 60)]
        assert "least is 30" in failure("digitalocean_rrset", **RECORD, ttl=29)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [("AAAA", "2001:DB8:0::1"), ("CNAME", "Other.Example.net."), ("NS", "ns1.example.net"), ("TXT", "MS=ms1. ")],
    )
    def test_other_types_read_back_the_same(self, api: Api, kind: str, value: str) -> None:
        record = RECORD | {"type": kind, "values": [value], "name": "other"}
        assert run_module("digitalocean_rrset", **record)["changed"]
        assert not run_module("digitalocean_rrset", **record)["changed"]

    def test_absent(self, api: Api) -> None:
        run_module("digitalocean_rrset", **RECORD)
        elsewhere = RECORD | {"values": ["203.0.113.99"], "state": "absent"}
        assert not run_module("digitalocean_rrset", **elsewhere)["changed"]
        assert run_module("digitalocean_rrset", **RECORD, state="absent")["diff"]["after"] == ""
        assert self.records(api) == []

    def test_a_domain_that_is_not_there(self, api: Api) -> None:
        message = failure("digitalocean_rrset", **(RECORD | {"domain": "example.org", "name": "sbc1"}))
        assert "GET domains/example.org/records: 404" in message

    def test_what_cannot_be_an_address(self, api: Api) -> None:
        assert "'::1' cannot be the data" in failure("digitalocean_rrset", **(RECORD | {"values": ["::1"]}))
        assert "values of sbc1.example.com is empty" in failure("digitalocean_rrset", **(RECORD | {"values": []}))


class TestRRsets:
    """A customer's names in one task: the base, its tenants, and who answers for its challenges."""

    ADDRESS, BASE, CHALLENGE = "203.0.113.10", "sbc1.example.com", "_acme-challenge.sbc1.example.com"

    def names(self, *tenants: str, delegated: bool = True) -> dict[str, Any]:
        addresses = [{"name": ".".join((*label, self.BASE)), "values": [self.ADDRESS]} for label in ((), *zip(tenants))]
        delegation = [{"name": self.CHALLENGE, "type": "NS", "values": [self.BASE]}] if delegated else []
        stale = [
            {"below": self.BASE, "type": "A", "value": self.ADDRESS},
            {"name": self.CHALLENGE, "type": "NS", "value": self.BASE},
        ]
        return {"domain": "example.com", "rrsets": addresses + delegation, "prune": stale}

    def records(self, api: Api) -> list[str]:
        found = api.client.get_all("domains/example.com/records", "domain_records")
        return sorted(f"{r['name']} {r['type']} {r['data']}" for r in found if r["type"] != "SOA" and r["name"] != "@")

    def make(self, api: Api, name: str, kind: str, data: str) -> None:
        api.client.call("POST", "domains/example.com/records", {"type": kind, "name": name, "data": data, "ttl": 300})

    def test_from_nothing_to_all_names_and_then_no_change(self, api: Api) -> None:
        wanted = self.names("fabrikam", "tailspin")
        foretold = run_module("digitalocean_rrset", check=True, **wanted)
        assert wrote(api.requests()) == []
        done = run_module("digitalocean_rrset", **wanted)
        assert foretold["diff"] == done["diff"]
        assert done["diff"]["after"] == (
            "_acme-challenge.sbc1.example.com. 300 IN NS sbc1.example.com.\n"
            "fabrikam.sbc1.example.com. 300 IN A 203.0.113.10\n"
            "sbc1.example.com. 300 IN A 203.0.113.10\n"
            "tailspin.sbc1.example.com. 300 IN A 203.0.113.10\n"
        )
        assert [line.split()[0] for line in api.requests()] == ["GET", *["POST"] * 4]
        assert self.records(api) == [
            "_acme-challenge.sbc1 NS sbc1.example.com",
            "fabrikam.sbc1 A 203.0.113.10",
            "sbc1 A 203.0.113.10",
            "tailspin.sbc1 A 203.0.113.10",
        ]
        assert all(each["id"] for each in done["records"])
        api.requests()
        assert not run_module("digitalocean_rrset", **wanted)["changed"]
        assert [line.split()[0] for line in api.requests()] == ["GET"]

    def test_a_tenant_that_is_gone_takes_its_record_along(self, api: Api) -> None:
        run_module("digitalocean_rrset", **self.names("fabrikam", "tailspin"))
        foretold = run_module("digitalocean_rrset", check=True, **self.names("fabrikam"))
        done = run_module("digitalocean_rrset", **self.names("fabrikam"))
        assert foretold["diff"] == done["diff"]
        assert "tailspin.sbc1 A 203.0.113.10" not in self.records(api)
        assert len(self.records(api)) == 3

    def test_the_wildcard_in_place_of_each_and_back(self, api: Api) -> None:
        run_module("digitalocean_rrset", **self.names("fabrikam", "tailspin"))
        api.requests()
        run_module("digitalocean_rrset", **self.names("*"))
        assert [line.split()[0] for line in wrote(api.requests())] == ["POST", "DELETE", "DELETE"]
        assert "*.sbc1 A 203.0.113.10" in self.records(api)
        assert len(self.records(api)) == 3
        run_module("digitalocean_rrset", **self.names("fabrikam"))
        assert "*.sbc1 A 203.0.113.10" not in self.records(api)

    def test_without_tenants_nothing_is_delegated(self, api: Api) -> None:
        run_module("digitalocean_rrset", **self.names("fabrikam"))
        run_module("digitalocean_rrset", **self.names(delegated=False))
        assert self.records(api) == ["sbc1 A 203.0.113.10"]

    def test_what_is_not_ours_stays(self, api: Api) -> None:
        others = [
            ("elsewhere.sbc1", "A", "203.0.113.99"),
            ("deep.er.sbc1", "A", self.ADDRESS),
            ("web", "A", self.ADDRESS),
            ("mail.sbc1", "TXT", "v=spf1 -all"),
            ("_acme-challenge.sbc1", "NS", "acme-dns.example.net."),
        ]
        for other in others:
            self.make(api, *other)
        run_module("digitalocean_rrset", **self.names(delegated=False))
        assert self.records(api) == sorted(
            [*(f"{name} {kind} {data.rstrip('.')}" for name, kind, data in others), "sbc1 A 203.0.113.10"]
        )

    def test_an_alias_in_the_way(self, api: Api) -> None:
        self.make(api, "fabrikam.sbc1", "CNAME", "sbc.example.net.")
        api.requests()
        message = failure("digitalocean_rrset", **self.names("fabrikam"))
        assert "fabrikam.sbc1.example.com has a record of type CNAME (sbc.example.net), beside which none" in message
        assert "remove it from the domain example.com" in message
        assert wrote(api.requests()) == []

    def test_a_record_in_the_way_of_an_alias(self, api: Api) -> None:
        self.make(api, "other", "A", self.ADDRESS)
        alias = {"domain": "example.com", "name": "other", "type": "CNAME", "values": ["sbc.example.net"]}
        assert "has a record of type A (203.0.113.10)" in failure("digitalocean_rrset", **alias)

    def test_all_of_them_can_be_taken_away(self, api: Api) -> None:
        wanted = self.names("fabrikam")
        run_module("digitalocean_rrset", **wanted)
        assert run_module("digitalocean_rrset", **wanted, state="absent")["changed"]
        assert self.records(api) == []
        assert not run_module("digitalocean_rrset", **wanted, state="absent")["changed"]

    def test_one_name_or_several(self, api: Api) -> None:
        assert "mutually exclusive: name|rrsets" in failure("digitalocean_rrset", **self.names(), name="sbc1")
        assert "one of the following is required: name, rrsets" in failure("digitalocean_rrset", domain="example.com")
