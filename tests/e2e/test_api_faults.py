"""The faults of tests/plugins/test_api_faults.py once more, met by rollouts that end with a real droplet."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.__main__ import control
from tests.e2e.customers import customer

# Each kind of fault, and the calls that meet it; a 404 is that of a droplet just after its creation.
CREATIONS = [
    ("POST", "/v2/account/keys"),
    ("POST", "/v2/tags"),
    ("POST", "/v2/firewalls"),
    ("POST", "/v2/droplets"),
    ("POST", "/v2/domains/*/records"),
]
CALLS = [*CREATIONS, ("GET", "/v2/droplets/*"), ("GET", "/v2/firewalls"), ("GET", "/v2/domains/*/records")]
KINDS = [
    pytest.param({"kind": "lost"}, CREATIONS, id="lost"),
    *(
        pytest.param(fault, calls, id=name, marks=pytest.mark.full)
        for name, fault, calls in (
            ("dropped", {"kind": "dropped"}, CALLS),
            ("429", {"kind": "429"}, CALLS),
            ("retry-after", {"kind": "429", "retry_after": 2}, CALLS),
            ("500", {"kind": "500"}, CALLS),
            ("502", {"kind": "502html"}, CALLS),
            ("pending", {"kind": "422pending"}, CALLS),
            ("404", {"kind": "404"}, [("GET", "/v2/droplets/*")]),
        )
    ),
]


@pytest.mark.parametrize(("fault", "calls"), KINDS)
def test_a_droplet_comes_of_it(
    empty_lab: None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    fault: dict[str, object],
    calls: list[tuple[str, str]],
) -> None:
    with customer(f"fault-{request.node.callspec.id}", tmp_path) as one:
        for method, path in calls:
            control("POST", "faults", {"method": method, "path_glob": path, **fault})
        try:
            done = one.provision()
            left = control("GET", "faults")["faults"]
        finally:
            control("DELETE", "faults")
        assert done.code == 0, done.text
        assert left == []
        one.judge()
