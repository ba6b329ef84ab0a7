"""The client: what is repeated, what is not, and what an error tells."""

from __future__ import annotations

import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ansible.module_utils.digitalocean import ApiError, Client, checked_endpoint, fingerprint, public_address

from tests.plugins.support import TOKEN, Api

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVpxtvBTE8z3P3cVRdfNVNqbXqBSdGi1aeKv+3Jo4jM operator"


@pytest.mark.parametrize("kind", ["500", "502html", "dropped", "429", "422pending"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_safe_is_repeated(api: Api, kind: str, method: str) -> None:
    api.client.call("POST", "tags", {"name": "sbc"})
    api.fault(kind, method, "tags/sbc", count=2)
    api.client.call(method, "tags/sbc")


def test_a_lost_delete_is_a_delete(api: Api) -> None:
    api.client.call("POST", "tags", {"name": "sbc"})
    api.fault("lost", "DELETE", "tags/*")
    api.client.delete("tags/sbc")
    assert api.client.get("tags/sbc", "tag") is None


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited, each time."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def test_retry_after_is_honoured(api: Api, pauses: list[float]) -> None:
    api.fault("429", "GET", "account", retry_after=7)
    api.client.call("GET", "account")
    (pause,) = pauses
    assert 7 <= pause < 8


def test_an_exhausted_hour_fails_and_says_until_when(api: Api) -> None:
    api.control("POST", "account", {"requests_per_hour": 1})
    api.client.call("GET", "account")
    began = time.monotonic()
    with pytest.raises(ApiError, match=r"429 .* used up: run it again after \d\d:\d\d:\d\d UTC") as caught:
        api.client.call("GET", "account")
    assert caught.value.status == 429
    assert time.monotonic() - began < 60


def test_a_limit_without_an_end_is_waited_out_for_a_while(api: Api) -> None:
    api.fault("429", count=100)
    with pytest.raises(ApiError, match="GET account: 429 too_many_requests: API Rate limit exceeded"):
        Client(TOKEN, api.endpoint, patience=0.1).call("GET", "account")


def test_an_error_keeps_what_support_asks_for(api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        api.droplet(region="nowhere")
    error = caught.value
    assert (error.method, error.path, error.status, error.id) == ("POST", "droplets", 422, "unprocessable_entity")
    assert error.message
    assert error.request_id
    assert error.request_id in str(error)


def test_a_gateways_page_is_no_message(api: Api) -> None:
    api.fault("502html", count=2)
    with pytest.raises(ApiError, match=r"^GET account: 502: Bad Gateway \(request [0-9a-f-]+\)$"):
        Client(TOKEN, api.endpoint, attempts=2).call("GET", "account")


def test_what_is_no_json_is_an_error() -> None:
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        client = Client(TOKEN, f"http://127.0.0.1:{server.server_port}/v2/")
        with pytest.raises(ApiError, match="GET account"):
            client.call("GET", "account")
        with pytest.raises(ApiError, match="GET tags"):
            client.get_all("tags", "tags")
        server.shutdown()


def test_a_post_is_not_repeated_blindly(api: Api) -> None:
    api.fault("lost", "POST", "droplets")
    with pytest.raises(ApiError, match="no answer"):
        api.droplet("sbc")
    assert len(api.client.get_all("droplets", "droplets")) == 1


@pytest.mark.parametrize(("kind", "posts"), [("lost", 1), ("dropped", 2), ("500", 2), ("502html", 2)])
def test_a_creation_without_an_answer_makes_one_droplet(api: Api, kind: str, posts: int) -> None:
    api.fault(kind, "POST", "droplets")
    body = {"name": "sbc1", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "tags": ["sbc"]}

    def droplets() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api.client.get_all("droplets", "droplets", tag_name="sbc")
        return found

    made = api.client.create("droplets", "droplet", body, lambda: next(iter(droplets()), None))
    assert [each["id"] for each in droplets()] == [made["id"]]
    assert sum(line.startswith("POST") for line in api.requests()) == posts


def test_a_creation_that_keeps_failing_ends(api: Api) -> None:
    api.fault("500", "POST", "tags", count=10)
    with pytest.raises(ApiError, match="500 server_error"):
        api.client.ensure_tag("sbc")
    assert sum(line.startswith("POST") for line in api.requests()) == 3


def test_all_pages_are_read(api: Api) -> None:
    for number in range(5):
        api.client.call("POST", "tags", {"name": f"t{number}"})
    assert len(api.client.get_all("tags", "tags", per_page="2")) == 5
    assert sum("GET tags " in line for line in api.requests()) == 3


def test_the_token_stays_at_its_endpoint(api: Api) -> None:
    with pytest.raises(ApiError, match="lies outside"):
        api.client.call("GET", api.endpoint.replace("127.0.0.1", "localhost") + "account")


def test_a_netrc_does_not_replace_the_token(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Client(TOKEN, api.endpoint).call("GET", "account")


def test_silence_ends_in_time(pauses: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = "http://{}:{}/v2/".format(*closed.getsockname())
        with pytest.raises(ApiError, match="no answer") as caught:
            Client(TOKEN, endpoint, attempts=3).call("GET", "account")
    assert len(pauses) == 2
    assert sum(pauses) < 5
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["", "api.digitalocean.com/v2/", "https://api.digitalocean.com/", "http://api.digitalocean.com/v2/"]
)
def test_an_endpoint_that_cannot_be_one(endpoint: str) -> None:
    with pytest.raises(ValueError, match="API endpoint"):
        checked_endpoint(endpoint)


def test_an_endpoint_gets_its_slash() -> None:
    assert checked_endpoint("https://api.digitalocean.com/v2") == "https://api.digitalocean.com/v2/"


def test_fingerprint_as_ssh_keygen_makes_it() -> None:
    assert fingerprint(KEY) == fingerprint(KEY.rsplit(" ", 1)[0]) == "84:ca:b1:de:1c:1a:91:31:f3:35:78:6f:ed:a4:72:bf"


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 ?", KEY.replace("ssh-ed25519", "ssh-rsa")])
def test_no_fingerprint_of_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="not an OpenSSH public key"):
        fingerprint(text)


def test_public_address_is_not_the_private_one() -> None:
    private = {"ip_address": "10.0.0.2", "type": "private"}
    public = {"ip_address": "203.0.113.10", "type": "public"}
    assert public_address({"networks": {"v4": [private, public]}}) == "203.0.113.10"
    assert public_address({"networks": {"v4": [private]}}) is None
    reserved = {"type": "public", "ip_address": "198.51.100.7"}
    assert public_address({"networks": {"v4": [reserved, public]}}, "198.51.100.7") == "203.0.113.10"
    assert public_address({"networks": {"v4": []}}) is None
