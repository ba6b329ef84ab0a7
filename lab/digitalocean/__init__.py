"""DigitalOcean's API v2 on loopback: stateful, with droplets behind it that someone else runs."""

from lab.digitalocean.account import Account
from lab.digitalocean.api import make_app
from lab.digitalocean.control import make_control
from lab.digitalocean.machines import FirewallRules, Machines, MachineSpec, PortRule, RecordsOnly

__all__ = [
    "Account",
    "FirewallRules",
    "MachineSpec",
    "Machines",
    "PortRule",
    "RecordsOnly",
    "make_app",
    "make_control",
]
