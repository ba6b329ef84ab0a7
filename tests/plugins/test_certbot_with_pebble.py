"""certbot itself, its plugin for DNS and Let's Encrypt's test server: what the module writes is what they understand.

Debian's certbot runs in a root directory of its own (KAMAILIO_ROOT) and in a network of its own, where the lab's DNS
server follows the delegation to certbot.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import load, run
from tests.plugins.support import ROOT, Failed
from tests.plugins.test_packet_filter import rendered
from tests.plugins.tls import Authority

CHROOT = Path(os.environ.get("KAMAILIO_ROOT", "/nonexistent"))
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("pebble") or not (CHROOT / "usr/bin/certbot").exists(),
    reason="needs root, Pebble, and certbot in KAMAILIO_ROOT (python -m lab kamailio-root)",
)
NAME, ADDRESS, OTHER = "sbc1.example.com", "203.0.113.10", "203.0.113.11"
WILDCARD: dict[str, Any] = {"names": [NAME, f"*.{NAME}"], "challenge": "dns", "address": ADDRESS}
Certificate = Callable[..., dict[str, Any]]


class Internet:
    """A network namespace with a name server, an ACME directory and the machine that certbot runs on."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self.letsencrypt, self.tls = directory, directory / "letsencrypt", directory / "tls"
        for name in ("letsencrypt", "log", "lib", "bin"):
            (directory / name).mkdir()
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        mounts = {"letsencrypt": "etc/letsencrypt", "log": "var/log/letsencrypt", "lib": "var/lib/letsencrypt"}
        script = "\n".join(
            [
                f"set -e; mount -t tmpfs none {CHROOT}/tmp; mkdir -p {CHROOT}{directory} {CHROOT}/var/log/letsencrypt",
                f"mkdir -p {CHROOT}/var/lib/letsencrypt; mount --bind {directory} {CHROOT}{directory}",
                *(f"mount --bind {directory}/{name} {CHROOT}/{path}" for name, path in mounts.items()),
                f"mount --bind {directory}/resolv.conf {CHROOT}/etc/resolv.conf; mount -t proc none {CHROOT}/proc",
                f"ip link set lo up; ip address add {ADDRESS}/32 dev lo; ip address add {OTHER}/32 dev lo",
                "echo; read _",
            ]
        )
        holder = stack.enter_context(
            subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], stdin=-1, stdout=-1)
        )
        stack.callback(lambda: holder.stdin and holder.stdin.close())
        assert holder.stdout
        assert holder.stdout.readline() == b"\n"
        self._inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", f"--mount=/proc/{holder.pid}/ns/mnt"]
        self._serve(stack)
        self._equip()

    def _serve(self, stack: ExitStack) -> None:
        authority = Authority()
        key, leaf = authority.issue(["acme.example.net"])
        for name, text in (("acme.key", key), ("acme.pem", leaf), ("root.pem", authority.pem)):
            (self.directory / name).write_text(text)
        config = {
            "listenAddress": "127.0.0.1:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": str(self.directory / "acme.pem"),
            "privateKey": str(self.directory / "acme.key"),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
        }
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        self._control = self.directory / "dns.sock"
        self._log = self.directory / "pebble.log"
        services: list[list[str]] = [
            [sys.executable, "-m", "lab.dns", "--listen", "127.0.0.1", "--control", str(self._control)],
            ["pebble", "-strict", "-config", str(self.directory / "pebble.json"), "-dnsserver", "127.0.0.1:53"],
        ]
        steady = {
            "PYTHONPATH": str(ROOT),
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": "0",
            "PEBBLE_AUTHZREUSE": "0",
        }
        log = stack.enter_context(self._log.open("wb"))
        for argv in services:
            service = stack.enter_context(
                subprocess.Popen([*self._inside, *argv], env=os.environ | steady, stdout=log, stderr=subprocess.STDOUT)
            )
            stack.callback(service.terminate)
        deadline = time.monotonic() + 60
        while not self._controls() or b"ACME directory available" not in self._log.read_bytes():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def _controls(self) -> bool:
        with socket.socket(socket.AF_UNIX) as control, suppress(OSError):
            control.connect(str(self._control))
            return True
        return False

    def _equip(self) -> None:
        """What the playbook puts on a droplet."""
        templates = "certificate/templates"
        hook = self.letsencrypt / "renewal-hooks/deploy/kamailio"
        hook.parent.mkdir(parents=True)
        gate = self.directory / "gate"
        gate.write_text(rendered(f"{templates}/sbc-challenge", certificate_target=self.tls))
        hook.write_text(rendered(f"{templates}/deploy-hook", certificate_target=self.tls, sbc_fqdn=NAME))
        for program in (hook, gate):
            program.chmod(0o755)
        self.gate = self.wrap("sbc-challenge", str(gate))
        networks = {
            "sbc_address": ADDRESS,
            "sbc_ssh_sources": ["192.0.2.0/24"],
            "sbc_cloud_facts": {"signalling_networks": ["52.112.0.0/14"]},
            "sbc_probe_networks": [],
        }
        (self.directory / "nftables.conf").write_text(rendered("base/templates/nftables.conf", **networks))
        self.machine("nft", "-f", str(self.directory / "nftables.conf"))

    def machine(self, *argv: str, check: bool = True) -> str:
        """A command on the machine."""
        environment = f"REQUESTS_CA_BUNDLE={self.directory}/root.pem"
        done = subprocess.run(
            [*self._inside, "chroot", str(CHROOT), "env", environment, *argv],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def wrap(self, name: str, *argv: str) -> Path:
        """A program that the module finds, as certbot does, and that runs on the machine."""
        path = self.directory / "bin" / name
        inside = " ".join(
            [
                *self._inside,
                "chroot",
                str(CHROOT),
                "env",
                "-u RENEWED_LINEAGE",
                f"REQUESTS_CA_BUNDLE={self.directory}/root.pem",
            ]
        )
        program = " ".join(argv)
        path.write_text(f'#!/bin/sh\n[ -e {CHROOT} ] || exec {program} "$@"\nexec {inside} {program} "$@"\n')
        path.chmod(0o755)
        return path

    def zone(self, address: str = ADDRESS, delegated: bool = True) -> None:
        records = [{"type": "SOA", "name": "@", "data": "1800"}, {"type": "A", "name": "sbc1", "data": address}]
        if delegated:
            records.append({"type": "NS", "name": "_acme-challenge.sbc1", "data": NAME})
        acme = [{"type": "A", "name": "acme", "data": "127.0.0.1"}]
        zones = {
            domain: [{"id": number, "ttl": 60, **record} for number, record in enumerate(found)]
            for domain, found in (("example.com", records), ("example.net", acme))
        }
        body = json.dumps(zones)
        url = "http://dns/zones"
        subprocess.run(
            ["curl", "-sSf", "--unix-socket", str(self._control), "-X", "PUT", "-d", body, url],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def orders(self) -> int:
        """How many certificates were asked for."""
        return self._log.read_text().count("POST /order-plz")

    def serial(self, path: Path) -> str:
        return self.machine("openssl", "x509", "-in", str(path), "-noout", "-serial")


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with ExitStack() as stack:
        yield Internet(tmp_path_factory.mktemp("internet"), stack)


@pytest.fixture
def plugin(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    plugin = load("modules", "certbot_certificate")
    internet.wrap("certbot", "/usr/bin/certbot")
    # The probe's own tests try whether a delegation is seen; here a resolver's answer is enough.
    probe = internet.directory / "bin/probe"
    probe.write_text("#!/bin/sh\ntest -e $(dirname $0)/delegated || { echo 'NXDOMAIN'; exit 1; }\n")
    probe.chmod(0o755)
    (probe.parent / "delegated").touch()
    monkeypatch.setattr(plugin, "LETSENCRYPT", str(internet.letsencrypt))
    monkeypatch.setattr(plugin, "PROBE", str(probe))
    monkeypatch.setenv("PATH", f"{internet.directory}/bin:{os.environ['PATH']}")
    return plugin


@pytest.fixture
def certificate(plugin: ModuleType, internet: Internet) -> Certificate:
    usual = {
        "name": NAME,
        "names": [NAME],
        "directory": "https://acme.example.net:14000/dir",
        "email": "it@example.com",
        "profile": "classic",
        "challenge_hook": str(internet.gate),
        "deploy_hook": str(internet.wrap("hook", "/etc/letsencrypt/renewal-hooks/deploy/kamailio")),
        "installed": str(internet.tls / "fullchain.pem"),
        "state_dir": "/nonexistent",
        "password_file": "/nonexistent",
    }
    return lambda check=False, **other: run(plugin, check, **usual | other)


def renew(internet: Internet) -> str:
    """What certbot.service does, for a certificate that is due."""
    return internet.machine("certbot", "-q", "renew", "--no-random-sleep-on-renew", "--force-renewal", check=False)


def test_one_name_over_http_and_then_a_wildcard_over_dns(
    certificate: Certificate, internet: Internet, plugin: ModuleType
) -> None:
    internet.zone()
    assert certificate()["reasons"] == ["there is none"]
    again = certificate()
    assert (again["changed"], again["settings"]) == (False, []), "certbot keeps settings as the module spells them"

    result = certificate(**WILDCARD)
    assert result["reasons"] == [f"its names is {NAME}, not *.{NAME}, {NAME}"]
    installed = internet.tls / "fullchain.pem"
    names = internet.machine("openssl", "x509", "-in", str(installed), "-noout", "-ext", "subjectAltName")
    assert sorted(names.split("\n")[1].replace("DNS:", "").replace(" ", "").split(",")) == [f"*.{NAME}", NAME]
    assert not certificate(**WILDCARD)["changed"]
    assert "elements" not in internet.machine("nft", "list", "set", "inet", "sbc", "challenge")


def test_certbot_renews_it_by_itself(certificate: Certificate, internet: Internet) -> None:
    internet.zone()
    certificate(**WILDCARD)
    installed = internet.tls / "fullchain.pem"
    before = internet.serial(installed)
    assert renew(internet) == ""
    assert internet.serial(installed) != before
    assert not certificate(**WILDCARD)["changed"]
    assert "elements" not in internet.machine("nft", "list", "set", "inet", "sbc", "challenge")
    assert (installed.stat().st_mode & 0o777, (internet.tls / "privkey.pem").stat().st_mode & 0o777) == (0o640, 0o400)


def test_a_new_address_is_what_the_next_renewal_answers_at(certificate: Certificate, internet: Internet) -> None:
    internet.zone()
    certificate(**WILDCARD)
    internet.zone(OTHER)
    before, asked = internet.serial(internet.tls / "fullchain.pem"), internet.orders()
    assert "Failed to renew" in renew(internet), "it answers at the old address, and is asked at the new one"
    moved = WILDCARD | {"address": OTHER}
    result = certificate(**moved)
    assert (result["issued"], len(result["settings"])) == (False, 2)
    assert internet.orders() == asked + 1, "the failed renewal's, and no other"
    assert renew(internet) == ""
    assert internet.serial(internet.tls / "fullchain.pem") != before


def test_what_is_no_longer_wanted_is_not_renewed(certificate: Certificate, internet: Internet) -> None:
    internet.zone()
    certificate(**WILDCARD)
    internet.machine(
        *("certbot", "certonly", "-q", "--agree-tos", "--standalone", "--key-type", "rsa", "--cert-name", "earlier"),
        *("--server", "https://acme.example.net:14000/dir", "--domain", NAME),
    )
    result = certificate(**WILDCARD)
    assert (result["stopped"], result["issued"]) == (["earlier"], False)
    asked = internet.orders()
    said = internet.machine("certbot", "renew", "--no-random-sleep-on-renew", "--cert-name", "earlier")
    assert "not due for renewal" in said
    assert internet.orders() == asked


def test_the_remains_of_a_full_disk_are_neither_installed_nor_in_the_way(
    certificate: Certificate, internet: Internet
) -> None:
    internet.zone()
    certificate(**WILDCARD)
    before = (internet.tls / "fullchain.pem").read_bytes()
    live = internet.letsencrypt / "live" / NAME / "fullchain.pem"
    live.resolve().write_bytes(live.read_bytes()[:1000])
    said = internet.machine("/etc/letsencrypt/renewal-hooks/deploy/kamailio", check=False)
    assert "do not belong together; what Kamailio has stays" in said
    assert (internet.tls / "fullchain.pem").read_bytes() == before
    result = certificate(**WILDCARD)
    assert (result["present"], result["reasons"]) == (False, ["there is none"])
    assert (internet.tls / "fullchain.pem").read_bytes() == live.read_bytes() != before
    assert (internet.letsencrypt / "broken" / NAME / "renewal").exists()
    assert not certificate(**WILDCARD)["changed"]


def test_nothing_is_asked_for_before_the_delegation_is_there(certificate: Certificate, internet: Internet) -> None:
    internet.zone(delegated=False)
    (internet.directory / "bin/delegated").unlink()
    asked = internet.orders()
    with pytest.raises(Failed, match="do not reach this machine"):
        certificate(**WILDCARD | {"names": [*WILDCARD["names"], "more.example.com"]}, delegation_wait=0)
    assert internet.orders() == asked
