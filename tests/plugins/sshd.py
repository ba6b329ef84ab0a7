"""A Debian 13 machine that ansible-playbook reaches over SSH: a root directory of its own, and nothing of this one's.

Its root is `python -m lab kamailio-root`, named in KAMAILIO_ROOT, under an overlay that ends with the test. Its syslog
is found in `shared`/log, the command lines of its Python in `shared`/argv.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = os.environ.get("KAMAILIO_ROOT", "")
_START = r"""
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o lowerdir="$2",upperdir="$1/upper",workdir="$1/work" "$3"
mount -t tmpfs none "$3/dev"
mount -t proc proc "$3/proc"
for device in "null 3" "zero 5" "random 8" "urandom 9"; do
    mknod -m 666 "$3/dev/${device% *}" c 1 "${device#* }"
done
mkdir -p "$3/run/sshd" "$3/shared" "$3/dev/shm"
mount --bind "$4" "$3/shared"
install -m 755 "$4"/bin/* "$3/usr/local/bin/"
exec chroot "$3" /bin/sh -ec '
    python3 /usr/local/bin/syslog
    exec /usr/sbin/sshd -D -e -p "$0" -h /shared/key -o ListenAddress=127.0.0.1 -o PidFile=none -o UsePAM=no \
        -o AuthorizedKeysFile=/shared/key.pub -o StrictModes=no \
        -o PermitRootLogin=yes -o PasswordAuthentication=no' "$5"
"""
_SYSLOG = r"""
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
    log.bind("/dev/log")
    if os.fork():
        raise SystemExit
    while True:
        with open("/shared/log", "ab") as file:
            file.write(log.recv(1 << 20) + b"\n")
"""
_PYTHON = """#!/bin/sh
echo "$0 $*" >>/shared/argv
exec /usr/bin/python3 "$@"
"""


class Machine:
    """One such machine; `shared` is a directory of this one that it sees as /shared."""

    def __init__(self, directory: Path) -> None:
        self.shared, self.port = directory / "shared", free_port()
        self._places = [directory / name for name in ("layer", "root")]
        for place in (self.shared, *self._places):
            place.mkdir(parents=True)
        (self.shared / "bin").mkdir()
        self.add("syslog", _SYSLOG)
        self.add("logged-python", _PYTHON)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.shared / "key")], check=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, object]:
        """What an inventory says of it."""
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.shared / "key"),
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o ControlMaster=no"
            " -o ControlPath=none",
            "ansible_python_interpreter": "/usr/local/bin/logged-python",
        }

    def add(self, name: str, text: str) -> None:
        """A program that it will have in /usr/local/bin from its next start on."""
        (self.shared / "bin" / name).write_text(text)

    def start(self) -> None:
        """Begin with an empty overlay: a droplet that was just made."""
        layer, root = map(str, self._places)
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _START,
            "sh",
        ]
        self._process = subprocess.Popen(
            [*command, layer, ROOT, root, str(self.shared), str(self.port)], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, self._process.stderr and self._process.stderr.read().decode()
            time.sleep(0.05)
        self.destroy()
        raise AssertionError("sshd does not listen")

    def destroy(self) -> None:
        """End it; what was on it is lost."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def run(self, command: str) -> str:
        """A shell command on it. Raises CalledProcessError."""
        ssh = ["ssh", "-i", str(self.shared / "key"), "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        ssh += ["-o", "StrictHostKeyChecking=no", "-p", str(self.port), "root@127.0.0.1", command]
        return subprocess.run(ssh, check=True, capture_output=True, text=True).stdout


def is_available() -> bool:
    return bool(ROOT) and os.geteuid() == 0 and shutil.which("ssh") is not None


def free_port() -> int:
    """One below those that Linux gives to whoever asks for any, so that it stays free until it is used."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
