"""The Internet in one box: python -m lab up, down, status and more."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, get_args

from lab import acme, cgroup, image, machines, network, services, settings, tools
from lab.commands import CommandError, run
from lab.daemon import GROUP
from lab.dns import ABSENT, SILENT
from lab.microsoft import ca, sip
from lab.microsoft.trunks import FaultKind

START_TIMEOUT = 240
PROXY_FAULTS = get_args(FaultKind)
NO_FAULT = "none"
DIRECTORIES = {"acme": "production", "acme-staging": "staging"}

CLOUDS = sorted({cloud for cloud, _ in settings.MICROSOFT_PROXIES.values()})


class LabError(Exception):
    """What a person at the terminal should read; the message says what to do."""


def control(method: str, path: str, body: Any = None) -> Any:
    """Ask the control interface. Raises LabError when the lab is down or the request is refused."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{settings.CONTROL_URL}/{path}", data=data, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        raise LabError(f"{method} {path}: {error.code} {error.read().decode()}") from error
    except urllib.error.URLError as error:
        raise LabError("the lab is not up; `make lab-up` brings it up") from error


def _need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("this needs root, for namespaces and machines; try it with sudo")


def _lock() -> IO[str]:
    settings.STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = (settings.STATE / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _take_down() -> None:
    """End whatever an earlier lab left, in whatever state it died."""
    settings.READY.unlink(missing_ok=True)
    # The daemon last: it is the others' parent, and a parent takes away what its children leave.
    for name in cgroup.names():
        if name != GROUP:
            cgroup.end(name)
    cgroup.end()
    machines.clear_all()
    network.down()
    services.clear()


def _forget_certificates() -> None:
    """Drop what a rollout saved for the next droplet: the authority that issued it is gone, and so are its accounts."""
    for saved in (Path(__file__).parent.parent / "inventory/lab/state").glob("*/certificate.*"):
        saved.unlink()


def up(_: argparse.Namespace) -> None:
    _need_root()
    with _lock():
        if settings.READY.exists() and cgroup.members(GROUP):
            print("The lab is up already.")
            return
        _take_down()
        _forget_certificates()
        if not image.is_built():
            print("Making the droplets' Debian 13 image (once, under a minute) ...", flush=True)
            image.build()
        for directory in (settings.RUN, settings.LOG, settings.ROOTS):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for directory in (settings.CA, settings.DROPLETS):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in settings.LOG.glob("*.log"):
            old.unlink()
        print("Bringing the lab up ...", flush=True)
        with (settings.LOG / "lab.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "lab.daemon"],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not settings.READY.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                _take_down()
                said = (settings.LOG / "lab.log").read_text().strip().splitlines()
                raise LabError(
                    f"the lab did not come up: {said[-1] if said else 'it said nothing'} (see `make lab-logs`)"
                )
            time.sleep(0.05)
    print(
        f"The lab is up: DigitalOcean's API at http://127.0.0.1:{settings.API_PORT}/v2/, "
        f"its control interface at {settings.CONTROL_URL}/"
    )


def down(_: argparse.Namespace) -> None:
    _need_root()
    with _lock():
        _take_down()
    print("The lab is down; the image and the package cache stay (`make lab-clean` removes them).")


def clean(options: argparse.Namespace) -> None:
    down(options)
    image.remove()


def status(_: argparse.Namespace) -> None:
    found = control("GET", "status")
    for name, alive in found["services"].items():
        print(f"{name:14} {'up' if alive else 'DOWN, see `make lab-logs`'}")
    for droplet in control("GET", "state")["droplets"]:
        alive = droplet["id"] in found["machines"]
        print(f"droplet        {droplet['id']} {droplet['name']} {droplet['address']} {'up' if alive else 'off'}")
    for fqdn, view in control("GET", "microsoft/trunks").items():
        print(f"trunk          {fqdn} {'Active' if view['active'] else 'not Active'}")
        for proxy, seen in view["proxies"].items():
            print(f"                 {proxy}: {'Active' if seen['active'] else seen['why_not']}")


def age(options: argparse.Namespace) -> None:
    live = "/etc/letsencrypt/live"
    argv = _ssh(options.customer)

    def droplet(command: str, stdin: str = "") -> str:
        return run(*argv, command, stdin=stdin)

    names = droplet(f"ls {live} | grep -v README || true").split()
    if len(names) != 1:
        raise LabError(f"{options.customer} has no certificate of certbot's, or several: {' '.join(names) or 'none'}")
    [lineage] = [f"{live}/{name}" for name in names]
    chain = control(
        "POST",
        "acme/aged",
        {"certificate": droplet(f"cat {lineage}/cert.pem"), "seconds_left": options.left.total_seconds()},
    )["chain"]
    leaf = chain[: chain.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    for name, content in (("fullchain", chain), ("cert", leaf)):
        # The file behind certbot's link, in one piece.
        droplet(
            f'f=$(readlink -f {lineage}/{name}.pem) && cat >"$f.new" && chmod 644 "$f.new" && mv "$f.new" "$f"', content
        )
    droplet(
        f"for hook in /etc/letsencrypt/renewal-hooks/deploy/*; do "
        f'RENEWED_LINEAGE={lineage} RENEWED_DOMAINS="{names[0]}" "$hook" || exit 1; done'
    )
    print(f"{options.customer}'s certificate is as if issued earlier: it ends in {options.left}, and is in force.")


def logs(options: argparse.Namespace) -> None:
    found = sorted(settings.LOG.glob(f"{options.name or '*'}.log"))
    if not found:
        raise LabError(f"no log {options.name or ''} in {settings.LOG}")
    os.execvp("tail", ["tail", "-n", str(options.lines), *(["-F"] if options.follow else []), *map(str, found)])


def _ssh(customer: str) -> list[str]:
    tag = f"sbc:customer:{customer}"
    addresses = [d["address"] for d in control("GET", "state")["droplets"] if tag in d["tags"] and d["has_address"]]
    if not addresses:
        raise LabError(f"{customer} has no droplet; `make lab` makes one")
    state = Path("inventory/lab/state")
    argv = ["ssh", "-i", str(state / "id_ed25519"), "-o", f"UserKnownHostsFile={state / 'known_hosts'}"]
    argv += ["-o", f"HostKeyAlias={customer}", "-o", "StrictHostKeyChecking=yes"]
    return [*argv, "-o", "IdentitiesOnly=yes", f"root@{addresses[0]}"]


def ssh(options: argparse.Namespace) -> None:
    os.execvp("ssh", [*_ssh(options.customer), *options.command])


def trunk(options: argparse.Namespace) -> None:
    if options.remove:
        control("DELETE", f"microsoft/trunks/{options.fqdn}")
        print(f"Microsoft no longer knows {options.fqdn}.")
    else:
        enabled = not options.disabled
        control("PUT", f"microsoft/trunks/{options.fqdn}", {"enabled": enabled, "cloud": options.cloud})
        state = "a trunk" if enabled else "a disabled trunk"
        print(f"Microsoft ({options.cloud}) has {state} for {options.fqdn}.")


def certificate(options: argparse.Namespace) -> None:
    sold = control("POST", "certificates", {"names": [options.fqdn, *options.name], "fault": options.fault})
    options.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, mode in (("chain", 0o644), ("key", 0o600)):
        path = options.out / f"{name}.pem"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(sold[name])
        print(path)


def options(options: argparse.Namespace) -> None:
    found = control("POST", "microsoft/options", {"fqdn": options.fqdn, "cloud": options.cloud})
    print(f"{found['proxy']} to {found['target']} ({found['address'] or 'no address'})")
    if certificate := found["certificate"]:
        print(f"  certificate  {', '.join(certificate['names'])} until {certificate['not_after']}")
        print(f"               SHA-256 {certificate['fingerprint']}")
    if found["code"] is not None:
        print(f"  answer       {found['code']} {found['reason']}")
        print(f"  contact      {found['contact'] or 'none'}")
    if found["code"] != sip.OK:
        raise LabError(found["error"] or f"answered {found['code']} {found['reason']}")


def kamailio_root(_: argparse.Namespace) -> None:
    _need_root()
    with _lock():
        root = image.with_kamailio()
        tools.install(root)
        print(root)


def advise(_: argparse.Namespace) -> None:
    print("""
What to look at next:
  make lab-ssh                                      a shell on the droplet; then, for instance:
      kamcmd dispatcher.list | egrep "URI|FLAGS"    the classic check
      sbc-probe check                               the verdict
      curl http://127.0.0.1:9061/status.json        the probe's service (/healthz and /metrics too)
  make lab-status                                   what runs, and Microsoft's own view of the SBC
  .venv/bin/python -m lab break sip2.pstnhub.microsoft.com refuse
  .venv/bin/ansible-playbook playbooks/verify.yml   red, with the cause; `break ... none` mends it
  make lab-down                                     take it all down""")


def fault(options: argparse.Namespace) -> None:
    if options.what in DIRECTORIES:
        control("POST", "acme/fault", {"kind": options.kind, "directory": DIRECTORIES[options.what]})
    else:
        told = {name: getattr(options, name) for name in ("code", "reason", "text", "retry_after", "period")}
        body = {name: value for name, value in told.items() if value is not None}
        control("POST", f"microsoft/proxies/{options.what}/fault", {"kind": options.kind} | body)
    print(f"{options.what}: {options.kind}")


def dns_fault(options: argparse.Namespace) -> None:
    faults = control("GET", "dns/faults")
    if options.what == [NO_FAULT]:
        faults.pop(options.name, None)
    else:
        word = options.what[0] in (SILENT, ABSENT)
        faults[options.name] = options.what[0] if word else options.what
    control("PUT", "dns/faults", faults)
    print(f"{options.name}: {' '.join(options.what)}")


def clock(options: argparse.Namespace) -> None:
    silent = options.ahead == SILENT
    state = control("PUT", "clock/state", {"silent": True} if silent else {"ahead": _seconds_ahead(options.ahead)})
    print("the time server says nothing" if silent else f"the time server is {state['ahead']:g} s ahead")


def _seconds_ahead(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LabError(f"{text!r} is no number of seconds") from None


def close(options: argparse.Namespace) -> None:
    api = f"http://127.0.0.1:{settings.API_PORT}/v2/firewalls"
    headers = {"Authorization": "Bearer lab", "Content-Type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(method: str, url: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with opener.open(urllib.request.Request(url, data, headers, method=method), timeout=60) as response:
            return json.loads(response.read())

    control("GET", "status")
    found = [each for each in ask("GET", api)["firewalls"] if each["name"] == f"sbc-{options.customer}"]
    if not found:
        raise LabError(f"{options.customer} has no cloud firewall; `make lab` makes one")
    [firewall] = found
    body = {key: firewall[key] for key in ("name", "outbound_rules", "tags", "droplet_ids")}
    kept = [rule for rule in firewall["inbound_rules"] if rule["ports"] != str(options.port)]
    ask("PUT", f"{api}/{firewall['id']}", body | {"inbound_rules": kept})
    print(f"Port {options.port} is closed in {options.customer}'s cloud firewall; playbooks/provision.yml opens it.")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number followed by s, m, h or d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action: Any, description: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
        added.set_defaults(action=action)
        return added

    command("up", up, "bring the lab up, clearing away what an earlier one left")
    command("down", down, "take the lab down, droplets and all")
    command("clean", clean, "take the lab down and remove its image and package cache")
    command("status", status, "what runs")
    logs_parser = command("logs", logs, "what the services and the droplets' consoles wrote")
    logs_parser.add_argument("name", nargs="?", help="the name of a service in `status`, lab, or a droplet's d<number>")
    logs_parser.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    logs_parser.add_argument("-n", "--lines", type=int, default=20, help="of each log (default 20)")
    command("kamailio-root", kamailio_root, "make a root directory with Kamailio in it for tests, and print its path")
    command("next", advise, "what to look at next")
    ssh_parser = command("ssh", ssh, "a shell on a customer's droplet")
    ssh_parser.add_argument("customer", nargs="?", default="contoso")
    ssh_parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run instead of a shell")
    age_parser = command("age", age, "make a customer's certificate as old as if only some time were left of it")
    age_parser.add_argument("customer", nargs="?", default="contoso")
    age_parser.add_argument("--left", type=_duration, required=True, metavar="TIME", help="for instance 10d, 6h, 90s")
    trunk_parser = command("trunk", trunk, "make or remove the trunk at the lab's Microsoft")
    trunk_parser.add_argument("fqdn")
    trunk_parser.add_argument("--cloud", default="commercial", choices=CLOUDS)
    trunk_kinds = trunk_parser.add_mutually_exclusive_group()
    trunk_kinds.add_argument("--remove", action="store_true")
    trunk_kinds.add_argument("--disabled", action="store_true", help="it is there and not enabled")
    options_parser = command("options", options, "let Microsoft send OPTIONS to a name now, and show what it saw")
    options_parser.add_argument("fqdn")
    options_parser.add_argument("--cloud", default="commercial", choices=CLOUDS)
    certificate_parser = command(
        "certificate", certificate, "buy a certificate, which the government's clouds accept too"
    )
    certificate_parser.add_argument("fqdn")
    certificate_parser.add_argument("--name", action="append", default=[], help="one more name; repeatable")
    certificate_parser.add_argument(
        "--out", type=Path, required=True, metavar="DIRECTORY", help="for chain.pem, key.pem"
    )
    certificate_parser.add_argument("--fault", choices=ca.FAULTS)
    fault_parser = command("break", fault, "give one of Microsoft's proxies or an ACME directory a fault, or none")
    fault_parser.add_argument("what", choices=[*settings.MICROSOFT_PROXIES, *DIRECTORIES])
    fault_parser.add_argument(
        "kind",
        choices=list(dict.fromkeys((*PROXY_FAULTS, *acme.FAULTS))),
        help=f"a proxy's: {', '.join(PROXY_FAULTS)}; a directory's: {', '.join(acme.FAULTS)}",
    )
    fault_parser.add_argument("--code", type=int, help="of a proxy's error (default 503)")
    fault_parser.add_argument("--reason", help="the words beside that code")
    fault_parser.add_argument("--text", help="what its Reason header says")
    fault_parser.add_argument("--retry-after", type=int, metavar="SECONDS", help="what its header of that name says")
    fault_parser.add_argument(
        "--period", type=float, metavar="SECONDS", help="a proxy's fault comes and goes by itself"
    )
    dns_parser = command("dns", dns_fault, "let the lab's DNS say something else of a name, or nothing")
    dns_parser.add_argument("name")
    dns_parser.add_argument(
        "what",
        nargs="+",
        help=f"{SILENT}: no answer; {ABSENT}: no such name; one or more addresses; {NO_FAULT}: the truth",
    )
    clock_parser = command("clock", clock, "let the time server be wrong, so that a droplet takes its own clock for it")
    clock_parser.add_argument("ahead", help=f"seconds that it is ahead of this machine; 0: right; {SILENT}: no answer")
    close_parser = command("close", close, "take a port out of a customer's cloud firewall, as somebody would by hand")
    close_parser.add_argument("port", type=int)
    close_parser.add_argument("customer", nargs="?", default="contoso")
    return parser


def main() -> None:
    options = _parser().parse_args()
    try:
        options.action(options)
    except (LabError, CommandError) as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    main()
