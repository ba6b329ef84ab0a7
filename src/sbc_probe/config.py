"""What the probe is told about its SBC: one JSON file, /etc/sbc-probe.json."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

DEFAULT_PATH = Path("/etc/sbc-probe.json")
# Who gets the certificate: certbot, or the customer, who brings it as files.
ISSUERS = ("certbot", "files")


class ConfigError(Exception):
    """The configuration file cannot be used; the text names the file and the key."""


@dataclass(frozen=True, slots=True)
class Config:
    """One customer's SBC.

    Times are in seconds. `proxies` are host names in Microsoft's order. The names must lead to `public_address`:
    `address`, which is the machine's own, unless another is reserved for it. `answer_timeout` is Kamailio's fr_timer,
    after which an OPTIONS counts as unanswered. `trusted_roots` are those that our own certificate must lead to,
    `proxy_roots` those that Kamailio accepts of Microsoft's proxies. `microsoft_options_interval` is the pace of
    Microsoft's own OPTIONS: about once a minute in practice, but stated nowhere by Microsoft, therefore a setting.
    `tenants` are the names of further tenants here, `certificate_names` what the certificate has to carry (without any:
    the FQDN). `rehearsal`: it comes from a staging directory on purpose, so that nobody trusts it. `renewal_record`
    is what certbot's last run came to, as `sbc-probe renewal` wrote it, `loaded` the files that Kamailio has read.
    `clouds_reviewed` is the day on which what is known of Microsoft's clouds was last compared with Microsoft's own
    pages. Behind the socket `packet_filter` the rules of nftables are listed. `time_servers` say how late it is; where
    there are none, nobody is asked. `listen` has ADDRESS:PORT of the service, `history` is the file in which it
    remembers.
    """

    customer: str
    fqdn: str
    address: str
    proxies: tuple[str, ...]
    signalling_networks: tuple[IPv4Network, ...]
    tenants: tuple[str, ...] = ()
    public_address: str = ""
    cloud: str = "commercial"
    port: int = 5061
    options_interval: float = 60
    answer_timeout: float = 5
    microsoft_options_interval: float = 60
    rpc_socket: str = "/run/kamailio/rpc.sock"
    certificate: str = "/etc/kamailio/tls/fullchain.pem"
    certificate_names: tuple[str, ...] = ()
    private_key: str = "/etc/kamailio/tls/privkey.pem"
    issued_by: str = "certbot"
    rehearsal: bool = False
    renewal_record: str = "/run/sbc-certificate/renewal.json"
    loaded: str = "/run/kamailio/loaded"
    packet_filter: str = "/run/sbc-packet-filter.sock"
    time_servers: tuple[str, ...] = tuple(f"{number}.debian.pool.ntp.org" for number in range(4))
    clouds_reviewed: date | None = None
    trusted_roots: str = "/etc/ssl/certs/ca-certificates.crt"
    proxy_roots: str = "/etc/kamailio/tls/trusted-roots.pem"
    listen: tuple[str, ...] = ("127.0.0.1:9061",)
    history: str = "/var/lib/sbc-probe/history.sqlite"

    @property
    def addresses(self) -> str:
        """The machine's own address, and the one reserved for it, for people."""
        return self.address + (f", reserved {self.public_address}" if self.public_address != self.address else "")

    @property
    def listen_addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the service listens."""
        return tuple((host, int(port)) for host, _, port in (where.rpartition(":") for where in self.listen))

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Config:
        """Make a Config of decoded JSON; ConfigError on an unknown, missing or unusable value."""
        known = {f.name: f for f in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"unknown key {', '.join(unknown)}")
        if missing := [n for n, f in known.items() if f.default is MISSING and n not in values]:
            raise ConfigError(f"missing key {', '.join(missing)}")
        values = dict(values)
        try:
            values["fqdn"] = values["fqdn"].lower()
            for name in ("proxies", "tenants", "certificate_names"):
                values[name] = tuple(host.lower() for host in values.get(name, ()))
            values["certificate_names"] = values["certificate_names"] or (values["fqdn"],)
            values["public_address"] = values.get("public_address") or values["address"]
            if isinstance(listen := values.get("listen", known["listen"].default), str):
                raise ConfigError("listen is a list of ADDRESS:PORT")
            values["listen"] = tuple(listen)
            if isinstance(servers := values.get("time_servers", known["time_servers"].default), str):
                raise ConfigError("time_servers is a list of names or addresses")
            values["time_servers"] = tuple(servers)
            if reviewed := values.get("clouds_reviewed"):
                values["clouds_reviewed"] = date.fromisoformat(reviewed)
            values["signalling_networks"] = tuple(IPv4Network(n) for n in values["signalling_networks"])
            for name in ("options_interval", "answer_timeout", "microsoft_options_interval"):
                values[name] = float(values.get(name, known[name].default))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(str(error)) from None
        config = cls(**values)
        try:
            if config.issued_by not in ISSUERS:
                raise ConfigError(f"issued_by {config.issued_by!r} is none of {', '.join(ISSUERS)}")
            IPv4Address(config.address)
            IPv4Address(config.public_address)
            for host, _ in config.listen_addresses:
                if host != config.address and not IPv4Address(host).is_loopback:
                    raise ConfigError(f"listen {host} is neither a loopback address nor that of the SBC")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return config

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read the file; ConfigError names it when it cannot be read or used."""
        try:
            return cls.parse(json.loads(path.read_text()))
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}") from None
