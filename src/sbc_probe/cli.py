"""The command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from sbc_probe import report
from sbc_probe.arguments import parser
from sbc_probe.config import Config, ConfigError
from sbc_probe.evidence import collect
from sbc_probe.findings import ExitCode, State
from sbc_probe.model import Evidence
from sbc_probe.resolver import lookup
from sbc_probe.terminal import plain
from sbc_probe.verdict import Verdict, judge, judge_outbound, judge_swap

Judge: TypeAlias = Callable[[Config, Evidence], Verdict]
JUDGES: dict[str, Judge] = {"all": judge, "ours": judge_swap, "outbound": judge_outbound}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the verdict, 2 when the configuration cannot be used."""
    options = parser().parse_args(arguments)
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
    scope = "ours" if options.ours else "outbound" if options.outbound else "all"
    evidence, verdict = _check(config, JUDGES[scope], options.wait)
    if options.json:
        text = json.dumps(report.as_json(config, evidence, verdict, scope), indent=2)
    else:
        text = plain(report.as_text(config, evidence, verdict, _columns(110)))
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


def _columns(otherwise: int) -> int:
    # Here, since the service has no use for it and is to be light.
    import shutil

    return shutil.get_terminal_size((otherwise, 24)).columns


def _explain(what: str | None) -> int:
    from sbc_probe.flags import PAIRS, explain
    from sbc_probe.words import TITLES, WORDS, weight

    columns = _columns(100)
    if what is None:
        lines = [f"{flags:<28}  {pair.short}" for flags, pair in PAIRS.items()]
        lines += ["", *(f"{cause:<28}  {TITLES[cause]} ({weight(cause)})" for cause in TITLES)]
        lines += ["", *(f"{name:<28}  why a renewal fails" for name, words in WORDS.items() if not words.title)]
        text: str | None = "\n".join(lines)
    else:
        text = explain(what, columns)
    if text is None:
        # Here, since the service has no use for it.
        from difflib import get_close_matches

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


def _check(config: Config, judge: Judge, wait: float | None) -> tuple[Evidence, Verdict]:
    """Look once, or again and again. `wait`: None, a number of seconds, or NaN for as long as it makes sense."""
    since = time.time()
    while True:
        evidence = collect(config)
        verdict = judge(config, evidence)
        if wait is None or verdict.state is State.PROVEN:
            return evidence, verdict
        now = time.time()
        left = verdict.worth_waiting(since, now) if wait != wait else since + wait - now
        if left <= 0:
            return evidence, verdict
        # Often at first, when a restart is only moments ago, then every two seconds.
        time.sleep(min(left, 2.0, 0.2 + (now - since) / 10))
