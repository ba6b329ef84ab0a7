"""Tenants are data: names come and go by a reload, while connections stay up."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.kamailio.running import ADDRESS, FQDN, PROXIES, Sbc, Start, exchange, needs_kamailio, render, wait_for

FIRST, SECOND = f"fabrikam.{FQDN}", f"northwind.{FQDN}"
STRANGE = [f"adatum.{FQDN}", f"a.{FIRST}", f"x{FQDN}", "contoso.example", ADDRESS]


def uri(name: str) -> str:
    return f"sip:{name}:5061;transport=tls"


def answered(sbc: Sbc, name: str) -> bool:
    """Whether OPTIONS for the name get 200 with that name as Contact; if not, then 404 and no Contact."""
    answer = sbc.ask(uri=uri(name))
    if answer.startswith("SIP/2.0 200 "):
        assert f"\r\nContact: <{uri(name.lower())}>\r\n" in answer
        return True
    assert answer.startswith("SIP/2.0 404 Not Here\r\n")
    assert "Contact" not in answer
    return False


def reload(sbc: Sbc) -> None:
    """Load the names again; a reload just before holds this one up for up to 2 s."""

    def done() -> bool:
        with contextlib.suppress(LookupError):
            return bool(sbc.rpc("permissions.addressReload") == "Reload OK")
        return False

    assert wait_for(done)


@needs_kamailio
def test_the_base_and_the_tenants_are_answered_and_no_others(start: Start) -> None:
    sbc = start(sbc_tenants=[FIRST, SECOND.title()])
    for name in (FQDN, FIRST, FIRST.upper(), SECOND):
        assert answered(sbc, name)
    for name in STRANGE:
        assert not answered(sbc, name)
        assert sbc.ask("INVITE", uri(name)).startswith("SIP/2.0 404 ")
    assert sbc.ask("INVITE", uri(FIRST)).startswith("SIP/2.0 503 ")
    evidence = sbc.theirs(1, SECOND)
    assert {key.partition(":")[0] for key in evidence} == {FQDN, FIRST, SECOND}
    assert evidence[f"{FIRST}:count"] == 2
    for proxy in sbc.proxies:
        assert wait_for(lambda: len(proxy.requests) == 1)  # noqa: B023
        assert f"\r\nContact: <sip:{FQDN}:5061;transport=tls>" in proxy.requests[0]


@needs_kamailio
def test_tenants_come_and_go_by_a_reload_while_a_connection_stays_up(start: Start) -> None:
    sbc = start(sbc_tenants=[FIRST])
    processes = sbc.processes()
    with sbc.connect() as first, sbc.connect(PROXIES[1]) as base:

        def both_are_answered() -> bool:
            answers = exchange(first, uri=uri(FIRST)), exchange(base)
            return all(answer.startswith("SIP/2.0 200 ") for answer in answers)

        assert both_are_answered()
        assert not answered(sbc, SECOND)
        sbc.render(sbc_tenants=[FIRST, SECOND])
        reload(sbc)
        assert answered(sbc, SECOND)
        assert both_are_answered()
        sbc.render(sbc_tenants=[SECOND])
        reload(sbc)
        assert answered(sbc, SECOND)
        assert not answered(sbc, FIRST)
        assert exchange(first, uri=uri(FIRST)).startswith("SIP/2.0 404 ")
        assert exchange(first, uri=uri(SECOND)).startswith("SIP/2.0 200 ")
        assert exchange(base).startswith("SIP/2.0 200 ")
        sbc.render(sbc_tenants=[])
        reload(sbc)
        assert not answered(sbc, SECOND)
        assert answered(sbc, FQDN)
    assert processes <= sbc.processes()


@needs_kamailio
@pytest.mark.parametrize("damage", [None, f"1 {SECOND}\n1\n"])
def test_a_file_that_cannot_be_read_is_refused_and_the_names_stay(start: Start, damage: str | None) -> None:
    sbc = start(sbc_tenants=[FIRST])
    file = sbc.directory / "tenants.list"
    file.unlink() if damage is None else file.write_text(damage)
    with pytest.raises(LookupError, match="Reload failed"):
        sbc.rpc("permissions.addressReload")
    assert answered(sbc, FIRST)
    assert not answered(sbc, SECOND)
    assert answered(sbc, FQDN)
    sbc.render(sbc_tenants=[SECOND])
    reload(sbc)
    assert (answered(sbc, FIRST), answered(sbc, SECOND)) == (False, True)


@needs_kamailio
def test_junk_in_the_file_names_nobody(start: Start) -> None:
    sbc = start(sbc_tenants=[FIRST])
    junk = bytes(range(256)) * 20 + f"\n{SECOND}\n2 {SECOND}\n1 {FIRST} # a comment\n".encode()
    (sbc.directory / "tenants.list").write_bytes(junk)
    reload(sbc)
    assert answered(sbc, FIRST)
    assert answered(sbc, FQDN)
    for name in (SECOND, *STRANGE):
        assert not answered(sbc, name)


def test_only_the_data_file_changes_with_the_tenants(directory: Path) -> None:
    texts = []
    for tenants in ([], [FIRST], [FIRST, SECOND]):
        render(directory, sbc_cloud_facts={"proxies": [], "signalling_networks": []}, sbc_tenants=tenants)
        texts.append({path.name: path.read_text() for path in directory.iterdir()})
    assert len({text.pop("tenants.list") for text in texts}) == 3
    assert texts[0] == texts[1] == texts[2]
