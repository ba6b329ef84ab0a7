"""Each of Microsoft's clouds reaches AP, with its own proxies, networks and kind of certificate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e import world

CLOUDS: dict[str, Any] = yaml.safe_load((world.ROOT / "roles/sbc/vars/main/clouds.yml").read_text())["sbc_clouds"]


def host(cloud: str) -> str:
    return cloud.replace("_", "-")


def fqdn(cloud: str) -> str:
    return f"{host(cloud)}.voip.test"


@pytest.fixture(scope="module")
def rollout(trunk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Run]:
    """One rollout of a customer in each cloud; in the government's, with a certificate that was bought."""
    directory = tmp_path_factory.mktemp("clouds")
    hosts: dict[str, dict[str, Any]] = {}
    for cloud in CLOUDS:
        hosts[host(cloud)] = {"sbc_fqdn": fqdn(cloud), "sbc_cloud": cloud}
        if cloud != "commercial":
            bought = directory / cloud
            world.lab("certificate", fqdn(cloud), "--out", str(bought))
            files = {"chain": str(bought / "chain.pem"), "key": str(bought / "key.pem")}
            hosts[host(cloud)] |= {"sbc_certificate_files": files, "sbc_certificate_roots": ["lab-digicert"]}
        world.lab("trunk", fqdn(cloud), "--cloud", cloud)
    inventory = world.inventory(directory / "inventory", hosts)
    yield world.playbook("site.yml", "-i", str(inventory))
    for cloud in CLOUDS:
        world.destroy(host(cloud))
        world.lab("trunk", fqdn(cloud), "--remove")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_customer_in_each_cloud_is_proven(rollout: world.Run, cloud: str) -> None:
    shown = [line for line in rollout.text.splitlines() if f" {fqdn(cloud)} " in line]
    assert any(line.endswith("PROVEN") for line in shown), rollout.text
    proxies = [proxy["host"] for proxy in CLOUDS[cloud]["proxies"]]
    rows = [line.split() for line in rollout.text.splitlines() if line.startswith(f"{host(cloud)} ")]
    assert [row[2] for row in rows if row[1] in proxies] == ["AP"] * len(proxies), rollout.text
    assert set(world.active(fqdn(cloud))["proxies"]) == set(proxies)


def test_all_clouds_went_through_in_one_run(rollout: world.Run) -> None:
    assert rollout.code == 0, rollout.text
