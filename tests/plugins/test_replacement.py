"""playbooks/replace.yml where droplets are records only: it comes as far as it can without a machine, and goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.fleet import provision
from tests.plugins.support import ROOT, TOKEN, Api, run_module

FQDN = "sbc1.example.com"
TTL = 300
WHERE = {"customer": "contoso", "fqdn": FQDN, "domain": "example.com"}


class TestInfo:
    def look(self, **more: Any) -> dict[str, Any]:
        return run_module("digitalocean_replacement_info", **WHERE | more)

    def record(self, address: str, ttl: int = TTL) -> None:
        run_module("digitalocean_rrset", domain="example.com", name=FQDN, values=[address], ttl=ttl)

    def test_nothing_is_there(self, api: Api) -> None:
        found = self.look()
        assert found["droplets"] == {"droplet": None, "successor": None, "retired": None}
        assert (found["moved"], found["ttl"], found["changed"]) == (False, None, False)

    def test_the_droplets_are_told_by_their_tags_and_the_names_by_their_addresses(self, api: Api) -> None:
        api.droplet("sbc", "sbc:customer:fabrikam")
        old = api.droplet("sbc", "sbc:customer:contoso")
        new = api.droplet("sbc", "sbc:customer:contoso", "sbc:successor")
        addresses = {each["id"]: each["address"] for each in api.control("GET", "state")["droplets"]}
        self.record(addresses[old["id"]])
        found = self.look()
        assert found["droplets"] == {
            "droplet": {"id": old["id"], "address": addresses[old["id"]]},
            "successor": {"id": new["id"], "address": addresses[new["id"]]},
            "retired": None,
        }
        assert (found["moved"], found["ttl"]) == (False, TTL)
        self.record(addresses[new["id"]], 30)
        api.requests()
        found = self.look()
        assert (found["moved"], found["ttl"]) == (True, 30)
        assert [line.split()[0] for line in api.requests()] == ["GET", "GET"]
        assert (self.look(domain=None)["moved"], self.look(domain=None)["ttl"]) == (False, None)

    def test_a_reserved_address_moves_in_place_of_the_names(self, api: Api) -> None:
        api.droplet("sbc", "sbc:customer:contoso")
        new = api.droplet("sbc", "sbc:customer:contoso", "sbc:successor")
        reserved = api.client.call("POST", "reserved_ips", {"region": "fra1"})["reserved_ip"]["ip"]
        self.record(reserved)
        found = self.look(reserved_ip=reserved)
        assert (found["moved"], found["ttl"]) == (False, None)
        act = {"type": "assign", "droplet_id": new["id"]}
        api.client.call("POST", f"reserved_ips/{reserved}/actions", act, repeatable=True)
        deadline = time.monotonic() + 30
        while not self.look(reserved_ip=reserved)["moved"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def test_a_reserved_address_is_not_taken_for_the_droplets_own(self, api: Api) -> None:
        made = api.droplet("sbc", "sbc:customer:contoso")
        run_module("digitalocean_reserved_ip", droplet_id=made["id"])
        api.control("POST", "account", {"reserved_ip_first": True})
        own = api.control("GET", "state")["droplets"][0]["address"]
        assert self.look()["droplets"]["droplet"]["address"] == own


@dataclass
class World:
    """One customer whose droplet, records and saved certificate are there, and an account of nobody else's."""

    api: Api
    inventory: Path

    def __post_init__(self) -> None:
        self.old = self.droplet()
        self.leads_to(self.old)

    def begin_anew(self) -> None:
        """As it was before the first run."""
        for number in self.kinds():
            self.api.client.delete(f"droplets/{number}")
        (self.state / "replacement.json").unlink(missing_ok=True)
        self.__post_init__()

    @property
    def state(self) -> Path:
        return self.inventory / "state/contoso"

    def droplet(self, *tags: str) -> dict[str, Any]:
        made = self.api.droplet("sbc", "sbc:customer:contoso", *tags)
        found: list[dict[str, Any]] = self.api.control("GET", "state")["droplets"]
        return next(each for each in found if each["id"] == made["id"])

    def kinds(self) -> dict[int, str]:
        """What each of the customer's droplets is, by its tags."""
        found = self.api.control("GET", "state")["droplets"]
        words = ("successor", "retired")
        return {
            each["id"]: next((word for word in words if f"sbc:{word}" in each["tags"]), "droplet") for each in found
        }

    def leads_to(self, droplet: dict[str, Any], ttl: int = TTL) -> None:
        run_module("digitalocean_rrset", domain="example.com", name=FQDN, values=[droplet["address"]], ttl=ttl)

    def records(self) -> list[tuple[str, int]]:
        """Address and TTL of the customer's name."""
        found = self.api.client.get_all("domains/example.com/records", "domain_records", name=FQDN, type="A")
        return [(each["data"], each["ttl"]) for each in found]

    def replace(self, *arguments: str, limit: str | None = "contoso", dies_before: str = "") -> tuple[int, str]:
        limited = ["--limit", limit] if limit else []
        return self.play("playbooks/replace.yml", *arguments, *limited, dies_before=dies_before)

    @property
    def tasks(self) -> Path:
        """The file with the tasks that the last run began."""
        return self.inventory.parent / "tasks"

    def play(self, *arguments: str, dies_before: str = "") -> tuple[int, str]:
        """Run a playbook, killed before a task; its exit code, and what it said in one line."""
        self.api.requests()
        self.tasks.unlink(missing_ok=True)
        dying = {
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/e2e/callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "dies",
            "DIES_LIST": str(self.tasks),
            "DIES_BEFORE": dies_before,
        }
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.inventory), *arguments],
            cwd=ROOT,
            env=os.environ | dying | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "4000"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert TOKEN not in done.stdout
        return done.returncode, " ".join(done.stdout.split())

    def wrote(self) -> list[str]:
        """What was carried out; what preflight asks to be refused, so as to know its scopes, is not."""
        return [line for line in self.api.requests() if not line.startswith("GET") and line.split()[-1] < "400"]


@pytest.fixture
def world(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "state/contoso").mkdir(parents=True)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (inventory / "state/contoso/certificate.vault").write_text("as it was saved last\n")
    (inventory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": {"contoso": {"sbc_fqdn": FQDN}}}}))
    source = {"plugin": "digitalocean", "endpoint": api.endpoint}
    (inventory / "droplets.digitalocean.yml").write_text(yaml.safe_dump(source))
    settings = {
        "sbc_domain": "example.com",
        "sbc_api_endpoint": api.endpoint,
        "sbc_contact_email": "it@example.com",
        "sbc_ssh_sources": ["198.51.100.0/24"],
        "ansible_ssh_private_key_file": str(key),
        # Nobody is there; nobody else is asked, nor over a connection that somebody else has left open.
        "ansible_ssh_args": "-o ControlPath=none -o ProxyCommand=false",
        "certificate_vault_password_file": str(tmp_path / "password"),
        "droplet_timeout": 3,
    }
    (inventory / "group_vars/sbc.yml").write_text(yaml.safe_dump(settings))
    made = World(api, inventory)
    run_module("ssh_host_key", host="contoso", state_dir=str(inventory / "state"))
    return made


def test_a_failure_before_the_move_leaves_all_as_it_was(world: World) -> None:
    before = world.api.client.get(f"droplets/{world.old['id']}", "droplet")
    # What somebody says with -e is what it goes back to, and not what stands between lowering it and the move.
    code, said = world.replace("-e", f"droplet_dns_ttl={TTL}")
    assert code != 0
    assert "WARNING: the old droplet of contoso cannot be reached" in said
    assert "contoso was not replaced. The droplet answers over SSH" in said
    assert f"All leads to the old droplet, {world.old['id']} ({world.old['address']}), which is as it was" in said
    wrote = world.wrote()
    lowered, made = (
        next(i for i, line in enumerate(wrote) if line.startswith(act)) for act in ("PUT", "POST droplets")
    )
    assert lowered < made, "resolvers forget while the droplet is being built"
    assert world.api.client.get(f"droplets/{world.old['id']}", "droplet") == before
    assert world.records() == [(world.old["address"], TTL)]
    [(new, kind)] = [item for item in world.kinds().items() if item[0] != world.old["id"]]
    assert kind == "successor"
    assert json.loads((world.state / "replacement.json").read_text())["successor"] == new

    code, said = world.replace("-e", "replacement_abandon=true")
    assert code == 0, said
    assert world.kinds() == {world.old["id"]: "droplet"}
    assert world.records() == [(world.old["address"], TTL)]
    assert not (world.state / "replacement.json").exists()
    code, said = world.replace("-e", "replacement_abandon=true")
    assert (code, "changed=0" in said, world.wrote()) == (0, True, []), said


def test_the_move_waits_until_resolvers_have_forgotten(world: World) -> None:
    """They may remember the old address for 12 seconds yet, by the note of the run that lowered the time."""
    play = {
        "hosts": "sbc",
        "gather_facts": False,
        "tasks": [{"include_role": {"name": "replacement", "tasks_from": "wait"}}],
    }
    (world.inventory.parent / "wait.yml").write_text(yaml.safe_dump([play]))
    forgotten = int(time.time()) + 12
    (world.state / "replacement.json").write_text(json.dumps({"ttl": 300, "lowered_at": forgotten - 300}))
    code, said = world.play(str(world.inventory.parent / "wait.yml"))
    assert code == 0, said
    assert time.time() >= forgotten


@pytest.mark.parametrize("by_hand", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_host_key_of_a_successor_that_goes_is_in_nobodys_way(world: World, by_hand: bool) -> None:
    """The private half of the key of the droplet in use is with the colleague who made it."""
    for half in world.state.glob("ssh_host_ed25519_key*"):
        half.unlink()
    world.api.client.tag_droplet(world.old["id"], "sbc:user-data:0123456789ab")
    code, said = world.replace()
    assert (code != 0, "contoso was not replaced. The droplet answers over SSH" in said) == (True, True), said
    if by_hand:
        [new] = [number for number, kind in world.kinds().items() if kind == "successor"]
        world.api.client.delete(f"droplets/{new}")
    else:
        code, said = world.replace("-e", "replacement_abandon=true")
        assert code == 0, said
    assert world.kinds() == {world.old["id"]: "droplet"}
    done = provision(world.inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.kinds() == {world.old["id"]: "droplet"}


@pytest.mark.full
def test_it_goes_on_with_the_successor_that_there_is(world: World) -> None:
    new = world.droplet("sbc:successor")
    world.leads_to(world.old, 30)
    code, said = world.replace()
    assert code != 0
    assert "contoso was not replaced. It can be reached still" in said
    assert f"The new one, {new['id']} ({new['address']}), is there to be looked at" in said
    assert world.kinds() == {world.old["id"]: "droplet", new["id"]: "successor"}
    assert world.records() == [(world.old["address"], TTL)]


@pytest.mark.full
def test_no_droplet_can_be_made(world: World) -> None:
    # The first is preflight's.
    world.api.fault("500", "POST", "droplets", after=1, count=100)
    code, said = world.replace()
    assert code != 0
    assert "contoso was not replaced. The customer has one droplet" in said
    assert "No other was made." in said
    assert (world.kinds(), world.records()) == ({world.old["id"]: "droplet"}, [(world.old["address"], TTL)])
    assert not (world.state / "replacement.json").exists()


def test_a_move_whose_verdict_fails_is_undone(world: World) -> None:
    """A run was killed after the move; what the names lead to now cannot be reached."""
    new = world.droplet("sbc:successor")
    world.leads_to(new, 30)
    code, said = world.replace()
    assert code != 0
    assert "contoso was not replaced. Every destination is AP, and that is true" in said
    assert world.records() == [(world.old["address"], TTL)]
    assert world.kinds() == {world.old["id"]: "droplet", new["id"]: "successor"}


def test_a_reserved_address_that_moved_without_a_proof_goes_back(world: World) -> None:
    reserved = run_module("digitalocean_reserved_ip", droplet_id=world.old["id"])["address"]
    settings = world.inventory / "group_vars/sbc.yml"
    settings.write_text(settings.read_text() + "droplet_reserved_ip: true\n")
    (world.state / "reserved_ip").write_text(reserved)
    new = world.droplet("sbc:successor")
    run_module("digitalocean_rrset", domain="example.com", name=FQDN, values=[reserved])
    run_module("digitalocean_reserved_ip", droplet_id=new["id"], address=reserved, from_droplet_id=world.old["id"])
    code, said = world.replace()
    assert code != 0
    assert "contoso was not replaced. Every destination is AP, and that is true" in said
    holder = world.api.client.call("GET", f"reserved_ips/{reserved}")["reserved_ip"]["droplet"]
    assert holder["id"] == world.old["id"]
    assert world.records() == [(reserved, TTL)]
    assert not [line for line in world.wrote() if "/records" in line], "the names never moved"


@pytest.mark.parametrize("wish", ["true", "198.19.16.99"])
def test_a_reserved_address_is_not_introduced_by_a_replacement(world: World, wish: str) -> None:
    settings = world.inventory / "group_vars/sbc.yml"
    settings.write_text(settings.read_text() + "droplet_reserved_ip: true\n")
    if wish != "true":
        reserved = run_module("digitalocean_reserved_ip", droplet_id=world.old["id"])["address"]
        (world.state / "reserved_ip").write_text(reserved)
        world.api.client.call("POST", "reserved_ips", {"region": "fra1"})
        others = {each["ip"] for each in world.api.client.get_all("reserved_ips", "reserved_ips")} - {reserved}
        wish = others.pop()
    code, said = world.replace("-e", f"droplet_reserved_ip={wish}")
    assert code != 0
    assert f"Nothing was done: droplet_reserved_ip is {wish}, and contoso has" in said
    assert "let `ansible-playbook site.yml --limit contoso` make it first" in said
    assert (world.kinds(), world.wrote()) == ({world.old["id"]: "droplet"}, [])


def test_a_way_back_that_fails_is_said_with_what_went_wrong_first(world: World) -> None:
    new = world.droplet("sbc:successor")
    world.leads_to(new, 30)
    # Real records only; preflight asks for one that there is not.
    world.api.fault("500", "PUT", "domains/*/records/4*", count=100)
    code, said = world.replace()
    assert code != 0
    assert "contoso was not replaced. Every destination is AP, and that is true" in said
    assert "And the way back failed: PUT domains/example.com/records/" in said
    assert "-e replacement_abandon=true` puts that right" in said
    world.api.control("DELETE", "faults")
    code, said = world.replace("-e", "replacement_abandon=true")
    assert code == 0, said
    assert (world.kinds(), world.records()) == ({world.old["id"]: "droplet"}, [(world.old["address"], TTL)])


def test_what_has_ended_is_not_given_up(world: World) -> None:
    """The run was killed when the old droplet was gone already, and before its last words."""
    new = world.old["id"]
    (world.state / "replacement.json").write_text(json.dumps({"old": {"id": 5, "address": ""}, "successor": new}))
    code, said = world.replace("-e", "replacement_abandon=true")
    assert (code != 0, world.wrote()) == (True, []), said
    assert "The new droplet of contoso is proven and is its droplet already" in said
    assert (world.state / "replacement.json").exists()
    code, said = world.replace()
    assert code == 0, said
    assert (world.kinds(), (world.state / "replacement.json").exists()) == ({new: "droplet"}, False)


@pytest.mark.full
def test_a_promotion_moves_a_reserved_address_that_was_left_behind(world: World) -> None:
    reserved = run_module("digitalocean_reserved_ip", droplet_id=world.old["id"])["address"]
    settings = world.inventory / "group_vars/sbc.yml"
    settings.write_text(settings.read_text() + "droplet_reserved_ip: true\n")
    (world.state / "reserved_ip").write_text(reserved)
    run_module("digitalocean_rrset", domain="example.com", name=FQDN, values=[reserved])
    new = world.droplet("sbc:successor")
    world.api.client.tag_droplet(world.old["id"], "sbc:retired")
    code, said = world.replace()
    assert code == 0, said
    holder = world.api.client.call("GET", f"reserved_ips/{reserved}")["reserved_ip"]["droplet"]
    assert (holder["id"], world.kinds()) == (new["id"], {new["id"]: "droplet"})


@pytest.mark.parametrize(
    "kinds", [pytest.param(("retired", "successor"), marks=pytest.mark.full), ("retired", "droplet")]
)
def test_a_promotion_that_was_cut_off_is_ended(world: World, kinds: tuple[str, str]) -> None:
    new = world.droplet(*(["sbc:successor"] if kinds[1] == "successor" else []))
    world.api.client.tag_droplet(world.old["id"], "sbc:retired")
    world.leads_to(new, 30)
    (world.state / "replacement.json").write_text(json.dumps({"old": {"id": world.old["id"]}, "successor": new["id"]}))
    (world.state / "successor").mkdir()
    halves = {each.name: each.read_text() for each in world.state.glob("ssh_host_ed25519_key*")}
    for half in halves:
        (world.state / half).rename(world.state / "successor" / half)
    code, said = world.replace()
    assert code == 0, said
    assert f"The droplet of contoso is {new['id']} ({new['address']}) now" in said
    assert (world.kinds(), world.records()) == ({new["id"]: "droplet"}, [(new["address"], TTL)])
    assert {each.name: each.read_text() for each in world.state.glob("ssh_host_ed25519_key*")} == halves
    assert not (world.state / "replacement.json").exists()


def test_what_has_ended_but_for_the_note_is_not_begun_again(world: World) -> None:
    (world.state / "replacement.json").write_text(json.dumps({"old": {"id": 1}, "successor": world.old["id"]}))
    code, said = world.replace()
    assert code == 0, said
    assert world.kinds() == {world.old["id"]: "droplet"}
    assert world.wrote() == []
    assert not (world.state / "replacement.json").exists()


@pytest.mark.parametrize("kind", ["successor", pytest.param("droplet", marks=pytest.mark.full)])
def test_it_is_given_up_while_the_old_one_is_the_customers(world: World, kind: str) -> None:
    new = world.droplet(*(["sbc:successor"] if kind == "successor" else []))
    world.api.client.tag_droplet(world.old["id"], "sbc:retired")
    world.leads_to(new, 30)
    code, said = world.replace("-e", "replacement_abandon=true")
    if kind == "successor":
        assert code == 0, said
        assert (world.kinds(), world.records()) == ({world.old["id"]: "droplet"}, [(world.old["address"], TTL)])
    else:
        assert code != 0
        assert "nothing was changed" in said
        assert world.wrote() == []


@pytest.mark.full
def test_what_cannot_be_done_is_said_before_anything_is_made(world: World) -> None:
    code, said = world.replace(limit=None)
    assert (code != 0, "--limit contoso" in said, world.wrote()) == (True, True, [])

    (world.state / "certificate.vault").unlink()
    code, said = world.replace()
    assert code != 0
    assert "There is no certificate for the new droplet of contoso" in said
    assert (world.kinds(), world.wrote()) == ({world.old["id"]: "droplet"}, [])

    world.api.client.delete(f"droplets/{world.old['id']}")
    code, said = world.replace()
    assert code != 0
    assert "contoso has no droplet to replace: `ansible-playbook site.yml --limit contoso` makes one" in said
    assert world.wrote() == []


@pytest.mark.full
def test_check_mode_shows_it_and_changes_nothing(world: World) -> None:
    code, said = world.replace("--check", "--diff")
    assert code == 0, said
    assert f"-{FQDN}. {TTL} IN A {world.old['address']} +{FQDN}. 30 IN A {world.old['address']}" in said
    assert "sbc:successor" in said
    assert "the names move" in said
    assert world.wrote() == []
    world.droplet("sbc:successor")
    code, said = world.replace("--check", "--diff", "-e", "replacement_abandon=true")
    assert (code, world.wrote()) == (0, []), said
    assert not (world.state / "replacement.json").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "arguments", "outcome"),
    [
        ("successor", [], "undone"),
        ("successor", ["-e", "replacement_abandon=true"], "gone"),
        ("retired", [], "promoted"),
    ],
    ids=["while the move is undone", "while it is given up", "while the successor is promoted"],
)
def test_killed_before_each_task_and_run_again(world: World, kind: str, arguments: list[str], outcome: str) -> None:
    """Whatever was done then, the next run brings it to the same end."""
    begun = "replacement : What is to be done next"
    tasks: list[str] = []
    while True:
        new = world.droplet("sbc:successor")
        if kind == "retired":
            world.api.client.tag_droplet(world.old["id"], "sbc:retired")
        world.leads_to(new, 30)
        note = {"old": {"id": world.old["id"], "address": world.old["address"]}, "successor": new["id"]}
        (world.state / "replacement.json").write_text(json.dumps(note))
        if tasks:
            code, said = world.replace(*arguments, dies_before=tasks[-1])
            assert (code, world.tasks.read_text().splitlines()[-1]) == (-9, tasks[-1]), said
        code, said = world.replace(*arguments)
        kept, other = (new, world.old) if outcome == "promoted" else (world.old, new)
        assert (code == 0) == (outcome != "undone"), (tasks[-1:], said)
        assert world.records() == [(kept["address"], TTL)], (tasks[-1:], said)
        left = {other["id"]: "successor"} if outcome == "undone" else {}
        assert world.kinds() == {kept["id"]: "droplet"} | left, (tasks[-1:], said)
        if not tasks:
            whole = world.tasks.read_text().splitlines()
            tasks = list(dict.fromkeys(whole[whole.index(begun) + 1 :]))
            assert len(tasks) > 5
        else:
            tasks.pop()
        world.begin_anew()
        if not tasks:
            return
