"""The lab's Internet: one router namespace to which every host has a link of its own.

Nothing here knows a way to the world: the router has no default route, the host forwards nothing, and what a
droplet may reach of the host is one port, the package proxy. A droplet's cloud firewall is a pair of chains on
its link, as DigitalOcean's sits in front of the machine and not inside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

from lab import settings
from lab.commands import run
from lab.digitalocean.machines import FirewallRules, PortRule

NAMESPACES = Path("/run/netns")

_BASE_RULES = f"""
table inet lab {{
    map inbound {{ type ifname : verdict; }}
    map outbound {{ type ifname : verdict; }}
    map reserved {{ type ipv4_addr : ipv4_addr; }}
    map anchors {{ type ipv4_addr : ipv4_addr; }}
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        ip daddr {settings.ANCHORS_NETWORK} drop
        ip daddr set ip daddr map @reserved
    }}
    chain leaving {{
        type filter hook postrouting priority srcnat; policy accept;
        ip saddr set ip saddr map @anchors
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ct direction reply accept
        iifname vmap @outbound
        oifname vmap @inbound
        oifname "uplink" ip daddr {settings.CONTROLLER_ADDRESS} tcp dport {settings.PROXY_PORT} accept
        oifname "uplink" drop
    }}
}}
"""


def _ip(*lines: str, namespace: str | None = None) -> None:
    run("ip", *(("-n", namespace) if namespace else ()), "-batch", "-", stdin="\n".join(lines) + "\n")


def _nft(rules: str) -> None:
    run("nsenter", f"--net={NAMESPACES / settings.ROUTER}", "nft", "-f", "-", stdin=rules)


def in_namespace(name: str) -> list[str]:
    """The command prefix that runs a program in one of the lab's namespaces."""
    return ["nsenter", f"--net={NAMESPACES / name}"]


def up() -> None:
    """Make the router and the controller's own link to it.

    Raises CommandError when the kernel refuses, for instance without root.
    """
    run("ip", "netns", "add", settings.ROUTER)
    run(
        *in_namespace(settings.ROUTER),
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.default.proxy_arp=1",
        "net.ipv6.conf.all.disable_ipv6=1",
        "net.ipv6.conf.default.disable_ipv6=1",
    )
    _nft(_BASE_RULES)
    _ip(
        f"link add {settings.UPLINK} type veth peer name uplink netns {settings.ROUTER}",
        f"addr add {settings.CONTROLLER_ADDRESS}/32 dev {settings.UPLINK}",
        f"link set {settings.UPLINK} up",
    )
    _ip(
        "link set lo up",
        "link set uplink up",
        f"addr add {settings.ROUTER_ADDRESS}/32 dev uplink",
        f"route add {settings.CONTROLLER_ADDRESS}/32 dev uplink",
        namespace=settings.ROUTER,
    )
    _ip(
        f"route add {settings.ROUTER_ADDRESS}/32 dev {settings.UPLINK} src {settings.CONTROLLER_ADDRESS}",
        *(
            f"route add {network} via {settings.ROUTER_ADDRESS} src {settings.CONTROLLER_ADDRESS}"
            for network in (settings.SERVICES_NETWORK, settings.DROPLETS_NETWORK, settings.RESERVED_NETWORK)
        ),
    )


def add_host(name: str, addresses: Iterable[str]) -> str:
    """Give a service of the lab its own namespace and addresses; return the namespace's name."""
    namespace = f"{settings.ROUTER}-{name}"
    run("ip", "netns", "add", namespace)
    _ip(f"link add {name} type veth peer name eth0 netns {namespace}", namespace=settings.ROUTER)
    _ip(
        "link set lo up",
        "link set eth0 up",
        *(f"addr add {address}/32 dev eth0" for address in addresses),
        f"route add {settings.ROUTER_ADDRESS}/32 dev eth0",
        f"route add default via {settings.ROUTER_ADDRESS}",
        namespace=namespace,
    )
    route_to(name, addresses, settings.ROUTER_ADDRESS)
    return namespace


def route_to(link: str, addresses: Iterable[str], gateway: str) -> None:
    """Bring up the router's end of a link and send those addresses there."""
    _ip(
        f"link set {link} up",
        f"addr add {gateway}/32 dev {link}",
        *(f"route add {address}/32 dev {link}" for address in addresses),
        namespace=settings.ROUTER,
    )
    run(*in_namespace(settings.ROUTER), "sysctl", "-qw", f"net.ipv4.neigh.{link}.proxy_delay=0")


def has_link(link: str) -> bool:
    """Whether the router has a link of that name."""
    return bool(run("ip", "-n", settings.ROUTER, "link", "show", link, check=False))


def _matches(rules: Iterable[PortRule], peer: str) -> Iterable[str]:
    for rule in rules:
        networks = [network for network in rule.networks if ":" not in network]
        if not networks:
            continue
        ports = "" if rule.protocol == "icmp" or rule.ports is None else f" th dport {rule.ports}"
        yield f"ip {peer} {{ {', '.join(networks)} }} meta l4proto {rule.protocol}{ports} return"


def set_firewall(link: str, rules: FirewallRules | None) -> None:
    """Put a droplet's firewall on its link; None takes it off.

    Connections that are open are judged again by the new rules, packet by packet, so a port that is closed is closed.
    """
    lines = []
    for direction in ("inbound", "outbound"):
        chain = f"{direction}-{link}"
        lines.append(f"add chain inet lab {chain}")
        lines.append(f"flush chain inet lab {chain}")
        if rules is not None:
            peer = "saddr" if direction == "inbound" else "daddr"
            lines += [f"add rule inet lab {chain} {match}" for match in _matches(getattr(rules, direction), peer)]
            lines.append(f"add rule inet lab {chain} drop")
        lines.append(f'add element inet lab {direction} {{ "{link}" : jump {chain} }}')
    _nft("\n".join(lines) + "\n")


def drop_firewall(link: str) -> None:
    """Forget the chains of a link that is gone."""
    lines = []
    for direction in ("inbound", "outbound"):
        chain = f"{direction}-{link}"
        lines += [
            f"add chain inet lab {chain}",
            f'add element inet lab {direction} {{ "{link}" : jump {chain} }}',
            f'delete element inet lab {direction} {{ "{link}" : jump {chain} }}',
            f"delete chain inet lab {chain}",
        ]
    _nft("\n".join(lines) + "\n")


def route_reserved(address: str, anchor: str | None) -> None:
    """Let a reserved IP lead to a droplet's anchor address, and what comes from there come from it; None: to nobody.

    Without any memory of connections: those that are open when it moves are met by a droplet that does not know them.
    """
    have = json.loads(_nft_list("reserved"))["nftables"]
    old = dict(pair for entry in have for pair in entry.get("map", {}).get("elem", ()))
    lines = []
    if address in old:
        lines.append(f"delete element inet lab reserved {{ {address} : {old[address]} }}")
        lines.append(f"delete element inet lab anchors {{ {old[address]} : {address} }}")
    if anchor is not None:
        lines.append(f"add element inet lab reserved {{ {address} : {anchor} }}")
        lines.append(f"add element inet lab anchors {{ {anchor} : {address} }}")
    _nft("\n".join(lines) + "\n")


def _nft_list(name: str) -> str:
    return run("nsenter", f"--net={NAMESPACES / settings.ROUTER}", "nft", "-j", "list", "map", "inet", "lab", name)


def namespaces() -> list[str]:
    """The lab's namespaces that exist now, the router last."""
    listed = json.loads(run("ip", "-json", "netns", "list") or "[]")
    ours = [entry["name"] for entry in listed if entry["name"].split("-")[0] == settings.ROUTER]
    return sorted(ours, reverse=True)


def hang_up() -> None:
    """End the SSH connections that are open to droplets: Ansible keeps them for a while after its last task."""
    if not Path(f"/sys/class/net/{settings.UPLINK}").exists():
        return
    connected = run("ss", "-Htnp", "dst", settings.DROPLETS_NETWORK)
    for pid in set(re.findall(r'"ssh",pid=(\d+)', connected)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


def down() -> None:
    """Take everything away; what is not there is no error."""
    hang_up()
    run("ip", "link", "delete", settings.UPLINK, check=False)
    for name in namespaces():
        run("ip", "netns", "delete", name)
