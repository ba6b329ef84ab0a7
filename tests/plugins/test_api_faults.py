"""Every call that a rollout makes of the API meets every fault: the rollout goes on, or the next one finishes it.

The outcomes are docs/api-faults.md.
"""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import yaml
from ansible.module_utils.digitalocean import public_address

from tests.outcomes import Outcomes
from tests.plugins.rollout import Rollout
from tests.plugins.support import TOKEN, Api, Failed

CUSTOMER, FQDN, DOMAIN = "contoso", "sbc1.example.com", "example.com"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM"
SETTINGS: dict[str, Any] = {
    "sbc_domain": DOMAIN,
    "sbc_contact_email": "it@example.com",
    "sbc_ssh_sources": ["198.51.100.0/24"],
    "droplet_backups": True,
    "droplet_backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4},
    "droplet_allow_resize": True,
    "droplet_reserved_ip": True,
    "droplet_project": "SBCs",
}
# Column of the table: the lab's fault, or what its account becomes.
FAULTS: dict[str, dict[str, Any]] = {
    "429, `retry-after`": {"kind": "429", "retry_after": 3},
    "429": {"kind": "429"},
    "429, the hour's": {"requests_per_hour": 1},
    "500": {"kind": "500"},
    "502, HTML": {"kind": "502html"},
    "422, pending": {"kind": "422pending"},
    "404": {"kind": "404"},
    "answer lost": {"kind": "lost"},
    "request lost": {"kind": "dropped"},
}
# Columns without a fault of the API: the rollout itself is killed, when the call is not yet made or has just been made.
KILLED = ("killed before", "killed after")
COLUMNS = (*FAULTS, *KILLED)
GOES_ON, NEXT_RUN = "goes on", "next run"
# Seconds that a run may wait in all, whatever the API answers, before it gives up.
PATIENCE = 400.0

Row = tuple[str, ...]


class Killed(BaseException):
    """The rollout ends here, with nothing tidied up."""


class Clock:
    """Waiting without waiting: what is slept passes at once, but for a moment in which the API goes on."""

    def __init__(self) -> None:
        self.skipped, self._monotonic, self._sleep = 0.0, time.monotonic, time.sleep

    def monotonic(self) -> float:
        return self._monotonic() + self.skipped

    def sleep(self, seconds: float) -> None:
        self._sleep(min(seconds, 0.05))
        self.skipped += seconds


class Calls:
    """The calls of a run as rows: the task and the call, numbered where a task makes it several times.

    A question is one call however often it is asked, until the task has changed something; so is a request that is made
    again at once. `before` and `after` are told of each request.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self.rows: list[Row] = []
        self._last: Row = ()
        self._known: dict[tuple[str, str, Row], Row] = {}
        self.before: Callable[[Row, str, str], None] = lambda row, method, path: None
        self.after: Callable[[Row], None] = lambda row: None

    def row(self, method: str, url: str, query: Any, body: Any) -> Row:
        call = label(method, url, query)
        task = self._rollout.task.partition(" : ")[2] or self._rollout.task
        if method != "GET":
            self._last = task, call, repr(body)
        key = task, call, self._last
        if key not in self._known:
            earlier = sum(unnumbered(each) == (task, f"`{call}`") for each in self.rows)
            self._known[key] = task, f"`{call}`" + (f" ({earlier + 1})" if earlier else "")
            self.rows.append(self._known[key])
        return self._known[key]

    @contextmanager
    def watched(self) -> Iterator[None]:
        send = requests.Session.request

        def request(session: requests.Session, method: str, url: str, **more: Any) -> requests.Response:
            if "/v2/" not in url:
                return send(session, method, url, **more)
            row = self.row(method, url, more.get("params"), more.get("json"))
            self.before(row, method, url)
            answer = send(session, method, url, **more)
            self.after(row)
            return answer

        with mock.patch.object(requests.Session, "request", request):
            yield


def label(method: str, url: str, query: Any) -> str:
    """A call as the documentation of the API writes it, with what differs from run to run by a name."""
    path = "/" + url.partition("/v2/")[2].partition("?")[0]
    path = re.sub(r"[0-9a-f]{2}(:[0-9a-f]{2}){15}", "FINGERPRINT", path)
    path = re.sub(r"(?<=/)([0-9]{3,}|[0-9a-f]{8}-[0-9a-f-]{27})(?=/|$)", "ID", path)
    path = re.sub(r"(?<=/)[0-9]+(\.[0-9]+){3}(?=/|$)", "ADDRESS", path)
    filters = [f"{key}={value}" for key, value in (query or {}).items() if key not in ("page", "per_page")]
    asked = re.sub(r"(?<=:)[0-9a-f]{12}$", "DIGEST", "&".join(filters))
    return f"{method} {path.replace(DOMAIN, 'DOMAIN')}{'?' if asked else ''}{asked}"


class Place:
    """A customer's inventory and account, the rollout, and what comes of disturbing it."""

    def __init__(self, api: Api, inventory: Path) -> None:
        self.api, self.inventory, self.clock = api, inventory, Clock()
        self.rollout = Rollout(inventory)

    def run(self, around: Calls | None = None) -> None:
        """One rollout, its pauses cut short. Raises Failed, or Killed."""
        self.clock.skipped = 0
        with (
            (around or Calls(self.rollout)).watched(),
            mock.patch.multiple(time, monotonic=self.clock.monotonic, sleep=self.clock.sleep),
        ):
            self.rollout()

    def begin(self, spoil: Callable[[Place], None]) -> None:
        """From nothing: an empty account and no state, and then what is made of them."""
        shutil.rmtree(self.inventory / "state" / CUSTOMER, ignore_errors=True)
        (self.inventory / "state/known_hosts").unlink(missing_ok=True)
        self.api.control("POST", "reset")
        profile = {"boot_seconds": 0.02, "address_seconds": 0.02, "reserved_ips_per_minute": 0}
        self.api.control("POST", "account", profile)
        spoil(self)

    def picture(self) -> dict[str, Any]:
        """What the account owns, without what differs each time."""
        ask = self.api.client.get_all
        projects = ask("projects", "projects")
        return {
            "tags": plain(self.api.control("GET", "state")["tags"]),
            "keys": sorted((key["name"], key["fingerprint"]) for key in ask("account/keys", "ssh_keys")),
            "droplets": [
                (each["name"], each["status"], each["size_slug"], sorted(each["features"]), plain(each["tags"]))
                for each in ask("droplets", "droplets")
            ],
            "reserved_ips": [(each["ip"], bool(each["droplet"])) for each in ask("reserved_ips", "reserved_ips")],
            "projects": {
                each["name"]: sorted(
                    resource["urn"].split(":")[1] for resource in ask(f"projects/{each['id']}/resources", "resources")
                )
                for each in projects
            },
            "firewalls": [
                {
                    key: value
                    for key, value in each.items()
                    if key not in ("id", "created_at", "status", "pending_changes")
                }
                for each in ask("firewalls", "firewalls")
            ],
            "records": sorted(
                (each["type"], each["name"], each["data"], each["ttl"])
                for each in ask(f"domains/{DOMAIN}/records", "domain_records")
            ),
        }

    def made(self) -> list[int]:
        """The droplets that were ever made, by number."""
        actions = self.api.client.get_all("actions", "actions")
        return [each["resource_id"] for each in actions if each["type"] == "create"]

    def disturb(self, row: Row, column: str, lasting: bool = False) -> str:
        """One rollout in which a call meets a fault, once or whenever its task makes it; what comes of it."""
        calls, struck = Calls(self.rollout), []

        def strikes(at: Row) -> bool:
            return unnumbered(at) == unnumbered(row) if lasting else at == row and at not in struck

        def before(at: Row, method: str, url: str) -> None:
            if strikes(at):
                struck.append(at)
                if column == "killed before":
                    raise Killed
                path = "/v2/" + url.partition("/v2/")[2].partition("?")[0]
                if "kind" in FAULTS.get(column, {}):
                    self.api.control("POST", "faults", {"path_glob": path, "method": method, **FAULTS[column]})
                elif column in FAULTS:
                    self.api.control("POST", "account", FAULTS[column])

        def after(at: Row) -> None:
            if at == row and column == "killed after":
                raise Killed

        calls.before, calls.after = before, after
        outcome = GOES_ON
        try:
            self.run(calls)
        except Failed as failed:
            judge(str(failed.args[0]["msg"]), row, column)
            outcome = NEXT_RUN
        except Killed:
            outcome = NEXT_RUN
        self.api.control("DELETE", "faults")
        self.api.control("POST", "account", {"requests_per_hour": 0})
        assert struck, "the call was not made"
        assert self.clock.skipped < PATIENCE, f"it waited {self.clock.skipped:.0f} s"
        return outcome


def plain(tags: list[str]) -> list[str]:
    """The tags in order; one with the digest of user_data, whose host key is another each time, without it."""
    return sorted({re.sub(r"[0-9a-f]{12}$", "DIGEST", tag) for tag in tags})


def unnumbered(row: Row) -> Row:
    return row[0], row[1].partition(" (")[0]


def judge(message: str, row: Row, column: str) -> None:
    """A run that stopped names the call in its one message, or the droplet that it waits for; no secret is in it."""
    assert TOKEN not in message
    if column == "429, the hour's":
        assert re.search(r"run it again after \d\d:\d\d:\d\d UTC", message), message
        return
    method, path = unnumbered(row)[1].strip("`").split("?")[0].split(" /")
    call = f"{method} {re.sub('ID|FINGERPRINT|DOMAIN|ADDRESS', '[^/ ]+', path)}"
    assert re.search(rf"(^|: ){call}: |\bdroplet \d+ ", message), message


def from_nothing(place: Place) -> None:
    """The first rollout of a customer."""


def spoilt(place: Place) -> None:
    """A rollout that has much to mend: somebody has changed the customer's things by hand."""
    place.run()
    call = place.api.client.call
    (droplet,) = place.api.client.get_all("droplets", "droplets")
    resource = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    call("POST", "tags", {"name": "sbc:old"})
    call("POST", "tags/sbc:old/resources", resource)
    call("DELETE", "tags/sbc/resources", resource)
    actions: list[dict[str, Any]] = [
        {"type": "rename", "name": "renamed"},
        {"type": "disable_backups"},
        {"type": "power_off"},
        {"type": "resize", "size": "s-1vcpu-2gb"},
    ]
    for action in actions:
        number = call("POST", f"droplets/{droplet['id']}/actions", action)["action"]["id"]
        while call("GET", f"actions/{number}")["action"]["status"] != "completed":
            time.sleep(0.01)
    (firewall,) = place.api.client.get_all("firewalls", "firewalls")
    rules = {"inbound_rules": firewall["inbound_rules"][:1]}
    call("DELETE", f"firewalls/{firewall['id']}/rules", rules)
    for record in place.api.client.get_all(f"domains/{DOMAIN}/records", "domain_records"):
        if record["type"] == "A" and record["name"] == "sbc1":
            call("PUT", f"domains/{DOMAIN}/records/{record['id']}", {"type": "A", "data": "203.0.113.99"})
    (reserved,) = place.api.client.get_all("reserved_ips", "reserved_ips")
    urn = f"do:droplet:{droplet['id']}"
    call("POST", "projects/default/resources", {"resources": [urn]})
    number = call("POST", f"reserved_ips/{reserved['ip']}/actions", {"type": "unassign"})["action"]["id"]
    while call("GET", f"actions/{number}")["action"]["status"] != "completed":
        time.sleep(0.01)
    surplus = {"type": "A", "name": "old.sbc1", "data": public_address(droplet), "ttl": 300}
    call("POST", f"domains/{DOMAIN}/records", surplus)


SCENARIOS = {"first": from_nothing, "spoilt": spoilt}
# What a table goes through; what lasts is only what the client does not settle by itself whatever the call.
TABLES = {
    "first": COLUMNS,
    "spoilt": COLUMNS,
    "lasting": ("429", "500", "404", "answer lost", "request lost"),
}


@pytest.fixture
def place(api: Api, tmp_path: Path) -> Place:
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "state").mkdir()
    (inventory / "state/id.pub").write_text(f"{KEY}\n")
    hosts = {CUSTOMER: {"sbc_fqdn": FQDN, "sbc_tenants": ["fabrikam.sbc1.example.com"]}}
    (inventory / "customers.yml").write_text(yaml.safe_dump({"sbc": {"hosts": hosts}}))
    settings = {"ansible_ssh_private_key_file": str(inventory / "state/id"), "sbc_api_endpoint": api.endpoint}
    (inventory / "group_vars/sbc.yml").write_text(yaml.safe_dump(SETTINGS | settings))
    (inventory / "droplets.digitalocean.yml").write_text(
        yaml.safe_dump({"plugin": "digitalocean", "endpoint": api.endpoint})
    )
    return Place(api, inventory)


def outcomes(name: str, write: bool) -> Outcomes:
    return Outcomes("api-faults.md", name, ("task", "call"), TABLES[name], write)


def undisturbed(place: Place, scenario: str) -> tuple[list[Row], dict[str, Any]]:
    """The calls of a rollout that nothing disturbs, and what there is when it has ended."""
    place.begin(SCENARIOS[scenario])
    calls = Calls(place.rollout)
    place.run(calls)
    return calls.rows, place.picture()


def ends_well(place: Place, right: dict[str, Any], outcome: str) -> None:
    """What there is now is right, at the latest after another run; and a run after that has nothing to do."""
    assert len(place.made()) <= 1
    if outcome != GOES_ON:
        place.run()
    assert place.picture() == right
    assert len(place.made()) == 1
    place.api.requests()
    place.run()
    assert not [line for line in place.api.requests() if not line.startswith("GET")]


def cell(place: Place, scenario: str, row: Row, column: str, right: dict[str, Any], lasting: bool = False) -> str:
    place.begin(SCENARIOS[scenario])
    outcome = place.disturb(row, column, lasting)
    print(scenario, row, column, outcome, f"{place.clock.skipped:.0f} s")
    ends_well(place, right, outcome)
    return outcome


def test_each_call_meets_one_fault(place: Place, request: pytest.FixtureRequest) -> None:
    """A diagonal through the table: every call and every fault, in the time that a quick run has."""
    rows, right = undisturbed(place, "first")
    cells = zip(rows, itertools.cycle(COLUMNS), strict=False)
    found = {row: {column: cell(place, "first", row, column, right)} for row, column in cells}
    outcomes("first", request.config.getoption("--write-outcomes")).compare(found, rows)


@pytest.mark.full
@pytest.mark.parametrize("column", TABLES["lasting"])
def test_each_call_meets_a_lasting_fault(place: Place, column: str, request: pytest.FixtureRequest) -> None:
    rows, right = undisturbed(place, "first")
    rows = list(dict.fromkeys(map(unnumbered, rows)))
    found = {row: {column: cell(place, "first", row, column, right, lasting=True)} for row in rows}
    outcomes("lasting", request.config.getoption("--write-outcomes")).compare(found, rows)


@pytest.mark.full
@pytest.mark.parametrize(("scenario", "column"), [(name, column) for name in SCENARIOS for column in TABLES[name]])
def test_each_call_meets_each_fault(place: Place, scenario: str, column: str, request: pytest.FixtureRequest) -> None:
    rows, right = undisturbed(place, scenario)
    found = {row: {column: cell(place, scenario, row, column, right)} for row in rows}
    outcomes(scenario, request.config.getoption("--write-outcomes")).compare(found, rows)
