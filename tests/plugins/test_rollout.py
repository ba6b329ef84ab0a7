"""Inventory plugin, preflight and modules together, as ansible-playbook runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.digitalocean import patiently

from tests.plugins.support import PLUGINS, TOKEN, Api

PLAYBOOK = """
- hosts: all:localhost
  gather_facts: false
  tasks:
    - preflight:
        defaults: [../defaults.yml]

- hosts: sbc
  gather_facts: false
  environment:
    DIGITALOCEAN_END_POINT: "{{ sbc_api_endpoint }}"
  tasks:
    - delegate_to: localhost
      block:
        - ssh_host_key:
            host: "{{ inventory_hostname }}"
            state_dir: "{{ inventory_dir }}/state"
          register: host_key
        - digitalocean_key:
            name: sbc
            public_key: "{{ droplet_ssh_public_key }}"
          register: key
        - digitalocean_firewall:
            name: "sbc-{{ inventory_hostname }}"
            inbound: [{protocol: tcp, ports: 22, sources: "{{ sbc_ssh_sources }}"}]
            tags: ["sbc:customer:{{ inventory_hostname }}"]
        - digitalocean_droplet:
            customer: "{{ inventory_hostname }}"
            name: "{{ sbc_fqdn }}"
            region: fra1
            size: s-1vcpu-1gb
            image: debian-13-x64
            ssh_keys: ["{{ key.fingerprint }}"]
            user_data: "{{ lookup('file', host_key.private_key_file) if host_key.public_key else '' }}"
          register: machine
        - digitalocean_rrset:
            domain: "{{ sbc_domain }}"
            name: "{{ sbc_fqdn }}"
            values: ["{{ machine.droplet.address }}"]
          when: machine.droplet.address is not none
"""
DEFAULTS = """
sbc_clouds: {commercial: {}}
sbc_cloud: commercial
sbc_dns: digitalocean
sbc_api_endpoint: https://api.digitalocean.com/v2/
sbc_api_token: "{{ lookup('ansible.builtin.env', 'DIGITALOCEAN_ACCESS_TOKEN') }}"
droplet_region: fra1
droplet_size: s-1vcpu-1gb
droplet_image: debian-13-x64
droplet_key_file: /nonexistent
droplet_ssh_public_key: "{{ lookup('ansible.builtin.file', droplet_key_file) }}"
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(api: Api, tmp_path: Path) -> Path:
    """A project with one customer, contoso; returns its inventory."""
    inventory = tmp_path / "inventory with a space"
    (inventory / "group_vars").mkdir(parents=True)
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nlibrary={PLUGINS}/modules\nmodule_utils={PLUGINS}/module_utils\naction_plugins={PLUGINS}/action\n"
        f"inventory_plugins={PLUGINS}/inventory\ndoc_fragment_plugins={PLUGINS}/doc_fragments\n"
        f"inventory={inventory}\nlocalhost_warning=false\n"
        "[inventory]\nenable_plugins=digitalocean, yaml\nignore_patterns=^state$\n"
    )
    (tmp_path / "play.yml").write_text("- import_playbook: playbooks/rollout.yml\n")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "rollout.yml").write_text(PLAYBOOK)
    (tmp_path / "defaults.yml").write_text(DEFAULTS)
    (tmp_path / "key.pub").write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM\n"
    )
    common = {
        "sbc_domain": "example.com",
        "sbc_api_endpoint": api.endpoint,
        "sbc_contact_email": "it@example.com",
        "sbc_ssh_sources": ["198.51.100.0/24"],
        "droplet_key_file": str(tmp_path / "key.pub"),
        "droplet_ssh_public_key": "{{ lookup('ansible.builtin.file', droplet_key_file) }}",
    }
    (inventory / "group_vars" / "sbc.yml").write_text(yaml.safe_dump(common))
    source = {"plugin": "digitalocean", "endpoint": api.endpoint}
    (inventory / "droplets.digitalocean.yml").write_text(yaml.safe_dump(source))
    customers(inventory, contoso={"sbc_fqdn": "sbc1.example.com"})
    return inventory


def customers(inventory: Path, **hosts: dict[str, Any]) -> None:
    (inventory / "customers.yml").write_text(
        yaml.safe_dump({"sbc": {"hosts": hosts}, "others": {"hosts": {"web": {}}}})
    )


@pytest.fixture
def ansible(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("DIGITALOCEAN_END_POINT")

    def run(command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(Path(sys.executable).with_name(command)), *arguments],
            cwd=project.parent,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "400"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def variables(ansible: Run, host: str = "contoso") -> dict[str, Any]:
    done = ansible("ansible-inventory", "--host", host)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_from_nothing_to_a_droplet_and_then_no_change(ansible: Run, api: Api, project: Path) -> None:
    rehearsal = ansible("ansible-playbook", "play.yml", "--check", "--diff")
    assert "changed=4 " in rehearsal.stdout, rehearsal.stdout + rehearsal.stderr
    assert not (project / "state").exists()
    assert not [line for line in api.requests() if not line.startswith("GET")]

    first = ansible("ansible-playbook", "play.yml", "-vvv", "--diff")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "PRIVATE KEY" not in first.stdout
    assert api.control("GET", "state")["droplets"][0]["user_data"] > 100

    api.requests()
    again = ansible("ansible-playbook", "play.yml")
    assert again.returncode == 0
    assert "changed=0 " in again.stdout
    assert all(line.startswith("GET") for line in api.requests())

    found, droplet = variables(ansible), api.control("GET", "state")["droplets"][0]
    assert (found["ansible_host"], found["sbc_droplet_id"]) == (droplet["address"], droplet["id"])


def test_connections_verify_the_host_key(ansible: Run, project: Path) -> None:
    found = variables(ansible)
    assert "ansible_host" not in found
    assert found["ansible_user"] == "root"
    options = ["ssh", "-G", "-F", "none", "203.0.113.10"]
    shell = f"{' '.join(options)} {found['ansible_ssh_common_args']}"
    printed = subprocess.run(["sh", "-c", shell], check=True, capture_output=True, text=True).stdout.splitlines()
    assert "hostkeyalias contoso" in printed
    assert "stricthostkeychecking true" in printed
    assert f"userknownhostsfile {project}/state/known_hosts" in [line.replace('"', "") for line in printed]


def test_a_reserved_ip_is_not_the_droplets_own(ansible: Run, api: Api, project: Path) -> None:
    droplet = api.droplet("sbc", "sbc:customer:contoso")["id"]
    reserved = api.client.call("POST", "reserved_ips", {"droplet_id": droplet})["reserved_ip"]["ip"]
    for _ in patiently(30, "it does not lead to the droplet"):
        found = api.client.call("GET", f"droplets/{droplet}")["droplet"]["networks"]["v4"]
        listed = [each["ip_address"] for each in found if each["type"] == "public"]
        if reserved in listed:
            break
    noted = project / "state" / "contoso" / "reserved_ip"
    noted.parent.mkdir(parents=True)
    # In whatever order the API lists them.
    for address, own in (listed, reversed(listed)):
        noted.write_text(address + "\n")
        assert variables(ansible)["ansible_host"] == own


def test_what_a_host_declares_itself_stays(ansible: Run, api: Api, project: Path) -> None:
    api.droplet("sbc", "sbc:customer:contoso")
    customers(project, contoso={"ansible_host": "192.0.2.1", "ansible_user": "admin"})
    found = variables(ansible)
    assert (found["ansible_host"], found["ansible_user"]) == ("192.0.2.1", "admin")


def test_no_host_is_invented_and_none_confused(ansible: Run, api: Api) -> None:
    api.droplet("sbc", "sbc:customer:stranger")
    api.droplet("sbc", "sbc:customer:contoso")
    api.droplet("sbc", "sbc:customer:contoso")
    done = ansible("ansible-inventory", "--list")
    assert "stranger" not in done.stdout
    assert "contoso: no address: 2 droplets carry the tag sbc:customer:contoso" in done.stderr
    assert "ansible_host" not in json.loads(done.stdout)["_meta"]["hostvars"]["contoso"]


def test_the_address_is_the_droplets_and_never_the_successors(ansible: Run, api: Api) -> None:
    retiring = api.droplet("sbc", "sbc:customer:contoso")
    successor = api.droplet("sbc", "sbc:customer:contoso", "sbc:successor")
    found = variables(ansible)
    assert (found["sbc_droplet_id"], "ansible_host" in found) == (retiring["id"], True)
    api.client.tag_droplet(retiring["id"], "sbc:retired")
    done = ansible("ansible-inventory", "--host", "contoso")
    assert "contoso: no address: a replacement of contoso was not finished" in done.stderr
    assert "ansible_host" not in json.loads(done.stdout)
    api.client.untag_droplet(successor["id"], "sbc:successor")
    assert variables(ansible)["sbc_droplet_id"] == successor["id"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"endpoint": "http://127.0.0.1:9/v2/"}, "the API at http://127.0.0.1:9/v2/ was of no help"),
        ({"token": ""}, "set DIGITALOCEAN_ACCESS_TOKEN in the environment"),
    ],
)
def test_without_the_api_there_is_one_warning(ansible: Run, project: Path, change: dict[str, str], reason: str) -> None:
    source = {"plugin": "digitalocean", "endpoint": "https://api.digitalocean.com/v2/"}
    (project / "droplets.digitalocean.yml").write_text(yaml.safe_dump(source | change))
    done = ansible("ansible-inventory", "--host", "contoso")
    assert done.returncode == 0
    assert " ".join(done.stderr.split()).count("[WARNING]: the droplets' addresses are unknown, because ") == 1
    assert reason in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["ansible_user"] == "root"


def mistakes(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0, done.stdout
    return " ".join(done.stdout.replace("\\n", " ").split())


def test_all_mistakes_of_all_customers_at_once(ansible: Run, api: Api, project: Path) -> None:
    api.control("POST", "account", {"droplet_limit": 1})
    customers(
        project,
        contoso={"sbc_fqdn": "sbc1.example.org", "sbc_cloud": "gcc", "sbc_contact_email": "nobody"},
        **{"Fabri.kam": {"droplet_region": "mars1", "droplet_size": "s-0", "droplet_image": "debian-3"}},
        tailspin={"sbc_fqdn": "{{ nowhere }}", "droplet_key_file": "/nonexistent"},
    )
    text = mistakes(ansible("ansible-playbook", "play.yml"))
    for expected in (
        "contoso: sbc_fqdn = sbc1.example.org: is not under the domain example.com",
        "contoso: sbc_cloud = gcc: is no Microsoft cloud that is known; choose one of commercial",
        "contoso: sbc_contact_email = nobody: is no e-mail address",
        "Fabri.kam: inventory_hostname = Fabri.kam: cannot be a tag",
        "Fabri.kam: sbc_fqdn: is missing",
        "Fabri.kam: droplet_region = mars1: is unknown",
        "Fabri.kam: droplet_size = s-0: is unknown",
        "Fabri.kam: droplet_image = debian-3: is unknown",
        "tailspin: sbc_fqdn: cannot be evaluated",
        "tailspin: droplet_ssh_public_key: cannot be evaluated",
        "account: droplet_limit = 1: is too low: 0 exist, and 3 would be created",
        "inventory with a space/customers.yml or inventory with a space/group_vars/sbc.yml",
    ):
        assert expected in text
    assert "tailspin: sbc_fqdn: is missing" not in text
    assert api.control("GET", "state")["droplets"] == []


def test_a_domain_elsewhere(ansible: Run, project: Path) -> None:
    customers(project, contoso={"sbc_fqdn": "sbc1.example.org", "sbc_domain": "example.org"})
    text = mistakes(ansible("ansible-playbook", "play.yml"))
    assert (
        "1 mistake; nothing was created. - contoso: sbc_domain = example.org: is not a domain of this account" in text
    )


def test_no_token(ansible: Run) -> None:
    text = mistakes(ansible("ansible-playbook", "play.yml", DIGITALOCEAN_ACCESS_TOKEN=""))
    assert "contoso: DIGITALOCEAN_ACCESS_TOKEN: is missing; set DIGITALOCEAN_ACCESS_TOKEN in the environment" in text


def test_a_refused_token(ansible: Run, api: Api) -> None:
    api.control("POST", "tokens/refuse", {"token": TOKEN})
    text = mistakes(ansible("ansible-playbook", "play.yml"))
    assert "contoso: DIGITALOCEAN_ACCESS_TOKEN: is refused by http://127.0.0.1:" in text


def test_a_token_that_may_read_but_not_write(ansible: Run, api: Api) -> None:
    nouns = ("account", "actions", "domain", "droplet", "firewall", "image", "regions", "sizes", "ssh_key", "tag")
    scopes = [*(f"{noun}:read" for noun in nouns), "droplet:create", "ssh_key:create", "tag:create", "tag:delete"]
    api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": scopes})
    rehearsal = ansible("ansible-playbook", "play.yml", "--check")
    assert rehearsal.returncode == 0, rehearsal.stdout + rehearsal.stderr
    done = ansible("ansible-playbook", "play.yml")
    assert done.returncode != 0
    assert "1 mistake; nothing was created." in done.stdout
    missing = "domain:update, droplet:update, firewall:create, firewall:update"
    assert re.search(rf"lacks scopes at \S+: {missing}; make a token that has them", done.stdout)
    state = api.control("GET", "state")
    assert not [part for part in ("keys", "tags", "droplets", "firewalls") if state[part]]


def test_another_endpoint_in_the_environment(ansible: Run, api: Api) -> None:
    text = mistakes(ansible("ansible-playbook", "play.yml", DIGITALOCEAN_END_POINT="https://api.digitalocean.com/v2/"))
    assert "contoso: DIGITALOCEAN_END_POINT = https://api.digitalocean.com/v2/: the environment names another" in text


def test_an_api_that_is_not_there(ansible: Run, project: Path) -> None:
    customers(project, contoso={"sbc_fqdn": "sbc1.example.com", "sbc_api_endpoint": "http://127.0.0.1:9/v2/"})
    text = mistakes(ansible("ansible-playbook", "play.yml"))
    assert "contoso: sbc_api_endpoint = http://127.0.0.1:9/v2/: is of no help (GET account: no answer" in text


@pytest.mark.parametrize("arguments", [("--limit", "web"), ("-i", "web,")])
def test_no_customer(ansible: Run, arguments: tuple[str, str]) -> None:
    text = mistakes(
        ansible("ansible-playbook", "play.yml", *arguments, ANSIBLE_INVENTORY_ENABLED="digitalocean,yaml,host_list")
    )
    assert "customers: no host of the group sbc is part of this run" in text
