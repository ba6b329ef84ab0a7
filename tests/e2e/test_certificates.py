"""What can be wrong with a certificate has its own cause in verify, and what a droplet had survives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import settings
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
def own_again(trunk: None) -> Iterator[None]:
    """Afterwards the certificate that certbot got is back, by the hook that installs it at a renewal."""
    yield
    mended = world.droplet(HOOK)
    assert mended.code == 0, mended.text
    world.proven()


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        pytest.param("expired", "certificate_expired", ["ended on"], marks=pytest.mark.full),
        pytest.param("not_yet_valid", "certificate_not_yet_valid", ["begins on"], marks=pytest.mark.full),
        pytest.param("wrong_name", "certificate_name", [world.FQDN], marks=pytest.mark.full),
        pytest.param("ecdsa", "certificate_key_type", ["ECDSA", "RSA"], marks=pytest.mark.full),
        ("no_intermediate", "certificate_incomplete", ["intermediate"]),
        ("untrusted_root", "certificate_untrusted", ["root"]),
        pytest.param("no_server_auth", "certificate_usage", ["serverAuth"], marks=pytest.mark.full),
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


def test_staging_is_a_rehearsal_and_production_takes_over_without_a_gap(proven: None, tmp_path: Path) -> None:
    customer, fqdn = "rehearsed", "rehearsed.voip.test"
    inventory = world.inventory(tmp_path / "inventory", {customer: {"sbc_fqdn": fqdn}})
    world.lab("trunk", fqdn)
    try:
        rehearsed = world.playbook("site.yml", "-i", str(inventory), "-e", "certificate_directory=staging")
        assert rehearsed.code == 2, rehearsed.text
        assert "Cause: certificate_rehearsal" in rehearsed.text
        assert "certificate_directory: production" in rehearsed.text
        staging = settings.ROOTS / "acme-staging.pem"
        with world.connection(fqdn, to=world.address(customer), roots=staging) as connection:
            assert connection.ask(fqdn)["code"] == 200
            swapped = world.playbook("site.yml", "-i", str(inventory))
            assert swapped.code == 0, swapped.text
            assert connection.ask(fqdn)["code"] == 200, "it goes on with what it began with"
            with world.connection(fqdn, to=world.address(customer)) as after:
                assert after.ask(fqdn)["code"] == 200
    finally:
        world.destroy(customer)
        world.lab("trunk", fqdn, "--remove")
