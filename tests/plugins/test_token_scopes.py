"""Which scopes a token needs, whether they are asked for in time, and that asking makes nothing."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import token_scopes
from ansible.module_utils.preflight_rules import Customer

from tests.contract.judge import JUDGE, MISSING
from tests.contract.validator import Exchange
from tests.plugins import test_api_faults
from tests.plugins.support import PLUGINS, ROOT, TOKEN, Api, Failed, run_module

WANTED: dict[str, Any] = {
    "sbc_dns": "digitalocean",
    "sbc_domain": "example.com",
    "droplet_region": "fra1",
    "droplet_size": "s-1vcpu-1gb",
    "droplet_image": "debian-13-x64",
}
BOTH: dict[str, Any] = {"droplet_reserved_ip": True, "droplet_project": "Telephony"}


def documented(page: str, after: str) -> list[str]:
    """The scopes that a page names in the paragraph after these words."""
    paragraph = (ROOT / page).read_text().partition(after)[2].partition("\n\n")[0]
    found = re.findall(r"`(\w+):([a-z_,]+)`", paragraph)
    return [f"{noun}:{verb}" for noun, verbs in found for verb in verbs.split(",")]


ROLLOUT = documented("README.md", "With custom scopes")
EXTRA = documented("README.md", "A reserved IP takes")
REPLACING = "droplet:delete"
# What is destroyed by the run that makes it: the module's arguments, and the scopes besides a rollout's.
PASSING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "smoke": ({"domain": "example.com", "ssh_keys": True}, documented("docs/smoke.md", "A token with custom scopes")),
    "snapshot": ({"snapshots": True}, documented("docs/images.md", "A token with custom scopes")),
}
# No question about making a project is sure to make none.
NOT_ASKED = "project:create"

place = test_api_faults.place


@pytest.fixture(scope="module")
def preflight() -> ModuleType:
    spec = importlib.util.spec_from_file_location("action_preflight", PLUGINS / "action" / "preflight.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mistakes(preflight: ModuleType, api: Api, *, beside: int = 0, check: bool = False, **more: Any) -> list[str]:
    found: list[Any] = []
    preflight._account(api.client, [Customer("contoso", "the inventory", WANTED | more)], beside, check, found)
    return [str(each) for each in found]


def give(api: Api, *scopes: str) -> None:
    api.control("POST", "tokens/scopes", {"token": TOKEN, "scopes": scopes})


@pytest.fixture
def before(api: Api) -> dict[str, Any]:
    """What the account has."""
    return contents(api)


def contents(api: Api) -> dict[str, Any]:
    state: dict[str, Any] = api.control("GET", "state")
    return {key: value for key, value in state.items() if key not in ("last_id", "actions")}


def test_the_documented_scopes_are_enough(preflight: ModuleType, api: Api) -> None:
    give(api, *ROLLOUT)
    assert mistakes(preflight, api) == []
    give(api, *ROLLOUT, *EXTRA)
    assert mistakes(preflight, api, **BOTH) == []


@pytest.mark.parametrize("scenario", test_api_faults.SCENARIOS)
def test_a_rollout_needs_no_more_than_the_documented_scopes(place: test_api_faults.Place, scenario: str) -> None:
    """With everything switched on, from nothing and where much has to be mended: the real playbook, without SSH."""
    test_api_faults.SCENARIOS[scenario](place)
    give(place.api, *ROLLOUT, *(scope for scope in EXTRA if scope != REPLACING))
    place.run()
    place.api.control("DELETE", "tokens/scopes")
    (droplet,) = place.api.control("GET", "state")["droplets"]
    assert {"sbc", "sbc:customer:contoso"} <= set(droplet["tags"])


def test_nothing_is_made_by_asking(preflight: ModuleType, api: Api, before: dict[str, Any]) -> None:
    assert mistakes(preflight, api, beside=1, **BOTH) == []
    asked = api.requests()
    assert any(line.startswith("POST") for line in asked)
    assert not [line for line in asked if not line.startswith("GET") and line.endswith(("200", "201", "202"))]
    assert contents(api) == before


def test_a_rehearsal_only_reads(preflight: ModuleType, api: Api) -> None:
    give(api, *(scope for scope in ROLLOUT if scope.endswith(":read")))
    assert mistakes(preflight, api, check=True) == []
    assert all(line.startswith("GET") for line in api.requests())


@pytest.mark.parametrize("tags", [["sbc", "sbc:customer:contoso"], ["sbc:customer:contoso"]])
def test_who_has_a_droplet_is_asked_nothing(preflight: ModuleType, api: Api, tags: list[str]) -> None:
    api.droplet(*tags)
    api.requests()
    assert mistakes(preflight, api) == []
    asked = api.requests()
    assert all(line.startswith("GET") for line in asked)
    assert len(asked) == 6


@pytest.mark.parametrize("scope", sorted({*ROLLOUT, *EXTRA} - {REPLACING, NOT_ASKED}))
def test_each_scope_is_missed_in_one_line(preflight: ModuleType, api: Api, scope: str) -> None:
    give(api, *(other for other in (*ROLLOUT, *EXTRA) if other != scope))
    (line,) = mistakes(preflight, api, **BOTH)
    # Sizes are shown to who may read regions, too.
    missed = "regions:read, sizes:read" if scope == "regions:read" else scope
    assert f"contoso: DIGITALOCEAN_ACCESS_TOKEN: lacks scopes at {api.endpoint}: {missed}; make a token" in line


def test_all_that_is_missing_is_said_at_once(preflight: ModuleType, api: Api, before: dict[str, Any]) -> None:
    give(api, "account:read")
    (line,) = mistakes(preflight, api)
    for scope in ROLLOUT:
        assert (scope in line) == (scope != "account:read")
    assert contents(api) == before


def test_a_replacement_needs_to_destroy(preflight: ModuleType, api: Api) -> None:
    api.droplet("sbc", "sbc:customer:contoso")
    give(api, *ROLLOUT)
    (line,) = mistakes(preflight, api, beside=1)
    assert line.partition("; ")[0].endswith(f": {REPLACING}")
    give(api, *ROLLOUT, REPLACING)
    assert mistakes(preflight, api, beside=1) == []


def test_a_replacement_needs_room(preflight: ModuleType, api: Api) -> None:
    api.droplet("sbc", "sbc:customer:contoso")
    api.control("POST", "account", {"droplet_limit": 1})
    found: list[Any] = []
    customers = [Customer("contoso", "the inventory", WANTED)]
    account = preflight._account(api.client, customers, 1, False, found)
    assert "droplet_limit = 1: is too low: 1 exist" in str(preflight.check_account(customers, account, 1)[0])
    assert preflight.check_account(customers, account, 0) == []


@pytest.mark.skipif(JUDGE.contract is None, reason=MISSING)
def test_each_question_is_about_the_scope_that_it_names(preflight: ModuleType) -> None:
    assert JUDGE.contract
    questions = [preflight.naming("example.com")]
    for those in vars(token_scopes).values():
        if isinstance(those, tuple) and all(isinstance(each, token_scopes.Question) for each in those):
            questions += those
        elif isinstance(those, token_scopes.Question):
            questions.append(those)
    assert {"droplet:create", "droplet:delete", "image:delete", "domain:read"} <= {each.scope for each in questions}
    for question in questions:
        if question.scope == "image:create":
            # Named in the description of the call only.
            assert JUDGE.contract.scopes(Exchange(question.method, f"/v2/{question.path}")) == [{"droplet:update"}]
            continue
        # Sizes take two; that of the question is the one that is asked for nowhere else.
        found = JUDGE.contract.scopes(Exchange(question.method, f"/v2/{question.path}"))
        assert any(question.scope in each and each <= {question.scope, "regions:read"} for each in found)


@pytest.mark.parametrize("run", PASSING)
def test_what_destroys_its_own_needs_no_more_than_is_documented_and_makes_nothing_by_asking(
    api: Api, run: str, before: dict[str, Any]
) -> None:
    arguments, more = PASSING[run]
    give(api, *ROLLOUT, *more)
    run_module("digitalocean_token_info", **arguments)
    asked = api.requests()
    assert not [line for line in asked if not line.startswith("GET") and line.endswith(("200", "201", "202", "204"))]
    assert contents(api) == before
    assert "DELETE firewalls/00000000-0000-0000-0000-000000000000 404" in asked


@pytest.mark.parametrize(("run", "scope"), [(run, scope) for run, (_, more) in PASSING.items() for scope in more])
def test_a_token_that_cannot_destroy_is_told_by_the_scope(api: Api, run: str, scope: str) -> None:
    arguments, more = PASSING[run]
    give(api, *ROLLOUT, *(other for other in more if other != scope))
    with pytest.raises(Failed) as caught:
        run_module("digitalocean_token_info", **arguments)
    message = caught.value.args[0]["msg"]
    assert f"Nothing was made: DIGITALOCEAN_ACCESS_TOKEN lacks scopes at {api.endpoint}: {scope}; make a" in message


def test_a_rehearsal_asks_for_what_reads_only(api: Api) -> None:
    give(api, *(scope for scope in ROLLOUT if scope.endswith(":read") and scope != "tag:read"))
    with pytest.raises(Failed, match=r"lacks scopes at [^ ]+: tag:read;"):
        run_module("digitalocean_token_info", check=True, **PASSING["smoke"][0])
    assert all(line.startswith("GET") for line in api.requests())
