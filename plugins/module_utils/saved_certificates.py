"""The controller's copies of certificates: encrypted, and with a record of what was asked for when.

For action plugins; no module imports it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.certbot_lineage import Entries, describe, digest, directory_of, leaf, pack, unpack
from ansible.parsing.vault import VaultLib, VaultSecret, get_file_vault_secret

VAULT, RECORD = "certificate.vault", "certificate.json"
DAY = 86400.0
# Authorities date a certificate back by up to an hour, and a challenge may take some minutes.
BACKDATED, LASTED = 2 * 3600.0, 600.0
REMEMBERED = 30 * DAY
VARIABLE = "certificate_vault_password_file"


PASSWORD_MADE = (
    "{file} was made. It has the password of the saved certificates: keep a copy of it, and not beside them, since"
    " without it they are lost"
)


class SavedError(Exception):
    """A copy cannot be used or made; the text names the files and what to do."""


@dataclass(frozen=True)
class Asked:
    """A certificate that was asked for, at (seconds), of an ACME directory."""

    at: float
    names: tuple[str, ...]
    directory: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Asked:
        return cls(seconds(given["at"]), tuple(sorted(given["names"])), str(given["directory"]))

    def as_json(self) -> dict[str, Any]:
        return {"at": date(self.at), "names": list(self.names), "directory": self.directory}


def date(at: float) -> str:
    """A time as the record has it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """The time that `date` wrote. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()


def age(since: float, now: float) -> str:
    """How long ago, for people."""
    passed = max(0.0, now - since)
    for unit, size in (("day", DAY), ("hour", 3600.0), ("minute", 60.0)):
        if passed >= size:
            count = int(passed / size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def fold(asked: Iterable[Asked], seen: Iterable[Mapping[str, Any]], directory: str) -> list[Asked]:
    """The record with the certificates that the droplet's own timer got: those that nobody here asked for."""
    known = list(asked)
    free = list(known)
    for each in sorted(seen, key=lambda item: item["not_before"]):
        names, begin = tuple(sorted(each["names"])), float(each["not_before"])
        match = next((a for a in free if a.names == names and begin - LASTED <= a.at <= begin + BACKDATED), None)
        if match:
            free.remove(match)
        else:
            known.append(Asked(begin, names, directory))
    return sorted(known, key=lambda item: item.at)


def ask_droplet(
    action: Any, task_vars: dict[str, Any], name: str, *, content: bool = False, restore: Entries | None = None
) -> dict[str, Any]:
    """Run the module certbot_copy for an action plugin. What is secret on its way is kept out of every output.

    Raises AnsibleActionFail, or AnsibleConnectionFailure if the machine cannot be reached.
    """
    arguments: dict[str, Any] = {"name": name, "content": content}
    if restore:
        arguments["restore"] = base64.b64encode(pack(restore)).decode()
    if content or restore:
        return unseen(action, task_vars, "certbot_copy", arguments)
    return _without_raw(action._execute_module(module_name="certbot_copy", module_args=arguments, task_vars=task_vars))


def unseen(action: Any, task_vars: dict[str, Any], module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a module whose arguments or result are secret. Raises AnsibleActionFail, or AnsibleConnectionFailure."""
    task, context = action._task, action._connection._play_context
    before = task.no_log, context.no_log
    # The first keeps the machine's log silent. From -vvv on, the connection plugin prints all that comes over SSH,
    # unless the second is set, which hides its errors too: hence both for as long as it takes, not for the whole task.
    task.no_log = context.no_log = True
    try:
        result = action._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
    except AnsibleConnectionFailure:
        raise AnsibleConnectionFailure("The connection broke while a certificate was copied; run it again") from None
    finally:
        task.no_log, context.no_log = before
    return _without_raw(result)


def _without_raw(result: dict[str, Any]) -> dict[str, Any]:
    """Never the machine's whole answer: what could not be read as a result may hold the key."""
    if result.get("failed"):
        said = str(result.get("module_stderr") or "").strip().splitlines()[-1:]
        raise AnsibleActionFail(": ".join([str(result.get("msg") or "it failed without a word"), *said]))
    return {key: value for key, value in result.items() if key != "invocation"}


def fetch(action: Any, task_vars: dict[str, Any], saved: Saved, name: str) -> bool:
    """Save what the droplet has. Returns whether it has this certificate. Raises as ask_droplet, and SavedError."""
    answer = ask_droplet(action, task_vars, name, content=True)
    if not answer["content"]:
        return False
    try:
        entries = unpack(base64.b64decode(answer["content"], validate=True), name)
    except ValueError as error:
        raise SavedError(f"what the droplet sent as the certificate {name} cannot be used: {error}") from None
    saved.save(name, entries, answer["issued"], time.time())
    return True


class Saved:
    """One customer's copy and record, below the state directory that all customers of an inventory share."""

    def __init__(self, state_dir: str, host: str, password_file: str, loader: Any) -> None:
        self.state = Path(state_dir).expanduser()
        self.vault, self.record = self.state / host / VAULT, self.state / host / RECORD
        self.password_file = Path(password_file).expanduser()
        self._loader = loader

    def known(self) -> dict[str, Any]:
        """The record; empty if there is none. Raises SavedError if it cannot be read."""
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
            [Asked.parse(each) for each in found.get("issued", [])]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{self.record}: cannot be read ({error})"
            raise SavedError(f"{problem}; take it from a copy of the state, or delete it") from None
        return dict(found)

    def asked(self) -> list[Asked]:
        """What was asked for in the last 30 days, oldest first."""
        return [Asked.parse(each) for each in self.known().get("issued", [])]

    def seen(self) -> float:
        """When the droplet last had what the copy has. Raises SavedError."""
        known = self.known()
        return seconds(known["seen_at"]) if "seen_at" in known else self.vault.stat().st_mtime

    def matches(self, found: str) -> bool:
        """Whether the copy is of the files with this digest."""
        return bool(found) and self.vault.exists() and self.known().get("digest") == found

    def secret(self) -> tuple[VaultSecret, bool]:
        """The password of the copies, and whether it was made just now. Raises SavedError."""
        made = False
        if not self.password_file.exists():
            copies = sorted(self.state.glob(f"*/{VAULT}"))
            if copies:
                raise SavedError(
                    f"{copies[0]} is encrypted, and {self.password_file}, which has the password, is missing: bring it"
                    f" from where you keep a copy of it, or name another file in {VARIABLE}. If it is lost, delete"
                    f" {self.state}/*/{VAULT}: what is still on a droplet is saved again, the rest is asked for again"
                )
            made = self._make_password()
        try:
            secret = get_file_vault_secret(filename=str(self.password_file), loader=self._loader)
            secret.load()
        except AnsibleError as error:
            raise SavedError(f"{self.password_file} ({VARIABLE}) gives no password: {error}") from None
        return secret, made

    def load(self, name: str) -> Entries:
        """The copy's files, which may be of an earlier name than this; empty if there is none. Raises SavedError."""
        try:
            encrypted = self.vault.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SavedError(f"{self.vault}: {error.strerror}") from None
        try:
            return unpack(self._decrypt(encrypted, self.secret()[0]), str(self.known().get("name", name)))
        except ValueError as error:
            raise SavedError(f"{self.vault}: {error}; delete it if it cannot be brought back") from None

    def ready(self) -> bool:
        """Make sure that a copy could be made. Returns whether the password was made for it. Raises SavedError."""
        secret, made = self.secret()
        other = self.vault if self.vault.exists() else next(iter(sorted(self.state.glob(f"*/{VAULT}"))), None)
        if other:
            try:
                self._decrypt(other.read_bytes(), secret, other)
            except OSError as error:
                raise SavedError(f"{other}: {error.strerror}") from None
        return made

    def ask(self, at: float, names: Iterable[str], directory: str) -> None:
        """Note that a certificate is about to be asked for. Raises SavedError."""
        self._write_record(self.known(), [*self.asked(), Asked(at, tuple(sorted(names)), directory)], at)

    def withdraw(self) -> None:
        """Strike out what was noted last: it was not asked for after all. Raises SavedError."""
        asked = self.asked()
        self._write_record(self.known(), asked[:-1], asked[-1].at)

    def save(self, name: str, entries: Entries, seen: Iterable[Mapping[str, Any]], now: float) -> None:
        """Keep the droplet's files, and what its timer got. Raises SavedError."""
        about, directory = describe(leaf(entries, name)), directory_of(entries, name)
        secret, _ = self.secret()
        encrypted = VaultLib().encrypt(pack(entries), secret=secret)
        self._write(self.vault, encrypted)
        known = {
            "name": name,
            "names": about["names"],
            "directory": directory,
            "fingerprint": about["fingerprint"],
            "not_before": date(about["not_before"]),
            "not_after": date(about["not_after"]),
            "saved_at": date(now),
            "seen_at": date(now),
            "digest": digest(entries),
        }
        self._write_record(known, fold(self.asked(), seen, directory), now)

    def confirm(self, seen: Iterable[Mapping[str, Any]], now: float) -> None:
        """Note that the droplet has what the copy has. Raises SavedError."""
        known = self.known()
        self._write_record(known | {"seen_at": date(now)}, fold(self.asked(), seen, known["directory"]), now)

    def _decrypt(self, encrypted: bytes, secret: VaultSecret, file: Path | None = None) -> bytes:
        try:
            return bytes(VaultLib([("default", secret)]).decrypt(encrypted))
        except AnsibleError:
            raise SavedError(
                f"{file or self.vault} does not open with the password in {self.password_file}: bring the right one"
                f" from where you keep a copy of it, or name another file in {VARIABLE}"
            ) from None

    def _make_password(self) -> bool:
        """Several customers' tasks may come here at the same time: the first one's password is everybody's."""
        file = self.password_file
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".new-") as apart:
                fresh = Path(apart) / file.name
                self._write(fresh, base64.b64encode(os.urandom(32)) + b"\n")
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, file)
                    return True
        except OSError as error:
            raise SavedError(f"{file} ({VARIABLE}) cannot be made: {error.strerror}") from None
        return False

    def _write_record(self, known: Mapping[str, Any], asked: Iterable[Asked], now: float) -> None:
        issued = [each.as_json() for each in asked if each.at > now - REMEMBERED]
        self._write(self.record, (json.dumps({**known, "issued": issued}, indent=2) + "\n").encode())

    def _write(self, file: Path, content: bytes) -> None:
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.parent.mkdir(mode=0o700, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(handle)
                os.replace(unfinished, file)
            except BaseException:
                os.unlink(unfinished)
                raise
        except OSError as error:
            raise SavedError(f"{file}: {error.strerror}") from None
