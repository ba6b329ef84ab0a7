"""What must be true of customers and account before anything is created: pure functions from facts to mistakes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.digitalocean import checked_endpoint, fingerprint, wants_address

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TAGGABLE = re.compile(r"[a-z0-9-]{1,200}")
# It is destroyed at the end of the run.
BUILDER = "sbc-builder"
LONGEST_NAME = 253
# The longest FQDN that a trunk can have: Microsoft Learn, New-CsOnlinePSTNGateway, parameter -Fqdn.
LONGEST_TRUNK = 63
LETS_ENCRYPT = ".letsencrypt.org"


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a variable, and what to do; value is shown unless it is None."""

    host: str
    variable: str
    value: Any
    problem: str
    remedy: str

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value!s}"
        return f"{self.host}: {self.variable}{value}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Customer:
    """One inventory host: its variables' values (without secrets), and where they can be changed."""

    host: str
    place: str
    values: Mapping[str, Any]

    def mistake(self, variable: str, problem: str, remedy: str) -> Mistake:
        return Mistake(self.host, variable, self.values.get(variable), problem, f"{remedy} ({self.place})")


@dataclass(frozen=True)
class Reserved:
    """A reserved IP: its region, the customer whose droplet it leads to, and that droplet's name (None: nowhere)."""

    region: str
    customer: str | None = None
    droplet: str | None = None


@dataclass(frozen=True)
class Account:
    """What the API says. Customers are those that have a droplet, successors those with one to replace it besides.

    Sizes and images map a slug to the regions that have it, reserved maps an address to what it is; a limit that the
    API does not tell is None.
    """

    status: str
    droplet_limit: int | None
    droplets: int
    customers: frozenset[str] = frozenset()
    successors: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    sizes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    reserved_limit: int | None = None
    reserved: Mapping[str, Reserved] = field(default_factory=dict)


def is_host_name(name: Any) -> bool:
    """A lower-case host name of two labels or more (RFC 1123, section 2.1), and no IP address."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return False
    labels = name.split(".")
    return len(labels) > 1 and all(LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()


def is_email(text: Any) -> bool:
    """Something that a mail system could deliver to: no more is checked of the part before the @."""
    if not isinstance(text, str):
        return False
    local, _, domain = text.rpartition("@")
    return bool(re.fullmatch(r"[^\s@,;<>]+", local)) and is_host_name(domain.lower())


def check_customer(customer: Customer, clouds: Mapping[str, Mapping[str, Any]]) -> list[Mistake]:
    """Mistakes that one customer's variables show by themselves; `clouds` are Microsoft's, with their facts."""
    values, found = customer.values, customer.mistake
    mistakes = []
    if not TAGGABLE.fullmatch(customer.host):
        mistakes.append(
            found("inventory_hostname", "cannot be a tag", "rename the host: a-z, 0-9 and '-' only, 200 at most")
        )
    if customer.host == BUILDER:
        mistakes.append(found("inventory_hostname", "is what playbooks/snapshot.yml calls its own host", "rename it"))
    mistakes += _check_names(customer)
    mistakes += _check_tenants(customer)
    if values.get("sbc_cloud") not in clouds:
        mistakes.append(found("sbc_cloud", "is no Microsoft cloud that is known", f"choose one of {', '.join(clouds)}"))
    if values.get("sbc_dns") not in ("digitalocean", "manual"):
        mistakes.append(found("sbc_dns", "is unknown", "choose digitalocean or manual"))
    if not is_email(values.get("sbc_contact_email")):
        problem = "is no e-mail address" if values.get("sbc_contact_email") else "is missing"
        mistakes.append(found("sbc_contact_email", problem, "write one such as it@example.com"))
    mistakes += _check_sources(customer)
    mistakes += _check_probe(customer)
    mistakes += _check_address(customer)
    if "droplet_ssh_public_key" in values:
        try:
            fingerprint(str(values["droplet_ssh_public_key"]))
        except ValueError as error:
            mistakes.append(found("droplet_ssh_public_key", f"is {error}", "write the text of the .pub file"))
    mistakes += _check_directory(customer, clouds.get(str(values.get("sbc_cloud")), {}))
    return mistakes


def _check_names(customer: Customer) -> list[Mistake]:
    fqdn, domain = customer.values.get("sbc_fqdn"), customer.values.get("sbc_domain")
    mistakes = []

    def found(variable: str, problem: str, remedy: str) -> None:
        mistakes.append(customer.mistake(variable, problem, remedy))

    if not fqdn:
        found("sbc_fqdn", "is missing", "write the SBC's full name, such as sbc1.example.com")
    elif not is_host_name(fqdn):
        found("sbc_fqdn", "is not a host name", "write it in lower case, such as sbc1.example.com")
    elif len(fqdn) > LONGEST_TRUNK:
        found("sbc_fqdn", f"has {len(fqdn)} characters, and Microsoft takes {LONGEST_TRUNK}", "choose a shorter name")
    elif fqdn.endswith(".onmicrosoft.com"):
        found("sbc_fqdn", "is Microsoft's own name, which no SBC can have", "use a domain of your own")
    elif is_host_name(domain) and not fqdn.endswith(f".{domain}"):
        found("sbc_fqdn", f"is not under the domain {domain}", "correct sbc_fqdn or sbc_domain")
    if domain and not is_host_name(domain):
        found("sbc_domain", "is not a domain", "write it in lower case, such as example.com")
    elif not domain and customer.values.get("sbc_dns") != "manual":
        found("sbc_domain", "is missing", "write the domain at DigitalOcean that the FQDN is under")
    return mistakes


def _check_tenants(customer: Customer) -> list[Mistake]:
    """Tenants are full names one label below the FQDN: as far as the wildcard of the certificate reaches."""
    fqdn, tenants = customer.values.get("sbc_fqdn"), customer.values.get("sbc_tenants", [])
    mistakes = []
    if customer.values.get("sbc_tenant_records", "each") not in ("each", "wildcard"):
        mistakes.append(customer.mistake("sbc_tenant_records", "is unknown", "choose each or wildcard"))
    if not isinstance(tenants, list):
        remedy = "list the tenants' full names, such as [fabrikam.sbc1.example.com]"
        return [*mistakes, customer.mistake("sbc_tenants", "is no list", remedy)]
    if not isinstance(fqdn, str) or not is_host_name(fqdn):
        return mistakes
    seen: set[str] = set()
    for tenant in tenants:
        if wrong := _tenant_mistake(tenant, fqdn) or (tenant in seen and ("is there twice", "leave one of them out")):
            problem, remedy = wrong
            mistakes.append(Mistake(customer.host, "sbc_tenants", tenant, problem, f"{remedy} ({customer.place})"))
        seen.add(str(tenant))
    return mistakes


def _tenant_mistake(tenant: Any, fqdn: str) -> tuple[str, str] | None:
    """What is wrong with a tenant's name, and what to do."""
    if "*" in str(tenant):
        remedy = (
            "write the full name of every tenant; sbc_tenant_records: wildcard makes one DNS record for all of them"
        )
        return "is a wildcard, and each tenant has a name of its own", remedy
    if not is_host_name(tenant):
        return "is not a host name", f"write it in full and in lower case, such as fabrikam.{fqdn}"
    if tenant == fqdn:
        return "is sbc_fqdn itself", "leave it out, it is served anyway"
    if not tenant.endswith(f".{fqdn}"):
        return f"is not under {fqdn}", f"write a name one label below it, such as {tenant.split('.')[0]}.{fqdn}"
    labels = tenant.removesuffix(f".{fqdn}").split(".")
    if len(labels) > 1:
        problem = (
            f"is {len(labels)} labels below {fqdn}: the certificate's wildcard covers one, and there is none below it"
        )
        one = f"{'-'.join(labels)}.{fqdn}"
        remedy = f"use one label, such as {one}, or give this tenant a customer, and so an SBC, of its own"
        return problem, remedy
    if len(tenant) > LONGEST_TRUNK:
        return f"has {len(tenant)} characters, and Microsoft takes {LONGEST_TRUNK}", "choose a shorter name"
    return None


def _check_directory(customer: Customer, cloud: Mapping[str, Any]) -> list[Mistake]:
    values, found = customer.values, customer.mistake
    if "certificate_directory" not in values or values.get("sbc_certificate_files"):
        return []
    named = values.get("certificate_directories") or {}
    url = urlsplit(str(named.get(str(values["certificate_directory"]), values["certificate_directory"])))
    if url.scheme != "https" or not url.hostname:
        names = ", ".join(named)
        return [found("certificate_directory", "is no ACME directory", f"choose {names} or a https:// URL")]
    if cloud.get("certificate_roots") and url.hostname.endswith(LETS_ENCRYPT):
        problem = f"is Let's Encrypt's, and {cloud.get('title')} takes certificates of DigiCert only"
        remedy = "bring one with sbc_certificate_files, or write the URL of an ACME directory of DigiCert's"
        return [found("certificate_directory", problem, remedy)]
    return []


def _check_sources(customer: Customer) -> list[Mistake]:
    sources = customer.values.get("sbc_ssh_sources")
    remedy = "list the networks that may use SSH, such as [198.51.100.0/24]"
    if not isinstance(sources, list) or not sources:
        return [customer.mistake("sbc_ssh_sources", "names no network", remedy)]
    mistakes = []
    for source in sources:
        try:
            ipaddress.ip_network(str(source))
        except ValueError as error:
            problem = f"is no network ({error})"
            mistakes.append(Mistake(customer.host, "sbc_ssh_sources", source, problem, f"{remedy} ({customer.place})"))
    return mistakes


def _check_probe(customer: Customer) -> list[Mistake]:
    networks, port = customer.values.get("sbc_probe_networks", []), customer.values.get("sbc_probe_port", 9061)
    remedy = "list the IPv4 networks that may read the probe, such as [198.51.100.0/24], or none"
    if not isinstance(networks, list):
        return [customer.mistake("sbc_probe_networks", "is no list", remedy)]
    mistakes = []
    for network in networks:
        try:
            everybody = ipaddress.IPv4Network(str(network)).prefixlen == 0
            problem = "is everybody, and the probe asks nobody for a password" if everybody else ""
        except ValueError as error:
            problem = f"is no IPv4 network ({error})"
        if problem:
            where = f"{remedy} ({customer.place})"
            mistakes.append(Mistake(customer.host, "sbc_probe_networks", network, problem, where))
    # 22, 53, 80 and 5061 are below, or another program's.
    if not str(port).isdecimal() or not 1024 <= int(port) <= 65535 or int(port) == 5061:
        problem = "is no TCP port that the probe could listen on"
        remedy = "choose one from 1024 on other than 5061, such as 9061"
        mistakes.append(customer.mistake("sbc_probe_port", problem, remedy))
    return mistakes


def check_together(customers: Iterable[Customer]) -> list[Mistake]:
    """Mistakes that only several customers can make: one name for two of them."""
    first: dict[str, str] = {}
    mistakes = []
    for customer in customers:
        fqdn, tenants = customer.values.get("sbc_fqdn"), customer.values.get("sbc_tenants")
        names = [
            ("sbc_fqdn", fqdn),
            *(("sbc_tenants", name) for name in (tenants if isinstance(tenants, list) else [])),
        ]
        for variable, name in names:
            if name and (owner := first.setdefault(str(name), customer.host)) != customer.host:
                remedy = f"give each customer {'an FQDN' if variable == 'sbc_fqdn' else 'tenants'} of its own"
                problem = f"is {owner}'s already"
                mistakes.append(Mistake(customer.host, variable, name, problem, f"{remedy} ({customer.place})"))
    return mistakes


def check_endpoint(customer: Customer, environment: str | None) -> list[Mistake]:
    """An endpoint in the environment must be the inventory's: else droplets would be made where nobody looks."""
    declared = customer.values.get("sbc_api_endpoint")
    try:
        declared = checked_endpoint(str(declared))
    except ValueError as error:
        return [customer.mistake("sbc_api_endpoint", f"cannot be used ({error})", "correct it")]
    if environment and environment.rstrip("/") + "/" != declared:
        return [
            Mistake(
                customer.host,
                "DIGITALOCEAN_END_POINT",
                environment,
                f"the environment names another API than the inventory, which declares {declared}",
                f"unset DIGITALOCEAN_END_POINT, or set sbc_api_endpoint to it ({customer.place})",
            )
        ]
    return []


def check_account(customers: list[Customer], account: Account, beside: int = 0) -> list[Mistake]:
    """Mistakes that only the account can show, for the customers that use it.

    `beside` is how many droplets are built beside those that customers have, at a time.
    """
    mistakes = []
    if account.status == "locked":
        mistakes.append(
            Mistake("account", "status", account.status, "DigitalOcean has locked it", "ask DigitalOcean's support why")
        )
    for customer in customers:
        mistakes += _check_domain(customer, account)
        # What is sold out or retired concerns nobody who has it already.
        if customer.host not in (account.successors if beside else account.customers):
            mistakes += _check_order(customer, account)
    new = [each.host for each in customers if each.host not in account.customers]
    alone = [each.host for each in customers if each.host in account.customers and each.host not in account.successors]
    more = len(new) + min(beside, len(alone))
    if account.droplet_limit is not None and account.droplets + more > account.droplet_limit:
        whose = f"{len(new)} would be created ({', '.join(new)})" if new else f"{more} would be created beside them"
        mistakes.append(
            Mistake(
                "account",
                "droplet_limit",
                account.droplet_limit,
                f"is too low: {account.droplets} exist, and {whose}",
                "ask DigitalOcean to raise it, destroy droplets that nobody needs, or run with --limit",
            )
        )
    return mistakes + _check_addresses(customers, account)


def keeps_address(customer: Customer) -> bool:
    """Whether a reserved IP shall lead to the customer's droplet."""
    return bool(wants_address(customer.values.get("droplet_reserved_ip")))


def _check_address(customer: Customer) -> list[Mistake]:
    value = str(customer.values.get("droplet_reserved_ip", ""))
    if not keeps_address(customer) or value.lower() in ("true", "yes"):
        return []
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        remedy = "write true, false or an IPv4 address of the account, such as 198.51.100.7"
        return [customer.mistake("droplet_reserved_ip", "is no address", remedy)]
    return []


def _check_addresses(customers: list[Customer], account: Account) -> list[Mistake]:
    """Whether the reserved IPs that are asked for are there, or can be made."""
    mistakes, new = [], []
    taken: dict[str, str] = {}
    held = {reserved.customer for reserved in account.reserved.values()}
    for customer in filter(keeps_address, customers):
        written = str(customer.values["droplet_reserved_ip"])
        address = written if "." in written else customer.values.get("remembered_address")
        if not address:
            new += [customer.host] if customer.host not in held else []
            continue
        if wrong := _address_mistake(customer, address, account, taken.setdefault(address, customer.host)):
            mistakes.append(Mistake(customer.host, "droplet_reserved_ip", address, *wrong))
    limit, exist = account.reserved_limit, len(account.reserved)
    if new and limit is not None and exist + len(new) > limit:
        problem = f"is too low: {exist} reserved IPs exist, and {len(new)} would be made ({', '.join(new)})"
        remedy = "ask DigitalOcean to raise it, give back one that nobody needs, or say droplet_reserved_ip: false"
        mistakes.append(Mistake("account", "floating_ip_limit", limit, problem, remedy))
    return mistakes


def _address_mistake(customer: Customer, address: str, account: Account, owner: str) -> tuple[str, str] | None:
    """What is wrong with a certain address for a customer, and what to do."""
    known, region = account.reserved.get(address), customer.values.get("droplet_region")
    if known is None:
        have = ", ".join(sorted(account.reserved)) or "none"
        forget = "" if "." in str(customer.values["droplet_reserved_ip"]) else ", or remove state/HOST/reserved_ip"
        return f"is no reserved IP of this account, which has {have}", f"correct it{forget} ({customer.place})"
    if known.region != region:
        remedy = f"choose another address, or that region ({customer.place})"
        return f"is bound to {known.region}, and droplet_region is {region}", remedy
    if owner != customer.host:
        return f"is {owner}'s already", f"give each customer an address of its own ({customer.place})"
    if known.droplet and known.customer != customer.host:
        remedy = "unassign it there in DigitalOcean's control panel if it shall move, or choose another"
        return f"leads to another droplet, {known.droplet}", f"{remedy} ({customer.place})"
    return None


def _check_domain(customer: Customer, account: Account) -> list[Mistake]:
    domain = customer.values.get("sbc_domain")
    if customer.values.get("sbc_dns") != "digitalocean" or not is_host_name(domain) or domain in account.domains:
        return []
    remedy = "add it at DigitalOcean, or say sbc_dns: manual"
    return [customer.mistake("sbc_domain", "is not a domain of this account", remedy)]


def _check_order(customer: Customer, account: Account) -> list[Mistake]:
    """Whether a droplet could be made as the customer wants it."""
    values, found = customer.values, customer.mistake
    mistakes = []
    region, size, image = (str(values.get(f"droplet_{name}")) for name in ("region", "size", "image"))
    known = region in account.regions
    if not known:
        offered = ", ".join(sorted(account.regions))
        mistakes.append(found("droplet_region", "is unknown or takes no new droplets", f"choose one of {offered}"))
    if size not in account.sizes:
        mistakes.append(found("droplet_size", "is unknown", "choose a slug from slugs.do-api.dev, such as s-1vcpu-1gb"))
    elif known and region not in account.sizes[size]:
        offered = ", ".join(sorted(account.sizes[size])) or "none at the moment"
        mistakes.append(found("droplet_size", f"is not offered in {region}", f"choose another; regions: {offered}"))
    if image not in account.images:
        mistakes.append(found("droplet_image", "is unknown", "use debian-13-x64"))
    elif known and region not in account.images[image]:
        mistakes.append(found("droplet_image", f"is not available in {region}", "choose another region or image"))
    return mistakes
