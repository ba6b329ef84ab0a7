"""Lines of the probe's in systemd's journal, with fields that `journalctl FIELD=value` finds.

The protocol is systemd's own (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): one datagram, one field a line; a value
with a line feed in it is given by its length, so that no value can forge a field.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

from sbc_probe.findings import State
from sbc_probe.verdict import Verdict

SOCKET = Path("/run/systemd/journal/socket")
# `journalctl MESSAGE_ID=...` lists the changes of the verdict alone; a number of the product's own.
VERDICT_CHANGED = "5f3c6c0e5f6d4b0d9a1b7d2c84e3a961"
# syslog(3): warning for what needs somebody, notice for what does not.
PRIORITIES = {State.PROVEN: 5, State.WAITING: 5, State.UNKNOWN: 5, State.FAILED: 4}


def encoded(fields: dict[str, str]) -> bytes:
    """The datagram for these fields, whose names are upper case letters, digits and underscores."""
    parts = []
    for name, value in fields.items():
        text = value.encode(errors="replace")
        if b"\n" in text:
            parts.append(name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n")
        else:
            parts.append(name.encode() + b"=" + text + b"\n")
    return b"".join(parts)


def send(fields: dict[str, str], path: Path = SOCKET) -> None:
    """Write one entry. Its message is printed instead where no journal takes it, or this process prints elsewhere."""
    # systemd sets it for a service whose output is the journal's.
    if "JOURNAL_STREAM" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
            client.setblocking(False)
            client.sendto(encoded(fields), str(path))
            return
    print(fields["MESSAGE"], file=sys.stderr, flush=True)


class Changes:
    """Writes an entry whenever the verdict is not what it was: its state, a cause, or whom a cause is about."""

    def __init__(self, fqdn: str, path: Path = SOCKET) -> None:
        self._fqdn, self._path = fqdn, path
        self._state: State | None = None
        self._causes: list[tuple[str, ...]] = []

    def note(self, verdict: Verdict) -> None:
        causes = [(finding.cause.value, *finding.destinations) for finding in verdict.findings]
        if (verdict.state, causes) == (self._state, self._causes):
            return
        before, self._state, self._causes = self._state, verdict.state, causes
        fields = {
            "MESSAGE_ID": VERDICT_CHANGED,
            "SYSLOG_IDENTIFIER": "sbc-probe",
            "PRIORITY": str(PRIORITIES[verdict.state]),
            "SBC_FQDN": self._fqdn,
            "SBC_STATE": verdict.state.value,
        }
        words = [f"state={verdict.state.value}", f"before={before.value if before else 'none'}"]
        if verdict.findings:
            primary, *others = verdict.findings
            fields |= {
                "SBC_CAUSE": primary.cause.value,
                "SBC_EVIDENCE": primary.evidence,
                "SBC_NEXT_STEP": primary.next_step,
            }
            words.append(f"cause={primary.cause.value}")
            if others:
                words.append(f"also={','.join(dict.fromkeys(finding.cause.value for finding in others))}")
            words.append(f"evidence={primary.evidence}")
        send({"MESSAGE": " ".join(words), **fields}, self._path)
