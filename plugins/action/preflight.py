"""Action plugin: is what the inventory asks for possible? All mistakes at once, before anything is created."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
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
    COMMON_TAG,
    LIBRARY_ERROR,
    TAG_PREFIX,
    ApiError,
    Client,
)
from ansible.module_utils.host_variables import customers_of, defaults_of, evaluated
from ansible.module_utils.preflight_rules import (
    Account,
    Customer,
    Mistake,
    check_account,
    check_customer,
    check_endpoint,
    check_together,
    is_host_name,
)
from ansible.module_utils.saved_certificates import Saved, SavedError

TOKEN, CLOUDS = "sbc_api_token", "sbc_clouds"
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
            account = _account(Client(token, endpoint, attempts=3), those, mistakes)
            if account:
                mistakes += check_account(those, account)
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


def _account(client: Client, customers: list[Customer], mistakes: list[Mistake]) -> Account | None:
    try:
        return _ask(client, customers)
    except ApiError as error:
        names, endpoint = _names(customers), client.end_point
        if error.status == HTTPStatus.UNAUTHORIZED:
            wrong = ("DIGITALOCEAN_ACCESS_TOKEN", None, f"is refused by {endpoint} ({error})", TOKEN_REMEDY)
        elif error.status == HTTPStatus.FORBIDDEN:
            wrong = ("DIGITALOCEAN_ACCESS_TOKEN", None, f"does not suffice ({error})", TOKEN_REMEDY)
        else:
            remedy = "see whether the address is right and the network lets it through, then repeat"
            wrong = ("sbc_api_endpoint", endpoint, f"is of no help ({error})", remedy)
        mistakes.append(Mistake(names, *wrong))
        return None


def _ask(client: Client, customers: list[Customer]) -> Account:
    """Seven questions or so, however many customers. Raises ApiError."""
    account = client.call("GET", "account")["account"]
    tags = {tag for each in client.get_all("droplets", "droplets", tag_name=COMMON_TAG) for tag in each["tags"]}
    owners = frozenset(each.host for each in customers if f"{TAG_PREFIX}customer:{each.host}" in tags)
    droplets = len(owners)
    if droplets < len(customers):
        droplets = client.call("GET", "droplets", query={"per_page": 1})["meta"]["total"]
    domains = {
        each.values["sbc_domain"]
        for each in customers
        if each.values.get("sbc_dns") == "digitalocean" and is_host_name(each.values.get("sbc_domain"))
    }
    images = {}
    for slug in {str(each.values["droplet_image"]) for each in customers if each.values.get("droplet_image")}:
        if image := client.get(f"images/{slug}", "image"):
            images[slug] = frozenset(image["regions"])
    return Account(
        status=account["status"],
        droplet_limit=account["droplet_limit"],
        droplets=droplets,
        customers=owners,
        domains=frozenset(name for name in domains if client.get(f"domains/{name}", "domain")),
        regions=frozenset(each["slug"] for each in client.get_all("regions", "regions") if each["available"]),
        sizes={
            each["slug"]: frozenset(each["regions"])
            for each in client.get_all("sizes", "sizes")
            if each.get("available", True)
        },
        images=images,
    )


def _names(customers: list[Customer]) -> str:
    return ", ".join(each.host for each in customers)


def _failure(mistakes: list[Mistake]) -> dict[str, Any]:
    lines = list(dict.fromkeys(map(str, mistakes)))
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    text = "\n".join([f"{count}; nothing was created.", *(f"- {line}" for line in lines)])
    return {"failed": True, "changed": False, "msg": text}
