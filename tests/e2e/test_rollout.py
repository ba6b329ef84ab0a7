"""From an empty machine to AP, as a person would see it."""

from __future__ import annotations

import json
import socket

from lab.__main__ import control
from tests.e2e import world


def test_a_rehearsal_of_nothing_makes_nothing(rehearsal: tuple[world.Run, set[str]]) -> None:
    done, methods = rehearsal
    assert done.code == 0, done.text
    assert "contoso would get a new droplet" in done.text
    assert "The probe's verdict" not in done.text
    assert methods == {"GET"}


def test_before_the_trunk_exists_our_side_is_ready(before_the_trunk: tuple[world.Run, world.Run]) -> None:
    first, _ = before_the_trunk
    assert first.code == 2, first.text
    assert "contoso.voip.test: waiting" in first.text
    assert "Cause: trunk_missing" in first.text
    assert "New-CsOnlinePSTNGateway -Fqdn contoso.voip.test" in first.text


def test_waiting_can_be_accepted(before_the_trunk: tuple[world.Run, world.Run]) -> None:
    _, accepted = before_the_trunk
    assert accepted.code == 0, accepted.text
    assert "WAITING" in accepted.text


def test_no_secret_is_shown(before_the_trunk: tuple[world.Run, world.Run]) -> None:
    first, _ = before_the_trunk
    key = (world.ROOT / f"inventory/lab/state/{world.CUSTOMER}/ssh_host_ed25519_key").read_text()
    assert "TASK" in first.text
    assert key.splitlines()[1] not in first.text
    assert "PRIVATE KEY" not in first.text


def test_with_the_trunk_everything_is_ap(proven: None) -> None:
    done = world.verify()
    assert done.code == 0, done.text
    for proxy in world.PROXIES:
        assert [line.split()[2] for line in done.text.splitlines() if f" {proxy} " in line][-1] == "AP"
    assert set(world.active()["proxies"]) == set(world.PROXIES)


def test_the_classic_check_by_hand(proven: None) -> None:
    shown = world.seen(
        lambda: world.droplet("kamcmd dispatcher.list | egrep 'URI|FLAGS'").text,
        lambda text: text.count("FLAGS: AP") == len(world.PROXIES),
        "all are AP",
    )
    assert all(f"URI: sip:{proxy}:5061;transport=tls" in shown for proxy in world.PROXIES)


def test_ad_hoc_commands_find_the_droplet(proven: None) -> None:
    shown = world.seen(
        lambda: world.run("ansible", "sbc", "-m", "command", "-a", "kamcmd dispatcher.list"),
        lambda done: done.text.count("FLAGS: AP") == len(world.PROXIES),
        "all are AP",
    )
    assert shown.code == 0, shown.text


def test_a_second_run_changes_nothing(proven: None) -> None:
    again = world.playbook("site.yml")
    assert again.code == 0, again.text
    assert again.recap["changed"] == 0, again.text
    assert again.recap["failed"] == 0


def test_check_mode_on_the_running_droplet_changes_nothing(proven: None) -> None:
    looked = "ls -lR --time-style=full-iso /etc/kamailio /etc/nftables.conf; systemctl show kamailio -p MainPID"
    before = world.droplet(looked)
    control("DELETE", "requests")
    change = json.dumps({"kamailio_max_connections": 300, "sbc_ssh_sources": ["198.19.0.0/24"]})
    checked = world.playbook("site.yml", "--check", "--diff", "-e", change)
    assert checked.code == 0, checked.text
    assert "tcp_max_connections=300" in checked.text
    assert {entry["method"] for entry in control("GET", "requests")["requests"]} == {"GET"}
    assert world.droplet(looked) == before


def test_the_probe_as_a_service(proven: None) -> None:
    shown = world.droplet("curl -sf http://127.0.0.1:9061/healthz && curl -sf http://127.0.0.1:9061/metrics").text
    assert shown.startswith("ok")
    assert "sbc_" in shown
    world.seen(
        lambda: json.loads(world.droplet("curl -sf http://127.0.0.1:9061/status.json").text),
        lambda status: bool(status["overall"]["state"] == "proven"),
        "the service, which looks every few seconds, says proven",
    )


def test_only_what_is_needed_listens(proven: None) -> None:
    listening = world.droplet("ss -Hltn").text
    outside = {line.split()[3] for line in listening.splitlines() if not line.split()[3].startswith(("127.", "[::1]"))}
    ports = {address.rsplit(":", 1)[1] for address in outside}
    assert ports <= {"22", "5061", "5355"}


def test_the_droplet_keeps_strangers_out_by_itself(proven: None) -> None:
    """Without the cloud firewall its own packet filter still is there."""
    address = world.check()["address"]
    firewall = world.firewall()
    world.api("DELETE", f"firewalls/{firewall['id']}")
    socket.create_connection((address, 22), timeout=60).close()
    reached = [
        port
        for port in (5061, 5355)
        if world.run("timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}").code == 0
    ]
    mended = world.playbook("playbooks/provision.yml")
    assert reached == []
    assert mended.code == 0, mended.text
