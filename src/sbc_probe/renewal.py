"""What certbot's last run came to: its log, its service's result and the free disk space become one small record.

`sbc-probe renewal` is run as root after every run of certbot. The record lies in memory (/run), so that a full disk
does not hide itself, and holds nothing secret: the service reads it as an ordinary user.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from sbc_probe.config import Config
from sbc_probe.findings import date
from sbc_probe.model import Renewal, Unread

LETSENCRYPT = Path("/etc/letsencrypt")
LOG = Path("/var/log/letsencrypt/letsencrypt.log")
# Where certbot and its hooks write, besides the directory of the certificate itself.
WRITTEN = (LETSENCRYPT, LOG.parent, Path("/var/lib/letsencrypt"))
# One renewal writes less than this (bytes, files).
ROOM = 1 << 20, 16
# certbot's log grows for a week; a run is some 30 kB of it.
LOG_TAIL = 1 << 21
# The last line of a run that has just ended is at most this old (s).
FRESH = 900.0
WORDS_LIMIT = 300
NEXT_TRY = "certbot.timer tries again by itself, twice a day; `systemctl start certbot` tries now."


class Cause(StrEnum):
    """Why a certificate was not renewed."""

    DISK_FULL = "disk_full"
    HOOK_FAILED = "hook_failed"
    DIRECTORY_DOWN = "directory_down"
    DIRECTORY_UNTRUSTED = "directory_untrusted"
    RATE_LIMITED = "rate_limited"
    CHALLENGE_FAILED = "challenge_failed"
    PORT_IN_USE = "port_in_use"
    REFUSED = "refused"
    ACCOUNT = "account"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: `said` are certbot's words in one line, `advice` what to do."""

    cause: Cause
    said: str
    advice: str


ADVICE = {
    Cause.DISK_FULL: "The disk is full: `df -h`; `df -i`; `journalctl --vacuum-size=100M`.",
    Cause.HOOK_FAILED: "A hook of certbot's failed: `journalctl -u certbot -n 50` has its words.",
    Cause.DIRECTORY_DOWN: "The ACME directory does not answer as it should: look at certificate_directory, or wait.",
    Cause.DIRECTORY_UNTRUSTED: "The directory's own certificate is not trusted here: see base_trusted_roots.",
    Cause.RATE_LIMITED: "The authority's rate limit is reached: wait; try changes with certificate_directory: staging.",
    Cause.CHALLENGE_FAILED: f"The authority could not see that the name is ours: {LOG}.",
    Cause.PORT_IN_USE: "Something else listens where certbot answers: `ss -lntup '( sport = :80 or sport = :53 )'`.",
    Cause.REFUSED: "The authority must not issue for this name: look at its CAA records, and at the spelling.",
    Cause.ACCOUNT: "The ACME account is not usable: run site.yml, which registers one.",
    Cause.INTERRUPTED: "certbot was ended before it was done: `journalctl -u certbot -n 50`.",
    Cause.UNKNOWN: f"certbot's own account is in {LOG} on the droplet.",
}
_PORT_80 = "Port 80 is closed from outside, or the A record leads elsewhere: look at the firewalls and the record."
_PORT_80_OTHER = "Something else answers on port 80 of the name: look at its A record and at what listens there."
_NO_RECORD = "The name has no address: look at its A record."
_DELEGATION = (
    "The DNS delegation does not lead here: _acme-challenge of the name needs an NS record that names this droplet, "
    "and port 53 (UDP, TCP) must be open from outside."
)
_SENTENCES = frozenset({*ADVICE.values(), _PORT_80, _PORT_80_OTHER, _NO_RECORD, _DELEGATION})
# What the authority says of a challenge, by the type of its problem and its words.
_CHALLENGES = (
    (r"\bcaa\b", Cause.REFUSED, ADVICE[Cause.REFUSED]),
    (r"rateLimited", Cause.RATE_LIMITED, ADVICE[Cause.RATE_LIMITED]),
    (r"\bTXT\b|_acme-challenge", Cause.CHALLENGE_FAILED, _DELEGATION),
    (r"NXDOMAIN|no valid A records|DNS problem|could not resolve|no such host", Cause.CHALLENGE_FAILED, _NO_RECORD),
    (r"Invalid response|The key authorization file", Cause.CHALLENGE_FAILED, _PORT_80_OTHER),
    (r"well-known|connection|connect\b|Timeout", Cause.CHALLENGE_FAILED, _PORT_80),
)
# What certbot itself says, the commonest first.
_WORDS = (
    (r"No space left on device|Disk quota exceeded", Cause.DISK_FULL),
    (r"rateLimited|too many (certificates|failed|new|requests)|Service busy", Cause.RATE_LIMITED),
    (r"certificate verify failed|CERTIFICATE_VERIFY_FAILED", Cause.DIRECTORY_UNTRUSTED),
    (r"Could not bind|Problem binding|Error starting DNS server|Address already in use", Cause.PORT_IN_USE),
    (r"rejectedIdentifier|forbidden by policy|error:caa\b", Cause.REFUSED),
    (r"Account at .* does not exist|accountDoesNotExist|account.*(deactivated|revoked|not valid)", Cause.ACCOUNT),
    (
        r"HTTPS?ConnectionPool|^Requesting \S+: |Connection aborted|anti-replay nonce|badNonce|Failed to resolve|"
        r"Name or service not known|serverInternal|JSONDecodeError|<Response \[5\d\d\]>|Unexpected response|timed out",
        Cause.DIRECTORY_DOWN,
    ),
)
_STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
_RUN = re.compile(rf"^(?={_STAMP}:DEBUG:certbot\._internal\.main:certbot version:)", re.MULTILINE)
_ERROR = re.compile(rf"^{_STAMP}:ERROR:[\w.]+:(.*)$", re.MULTILINE)
_ACME_ERROR = re.compile(r"^acme\.messages\.Error: (.*)$", re.MULTILINE)
_PROBLEM = re.compile(r"^ +Domain: (\S+)\n +Type: +(\S+)\n +Detail: (.*)$", re.MULTILINE)
_HOOK = re.compile(r"Hook '([\w-]+)' reported error code (\d+)(?:\n.*Hook '\1' ran with error output:\n ?(.*))?")
# Lines of ERROR that say only that something else did.
_EMPTY_WORDS = re.compile(
    r"An unexpected error occurred:$|Some challenges have failed\.$|All (simulated )?renewals failed\.|"
    r"The following (simulated )?renewals failed|\s*/\S+ \((failure|parsefail)\)|\d+ renew failure"
)
_PREFIX = re.compile(r"^Failed to renew certificate \S+ with error: ")


def last_run(log: str) -> str | None:
    """The part of certbot's log that its last attempt wrote; what only looks or rehearses is no attempt."""
    for run in reversed(_RUN.split(log)):
        attempt = "Plugins selected:" in run or "Notifying user: Processing " in run or _ERROR.search(run)
        if attempt and "'--dry-run'" not in run and _RUN.match(run):
            return run
    return None


def ended_at(run: str) -> float:
    """When a run wrote its last line (certbot writes local time)."""
    stamps = re.findall(rf"^{_STAMP}", run, re.MULTILINE)
    return time.mktime(time.strptime(stamps[-1][:19], "%Y-%m-%d %H:%M:%S"))


def failure_in(run: str) -> Failure | None:
    """Why a run failed, in its own words; None if it complains of nothing."""
    errors = _ERROR.findall(run)
    if not errors:
        return None
    if hook := next((found for found in _HOOK.finditer(run) if found[1] == "pre-hook"), None):
        return _hook_failure(hook)
    if problem := _PROBLEM.search(run):
        name, kind, detail = problem.groups()
        said = _one_line(f"{name}: {detail}")
        for pattern, cause, advice in _CHALLENGES:
            if re.search(pattern, f"{kind} {detail}", re.IGNORECASE):
                return Failure(cause, said, advice)
        return Failure(Cause.CHALLENGE_FAILED, said, ADVICE[Cause.CHALLENGE_FAILED])
    words = [_PREFIX.sub("", line) for line in errors if not _EMPTY_WORDS.match(line)] or errors
    said = _one_line(words[0])
    context = " ".join((said, *_ACME_ERROR.findall(run)))
    cause = next((cause for pattern, cause in _WORDS if re.search(pattern, context, re.IGNORECASE)), Cause.UNKNOWN)
    return Failure(cause, said, ADVICE[cause])


def _hook_failure(hook: re.Match[str]) -> Failure:
    said = _one_line(f"{hook[1]} exited {hook[2]}: {hook[3] or 'no words'}")
    return Failure(Cause.HOOK_FAILED, said, ADVICE[Cause.HOOK_FAILED])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WORDS_LIMIT else f"{line[: WORDS_LIMIT - 1]}…"


def judge(run: str | None, service: Mapping[str, str], not_installed: str | None, full: str | None) -> Failure | None:
    """What the last run came to; None: nothing is wrong.

    `run` is its part of the log, if it could write any; `service` what systemd says of it, if it ran it;
    `not_installed` says what of certbot's certificate is not where Kamailio reads it, `full` which file system has no
    room left.
    """
    result = service.get("SERVICE_RESULT", "success")
    failure = failure_in(run) if run else None
    if failure is None and result != "success":
        ended = f"systemd says {result}, {service.get('EXIT_CODE', '')} {service.get('EXIT_STATUS', '')}".rstrip(", ")
        cause = Cause.UNKNOWN if result == "exit-code" else Cause.INTERRUPTED
        failure = Failure(cause, ended, ADVICE[cause])
    if failure is None and not_installed:
        hook = next((found for found in _HOOK.finditer(run or "") if "deploy" in found[1]), None)
        failure = _hook_failure(hook) if hook else Failure(Cause.HOOK_FAILED, not_installed, ADVICE[Cause.HOOK_FAILED])
    if full and (failure or run is None):
        said = f"{full}; {failure.said}" if failure else full
        return Failure(Cause.DISK_FULL, _one_line(said), ADVICE[Cause.DISK_FULL])
    return failure


def advice(record: Renewal) -> str:
    """What to do about a failure: one of the sentences known here, whatever the file says."""
    if record.advice in _SENTENCES:
        return record.advice
    return ADVICE[Cause(record.cause) if record.cause in set(Cause) else Cause.UNKNOWN]


def advanced(before: Renewal | None, failure: Failure | None, now: float) -> Renewal:
    """The record after one more run."""
    if failure is None:
        return Renewal(now)
    failed_before = before is not None and before.failing
    since = before.since if before and failed_before and before.since else now
    attempts = (before.attempts if before and failed_before else 0) + 1
    return Renewal(now, True, since, attempts, failure.cause, failure.said, failure.advice)


def read(path: str) -> Renewal | Unread | None:
    """The record; None where there is none."""
    try:
        record = Renewal(**json.loads(Path(path).read_text()))
        date(record.at)
        date(record.since or 0)
        return replace(record, attempts=int(record.attempts))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    except (ValueError, TypeError, OverflowError) as error:
        return Unread(f"{path}: {error}")


def write(path: str, record: Renewal) -> None:
    """Replace the record as a whole; every user may read it."""
    # Here, since the service only reads.
    import tempfile

    directory = Path(path).parent
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    handle, unfinished = tempfile.mkstemp(dir=directory)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(record), file)
            os.fchmod(handle, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def note(config: Config, now: float) -> Renewal:
    """Look at what certbot's last run left behind, and bring the record up to date."""
    target = Path(config.certificate)
    failure = judge(
        _fresh_run(LOG, now),
        os.environ,
        _not_installed(LETSENCRYPT / "live" / config.fqdn / "fullchain.pem", target),
        without_room((*WRITTEN, target.parent)),
    )
    before = read(config.renewal_record)
    record = advanced(before if isinstance(before, Renewal) else None, failure, now)
    write(config.renewal_record, record)
    return record


def _fresh_run(log: Path, now: float) -> str | None:
    """The log of the run that has just ended; None if it could write nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            run = last_run(file.read().decode(errors="replace"))
    except OSError:
        return None
    return run if run and now - ended_at(run) <= FRESH else None


def _not_installed(lineage: Path, target: Path) -> str | None:
    """What the deploy hook has not done; None: what certbot holds is what Kamailio reads."""
    with suppress(OSError):
        held = lineage.read_bytes()
        if target.with_name(f"{target.name}.due").exists():
            return f"{target} was written, and Kamailio has not taken it over"
        if not target.exists() or target.read_bytes() != held:
            return f"{target} is not what certbot holds"
    return None


def without_room(paths: Iterable[Path]) -> str | None:
    """The first of these places where root cannot write what a renewal writes."""
    room, files = ROOM
    for path in paths:
        with suppress(OSError):
            found = os.statvfs(path)
            if found.f_bfree * found.f_frsize < room:
                return f"{path} has {found.f_bfree * found.f_frsize >> 10} KiB left"
            if found.f_files and found.f_ffree < files:
                return f"{path} has room for {found.f_ffree} more files"
    return None
