"""A customer that is destroyed: what is gone, what is kept, and that it comes back with its certificate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

from lab.__main__ import control
from tests.e2e import world

STATE = world.ROOT / "inventory/lab/state" / world.CUSTOMER
CONFIRMED = ("-e", f"destroy_confirmation={world.FQDN}")


def number() -> str:
    (droplet,) = world.api("GET", f"droplets?tag_name=sbc:customer:{world.CUSTOMER}")["droplets"]
    return str(droplet["id"])


def destroy(*arguments: str) -> world.Run:
    return world.playbook("playbooks/destroy.yml", *arguments)


def writes() -> list[str]:
    """What changed something at DigitalOcean since the log was emptied: method and path of each request."""
    logged = control("GET", "requests")["requests"]
    return [f"{each['method']} {each['path']}" for each in logged if each["method"] != "GET"]


def in_the_account() -> dict[str, list[Any]]:
    """What an empty account has none of; the domain was there before the customer, with records of its own."""
    records = world.api("GET", f"domains/{world.FQDN.partition('.')[2]}/records?per_page=200")["domain_records"]
    return {
        "droplets": world.api("GET", "droplets")["droplets"],
        "firewalls": world.api("GET", "firewalls")["firewalls"],
        "keys": world.api("GET", "account/keys")["ssh_keys"],
        "tags": [each["name"] for each in world.api("GET", "tags")["tags"] if each["name"] != "sbc"],
        "records": [each for each in records if each["name"] == world.CUSTOMER],
    }


EMPTY: dict[str, list[Any]] = {kind: [] for kind in ("droplets", "firewalls", "keys", "tags", "records")}


def serial() -> str:
    return world.droplet(f"openssl x509 -noout -serial -in /etc/letsencrypt/live/{world.FQDN}/cert.pem").text


def test_a_rehearsal_and_a_refusal_change_nothing() -> None:
    control("DELETE", "requests")
    rehearsal = destroy("--check", "--diff")
    assert rehearsal.code == 0, rehearsal.text
    assert f"droplet {number()} ({world.FQDN}, {world.address(world.CUSTOMER)}, " in " ".join(rehearsal.text.split())
    refused = destroy("-e", f"destroy_id={number()}", "-e", "destroy_confirmation=fabrikam.voip.test")
    assert refused.code == 2, refused.text
    assert writes() == []
    world.proven()


def test_a_customer_goes_and_comes_back_with_its_certificate() -> None:
    before, orders = serial(), control("GET", "acme/orders")
    (STATE / "certificate.vault").unlink()
    control("DELETE", "requests")
    said = ("-e", f"destroy_id={number()}", *CONFIRMED)
    done = destroy(*said)
    assert done.code == 0, done.text
    assert in_the_account() == EMPTY
    assert world.options(world.FQDN)["code"] is None, "Microsoft reaches nobody under this name"
    assert (STATE / "certificate.vault").exists(), "the certificate was saved before anything went"
    kinds = [line.split("/")[2] for line in writes() if "sbc:user-data:" not in line]
    assert list(dict.fromkeys(kinds)) == ["domains", "droplets", "firewalls", "tags", "account"]

    control("DELETE", "requests")
    again = destroy(*said)
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0
    assert writes() == []

    back = world.playbook("site.yml")
    assert back.code == 0, back.text
    assert serial() == before
    assert control("GET", "acme/orders") == orders, "nobody was asked for another certificate"


def test_killed_while_the_droplet_goes() -> None:
    """The answer to the deletion never arrives, the run is killed, and the next one takes the rest away."""
    said = ("-e", f"destroy_id={number()}", *CONFIRMED)
    fault = {"kind": "slow", "method": "DELETE", "path_glob": "/v2/droplets/*", "seconds": 120}
    control("POST", "faults", fault)
    argv = ["ansible-playbook", "playbooks/destroy.yml", *said]
    with subprocess.Popen(
        argv, cwd=world.ROOT, env=world.environment(), start_new_session=True, stdout=subprocess.DEVNULL
    ) as run:
        world.until(lambda: not world.api("GET", "droplets")["droplets"], "the droplet is gone")
        os.killpg(run.pid, signal.SIGKILL)
    control("DELETE", "faults")
    assert in_the_account() != EMPTY
    assert json.loads((STATE / "destroyed.json").read_text())["addresses"], "its address is remembered"
    again = destroy(*said)
    assert again.code == 0, again.text
    assert in_the_account() == EMPTY
    assert not (STATE / "destroyed.json").exists(), "nothing of it is believed of the next customer of this name"
