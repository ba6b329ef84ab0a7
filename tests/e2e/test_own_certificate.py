"""A bought certificate instead of certbot's, another in its place, and back again; nobody is asked for anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e import world


def rollout(files: Path | None, *arguments: str) -> world.Run:
    """Roll out with the files in a directory, or with none."""
    given = {"chain": str(files / "chain.pem"), "key": str(files / "key.pem")} if files else None
    return world.playbook("site.yml", "-e", json.dumps({"sbc_certificate_files": given}), *arguments)


def served() -> str:
    """The fingerprint of what Kamailio shows, by the probe."""
    fingerprint: str = world.check()["certificate"]["fingerprint"]
    return fingerprint


@pytest.mark.full
def test_files_come_and_go(proven: None, tmp_path: Path) -> None:
    orders, certbots = control("GET", "acme/orders"), served()
    shown, seen = "", [certbots]
    for name in ("first", "second"):
        world.lab("certificate", world.FQDN, "--out", str(tmp_path / name))
        done = rollout(tmp_path / name, "-vvvvv", "--diff")
        assert done.code == 0, done.text
        assert "not needed" in done.text, "there is no copy of what the user has"
        shown += done.text
        seen.append(served())
    again = rollout(tmp_path / "second")
    assert again.recap["changed"] == 0, again.text
    assert len(set(seen)) == 3
    for name in ("first", "second"):
        key = (tmp_path / name / "key.pem").read_text().splitlines()
        assert not [line for line in key if line in shown], "the key was shown"

    back = rollout(None)
    assert back.code == 0, back.text
    assert served() == certbots
    assert control("GET", "acme/orders") == orders


@pytest.mark.parametrize("fault", ["expired", "key_mismatch"])
def test_files_that_are_no_good_are_refused_before_anything_changes(proven: None, tmp_path: Path, fault: str) -> None:
    world.lab("certificate", world.FQDN, "--fault", fault, "--out", str(tmp_path))
    before = served()
    refused = rollout(tmp_path)
    assert refused.code != 0
    assert "1 mistake; nothing was created" in refused.text, refused.text
    part = "key" if fault == "key_mismatch" else "chain"
    assert f"contoso: sbc_certificate_files.{part} = {tmp_path}/{part}.pem: " in refused.text
    assert "PLAY [Configure]" not in refused.text
    assert served() == before
