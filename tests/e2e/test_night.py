"""From the alarm to the answer, with the commands of docs/night.md: the journal and the SIP trace of a droplet."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import world

PROXY = world.PROXIES[0]


def on_droplet(command: str) -> str:
    done = world.droplet(command)
    assert done.code == 0, done.text
    return done.text.strip()


def entries(query: str) -> list[dict[str, Any]]:
    """The journal's entries that a query finds, the oldest first."""
    text = world.droplet(f"journalctl --output=json --no-pager {query}").text
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_units_reach_little_and_the_journal_is_bounded(proven: None) -> None:
    for unit in ("kamailio", "sbc-probe"):
        on_droplet(f"systemd-analyze security --threshold=20 {unit}")
    settings = on_droplet("systemd-analyze cat-config systemd/journald.conf")
    assert re.findall(r"^SystemMaxUse=(.*)$", settings, flags=re.MULTILINE)[-1] == "500M"
    assert on_droplet("ls /var/log/journal")


def test_the_journal_has_the_cause_and_the_dialog(proven: None) -> None:
    now = on_droplet("date +%s")
    world.fault(PROXY, "refuse")
    try:
        (change, *_) = world.seen(
            lambda: [
                each for each in entries(f"--since=@{now} SBC_CAUSE=proxy_forbids") if PROXY in each["SBC_EVIDENCE"]
            ],
            lambda found: bool(found),
            "the probe's change of verdict is in the journal",
        )
        assert change["_SYSTEMD_UNIT"] == "sbc-probe.service"
        assert change["SBC_STATE"] == "failed"
        (answer, *_) = world.seen(
            lambda: entries(f"--since=@{now} --unit=kamailio --grep='cause=answer_changed proxy={PROXY} code=403'"),
            lambda found: bool(found),
            "and Kamailio's change of answer",
        )
        now = on_droplet("date +%s")
    finally:
        world.fault(PROXY, "none")
    world.seen(
        lambda: entries(f"--since=@{now} SBC_STATE=proven"),
        lambda found: any(each["MESSAGE"].startswith("state=proven before=") for each in found),
        "and so is that it is proven again",
    )
    found = re.search(r" call_id=(\S+) ", answer["MESSAGE"])
    assert found
    assert answer["MESSAGE"] in [each["MESSAGE"] for each in entries(f"--unit=kamailio --grep='call_id={found[1]}'")]

    with world.connection(world.FQDN) as microsoft:
        microsoft.ask("somebody.else.test")
    world.seen(
        lambda: entries("--unit=kamailio --grep=cause=unknown_name"),
        lambda found: bool(found) and " cause=unknown_name code=404 " in found[-1]["MESSAGE"],
        "and so is the name that was asked for",
    )


def test_a_trace_ends_with_its_maker(proven: None) -> None:
    assert "sngrep -I /var/lib/sbc-trace/contoso-" in on_droplet("sbc-trace 1")
    assert world.options(world.FQDN)["code"] == 200
    file = on_droplet("sbc-trace stop").splitlines()[-1]
    assert int(on_droplet(f"grep --text --count 'OPTIONS sip:{world.FQDN}' {file}")) > 0
    assert on_droplet(f"stat --format=%a:%U {file}") == "600:kamailio"
    assert "newval: 0" in on_droplet("kamcmd sipdump.enable")


@pytest.mark.full
def test_a_trace_is_fetched_and_tools_open_it(proven: None) -> None:
    done = world.playbook("playbooks/trace.yml", "-e", "trace_minutes=1", "-l", world.CUSTOMER)
    assert done.code == 0, done.text
    assert re.search(r"the\s+trace\s+ends:\s+its\s+time\s+is\s+over", done.text), done.text
    (name,) = set(re.findall(r"\S+/inventory/lab/traces/\S+\.pcap", done.text))
    file = Path(name)
    try:
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert file.read_bytes().startswith(b"\xd4\xc3\xb2\xa1")
        assert b"OPTIONS sip:" in file.read_bytes()
    finally:
        file.unlink()
    on_droplet("DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends tshark sngrep")
    there = f"/var/lib/sbc-trace/{file.name}"
    shown = on_droplet(f"tshark -r {there} -Y sip -T fields -e sip.Method -e sip.Status-Code 2>/dev/null").splitlines()
    assert "OPTIONS" in [line.strip() for line in shown]
    assert "200" in [line.strip() for line in shown]
    on_droplet(f"sngrep -N -q -I {there} -O /tmp/dialogs.pcap")
    assert int(on_droplet("tshark -r /tmp/dialogs.pcap -Y sip 2>/dev/null | wc -l")) == len(shown)
