"""The lab's API, every answer of which is held against DigitalOcean's published contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse

from tests.lab.api import CONTRACT, Lab


@pytest.fixture(scope="session")
def contract() -> OpenAPI | None:
    return OpenAPI.from_file_path(str(CONTRACT)) if CONTRACT.exists() else None


@pytest.fixture
def lab(contract: OpenAPI | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab()
    monkeypatch.setenv("DIGITALOCEAN_END_POINT", f"{lab.url}/v2/")
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", "token")
    send = requests.Session.send

    def checked(session: requests.Session, request: Any, **options: Any) -> requests.Response:
        response = send(session, request, **options)
        if contract and request.url.startswith(lab.url) and "html" not in response.headers.get("content-type", ""):
            path = request.path_url.partition("?")[0].rstrip("/")
            contract.validate_response(
                MockRequest("https://api.digitalocean.com", request.method.lower(), path),
                MockResponse(response.content, response.status_code, dict(response.headers)),
            )
        return response

    monkeypatch.setattr(requests.Session, "send", checked)
    yield lab
    lab.close()
