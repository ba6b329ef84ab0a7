"""The lab's droplets as machines: reserved IPs that lead to them, snapshots of their disks, a dozen at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.__main__ import control
from tests.e2e import world

SIZE = {"region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
USER_DATA = "#cloud-config\ndisable_root: false\n"
A_DOZEN = 12


class Cloud:
    """Droplets that one test makes past the product, and a key that opens them."""

    def __init__(self, directory: Path) -> None:
        self._key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key)], check=True)
        public = self._key.with_suffix(".pub").read_text()
        self.key: dict[str, Any] = world.api("POST", "account/keys", {"name": "cloud", "public_key": public})["ssh_key"]
        self._droplets: list[int] = []
        self._images: list[int] = []
        self._reserved: list[str] = []

    def begin(self, name: str, **fields: Any) -> int:
        """Create a droplet, and do not wait for it."""
        body = {"name": name, "ssh_keys": [self.key["id"]], "user_data": USER_DATA, **SIZE, **fields}
        self._droplets.append(world.api("POST", "droplets", body)["droplet"]["id"])
        return self._droplets[-1]

    def droplet(self, name: str, **fields: Any) -> tuple[int, str]:
        """Create a droplet; return its id and its own address once it lets us in."""
        id = self.begin(name, **fields)
        return id, self.reached(id)

    def reached(self, id: int) -> str:
        document = world.seen(
            lambda: world.api("GET", f"droplets/{id}")["droplet"], lambda d: bool(d["networks"]["v4"]), f"{id} is there"
        )
        address: str = document["networks"]["v4"][1]["ip_address"]
        world.until(lambda: self.ssh(address, "true").code == 0, f"SSH to {address}")
        return address

    def destroy(self, id: int) -> None:
        world.api("DELETE", f"droplets/{id}")
        self._droplets.remove(id)

    def act(self, path: str, **body: Any) -> None:
        """An action, to its good end."""
        answer = world.api("POST", f"{path}/actions", body)["action"]
        done = world.seen(
            lambda: world.api("GET", f"actions/{answer['id']}")["action"],
            lambda action: action["status"] != "in-progress",
            body["type"],
        )
        assert done["status"] == "completed", done

    def reserve(self) -> str:
        ip: str = world.api("POST", "reserved_ips", {"region": SIZE["region"]})["reserved_ip"]["ip"]
        self._reserved.append(ip)
        return ip

    def snapshot(self, id: int, name: str) -> int:
        """Keep a droplet's disk as it is; return the image's id."""
        self.act(f"droplets/{id}", type="snapshot", name=name)
        (image,) = world.api("GET", f"droplets/{id}")["droplet"]["snapshot_ids"]
        self._images.append(image)
        return int(image)

    def ssh(self, address: str, command: str) -> world.Run:
        """A command there."""
        return world.run(*self.login(address), command, timeout=60)

    def login(self, address: str) -> list[str]:
        """The command line of SSH, whatever host key is there: these are nobody's droplets."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        flags = [word for option in (*options, "ConnectTimeout=2", "ServerAliveInterval=1") for word in ("-o", option)]
        return ["ssh", *flags, "-i", str(self._key), f"root@{address}"]

    def says(self, address: str, command: str) -> str:
        done = self.ssh(address, command)
        assert done.code == 0, done.text
        return done.text.strip()

    def clear(self) -> None:
        for path in (
            *(f"reserved_ips/{ip}" for ip in self._reserved),
            *(f"droplets/{id}" for id in self._droplets),
            *(f"images/{id}" for id in self._images),
            f"account/keys/{self.key['id']}",
        ):
            world.api("DELETE", path)


@pytest.fixture
def cloud(empty_lab: None, tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path)
    yield cloud
    cloud.clear()


def test_a_reserved_ip_leads_to_one_droplet_after_the_other(cloud: Cloud) -> None:
    with ThreadPoolExecutor() as pool:
        (one, first), (two, _) = pool.map(cloud.droplet, ("one", "two"))
    reserved = cloud.reserve()
    path = f"reserved_ips/{reserved}"
    assert cloud.ssh(reserved, "true").code != 0, "it leads to nobody yet"

    cloud.act(path, type="assign", droplet_id=one)
    world.until(lambda: cloud.ssh(reserved, "true").code == 0, "the reserved IP answers")
    # Who asked is told by the client's address, its port, the server's address, its port.
    anchor = cloud.says(reserved, "echo $SSH_CONNECTION").split()[2]
    assert anchor not in (reserved, first)
    assert f"inet {anchor}/16" in cloud.says(reserved, "ip -4 addr show dev eth0")
    assert (cloud.says(reserved, "hostname"), cloud.says(first, "hostname")) == ("one", "one")

    cloud.ssh(first, "getent hosts from-one.voip.test")
    queries = control("GET", "dns/queries")["queries"]
    assert {query["source"] for query in queries if query["name"].startswith("from-one.")} == {first}

    held_open = [*cloud.login(reserved), "echo open; sleep 600"]
    with subprocess.Popen(held_open, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as held:
        assert held.stdout
        assert held.stdout.readline() == "open\n"
        cloud.act(path, type="assign", droplet_id=two)
        world.until(lambda: cloud.ssh(reserved, "hostname").text.strip() == "two", "the reserved IP has moved")
        assert held.wait(60) != 0, "a connection that was open does not follow"
    assert cloud.says(first, "hostname") == "one"
    closed = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["192.0.2.0/24"]}}
    firewall = {"name": "closed", "inbound_rules": [closed], "droplet_ids": [two]}
    id = world.api("POST", "firewalls", firewall)["firewall"]["id"]
    assert cloud.ssh(reserved, "true").code != 0, "the cloud firewall stands in front of the reserved IP, too"
    world.api("DELETE", f"firewalls/{id}")
    assert cloud.says(reserved, "hostname") == "two"

    cloud.destroy(two)
    assert cloud.ssh(reserved, "true").code != 0
    assert world.api("GET", path)["reserved_ip"]["droplet"] is None


def test_a_snapshot_s_droplet_has_its_disk_and_its_own_identity(cloud: Cloud) -> None:
    builder, address = cloud.droplet("builder")
    key = cloud.says(address, "cat /etc/ssh/ssh_host_ed25519_key.pub")
    cloud.says(address, "echo golden > /usr/local/share/golden; rm /usr/bin/curl; sync")
    image = cloud.snapshot(builder, "golden")
    user_data = USER_DATA + "write_files:\n- {path: /root/own, content: mine}\n"
    _, copy = cloud.droplet("copy", image=image, size="s-1vcpu-2gb", user_data=user_data)
    assert cloud.says(copy, "cat /usr/local/share/golden /root/own; hostname") == "golden\nminecopy"
    assert cloud.ssh(copy, "test -e /usr/bin/curl").code != 0
    assert cloud.says(copy, "cat /etc/ssh/ssh_host_ed25519_key.pub") != key

    cloud.act(f"droplets/{builder}", type="power_off")
    cloud.act(f"droplets/{builder}", type="resize", size="s-2vcpu-2gb", disk=False)
    cloud.act(f"droplets/{builder}", type="power_on")
    assert cloud.says(cloud.reached(builder), "cat /usr/local/share/golden") == "golden"


@pytest.mark.full
def test_the_lab_holds_a_dozen_droplets_at_once(cloud: Cloud) -> None:
    began = time.monotonic()
    ids = [cloud.begin(f"n{number}") for number in range(A_DOZEN)]
    with ThreadPoolExecutor(A_DOZEN) as pool:
        addresses = list(pool.map(cloud.reached, ids))
        print(f"{A_DOZEN} droplets in {time.monotonic() - began:.0f} s")
        assert len(set(addresses)) == A_DOZEN
        names = list(pool.map(lambda address: cloud.says(address, "hostname"), addresses))
        assert names == [f"n{number}" for number in range(A_DOZEN)]
        # Each reaches the next one, and systemd has come up whole everywhere.
        pairs = zip(addresses, addresses[1:] + addresses[:1], strict=True)
        reach = "timeout 30 bash -c 'exec 3<>/dev/tcp/{}/22 && head -c 4 <&3'"
        assert set(pool.map(lambda pair: cloud.says(pair[0], reach.format(pair[1])), pairs)) == {"SSH-"}
        states = pool.map(
            lambda address: cloud.ssh(address, "systemctl is-system-running --wait").text.strip(), addresses
        )
        assert set(states) == {"running"}
    assert set(ids) <= set(control("GET", "status")["machines"])
