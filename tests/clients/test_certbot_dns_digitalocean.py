"""certbot and its plugin for DigitalOcean's DNS get a wildcard certificate by the lab's API, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab.api import PATIENCE, Lab

pytestmark = pytest.mark.skipif(not shutil.which("pebble"), reason="needs Pebble, Let's Encrypt's test server")
CERTBOT = Path(sys.executable).parent / "certbot"
NAMES = ["sbc.voip.test", "*.sbc.voip.test"]
# Validation without a pause, and no nonce refused at random.
STEADY = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}


@pytest.fixture
def directory(lab: Lab, tls: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of an ACME directory that looks names up in the zones of the lab."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, management = one.getsockname()[1], other.getsockname()[1]
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(tls / "server.pem"),
        "privateKey": str(tls / "server.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": config}))
    command = ["pebble", "-strict", "-config", str(tmp_path / "pebble.json"), "-dnsserver", f"127.0.0.1:{lab.dns_port}"]
    log, environment = tmp_path / "pebble.log", os.environ | STEADY
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as pebble,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while b"ACME directory available" not in log.read_bytes():
                assert pebble.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield f"https://localhost:{port}/dir"
        finally:
            pebble.terminate()


def certbot(lab: Lab, tls: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """certbot with the plugin, as a user of it would run it but for where things are."""
    credentials = home / "digitalocean.ini"
    credentials.touch(0o600)
    credentials.write_text("dns_digitalocean_token = token\n")
    places = [word for name in ("config", "work", "logs") for word in (f"--{name}-dir", str(home / name))]
    plugin = ["--dns-digitalocean-credentials", str(credentials), "--dns-digitalocean-propagation-seconds", "0"]
    trusted = {"REQUESTS_CA_BUNDLE": str(tls / "root.pem"), "DIGITALOCEAN_END_POINT": f"{lab.tls_url}/v2/"}
    return subprocess.run(
        [CERTBOT, *arguments, *places, "--non-interactive", "--dns-digitalocean", *plugin],
        env=os.environ | trusted,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_wildcard_certificate_and_nothing_left_in_the_zone(
    lab: Lab, tls: Path, directory: str, tmp_path: Path
) -> None:
    before = lab.ok("GET", "/domains/voip.test/records")["domain_records"]
    names = [word for name in NAMES for word in ("-d", name)]
    account = ["--server", directory, "--agree-tos", "--register-unsafely-without-email"]
    done = certbot(lab, tls, tmp_path, "certonly", *account, *names)
    assert done.returncode == 0, done.stdout
    (file,) = tmp_path.glob("config/live/*/cert.pem")
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names_in_it = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names_in_it.get_values_for_type(x509.DNSName)) == set(NAMES)
    written = [zones["voip.test"] for zones in lab.zones if len(zones["voip.test"]) > len(before)]
    assert {record["name"] for zone in written for record in zone if record["type"] == "TXT"} == {"_acme-challenge.sbc"}
    assert lab.ok("GET", "/domains/voip.test/records")["domain_records"] == before


def test_a_token_that_is_refused_is_named(lab: Lab, tls: Path, directory: str, tmp_path: Path) -> None:
    lab.control("POST", "/tokens/refuse", {"token": "token"})
    account = ["--server", directory, "--agree-tos", "--register-unsafely-without-email"]
    done = certbot(lab, tls, tmp_path, "certonly", *account, "-d", NAMES[0])
    assert done.returncode != 0
    assert "Unable to authenticate you" in done.stdout
    assert "Did you provide a valid API token?" in done.stdout
