"""The lab's DigitalOcean API, asked over HTTP by python-digitalocean and by hand.

Every exchange, of whichever client, is held against DigitalOcean's published contract when its test has ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import digitalocean
import pytest
import requests

from lab import settings
from lab.digitalocean import FirewallRules, PortRule, scopes
from lab.digitalocean.routes import ROUTES
from tests.contract.judge import FILE, JUDGE, MISSING
from tests.contract.validator import ON_PURPOSE
from tests.lab.api import DROPLET, FIRST_ADDRESS, KEY, KEY_FINGERPRINT, OUT, PATIENCE, ROOT, SSH, Lab, until

# Authentication, limits, pages, errors


def test_only_bearers_of_an_accepted_token_get_in(lab: Lab) -> None:
    assert lab.call("GET", "/account").status_code == 200
    assert lab.call("GET", "/account", token="").status_code == 401
    lab.control("POST", "/tokens/refuse", {"token": "revoked"})
    answer = lab.call("GET", "/account", token="revoked")
    assert (answer.status_code, answer.json()["id"]) == (401, "Unauthorized")
    assert "revoked" not in json.dumps([lab.control("GET", "/state"), lab.control("GET", "/requests")])
    lab.control("DELETE", "/tokens/refuse")
    assert lab.call("GET", "/account", token="revoked").status_code == 200


def test_the_hour_s_quota_is_told(lab: Lab) -> None:
    first, second = lab.call("GET", "/account"), lab.call("GET", "/account")
    assert first.headers["ratelimit-limit"] == "5000"
    assert int(second.headers["ratelimit-remaining"]) == int(first.headers["ratelimit-remaining"]) - 1
    assert time.time() < int(first.headers["ratelimit-reset"]) <= time.time() + 3601


def test_limits_a_minute_are_enforced_on_demand(lab: Lab) -> None:
    lab.control("POST", "/account", {"key_reads_per_minute": 2})
    begun = time.time()
    answers = [lab.call("GET", "/account/keys") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 59 - (time.time() - begun) <= int(answers[-1].headers["retry-after"]) <= 60
    assert lab.call("GET", "/account").status_code == 200


def test_the_hour_s_limit_is_enforced_on_demand_and_has_no_retry_after(lab: Lab) -> None:
    lab.control("POST", "/account", {"requests_per_hour": 2})
    answers = [lab.call("GET", "/account") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert "retry-after" not in answers[-1].headers
    lab.control("POST", "/account", {"requests_per_hour": 0})
    assert lab.call("GET", "/account").status_code == 200


def test_a_token_may_do_what_its_scopes_say_and_sees_no_more(lab: Lab) -> None:
    lab.control("POST", "/tokens/scopes", {"token": "some", "scopes": ["droplet:read", "droplet:create", "tag:read"]})
    droplet = lab.active(tags=["sbc"])
    refused = lab.call("GET", "/domains", token="some")
    assert (refused.status_code, refused.json()["id"]) == (403, "Forbidden")
    assert refused.json()["message"] == "You are not authorized to perform this operation"
    # Nobody looks at what is asked for before it is known who may ask.
    assert lab.call("POST", "/domains", {"name": "Not A Domain"}, token="some").status_code == 403
    assert lab.call("POST", "/droplets", {}, token="some", on_purpose=True).status_code == 422
    assert lab.call("POST", "/droplets", {**DROPLET, "tags": ["sbc"]}, token="some").status_code == 403
    assert lab.call("POST", f"/droplets/{droplet['id']}/actions", {"type": "reboot"}, token="some").status_code == 403
    seen = lab.call("GET", f"/droplets/{droplet['id']}", token="some").json()["droplet"]
    assert seen["tags"] == ["sbc"]
    lab.control("POST", "/tokens/scopes", {"token": "some", "scopes": ["droplet:read"]})
    assert lab.call("GET", "/droplets", token="some").json()["droplets"][0]["tags"] == []
    assert lab.call("GET", "/domains").status_code == 200, "another token has no limits"
    assert lab.call("GET", "/droplets/1", token="some").status_code == 404
    lab.control("DELETE", "/tokens/scopes")
    assert lab.call("GET", "/domains", token="some").status_code == 200


def test_every_call_asks_for_the_scopes_of_the_published_contract() -> None:
    if JUDGE.contract is None:
        pytest.skip(MISSING)
    published = {
        (method.upper(), re.sub(r"{.*?}", "{}", path).replace("/default", "/{}")): operation["security"]
        for path, operations in json.loads(FILE.read_text())["paths"].items()
        for method, operation in operations.items()
        if isinstance(operation, dict) and "security" in operation
    }
    for method, path, _ in ROUTES:
        plain = re.sub(r"{.*?}", "{}", path.replace("{members:droplets|tags}", "tags"))
        ours = scopes.alternatives(method, "/v2" + re.sub(r":.*?}", "}", path))
        theirs = [set(each["bearer_auth"]) for each in published[method, "/v2" + plain]]
        # A snapshot of a volume asks for another scope than one of a droplet; ours are of droplets.
        theirs = [each - {"block_storage_snapshot:read"} for each in theirs]
        assert all(each in ours for each in theirs), (method, path, ours, theirs)
        assert all(each in theirs for each in ours) or (method == "POST" and path.endswith("/resources")), (path, ours)


def test_unknown_paths_and_methods_and_bodies(lab: Lab) -> None:
    for method, path in [
        ("GET", "/droplets/1"),
        ("GET", "/droplets/x"),
        ("GET", "/domains/other.test"),
        ("GET", "/account/keys/aa:bb"),
        ("GET", "/tags/none"),
        ("GET", "/images/plan9"),
        ("GET", "/actions/1"),
        ("DELETE", "/domains/voip.test/records/1"),
        ("PUT", "/firewalls/bb4b2611-3d72-467b-8602-280330ecd65c"),
    ]:
        body = {"name": "fw", "inbound_rules": [SSH]} if method == "PUT" else None
        assert lab.refused(method, path, body)[0] == 404, path
    headers = {"Authorization": "Bearer t", "User-Agent": ON_PURPOSE}
    bad = requests.post(f"{lab.url}/v2/tags", data="{", headers=headers, timeout=PATIENCE)
    assert bad.status_code == 400


def test_droplets_are_not_destroyed_by_tag(lab: Lab) -> None:
    droplet = lab.active(tags=["sbc"])
    assert lab.refused("DELETE", "/droplets?tag_name=sbc")[0] == 404
    assert lab.machines.running == {droplet["id"]: True}


def test_pages_are_of_20_by_default_and_200_at_most_and_link_absolutely(lab: Lab) -> None:
    for number in range(23):
        lab.ok("POST", "/tags", {"name": f"t{number}"})
    page = lab.ok("GET", "/tags")
    assert (len(page["tags"]), page["meta"]["total"]) == (20, 23)
    assert page["links"]["pages"].keys() == {"next", "last"}
    rest = requests.get(page["links"]["pages"]["next"], headers={"Authorization": "Bearer t"}, timeout=PATIENCE).json()
    assert [tag["name"] for tag in rest["tags"]] == ["t20", "t21", "t22"]
    assert rest["links"]["pages"].keys() == {"first", "prev"}
    assert lab.ok("GET", "/tags?per_page=23")["links"] == {}
    assert "per_page=200" in lab.ok("GET", "/tags?per_page=999&page=2", on_purpose=True)["links"]["pages"]["prev"]


def test_exchanges_are_kept_whole_but_for_the_token_until_they_are_taken(lab: Lab) -> None:
    lab.control("DELETE", "/exchanges")
    lab.call("POST", "/tags?page=1", {"name": "sbc"}, token="secret")
    lab.control("POST", "/faults", {"kind": "dropped", "method": "GET"})
    with pytest.raises(requests.ConnectionError):
        lab.call("GET", "/tags")
    lab.control("POST", "/reset")
    taken = lab.control("DELETE", "/exchanges")
    assert "secret" not in json.dumps(taken)
    made, dropped = taken["exchanges"]
    assert (made["method"], made["path"], made["status"], made["fault"]) == ("POST", "/v2/tags?page=1", 201, None)
    assert (json.loads(made["body"]), json.loads(made["answer"])["tag"]["name"]) == ({"name": "sbc"}, "sbc")
    assert made["headers"]["ratelimit-limit"] == "5000"
    assert made["content_type"] == "application/json"
    assert (dropped["status"], dropped["answer"], dropped["fault"]) == (None, "", "dropped")
    assert lab.control("GET", "/exchanges") == {"exchanges": [], "forgotten": 0}


def test_exchanges_that_are_too_many_are_forgotten_but_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.control("DELETE", "/exchanges")
    monkeypatch.setattr("lab.digitalocean.traffic.EXCHANGES_BYTES", 100)
    for _ in range(2):
        lab.call("POST", "/tags", {"name": "x" * 70})
    taken = lab.control("DELETE", "/exchanges")
    assert (taken["exchanges"], taken["forgotten"]) == ([], 2)


# Keys and tags


def test_keys(lab: Lab) -> None:
    key = lab.ok("POST", "/account/keys", {"name": "operator", "public_key": KEY})["ssh_key"]
    assert key["fingerprint"] == KEY_FINGERPRINT
    assert lab.refused("POST", "/account/keys", {"name": "again", "public_key": KEY}) == (
        422,
        "SSH Key is already in use on your account",
    )
    assert lab.refused("POST", "/account/keys", {"name": "bad", "public_key": "ssh-rsa"})[0] == 422
    assert lab.ok("PUT", f"/account/keys/{KEY_FINGERPRINT}", {"name": "new"})["ssh_key"]["name"] == "new"
    assert lab.ok("GET", "/account/keys")["ssh_keys"] == [{**key, "name": "new"}]
    assert lab.ok("GET", f"/account/keys/{key['id']}") == {"ssh_key": {**key, "name": "new"}}
    lab.ok("DELETE", f"/account/keys/{key['id']}")
    assert lab.refused("GET", f"/account/keys/{KEY_FINGERPRINT}")[0] == 404


def test_tags_keep_their_first_spelling_and_count_their_droplets(lab: Lab) -> None:
    assert lab.ok("POST", "/tags", {"name": "sbc:customer:Alpha"})["tag"]["name"] == "sbc:customer:Alpha"
    assert lab.ok("POST", "/tags", {"name": "SBC:customer:alpha"})["tag"]["name"] == "sbc:customer:Alpha"
    assert lab.refused("POST", "/tags", {"name": "no spaces"})[0] == 422
    droplet = lab.active()
    resources = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    lab.ok("POST", "/tags/sbc:customer:Alpha/resources", resources)
    tag = lab.ok("GET", "/tags/sbc:customer:Alpha")["tag"]
    assert tag["resources"]["droplets"]["count"] == 1
    assert lab.ok("GET", f"/droplets/{droplet['id']}")["droplet"]["tags"] == ["sbc:customer:Alpha"]
    lab.ok("DELETE", "/tags/sbc:customer:Alpha/resources", resources)
    assert lab.ok("GET", "/droplets?tag_name=sbc:customer:Alpha")["droplets"] == []
    lab.ok("POST", "/tags/sbc:customer:Alpha/resources", resources)
    lab.ok("DELETE", "/tags/sbc:customer:Alpha")
    assert lab.ok("GET", f"/droplets/{droplet['id']}")["droplet"]["tags"] == []
    assert lab.ok("GET", "/tags")["tags"] == []


# Droplets


def test_a_droplet_is_new_then_active_and_then_has_an_address(lab: Lab) -> None:
    lab.control("POST", "/account", {"boot_seconds": 0, "address_seconds": 3})  # long enough to be seen in between
    lab.machines.held = True
    lab.ok("POST", "/account/keys", {"name": "operator", "public_key": KEY})
    answer = lab.call(
        "POST",
        "/droplets",
        {**DROPLET, "ssh_keys": [KEY_FINGERPRINT], "user_data": "#cloud-config\n", "tags": ["sbc"], "monitoring": True},
    )
    assert answer.status_code == 202
    droplet, (link,) = answer.json()["droplet"], answer.json()["links"]["actions"]
    assert (droplet["status"], droplet["locked"], droplet["networks"]["v4"]) == ("new", True, [])
    path = f"/droplets/{droplet['id']}"
    action = requests.get(link["href"], headers={"Authorization": "Bearer t"}, timeout=PATIENCE).json()["action"]
    assert (action["type"], action["status"], link["rel"]) == ("create", "in-progress", "create")
    assert lab.refused("POST", f"{path}/actions", {"type": "reboot"}) == (422, "Droplet already has a pending event.")

    lab.machines.held = False
    active = until(lambda: lab.ok("GET", path)["droplet"], lambda d: d["status"] == "active")
    assert (active["networks"]["v4"], active["locked"]) == ([], False)
    assert lab.ok("GET", f"/actions/{link['id']}")["action"]["status"] == "completed"
    private, public = until(lambda: lab.ok("GET", path)["droplet"]["networks"]["v4"], bool)
    assert private["type"] == "private"
    assert public == {
        "type": "public",
        "ip_address": FIRST_ADDRESS,
        "netmask": "255.255.0.0",
        "gateway": settings.DROPLETS_GATEWAY,
    }
    spec = lab.machines.specs[droplet["id"]]
    assert (spec.address, spec.prefix, spec.gateway) == (FIRST_ADDRESS, 16, settings.DROPLETS_GATEWAY)
    assert (spec.user_data, spec.public_keys) == ("#cloud-config\n", (KEY,))


def test_names_are_not_unique_and_lists_filter_by_name_or_by_tag(lab: Lab) -> None:
    ids = [lab.active(tags=[tag])["id"] for tag in ("one", "two")]
    assert [d["id"] for d in lab.ok("GET", "/droplets?name=alpha")["droplets"]] == ids
    assert [d["id"] for d in lab.ok("GET", "/droplets?tag_name=two")["droplets"]] == ids[1:]
    assert lab.ok("GET", "/droplets?name=beta")["droplets"] == []
    assert lab.refused("GET", "/droplets?name=alpha&tag_name=one")[0] == 422


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "no_underscore"}, "Only valid hostname characters"),
        ({"size": "s-0"}, "invalid size"),
        ({"region": "mars1"}, "invalid region"),
        ({"region": "nyc2"}, "Region is not available"),
        ({"region": "lon1", "size": "s-1vcpu-512mb-10gb"}, "Size is not available"),
        ({"image": "debian-3-x64"}, "invalid image"),
        ({"ssh_keys": ["aa:bb"]}, "aa:bb are invalid key identifiers"),
        ({"user_data": "x" * 65537}, "too long"),
        ({"user_data": "é"}, "ASCII"),
        ({"tags": ["no spaces"]}, "Name is invalid"),
    ],
)
def test_what_cannot_be_created(lab: Lab, change: dict[str, Any], message: str) -> None:
    status, said = lab.refused("POST", "/droplets", {**DROPLET, **change})
    assert status == 422
    assert message in said
    assert lab.machines.specs == {}


def test_the_droplet_limit_holds(lab: Lab) -> None:
    lab.control("POST", "/account", {"droplet_limit": 1})
    assert lab.ok("GET", "/account")["account"]["droplet_limit"] == 1
    droplet = lab.active()
    assert lab.refused("POST", "/droplets", DROPLET) == (
        422,
        "creating this/these droplet(s) will exceed your droplet limit",
    )
    lab.ok("DELETE", f"/droplets/{droplet['id']}")
    lab.active()


def test_a_destroyed_droplet_is_gone_and_its_address_free(lab: Lab) -> None:
    first, second = lab.active(), lab.active()
    lab.ok("DELETE", f"/droplets/{first['id']}")
    assert lab.refused("DELETE", f"/droplets/{first['id']}")[0] == 404
    assert lab.machines.running == {second["id"]: True}
    assert lab.active()["networks"]["v4"][1]["ip_address"] == first["networks"]["v4"][1]["ip_address"]


def test_a_droplet_that_is_still_being_made_can_be_destroyed(lab: Lab) -> None:
    lab.machines.seconds = 0.2
    for end in ("DELETE", "reset"):
        droplet = lab.ok("POST", "/droplets", DROPLET)["droplet"]
        if end == "DELETE":
            lab.ok("DELETE", f"/droplets/{droplet['id']}")
        else:
            lab.control("POST", "/reset")
        assert (lab.machines.running, lab.machines.firewalls) == ({}, {})
        assert lab.refused("GET", f"/droplets/{droplet['id']}")[0] == 404


def test_a_machine_that_cannot_be_made_ends_its_action_in_error(lab: Lab) -> None:
    lab.machines.broken = True
    answer = lab.ok("POST", "/droplets", DROPLET)
    path = f"/actions/{answer['links']['actions'][0]['id']}"
    until(lambda: lab.ok("GET", path)["action"], lambda action: action["status"] == "errored")
    assert lab.ok("GET", f"/droplets/{answer['droplet']['id']}")["droplet"]["status"] == "new"
    lab.ok("DELETE", f"/droplets/{answer['droplet']['id']}")


def test_actions_switch_and_rename(lab: Lab) -> None:
    droplet = lab.active()
    path = f"/droplets/{droplet['id']}"

    def act(**body: str) -> Any:
        action = lab.ok("POST", f"{path}/actions", body)["action"]
        return until(
            lambda: lab.ok("GET", f"{path}/actions/{action['id']}")["action"], lambda a: a["status"] == "completed"
        )

    act(type="power_off")
    assert lab.ok("GET", path)["droplet"]["status"] == "off"
    assert lab.machines.running == {droplet["id"]: False}
    assert "power it on" in lab.refused("POST", f"{path}/actions", {"type": "reboot"})[1]
    act(type="power_on")
    act(type="reboot")
    assert lab.machines.running == {droplet["id"]: True}
    act(type="rename", name="beta")
    assert lab.ok("GET", path)["droplet"]["name"] == "beta"
    assert lab.refused("POST", f"{path}/actions", {"type": "self_destruct"})[0] == 422
    kinds = [action["type"] for action in lab.ok("GET", f"{path}/actions")["actions"]]
    assert kinds == ["rename", "reboot", "power_on", "power_off", "create"]
    assert len(lab.ok("GET", "/actions")["actions"]) == len(kinds)


# Domains


def test_a_new_domain_has_its_soa_and_name_servers(lab: Lab) -> None:
    lab.ok("POST", "/domains", {"name": "example.test", "ip_address": "203.0.113.99"})
    assert lab.refused("POST", "/domains", {"name": "example.test"})[0] == 422
    assert lab.refused("POST", "/domains", {"name": "Not A Domain"})[0] == 422
    records = lab.ok("GET", "/domains/example.test/records")["domain_records"]
    assert [record["type"] for record in records] == ["SOA", "NS", "NS", "NS", "A"]
    assert records[-1]["data"] == "203.0.113.99"
    assert [domain["name"] for domain in lab.ok("GET", "/domains")["domains"]] == ["voip.test", "example.test"]
    assert "@ 1800 IN NS ns1.digitalocean.com." in lab.ok("GET", "/domains/example.test")["domain"]["zone_file"]
    lab.ok("DELETE", "/domains/example.test")
    assert lab.refused("GET", "/domains/example.test/records")[0] == 404


def test_records(lab: Lab) -> None:
    path = "/domains/voip.test/records"
    new = {"type": "A", "name": "sbc", "data": "203.0.113.10", "ttl": 60}
    first, second = (lab.ok("POST", path, new)["domain_record"] for _ in range(2))
    assert first["id"] != second["id"], "duplicates are allowed"
    assert len(lab.ok("GET", f"{path}?type=A&name=sbc.voip.test")["domain_records"]) == 2
    assert lab.ok("GET", f"{path}?type=AAAA&name=sbc.voip.test")["domain_records"] == []
    assert len(lab.ok("GET", f"{path}?name=voip.test")["domain_records"]) == 4
    lab.ok("DELETE", f"{path}/{second['id']}")
    for method in ("PUT", "PATCH"):
        body = {"type": "A", "data": f"203.0.113.{len(method)}"}
        assert lab.ok(method, f"{path}/{first['id']}", body)["domain_record"] == {**first, **body}
    assert lab.ok("GET", f"{path}/{first['id']}")["domain_record"]["data"] == "203.0.113.5"


def test_host_names_are_written_with_a_final_dot_and_read_without(lab: Lab) -> None:
    path = "/domains/voip.test/records"
    new = {"type": "CNAME", "name": "www", "data": "sbc.voip.test."}
    record = lab.ok("POST", path, new)["domain_record"]
    assert record["data"] == "sbc.voip.test"
    without = {**new, "name": "web", "data": "sbc.voip.test"}
    assert lab.refused("POST", path, without) == (422, "Data needs to end with a dot (.)")
    assert lab.refused("PUT", f"{path}/{record['id']}", {"type": "CNAME", "ttl": 300})[0] == 422


def test_a_delegation_and_a_wildcard(lab: Lab) -> None:
    path = "/domains/voip.test/records"
    delegation = {"type": "NS", "name": "_acme-challenge.sbc", "data": "sbc.voip.test.", "ttl": 300}
    record = lab.ok("POST", path, delegation)["domain_record"]
    assert (record["name"], record["data"]) == ("_acme-challenge.sbc", "sbc.voip.test")
    (found,) = lab.ok("GET", f"{path}?type=NS&name=_acme-challenge.sbc.voip.test")["domain_records"]
    assert found == record
    wildcard = lab.ok("POST", path, {"type": "A", "name": "*.sbc", "data": "203.0.113.10"})["domain_record"]
    assert lab.ok("GET", f"{path}?type=A&name=*.sbc.voip.test")["domain_records"] == [wildcard]


def test_records_of_one_name_share_a_ttl_of_at_least_30_seconds(lab: Lab) -> None:
    path = "/domains/voip.test/records"
    a = lab.ok("POST", path, {"type": "A", "name": "sbc", "data": "203.0.113.10", "ttl": 60})["domain_record"]
    txt = lab.ok("POST", path, {"type": "TXT", "name": "sbc", "data": "hello"})["domain_record"]
    assert txt["ttl"] == 60
    lab.ok("PUT", f"{path}/{txt['id']}", {"type": "TXT", "ttl": 30})
    assert lab.ok("GET", f"{path}/{a['id']}")["domain_record"]["ttl"] == 30
    assert "ttl" in lab.refused("PUT", f"{path}/{txt['id']}", {"type": "TXT", "ttl": 29})[1]


@pytest.mark.parametrize(
    "body",
    [
        {"type": "A", "name": "x", "data": "203.0.113.256"},
        {"type": "AAAA", "name": "x", "data": "203.0.113.2"},
        {"type": "A", "name": "x"},
        {"type": "A", "name": "bad name", "data": "203.0.113.2"},
        {"type": "SRV", "name": "_sip._tls", "data": "sbc.voip.test.", "priority": 1, "port": 5061},
        {"type": "MX", "data": "mail.voip.test."},
        {"type": "MX", "data": "mail.voip.test.", "priority": "10"},
        {"type": "CNAME", "name": "@", "data": "x.test."},
        {"type": "HINFO", "name": "x", "data": "x"},
        {"type": "SOA", "name": "@", "data": "1800", "ttl": 1800},
    ],
)
def test_wrong_records_are_refused(lab: Lab, body: dict[str, Any]) -> None:
    before = lab.zones[-1]
    assert lab.refused("POST", "/domains/voip.test/records", body)[0] == 422
    assert lab.zones == [before]


def test_zones_are_published_before_the_answer_and_only_when_they_differ(lab: Lab) -> None:
    assert [list(zones) for zones in lab.zones] == [["voip.test"]]
    lab.ok("POST", "/domains/voip.test/records", {"type": "A", "name": "sbc", "data": "203.0.113.10"})
    assert [record["name"] for record in lab.zones[-1]["voip.test"]][-1] == "sbc"
    lab.ok("POST", "/tags", {"name": "other"})
    assert len(lab.zones) == 2


# Firewalls


def test_a_firewall_selects_by_tag_and_by_id_and_reaches_the_machines(lab: Lab) -> None:
    tagged, named, other = lab.active(tags=["sbc"]), lab.active(), lab.active()
    lab.ok("POST", "/firewalls", {"name": "by-tag", "inbound_rules": [SSH], "outbound_rules": [OUT], "tags": ["sbc"]})
    answer = lab.call("POST", "/firewalls", {"name": "by-id", "inbound_rules": [SSH], "droplet_ids": [named["id"]]})
    firewall = answer.json()["firewall"]
    assert answer.status_code == 202
    assert firewall["pending_changes"] == [{"droplet_id": named["id"], "removing": False, "status": "waiting"}]
    assert lab.ok("GET", f"/firewalls/{firewall['id']}")["firewall"]["status"] == "succeeded"

    ssh = PortRule("tcp", "22", ("192.0.2.0/24", "2001:db8::/32"))
    assert lab.machines.firewalls == {
        tagged["id"]: FirewallRules((ssh,), (PortRule("udp", None, ("0.0.0.0/0",)),)),
        named["id"]: FirewallRules((ssh,), ()),
        other["id"]: None,
    }

    sip = {"protocol": "tcp", "ports": "5061", "sources": {"tags": ["sbc"]}}
    lab.ok("POST", f"/firewalls/{firewall['id']}/rules", {"inbound_rules": [sip]})
    lab.ok("POST", f"/firewalls/{firewall['id']}/tags", {"tags": ["sbc"]})
    address = tagged["networks"]["v4"][1]["ip_address"]
    merged = FirewallRules((ssh, PortRule("tcp", "5061", (f"{address}/32",))), (PortRule("udp", None, ("0.0.0.0/0",)),))
    assert lab.machines.firewalls[tagged["id"]] == merged
    lab.ok("DELETE", f"/firewalls/{firewall['id']}/rules", {"inbound_rules": [sip]})
    lab.ok("DELETE", f"/firewalls/{firewall['id']}/tags", {"tags": ["sbc"]})
    lab.ok("DELETE", f"/firewalls/{firewall['id']}/droplets", {"droplet_ids": [named["id"]]})
    lab.ok("POST", f"/firewalls/{firewall['id']}/droplets", {"droplet_ids": [other["id"]]})
    assert lab.machines.firewalls[named["id"]] is None
    assert lab.machines.firewalls[other["id"]] == FirewallRules((ssh,), ())
    lab.ok("DELETE", f"/droplets/{other['id']}")
    assert lab.ok("GET", f"/firewalls/{firewall['id']}")["firewall"]["droplet_ids"] == []

    late = lab.active(tags=["sbc"])
    assert lab.machines.firewalls[late["id"]] == lab.machines.firewalls[tagged["id"]]
    for document in lab.ok("GET", "/firewalls")["firewalls"]:
        lab.ok("DELETE", f"/firewalls/{document['id']}")
    assert set(lab.machines.firewalls.values()) == {None}


def test_replacing_a_firewall_empties_what_is_not_given(lab: Lab) -> None:
    lab.ok("POST", "/tags", {"name": "sbc"})
    body = {"name": "fw", "inbound_rules": [{**SSH, "ports": "all"}], "outbound_rules": [OUT], "tags": ["sbc"]}
    firewall = lab.ok("POST", "/firewalls", body)["firewall"]
    assert firewall["inbound_rules"][0]["ports"] == "0"
    icmp = {"protocol": "icmp", "sources": {"addresses": ["0.0.0.0/0"]}}
    lab.ok("PUT", f"/firewalls/{firewall['id']}", {"name": "fw", "inbound_rules": [icmp]}, on_purpose=True)
    read = lab.ok("GET", f"/firewalls/{firewall['id']}")["firewall"]
    assert read["inbound_rules"] == [{**icmp, "ports": "0"}]
    assert (read["outbound_rules"], read["tags"], read["droplet_ids"]) == ([], [], [])


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"tags": ["unmade"]}, 422, "unmade"),
        ({"droplet_ids": [7]}, 422, "7"),
        ({"inbound_rules": []}, 422, "at least one"),
        ({"inbound_rules": ["ssh"]}, 422, "object"),
        ({"inbound_rules": [{**SSH, "ports": "70000"}]}, 422, "ports"),
        ({"inbound_rules": [{**SSH, "ports": "20-10"}]}, 422, "ports"),
        ({"inbound_rules": [{**SSH, "protocol": "sctp"}]}, 422, "protocol"),
        ({"inbound_rules": [{**SSH, "sources": {"addresses": ["example.test"]}}]}, 422, "example.test"),
        ({"inbound_rules": [{**SSH, "sources": {}}]}, 422, "sources"),
        ({"name": "_"}, 422, "name"),
        ({"name": "taken"}, 409, "duplicate name"),
    ],
)
def test_wrong_firewalls_are_refused(lab: Lab, change: dict[str, Any], status: int, message: str) -> None:
    lab.ok("POST", "/firewalls", {"name": "taken", "inbound_rules": [SSH]})
    got, said = lab.refused("POST", "/firewalls", {"name": "fw", "inbound_rules": [SSH], **change})
    assert got == status
    assert message in said


def test_what_is_on_offer(lab: Lab) -> None:
    regions = {region["slug"]: region for region in lab.ok("GET", "/regions")["regions"]}
    sizes = {size["slug"]: size for size in lab.ok("GET", "/sizes")["sizes"]}
    assert "s-1vcpu-1gb" in regions["fra1"]["sizes"]
    assert not regions["nyc2"]["available"]
    assert "lon1" not in sizes["s-1vcpu-512mb-10gb"]["regions"]
    images = lab.ok("GET", "/images?type=distribution")["images"]
    assert {"debian-12-x64", "debian-13-x64"} <= {image["slug"] for image in images}
    assert lab.ok("GET", "/images?private=true")["images"] == []
    assert lab.ok("GET", f"/images/{images[0]['id']}") == lab.ok("GET", "/images/debian-13-x64")


# Faults and the other side


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "429", "retry_after": 7}, 429),
        ({"kind": "429"}, 429),
        ({"kind": "500"}, 500),
        ({"kind": "502html"}, 502),
        ({"kind": "422pending"}, 422),
        ({"kind": "404"}, 404),
        ({"kind": "slow", "seconds": 0.2}, 201),
    ],
)
def test_a_fault_strikes_where_and_as_often_as_it_is_told(lab: Lab, fault: dict[str, Any], status: int) -> None:
    lab.control("POST", "/faults", {"method": "POST", "path_glob": "/v2/ta*", "after": 1, "count": 2, **fault})
    assert lab.call("GET", "/tags").status_code == 200
    began = time.monotonic()
    answers = [lab.call("POST", "/tags/", {"name": "sbc"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [201, status, status, 201]
    assert answers[1].headers.get("retry-after") == (str(fault["retry_after"]) if "retry_after" in fault else None)
    assert "ratelimit-remaining" in answers[1].headers
    assert time.monotonic() - began >= 2 * fault.get("seconds", 0)
    assert [entry["fault"] for entry in lab.control("GET", "/requests")["requests"]] == [
        None,
        None,
        fault["kind"],
        fault["kind"],
        None,
    ]


@pytest.mark.parametrize(("kind", "created"), [("lost", 1), ("dropped", 0)])
def test_an_answer_can_be_lost_with_its_work_done_or_not(lab: Lab, kind: str, created: int) -> None:
    lab.control("POST", "/faults", {"method": "POST", "path_glob": "/v2/droplets", "kind": kind})
    with pytest.raises(requests.ConnectionError):
        lab.call("POST", "/droplets", DROPLET)
    assert lab.ok("GET", "/droplets?name=alpha")["meta"]["total"] == created


def test_faults_can_be_listed_and_withdrawn_and_wrong_ones_are_refused(lab: Lab) -> None:
    lab.control("POST", "/faults", {"kind": "500", "count": 5})
    assert lab.control("GET", "/faults")["faults"][0]["count"] == 5
    lab.control("DELETE", "/faults")
    assert lab.call("GET", "/account").status_code == 200
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("faults", {"kind": "418"}),
        ("faults", {"kind": "500", "colour": "red"}),
        ("faults", {"kind": "500", "count": "x"}),
        ("faults", {}),
        ("account", {"droplet_limit": "x"}),
        ("account", {"nothing": 1}),
    ]
    for path, body in wrong:
        answer = requests.post(f"{lab.control_url}/{path}", json=body, timeout=PATIENCE)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_keys_that_the_api_does_not_know_are_ignored_in_silence(lab: Lab) -> None:
    lab.ok("POST", "/tags", {"name": "sbc", "nmae": "typo"}, on_purpose=True)
    (entry,) = lab.control("GET", "/requests")["requests"]
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/v2/tags", 201)
    lab.control("DELETE", "/requests")
    assert lab.control("GET", "/requests")["requests"] == []


def test_state_shows_no_user_data_and_reset_begins_again(lab: Lab) -> None:
    lab.active(user_data="#cloud-config\nssh_keys: secret", tags=["sbc"])
    state = lab.control("GET", "/state")
    assert "secret" not in json.dumps(state)
    assert state["droplets"][0]["tags"] == ["sbc"]
    lab.control("POST", "/faults", {"kind": "500"})
    lab.control("POST", "/reset")
    assert lab.ok("GET", "/droplets")["droplets"] == []
    assert lab.machines.running == {}
    after = lab.control("GET", "/state")
    assert list(after["domains"]) == ["voip.test"]
    assert after["last_id"] > state["last_id"]


# Independent clients, and what survives


def test_python_digitalocean_manages_everything_a_rollout_needs(lab: Lab) -> None:
    manager = digitalocean.Manager()
    assert manager.get_account().status == "active"
    key = digitalocean.SSHKey(name="operator", public_key=KEY)
    key.create()
    for number in range(21):
        digitalocean.Tag(name=f"t{number}").create()
    assert len(manager.get_all_tags()) == 21

    droplet = digitalocean.Droplet(
        name="alpha", region="fra1", image="debian-13-x64", size_slug="s-1vcpu-1gb", ssh_keys=[KEY_FINGERPRINT]
    )
    droplet.create()
    (action,) = droplet.get_actions()
    assert action.wait(update_every_seconds=0.02)
    found = until(lambda: manager.get_droplet(droplet.id), lambda d: d.ip_address)
    assert (found.ip_address, found.private_ip_address) == (FIRST_ADDRESS, "10.135.0.10")
    digitalocean.Tag(name="t0").add_droplets([str(droplet.id)])
    assert [d.id for d in manager.get_all_droplets(tag_name="t0")] == [droplet.id]

    firewall = digitalocean.Firewall(
        name="fw",
        inbound_rules=[
            digitalocean.InboundRule(
                protocol="tcp", ports="22", sources=digitalocean.Sources(addresses=["192.0.2.0/24"])
            )
        ],
        outbound_rules=[],
        droplet_ids=[],
        tags=["t0"],
    )
    firewall.create()
    assert manager.get_firewall(firewall.id).name == "fw"
    assert lab.machines.firewalls[droplet.id] == FirewallRules((PortRule("tcp", "22", ("192.0.2.0/24",)),), ())

    record = digitalocean.Record(domain_name="voip.test", type="A", name="sbc", data="203.0.113.10", ttl=60)
    record.create()
    record.data = "203.0.113.11"
    record.save()
    records = manager.get_domain("voip.test").get_records({"type": "A"})
    assert [(r.name, r.data, r.ttl) for r in records] == [("sbc", "203.0.113.11", 60)]

    found.power_off()
    until(lambda: manager.get_droplet(droplet.id).status, lambda status: status == "off")
    found.destroy()
    with pytest.raises(digitalocean.NotFoundError):
        manager.get_droplet(droplet.id)


def test_an_account_survives_its_process(tmp_path: Path) -> None:
    state = tmp_path / "api.json"
    first = Lab(state)
    active = first.active(tags=["sbc"], user_data="secret")
    first.ok("POST", "/firewalls", {"name": "fw", "inbound_rules": [SSH], "tags": ["sbc"]})
    first.control("POST", "/account", {"boot_seconds": 30.0})
    reserved = first.ok("POST", "/reserved_ips", {"droplet_id": active["id"]})["reserved_ip"]
    until(lambda: first.ok("GET", f"/reserved_ips/{reserved['ip']}")["reserved_ip"], lambda r: r["droplet"])
    unfinished = first.ok("POST", "/droplets", DROPLET)["droplet"]
    first.control("POST", "/account", {"boot_seconds": 0.0})
    before = first.control("GET", "/state")
    first.close()
    assert state.stat().st_mode & 0o777 == 0o600

    second = Lab(state)
    droplets = until(
        lambda: second.ok("GET", "/droplets")["droplets"], lambda ds: all(d["status"] == "active" for d in ds)
    )
    assert [d["id"] for d in droplets] == [active["id"], unfinished["id"]]
    assert second.machines.specs[active["id"]].user_data == "secret"
    assert second.machines.firewalls[active["id"]] is not None
    assert second.machines.routes == {reserved["ip"]: second.machines.specs[active["id"]].anchor}
    for part in ("firewalls", "reserved_ips", "projects"):
        assert second.control("GET", "/state")[part] == before[part]
    second.close()


def test_it_runs_on_its_own() -> None:
    command = [sys.executable, "-m", "lab.digitalocean", "--port", "0", "--control-port", "0", "--records-only"]
    with subprocess.Popen([*command, "--domain", "voip.test"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            answer = requests.get(words[1] + "domains", headers={"Authorization": "Bearer t"}, timeout=PATIENCE)
            assert [domain["name"] for domain in answer.json()["domains"]] == ["voip.test"]
            assert requests.get(words[3] + "state", timeout=PATIENCE).ok
            JUDGE.take(words[3])
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0
