"""The matrix of faults: what is broken, by which commands, what the probe then says, and how it is mended. Data only.

A command begins with `lab` (the lab's own, see docs/lab.md), with `playbook` (ansible-playbook), or it is one that root
types on the customer's droplet. What `lab certificate` has bought is installed where Kamailio has its own.

`tests/e2e/test_faults.py` provokes every row, and docs/faults.md is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FQDN = "contoso.voip.test"
FIRST, SECOND, THIRD = "sip.pstnhub.microsoft.com", "sip2.pstnhub.microsoft.com", "sip3.pstnhub.microsoft.com"
LIVE = "/etc/kamailio/live"
OWN_AGAIN = f"RENEWED_LINEAGE=/etc/letsencrypt/live/{FQDN} /etc/letsencrypt/renewal-hooks/deploy/kamailio"
RESTART = "systemctl restart kamailio"
# What the droplet and Kamailio remember of DNS, here for a minute.
FORGET = ("resolvectl flush-caches", "kamcmd dns.delete_all")
# It asks the time servers when it starts, and then seldom.
ASK_AGAIN = "systemctl restart sbc-probe"
HISTORY = "/var/lib/private/sbc-probe"

Group = Literal[
    "The way to a proxy",
    "What a proxy answers",
    "TLS, which they refuse to us",
    "TLS, which we refuse to them",
    "Our name in DNS",
    "Microsoft's own OPTIONS",
    "Somebody's hand",
    "Kamailio and the droplet",
    "Renewals",
]


@dataclass(frozen=True)
class Fault:
    """One row.

    `says` are words of the evidence or the next step, in this order, `…` standing for any others. `ends` is how it is
    undone; without any it ends by itself. A cause whose state is proven is a remark.

    `by_root`: only root may see it, so `sbc-probe check` is asked in place of the service. `full`: for the longer run.
    `verify`: playbooks/verify.yml is let judge as well. `comes_and_goes`: it may look good before the cause is named.
    """

    id: str
    group: Group
    broken: str
    begins: tuple[str, ...]
    cause: str
    says: str
    ends: tuple[str, ...] = ()
    state: str = "failed"
    by_root: bool = False
    full: bool = True
    verify: bool = False
    comes_and_goes: bool = False


def _proxy(id: str, group: Group, broken: str, kind: str, cause: str, says: str, **more: Any) -> Fault:
    """One proxy of the three has a fault."""
    mended = (f"lab break {SECOND} none",)
    return Fault(id, group, broken, (f"lab break {SECOND} {kind}",), cause, says, mended, **more)


def _bought(id: str, broken: str, cause: str, says: str, **more: Any) -> Fault:
    """A certificate with a fault is installed by hand."""
    begins = (f"lab certificate {FQDN} --out DIRECTORY --fault {id}", "kamcmd tls.reload")
    return Fault(f"certificate-{id}", "TLS, which they refuse to us", broken, begins, cause, says, (OWN_AGAIN,), **more)


def _edited(id: str, group: Group, broken: str, edit: str, cause: str, says: str, **more: Any) -> Fault:
    """Somebody edits kamailio.cfg and restarts Kamailio."""
    file = f"{LIVE}/kamailio.cfg"
    ends = (f"mv {file}.orig {file}", RESTART)
    return Fault(id, group, broken, (f"sed -i.orig '{edit}' {file}", RESTART), cause, says, ends, **more)


def _all(kind: str) -> tuple[str, ...]:
    return tuple(f"lab break {proxy} {kind}" for proxy in (FIRST, SECOND, THIRD))


MATRIX = (
    # ------------------------------------------------------------------ the way to a proxy
    _proxy(
        "proxy-down",
        "The way to a proxy",
        "nothing listens at a proxy",
        "down",
        "proxy_unreachable",
        f"{SECOND}: 52.112.0.2 port 5061 refuses TCP",
        full=False,
        verify=True,
    ),
    _proxy(
        "proxy-blackhole",
        "The way to a proxy",
        "packets to a proxy vanish",
        "blackhole",
        "proxy_unreachable",
        f"{SECOND}: 52.112.0.2 port 5061: TCP timeout",
    ),
    Fault(
        "proxy-dns-silent",
        "The way to a proxy",
        "the name servers say nothing of a proxy",
        (f"lab dns {SECOND} silent", *FORGET),
        "proxy_dns",
        f"{SECOND}: …does not answer",
        (f"lab dns {SECOND} none",),
    ),
    Fault(
        "proxy-dns-absent",
        "The way to a proxy",
        "DNS does not know a proxy's name",
        (f"lab dns {SECOND} absent", *FORGET),
        "proxy_dns",
        f"{SECOND}: …NXDOMAIN",
        (f"lab dns {SECOND} none",),
    ),
    Fault(
        "proxy-dns-elsewhere",
        "The way to a proxy",
        "a proxy's name leads to an address outside of the cloud's networks, where somebody else answers",
        (f"lab dns {SECOND} 52.127.88.1", *FORGET),
        "proxy_dns",
        f"{SECOND}: …52.127.88.1",
        (f"lab dns {SECOND} none", *FORGET),
    ),
    # ------------------------------------------------------------------ what a proxy answers
    _proxy(
        "proxy-refuses",
        "What a proxy answers",
        "403 from one proxy alone",
        "refuse",
        "proxy_forbids",
        f"{SECOND}: …403 Forbidden…this proxy is at fault",
    ),
    Fault(
        "trunk-removed",
        "What a proxy answers",
        "403 from every proxy: the trunk was removed",
        (f"lab trunk {FQDN} --remove",),
        "proxy_forbids",
        f"{FIRST}, {SECOND}, {THIRD}: …403 Forbidden…Get-CsOnlinePSTNGateway",
        (f"lab trunk {FQDN}",),
    ),
    _edited(
        "contact-to-them",
        "What a proxy answers",
        "403 because of our Contact: that of our OPTIONS is an address (`kamailio.cfg` edited)",
        '/append_hf("Contact/s/sip:[^:]*/sip:203.0.113.1/',
        "contact_wrong",
        f"403 Forbidden…the Contact of our OPTIONS names 203.0.113.1 instead of {FQDN}",
    ),
    _edited(
        "contact-everywhere",
        "What a proxy answers",
        "the same, in all that we send",
        "/Contact: </s/sip:[^:]*/sip:203.0.113.1/",
        "contact_wrong",
        "names 203.0.113.1 instead of",
    ),
    _proxy(
        "proxy-404",
        "What a proxy answers",
        "another refusal",
        'error --code 404 --reason "Not Found" --text "no trunk of this region"',
        "proxy_refuses",
        f"{SECOND}: …404 Not Found…no trunk of this region",
    ),
    _proxy(
        "proxy-488",
        "What a proxy answers",
        "another refusal, with its Reason",
        'error --code 488 --reason "Not Acceptable Here" --text "Record-Route and Contact headers are missing"',
        "proxy_refuses",
        f"{SECOND}: …488 Not Acceptable Here…Record-Route and Contact headers are missing",
    ),
    _proxy(
        "proxy-500",
        "What a proxy answers",
        "a proxy that fails",
        'error --code 500 --reason "Server Internal Error"',
        "proxy_refuses",
        f"{SECOND}: …500 Server Internal Error…service health",
    ),
    _proxy(
        "proxy-503",
        "What a proxy answers",
        "overload: 503 with Retry-After",
        "error --code 503 --retry-after 120",
        "proxy_overloaded",
        f"{SECOND}: …503 Service Unavailable…120 s",
        full=False,
    ),
    _proxy(
        "proxy-silent",
        "What a proxy answers",
        "silence after the handshake",
        "silent",
        "proxy_silent",
        f"{SECOND}: does not answer our OPTIONS within 5 s",
    ),
    _proxy(
        "proxy-flaps",
        "What a proxy answers",
        "a proxy refuses for 12 s, answers for 12 s, and so on",
        "refuse --period 12",
        "proxy_flapping",
        f"{SECOND}: …times",
        comes_and_goes=True,
    ),
    # ------------------------------------------------------------------ TLS, which they refuse to us
    _bought("expired", "our certificate has expired", "certificate_expired", "The certificate ended on"),
    _bought(
        "not_yet_valid",
        "it is not yet valid",
        "certificate_not_yet_valid",
        "The certificate begins on …, the clock here says",
    ),
    _bought("wrong_name", "it is for another name", "certificate_name", f"for wrong-name.voip.test, not for {FQDN}"),
    _bought(
        "ecdsa", "its key is ECDSA", "certificate_key_type", "key is ECDSA; Microsoft offers ECDHE-RSA suites only"
    ),
    _bought(
        "no_intermediate",
        "its chain is missing",
        "certificate_incomplete",
        "What our port sends lacks an intermediate certificate",
        full=False,
        verify=True,
    ),
    _bought(
        "untrusted_root",
        "it leads to a root that Microsoft does not trust",
        "certificate_untrusted",
        "What our port sends leads to no accepted root",
        full=False,
        verify=True,
    ),
    _bought("no_server_auth", "it is not for servers", "certificate_usage", "its extended key usage lacks serverAuth"),
    _bought(
        "key_mismatch",
        "the key beside it is not its own",
        "certificate_key_mismatch",
        "The private key does not belong to the certificate",
        by_root=True,
        full=False,
        verify=True,
    ),
    Fault(
        "certificate-not-loaded",
        "TLS, which they refuse to us",
        "the disk has another certificate than the one that Kamailio shows",
        (f"lab certificate {FQDN} --out DIRECTORY",),
        "certificate_not_loaded",
        "The wire shows …, on disk is …kamcmd tls.reload",
        (OWN_AGAIN,),
        full=False,
        verify=True,
    ),
    Fault(
        "certificate-gone",
        "TLS, which they refuse to us",
        "the certificate's file is gone",
        ("mv /etc/kamailio/tls/fullchain.pem /root",),
        "certificate_unreadable",
        "/etc/kamailio/tls/fullchain.pem: No such file or directory",
        ("mv /root/fullchain.pem /etc/kamailio/tls",),
    ),
    Fault(
        "key-gone",
        "TLS, which they refuse to us",
        "the private key's file is gone",
        ("mv /etc/kamailio/tls/privkey.pem /root",),
        "certificate_key_unreadable",
        "/etc/kamailio/tls/privkey.pem: No such file or directory",
        ("mv /root/privkey.pem /etc/kamailio/tls",),
    ),
    Fault(
        "suites",
        "TLS, which they refuse to us",
        "our port takes none of Microsoft's suites (`tls.cfg` edited)",
        (
            f"sed -i.orig 's/^cipher_list.*/cipher_list = ECDHE-ECDSA-AES256-GCM-SHA384/' {LIVE}/tls.cfg",
            "kamcmd tls.reload",
        ),
        "tls_refused",
        "Our port accepts none of Microsoft's suites",
        (f"mv {LIVE}/tls.cfg.orig {LIVE}/tls.cfg", "kamcmd tls.reload"),
    ),
    Fault(
        "distrust",
        "TLS, which they refuse to us",
        "Microsoft has lost its trust in the root of our certificate",
        _all("distrust"),
        "proxy_tls",
        "Kamailio completes no TLS handshake",
        _all("none"),
    ),
    # ------------------------------------------------------------------ TLS, which we refuse to them
    _proxy(
        "proxy-untrusted",
        "TLS, which we refuse to them",
        "a proxy's certificate leads to an unknown root",
        "untrusted",
        "proxy_certificate_untrusted",
        f"{SECOND}: …unable to get local issuer certificate",
    ),
    _proxy(
        "proxy-expired",
        "TLS, which we refuse to them",
        "a proxy's certificate has expired",
        "expired",
        "proxy_certificate_expired",
        f"{SECOND}: …expired",
    ),
    _proxy(
        "proxy-misnamed",
        "TLS, which we refuse to them",
        "a proxy's certificate is for another name",
        "misnamed",
        "proxy_certificate_name",
        f"{SECOND}: …sip.other.example",
        full=False,
    ),
    # ------------------------------------------------------------------ our name in DNS
    Fault(
        "fqdn-absent",
        "Our name in DNS",
        "our FQDN has no record",
        (f"lab dns {FQDN} absent",),
        "fqdn_unresolved",
        f"{FQDN}: NXDOMAIN",
        (f"lab dns {FQDN} none",),
    ),
    Fault(
        "fqdn-elsewhere",
        "Our name in DNS",
        "our FQDN leads to another address",
        (f"lab dns {FQDN} 198.18.0.99",),
        "fqdn_elsewhere",
        f"{FQDN} resolves to 198.18.0.99",
        (f"lab dns {FQDN} none",),
        full=False,
    ),
    Fault(
        "fqdn-silent",
        "Our name in DNS",
        "the name servers say nothing of our FQDN: no reason to doubt what is proven",
        (f"lab dns {FQDN} silent",),
        "fqdn_unchecked",
        f"{FQDN}: …does not answer",
        (f"lab dns {FQDN} none",),
        state="proven",
    ),
    # ------------------------------------------------------------------ Microsoft's own OPTIONS
    Fault(
        "cloud-firewall",
        "Microsoft's own OPTIONS",
        "port 5061 is closed in the cloud firewall",
        ("lab close 5061",),
        "theirs_missing",
        "52.112.0.0/14…5061",
        ("playbook playbooks/provision.yml",),
        verify=True,
    ),
    Fault(
        "packet-filter",
        "Microsoft's own OPTIONS",
        "port 5061 is closed in the droplet's nftables",
        (
            "nft delete rule inet sbc input handle "
            "$(nft -a list chain inet sbc input | sed -n '/dport 5061/s/.*handle //p')",
        ),
        "packet_filter",
        "does not let 52.112.0.0/14, 52.122.0.0/15 in to port 5061",
        ("nft -f /etc/nftables.conf",),
    ),
    Fault(
        "packet-filter-open",
        "Microsoft's own OPTIONS",
        "the droplet's nftables let everybody in to port 5061",
        ("nft insert rule inet sbc input tcp dport 5061 accept",),
        "packet_filter_open",
        "lets everybody in to port 5061",
        ("nft -f /etc/nftables.conf",),
        state="proven",
    ),
    Fault(
        "mute",
        "Microsoft's own OPTIONS",
        "SendSipOptions is off: no proxy sends any",
        _all("mute"),
        "theirs_missing",
        "SendSipOptions",
        _all("none"),
    ),
    Fault(
        "trunk-disabled",
        "Microsoft's own OPTIONS",
        "the trunk is disabled: ours are answered, theirs do not come",
        (f"lab trunk {FQDN} --disabled",),
        "theirs_missing",
        "Get-CsOnlinePSTNGateway",
        (f"lab trunk {FQDN}",),
    ),
    Fault(
        "no-trunk",
        "Microsoft's own OPTIONS",
        "no trunk has been made yet",
        (f"lab trunk {FQDN} --remove", RESTART),
        "trunk_missing",
        "New-CsOnlinePSTNGateway",
        (f"lab trunk {FQDN}",),
        state="waiting",
    ),
    _edited(
        "theirs-refused",
        "Microsoft's own OPTIONS",
        "theirs come, and we answer them with 480 (`kamailio.cfg` edited)",
        '/:agent) = /s/$/ sl_send_reply("480", "Not Now"); exit;/',
        "theirs_refused",
        "Microsoft's OPTIONS from 52.112.0.…got 480 from us",
    ),
    _edited(
        "options-refused",
        "Microsoft's own OPTIONS",
        "we answer every OPTIONS with 500 (`kamailio.cfg` edited)",
        's/sl_send_reply("200", "OK")/sl_send_reply("500", "Broken")/',
        "options_unanswered",
        "An OPTIONS sent from this host over TLS got 500 Broken",
    ),
    # ------------------------------------------------------------------ somebody's hand
    Fault(
        "disabled",
        "Somebody's hand",
        "a proxy is disabled (DX)",
        (f"kamcmd dispatcher.set_state dx 1 'sip:{FIRST}:5061;transport=tls'",),
        "destination_disabled",
        f"{FIRST}: DX, taken out by hand",
        (f"kamcmd dispatcher.set_state ap 1 'sip:{FIRST}:5061;transport=tls'",),
        full=False,
    ),
    Fault(
        "set-inactive",
        "Somebody's hand",
        "a proxy is set inactive (IX), and no OPTIONS are sent, whose next good answer would end that",
        ("kamcmd dispatcher.ping_active 0", f"kamcmd dispatcher.set_state ix 1 'sip:{FIRST}:5061;transport=tls'"),
        "destination_disabled",
        f"{FIRST}: IX, taken out by hand",
        ("kamcmd dispatcher.ping_active 1",),
    ),
    Fault(
        "pings-off",
        "Somebody's hand",
        "Kamailio's OPTIONS are switched off",
        ("kamcmd dispatcher.ping_active 0",),
        "pings_stopped",
        "sent it no OPTIONS",
        ("kamcmd dispatcher.ping_active 1",),
    ),
    Fault(
        "destination-gone",
        "Somebody's hand",
        "a proxy is missing in `dispatcher.list`",
        (f"sed -i.orig /{THIRD}/d {LIVE}/dispatcher.list", "kamcmd dispatcher.reload"),
        "destination_missing",
        THIRD,
        (f"mv {LIVE}/dispatcher.list.orig {LIVE}/dispatcher.list", "kamcmd dispatcher.reload"),
    ),
    Fault(
        "config-differs",
        "Somebody's hand",
        "the configuration on disk is not the one that runs",
        (f"cp -p {LIVE}/kamailio.cfg /root", f"echo '# by hand' >>{LIVE}/kamailio.cfg"),
        "config_differs",
        "kamailio.cfg: not what Kamailio read",
        (f"cp -p /root/kamailio.cfg {LIVE}",),
        state="proven",
        full=False,
    ),
    # ------------------------------------------------------------------ Kamailio and the droplet
    Fault(
        "restarted",
        "Kamailio and the droplet",
        "Kamailio was just restarted: ours are answered, Microsoft's OPTIONS are not due yet",
        (*_all("mute"), RESTART),
        "theirs_not_yet_seen",
        "are due in",
        _all("none"),
        state="unknown",
    ),
    Fault(
        "reloaded",
        "Kamailio and the droplet",
        "the dispatcher was just reloaded (AX): an answer is not due yet",
        ("kamcmd dispatcher.ping_active 0", "kamcmd dispatcher.reload"),
        "not_yet_known",
        "AX, not yet proven…an answer is due in",
        ("kamcmd dispatcher.ping_active 1",),
        state="unknown",
    ),
    Fault(
        "kamailio-stopped",
        "Kamailio and the droplet",
        "Kamailio is stopped",
        ("systemctl stop kamailio",),
        "kamailio_down",
        "systemctl status kamailio",
        ("systemctl start kamailio",),
        verify=True,
    ),
    Fault(
        "kamailio-hangs",
        "Kamailio and the droplet",
        "Kamailio hangs (SIGSTOP)",
        ("systemctl kill --signal=STOP kamailio",),
        "kamailio_rpc",
        "nothing answers there",
        ("systemctl kill --signal=CONT kamailio",),
        full=False,
    ),
    Fault(
        "kamailio-killed",
        "Kamailio and the droplet",
        "Kamailio is killed (SIGKILL); systemd brings it back, and again Microsoft's OPTIONS are not due yet",
        (*_all("mute"), "systemctl kill --signal=KILL kamailio"),
        "theirs_not_yet_seen",
        "are due in",
        _all("none"),
        state="unknown",
    ),
    Fault(
        "clock-behind",
        "Kamailio and the droplet",
        "the droplet's clock is an hour behind",
        ("lab clock 3600", ASK_AGAIN),
        "clock_wrong",
        "This machine's clock is 3600 s behind that of",
        ("lab clock 0", ASK_AGAIN),
    ),
    Fault(
        "clock-ahead",
        "Kamailio and the droplet",
        "it is a day ahead",
        ("lab clock -- -86400", ASK_AGAIN),
        "clock_wrong",
        "This machine's clock is 86400 s ahead of that of",
        ("lab clock 0", ASK_AGAIN),
    ),
    Fault(
        "clock-unchecked",
        "Kamailio and the droplet",
        "no time server answers",
        ("lab clock silent", ASK_AGAIN),
        "clock_unchecked",
        "No time server answers",
        ("lab clock 0", ASK_AGAIN),
        state="proven",
    ),
    Fault(
        "disk-full",
        "Kamailio and the droplet",
        "the disk on which the probe keeps its history is full, and a proxy is down",
        (
            "systemctl stop sbc-probe",
            f"mount -t tmpfs -o size=64k none {HISTORY} && ! cat /dev/zero >{HISTORY}/full",
            "systemctl start sbc-probe",
            f"lab break {SECOND} down",
        ),
        "proxy_unreachable",
        f"{SECOND}: 52.112.0.2 port 5061 refuses TCP",
        (f"lab break {SECOND} none", "systemctl stop sbc-probe", f"umount {HISTORY}", "systemctl start sbc-probe"),
    ),
    # ------------------------------------------------------------------ renewals
    Fault(
        "ending",
        "Renewals",
        "the certificate is close to its end, and nobody renews it",
        ("lab age contoso --left 10d",),
        "certificate_ending",
        "ends in 10 days",
        ("systemctl start certbot.service",),
        state="proven",
    ),
    Fault(
        "renewal-fails",
        "Renewals",
        "the certificate is close to its end, and the authority is down",
        ("lab age contoso --left 10d", "lab break acme down", "systemctl start certbot.service || true"),
        "renewal_failing",
        "directory_down: …serves on until",
        ("lab break acme none", "systemctl start certbot.service"),
        state="proven",
    ),
    Fault(
        "renewal-failed",
        "Renewals",
        "the same, until the certificate has ended",
        ("lab age contoso --left 15s", "lab break acme down", "systemctl start certbot.service || true"),
        "renewal_failing",
        "directory_down: …ended",
        ("lab break acme none", "systemctl start certbot.service"),
        comes_and_goes=True,
    ),
)

# The causes that no row provokes, and which test knows them.
ELSEWHERE = {
    "certificate_rehearsal": "tests/e2e/test_certificates.py",
    "evidence_old": "tests/probe/test_verdict.py",
    "destination_unknown": "tests/probe/test_verdict.py",
    "tenant_not_loaded": "tests/probe/test_verdict.py",
    "not_listening": "tests/probe/test_verdict.py",
    "denied": "tests/probe/test_verdict.py",
    "not_active": "tests/probe/test_verdict.py",
    "tenant_unresolved": "tests/probe/test_verdict.py",
    "tenant_elsewhere": "tests/probe/test_verdict.py",
    "tenant_unchecked": "tests/probe/test_verdict.py",
    "memory_low": "tests/probe/test_verdict.py",
    "witness_unread": "tests/probe/test_verdict.py",
    "clouds_outdated": "tests/probe/test_verdict.py",
}
