"""Action plugin: is what the inventory asks for possible? All mistakes at once, before anything is created."""

from __future__ import annotations

import os
import sys
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

from ansible.module_utils.digitalocean import (
    COMMON_TAG,
    LIBRARY_ERROR,
    PRODUCTION,
    TAG_PREFIX,
    ApiError,
    Client,
)
from ansible.module_utils.preflight_rules import (
    CLOUDS,
    Account,
    Customer,
    Mistake,
    check_account,
    check_customer,
    check_endpoint,
    check_together,
    is_host_name,
)

VARIABLES = (
    "sbc_fqdn",
    "sbc_domain",
    "sbc_cloud",
    "sbc_dns",
    "sbc_contact_email",
    "sbc_ssh_sources",
    "sbc_api_endpoint",
    "droplet_region",
    "droplet_size",
    "droplet_image",
    "droplet_ssh_public_key",
    "certificate_directory",
)
FALLBACKS = {"sbc_cloud": "commercial", "sbc_dns": "digitalocean", "sbc_api_endpoint": PRODUCTION}
TOKEN_REMEDY = "set DIGITALOCEAN_ACCESS_TOKEN in the environment to a token that may read and write"


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    TRANSFERS_FILES = False
    BYPASS_HOST_LOOP = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "group": {"type": "str", "default": "sbc"},
                "clouds": {"type": "list", "elements": "str", "default": list(CLOUDS)},
                "defaults": {"type": "list", "elements": "path", "default": []},
            }
        )
        if LIBRARY_ERROR:
            raise AnsibleError(f"python-digitalocean is not installed for {sys.executable}")

        members = set(task_vars["groups"].get(arguments["group"], []))
        hosts = [host for host in task_vars["ansible_play_hosts_all"] if host in members]
        if not hosts:
            return _failure(
                [
                    Mistake(
                        "inventory",
                        "customers",
                        None,
                        f"no host of the group {arguments['group']} is part of this run",
                        "declare one in customers.yml of the inventory, or correct --limit",
                    )
                ]
            )
        defaults = FALLBACKS | self._defaults(arguments["defaults"])
        mistakes: list[Mistake] = []
        customers = []
        tokens: dict[str, str | None] = {}
        for host in hosts:
            variables = task_vars["hostvars"][host]
            customer, unreadable = _customer(host, variables, defaults)
            customers.append(customer)
            mistakes += unreadable
            mistakes += check_customer(customer, arguments["clouds"])
            tokens[host], unreadable = _token(customer, variables)
            mistakes += unreadable
        mistakes += check_together(customers)
        new: list[str] = []
        for (endpoint, token), those in _accounts(customers, tokens, mistakes):
            account = _account(Client(token, endpoint, attempts=3), those, mistakes)
            if account:
                mistakes += check_account(those, account)
                new += [each.host for each in those if each.host not in account.customers]
        if mistakes:
            return _failure(mistakes)
        return {"changed": False, "customers": hosts, "without_droplet": sorted(new)}

    def _defaults(self, files: list[str]) -> dict[str, Any]:
        """The roles' defaults, which no play can read for them; one with a template is evaluated for this task."""
        defaults: dict[str, Any] = {}
        for file in files:
            content = self._loader.load_from_file(file, trusted_as_template=True) or {}
            defaults |= {name: content[name] for name in VARIABLES if name in content}
        return {name: self._templar.template(value) for name, value in defaults.items()}


def _customer(host: str, variables: Any, defaults: dict[str, Any]) -> tuple[Customer, list[Mistake]]:
    values, mistakes = dict(defaults), []
    place = _place(variables)
    for name in VARIABLES:
        try:
            if name in variables:
                values[name] = variables[name]
        except AnsibleError as error:
            mistakes.append(Mistake(host, name, None, f"cannot be evaluated ({error})", f"correct it ({place})"))
    return Customer(host, place, values | {"inventory_hostname": host}), mistakes


def _place(variables: Any) -> str:
    """The files in which a customer's variables stand, as the reader would name them."""
    file = variables.get("inventory_file")
    if not file:
        return "the inventory"
    folder = Path(file).parent
    return f"{os.path.relpath(file)} or {os.path.relpath(folder / 'group_vars' / 'sbc.yml')}"


def _token(customer: Customer, variables: Any) -> tuple[str | None, list[Mistake]]:
    try:
        if token := variables.get("sbc_api_token"):
            return str(token), []
    except AnsibleError as error:
        problem = f"cannot be evaluated ({error})"
        return None, [Mistake(customer.host, "sbc_api_token", None, problem, f"correct it ({customer.place})")]
    return os.environ.get("DIGITALOCEAN_ACCESS_TOKEN"), []


def _accounts(
    customers: list[Customer], tokens: dict[str, str | None], mistakes: list[Mistake]
) -> Iterator[tuple[tuple[str, str], list[Customer]]]:
    """Endpoint and token of each account, with its customers; those whose account cannot be asked become mistakes."""
    accounts: dict[tuple[str, str | None], list[Customer]] = {}
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
    everything = len(owners) < len(customers)
    droplets = client.call("GET", "droplets", query={"per_page": 1})["meta"]["total"] if everything else len(owners)
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
    return {
        "failed": True,
        "changed": False,
        "msg": "\n".join([f"{count}; nothing was created.", *(f"- {line}" for line in lines)]),
        "mistakes": lines,
    }
