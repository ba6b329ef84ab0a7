"""Kamailio counts a proxy's answers only if the certificate of the connection names that proxy."""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from tests.kamailio import handshakes
from tests.kamailio.running import PROXIES, Proxy, Sbc, Start, needs_kamailio, wait_for

DOMAIN = "pstnhub.example"
HOST = f"sip.{DOMAIN}"
OTHERS = [f"other{number}.example" for number in range(60)]

# The names of a certificate for HOST, by what is to be shown; the common name is HOST in all of them.
GOOD = {
    "first": [HOST],
    "fifth": [*OTHERS[:4], HOST],
    "sixty-first": [*OTHERS, HOST],
    "wildcard": [f"*.{DOMAIN}"],
    "mixed case": ["Other.Example", "SIP.PstnHub.Example"],
    "wildcard in mixed case": ["*.PstnHub.Example"],
}
BAD = {
    "common name only": [],
    "another name": ["sip.fabrikam.example"],
    "ends with it": [f"evil{HOST}"],
    "begins with it": [f"{HOST}.example.org"],
    "no label": [DOMAIN],
    "wildcard one label too high": ["*.example"],
    "wildcard below it": [f"*.{HOST}"],
    "wildcard within a label": [f"s*.{DOMAIN}"],
    "bare wildcard": ["*"],
    "trap for patterns": ["sip-pstnhub-example", f"x.{DOMAIN}", ".*"],
    "many others": OTHERS,
}


class Stage:
    """Proxies with names: each at an address of its own, with the certificate that it is given."""

    def __init__(self, sbc: Sbc, stack: contextlib.ExitStack) -> None:
        self.sbc = sbc
        self.stack = stack
        self.hosts: list[str] = []
        self.proxies: dict[str, Proxy] = {}

    def add(self, names: list[str], host: str = HOST) -> Proxy:
        """A proxy of that host name whose certificate carries these names."""
        number = len(self.proxies) + 10
        handshakes.issue(self.sbc.directory, f"peer{number}", host, *names)
        proxy = Proxy(f"127.7.2.{number}", self.sbc.directory, f"peer{number}")
        self.stack.callback(proxy.close)
        self.proxies[host] = proxy
        self.point(host, proxy)
        return proxy

    def point(self, host: str, proxy: Proxy) -> None:
        self.sbc.rpc("dns.add_a", host, 3600, proxy.address, 0)
        self.hosts.append(host)

    def go(self) -> None:
        """Let Kamailio have these proxies in place of its own, and ask them."""
        lines = [f"1 sip:{host}:5061;transport=tls 0 1\n" for host in self.hosts]
        (self.sbc.directory / "dispatcher.list").write_text("".join(lines))
        self.sbc.rpc("dispatcher.reload")
        self.ask()

    def ask(self) -> None:
        self.sbc.rpc("evrexec.run", "evrexec:ping")

    def states(self) -> dict[str, str]:
        targets = self.sbc.rpc("dispatcher.list")["RECORDS"][0]["SET"]["TARGETS"]
        return {target["DEST"]["URI"].split(":")[1]: target["DEST"]["FLAGS"] for target in targets}

    def are(self, state: str) -> Callable[[], bool]:
        return lambda: self.states() == dict.fromkeys(self.hosts, state)

    def known(self, host: str = HOST) -> dict[str, object]:
        """The evidence of that proxy."""
        items = self.sbc.table("sbc_answers").items()
        return {key.removeprefix(f"{host}:"): value for key, value in items if key.startswith(f"{host}:")}

    def connections(self) -> set[str]:
        return {entry["src_ip"] for entry in self.sbc.rpc("tls.list")}


@pytest.fixture
def stage(start: Start) -> Iterator[Callable[..., Stage]]:
    with contextlib.ExitStack() as stack:
        yield lambda **variables: Stage(start(**variables), stack)


def hosts_of(cases: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same cases with a host of its own for each, all in one domain."""
    return {
        f"sip{number}.{DOMAIN}": [name.replace("sip", f"sip{number}").replace("SIP", f"SIP{number}") for name in names]
        for number, names in enumerate(cases.values())
    }


@needs_kamailio
def test_a_certificate_that_names_the_proxy_makes_it_active(stage: Callable[..., Stage]) -> None:
    scene = stage()
    for host, names in hosts_of(GOOD).items():
        scene.add(names, host)
    scene.go()
    assert wait_for(scene.are("AP")), dict(zip(GOOD, scene.states().values(), strict=True))
    assert {proxy.address for proxy in scene.proxies.values()} <= scene.connections()
    for host in scene.hosts:
        assert scene.known(host)["code"] == 200
        assert "refused" not in scene.known(host)


@needs_kamailio
def test_no_other_certificate_does(stage: Callable[..., Stage]) -> None:
    scene = stage(sbc_options_interval=1)
    for host, names in hosts_of(BAD).items():
        scene.add(names, host)
    begun = int(time.time())
    scene.go()
    assert wait_for(scene.are("IP")), dict(zip(BAD, scene.states().values(), strict=True))
    for host, proxy in scene.proxies.items():
        known = scene.known(host)
        assert known.keys() == {"sent", "refused", "certificate", "well"}
        assert begun <= int(str(known["refused"])) <= time.time()
        shown = urllib.parse.unquote(str(known["certificate"]).replace("+", " "))
        assert shown == (scene.sbc.directory / f"peer{proxy.address.rpartition('.')[2]}.pem").read_text()
    # Asked again and again, over a new connection each time, and it stays so.
    assert wait_for(lambda: all(len(proxy.names) >= 3 for proxy in scene.proxies.values()))
    assert scene.are("IP")()
    assert len(scene.sbc.rpc("tls.list")) <= len(PROXIES) + len(BAD)
    log = (scene.sbc.directory / "log").read_text()
    for host in scene.hosts:
        assert log.count(f"cause=proxy_certificate_name proxy={host} its certificate does not name it\n") == 1


@needs_kamailio
def test_a_proxy_comes_and_goes_with_its_certificate(stage: Callable[..., Stage]) -> None:
    scene = stage(sbc_options_interval=1)
    proxy = scene.add(["sip.fabrikam.example"])
    scene.go()
    assert wait_for(scene.are("IP"))
    proxy.change_certificate(HOST)
    assert wait_for(scene.are("AP"))
    assert "refused" not in scene.known()
    assert scene.known()["code"] == 200
    proxy.change_certificate("sip.fabrikam.example")
    connections, requests = len(proxy.names), len(proxy.requests)
    assert wait_for(lambda: len(proxy.requests) >= requests + 2)
    assert len(proxy.names) == connections  # the one with the right certificate is still in use
    assert wait_for(scene.are("AP"))
    proxy.hang_up()
    assert wait_for(scene.are("IP"))
    assert "refused" in scene.known()


@needs_kamailio
def test_each_proxy_of_a_shared_address_is_judged_by_its_own_name(stage: Callable[..., Stage]) -> None:
    scene = stage()
    proxy = scene.add([HOST])
    scene.point(f"sip2.{DOMAIN}", proxy)
    scene.go()

    def settled() -> bool:
        scene.ask()
        return scene.states() == {HOST: "AP", f"sip2.{DOMAIN}": "IP"}

    assert wait_for(settled)
    assert "refused" in scene.known(f"sip2.{DOMAIN}")
    assert "refused" not in scene.known()


@needs_kamailio
def test_an_answer_to_another_question_does_not_count(stage: Callable[..., Stage]) -> None:
    scene = stage(sbc_options_interval=1)
    proxy = scene.add(["sip.fabrikam.example"])
    proxy.status = "200 OK\r\nCall-ID: of-another-question"
    scene.go()
    assert wait_for(lambda: len(proxy.requests) >= 3)
    assert wait_for(scene.are("IP"))
    assert scene.known().keys() == {"sent", "awaited", "well"}


@needs_kamailio
def test_microsofts_own_connections_need_no_name_of_a_proxy(start: Start) -> None:
    sbc = start()
    handshakes.issue(sbc.directory, "peer", "anything", "client.fabrikam.example")
    assert sbc.ask(source=PROXIES[0]).startswith("SIP/2.0 200 ")
    assert sbc.ask(source="127.7.1.1").startswith("SIP/2.0 200 ")
