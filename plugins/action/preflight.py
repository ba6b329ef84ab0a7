"""Action plugin: is what the inventory asks for possible? All mistakes at once, before anything is created."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.certificate_rules import FILES, check_files, limit_warning
from ansible.module_utils.digitalocean import (
    LIBRARY_ERROR,
    SUCCESSOR_TAG,
    ApiError,
    Client,
    Resource,
    customer_tag,
)
from ansible.module_utils.host_variables import customers_of, defaults_of, evaluated
from ansible.module_utils.preflight_rules import (
    Account,
    Customer,
    Mistake,
    Reserved,
    check_account,
    check_customer,
    check_endpoint,
    check_together,
    is_host_name,
    keeps_address,
)
from ansible.module_utils.saved_certificates import Saved, SavedError
from ansible.module_utils.token_scopes import (
    DESTROYING,
    FILING,
    READING,
    REMEDY,
    RESERVING,
    VARIABLE,
    WRITING,
    Question,
    lack,
    naming,
)
from ansible.module_utils.token_scopes import missing as scopes_missing

TOKEN, CLOUDS, REMEMBERED = "sbc_api_token", "sbc_clouds", "sbc_reserved_ip_file"
VARIABLES = (
    "inventory_hostname",
    "inventory_file",
    "sbc_fqdn",
    "sbc_domain",
    CLOUDS,
    "sbc_cloud",
    "sbc_tenants",
    "sbc_tenant_records",
    "sbc_dns",
    "sbc_contact_email",
    "sbc_ssh_sources",
    "sbc_probe_networks",
    "sbc_probe_port",
    "sbc_api_endpoint",
    TOKEN,
    "droplet_region",
    "droplet_size",
    "droplet_image",
    "droplet_ssh_public_key",
    "droplet_reserved_ip",
    "droplet_project",
    REMEMBERED,
    "certificate_directory",
    "certificate_directories",
    FILES,
)
# What is worked out of the others: where it cannot be, they are the mistake.
DERIVED = (
    "inventory_dir",
    "sbc_certificate_names",
    "sbc_certificate_roots",
    "base_trusted_roots",
    "certificate_directory_url",
    "certificate_vault_password_file",
)
REMEDIES = {
    "droplet_ssh_public_key": "make a key with `ssh-keygen -t ed25519`, or name yours in ansible_ssh_private_key_file",
}
TOKEN_REMEDY = "set DIGITALOCEAN_ACCESS_TOKEN in the environment to a token that may read and write"


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    TRANSFERS_FILES = False
    BYPASS_HOST_LOOP = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "defaults": {"type": "list", "elements": "path", "required": True},
                "group": {"type": "str", "default": "sbc"},
                "beside": {"type": "int", "default": 0},
            }
        )
        if LIBRARY_ERROR:
            raise AnsibleError(f"python-digitalocean is not installed for {sys.executable}")

        hosts = customers_of(task_vars, arguments["group"])
        if not hosts:
            problem = f"no host of the group {arguments['group']} is part of this run"
            remedy = "declare one in the inventory's customers.yml, or correct --limit"
            return _failure([Mistake("inventory", "customers", None, problem, remedy)])

        defaults = defaults_of(self, arguments["defaults"])
        if CLOUDS not in defaults:
            raise AnsibleError(f"{CLOUDS} is in none of {', '.join(arguments['defaults'])}")
        mistakes: list[Mistake] = []
        customers, tokens, warnings = [], {}, []
        for host in hosts:
            variables = defaults | task_vars["hostvars"].raw_get(host)
            values, problems = evaluated(self, variables, VARIABLES)
            tokens[host] = str(values.pop(TOKEN, "") or os.environ.get("DIGITALOCEAN_ACCESS_TOKEN", ""))
            clouds = dict(values.pop(CLOUDS, {}))
            values["remembered_address"] = _remembered(values.pop(REMEMBERED, None))
            customer = Customer(host, _place(values.pop("inventory_file", None)), values)
            customers.append(customer)
            mistakes += [
                customer.mistake(name, f"cannot be evaluated ({why})", REMEDIES.get(name, "correct it"))
                for name, why in problems
            ]
            wrong = check_customer(customer, clouds)
            mistakes += [each for each in wrong if each.variable not in dict(problems)]
            more, warned = self._check_certificate(customer, evaluated(self, variables, DERIVED)[0])
            mistakes += more
            warnings += warned
        mistakes += check_together(customers)
        new: list[str] = []
        for (endpoint, token), those in _accounts(customers, tokens, mistakes):
            client = Client(token, endpoint, attempts=3)
            account = _account(client, those, arguments["beside"], task_vars["ansible_check_mode"], mistakes)
            if account:
                mistakes += check_account(those, account, arguments["beside"])
                new += [each.host for each in those if each.host not in account.customers]
        if mistakes:
            return _failure(mistakes) | {"warnings": warnings}
        return {"changed": False, "customers": hosts, "without_droplet": sorted(new), "warnings": warnings}

    def _check_certificate(self, customer: Customer, derived: dict[str, Any]) -> tuple[list[Mistake], list[str]]:
        """What is wrong with a certificate of the customer's own, or else how much was asked for lately."""
        state = f"{derived.get('inventory_dir')}/state"
        names, password = derived.get("sbc_certificate_names"), derived.get("certificate_vault_password_file")
        if not (names and password):
            return [], []
        if files := customer.values.get(FILES):
            roots = derived.get("sbc_certificate_roots") or []
            added = derived.get("base_trusted_roots") or {}
            base = derived["inventory_dir"]
            mistakes, warnings = check_files(customer, files, names, roots, added, base, self._loader, password)
            return mistakes, warnings
        try:
            asked = Saved(state, customer.host, password, self._loader).asked()
        except SavedError as error:
            return [Mistake(customer.host, "certificate.json", None, *str(error).split("; ", 1))], []
        warning = limit_warning(customer, asked, names, str(derived.get("certificate_directory_url")), time.time())
        return [], [warning] if warning else []


def _place(file: str | None) -> str:
    """The files in which a customer's variables stand, as the reader would name them."""
    if not file:
        return "the inventory"
    return f"{os.path.relpath(file)} or {os.path.relpath(Path(file).parent / 'group_vars' / 'sbc.yml')}"


def _remembered(file: str | None) -> str | None:
    """The reserved IP that the customer had before."""
    try:
        return Path(file).read_text().strip() or None if file else None
    except FileNotFoundError:
        return None


def _accounts(
    customers: list[Customer], tokens: dict[str, str], mistakes: list[Mistake]
) -> Iterator[tuple[tuple[str, str], list[Customer]]]:
    """Endpoint and token of each account, with its customers; those whose account cannot be asked become mistakes."""
    accounts: dict[tuple[str, str], list[Customer]] = {}
    environment = os.environ.get("DIGITALOCEAN_END_POINT")
    for customer in customers:
        if wrong := check_endpoint(customer, environment):
            mistakes += wrong
        else:
            accounts.setdefault((customer.values["sbc_api_endpoint"], tokens[customer.host]), []).append(customer)
    for (endpoint, token), those in accounts.items():
        if token:
            yield (endpoint, token), those
        else:
            mistakes.append(Mistake(_names(those), "DIGITALOCEAN_ACCESS_TOKEN", None, "is missing", TOKEN_REMEDY))


def _account(
    client: Client, customers: list[Customer], beside: int, check_mode: bool, mistakes: list[Mistake]
) -> Account | None:
    """What the account says, or None and a mistake when it does not say it."""
    names, endpoint = _names(customers), client.end_point
    missing: list[str] = []
    try:
        account = _ask(client, customers, missing)
        questions = _questions(customers, account, beside, check_mode)
        missing += scopes_missing(client, questions)
    except ApiError as error:
        if error.status == HTTPStatus.UNAUTHORIZED:
            wrong = ("DIGITALOCEAN_ACCESS_TOKEN", None, f"is refused by {endpoint} ({error})", TOKEN_REMEDY)
        else:
            remedy = "see whether the address is right and the network lets it through, then repeat"
            wrong = ("sbc_api_endpoint", endpoint, f"is of no help ({error})", remedy)
        mistakes.append(Mistake(names, *wrong))
        return None
    if not missing:
        return account
    mistakes.append(Mistake(names, VARIABLE, None, lack(missing, endpoint), REMEDY))
    # What a token may not see looks as if it were not there.
    return None if any(scope.endswith(":read") for scope in missing) else account


def _ask(client: Client, customers: list[Customer], missing: list[str]) -> Account:
    """Eight questions or so, however many customers; scopes without which one is refused become missing.

    Raises ApiError.
    """

    def listed(scope: str, path: str, key: str, **filters: str) -> list[Resource]:
        everything: list[Resource] = []
        with _noted(scope, missing):
            everything = client.get_all(path, key, **filters)
        return everything

    account: Resource = {}
    with _noted("account:read", missing):
        account = client.call("GET", "account")["account"]
    found = [set(each["tags"]) for each in listed("droplet:read", "droplets", "droplets")]
    tags, beside_them = set().union(*found), set().union(*(each for each in found if SUCCESSOR_TAG in each))
    owners = frozenset(each.host for each in customers if customer_tag(each.host) in tags)
    known = set()
    with _noted("domain:read", missing):
        known = {name for name in _domains(customers) if client.get(f"domains/{name}", "domain")}
    images = {}
    with _noted("image:read", missing):
        for slug in {str(each.values["droplet_image"]) for each in customers if each.values.get("droplet_image")}:
            if image := client.get(f"images/{slug}", "image"):
                images[slug] = frozenset(image["regions"])
    wanted = any(keeps_address(each) for each in customers)
    reserved = listed("reserved_ip:read", "reserved_ips", "reserved_ips") if wanted else []
    if any(each.values.get("droplet_project") for each in customers):
        listed("project:read", "projects", "projects")
    return Account(
        status=account.get("status", "active"),
        droplet_limit=account.get("droplet_limit"),
        droplets=len(found),
        customers=owners,
        successors=frozenset(each for each in owners if customer_tag(each) in beside_them),
        domains=frozenset(known),
        regions=frozenset(each["slug"] for each in listed("regions:read", "regions", "regions") if each["available"]),
        sizes={
            each["slug"]: frozenset(each["regions"])
            for each in listed("sizes:read", "sizes", "sizes")
            if each.get("available", True)
        },
        images=images,
        reserved_limit=account.get("floating_ip_limit"),
        reserved={each["ip"]: _reserved(each, owners) for each in reserved},
    )


def _domains(customers: list[Customer]) -> set[str]:
    """The domains whose records are to be made."""
    return {
        each.values["sbc_domain"]
        for each in customers
        if each.values.get("sbc_dns") == "digitalocean" and is_host_name(each.values.get("sbc_domain"))
    }


@contextmanager
def _noted(scope: str, missing: list[str]) -> Iterator[None]:
    """A refusal for want of a scope is noted, and no error."""
    try:
        yield
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        missing.append(scope)


def _reserved(found: Resource, owners: Iterable[str]) -> Reserved:
    droplet = found["droplet"] or {}
    owner = next((each for each in owners if customer_tag(each) in droplet.get("tags", ())), None)
    return Reserved(found["region"]["slug"], owner, droplet.get("name"))


def _questions(customers: list[Customer], account: Account, beside: int, check_mode: bool) -> list[Question]:
    """What has to be known of the token where something is to be made; a rehearsal asks what is read only."""
    if not beside and all(each.host in account.customers for each in customers):
        return []
    if check_mode:
        return list(READING)
    questions = [*READING, *WRITING, *map(naming, sorted(_domains(customers)))]
    if any(keeps_address(each) for each in customers):
        questions += RESERVING
    if any(each.values.get("droplet_project") for each in customers):
        questions += FILING
    return questions + list(DESTROYING if beside else ())


def _names(customers: list[Customer]) -> str:
    return ", ".join(each.host for each in customers)


def _failure(mistakes: list[Mistake]) -> dict[str, Any]:
    lines = list(dict.fromkeys(map(str, mistakes)))
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    text = "\n".join([f"{count}; nothing was created.", *(f"- {line}" for line in lines)])
    return {"failed": True, "changed": False, "msg": text}
