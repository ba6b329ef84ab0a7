"""What the command line takes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from sbc_probe import report
from sbc_probe.config import DEFAULT_PATH

SIP_TLS_PORT = 5061
HOST_NAME = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


def seconds(text: str) -> float:
    """A length of time on the command line. ValueError: none that makes sense."""
    if not 0 <= (given := float(text)) < 86400:
        raise ValueError
    return given


def at_least(least: float) -> Callable[[str], float]:
    """The same, and long enough (s) for something to happen."""

    def length_of_time(text: str) -> float:
        if (given := seconds(text)) < least:
            raise ValueError
        return given

    return length_of_time


def host_name(text: str) -> str:
    """A host's name or IPv4 address on the command line, in lower case. ValueError: neither."""
    if not HOST_NAME.fullmatch(text := text.lower()):
        raise ValueError
    return text


def host_and_port(text: str) -> tuple[str, int]:
    """HOST or HOST:PORT on the command line. ValueError: neither."""
    host, _, port = text.partition(":")
    if not 0 < (number := int(port or SIP_TLS_PORT)) < 65536:
        raise ValueError
    return host_name(host), number


def parser() -> argparse.ArgumentParser:
    """The parser of all commands, first those for people."""
    made = argparse.ArgumentParser(
        prog="sbc-probe",
        description="Is this SBC AP at every Microsoft proxy, and if not, why?",
        epilog="sbc-probe COMMAND -h says what a command takes.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _check(commands)
    _watch(commands)
    _explain(commands)
    _options(commands)
    _of_the_machine(commands)
    return made


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _configured(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")


def _check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="judge once and say why",
        description="Gathers the evidence, judges it and prints the report; its first line says all of it, as Nagios "
        "wants it.",
        epilog="exit code: 0 proven, 1 not proven, 2 unknown, 3 ready, waiting for Microsoft",
    )
    check.add_argument("--json", action="store_true", help=f"print the report as JSON, schema version {report.SCHEMA}")
    part = check.add_mutually_exclusive_group()
    part.add_argument(
        "--ours",
        action="store_true",
        help="judge only what a new configuration can break: Kamailio, its port, the certificate it serves, its "
        "answer to OPTIONS, the destinations it has loaded",
    )
    part.add_argument(
        "--outbound",
        action="store_true",
        help="judge all but where the names lead and Microsoft's own OPTIONS, which follow them: what a droplet can "
        "prove before it takes another's place",
    )
    check.add_argument(
        "--wait",
        nargs="?",
        type=float,
        const=float("nan"),
        metavar="SECONDS",
        help="look again until proven, for at most SECONDS; without a number for as long as the timers of Kamailio "
        "and Microsoft may still change the verdict",
    )
    _configured(check)


def _watch(commands: Commands) -> None:
    watch = commands.add_parser(
        "watch",
        help="look every few seconds: the report, and below it what has changed",
        description="Shows the report of `check` and what has changed, live, until q or Ctrl-C. Where the output is no "
        "terminal it writes one line for each change. NO_COLOR=1 turns colours off.",
    )
    watch.add_argument(
        "--interval",
        type=at_least(0.5),
        default=2.0,
        metavar="SECONDS",
        help="from one look to the next; default: %(default)g",
    )
    _configured(watch)


def _explain(commands: Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="the words for a state of the dispatcher, such as IP, or for a cause, such as proxy_tls",
        epilog="exit code: 0, or 2 for a word that is neither",
    )
    explain.add_argument("what", nargs="?", metavar="WORD", help="without it all of them are listed")


def _options(commands: Commands) -> None:
    options = commands.add_parser(
        "options",
        help="send one OPTIONS over TLS to one host and show everything that is seen on the way",
        description="Sends one OPTIONS over TLS, as Kamailio would, and shows each step: DNS, TCP, TLS with both "
        "certificates, the request, the answer. Run it as root, who may read the SBC's private key. Nothing is sent "
        "to a peer whose certificate does not verify.",
        epilog="exit code: 0 answered with 2xx in time, 1 not, 2 it could not be tried",
    )
    options.add_argument(
        "host",
        type=host_and_port,
        metavar="HOST[:PORT]",
        help=f"a name or an IPv4 address; port {SIP_TLS_PORT} by default",
    )
    options.add_argument(
        "--name", type=host_name, help="ask for this name in TLS (SNI), and find it in the certificate; default: HOST"
    )
    options.add_argument(
        "--from",
        type=host_name,
        dest="sender",
        metavar="FQDN",
        help="be this one, in From and Contact; default: the SBC's",
    )
    options.add_argument(
        "--certificate", metavar="FILE", help="show this one (PEM, with its chain); default: the SBC's"
    )
    options.add_argument("--key", metavar="FILE", help="its private key; default: the SBC's")
    options.add_argument(
        "--roots",
        metavar="FILE",
        help="roots for the other's certificate; default: those that the SBC accepts of Microsoft",
    )
    options.add_argument(
        "--timeout", type=at_least(0.1), default=10.0, metavar="SECONDS", help="for each step; default: %(default)g"
    )
    options.add_argument(
        "--insecure", action="store_true", help="send it even if the other's certificate does not verify"
    )
    options.add_argument("--json", action="store_true", help="print one JSON document, with the exit code in it")
    _configured(options)


def _of_the_machine(commands: Commands) -> None:
    """What systemd, certbot's hook and the rollout run."""
    serve = commands.add_parser("serve", help="serve /healthz, /metrics and /status.json on loopback")
    resolve = commands.add_parser(
        "resolve",
        help="the IPv4 addresses of a name as the name servers give them, past /etc/hosts and every cache here",
    )
    resolve.add_argument("name")
    delegation = commands.add_parser(
        "delegation",
        help="whether _acme-challenge of a name is delegated to this machine, so that certbot can answer for it here; "
        "port 53 must be open and free",
    )
    delegation.add_argument("base", help="the FQDN of the SBC")
    renewal = commands.add_parser(
        "renewal",
        help="note what certbot's last run came to, as root and right after it",
        epilog="exit code: 0 nothing failed, 1 something did: one line says what and what to do",
    )
    retire = commands.add_parser(
        "retire",
        help="close, one by one, the TLS connections that are open now, so that they come back with a new certificate",
        epilog="exit code: 0 all have ended, 1 some have not",
    )
    retire.add_argument("--within", type=seconds, required=True, metavar="SECONDS", help="spread them over this long")
    for command in (serve, delegation, renewal, retire):
        _configured(command)
