"""Reserved IPs, projects, snapshots, backups and resizes of the lab's DigitalOcean API, held against the contract."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.api import DROPLET, Lab, until


def ended(lab: Lab, action: dict[str, Any]) -> Any:
    return until(lambda: lab.ok("GET", f"/actions/{action['id']}")["action"], lambda a: a["status"] != "in-progress")


def act(lab: Lab, path: str, **body: Any) -> Any:
    action = ended(lab, lab.ok("POST", f"{path}/actions", body)["action"])
    assert action["status"] == "completed"
    return action


# Reserved IPs


def test_a_reserved_ip_is_made_for_a_region_assigned_moved_and_released(lab: Lab) -> None:
    one, two = lab.active(), lab.active()
    answer = lab.ok("POST", "/reserved_ips", {"region": "fra1"})
    reserved, path = answer["reserved_ip"], f"/reserved_ips/{answer['reserved_ip']['ip']}"
    assert (reserved["droplet"], reserved["locked"], answer["links"]) == (None, False, {"droplets": [], "actions": []})

    for droplet in (one, two):
        lab.machines.held = True
        action = lab.ok("POST", f"{path}/actions", {"type": "assign", "droplet_id": droplet["id"]})["action"]
        assert (action["type"], action["status"], action["resource_type"]) == (
            "assign_ip",
            "in-progress",
            "reserved_ip",
        )
        assert lab.ok("GET", path)["reserved_ip"]["locked"] is True
        assert "already has a pending event" in lab.refused("DELETE", path)[1]
        lab.machines.held = False
        ended(lab, action)
        assert lab.ok("GET", path)["reserved_ip"]["droplet"]["id"] == droplet["id"]
    assert lab.machines.routes == {reserved["ip"]: lab.machines.specs[two["id"]].anchor}
    assert [a["type"] for a in lab.ok("GET", f"{path}/actions")["actions"]] == ["assign_ip", "assign_ip"]

    act(lab, path, type="unassign")
    assert lab.machines.routes == {}
    assert lab.refused("POST", f"{path}/actions", {"type": "unassign"})[0] == 422
    lab.ok("DELETE", path)
    assert lab.ok("GET", "/reserved_ips")["reserved_ips"] == []
    assert lab.refused("GET", path)[0] == 404


def test_a_droplet_s_reserved_ip_is_one_more_of_its_public_addresses(lab: Lab) -> None:
    droplet = lab.active()
    answer = lab.ok("POST", "/reserved_ips", {"droplet_id": droplet["id"]})
    (action,) = answer["links"]["actions"]
    assert (action["rel"], answer["links"]["droplets"][0]["id"]) == ("assign_ip", droplet["id"])
    ended(lab, action)
    public = [
        each["ip_address"]
        for each in lab.ok("GET", f"/droplets/{droplet['id']}")["droplet"]["networks"]["v4"]
        if each["type"] == "public"
    ]
    assert public == [droplet["networks"]["v4"][1]["ip_address"], answer["reserved_ip"]["ip"]]


def test_a_reserved_ip_outlives_its_droplet(lab: Lab) -> None:
    droplet = lab.active()
    answer = lab.ok("POST", "/reserved_ips", {"droplet_id": droplet["id"]})
    ended(lab, answer["links"]["actions"][0])
    lab.ok("DELETE", f"/droplets/{droplet['id']}")
    (reserved,) = lab.ok("GET", "/reserved_ips")["reserved_ips"]
    assert (reserved["ip"], reserved["droplet"]) == (answer["reserved_ip"]["ip"], None)
    assert lab.machines.routes == {}
    lab.ok("DELETE", f"/reserved_ips/{reserved['ip']}")


def test_what_reserved_ips_refuse(lab: Lab) -> None:
    droplet, elsewhere = lab.active(), lab.active(region="ams3")
    for body in ({}, {"region": "mars1"}, {"droplet_id": 1}, {"region": "fra1", "droplet_id": droplet["id"]}):
        assert lab.refused("POST", "/reserved_ips", body)[0] == 422, body
    first, second, _ = (lab.ok("POST", "/reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"] for _ in range(3))
    assert "limit" in lab.refused("POST", "/reserved_ips", {"region": "fra1"})[1]
    path = f"/reserved_ips/{first}/actions"
    assert "same region" in lab.refused("POST", path, {"type": "assign", "droplet_id": elsewhere["id"]})[1]
    act(lab, f"/reserved_ips/{first}", type="assign", droplet_id=droplet["id"])
    again = {"type": "assign", "droplet_id": droplet["id"]}
    assert "already has a reserved IP" in lab.refused("POST", f"/reserved_ips/{second}/actions", again)[1]
    assert lab.refused("POST", path, {"type": "share"})[0] == 422
    assert lab.refused("POST", "/reserved_ips/192.0.2.1/actions", again)[0] == 404


def test_a_reserved_ip_waits_for_the_droplet_s_own_events(lab: Lab) -> None:
    lab.machines.held = True
    droplet = lab.ok("POST", "/droplets", DROPLET)["droplet"]
    answer = lab.refused("POST", "/reserved_ips", {"droplet_id": droplet["id"]})
    assert answer == (422, "Droplet already has a pending event.")
    lab.machines.held = False


def test_twelve_reserved_ips_a_minute_are_made(lab: Lab) -> None:
    lab.control("POST", "/account", {"reserved_ip_limit": 100})
    answers = [lab.call("POST", "/reserved_ips", {"region": "fra1"}) for _ in range(13)]
    assert [answer.status_code for answer in answers] == [202] * 12 + [429]
    assert lab.call("GET", "/reserved_ips").status_code == 200


# Projects


def test_projects_hold_resources_and_the_default_one_what_nobody_filed(lab: Lab) -> None:
    droplet = lab.active()
    urns = [f"do:droplet:{droplet['id']}", "do:domain:voip.test"]
    (default,) = lab.ok("GET", "/projects")["projects"]
    assert default == lab.ok("GET", "/projects/default")["project"]
    assert default["is_default"] is True

    new = {"name": "sbc", "purpose": "Service or API", "environment": "Production", "description": "ours"}
    project = lab.ok("POST", "/projects", new)["project"]
    assert (project["is_default"], project["environment"]) == (False, "Production")
    path = f"/projects/{project['id']}"
    assert [r["urn"] for r in lab.ok("GET", "/projects/default/resources")["resources"]] == urns

    filed = lab.ok("POST", f"{path}/resources", {"resources": [urns[0], "do:droplet:1"]})["resources"]
    assert [(each["urn"], each["status"]) for each in filed] == [(urns[0], "assigned"), ("do:droplet:1", "not_found")]
    again = lab.ok("POST", f"{path}/resources", {"resources": urns[:1]})["resources"]
    assert again[0]["status"] == "already_assigned"
    assert [r["urn"] for r in lab.ok("GET", f"{path}/resources")["resources"]] == urns[:1]
    assert [r["urn"] for r in lab.ok("GET", "/projects/default/resources")["resources"]] == urns[1:]

    assert lab.refused("DELETE", path)[0] == 412
    lab.ok("DELETE", f"/droplets/{droplet['id']}")
    lab.ok("DELETE", path)
    assert lab.refused("GET", path)[0] == 404


def test_projects_change_in_part_or_as_a_whole(lab: Lab) -> None:
    path = f"/projects/{lab.ok('POST', '/projects', {'name': 'sbc', 'purpose': 'Service or API'})['project']['id']}"
    assert lab.ok("PATCH", path, {"name": "other"})["project"]["name"] == "other"
    assert lab.refused("PUT", path, {"name": "sbc"})[0] == 422
    whole = {"name": "sbc", "description": "", "purpose": "x", "environment": "Staging", "is_default": True}
    assert lab.ok("PUT", path, whole)["project"]["is_default"] is True
    assert [p["name"] for p in lab.ok("GET", "/projects")["projects"] if p["is_default"]] == ["sbc"]
    assert [r["urn"] for r in lab.ok("GET", f"{path}/resources")["resources"]] == []
    assert lab.refused("DELETE", path)[0] == 412
    assert lab.refused("POST", "/projects", {"name": "sbc", "purpose": "x"})[0] == 409
    assert lab.refused("POST", "/projects", {"name": "third"})[0] == 422
    assert lab.refused("POST", "/projects", {"name": "third", "purpose": "x", "environment": "Moon"})[0] == 422


def test_a_reserved_ip_lies_in_a_project_under_its_old_name(lab: Lab) -> None:
    project = lab.ok("POST", "/projects", {"name": "sbc", "purpose": "x"})["project"]["id"]
    reserved = lab.ok("POST", "/reserved_ips", {"region": "fra1", "project_id": project})["reserved_ip"]
    assert reserved["project_id"] == project
    (resource,) = lab.ok("GET", f"/projects/{project}/resources")["resources"]
    assert resource["urn"] == f"do:floatingip:{reserved['ip']}"


# Snapshots


def test_a_snapshot_is_an_image_that_droplets_are_made_from(lab: Lab) -> None:
    builder = lab.active()
    path = f"/droplets/{builder['id']}"
    act(lab, path, type="power_off")
    action = act(lab, path, type="snapshot", name="golden")
    assert action["type"] == "snapshot"
    (snapshot,) = lab.ok("GET", "/snapshots?resource_type=droplet")["snapshots"]
    assert (snapshot["name"], snapshot["resource_id"], snapshot["min_disk_size"]) == ("golden", str(builder["id"]), 25)
    (image,) = lab.ok("GET", "/images?private=true")["images"]
    assert (str(image["id"]), image["slug"], image["type"], image["public"]) == (
        snapshot["id"],
        None,
        "snapshot",
        False,
    )
    assert lab.ok("GET", path)["droplet"]["snapshot_ids"] == [image["id"]]
    assert lab.ok("GET", f"{path}/snapshots")["snapshots"][0]["type"] == "snapshot"
    assert lab.ok("GET", f"/snapshots/{snapshot['id']}")["snapshot"] == snapshot

    lab.ok("POST", "/tags", {"name": "sbc:golden"})
    resources = {"resources": [{"resource_id": str(image["id"]), "resource_type": "image"}]}
    lab.ok("POST", "/tags/sbc:golden/resources", resources)
    assert lab.ok("GET", "/images?tag_name=sbc:golden")["images"][0]["tags"] == ["sbc:golden"]
    assert lab.ok("GET", "/snapshots")["snapshots"][0]["tags"] == ["sbc:golden"]
    assert lab.ok("GET", "/tags/sbc:golden")["tag"]["resources"]["images"]["count"] == 1
    assert lab.ok("PUT", f"/images/{image['id']}", {"name": "new"})["image"]["name"] == "new"

    droplet = lab.active(image=image["id"])
    assert droplet["image"]["id"] == image["id"]
    assert lab.machines.specs[droplet["id"]].image == str(image["id"])
    lab.ok("DELETE", f"/snapshots/{snapshot['id']}")
    assert lab.ok("GET", "/snapshots")["snapshots"] == []
    assert lab.ok("GET", path)["droplet"]["snapshot_ids"] == []
    assert lab.refused("POST", "/droplets", {**DROPLET, "image": image["id"]})[0] == 422
    assert lab.ok("GET", f"/droplets/{droplet['id']}")["droplet"]["image"]["id"] == image["id"]


def test_a_snapshot_is_of_a_region_and_needs_a_disk(lab: Lab) -> None:
    builder = lab.active()
    act(lab, f"/droplets/{builder['id']}", type="snapshot", name="golden")
    (snapshot,) = lab.ok("GET", "/snapshots")["snapshots"]
    image = {"image": int(snapshot["id"])}
    assert "region" in lab.refused("POST", "/droplets", {**DROPLET, **image, "region": "ams3"})[1]
    assert "disk" in lab.refused("POST", "/droplets", {**DROPLET, **image, "size": "s-1vcpu-512mb-10gb"})[1]
    action = lab.ok("POST", f"/images/{image['image']}/actions", {"type": "transfer", "region": "ams3"})
    ended(lab, action)
    lab.active(**image, region="ams3")
    assert lab.refused("DELETE", "/snapshots/1")[0] == 404
    lab.ok("DELETE", f"/images/{image['image']}")
    assert lab.machines.images == {}


def test_the_catalogue_is_no_private_matter(lab: Lab) -> None:
    assert lab.ok("GET", "/images?private=true")["images"] == []
    assert "debian-13-x64" in [image["slug"] for image in lab.ok("GET", "/images?type=distribution")["images"]]
    assert lab.refused("DELETE", f"/images/{lab.ok('GET', '/images/debian-13-x64')['image']['id']}")[0] == 404
    assert lab.refused("POST", f"/droplets/{lab.active()['id']}/actions", {"type": "snapshot"})[0] == 422


# Sizes and backups


def test_a_resize_needs_a_droplet_that_is_off_and_may_leave_the_disk(lab: Lab) -> None:
    path = f"/droplets/{lab.active()['id']}"
    larger = {"type": "resize", "size": "s-1vcpu-2gb", "disk": False}
    assert "power it off" in lab.refused("POST", f"{path}/actions", larger)[1]
    act(lab, path, type="power_off")
    act(lab, path, **larger)
    resized = lab.ok("GET", path)["droplet"]
    assert (resized["size_slug"], resized["memory"], resized["disk"], resized["status"]) == (
        "s-1vcpu-2gb",
        2048,
        25,
        "off",
    )
    assert "already this size" in lab.refused("POST", f"{path}/actions", larger)[1]
    small = {"type": "resize", "size": "s-1vcpu-512mb-10gb"}
    assert "smaller disk" in lab.refused("POST", f"{path}/actions", small)[1]
    act(lab, path, type="resize", size="s-2vcpu-2gb", disk=True)
    assert lab.ok("GET", path)["droplet"]["disk"] == 60
    assert "smaller disk" in lab.refused("POST", f"{path}/actions", {"type": "resize", "size": "s-1vcpu-1gb"})[1]
    act(lab, path, type="power_on")


def test_backups_are_a_feature_with_a_policy(lab: Lab) -> None:
    path = f"/droplets/{lab.active()['id']}"
    assert lab.ok("GET", f"{path}/backups/policy")["policy"]["backup_enabled"] is False
    assert lab.refused("POST", f"{path}/actions", {"type": "disable_backups"})[0] == 422
    act(lab, path, type="enable_backups", backup_policy={"plan": "weekly", "weekday": "SAT", "hour": 20})
    document = lab.ok("GET", path)["droplet"]
    assert "backups" in document["features"]
    assert document["next_backup_window"]["start"].endswith("T20:00:00Z")
    policy = lab.ok("GET", f"{path}/backups/policy")["policy"]["backup_policy"]
    assert policy == {
        "plan": "weekly",
        "weekday": "SAT",
        "hour": 20,
        "window_length_hours": 4,
        "retention_period_days": 28,
    }
    act(lab, path, type="change_backup_policy", backup_policy={"plan": "daily", "hour": 4})
    (listed,) = lab.ok("GET", "/droplets/backups/policies")["policies"].values()
    assert (listed["backup_policy"]["plan"], listed["backup_policy"]["retention_period_days"]) == ("daily", 7)
    act(lab, path, type="disable_backups")
    assert "backups" not in lab.ok("GET", path)["droplet"]["features"]
    assert lab.ok("GET", f"{path}/backups")["backups"] == []
    assert {p["name"] for p in lab.ok("GET", "/droplets/backups/supported_policies")["supported_policies"]} == {
        "daily",
        "weekly",
    }


@pytest.mark.parametrize("policy", [{"plan": "hourly"}, {"plan": "weekly", "weekday": "XXX"}, {"hour": 3}])
def test_policies_that_there_are_not(lab: Lab, policy: dict[str, Any]) -> None:
    assert lab.refused("POST", "/droplets", {**DROPLET, "backups": True, "backup_policy": policy})[0] == 422


def test_backups_come_with_a_droplet(lab: Lab) -> None:
    droplet = lab.active(backups=True, backup_policy={"plan": "daily", "hour": 8})
    assert "backups" in droplet["features"]
    assert lab.ok("GET", f"/droplets/{droplet['id']}/firewalls")["firewalls"] == []
