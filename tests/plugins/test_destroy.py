"""What takes away, against the lab's API with droplets on paper: what goes, what stays, and what is refused."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.plugins.support import ROOT, TOKEN, Api, Failed, run_module
from tests.plugins.test_token_scopes import ROLLOUT

# Needs what `support` does to the path.
from ansible.module_utils.digitalocean import fingerprint  # isort: skip

FQDN, CUSTOMER = "sbc1.example.com", "contoso"
TAG, MARK = "sbc:customer:contoso", "sbc:user-data:0123456789ab"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM"
MEMORY = "state/contoso/destroyed.json"
FULL = pytest.mark.full
NOTHING: dict[str, list[str]] = {kind: [] for kind in ("droplets", "reserved_ips", "firewalls", "keys", "records")} | {
    "tags": ["sbc"]
}
RULE = {"protocol": "icmp", "ports": "0", "sources": {"addresses": ["0.0.0.0/0"]}}


@dataclass
class Account:
    """An account with a customer in it that was rolled out, and the inventory that says so."""

    api: Api
    inventory: Path
    droplet: dict[str, Any]

    @property
    def number(self) -> str:
        return f"destroy_id={self.droplet['id']}"

    @property
    def address(self) -> str:
        return next(str(each["ip_address"]) for each in self.droplet["networks"]["v4"] if each["type"] == "public")

    def record(self, kind: str, name: str, data: str) -> None:
        body = {"type": kind, "name": name, "data": data, "ttl": 300}
        self.api.client.call("POST", "domains/example.com/records", body)

    def reserve(self) -> str:
        """Give the droplet a reserved IP, as a rollout does."""
        made = self.api.client.call("POST", "reserved_ips", {"droplet_id": self.droplet["id"]})["reserved_ip"]["ip"]
        until(lambda: bool(self.api.client.call("GET", f"reserved_ips/{made}")["reserved_ip"]["droplet"]))
        state = self.inventory / "state/contoso"
        state.mkdir(parents=True)
        for name in ("reserved_ip", "reserved_here"):
            (state / name).write_text(f"{made}\n")
        return str(made)

    def declare(self, **variables: Any) -> None:
        """Further variables of the customer."""
        host = {"sbc_fqdn": FQDN, "ansible_connection": "local", "ansible_host": "127.0.0.1"}
        hosts = {CUSTOMER: host | {"ansible_python_interpreter": sys.executable} | variables}
        (self.inventory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": hosts}}))

    def command(self, *arguments: str, playbook: str = "destroy") -> list[str]:
        said = [part for argument in arguments for part in (["-e", argument] if "=" in argument else [argument])]
        ansible = str(Path(sys.executable).with_name("ansible-playbook"))
        return [ansible, "-i", str(self.inventory), f"playbooks/{playbook}.yml", *said]

    def destroy(self, *arguments: str, playbook: str = "destroy") -> subprocess.CompletedProcess[str]:
        """Run the playbook as from a script: without a terminal."""
        done = subprocess.run(
            self.command(*arguments, playbook=playbook),
            cwd=ROOT,
            env=os.environ | {"NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    def writes(self) -> list[str]:
        """Requests since the last call that were to change something."""
        return [line for line in self.api.requests() if not line.startswith("GET")]

    def left(self) -> dict[str, list[str]]:
        """Names of what is in the account."""
        client = self.api.client
        records = [each for each in client.get_all("domains/example.com/records", "domain_records")]
        return {
            "droplets": [each["name"] for each in client.get_all("droplets", "droplets")],
            "reserved_ips": [each["ip"] for each in client.get_all("reserved_ips", "reserved_ips")],
            "firewalls": [each["name"] for each in client.get_all("firewalls", "firewalls")],
            "keys": [each["name"] for each in client.get_all("account/keys", "ssh_keys")],
            "tags": sorted(each["name"] for each in client.get_all("tags", "tags")),
            "records": sorted(
                each["name"] for each in records if each["type"] in ("A", "CNAME") or "_" in each["name"]
            ),
        }


def words(done: subprocess.CompletedProcess[str]) -> str:
    """All that was said, without line breaks and indentation."""
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def account(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    common = {
        "sbc_domain": "example.com",
        "sbc_contact_email": "it@example.com",
        "sbc_ssh_sources": ["198.51.100.0/24"],
        "sbc_api_endpoint": api.endpoint,
        "certificate_vault_password_file": str(inventory / "vault-password"),
    }
    (inventory / "group_vars/sbc.yml").write_text(yaml.safe_dump(common))
    monkeypatch.delenv("DIGITALOCEAN_END_POINT")
    client = api.client
    client.call("POST", "account/keys", {"name": "sbc-contoso", "public_key": KEY})
    made = Account(api, inventory, api.droplet("sbc", TAG, MARK, name=FQDN))
    body = {"name": "sbc-contoso", "inbound_rules": [RULE], "outbound_rules": [], "droplet_ids": [], "tags": [TAG]}
    client.call("POST", "firewalls", body)
    made.record("A", "sbc1", made.address)
    made.record("A", "fabrikam.sbc1", made.address)
    made.record("NS", "_acme-challenge.sbc1", f"{FQDN}.")
    made.declare()
    api.requests()
    return made


def test_a_rehearsal_shows_what_goes_and_changes_nothing(account: Account) -> None:
    rehearsal = account.destroy("--check", "--diff")
    assert rehearsal.returncode == 0, rehearsal.stdout
    for expected in (
        f"droplet {account.droplet['id']} ({FQDN}, ",
        "record sbc1.example.com A ",
        "firewall sbc-contoso",
    ):
        assert expected in words(rehearsal)
    assert account.writes() == []
    assert not (account.inventory / "state").exists()


def test_all_of_it_goes_in_order_and_then_nothing_is_left_to_do(account: Account) -> None:
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert done.returncode == 0, done.stdout
    kinds = [line.split()[1].split("/")[0] for line in account.writes() if MARK not in line]
    assert list(dict.fromkeys(kinds)) == ["domains", "droplets", "firewalls", "tags", "account"]
    assert account.left() == NOTHING
    assert "site.yml makes the customer anew" in words(done)

    assert not (account.inventory / MEMORY).exists()

    again = account.destroy(account.number)
    assert again.returncode == 0, again.stdout
    assert "changed=0 " in again.stdout
    assert account.writes() == []


def test_what_others_need_stays_and_is_said(account: Account) -> None:
    other = account.api.droplet("sbc", "sbc:customer:fabrikam", name="sbc2.example.com")
    account.record("A", "sbc2", "203.0.113.77")
    account.record("A", "voice", account.address)
    account.record("CNAME", "alias", f"{FQDN}.")
    account.record("A", "moved.sbc1", "203.0.113.78")
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert done.returncode == 0, done.stdout
    left = account.left()
    assert left["droplets"] == [other["name"]]
    assert left["keys"] == ["sbc-contoso"]
    assert left["records"] == ["alias", "moved.sbc1", "sbc2", "voice"]
    for expected in (
        "SSH key sbc-contoso: customers share keys, and there are 1 other droplet (sbc2.example.com)",
        "record voice.example.com A",
        "record alias.example.com CNAME",
        "record moved.sbc1.example.com A 203.0.113.78: leads to another address",
    ):
        assert expected in words(done)


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        pytest.param((), {}, "If the droplet above is the one, say its number: -e destroy_id=", marks=FULL),
        (("destroy_id=5", f"destroy_confirmation={FQDN}"), {}, "destroy_id is 5, but the droplet of contoso is"),
        (("NUMBER",), {}, f"Nobody confirmed it: nothing was changed. Type {FQDN}"),
        (("NUMBER", "destroy_confirmation=contoso"), {}, "contoso is not the FQDN of contoso: nothing was changed"),
        pytest.param(
            ("NUMBER", f"destroy_confirmation={FQDN}"), {"sbc_protected": True}, "contoso is protected", marks=FULL
        ),
        (
            ("NUMBER", f"destroy_confirmation={FQDN}"),
            {"ansible_connection": "ssh", "ansible_port": 9},
            f"The certificate of {FQDN} cannot be saved: the droplet cannot be reached",
        ),
    ],
    ids=["no number", "another number", "no confirmation", "another name", "protected", "unreachable"],
)
def test_what_does_not_agree_is_refused(
    account: Account, arguments: tuple[str, ...], variables: dict[str, Any], reason: str
) -> None:
    account.declare(**variables)
    refused = account.destroy(*(account.number if each == "NUMBER" else each for each in arguments))
    assert refused.returncode != 0
    assert reason in words(refused)
    assert account.writes() == []


@FULL
def test_a_droplet_that_is_lost_anyway_goes_without_its_certificate(account: Account) -> None:
    account.declare(ansible_connection="ssh", ansible_port=9)
    said = (account.number, f"destroy_confirmation={FQDN}", "destroy_without_certificate=true")
    done = account.destroy(*said)
    assert done.returncode == 0, done.stdout
    assert account.left()["droplets"] == []


@FULL
def test_one_customer_at_a_time(account: Account) -> None:
    hosts = {name: {"sbc_fqdn": f"{name}.example.com"} for name in ("contoso", "fabrikam")}
    (account.inventory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": hosts}}))
    refused = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert "customers are destroyed one at a time: name yours with --limit" in words(refused)
    assert account.api.requests() == []


def test_a_replacement_is_finished_first(account: Account) -> None:
    account.api.droplet("sbc", TAG, "sbc:successor")
    account.api.requests()
    refused = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert refused.returncode != 0
    assert "a replacement of contoso was not finished" in words(refused)
    assert account.writes() == []


def typed(account: Account, answer: str) -> tuple[int, str]:
    """Run the playbook on a terminal and type an answer when it is asked for; exit code and all that was shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ["NO_COLOR"] = "1"
        command = account.command(account.number)
        os.execv(command[0], command)
    shown = b""
    with contextlib.suppress(OSError):  # that is how the terminal of a process ends that is no more
        while True:
            if select.select([terminal], [], [], 2)[0]:
                shown += os.read(terminal, 4096)
            elif b"type its FQDN" in shown:
                # What is typed before the terminal listens is thrown away, and nothing follows: it is typed again.
                os.write(terminal, answer.encode() + b"\r")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


@pytest.mark.parametrize(("answer", "code"), [(FQDN, 0), pytest.param("contoso", 2, marks=FULL)])
def test_a_person_confirms_it_on_the_terminal(account: Account, answer: str, code: int) -> None:
    assert typed(account, answer)[0] == code
    assert bool(account.left()["droplets"]) == bool(code)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reserved_address_is_not_taken_for_the_droplets_own(account: Account) -> None:
    reserved = account.reserve()
    account.api.control("POST", "account", {"reserved_ip_first": True})
    found = estate(account)
    assert found["droplet"]["address"] == account.address
    assert found["estate"]["addresses"] == sorted([account.address, reserved])
    assert any(line.startswith("droplet ") and f", {account.address}, " in line for line in found["going"])


@pytest.mark.parametrize("named", [False, pytest.param(True, marks=FULL)])
def test_an_address_that_was_reserved_for_it_is_given_back(account: Account, named: bool) -> None:
    """One that the inventory names stays, and so does one that belongs to nobody."""
    client = account.api.client
    foreign = client.call("POST", "reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"]
    own = account.reserve()
    account.declare(**({"droplet_reserved_ip": own} if named else {}))
    account.record("A", "woodgrove.sbc1", own)
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert done.returncode == 0, done.stdout
    left = [each["ip"] for each in client.get_all("reserved_ips", "reserved_ips")]
    assert sorted(left) == sorted([foreign, own] if named else [foreign])
    assert account.left()["records"] == []
    for name in ("reserved_ip", "reserved_here"):
        assert (account.inventory / "state/contoso" / name).exists() == named
    assert account.writes()
    again = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert "changed=0 " in again.stdout
    assert account.writes() == []


@pytest.mark.parametrize("noted", [None, pytest.param("198.51.100.99", marks=FULL)], ids=["nothing", "another"])
def test_an_address_that_no_rollout_reserved_is_kept(account: Account, noted: str | None) -> None:
    """Somebody assigned it by hand, or the inventory named it once: it is given back only to who says so."""
    own, state = account.reserve(), account.inventory / "state/contoso"
    (state / "reserved_here").unlink()
    if noted:
        (state / "reserved_here").write_text(f"{noted}\n")
    account.declare(droplet_reserved_ip=True)
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert done.returncode == 0, done.stdout
    assert f"reserved IP {own}: kept, unless destroy_keep_reserved_ip is false; billed" in words(done)
    left = account.left()
    assert (left["droplets"], left["reserved_ips"]) == ([], [own])
    told = account.destroy(f"destroy_confirmation={FQDN}", "destroy_keep_reserved_ip=false")
    assert told.returncode == 0, told.stdout
    assert account.left() == NOTHING


def kill(number: int) -> None:
    """End a process and all that it has started; Ansible's workers are sessions of their own, and would work on."""
    # Whoever has ended meanwhile is none to end.
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(number, signal.SIGSTOP)
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            for child in tasks.read_text().split():
                kill(int(child))
        os.kill(number, signal.SIGKILL)


WRITES = ["domains/*/records/*", "droplets/*", "reserved_ips/*", "firewalls/*", "tags/*", "account/keys/*"]


@pytest.mark.parametrize(
    ("path", "done"),
    [
        pytest.param("droplets/*", True, id="droplets, done"),
        *(
            pytest.param(path, done, marks=FULL, id=f"{path.split('/')[0]}, {'done' if done else 'not done'}")
            for path in WRITES
            for done in (True, False)
            if (path, done) != ("droplets/*", True)
        ),
    ],
)
def test_killed_and_run_again(account: Account, path: str, done: bool) -> None:
    """Killed while an answer is awaited, of a request that was carried out or was not."""
    account.reserve()
    account.api.fault("slow" if done else "429", "DELETE", path, seconds=10, retry_after=60)
    said = (account.number, f"destroy_confirmation={FQDN}")
    nothing = subprocess.DEVNULL
    with subprocess.Popen(account.command(*said), cwd=ROOT, stdin=nothing, stdout=nothing, stderr=nothing) as run:
        until(lambda: not account.api.control("GET", "faults")["faults"])
        kill(run.pid)
    assert json.loads((account.inventory / MEMORY).read_text())["droplet_id"] == account.droplet["id"]
    account.api.control("DELETE", "faults")
    again = account.destroy(*said)
    assert again.returncode == 0, again.stdout
    assert account.left() == NOTHING
    assert not (account.inventory / MEMORY).exists()
    # A late answer would be counted in another test.
    until(lambda: any(each["fault"] for each in account.api.control("GET", "requests")["requests"]))


def test_a_second_life_is_not_taken_for_the_first(account: Account) -> None:
    """A run is cut off, the customer is made anew, and what belonged to the first droplet is somebody else's by now."""
    client = account.api.client
    foreign = client.call("POST", "reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"]
    account.record("A", "old.sbc1", "203.0.113.5")
    memory = {
        "droplet_id": 5,
        "addresses": ["203.0.113.5"],
        "tags": ["sbc:user-data:ba9876543210"],
        "reserved_ip": foreign,
    }
    (account.inventory / "state/contoso").mkdir(parents=True)
    (account.inventory / MEMORY).write_text(json.dumps(memory))
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    assert done.returncode == 0, done.stdout
    left = account.left()
    assert (left["droplets"], left["reserved_ips"], left["records"]) == ([], [foreign], ["old.sbc1"])
    assert not (account.inventory / MEMORY).exists()


def test_a_run_that_was_cut_off_before_its_end_has_only_to_forget(account: Account) -> None:
    account.destroy(account.number, f"destroy_confirmation={FQDN}")
    (account.inventory / MEMORY).parent.mkdir(parents=True, exist_ok=True)
    (account.inventory / MEMORY).write_text(json.dumps({"droplet_id": account.droplet["id"]}))
    again = account.destroy(account.number)
    assert again.returncode == 0, again.stdout
    assert "nothing: all of it is gone" in words(again)
    assert "changed=1 " in again.stdout
    assert not (account.inventory / MEMORY).exists()


def estate(account: Account, **more: Any) -> dict[str, Any]:
    environment = pytest.MonkeyPatch()
    environment.setenv("DIGITALOCEAN_END_POINT", account.api.endpoint)
    try:
        asked = {"customer": CUSTOMER, "fqdn": FQDN, "domain": "example.com"} | more
        return run_module("digitalocean_estate_info", **asked)
    finally:
        environment.undo()


def test_a_key_is_known_by_its_fingerprint_whatever_it_is_called(account: Account) -> None:
    client, mark = account.api.client, fingerprint(KEY)
    client.call("PUT", f"account/keys/{mark}", {"name": "sbc-fabrikam"})
    found = estate(account, public_key=f"{KEY} operator@laptop")
    assert found["public_key"] is None
    wanted = "SSH key sbc-fabrikam: it logged in to the droplet, but was not put there for this customer"
    assert wanted in found["staying"]


def test_what_all_customers_have_in_common_stays_and_is_said(account: Account) -> None:
    account.api.client.call("POST", "projects", {"name": "Voice", "purpose": "Other"})
    found = estate(account, project="Voice")
    assert "project Voice: stays, with what else is in it" in found["staying"]
    assert "tag sbc: all customers have it in common" in found["staying"]
    assert not [line for line in estate(account, project="another")["staying"] if line.startswith("project")]


def test_snapshots_stay_and_are_said(account: Account) -> None:
    client, number = account.api.client, account.droplet["id"]
    client.call("POST", f"droplets/{number}/actions", {"type": "snapshot", "name": "before the upgrade"})
    until(lambda: len(client.get_all("snapshots", "snapshots")) > 0)
    found = estate(account)
    assert [line for line in found["staying"] if line.startswith("snapshot before the upgrade (")]


def test_backups_go_with_the_droplet_and_volumes_stay(account: Account) -> None:
    """The lab's account makes neither of the two: the droplet is as DigitalOcean would show it."""
    path = ROOT / "plugins/modules/digitalocean_estate_info.py"
    spec = importlib.util.spec_from_file_location("digitalocean_estate_info", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked: dict[str, Any] = {
        "customer": CUSTOMER,
        "fqdn": FQDN,
        "domain": None,
        "reserved_ip": None,
        "keep_reserved_ip": False,
    }
    asked |= {"remembered": {}, "public_key": None, "project": None}
    found = module.Estate(SimpleNamespace(params=asked), account.api.client)
    found.droplet(account.droplet | {"backup_ids": [7, 8], "volume_ids": ["506f78a4"]})
    assert "its 2 backups: DigitalOcean destroys them with the droplet" in found.going
    assert "volume 506f78a4: billed until it is deleted" in found.staying


def test_a_firewall_and_a_tag_that_others_use_stay(account: Account) -> None:
    other = account.api.droplet(MARK, name="web")
    (firewall,) = account.api.client.get_all("firewalls", "firewalls")
    account.api.client.call("POST", f"firewalls/{firewall['id']}/droplets", {"droplet_ids": [other["id"]]})
    found = estate(account)
    assert (found["firewall"], found["tags"]) == (None, [TAG])
    assert f"firewall sbc-contoso: somebody assigned it to droplet {other['id']}" in found["staying"]
    assert f"tag {MARK}: 1 other resource carries it" in found["staying"]


def test_what_the_token_may_not_list_is_said_unless_it_is_needed(account: Account) -> None:
    scopes = ["droplet:read", "firewall:read", "ssh_key:read", "tag:read", "domain:read"]
    account.api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": scopes})
    found = estate(account)
    assert "reserved IPs, if there are any: the token may not list them" in found["staying"]
    assert "snapshots, if there are any: the token may not list them" in found["staying"]
    with pytest.raises(Failed, match="GET reserved_ips: 403"):
        estate(account, reserved_ip="203.0.113.9")


@FULL
def test_the_documented_scopes_are_enough(account: Account) -> None:
    def scopes(page: str, after: str) -> list[str]:
        paragraph = (ROOT / page).read_text().partition(after)[2].partition("\n\n" if page == "README.md" else "\n")[0]
        named = re.findall(r"`(\w+):([a-z_,]+)`", paragraph)
        return [f"{noun}:{verb}" for noun, verbs in named for verb in verbs.split(",")]

    account.reserve()
    needed = scopes("README.md", "With custom scopes") + scopes("docs/first-customer.md", "| taking a customer away |")
    account.api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": needed})
    done = account.destroy(account.number, f"destroy_confirmation={FQDN}")
    account.api.control("DELETE", "tokens/scopes")
    assert done.returncode == 0, done.stdout
    assert account.left() == NOTHING


# playbooks/smoke.yml: what it leaves behind when it is killed, as far as no droplet has to be real.

SMOKE = "sbc:customer:sbc-smoke"


def test_what_a_run_would_cost_is_said_and_nobody_pays_by_mistake(account: Account) -> None:
    refused = account.destroy("smoke_confirmation=nobody@example.com", playbook="smoke")
    assert refused.returncode != 0
    for expected in (
        "The account of operator@lab.test at http://127.0.0.1:",
        "One droplet s-1vcpu-512mb-10gb in fra1",
        "It costs 0.0060 USD an hour; if it were not destroyed, 4.00 USD a month",
        "nobody@example.com is not the owner of this account: nothing was made",
    ):
        assert expected in words(refused)
    assert account.writes() == []


@FULL
def test_a_rehearsal_of_it_changes_nothing(account: Account) -> None:
    account.api.droplet("sbc", SMOKE, "sbc:smoke", name="sbc-smoke.example.com")
    account.api.requests()
    rehearsal = account.destroy("--check", "--diff", playbook="smoke")
    assert rehearsal.returncode == 0, rehearsal.stdout
    assert "It costs 0.0060 USD an hour" in words(rehearsal)
    assert account.writes() == []


@pytest.mark.parametrize("ours", [True, pytest.param(False, marks=FULL)])
def test_what_a_killed_run_left_behind_goes(account: Account, ours: bool) -> None:
    left = account.api.droplet("sbc", SMOKE, *(["sbc:smoke"] if ours else []), name="sbc-smoke.example.com")
    account.record("A", "sbc-smoke", left["networks"]["v4"][-1]["ip_address"])
    account.api.requests()
    done = account.destroy("smoke_confirmation=operator@lab.test", "smoke_only_tidy=true", playbook="smoke")
    assert account.left()["droplets"] == ([FQDN] if ours else [FQDN, "sbc-smoke.example.com"])
    if ours:
        assert done.returncode == 0, done.stdout
        assert "sbc-smoke" not in str(account.left())
        assert "sbc-contoso" in str(account.left()), "a customer's things stay"
    else:
        assert done.returncode != 0
        assert "but not sbc:smoke: nothing was destroyed" in words(done)
        assert account.writes() == []


def give(account: Account, *scopes: str) -> None:
    account.api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": scopes})


CONFIRMED = "smoke_confirmation=operator@lab.test"


@pytest.mark.parametrize(
    ("playbook", "missing"),
    [
        ("smoke", "droplet:delete, firewall:delete, ssh_key:delete;"),
        ("snapshot", "droplet:delete, firewall:delete, image:create, image:delete, image:update;"),
    ],
)
def test_nothing_is_made_that_the_token_could_not_destroy(account: Account, playbook: str, missing: str) -> None:
    before = account.left()
    give(account, *ROLLOUT)
    refused = account.destroy(*([CONFIRMED] if playbook == "smoke" else []), playbook=playbook)
    assert refused.returncode != 0
    assert f"DIGITALOCEAN_ACCESS_TOKEN lacks scopes at {account.api.endpoint}: {missing}" in words(refused)
    account.api.control("DELETE", "tokens/scopes")
    assert account.left() == before


@pytest.mark.parametrize(
    ("limit", "arguments", "reason"),
    [
        (1, (), "has as many droplets as it may have: nothing was made"),
        pytest.param(25, ("droplet_region=xyz1",), "no image debian-13-x64 in the region xyz1", marks=FULL),
        pytest.param(25, ("droplet_size=s-9",), "s-9 is not a size that DigitalOcean offers in the region", marks=FULL),
    ],
)
def test_no_golden_image_is_begun_that_cannot_be_built(
    account: Account, limit: int, arguments: tuple[str, ...], reason: str
) -> None:
    account.api.control("POST", "account", {"droplet_limit": limit})
    before = account.left()
    refused = account.destroy(*arguments, playbook="snapshot")
    assert refused.returncode != 0
    assert reason in words(refused)
    assert account.left() == before


def test_a_name_that_is_in_use_is_not_taken(account: Account) -> None:
    account.record("A", "sbc-smoke", "203.0.113.77")
    before = account.left()
    refused = account.destroy(CONFIRMED, playbook="smoke")
    assert refused.returncode != 0
    said = (
        "sbc-smoke.example.com is in use by others, and nothing was made: record sbc-smoke.example.com A 203.0.113.77"
    )
    assert said in words(refused)
    assert account.left() == before


def test_the_record_of_a_killed_run_goes_also_after_its_droplet(account: Account) -> None:
    """With a token that could make nothing: it needs no more than what it destroys."""
    account.record("A", "sbc-smoke", "203.0.113.77")
    memory = account.inventory / "state/sbc-smoke/destroyed.json"
    memory.parent.mkdir(parents=True)
    known = {"droplet_id": 77, "addresses": ["203.0.113.77"], "tags": [], "reserved_ip": None}
    memory.write_text(json.dumps(known))
    scopes = [each for each in ROLLOUT if not each.endswith(":create") and each != "actions:read"]
    give(account, *scopes, "droplet:delete", "firewall:delete", "ssh_key:delete")
    done = account.destroy(CONFIRMED, "smoke_only_tidy=true", playbook="smoke")
    assert done.returncode == 0, done.stdout
    account.api.control("DELETE", "tokens/scopes")
    assert "sbc-smoke" not in str(account.left())
    assert not memory.exists()
