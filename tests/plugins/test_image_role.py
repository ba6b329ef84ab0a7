"""What a golden image is cleaned of, and whether what stays is seen: on a Debian 13 root directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.sshd import Machine, is_available
from tests.plugins.support import ROOT

pytestmark = pytest.mark.skipif(not is_available(), reason="needs root and KAMAILIO_ROOT (python -m lab kamailio-root)")

FILES = ROOT / "roles/image/files"
KEY = "yes | ssh-keygen -q -t ed25519 -N '' -f"
# What an SBC, its builder or a hand may leave behind, and what is said of it.
DIRT = {
    "identity": ("echo 0123456789abcdef0123456789abcdef >/etc/machine-id", "the machine has an identity"),
    "host key": (f"{KEY} /etc/ssh/ssh_host_ed25519_key", "host keys: /etc/ssh/ssh_host_ed25519_key"),
    "other key": (f"{KEY} /opt/key", "private keys: /opt/key"),
    "login": ("mkdir -p /home/a/.ssh && touch /home/a/.ssh/authorized_keys", "who may log in: /home/a/.ssh/"),
    "password": ("usermod --password '$y$j9T$salt$hash' root", "hashes of passwords: root"),
    "user_data": (
        "mkdir -p /var/lib/cloud/instances/1; touch /var/lib/cloud/instances/1/user-data.txt",
        "cloud-init's: ",
    ),
    "seed": ("mkdir -p /var/lib/cloud/seed/nocloud; touch /var/lib/cloud/seed/nocloud/user-data", "cloud-init's: "),
    "log": ("touch /var/log/messages", "logs: /var/log/messages"),
    "journal": ("mkdir /var/log/journal/1; touch /var/log/journal/1/system.journal", "logs: /var/log/journal/1/"),
    "lists": ("touch /var/lib/apt/lists/lock", "package lists: "),
    "proxy": ("touch /etc/apt/apt.conf.d/10sbc-proxy", "of the network that the image was built in: "),
    "configuration": ("mkdir -p /etc/kamailio/live", "of an SBC that was set up: /etc/kamailio/live"),
    "account": ("mkdir -p /etc/letsencrypt/accounts", "of an SBC that was set up: /etc/letsencrypt/accounts"),
    "Kamailio": ("cp /bin/sleep /mnt/kamailio; nohup /mnt/kamailio 600 >/dev/null 2>&1 &", "Kamailio runs"),
}
# What only those who have set it up leave behind; a builder has no such thing to be cleaned of.
NOT_CLEANED = ("other key", "configuration", "account", "Kamailio")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    # There is no systemd to be asked, so no journal of its either: what that would list is in a file.
    machine.add("systemctl", "#!/bin/sh\n")
    machine.add("journalctl", "#!/bin/sh\n[ $1 != --list-boots ] || cat /shared/boots\n")
    (machine.shared / "boots").write_text("")
    yield machine
    machine.destroy()


@pytest.fixture
def cleaned(machine: Machine) -> Iterator[Machine]:
    """A machine that had all the dirt that a builder has, and was cleaned of it."""
    machine.start()
    dirt = (make for name, (make, _) in DIRT.items() if name not in NOT_CLEANED)
    # As the role does it: in one command, which says nothing if all is well.
    assert machine.run("\n".join((*dirt, script("clean", "examine", said="cleaned")))) == ""
    yield machine
    machine.destroy()


def script(*names: str, said: str = "") -> str:
    """One command that is given these files one after the other, and arguments."""
    text = "".join((FILES / name).read_text() for name in names)
    return f"sh -s {said} <<'END-OF-SCRIPT'\n{text}END-OF-SCRIPT\n"


def examined(machine: Machine, *arguments: str, after: str = "true") -> str:
    """What the examination says after a command; it fails if and only if it says something."""
    done = machine.run(f"{after}\n{script('examine', said=' '.join(arguments))}echo $?")
    said, code = done.rstrip("\n").rpartition("\n")[::2]
    assert bool(said) == (code == "1"), done
    return said


def test_everything_of_the_builder_goes_and_whatever_stays_is_seen(cleaned: Machine) -> None:
    kept = "ls ~root/.bashrc /etc/ssl/certs/ca-certificates.crt /usr/sbin/kamailio /usr/sbin/sshd >/dev/null"
    assert cleaned.run(f"{kept} && cat /etc/machine-id /etc/hostname") == "localhost\n"
    assert examined(cleaned, "cleaned") == ""
    for make, wanted in DIRT.values():
        said = examined(cleaned, "cleaned", after=make)
        what, _, which = wanted.partition(": ")
        assert [line for line in said.splitlines() if line.startswith(what) and which in line], (wanted, said)


def test_a_droplet_that_started_from_it(cleaned: Machine) -> None:
    packages = ("kamailio", "certbot")
    assert examined(cleaned, "started", *packages).splitlines() == [
        "the machine has no identity: /etc/machine-id",
        "cloud-init knows none or several machines",
    ]
    for name in ("identity", "host key", "user_data", "login"):
        cleaned.run(DIRT[name][0])
    cleaned.run("cp /etc/ssh/ssh_host_ed25519_key /var/lib/cloud/instances/1/user-data.txt")
    assert examined(cleaned, "started", *packages) == ""
    assert examined(cleaned, "started", *packages, "rtpengine-daemon") == "rtpengine-daemon is not installed"
    cleaned.run("cp /etc/ssh/ssh_host_ed25519_key /root/key; mkdir /var/lib/cloud/instances/2")
    (cleaned.shared / "boots").write_text("-1 a\n 0 b\n")
    assert examined(cleaned, "started", *packages).splitlines() == [
        "private keys of others: /root/key ",
        "cloud-init knows none or several machines",
        "there is a journal of other machines",
    ]
