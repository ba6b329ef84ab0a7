"""A droplet that is lost and built again has its certificate back, and nobody was asked for another."""

from __future__ import annotations

from lab.__main__ import control
from tests.e2e import world

LIVE = f"/etc/letsencrypt/live/{world.FQDN}"


def test_the_certificate_survives_its_droplet(proven: None) -> None:
    looked = f"openssl x509 -noout -serial -in {LIVE}/cert.pem; find /etc/letsencrypt/accounts -name regr.json"
    before, orders = world.droplet(looked).text, control("GET", "acme/orders")
    key = world.droplet(f"cat {LIVE}/privkey.pem").text.splitlines()
    assert before.startswith("serial="), before
    world.destroy(world.CUSTOMER)

    status = world.playbook("playbooks/status.yml")
    assert status.code == 0, status.text
    assert "NO DROPLET" in status.text
    assert "the droplet had it" in status.text

    again = world.playbook("site.yml", "-vvvvv", "--diff")
    assert again.code == 0, again.text
    assert "the certificate is brought back from a copy" in again.text
    assert world.droplet(looked).text == before
    assert control("GET", "acme/orders") == orders
    assert not [line for line in key if line in again.text], "the key was shown"
    assert "same, " in again.text
