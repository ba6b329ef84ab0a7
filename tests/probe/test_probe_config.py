import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from sbc_probe.config import Config, ConfigError


def test_a_file_becomes_a_config(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    file.write_text(json.dumps({**settings, "fqdn": "SBC.Example.com"}))
    config = Config.load(file)
    assert config.fqdn == "sbc.example.com"
    assert config.port == 5061
    assert config.listen_addresses == (("127.0.0.1", 0),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fqdm": "x"}, "unknown key fqdm"),
        ({"proxies": None}, "NoneType"),
        ({"signalling_networks": ["52.112.0.0/33"]}, "not a valid netmask"),
        ({"address": "sbc.example.com"}, "sbc.example.com"),
        ({"public_address": "sbc.example.com"}, "sbc.example.com"),
        ({"listen": "127.0.0.1:9061"}, "listen is a list"),
        ({"listen": ["127.0.0.1:9061", "0.0.0.0:9061"]}, "0.0.0.0 is neither a loopback address"),
        ({"listen": ["127.0.0.1:http"]}, "http"),
        ({"options_interval": "soon"}, "soon"),
        ({"issued_by": "fate"}, "none of certbot, files"),
        ({"clouds_reviewed": "lately"}, "lately"),
    ],
)
def test_a_mistake_is_named(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config.parse({**settings, **change})


def test_the_service_may_listen_on_the_address_of_the_sbc_too(settings: dict[str, Any]) -> None:
    where = ["127.0.0.1:9061", "203.0.113.10:9061"]
    config = Config.parse({**settings, "address": "203.0.113.10", "listen": where})
    assert config.listen_addresses == (("127.0.0.1", 9061), ("203.0.113.10", 9061))


def test_a_missing_key_and_a_missing_file_are_named(settings: dict[str, Any], tmp_path: Path) -> None:
    del settings["fqdn"]
    with pytest.raises(ConfigError, match="missing key fqdn"):
        Config.parse(settings)
    with pytest.raises(ConfigError, match=r"nothing\.json"):
        Config.load(tmp_path / "nothing.json")


def test_a_file_of_before_still_loads(settings: dict[str, Any]) -> None:
    config = Config.parse(settings)
    assert config.tenants == ()
    assert config.public_address == config.address
    assert config.certificate_names == (config.fqdn,)
    assert (config.issued_by, config.rehearsal, config.clouds_reviewed) == ("certbot", False, None)


def test_what_is_for_several_tenants_is_read(settings: dict[str, Any]) -> None:
    config = Config.parse(
        {
            **settings,
            "tenants": ["Fabrikam.sbc.example.com"],
            "certificate_names": ["sbc.example.com", "*.sbc.example.com"],
            "clouds_reviewed": "2026-11-23",
        }
    )
    assert config.tenants == ("fabrikam.sbc.example.com",)
    assert config.certificate_names == ("sbc.example.com", "*.sbc.example.com")
    assert config.clouds_reviewed == date(2026, 11, 23)
