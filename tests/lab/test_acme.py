"""The lab's ACME directories with real Pebbles behind them, used as an ACME client uses Let's Encrypt's."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from lab.acme import CERTIFICATE_LIFE, PEBBLE_ENVIRONMENT, Directory, pebble_config
from lab.microsoft import ca

ROOT = Path(__file__).parents[2]
HOSTS = {"production": "acme-v02.api.letsencrypt.org", "staging": "acme-staging-v02.api.letsencrypt.org"}
ADDRESSES = {"production": "127.0.3.1", "staging": "127.0.3.2"}
FQDN = "sbc.contoso.example"
PATIENCE = 60.0


def free_ports(*addresses: str) -> list[int]:
    """One for each address, all different; below those that Linux gives to whoever asks for any, so they stay free."""
    with contextlib.ExitStack() as taken:
        ports: list[int] = []
        for port in random.sample(range(20000, 30000), 100):
            with contextlib.suppress(OSError):
                taken.enter_context(socket.create_server((addresses[len(ports)], port)))
                ports.append(port)
            if len(ports) == len(addresses):
                return ports
    raise AssertionError("no port is free")


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Lab:
    """Two Pebbles, the fronts before them, and their control interface."""

    def __init__(self, directory: Path) -> None:
        self.port, *pebbles = free_ports(ADDRESSES["production"], *["127.0.0.1"] * 2 * len(HOSTS))
        ports = iter(pebbles)
        self.root, leaves = ca.prepare(directory / "ca", HOSTS.values())
        self.control = directory / "acme.sock"
        self.directories = {
            name: Directory(
                host=host,
                address=ADDRESSES[name],
                port=self.port,
                certificate=leaves[host].certificate,
                key=leaves[host].key,
                pebble=f"127.0.0.1:{next(ports)}",
                management=f"127.0.0.1:{next(ports)}",
                root=directory / f"{name}.pem",
            )
            for name, host in HOSTS.items()
        }
        config = directory / "acme.json"
        fronts = {name: asdict(each) for name, each in self.directories.items()}
        config.write_text(
            json.dumps(
                {"control": str(self.control), "ca": str(self.root.certificate), "directories": fronts}, default=str
            )
        )
        environment = os.environ | PEBBLE_ENVIRONMENT | {"PEBBLE_VA_ALWAYS_VALID": "1"}
        self.processes = []
        for name, each in self.directories.items():
            pebble = directory / f"pebble-{name}.json"
            pebble.write_text(json.dumps(pebble_config(each)))
            command = ["pebble", "-strict", "-config", str(pebble)]
            with (directory / f"pebble-{name}.log").open("wb") as log:
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        command = [sys.executable, "-m", "lab.acme", "--config", str(config)]
        self.processes.append(subprocess.Popen(command, cwd=ROOT))
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert [process.poll() for process in self.processes] == [None] * len(self.processes)
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "/orders")[0] == 200
        return False

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        assert self.processes[-1].wait(PATIENCE) == 0
        for process in self.processes:
            process.wait(PATIENCE)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request to the control interface."""
        connection = http.client.HTTPConnection("acme", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.control))
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def request(
        self, directory: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request to a directory, by its own name and with its certificate verified."""
        context = ssl.create_default_context(cafile=self.root.certificate)
        plain = socket.create_connection((ADDRESSES[directory], self.port), timeout=PATIENCE)
        connection = http.client.HTTPSConnection(HOSTS[directory], timeout=PATIENCE)
        with context.wrap_socket(plain, server_hostname=HOSTS[directory]) as connection.sock:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        return answer


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Client:
    """An ACME client with an account (RFC 8555)."""

    def __init__(self, lab: Lab, directory: str) -> None:
        self.lab = lab
        self.directory = directory
        self.urls: dict[str, str] = lab.request(directory, "GET", "/directory").json
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._account: str | None = None
        self._nonce = lab.request(directory, "HEAD", self._path(self.urls["newNonce"])).headers["replay-nonce"]
        self._account = self.post(self.urls["newAccount"], {"termsOfServiceAgreed": True}).headers["location"]

    def _path(self, url: str) -> str:
        host = f"https://{HOSTS[self.directory]}"
        assert url.startswith(f"{host}/"), url
        return url.removeprefix(host)

    def post(self, url: str, payload: object = None) -> Answer:
        """A signed request; without a payload, POST-as-GET."""
        numbers = self._key.public_key().public_numbers()
        x, y = (b64(number.to_bytes(32)) for number in (numbers.x, numbers.y))
        who = {"kid": self._account} if self._account else {"jwk": {"kty": "EC", "crv": "P-256", "x": x, "y": y}}
        protected = b64(json.dumps({"alg": "ES256", "nonce": self._nonce, "url": url, **who}).encode())
        text = "" if payload is None else b64(json.dumps(payload).encode())
        r, s = decode_dss_signature(self._key.sign(f"{protected}.{text}".encode(), ec.ECDSA(hashes.SHA256())))
        jws = {"protected": protected, "payload": text, "signature": b64(r.to_bytes(32) + s.to_bytes(32))}
        answer = self.lab.request(
            self.directory,
            "POST",
            self._path(url),
            json.dumps(jws).encode(),
            {"Content-Type": "application/jose+json", "User-Agent": "a client"},
        )
        if nonce := answer.headers.get("replay-nonce"):
            self._nonce = nonce
        return answer

    def order(self, *names: str) -> Answer:
        return self.post(self.urls["newOrder"], {"identifiers": [{"type": "dns", "value": name} for name in names]})

    def certificate(self, *names: str) -> bytes:
        """A chain for `names`, issued."""
        answer = self.order(*names)
        assert answer.status == 201, answer
        order, where = answer.json, answer.headers["location"]
        for url in order["authorizations"]:
            challenge = self.post(url).json["challenges"][0]
            assert self.post(challenge["url"], {}).status == 200
        self._until(where, "ready")
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
        )
        csr = b64(request.public_bytes(serialization.Encoding.DER))
        assert self.post(order["finalize"], {"csr": csr}).status == 200
        return self.post(self._until(where, "valid")["certificate"]).body

    def _until(self, order: str, status: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while (found := self.post(order).json)["status"] != status:
            assert found["status"] in ("pending", "processing", "ready"), found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("acme"))
    yield lab
    lab.close()


@pytest.fixture
def lab(running: Lab) -> Lab:
    """The directories as they were at the start."""
    assert running.ask("POST", "/reset") == (204, None)
    return running


def root_of(lab: Lab, directory: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(lab.directories[directory].root.read_bytes())


def test_each_directory_issues_under_its_own_name_and_root(lab: Lab) -> None:
    for directory, host in HOSTS.items():
        client = Client(lab, directory)
        assert client.urls["newOrder"].startswith(f"https://{host}/")
        leaf, *between = x509.load_pem_x509_certificates(client.certificate(FQDN))
        chain = [leaf, *between, root_of(lab, directory)]
        for certificate, issuer in pairwise(chain):
            certificate.verify_directly_issued_by(issuer)
        life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        assert abs(life - timedelta(seconds=CERTIFICATE_LIFE)) <= timedelta(seconds=1)
    assert root_of(lab, "production") != root_of(lab, "staging")
    assert lab.ask("GET", "/orders") == (200, {"production": 1, "staging": 1})


def test_orders_are_counted_with_their_names(lab: Lab) -> None:
    client = Client(lab, "production")
    assert lab.ask("GET", "/orders") == (200, {"production": 0, "staging": 0}), "an account is no order"
    client.order(FQDN, f"*.{FQDN}")
    client.post(client.urls["newOrder"], {"identifiers": []})
    [good, bad] = lab.ask("GET", "/orders/production")[1]
    assert (good["names"], good["status"]) == ([FQDN, f"*.{FQDN}"], 201)
    assert (bad["names"], bad["status"] // 100) == ([], 4)
    assert lab.ask("GET", "/orders")[1] == {"production": 2, "staging": 0}
    assert lab.ask("GET", "/orders/rehearsal")[0] == 404


def test_rate_limited(lab: Lab) -> None:
    client = Client(lab, "production")
    assert lab.ask("POST", "/fault", {"kind": "rate_limited"})[1]["fault"] == "rate_limited"
    answer = client.order(FQDN)
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (429, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 3600
    assert answer.json["type"] == "urn:ietf:params:acme:error:rateLimited"
    assert re.match(
        r"too many certificates \(5\) already issued for this exact set of identifiers in the last 168h0m0s, "
        r"retry after \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC",
        answer.json["detail"],
    )
    assert Client(lab, "production"), "anything but an order is answered"
    assert Client(lab, "staging").order(FQDN).status == 201, "the other directory is as before"
    lab.ask("POST", "/fault", {"kind": "none"})
    assert client.order(FQDN).status == 201, "with the nonce of the refusal"
    assert [order["status"] for order in lab.ask("GET", "/orders/production")[1]] == [429, 201]


def test_broken_and_down(lab: Lab) -> None:
    client = Client(lab, "staging")
    lab.ask("POST", "/fault", {"kind": "error", "directory": "staging"})
    answer = lab.request("staging", "GET", "/directory")
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (500, "text/html")
    assert client.order(FQDN).status == 500
    assert lab.ask("POST", "/fault", {"kind": "down", "directory": "staging"})[1]["listening"] is False
    with pytest.raises(ConnectionRefusedError):
        client.order(FQDN)
    assert lab.request("production", "GET", "/directory").status == 200
    assert lab.ask("POST", "/fault", {"kind": "none", "directory": "staging"})[1]["listening"] is True
    assert client.order(FQDN).status == 201, "the account is still known"


def test_connections_that_are_open_end_when_the_directory_goes_down(lab: Lab) -> None:
    context = ssl.create_default_context(cafile=lab.root.certificate)
    plain = socket.create_connection((ADDRESSES["production"], lab.port), timeout=PATIENCE)
    with context.wrap_socket(plain, server_hostname=HOSTS["production"]) as kept:
        kept.sendall(f"GET /directory HTTP/1.1\r\nHost: {HOSTS['production']}\r\n\r\n".encode())
        assert kept.recv(15) == b"HTTP/1.1 200 OK"
        lab.ask("POST", "/fault", {"kind": "down"})
        with contextlib.suppress(ConnectionError):
            while kept.recv(65536):
                pass


def test_a_certificate_grows_old(lab: Lab) -> None:
    chain = Client(lab, "production").certificate(FQDN)
    leaf, *between = x509.load_pem_x509_certificates(chain)
    body = {"certificate": chain.decode(), "seconds_left": 5 * 86_400}
    status, answer = lab.ask("POST", "/aged", body)
    assert status == 200, answer
    old, *issuers = x509.load_pem_x509_certificates(answer["chain"].encode())
    assert issuers == between
    old.verify_directly_issued_by(issuers[0])
    assert abs(old.not_valid_after_utc - datetime.now(UTC) - timedelta(days=5)) < timedelta(minutes=1)
    assert old.not_valid_after_utc - old.not_valid_before_utc == leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert (old.public_key(), old.subject) == (leaf.public_key(), leaf.subject)
    assert list(old.extensions) == list(leaf.extensions)
    assert old.serial_number != leaf.serial_number

    stranger, _ = ca.Authority.make("nobody").issue([FQDN])
    body["certificate"] = stranger.public_bytes(serialization.Encoding.PEM).decode()
    assert lab.ask("POST", "/aged", body)[0] == 400
    staged = Client(lab, "staging").certificate(FQDN)
    assert lab.ask("POST", "/aged", body | {"certificate": staged.decode()})[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fault", {"kind": "tired"}),
        ("/fault", {}),
        ("/fault", {"kind": "down", "directory": "rehearsal"}),
        ("/fault", {"kind": 1}),
        ("/aged", {"certificate": "x"}),
        ("/aged", {"certificate": "x", "seconds_left": 1}),
    ],
)
def test_control_says_what_is_wrong(lab: Lab, path: str, body: object) -> None:
    status, answer = lab.ask("POST", path, body)
    assert (status, bool(answer["error"])) == (400, True)
