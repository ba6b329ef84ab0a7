#!/usr/bin/python3
"""What a new droplet is and what it can reach, as JSON: look.py ADDRESS NAME SECONDS HOST:PORT...

ADDRESS is the one that the API gave; NAME, which may be empty, shall lead to it within SECONDS.
"""

import json
import platform
import socket
import subprocess
import sys
import time


def links() -> list[list[str]]:
    """The IPv4 addresses of each network interface."""
    shown = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True).stdout
    return [[each["local"] for each in link["addr_info"] if each["scope"] != "host"] for link in json.loads(shown)]


def resolved(name: str, address: str, seconds: float) -> float | None:
    """Seconds until the name leads to the address alone; None if it never did."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            if {entry[4][0] for entry in socket.getaddrinfo(name, None, socket.AF_INET)} == {address}:
                return round(time.monotonic() - began, 1)
        except OSError:
            pass
        time.sleep(2)
    return None


def reached(peer: str) -> str:
    """Nothing, or why there is no TCP connection."""
    host, _, port = peer.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except OSError as error:
        return str(error)
    return ""


address, name, seconds, *peers = sys.argv[1:]
cloud_init = subprocess.run(["cloud-init", "status"], capture_output=True, text=True)
print(
    json.dumps(
        {
            "system": platform.freedesktop_os_release()["VERSION_ID"],
            "cloud_init": cloud_init.stdout.strip(),
            "cloud_init_code": cloud_init.returncode,
            # What is sent to a reserved IP arrives at the other address of the interface that has the public one.
            "anchors": [each for link in links() if address in link for each in link if each != address],
            "name_after": resolved(name, address, float(seconds)) if name else None,
            "unreached": {peer: why for peer in peers if (why := reached(peer))},
        }
    )
)
