"""What a rollout makes of certificates that are many, or a rehearsal's. Faulty ones: test_faults.py."""

from __future__ import annotations

import json
from pathlib import Path

from lab import settings
from tests.e2e import world


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
