"""The lab keeps to itself, and leaves nothing."""

from __future__ import annotations

from lab import cgroup, network, settings
from tests.e2e import world


def test_a_droplet_cannot_leave_the_lab(proven: None) -> None:
    for address, port in (("1.1.1.1", 443), ("8.8.8.8", 53), ("192.0.2.1", 80), ("169.254.169.254", 80)):
        tried = world.droplet(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port}'")
        assert tried.code != 0, f"{address}:{port} was reached"


def test_a_droplet_reaches_one_port_of_the_host(proven: None) -> None:
    host = settings.CONTROLLER_ADDRESS
    for port in (22, settings.API_PORT, settings.CONTROL_PORT):
        assert world.droplet(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}'").code != 0
    assert world.droplet(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{settings.PROXY_PORT}'").code == 0


def test_the_package_proxy_lets_debian_through_and_nobody_else(proven: None) -> None:
    proxy = f"http://{settings.CONTROLLER_ADDRESS}:{settings.PROXY_PORT}"
    shown = world.droplet(f"curl -s -o /dev/null -w '%{{http_code}}' -x {proxy} http://example.com/")
    assert shown.text.strip() == "403"


def test_the_interfaces_listen_on_loopback_only(proven: None) -> None:
    listening = world.run("ss", "-Hltn").text.split()
    for port in (settings.API_PORT, settings.CONTROL_PORT):
        assert [word for word in listening if word.endswith(f":{port}")] == [f"127.0.0.1:{port}"]


def test_destroying_a_droplet_ends_it_and_removes_its_files(empty_lab: None) -> None:
    body = {"name": "short-lived", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    droplet = world.api("POST", "droplets", body)["droplet"]["id"]
    assert droplet not in [d["id"] for d in world.api("GET", "droplets")["droplets"] if d["status"] == "active"]
    world.until(lambda: bool(cgroup.members(f"d{droplet}/payload/init.scope")), "the machine boots")
    assert (settings.DROPLETS / str(droplet)).exists()
    world.api("DELETE", f"droplets/{droplet}")
    assert not (settings.DROPLETS / str(droplet)).exists()
    assert not (cgroup.root() / f"d{droplet}").exists()
    assert not network.has_link(f"d{droplet}")
