"""What can be wrong with a certificate has its own cause in verify, and what a droplet had survives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e import world

TLS = "/etc/kamailio/tls"
HOOK = f"RENEWED_LINEAGE=/etc/letsencrypt/live/{world.FQDN} /etc/letsencrypt/renewal-hooks/deploy/kamailio"


def install(directory: Path, reload: bool = True) -> None:
    """Put a chain and a key where Kamailio has them, as somebody would by hand."""
    for name, target, rights in (
        ("chain.pem", "fullchain.pem", "-g kamailio -m 0640"),
        ("key.pem", "privkey.pem", "-o kamailio -m 0400"),
    ):
        text = (directory / name).read_text()
        done = world.droplet(f"install {rights} /dev/stdin {TLS}/{target} <<'END'\n{text}END\n")
        assert done.code == 0, done.text
    if reload:
        world.droplet("kamcmd tls.reload")


@pytest.fixture
def own_again(proven: None) -> Iterator[None]:
    """Afterwards the certificate that certbot got is back, by the hook that installs it at a renewal."""
    yield
    mended = world.droplet(HOOK)
    assert mended.code == 0, mended.text


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        ("expired", "certificate_expired", ["ended on"]),
        ("not_yet_valid", "certificate_not_yet_valid", ["begins on"]),
        ("wrong_name", "certificate_name", [world.FQDN]),
        ("ecdsa", "certificate_key_type", ["ECDSA", "RSA"]),
        ("no_intermediate", "certificate_incomplete", ["intermediate"]),
        ("untrusted_root", "certificate_untrusted", ["root"]),
        ("no_server_auth", "certificate_usage", ["serverAuth"]),
        ("key_mismatch", "certificate_key_mismatch", ["key"]),
    ],
)
def test_a_faulty_certificate_is_told_by_its_fault(
    own_again: None, tmp_path: Path, fault: str, cause: str, words: list[str]
) -> None:
    world.lab("certificate", world.FQDN, "--out", str(tmp_path), "--fault", fault)
    install(tmp_path)
    world.red_with(cause, *words)


def test_a_certificate_that_kamailio_has_not_loaded(own_again: None, tmp_path: Path) -> None:
    world.lab("certificate", world.FQDN, "--out", str(tmp_path))
    install(tmp_path, reload=False)
    world.red_with("certificate_not_loaded", "tls.reload")


def test_a_rebuilt_droplet_gets_its_certificate_back(proven: None, tmp_path: Path) -> None:
    """Six times in a week would meet Let's Encrypt's limit of five; nothing is asked at all."""
    inventory = world.inventory(tmp_path / "inventory", {"rebuilt": {"sbc_fqdn": "rebuilt.voip.test"}})
    world.lab("trunk", "rebuilt.voip.test")

    def rollout() -> str:
        done = world.playbook("site.yml", "-i", str(inventory))
        assert done.code == 0, done.text
        shown = world.run("ansible", "-i", str(inventory), "rebuilt", "-m", "command", "-a", f"cat {TLS}/fullchain.pem")
        return shown.text.partition("-----BEGIN")[2]

    try:
        first = rollout()
        asked = control("GET", "acme/orders")
        world.destroy("rebuilt")
        assert rollout() == first
        assert control("GET", "acme/orders") == asked
        saved = inventory / "state/rebuilt/certificate.vault"
        assert saved.read_text().startswith("$ANSIBLE_VAULT")
        assert saved.stat().st_mode & 0o077 == 0
    finally:
        world.destroy("rebuilt")
        world.lab("trunk", "rebuilt.voip.test", "--remove")


def test_the_fifth_certificate_in_a_week_is_warned_of(proven: None, tmp_path: Path) -> None:
    ledger = world.ROOT / f"inventory/lab/state/{world.CUSTOMER}/certificate.json"
    before = ledger.read_text()
    kept = json.loads(before)
    try:
        ledger.write_text(json.dumps(kept | {"issued": kept["issued"] * 4}))
        checked = world.playbook("playbooks/preflight.yml")
        assert checked.code == 0, checked.text
        assert "4" in checked.text
        assert "certificate_directory: staging" in checked.text
    finally:
        ledger.write_text(before)


def test_staging_is_a_rehearsal_and_production_takes_over_without_a_gap(proven: None) -> None:
    with world.connection(world.FQDN) as connection:
        rehearsed = world.playbook("site.yml", "-e", "certificate_directory=staging")
        assert "Cause: certificate_rehearsal" in rehearsed.text
        assert "certificate_directory: production" in rehearsed.text
        assert connection.ask(world.FQDN)["code"] == 200
        swapped = world.playbook("site.yml")
        assert swapped.code == 0, swapped.text
    with world.connection(world.FQDN) as after:
        assert after.fingerprint != connection.fingerprint
