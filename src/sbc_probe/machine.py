"""Rules for the machine around Kamailio: its clock, its packet filter, Kamailio's memory and files. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, collapse_addresses

from sbc_probe.config import Config
from sbc_probe.findings import Cause, Finding
from sbc_probe.model import NOT_LOOKED, Clock, Evidence, Kamailio, Loaded, Memory, PacketFilter, Unread

# How far (s) a clock may be from the truth: far more than NTP leaves, far less than what spoils a verdict.
TOLERANCE = 60.0
# How long (s) after a jump the clock is doubted even where systemd-timesyncd calls it synchronised.
DOUBT = 600.0
# The share of Kamailio's shared memory that should be free.
RESERVE = 0.1


def machine(config: Config, evidence: Evidence) -> Iterator[Finding]:
    yield from _clock(evidence)
    yield from _packet_filter(config, evidence)
    yield from _memory(evidence)
    yield from _files(evidence)
    yield from _witnesses(config, evidence)


def vouched(evidence: Evidence) -> bool:
    """Whether a time server has said lately that this machine's clock is right."""
    clock = evidence.clock
    return isinstance(clock, Clock) and clock.offset is not None and abs(clock.offset) <= TOLERANCE


def _clock(evidence: Evidence) -> Iterator[Finding]:
    clock, now = evidence.clock, evidence.taken_at
    step = "`timedatectl`; `systemctl restart systemd-timesyncd`: a wrong clock judges neither ages nor certificates."
    if isinstance(clock, Clock) and clock.offset is not None and abs(clock.offset) > TOLERANCE:
        way = "ahead of" if clock.offset > 0 else "behind"
        yield Finding(
            Cause.CLOCK_WRONG,
            f"This machine's clock is {abs(clock.offset):.0f} s {way} that of {clock.server or 'the time server'}",
            step,
        )
        return
    if vouched(evidence):
        return
    if isinstance(clock, Clock) and clock.step is not None and abs(clock.step) > TOLERANCE:
        doubtful = clock.stepped_at is None or abs(now - clock.stepped_at) < DOUBT or not clock.synchronized
        if doubtful:
            way = "forward" if clock.step > 0 else "back"
            yield Finding(
                Cause.CLOCK_WRONG,
                f"This machine's clock jumped {way} by {abs(clock.step):.0f} s, and no time server says that it is "
                "right now",
                step,
            )
            return
    if (ahead := _latest(evidence) - now) > TOLERANCE:
        yield Finding(
            Cause.CLOCK_WRONG,
            f"Kamailio noted something at a time that is still {ahead:.0f} s to come: this machine's clock was set "
            "back, and no time server says that it is right now",
            f"{step} If it is right: `systemctl restart kamailio`.",
        )
        return
    match clock:
        case Clock(synchronized=False):
            said = "No time server answers, and systemd-timesyncd has not set this machine's clock lately"
        case Unread(why=why) if clock is not NOT_LOOKED:
            said = f"Nothing is known of this machine's clock: {why}"
        case _:
            return
    yield Finding(Cause.CLOCK_UNCHECKED, said, "`timedatectl`; `systemctl status systemd-timesyncd`")


def _latest(evidence: Evidence) -> float:
    """The last of all moments that Kamailio noted."""
    if not isinstance(evidence.kamailio, Kamailio):
        return 0.0
    moments = [evidence.kamailio.loaded_at]
    if isinstance(evidence.loaded, Loaded):
        moments.append(evidence.loaded.at)
    if evidence.kamailio.theirs:
        moments.append(evidence.kamailio.theirs.at)
    for destination in evidence.kamailio.destinations:
        moments += [destination.sent_at or 0.0, destination.answer.at if destination.answer else 0.0]
    return max(moments)


def _packet_filter(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """Connections that stand are not asked again, so a closed filter counts though Microsoft's OPTIONS still come."""
    found = evidence.packet_filter
    if not isinstance(found, PacketFilter):
        return
    wanted = ", ".join(str(network) for network in config.signalling_networks)
    if found.admitted is None:
        yield Finding(
            Cause.PACKET_FILTER_OPEN,
            f"nftables on this machine lets everybody in to port {config.port}; only Kamailio itself still tells "
            "Microsoft's networks from others",
            "`nft -f /etc/nftables.conf`; `systemctl status nftables`; else run site.yml.",
        )
    elif missing := not_admitted(config.signalling_networks, found.admitted):
        yield Finding(
            Cause.PACKET_FILTER,
            f"nftables on this machine does not let {', '.join(missing)} in to port {config.port}; it lets in "
            f"{', '.join(found.admitted) or 'nobody'}",
            f"`nft -f /etc/nftables.conf`; if that does not name {wanted}, run site.yml.",
        )


def not_admitted(wanted: Sequence[IPv4Network], admitted: Sequence[str]) -> list[str]:
    """Which of the networks are not wholly within what is admitted. What is no IPv4 network admits nothing of them."""
    inside: list[IPv4Network] = []
    for text in admitted:
        try:
            inside.append(IPv4Network(text, strict=False))
        except ValueError:
            continue
    merged = list(collapse_addresses(inside))
    return [str(network) for network in wanted if not any(network.subnet_of(one) for one in merged)]


def _memory(evidence: Evidence) -> Iterator[Finding]:
    if not isinstance(evidence.kamailio, Kamailio):
        return
    match evidence.kamailio.memory:
        case Memory(total=total, used=used) if total - used < RESERVE * total:
            yield Finding(
                Cause.MEMORY_LOW,
                f"{used / 2**20:.0f} of {total / 2**20:.0f} MiB of Kamailio's shared memory are in use",
                "`kamcmd core.shmmem`; `systemctl restart kamailio` gives it back. Every TLS connection takes 80 kB: "
                "kamailio_max_connections.",
            )


def differing(loaded: Loaded) -> list[str]:
    """The files that are not what Kamailio read, those among them that came or went since."""
    names = sorted({*loaded.read, *loaded.on_disk})
    return [name for name in names if loaded.read.get(name) != loaded.on_disk.get(name)]


def _files(evidence: Evidence) -> Iterator[Finding]:
    loaded = evidence.loaded
    if not isinstance(loaded, Loaded):
        return
    if changed := differing(loaded):
        yield Finding(
            Cause.CONFIG_DIFFERS,
            f"{', '.join(changed)}: not what Kamailio read when it last loaded its configuration",
            "Run site.yml, which installs what belongs there and lets Kamailio read it.",
        )


def _witnesses(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """What would have counted and could not be read; what nobody asked for, or this user may not read, is no news."""
    said = [
        f"{what}: {found.why}"
        for what, found in _asked(config, evidence)
        if isinstance(found, Unread) and found != NOT_LOOKED and not found.denied
    ]
    looked_up = evidence.proxies.values()
    if looked_up and not any(one.addresses or one.negative for one in looked_up):
        said.append(f"the proxies in DNS: {', '.join(sorted({one.error or 'no address' for one in looked_up}))}")
    if said:
        yield Finding(
            Cause.WITNESS_UNREAD,
            f"Judged without what could not be read: {'; '.join(said)}",
            "`sbc-probe check` as root; `journalctl -u sbc-probe -u kamailio -n 50`; run site.yml, which installs what "
            "the probe reads.",
        )


def _asked(config: Config, evidence: Evidence) -> Iterator[tuple[str, object]]:
    """The witnesses without which the rest still proves, but for those of which another cause speaks."""
    yield "nftables", evidence.packet_filter
    yield "the files that Kamailio has read", evidence.loaded
    yield "what listens on this machine", evidence.listening
    if config.issued_by == "certbot":
        yield "certbot's last run", evidence.renewal
    if isinstance(kamailio := evidence.kamailio, Kamailio):
        yield "Kamailio's TLS connections", kamailio.connections
        yield "Kamailio's memory", kamailio.memory
        if config.tenants:
            yield "the names of tenants that Kamailio knows", kamailio.tenants
