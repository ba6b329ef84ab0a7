"""Where the lab lives: its paths, addresses and names, in one place.

Droplets and services have addresses of the networks for benchmarks (RFC 2544); Microsoft's proxies have their own, from
the published signalling networks, since the product admits nobody else. All exist in the lab's namespaces only.
"""

from __future__ import annotations

from pathlib import Path

STATE = Path("/var/lib/teams-sbc-lab")
CACHE = Path("/var/cache/teams-sbc-lab")
RUN = Path("/run/teams-sbc-lab")
LOG = Path("/var/log/teams-sbc-lab")

IMAGE = STATE / "image"
DROPLETS = STATE / "droplets"
SNAPSHOTS = STATE / "snapshots"
CA = STATE / "ca"
ROOTS = STATE / "roots"
READY = RUN / "ready"

API_PORT = 18080
CONTROL_PORT = 18081
CONTROL_URL = f"http://127.0.0.1:{CONTROL_PORT}"

ROUTER = "sbclab"
UPLINK = "sbclab0"
ROUTER_ADDRESS = "198.19.0.1"
CONTROLLER_ADDRESS = "198.19.0.2"
SERVICES_NETWORK = "198.19.0.0/24"
DNS_ADDRESS = "198.19.0.53"
PROXY_PORT = 3128
TIME_ADDRESS = "198.19.0.123"
TIME_NAMES = tuple(f"{number}.debian.pool.ntp.org" for number in range(4))
DROPLETS_NETWORK = "198.18.0.0/16"
DROPLETS_GATEWAY = "198.18.0.1"
RESERVED_NETWORK = "198.19.16.0/20"
ANCHORS_NETWORK = "10.19.0.0/16"

PACKAGES_NAME = "packages.lab.test"

# Let's Encrypt's directories, and the root of each by its file's name in ROOTS.
ACME = {
    "production": ("acme-v02.api.letsencrypt.org", "198.19.0.14", "acme.pem"),
    "staging": ("acme-staging-v02.api.letsencrypt.org", "198.19.0.15", "acme-staging.pem"),
}

MICROSOFT_PROXIES = {
    "sip.pstnhub.microsoft.com": ("commercial", "52.112.0.1"),
    "sip2.pstnhub.microsoft.com": ("commercial", "52.112.0.2"),
    "sip3.pstnhub.microsoft.com": ("commercial", "52.112.0.3"),
    "sip.pstnhub.gov.teams.microsoft.us": ("gcc_high", "52.127.88.1"),
    "sip.pstnhub.dod.teams.microsoft.us": ("dod", "52.127.64.1"),
}

# Whom a proxy's certificate is for when that is its fault.
MISNAMED = "sip.other.example"

# Whose certificates each of Microsoft's clouds accepts, by files in ROOTS: the government's take DigiCert's only.
DIGICERT_ROOT = "digicert.pem"
CLOUD_ROOTS = {
    "commercial": (ACME["production"][2], DIGICERT_ROOT),
    "gcc_high": (DIGICERT_ROOT,),
    "dod": (DIGICERT_ROOT,),
}

# What the lab finds in its customers' account from the start.
DOMAIN = "voip.test"
OPTIONS_INTERVAL = 10
