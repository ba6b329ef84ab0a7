"""pydo, DigitalOcean's own client, generated from the whole of its document: it works with the lab's API unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydo
import pytest
from azure.core.exceptions import HttpResponseError

from tests.lab.api import DROPLET, FIRST_ADDRESS, KEY, KEY_FINGERPRINT, OUT, SSH, Lab, until

SIZE, BIGGER = DROPLET["size"], "s-2vcpu-2gb"


@pytest.fixture
def client(lab: Lab, tls: Path) -> pydo.Client:
    return pydo.Client(token="token", endpoint=lab.tls_url, connection_verify=str(tls / "root.pem"))


def ended(client: pydo.Client, action: dict[str, Any]) -> dict[str, Any]:
    """An action once it has ended."""
    seen: dict[str, Any] = until(
        lambda: client.actions.get(action_id=action["id"])["action"], lambda each: each["status"] != "in-progress"
    )
    return seen


def active(client: pydo.Client, **more: Any) -> dict[str, Any]:
    made = client.droplets.create(body={**DROPLET, **more})
    assert ended(client, made["links"]["actions"][0])["status"] == "completed"
    droplet: dict[str, Any] = until(
        lambda: client.droplets.get(droplet_id=made["droplet"]["id"])["droplet"], lambda each: each["networks"]["v4"]
    )
    return droplet


def test_what_an_account_has_and_is_offered(client: pydo.Client) -> None:
    assert client.account.get()["account"]["status"] == "active"
    assert SIZE in {each["slug"] for each in client.sizes.list(per_page=200)["sizes"]}
    assert "fra1" in {each["slug"] for each in client.regions.list(per_page=200)["regions"]}
    image: Any = "debian-13-x64"  # its types know numbers only
    assert client.images.get(image_id=image)["image"]["distribution"] == "Debian"
    assert client.projects.get_default()["project"]["is_default"]


def test_a_droplet_and_what_surrounds_it(client: pydo.Client, lab: Lab) -> None:
    key = client.ssh_keys.create(body={"name": "operator", "public_key": KEY})["ssh_key"]
    fingerprint: Any = KEY_FINGERPRINT
    assert client.ssh_keys.get(ssh_key_identifier=fingerprint)["ssh_key"] == key
    client.tags.create(body={"name": "sbc"})
    rules = {"inbound_rules": [SSH], "outbound_rules": [OUT]}
    firewall = client.firewalls.create(body={"name": "fw", "tags": ["sbc"], **rules})["firewall"]
    droplet = active(client, ssh_keys=[key["id"]], tags=["sbc"], user_data="#cloud-config\n")
    assert FIRST_ADDRESS in {each["ip_address"] for each in droplet["networks"]["v4"]}
    assert [each["id"] for each in client.droplets.list(tag_name="sbc")["droplets"]] == [droplet["id"]]
    assert lab.machines.firewalls[droplet["id"]]

    client.firewalls.update(firewall_id=firewall["id"], body={"name": "fw", "inbound_rules": [SSH]})
    until(lambda: lab.machines.firewalls[droplet["id"]], lambda rules: rules is None)
    resources = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    client.tags.unassign_resources(tag_id="sbc", body=resources)
    assert client.droplets.list(tag_name="sbc")["droplets"] == []

    client.droplets.destroy(droplet_id=droplet["id"])
    client.firewalls.delete(firewall_id=firewall["id"])
    client.ssh_keys.delete(ssh_key_identifier=key["id"])
    client.tags.delete(tag_id="sbc")
    assert client.droplets.list()["meta"]["total"] == 0


def test_a_droplet_s_actions(client: pydo.Client) -> None:
    droplet = active(client)["id"]

    def act(**body: Any) -> None:
        action = client.droplet_actions.post(droplet_id=droplet, body=body)["action"]
        assert ended(client, action)["status"] == "completed"

    act(type="power_off")
    act(type="resize", size=BIGGER, disk=False)
    act(type="power_on")
    act(type="rename", name="beta")
    act(type="enable_backups", backup_policy={"plan": "weekly", "weekday": "SUN", "hour": 4})
    assert client.droplets.get_backup_policy(droplet_id=droplet)["policy"]["backup_policy"]["weekday"] == "SUN"
    act(type="disable_backups")
    act(type="snapshot", name="golden")
    (snapshot,) = client.droplets.list_snapshots(droplet_id=droplet)["snapshots"]
    assert client.snapshots.get(snapshot_id=snapshot["id"])["snapshot"]["name"] == "golden"
    assert [each["id"] for each in client.images.list(private=True)["images"]] == [snapshot["id"]]
    client.snapshots.delete(snapshot_id=snapshot["id"])
    read = client.droplets.get(droplet_id=droplet)["droplet"]
    assert (read["name"], read["size_slug"], read["status"]) == ("beta", BIGGER, "active")


def test_records_of_a_domain(client: pydo.Client) -> None:
    client.domains.create(body={"name": "example.net"})
    body = {"type": "A", "name": "sbc", "data": "203.0.113.10", "ttl": 30}
    record = client.domains.create_record(domain_name="example.net", body=body)["domain_record"]
    changed = client.domains.update_record(
        domain_name="example.net", domain_record_id=record["id"], body={"type": "A", "data": "203.0.113.11"}
    )
    assert changed["domain_record"]["data"] == "203.0.113.11"
    listed = client.domains.list_records(domain_name="example.net", type="A", name="sbc.example.net")["domain_records"]
    assert [each["id"] for each in listed] == [record["id"]]
    client.domains.delete_record(domain_name="example.net", domain_record_id=record["id"])
    client.domains.delete(domain_name="example.net")
    assert [each["name"] for each in client.domains.list()["domains"]] == ["voip.test"]


def test_a_reserved_address_and_a_project(client: pydo.Client) -> None:
    droplet = active(client)["id"]
    address = client.reserved_ips.create(body={"region": "fra1"})["reserved_ip"]["ip"]

    def act(**body: Any) -> None:
        action = client.reserved_ips_actions.post(reserved_ip=address, body=body)["action"]
        assert ended(client, action)["status"] == "completed"

    act(type="assign", droplet_id=droplet)
    assert client.reserved_ips.get(reserved_ip=address)["reserved_ip"]["droplet"]["id"] == droplet
    project = client.projects.create(body={"name": "voip", "purpose": "Service or API"})["project"]
    client.projects.assign_resources(project_id=project["id"], body={"resources": [f"do:droplet:{droplet}"]})
    (resource,) = client.projects.list_resources(project_id=project["id"])["resources"]
    assert resource["urn"] == f"do:droplet:{droplet}"
    act(type="unassign")
    client.reserved_ips.delete(reserved_ip=address)
    assert client.reserved_ips.list()["reserved_ips"] == []


def test_what_is_not_there_and_what_is_refused(client: pydo.Client) -> None:
    assert client.droplets.get(droplet_id=1)["id"] == "not_found"
    with pytest.raises(HttpResponseError, match="invalid size") as caught:
        client.droplets.create(body={**DROPLET, "size": "s-0"})
    assert caught.value.status_code == 422


def test_all_pages(client: pydo.Client) -> None:
    for number in range(5):
        client.tags.create(body={"name": f"t{number}"})
    first = client.tags.list(per_page=3)
    assert (len(first["tags"]), first["meta"]["total"]) == (3, 5)
    assert "page=2" in first["links"]["pages"]["next"]
    assert [each["name"] for each in client.tags.list(per_page=3, page=2)["tags"]] == ["t3", "t4"]
