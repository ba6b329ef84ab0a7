"""The command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from sbc_probe import report
from sbc_probe.config import DEFAULT_PATH, Config, ConfigError
from sbc_probe.evidence import collect
from sbc_probe.findings import ExitCode, State
from sbc_probe.model import Evidence
from sbc_probe.resolver import lookup
from sbc_probe.terminal import plain
from sbc_probe.verdict import Verdict, judge, judge_swap

EXIT_CODES = "exit code: 0 proven, 1 not proven, 2 unknown, 3 ready, waiting for Microsoft"

SIP_TLS_PORT = 5061


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the verdict, 2 when the configuration cannot be used."""
    options = _parser().parse_args(arguments)
    if options.command == "resolve":
        return _resolve(options.name)
    if options.command == "explain":
        return _explain(options.what)
    try:
        config = Config.load(options.config)
    except ConfigError as error:
        print(f"sbc-probe: {error}", file=sys.stderr)
        return ExitCode.UNKNOWN
    if options.command == "serve":
        from sbc_probe.service import serve

        serve(config)
        return 0
    if options.command == "delegation":
        return _delegation(config, options.base)
    if options.command == "renewal":
        return _renewal(config)
    if options.command == "retire":
        return _retire(config, options.within)
    if options.command == "options":
        return _options(config, options)
    if options.command == "watch":
        from sbc_probe.watch import watch

        with _listened_to():
            watch(config, options.interval)
        return 0
    evidence, verdict = _check(config, options.ours, options.wait)
    scope = "ours" if options.ours else "all"
    if options.json:
        text = json.dumps(report.as_json(config, evidence, verdict, scope), indent=2)
    else:
        text = plain(report.as_text(config, evidence, verdict, shutil.get_terminal_size((110, 24)).columns))
    with _listened_to():
        print(text, flush=True)
    return verdict.exit_code


@contextlib.contextmanager
def _listened_to() -> Iterator[None]:
    """Print, and be content when the reader, such as head, has seen enough."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(what: str | None) -> int:
    from sbc_probe.flags import PAIRS, explain
    from sbc_probe.words import TITLES, WORDS, weight

    columns = shutil.get_terminal_size((100, 24)).columns
    if what is None:
        lines = [f"{flags:<28}  {pair.short}" for flags, pair in PAIRS.items()]
        lines += ["", *(f"{cause:<28}  {TITLES[cause]} ({weight(cause)})" for cause in TITLES)]
        lines += ["", *(f"{name:<28}  why a renewal fails" for name, words in WORDS.items() if not words.title)]
        text: str | None = "\n".join(lines)
    else:
        text = explain(what, columns)
    if text is None:
        near = get_close_matches(str(what).lower(), [*map(str.lower, PAIRS), *WORDS], 3)
        advice = f"; {', '.join(near)}?" if near else ""
        print(f"sbc-probe: {plain(str(what))} is no state and no cause{advice}", file=sys.stderr)
        return ExitCode.UNKNOWN
    with _listened_to():
        print(text, flush=True)
    return 0


def _resolve(name: str) -> int:
    found = lookup(name)
    print(
        "\n".join(found.addresses) or f"sbc-probe: {name}: {found.error}", file=None if found.addresses else sys.stderr
    )
    return ExitCode.PROVEN if found.addresses else ExitCode.FAILED


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


def _renewal(config: Config) -> int:
    from sbc_probe import renewal

    try:
        record = renewal.note(config, time.time())
    except OSError as error:
        print(f"sbc-probe: {config.renewal_record}: {error.strerror}", file=sys.stderr)
        return ExitCode.UNKNOWN
    if not record.failing:
        print("ok: nothing failed in certbot's last run")
        return ExitCode.PROVEN
    print(f"{record.cause}: {record.said}. {record.advice}")
    return ExitCode.FAILED


def _delegation(config: Config, base: str) -> int:
    from sbc_probe.delegation import check

    if wrong := check(base.lower(), config.address):
        print(f"sbc-probe: {wrong}", file=sys.stderr)
        return ExitCode.FAILED
    print(f"_acme-challenge.{base} is delegated to this machine")
    return ExitCode.PROVEN


def _retire(config: Config, within: float) -> int:
    from sbc_probe.retire import retire

    outcome = retire(config.rpc_socket, within)
    if outcome.why or outcome.left:
        why = outcome.why or f"not closed after {within:.0f} s"
        print(f"sbc-probe: {outcome.left} of {outcome.old} TLS connections: {why}", file=sys.stderr)
        return ExitCode.FAILED
    print(f"{outcome.old} TLS connections of before have ended")
    return ExitCode.PROVEN


def host_and_port(text: str) -> tuple[str, int]:
    """HOST or HOST:PORT on the command line. ValueError: neither."""
    host, _, port = text.lower().partition(":")
    if not host or not 0 < (number := int(port or SIP_TLS_PORT)) < 65536:
        raise ValueError
    return host, number


def _options(config: Config, given: argparse.Namespace) -> int:
    from sbc_probe import options

    host, port = given.host
    name = given.name or host
    question = options.Question(
        host=host,
        port=port,
        name=name,
        sender=given.sender or config.fqdn,
        sender_port=config.port,
        source=config.address,
        certificate=given.certificate or config.certificate,
        key=given.key or config.private_key,
        # Ours is issued by others than Microsoft's.
        roots=given.roots or (config.trusted_roots if name in (config.fqdn, *config.tenants) else config.proxy_roots),
        timeout=given.timeout,
        patience=config.answer_timeout,
        insecure=given.insecure,
    )
    steps: list[options.Step] = []

    def show(step: options.Step) -> None:
        steps.append(step)
        if not given.json:
            with _listened_to():
                print(plain(options.as_text(step)), flush=True)

    end = options.ask(question, show)
    if given.json:
        print(json.dumps(options.as_json(question, steps, end), indent=2))
    elif end.exit_code is ExitCode.UNKNOWN:
        print(f"sbc-probe: {end.meaning}", file=sys.stderr)
    else:
        word = end.cause or ("ok" if end.exit_code is ExitCode.PROVEN else "failed")
        print(f"\n{word}: {plain(end.meaning)}")
        if end.cause:
            print(f"What to do: sbc-probe explain {end.cause}")
    return end.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sbc-probe", description="Is this SBC AP at every Microsoft proxy, and if not, why?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="judge once and say why", epilog=EXIT_CODES)
    check.add_argument("--json", action="store_true", help=f"print the report as JSON, schema version {report.SCHEMA}")
    check.add_argument(
        "--ours",
        action="store_true",
        help="judge only what a new configuration can break: Kamailio, its port, the certificate it serves, its "
        "answer to OPTIONS, the destinations it has loaded",
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
    explain = commands.add_parser(
        "explain",
        help="the words for a state of the dispatcher, such as IP, or for a cause, such as proxy_tls",
        epilog="exit code: 0, or 2 for a word that is neither",
    )
    explain.add_argument("what", nargs="?", metavar="WORD", help="without it all of them are listed")
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
        "--name", type=str.lower, help="ask for this name in TLS (SNI), and find it in the certificate; default: HOST"
    )
    options.add_argument(
        "--from", dest="sender", metavar="FQDN", help="be this one, in From and Contact; default: the SBC's"
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
    for command in (check, watch, serve, delegation, renewal, retire, options):
        command.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    return parser


def _check(config: Config, ours: bool, wait: float | None) -> tuple[Evidence, Verdict]:
    """Look once, or again and again. `wait`: None, a number of seconds, or NaN for as long as it makes sense."""
    since = time.time()
    while True:
        evidence = collect(config)
        verdict = (judge_swap if ours else judge)(config, evidence)
        if wait is None or verdict.state is State.PROVEN:
            return evidence, verdict
        now = time.time()
        left = verdict.worth_waiting(since, now) if wait != wait else since + wait - now
        if left <= 0:
            return evidence, verdict
        # Often at first, when a restart is only moments ago, then every two seconds.
        time.sleep(min(left, 2.0, 0.2 + (now - since) / 10))
