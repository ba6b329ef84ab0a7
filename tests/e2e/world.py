"""What the end-to-end tests do to the lab and to the product: the same commands as a person, and the lab's control."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from lab import network, settings
from lab.__main__ import control
from tests.contract.judge import JUDGE

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CUSTOMER, FQDN = "contoso", "contoso.voip.test"
API = "http://127.0.0.1:18080/v2"
PROXIES = ("sip.pstnhub.microsoft.com", "sip2.pstnhub.microsoft.com", "sip3.pstnhub.microsoft.com")

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    code: int
    text: str

    @property
    def recap(self) -> dict[str, int]:
        """The customer's counts at the end of a playbook: ok, changed, failed and so on."""
        found = re.findall(rf"^{CUSTOMER}\s+: (.*)$", self.text, flags=re.MULTILINE)
        return {
            key: sum(int(v) for line in found for k, v in re.findall(r"(\w+)=(\d+)", line) if k == key)
            for key in ("ok", "changed", "failed", "unreachable")
        }


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """A user's environment with .venv on the path and colours off."""
    return {**os.environ, "NO_COLOR": "1", "PATH": f"{BIN}:{os.environ['PATH']}", **(extra or {})}


def run(*argv: str, env: dict[str, str] | None = None, timeout: float = 1800) -> Run:
    """Run a command in the project's root, as a user would, with colours off."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=environment(env),
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return Run(done.returncode, done.stdout)


def judge() -> None:
    """Hold what the lab's API was asked and answered against DigitalOcean's document, as far as a lab is up."""
    with suppress(requests.ConnectionError):
        JUDGE.take(settings.CONTROL_URL)


def lab(*arguments: str) -> Run:
    """The lab's own command line; what a lab that goes down was asked is judged first."""
    if arguments == ("down",):
        try:
            judge()
        finally:
            done = run(sys.executable, "-m", "lab", "down")
        assert done.code == 0, done.text
        return done
    done = run(sys.executable, "-m", "lab", *arguments)
    assert done.code == 0, done.text
    return done


def playbook(name: str, *arguments: str, env: dict[str, str] | None = None) -> Run:
    """ansible-playbook with the default inventory."""
    return run("ansible-playbook", name, *arguments, env=env)


def verify() -> Run:
    return playbook("playbooks/verify.yml")


def droplet(command: str) -> Run:
    """A command on the customer's droplet, over SSH with its host key verified."""
    return run(sys.executable, "-m", "lab", "ssh", CUSTOMER, command)


def check() -> dict[str, Any]:
    """The probe's report now."""
    done = droplet("sbc-probe check --json")
    try:
        report: dict[str, Any] = json.loads(done.text)
    except ValueError:
        raise AssertionError(f"no report, but code {done.code}: {done.text}") from None
    return report


def fault(proxy: str, kind: str) -> None:
    """Give one of Microsoft's proxies a fault, or none."""
    control("POST", f"microsoft/proxies/{proxy}/fault", {"kind": kind})


def trunk(exists: bool) -> None:
    """Make or remove the customer's trunk at Microsoft."""
    if exists:
        control("PUT", f"microsoft/trunks/{FQDN}", {"enabled": True})
    else:
        control("DELETE", f"microsoft/trunks/{FQDN}")


def options(name: str, cloud: str = "commercial") -> dict[str, Any]:
    """What comes of OPTIONS that Microsoft sends to a name now: code, reason, error, contact, certificate."""
    answer: dict[str, Any] = control("POST", "microsoft/options", {"fqdn": name, "cloud": cloud})
    return answer


def until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait for something that must come true. Raises AssertionError when it has not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(1)


def seen(look: Callable[[], Seen], good: Callable[[Seen], bool], what: str, seconds: float = 300) -> Seen:
    """Look until it is good, and return what was seen then. Raises AssertionError with the last look otherwise."""
    looks: list[Seen] = []

    def is_good() -> bool:
        looks[:] = [look()]
        return good(looks[0])

    try:
        until(is_good, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; last seen: {looks[0]}") from None
    return looks[0]


def active(fqdn: str = FQDN) -> dict[str, Any]:
    """Microsoft's view of a trunk once all its proxies find it Active; each asks the SBC when its own turn comes."""
    return seen(
        lambda: control("GET", f"microsoft/trunks/{fqdn}"), lambda view: bool(view["active"]), f"{fqdn} is Active"
    )


def proven() -> dict[str, Any]:
    """The probe's report once it is proven."""
    return seen(check, lambda report: bool(report["overall"]["state"] == "proven"), "the probe says proven")


def api(method: str, path: str, body: Any = None) -> Any:
    """One request to the lab's DigitalOcean, past the product."""
    import urllib.request

    request = urllib.request.Request(
        f"{API}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer lab", "Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
        text = response.read()
    return json.loads(text) if text else None


def firewall() -> dict[str, Any]:
    """The customer's cloud firewall."""
    found: list[dict[str, Any]] = api("GET", "firewalls")["firewalls"]
    return next(each for each in found if each["name"] == f"sbc-{CUSTOMER}")


@dataclass(frozen=True)
class Connection:
    """A TLS connection from Microsoft's address that stays up for as long as the SBC lets it."""

    process: subprocess.Popen[str]
    fingerprint: str

    def ask(self, name: str = "") -> dict[str, Any]:
        """Send OPTIONS for a name over it, or only look; see `tests.e2e.caller` for the answer."""
        assert self.process.stdin
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next answer. Raises AssertionError with what was said if the caller has failed."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("{"), line + self.process.stdout.read()
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def connection(name: str, to: str | None = None, roots: Path = settings.ROOTS / "acme.pem") -> Iterator[Connection]:
    """Connect as Microsoft to the SBC by one of its names, which its certificate must carry and lead to `roots`."""
    proxy, source = PROXIES[0], settings.MICROSOFT_PROXIES[PROXIES[0]][1]
    argv = [
        *network.in_namespace(f"{settings.ROUTER}-microsoft"),
        *(sys.executable, "-m", "tests.e2e.caller", to or address(CUSTOMER), name, "--source", source),
        *("--certificate", str(settings.CA / f"{proxy}.pem"), "--key", str(settings.CA / f"{proxy}.key")),
        *("--roots", str(roots)),
    ]
    with subprocess.Popen(
        argv, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            first = Connection(process, "").read()
            yield Connection(process, first["fingerprint"])
        finally:
            process.kill()


def inventory(directory: Path, hosts: Mapping[str, Mapping[str, Any]]) -> Path:
    """The lab's inventory with customers of one's own, in a new directory, as a user would copy it."""
    shutil.copytree(
        ROOT / "inventory/lab",
        directory,
        ignore=lambda folder, names: [n for n in names if Path(folder).name == "state" and not n.startswith("id_")],
    )
    (directory / "customers.yml").write_text(json.dumps({"sbc": {"hosts": hosts}}))
    return directory


def address(customer: str) -> str:
    """The public address of a customer's droplet."""
    (droplet,) = api("GET", f"droplets?tag_name=sbc:customer:{customer}")["droplets"]
    return next(str(each["ip_address"]) for each in droplet["networks"]["v4"] if each["type"] == "public")


def destroy(customer: str) -> None:
    """Remove a customer's droplet, past the product."""
    for droplet in api("GET", f"droplets?tag_name=sbc:customer:{customer}")["droplets"]:
        api("DELETE", f"droplets/{droplet['id']}")


def host_network() -> str:
    """The host's links, addresses, routes and rules, without what changes by itself."""
    shown = [
        run(*command).text
        for command in (
            ("ip", "-o", "link"),
            ("ip", "-o", "addr"),
            ("ip", "route"),
            ("ip", "rule"),
            ("nft", "--stateless", "list", "ruleset"),
            ("sysctl", "net.ipv4.ip_forward"),
        )
    ]
    return re.sub(r"valid_lft.*", "", "\n".join(shown))
