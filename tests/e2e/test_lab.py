"""The lab keeps to itself, and leaves nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from lab import cgroup, network, settings
from tests.e2e import world


@pytest.fixture
def open_port() -> Iterator[int]:
    """A port on which this host answers at every address it has."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener.getsockname()[1]


def reaches(address: str, port: int, seconds: int = 3) -> bool:
    """Whether the droplet gets a TCP connection; that it answers to us is checked first."""
    assert world.droplet("true").code == 0
    return world.droplet(f"timeout {seconds} bash -c 'exec 3<>/dev/tcp/{address}/{port}'").code == 0


def own_address() -> str:
    """An address of this host that is none of the lab's."""
    links = json.loads(world.run("ip", "-json", "-4", "addr", "show", "scope", "global").text)
    address: str = next(link["addr_info"][0]["local"] for link in links if link["ifname"] != settings.UPLINK)
    return address


def test_a_droplet_cannot_leave_the_lab(proven: None, open_port: int) -> None:
    socket.create_connection((own_address(), open_port), timeout=60).close()
    assert not reaches(own_address(), open_port)
    assert not reaches("1.1.1.1", 443)
    routed = world.run("ip", "netns", "exec", settings.ROUTER, "ip", "route", "show", "default").text
    assert routed == ""


def test_a_droplet_reaches_one_port_of_the_host(proven: None, open_port: int) -> None:
    host = settings.CONTROLLER_ADDRESS
    socket.create_connection((host, open_port), timeout=60).close()
    assert not reaches(host, open_port)
    assert reaches(host, settings.PROXY_PORT, 60)


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
    made = world.api("POST", "droplets", body)["droplet"]
    assert made["status"] == "new"
    droplet = made["id"]
    world.until(lambda: bool(cgroup.members(f"d{droplet}/payload/init.scope")), "the machine boots")
    assert (settings.DROPLETS / str(droplet)).exists()
    world.api("DELETE", f"droplets/{droplet}")
    assert not (settings.DROPLETS / str(droplet)).exists()
    assert not (cgroup.root() / f"d{droplet}").exists()
    assert not network.has_link(f"d{droplet}")
