"""The rules of preflight: one mistake, one message, with variable, value and remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.digitalocean import wants_address
from ansible.module_utils.preflight_rules import (
    Account,
    Customer,
    Reserved,
    check_account,
    check_customer,
    check_endpoint,
    check_together,
    is_email,
    is_host_name,
)

CLOUDS: dict[str, Any] = {
    "commercial": {"title": "commercial and GCC", "certificate_roots": []},
    "gcc_high": {"title": "GCC High", "certificate_roots": ["DigiCert_Global_Root_G2"]},
    "dod": {"title": "DoD", "certificate_roots": ["DigiCert_Global_Root_G2"]},
}
GOOD: dict[str, Any] = {
    "inventory_hostname": "contoso",
    "sbc_fqdn": "sbc1.example.com",
    "sbc_domain": "example.com",
    "sbc_cloud": "commercial",
    "sbc_dns": "digitalocean",
    "sbc_contact_email": "it@example.com",
    "sbc_ssh_sources": ["198.51.100.0/24", "2001:db8::/32"],
    "sbc_api_endpoint": "https://api.digitalocean.com/v2/",
    "droplet_region": "fra1",
    "droplet_size": "s-1vcpu-1gb",
    "droplet_image": "debian-13-x64",
    "certificate_directory": "production",
    "certificate_directories": {
        "production": "https://acme-v02.api.letsencrypt.org/directory",
        "staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
        "ours": "https://acme.example.net/directory",
    },
}
ACCOUNT = Account(
    status="active",
    droplet_limit=2,
    droplets=1,
    domains=frozenset({"example.com"}),
    regions=frozenset({"fra1", "ams3"}),
    sizes={"s-1vcpu-1gb": frozenset({"fra1", "ams3"}), "c-2": frozenset({"ams3"})},
    images={"debian-13-x64": frozenset({"fra1", "ams3"}), "12345": frozenset({"ams3"})},
)


def customer(host: str = "contoso", **changes: Any) -> Customer:
    return Customer(host, "inventory/lab/customers.yml", GOOD | {"inventory_hostname": host} | changes)


def test_nothing_to_say_of_a_good_customer() -> None:
    assert check_customer(customer(), CLOUDS) == []
    assert check_endpoint(customer(), None) == []
    assert check_account([customer()], ACCOUNT) == []


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("sbc_fqdn", None, "is missing"),
        ("sbc_fqdn", "", "is missing"),
        ("sbc_fqdn", "sbc1", "is not a host name"),
        ("sbc_fqdn", "SBC1.example.com", "is not a host name"),
        ("sbc_fqdn", "sbc_1.example.com", "is not a host name"),
        ("sbc_fqdn", "203.0.113.10", "is not a host name"),
        ("sbc_fqdn", "sbc1.example.org", "is not under the domain example.com"),
        ("sbc_fqdn", "example.com", "is not under the domain example.com"),
        ("sbc_fqdn", f"{'x' * 52}.example.com", "has 64 characters"),
        ("sbc_fqdn", "notexample.com", "is not under the domain example.com"),
        ("sbc_fqdn", "contoso.onmicrosoft.com", "is Microsoft's own name"),
        ("sbc_domain", None, "is missing"),
        ("sbc_domain", "example", "is not a domain"),
        ("sbc_cloud", "gcc-high", "is no Microsoft cloud that is known"),
        ("sbc_dns", "route53", "is unknown"),
        ("sbc_contact_email", "it.example.com", "is no e-mail address"),
        ("sbc_contact_email", "", "is missing"),
        ("sbc_ssh_sources", [], "names no network"),
        ("sbc_ssh_sources", "198.51.100.0/24", "names no network"),
        ("sbc_ssh_sources", ["198.51.100.7/24"], "is no network"),
        ("sbc_probe_networks", "198.51.100.0/24", "is no list"),
        ("sbc_probe_networks", ["198.51.100.7/24"], "is no IPv4 network"),
        ("sbc_probe_networks", ["2001:db8::/32"], "is no IPv4 network"),
        ("sbc_probe_networks", ["0.0.0.0/0"], "is everybody"),
        ("sbc_probe_port", 5061, "is no TCP port that the probe could listen on"),
        ("sbc_probe_port", 80, "is no TCP port that the probe could listen on"),
        ("sbc_probe_port", "http", "is no TCP port that the probe could listen on"),
        ("droplet_ssh_public_key", "~/.ssh/id_ed25519.pub", "is not an OpenSSH public key"),
        ("certificate_directory", "letsencrypt", "is no ACME directory; choose production, staging, ours or"),
        ("certificate_directory", "http://acme.example.net/directory", "is no ACME directory"),
        ("sbc_tenants", "fabrikam.sbc1.example.com", "is no list"),
        ("sbc_tenants", ["fabrikam"], "is not a host name"),
        ("sbc_tenants", ["Fabrikam.sbc1.example.com"], "is not a host name"),
        ("sbc_tenants", ["fabri_kam.sbc1.example.com"], "is not a host name"),
        ("sbc_tenants", [f"{'x' * 64}.sbc1.example.com"], "is not a host name"),
        ("sbc_tenants", [{"name": "fabrikam.sbc1.example.com"}], "is not a host name"),
        ("sbc_tenants", [f"{'x' * 47}.sbc1.example.com"], "has 64 characters"),
        ("sbc_tenants", ["*.sbc1.example.com"], "is a wildcard"),
        ("sbc_tenants", ["sbc1.example.com"], "is sbc_fqdn itself"),
        ("sbc_tenants", ["fabrikam.example.com"], "is not under sbc1.example.com"),
        ("sbc_tenants", ["fabrikam.notsbc1.example.com"], "is not under sbc1.example.com"),
        ("sbc_tenants", ["eu.fabrikam.sbc1.example.com"], "is 2 labels below sbc1.example.com"),
        ("sbc_tenants", ["fabrikam.sbc1.example.com", "fabrikam.sbc1.example.com"], "is there twice"),
        ("sbc_tenant_records", "all", "is unknown"),
        ("droplet_reserved_ip", "198.51.100", "is no address; write true, false or an IPv4 address"),
        ("droplet_reserved_ip", "please", "is no address"),
    ],
)
def test_one_mistake(variable: str, value: Any, problem: str) -> None:
    (mistake,) = check_customer(customer(**{variable: value}), CLOUDS)
    assert mistake.variable == variable
    text = str(mistake)
    assert problem in text
    assert text.startswith(f"contoso: {variable}")
    assert "(inventory/lab/customers.yml)" in text


@pytest.mark.parametrize("host", ["contoso.example", "Contoso", "con_toso", "x" * 201])
def test_a_host_that_cannot_be_a_tag(host: str) -> None:
    (mistake,) = check_customer(customer(host), CLOUDS)
    assert "cannot be a tag" in str(mistake)


def test_a_host_that_would_be_destroyed_as_the_builder_of_golden_images() -> None:
    (mistake,) = check_customer(customer("sbc-builder"), CLOUDS)
    assert "is what playbooks/snapshot.yml calls its own host" in str(mistake)


def test_a_zone_of_ones_own_needs_no_domain() -> None:
    assert check_customer(customer(sbc_dns="manual", sbc_domain=None), CLOUDS) == []


def test_tenants_one_label_below_are_good() -> None:
    tenants = ["fabrikam.sbc1.example.com", "tailspin-toys.sbc1.example.com"]
    assert check_customer(customer(sbc_tenants=tenants, sbc_tenant_records="wildcard"), CLOUDS) == []


def test_no_wildcard_below_a_wildcard() -> None:
    (mistake,) = check_customer(customer(sbc_tenants=["eu.fabrikam.sbc1.example.com"]), CLOUDS)
    assert str(mistake) == (
        "contoso: sbc_tenants = eu.fabrikam.sbc1.example.com: is 2 labels below sbc1.example.com: the certificate's"
        " wildcard covers one, and there is none below it; use one label, such as eu-fabrikam.sbc1.example.com, or give"
        " this tenant a customer, and so an SBC, of its own (inventory/lab/customers.yml)"
    )


def test_every_wrong_tenant_is_named() -> None:
    tenants = ["fabrikam", "*.sbc1.example.com", "good.sbc1.example.com"]
    assert [each.value for each in check_customer(customer(sbc_tenants=tenants), CLOUDS)] == tenants[:2]


@pytest.mark.parametrize("cloud", ["gcc_high", "dod"])
@pytest.mark.parametrize("directory", ["production", "staging", "https://acme-v02.api.letsencrypt.org/directory"])
def test_a_cloud_that_takes_digicerts_certificates_only(cloud: str, directory: str) -> None:
    wanted = {"sbc_cloud": cloud, "certificate_directory": directory}
    (mistake,) = check_customer(customer(**wanted), CLOUDS)
    assert (mistake.variable, mistake.value) == ("certificate_directory", directory)
    assert f"{CLOUDS[cloud]['title']} takes certificates of DigiCert only; bring one with sbc_certificate_files" in str(
        mistake
    )
    files = {"chain": "chain.pem", "key": "key.pem"}
    assert check_customer(customer(**wanted, sbc_certificate_files=files), CLOUDS) == []
    for other in ("https://acme.digicert.example/directory", "ours"):
        assert check_customer(customer(**wanted | {"certificate_directory": other}), CLOUDS) == []


def test_a_name_belongs_to_one_customer() -> None:
    fabrikam = "fabrikam.sbc1.example.com"
    one, other = customer(sbc_tenants=[fabrikam]), customer("fabrikam", sbc_fqdn=fabrikam)
    (mistake,) = check_together([one, other])
    assert str(mistake).startswith(f"fabrikam: sbc_fqdn = {fabrikam}: is contoso's already; give each customer an FQDN")
    (mistake,) = check_together([other, one])
    assert str(mistake).startswith(
        f"contoso: sbc_tenants = {fabrikam}: is fabrikam's already; give each customer tenants"
    )
    assert check_together([one]) == []


def test_an_fqdn_belongs_to_one() -> None:
    (mistake,) = check_together([customer(), customer("fabrikam")])
    assert str(mistake).startswith("fabrikam: sbc_fqdn = sbc1.example.com: is contoso's already")


@pytest.mark.parametrize(
    ("declared", "environment", "variable"),
    [
        ("https://api.digitalocean.com/v2/", "http://127.0.0.1:18080/v2/", "DIGITALOCEAN_END_POINT"),
        ("http://127.0.0.1:18080/v2/", "https://api.digitalocean.com/v2/", "DIGITALOCEAN_END_POINT"),
        ("api.digitalocean.com", None, "sbc_api_endpoint"),
        ("http://api.digitalocean.com/v2/", None, "sbc_api_endpoint"),
    ],
)
def test_an_endpoint_other_than_the_inventorys(declared: str, environment: str | None, variable: str) -> None:
    (mistake,) = check_endpoint(customer(sbc_api_endpoint=declared), environment)
    assert mistake.variable == variable


def test_the_same_endpoint_may_be_written_without_a_slash() -> None:
    assert check_endpoint(customer(), "https://api.digitalocean.com/v2") == []


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("sbc_domain", "example.org", "is not a domain of this account"),
        ("droplet_region", "mars1", "is unknown or takes no new droplets; choose one of ams3, fra1"),
        ("droplet_size", "s-0vcpu", "is unknown"),
        ("droplet_size", "c-2", "is not offered in fra1; choose another; regions: ams3"),
        ("droplet_image", "debian-14-x64", "is unknown"),
        ("droplet_image", 12345, "is not available in fra1"),
    ],
)
def test_what_the_account_does_not_have(variable: str, value: Any, problem: str) -> None:
    (mistake,) = check_account([customer(**{variable: value})], ACCOUNT)
    assert str(mistake).startswith(f"contoso: {variable} = {value}: {problem}")


@pytest.mark.parametrize(
    ("customers", "successors", "beside", "asked"),
    [
        ([], [], 0, True),
        (["contoso"], [], 0, False),
        (["contoso"], [], 1, True),
        (["contoso"], ["contoso"], 1, False),
    ],
    ids=["a first droplet", "there already", "a successor", "a successor that is there already"],
)
def test_what_is_sold_out_stops_only_who_gets_a_new_droplet(
    customers: list[str], successors: list[str], beside: int, asked: bool
) -> None:
    made = replace(ACCOUNT, customers=frozenset(customers), successors=frozenset(successors))
    account = replace(made, regions=frozenset(), sizes={}, images={})
    mistakes = check_account([customer()], account, beside)
    wrong = ["droplet_region", "droplet_size", "droplet_image"] if asked else []
    assert [each.variable for each in mistakes] == wrong
    (mistake,) = check_account([customer(sbc_domain="example.org")], made, beside)
    assert mistake.variable == "sbc_domain", "the zone is needed in any case"


def test_a_zone_elsewhere_need_not_be_in_the_account() -> None:
    assert check_account([customer(sbc_dns="manual", sbc_domain="example.org")], ACCOUNT) == []


def test_the_limit_counts_only_who_has_no_droplet() -> None:
    both = [customer(), customer("fabrikam")]
    (mistake,) = check_account(both, ACCOUNT)
    assert "droplet_limit = 2: is too low: 1 exist, and 2 would be created (contoso, fabrikam)" in str(mistake)
    assert check_account(both, replace(ACCOUNT, customers=frozenset({"contoso"}))) == []


def test_a_replacement_needs_room_for_one_droplet_more() -> None:
    both = [customer(), customer("fabrikam")]
    full = replace(ACCOUNT, droplets=2, customers=frozenset({"contoso", "fabrikam"}))
    assert check_account(both, full) == []
    (mistake,) = check_account(both, full, beside=1)
    assert "droplet_limit = 2: is too low: 2 exist, and 1 would be created beside them; ask DigitalOcean" in str(
        mistake
    )
    assert check_account(both, replace(full, droplet_limit=3), beside=1) == []
    begun = replace(full, successors=full.customers)
    assert check_account(both, begun, beside=1) == [], "successors that are there already are counted"


def test_a_limit_that_is_not_told_is_none() -> None:
    assert check_account([customer()], replace(ACCOUNT, droplet_limit=None, droplets=9)) == []


@pytest.mark.parametrize("value", [False, "false", "", None])
def test_who_wants_no_reserved_ip_needs_none(value: Any) -> None:
    assert check_account([customer(droplet_reserved_ip=value)], replace(ACCOUNT, reserved_limit=0)) == []


def test_reserved_ips_are_limited() -> None:
    both = [customer(droplet_reserved_ip=True), customer("fabrikam", droplet_reserved_ip="yes")]
    account = replace(ACCOUNT, droplet_limit=9, reserved_limit=2, reserved={"198.51.100.7": Reserved("fra1")})
    (mistake,) = check_account(both, account)
    assert str(mistake) == (
        "account: floating_ip_limit = 2: is too low: 1 reserved IPs exist, and 2 would be made (contoso, fabrikam); ask"
        " DigitalOcean to raise it, give back one that nobody needs, or say droplet_reserved_ip: false"
    )
    held = replace(account, reserved={"198.51.100.7": Reserved("fra1", "contoso", "sbc1.example.com")})
    assert check_account(both, held) == [], "contoso has one"
    remembered = customer(droplet_reserved_ip=True, remembered_address="198.51.100.7")
    assert check_account([remembered], replace(account, reserved_limit=1)) == []


@pytest.mark.parametrize(
    ("reserved", "problem"),
    [
        ({}, "is no reserved IP of this account, which has none; correct it (inventory"),
        ({"198.51.100.7": Reserved("ams3")}, "is bound to ams3, and droplet_region is fra1"),
        ({"198.51.100.7": Reserved("fra1", None, "web")}, "leads to another droplet, web; unassign it there"),
    ],
)
def test_an_address_that_cannot_be_used(reserved: dict[str, Reserved], problem: str) -> None:
    (mistake,) = check_account(
        [customer(droplet_reserved_ip="198.51.100.7")], replace(ACCOUNT, reserved_limit=3, reserved=reserved)
    )
    assert str(mistake).startswith(f"contoso: droplet_reserved_ip = 198.51.100.7: {problem}")


def test_an_address_that_was_given_back_can_be_forgotten() -> None:
    wanted = customer(droplet_reserved_ip=True, remembered_address="198.51.100.7")
    assert "correct it, or remove state/HOST/reserved_ip" in str(check_account([wanted], ACCOUNT)[0])


def test_an_address_belongs_to_one_customer() -> None:
    both = [customer(name, droplet_reserved_ip="198.51.100.7") for name in ("contoso", "fabrikam")]
    account = replace(ACCOUNT, droplet_limit=9, reserved={"198.51.100.7": Reserved("fra1")})
    (mistake,) = check_account(both, account)
    assert "fabrikam: droplet_reserved_ip = 198.51.100.7: is contoso's already" in str(mistake)


def test_a_locked_account() -> None:
    assert "has locked it" in str(check_account([customer()], replace(ACCOUNT, status="locked"))[0])


@pytest.mark.parametrize("name", ["a.b", "sbc-1.example.com", "xn--mnchen-3ya.de", "1a.example.com"])
def test_host_names(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name", [None, 5, "a..b", "a.b.", "-a.b", "a-.b", "a b.c", "x" * 64 + ".com", "a." * 130 + "b"]
)
def test_no_host_names(name: Any) -> None:
    assert not is_host_name(name)


@pytest.mark.parametrize("text", ["a@b@example.com", "a b@example.com", "@example.com", "a@example", "a,b@example.com"])
def test_no_email_addresses(text: str) -> None:
    assert not is_email(text)


@pytest.mark.parametrize("value", [False, None, "", "false", "False", "no", "none", "None"])
def test_what_says_no_to_a_reserved_ip(value: Any) -> None:
    assert not wants_address(value)


@pytest.mark.parametrize("value", [True, "true", "yes", "198.51.100.7"])
def test_what_asks_for_a_reserved_ip(value: Any) -> None:
    assert wants_address(value)
