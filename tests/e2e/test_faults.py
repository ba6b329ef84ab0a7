"""Every fault of the matrix is provoked: its cause is named, nothing is called proven meanwhile, green comes back."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import world
from tests.e2e.faults import MATRIX, Fault
from tests.e2e.watch import Look, Watch, watching

TLS = "/etc/kamailio/tls"
# What may lie between a fault and the first look that shows it (s): two rounds of OPTIONS, three of Microsoft's, or the
# minute for which the probe remembers where a proxy's name leads; all of it twice, for a machine that is busy.
BLIND = 150.0


@pytest.fixture(scope="module")
def watch(trunk: None) -> Iterator[Watch]:
    with watching() as watch:
        yield watch


def perform(command: str, directory: Path) -> None:
    """One command of a row; see `tests.e2e.faults` for its first word."""
    command = command.replace("DIRECTORY", str(directory))
    match command.partition(" "):
        case ("lab", _, rest):
            world.lab(*shlex.split(rest))
            if rest.startswith("certificate "):
                install(directory)
        case ("playbook", _, rest):
            done = world.playbook(rest)
            assert done.code == 0, done.text
        case _:
            done = world.droplet(command)
            assert done.code == 0, done.text


def install(directory: Path) -> None:
    """Put a chain and a key where Kamailio has them, as somebody would by hand."""
    for name, target, rights in (
        ("chain.pem", "fullchain.pem", "-g kamailio -m 0640"),
        ("key.pem", "privkey.pem", "-o kamailio -m 0400"),
    ):
        text = (directory / name).read_text()
        done = world.droplet(f"install {rights} /dev/stdin {TLS}/{target} <<'END'\n{text}END\n")
        assert done.code == 0, done.text


def says(fault: Fault, said: str | None) -> bool:
    return said is not None and bool(re.search(".*".join(map(re.escape, fault.says.split("…"))), said, re.DOTALL))


def names(fault: Fault, look: Look) -> bool:
    """Whether the verdict and its words are those of the row; of what only root sees, the state is enough."""
    if look.state != fault.state or fault.by_root:
        return look.state == fault.state
    is_cause = fault.state == "proven" or look.report["overall"]["cause"] == fault.cause
    return is_cause and says(fault, look.said(fault.cause))


def judge_as_root(fault: Fault) -> None:
    report = world.seen(
        world.check, lambda report: bool(report["overall"]["cause"] == fault.cause), f"the probe names {fault.cause}"
    )
    assert report["overall"]["state"] == fault.state
    assert says(fault, Look(0, report).said(fault.cause)), report["findings"]


@pytest.mark.parametrize(
    "fault", [pytest.param(each, id=each.id, marks=[pytest.mark.full] if each.full else []) for each in MATRIX]
)
def test_fault(trunk: None, watch: Watch, tmp_path: Path, fault: Fault) -> None:
    # What came and went in the rows before is none of this one's: two faults in a row would pass for flapping.
    perform("kamcmd htable.flush sbc_turns", tmp_path)
    watch.until(lambda look: look.state == "proven", "proven before", since=time.monotonic())
    begun = time.monotonic()
    try:
        for command in fault.begins:
            perform(command, tmp_path)
        broken = time.monotonic()
        named = watch.until(lambda look: names(fault, look), f"{fault.cause} is named", since=begun)
        if fault.by_root:
            judge_as_root(fault)
        if fault.verify:
            judged = world.verify()
            assert judged.code == 2, judged.text
            assert f"Cause: {fault.cause}" in judged.text
            assert "Next step: " in judged.text
        if fault.ends:
            watch.until(lambda look: True, "another look at it", since=named.at)
        seen = watch.since(begun)
    finally:
        for command in fault.ends:
            perform(command, tmp_path)
    after = time.monotonic() if fault.ends else named.at
    if fault.state != "proven" and fault.ends:
        assert not false_proofs(fault, seen, named), "proven with the fault in force:\n" + "\n".join(map(str, seen))
        first = next(look for look in seen if look.state != "proven")
        assert first.at - broken < BLIND, f"it was proven for {first.at - broken:.0f} s more"
    green = watch.until(lambda look: look.state == "proven" and not look.said(fault.cause), "proven again", since=after)
    world.active()
    print(
        f"{fault.id}: {fault.cause} after {named.at - begun:.0f} s, green {green.at - after:.0f} s after; "
        f"{named.said(fault.cause)}"
    )


def false_proofs(fault: Fault, seen: list[Look], named: Look) -> list[Look]:
    """Looks that said proven though the fault had shown before."""
    shown = named.at if fault.comes_and_goes else next(look.at for look in seen if look.state != "proven")
    return [look for look in seen if look.at > shown and look.state == "proven"]
