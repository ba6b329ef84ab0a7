"""What certbot 4.0 wrote when it failed for real (certbot/*.log, shortened), and what becomes of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sbc_probe import cli, renewal
from sbc_probe.config import Config
from sbc_probe.model import Renewal, Unread
from sbc_probe.renewal import Cause, Failure, advanced, failure_in, judge, last_run

LOGS = Path(__file__).with_name("certbot")
NOW = 1_800_000_000.0
FAILED = {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}
PORT_80, DELEGATION, RECORD = "Port 80 is closed", "The DNS delegation does not lead here", "no address"


def log(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


@pytest.mark.parametrize(
    ("name", "cause", "said", "advice"),
    [
        ("directory_down", Cause.DIRECTORY_DOWN, "Connection refused", "certificate_directory"),
        ("directory_unknown", Cause.DIRECTORY_DOWN, "Name or service not known", "certificate_directory"),
        ("directory_503", Cause.DIRECTORY_DOWN, "<Response [503]>", "certificate_directory"),
        ("directory_of_another_kind", Cause.DIRECTORY_DOWN, "Content-Type: text/html", "certificate_directory"),
        ("directory_untrusted", Cause.DIRECTORY_UNTRUSTED, "CERTIFICATE_VERIFY_FAILED", "base_trusted_roots"),
        ("authority_busy", Cause.RATE_LIMITED, "Service busy; retry later", "wait"),
        ("port_80_closed", Cause.CHALLENGE_FAILED, "connect: connection refused", PORT_80),
        ("no_address", Cause.CHALLENGE_FAILED, "could not resolve URL", RECORD),
        ("no_delegation", Cause.CHALLENGE_FAILED, "No TXT records found", DELEGATION),
        ("port_80_in_use", Cause.PORT_IN_USE, "Could not bind TCP port 80", "ss -lntup"),
        ("forbidden", Cause.REFUSED, "issuance is forbidden by policy", "CAA"),
        ("account_missing", Cause.ACCOUNT, "does not exist", "site.yml"),
        ("disk_full", Cause.DISK_FULL, "No space left on device", "df -h"),
    ],
)
def test_the_words_of_a_failure_give_its_cause(name: str, cause: Cause, said: str, advice: str) -> None:
    run = last_run(log(name))
    assert run
    found = failure_in(run)
    assert found
    assert found.cause is cause
    assert said in found.said
    assert "\n" not in found.said
    assert advice in found.advice


LIMIT = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after"
PROBLEM = """2026-11-23 10:41:22,370:DEBUG:certbot._internal.main:certbot version: 4.0.0
Certbot failed to authenticate some domains. The Certificate Authority reported these problems:
  Domain: sbc1.example.com
  Type:   {0}
  Detail: {1}

2026-11-23 10:41:23,985:ERROR:certbot._internal.log:Some challenges have failed.
"""
FETCHING = "203.0.113.10: Fetching http://sbc1.example.com/.well-known/acme-challenge/x: "


@pytest.mark.parametrize(
    ("kind", "detail", "cause", "advice"),
    [
        ("connection", f"{FETCHING}Timeout during connect (likely firewall problem)", Cause.CHALLENGE_FAILED, PORT_80),
        ("connection", f"During secondary validation: {FETCHING}Connection refused", Cause.CHALLENGE_FAILED, PORT_80),
        (
            "unauthorized",
            "203.0.113.10: Invalid response from http://sbc1.example.com/.well-known/acme-challenge/x: 404",
            Cause.CHALLENGE_FAILED,
            "Something else answers on port 80",
        ),
        (
            "dns",
            "DNS problem: NXDOMAIN looking up A for sbc1.example.com - check that a DNS record exists for this domain",
            Cause.CHALLENGE_FAILED,
            RECORD,
        ),
        ("dns", "no valid A records found for sbc1.example.com", Cause.CHALLENGE_FAILED, RECORD),
        (
            "dns",
            "DNS problem: SERVFAIL looking up TXT for _acme-challenge.sbc1.example.com - the domain's nameservers may "
            "be malfunctioning",
            Cause.CHALLENGE_FAILED,
            DELEGATION,
        ),
        (
            "unauthorized",
            'Incorrect TXT record "x" found at _acme-challenge.sbc1.example.com',
            Cause.CHALLENGE_FAILED,
            DELEGATION,
        ),
        ("caa", "CAA record for sbc1.example.com prevents issuance", Cause.REFUSED, "CAA"),
        ("strange", "never heard of", Cause.CHALLENGE_FAILED, "letsencrypt.log"),
    ],
)
def test_what_the_authority_says_of_a_challenge(kind: str, detail: str, cause: Cause, advice: str) -> None:
    found = failure_in(PROBLEM.format(kind, detail))
    assert found
    assert found.cause is cause
    assert found.said == f"sbc1.example.com: {detail}"
    assert advice in found.advice


@pytest.mark.parametrize("prefix", ["", "There were too many requests of a given type :: "])
def test_a_rate_limit_says_until_when(prefix: str) -> None:
    stamp = "2026-11-23 10:41:23,985:ERROR:certbot._internal"
    renewing = f"{stamp}.renewal:Failed to renew certificate sbc1.example.com with error: "
    words = f"urn:ietf:params:acme:error:rateLimited :: {prefix}{LIMIT} 2026-11-24 16:53:54 UTC: see https://..."
    found = failure_in(f"{renewing}{words}\n")
    assert found
    assert found.cause is Cause.RATE_LIMITED
    assert "retry after 2026-11-24 16:53:54 UTC" in found.said
    first = failure_in(f"{stamp}.log:An unexpected error occurred:\n{stamp}.log:{LIMIT} 2026-11-24 16:53:54 UTC\n")
    assert first
    assert first.cause is Cause.RATE_LIMITED


def test_words_that_nobody_knows_are_given_in_one_line() -> None:
    found = failure_in(f"2026-11-23 10:41:23,985:ERROR:certbot._internal.log:{'strange words ' * 99}\n")
    assert found
    assert found.cause is Cause.UNKNOWN
    assert len(found.said) == renewal.WORDS_LIMIT


class TestLastRun:
    def test_the_last_attempt_of_several_counts(self) -> None:
        run = last_run(log("directory_down") + log("not_due"))
        assert run
        assert failure_in(run) is None
        run = last_run(log("not_due") + log("directory_down"))
        assert run
        assert failure_in(run)

    def test_who_looks_or_rehearses_makes_no_attempt(self) -> None:
        assert last_run(log("looked_and_rehearsed")) is None
        run = last_run(log("port_80_closed") + log("looked_and_rehearsed"))
        assert run
        assert "Arguments: ['--non-interactive'" in run

    def test_an_empty_log_has_none(self) -> None:
        assert last_run("") is None
        assert last_run("junk\n") is None


class TestJudge:
    def test_no_certificate_due_is_no_failure(self) -> None:
        assert judge(last_run(log("not_due")), {"SERVICE_RESULT": "success"}, None, None) is None

    def test_a_run_that_was_killed(self) -> None:
        found = judge(last_run(log("killed")), {"SERVICE_RESULT": "timeout", "EXIT_CODE": "killed"}, None, None)
        assert found
        assert found.cause is Cause.INTERRUPTED
        assert "timeout" in found.said

    def test_a_run_that_failed_without_a_word(self) -> None:
        for run in (None, last_run(log("not_due"))):
            found = judge(run, FAILED, None, None)
            assert found
            assert found.cause is Cause.UNKNOWN

    def test_a_full_disk_keeps_certbot_from_saying_so(self) -> None:
        for service in (FAILED, {}):
            found = judge(None, service, None, "/var/log has 0 KiB left")
            assert found
            assert found.cause is Cause.DISK_FULL
            assert found.said.startswith("/var/log has 0 KiB left")
        assert judge(last_run(log("not_due")), {}, None, "/var/log has 90 KiB left") is None

    def test_a_hook_that_failed_though_certbot_calls_it_a_success(self) -> None:
        run, missing = last_run(log("hook_failed")), "fullchain.pem is not what certbot holds"
        found = judge(run, {"SERVICE_RESULT": "success"}, missing, None)
        assert found == Failure(
            Cause.HOOK_FAILED,
            "deploy-hook exited 3: install: cannot write: No such thing",
            renewal.ADVICE[Cause.HOOK_FAILED],
        )
        assert judge(run, {"SERVICE_RESULT": "success"}, None, None) is None, "it was made up for"
        silent = judge(last_run(log("not_due")), {}, missing, None)
        assert silent
        assert (silent.cause, silent.said) == (Cause.HOOK_FAILED, missing)

    def test_a_hook_that_could_not_open_the_port(self) -> None:
        words = "2026-11-23 10:41:22,480:WARNING:certbot.display.ops:Hook 'pre-hook' reported error code 1\n"
        found = judge(log("port_80_closed").replace("Certbot failed", f"{words}Certbot failed"), FAILED, None, None)
        assert found
        assert (found.cause, found.said) == (Cause.HOOK_FAILED, "pre-hook exited 1: no words")


def test_failures_in_a_row_are_counted_and_a_success_clears_them() -> None:
    first = advanced(None, Failure(Cause.DIRECTORY_DOWN, "down", "wait"), NOW)
    assert first == Renewal(NOW, True, NOW, 1, "directory_down", "down", "wait")
    second = advanced(first, Failure(Cause.RATE_LIMITED, "slow", "wait"), NOW + 9)
    assert (second.since, second.attempts, second.cause, second.at) == (NOW, 2, "rate_limited", NOW + 9)
    assert advanced(second, None, NOW + 10) == Renewal(NOW + 10)
    again = advanced(advanced(second, None, NOW + 10), Failure(Cause.UNKNOWN, "", ""), NOW + 11)
    assert (again.since, again.attempts) == (NOW + 11, 1)


def test_a_record_is_read_as_it_was_written_by_anybody(tmp_path: Path) -> None:
    file = tmp_path / "sbc-certificate" / "renewal.json"
    assert renewal.read(str(file)) is None
    record = Renewal(NOW, True, NOW - 5, 2, "unknown", "words", "advice")
    before = os.umask(0o077)
    try:
        renewal.write(str(file), record)
    finally:
        os.umask(before)
    assert renewal.read(str(file)) == record
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    assert [path.name for path in file.parent.iterdir()] == ["renewal.json"]
    for junk in (
        "{",
        '{"at": 1, "colour": "red"}',
        "[]",
        '{"at": "now"}',
        '{"at": 1e99}',
        '{"at": 1, "attempts": "x"}',
    ):
        file.write_text(junk)
        assert isinstance(renewal.read(str(file)), Unread)


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    assert renewal.without_room([tmp_path, tmp_path / "nothing"]) is None
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    for options, words in (("size=512k", "KiB left"), ("size=4m,nr_inodes=9", "more files")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], check=True)
        try:
            assert words in str(renewal.without_room([Path("/"), tmp_path]))
        finally:
            subprocess.run(["umount", tmp_path], check=True)


class TestCommand:
    @pytest.fixture(autouse=True)
    def machine(self, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine's certbot in a directory."""
        lineage = tmp_path / "letsencrypt" / "live" / settings["fqdn"]
        lineage.mkdir(parents=True)
        installed = tmp_path / "tls" / "fullchain.pem"
        installed.parent.mkdir()
        installed.write_text("chain")
        (lineage / "fullchain.pem").write_text("chain")
        monkeypatch.setattr(renewal, "LETSENCRYPT", tmp_path / "letsencrypt")
        monkeypatch.setattr(renewal, "LOG", tmp_path / "letsencrypt.log")
        for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "probe.json").write_text(json.dumps({**settings, "certificate": str(installed)}))
        return tmp_path

    def ran(self, machine: Path, name: str, ago: float = 0) -> None:
        """Let certbot have written this log so many seconds ago."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - ago))
        lines = log(name).splitlines(keepends=True)
        text = "".join(f"{stamp}{line[19:]}" if line.startswith("2026-11-23") else line for line in lines)
        with (machine / "letsencrypt.log").open("a") as file:
            file.write(text)

    def run(self, machine: Path) -> tuple[int, Renewal]:
        code = cli.main(["renewal", "--config", str(machine / "probe.json")])
        record = renewal.read(Config.load(machine / "probe.json").renewal_record)
        assert isinstance(record, Renewal)
        return code, record

    def test_failure_and_success(self, machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.ran(machine, "port_80_closed")
        code, record = self.run(machine)
        assert (code, record.failing, record.cause, record.attempts) == (1, True, "challenge_failed", 1)
        said = capsys.readouterr().out
        assert said.startswith("challenge_failed: sbc1.example.com: Get ")
        assert said.count("\n") == 1
        assert "Port 80 is closed from outside" in said
        self.ran(machine, "not_due")
        code, record = self.run(machine)
        assert (code, record.failing) == (0, False)
        assert capsys.readouterr().out == "ok: nothing failed in certbot's last run\n"

    def test_a_log_of_long_ago_says_nothing_of_now(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.ran(machine, "port_80_closed", ago=3600)
        assert self.run(machine)[0] == 0
        monkeypatch.setenv("SERVICE_RESULT", "exit-code")
        assert self.run(machine)[1].cause == "unknown"

    def test_a_certificate_that_was_not_installed(self, machine: Path) -> None:
        self.ran(machine, "not_due")
        installed = machine / "tls" / "fullchain.pem"
        due = installed.with_name("fullchain.pem.due")
        due.touch()
        code, record = self.run(machine)
        assert (code, record.cause) == (1, "hook_failed")
        due.unlink()
        assert self.run(machine)[0] == 0
        installed.write_text("old chain")
        assert self.run(machine)[1].cause == "hook_failed"

    def test_a_record_that_cannot_be_written(self, machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
        settings = json.loads((machine / "probe.json").read_text())
        (machine / "probe.json").write_text(json.dumps({**settings, "renewal_record": "/proc/nothing/renewal.json"}))
        assert cli.main(["renewal", "--config", str(machine / "probe.json")]) == 2
        assert "/proc/nothing/renewal.json" in capsys.readouterr().err
