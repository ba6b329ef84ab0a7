"""Action plugin: what the accounts hold of all customers of the play, with a handful of calls."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
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
    BACKUP_POLICIES,
    LIBRARY_ERROR,
    ApiError,
    Client,
    Resource,
    customer_tag,
    record_name,
    wants_address,
)
from ansible.module_utils.host_variables import customers_of, defaults_of, evaluated

ACCOUNT = ("sbc_api_endpoint", "sbc_api_token")
VARIABLES = (
    *ACCOUNT,
    "sbc_fqdn",
    "sbc_domain",
    "sbc_dns",
    "droplet_project",
    "droplet_reserved_ip",
    "droplet_backup_policy",
)


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
        defaults = defaults_of(self, arguments["defaults"])
        accounts: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for host in customers_of(task_vars, arguments["group"]):
            variables = defaults | task_vars["hostvars"].raw_get(host)
            values, problems = evaluated(self, variables, VARIABLES)
            # What has no value is for the task that needs it to complain about.
            if not problems and all(values.get(name) for name in ACCOUNT):
                endpoint, token = (str(values[name]) for name in ACCOUNT)
                accounts.setdefault((endpoint, token), {})[host] = values
        customers: dict[str, Resource] = {}
        for (endpoint, token), those in accounts.items():
            try:
                customers |= survey(Client(token, endpoint), those)
            except (ApiError, ValueError) as error:
                why = f"the account at {endpoint} could not be asked: {error}"
                customers |= {host: {"error": why} for host in those}
        return {"changed": False, "customers": customers, "_ansible_verbose_override": True}


def survey(client: Client, customers: dict[str, dict[str, Any]]) -> dict[str, Resource]:
    """By customer, what its account's lists say of it. Raises ApiError."""
    # All of them: one that has lost the tag that customers have in common is still its customer's.
    droplets = _by(client.get_all("droplets", "droplets"), lambda each: each["tags"])
    firewalls = _by(client.get_all("firewalls", "firewalls"), lambda each: [each["name"]])
    seen: dict[str, Resource] = {
        host: {"droplets": droplets.get(customer_tag(host), []), "firewalls": firewalls.get(f"sbc-{host}", [])}
        for host in customers
    }
    keys = client.get_all("account/keys", "ssh_keys")
    for part in seen.values():
        part["account/keys"] = keys
    _add_records(client, customers, seen)
    keepers = {host for host, each in customers.items() if wants_address(each.get("droplet_reserved_ip"))}
    _add_reserved_ips(client, keepers, seen)
    _add_projects(client, customers, seen)
    _add_backup_policies(client, {host for host, each in customers.items() if each.get("droplet_backup_policy")}, seen)
    return seen


def _add_records(client: Client, customers: dict[str, dict[str, Any]], seen: dict[str, Resource]) -> None:
    """The records of the customer's names, which are its FQDN and all below it."""
    for domain, hosts in _by(customers, lambda host: [customers[host].get("sbc_domain")]).items():
        hosts = [host for host in hosts if customers[host].get("sbc_dns") == "digitalocean"]
        path = f"domains/{domain}/records"
        if not hosts:
            continue
        try:
            records = client.get_all(path, "domain_records")
        except ApiError as error:
            # Whoever needs a domain that is not there says so.
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            continue
        below = _by(records, functools.partial(_parents, domain))
        for host in hosts:
            seen[host][path] = below.get(customers[host].get("sbc_fqdn"), [])


def _parents(domain: str, record: Resource) -> list[str]:
    """The record's name and all that it is below."""
    labels = record_name(record, domain).split(".")
    return [".".join(labels[count:]) for count in range(len(labels))]


def _add_reserved_ips(client: Client, hosts: set[str], seen: dict[str, Resource]) -> None:
    """The reserved addresses that lead to a droplet of the customer."""
    if not hosts:
        return
    found = _by(client.get_all("reserved_ips", "reserved_ips"), lambda each: [(each["droplet"] or {}).get("id")])
    for host in hosts:
        seen[host]["reserved_ips"] = [
            address for droplet in seen[host]["droplets"] for address in found.get(droplet["id"], [])
        ]


def _add_projects(client: Client, customers: dict[str, dict[str, Any]], seen: dict[str, Resource]) -> None:
    """All projects, and what of the customer's own project is the customer's."""
    wanted = _by(customers, lambda host: [customers[host].get("droplet_project")])
    wanted.pop(None, None)
    wanted.pop("", None)
    if not wanted:
        return
    projects = client.get_all("projects", "projects")
    for project in projects:
        path = f"projects/{project['id']}/resources"
        found = _by(client.get_all(path, "resources"), lambda each: [each["urn"]]) if project["name"] in wanted else {}
        for host in wanted.get(project["name"], []):
            urns = [f"do:droplet:{each['id']}" for each in seen[host]["droplets"]]
            urns += [f"do:floatingip:{each['ip']}" for each in seen[host].get("reserved_ips", [])]
            seen[host] |= {"projects": projects, path: [each for urn in urns for each in found.get(urn, [])]}


def _add_backup_policies(client: Client, hosts: set[str], seen: dict[str, Resource]) -> None:
    """When the customer's droplets are backed up, which the list of droplets does not tell."""
    if not hosts:
        return
    policies = client.backup_policies()
    for host in hosts:
        numbers = [str(each["id"]) for each in seen[host]["droplets"]]
        seen[host][BACKUP_POLICIES] = {each: policies[each] for each in numbers if each in policies}


def _by(things: Iterable[Any], keys: Callable[[Any], Iterable[Any]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for each in things:
        for key in keys(each):
            found.setdefault(key, []).append(each)
    return found
