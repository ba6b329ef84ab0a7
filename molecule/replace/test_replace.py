"""A droplet that another one replaces: what a failure leaves, and what the other one takes over."""

from __future__ import annotations

from lab.__main__ import control
from tests.e2e import world
from tests.e2e.replacing import addresses, droplets, leads_to, note, remains, replace


def test_a_proxy_that_refuses_the_new_one_keeps_the_old_one_and_the_next_run_goes_on() -> None:
    [old] = droplets()
    address, ttl = leads_to()
    looked = f"openssl x509 -noout -serial -in /etc/letsencrypt/live/{world.FQDN}/cert.pem"
    serial, as_it_is, orders = world.droplet(looked).text, remains(), control("GET", "acme/orders")

    world.fault(world.PROXIES[1], "refuse")
    failed = replace()
    world.fault(world.PROXIES[1], "none")
    assert failed.code != 0
    said = " ".join(failed.text.split())
    assert "contoso was not replaced" in said
    assert "proxy_forbids" in said
    assert f"All leads to the old droplet, {old} ({address})" in said
    assert (droplets()[old], leads_to()) == ("droplet", (address, ttl))
    [new] = [number for number, kind in droplets().items() if kind == "successor"]
    assert f"The new one, {new} ({addresses()[new]})" in said
    assert remains() == as_it_is, "the old droplet was touched"

    rollout = world.playbook("playbooks/provision.yml")
    assert rollout.code != 0
    assert "a replacement of contoso was not finished" in " ".join(rollout.text.split())

    done = replace()
    assert done.code == 0, done.text
    assert f"The droplet of contoso is {new} (" in " ".join(done.text.split())
    assert droplets() == {new: "droplet"}, "the successor is another one, or not alone"
    assert leads_to() == (addresses()[new], ttl)
    assert leads_to()[0] != address
    assert not note().exists()
    assert world.droplet(looked).text == serial
    assert control("GET", "acme/orders") == orders, "nobody was asked for another certificate"
    world.active()

    again = world.playbook("site.yml")
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0, again.text
