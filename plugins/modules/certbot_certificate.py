#!/usr/bin/python
"""Ansible module: a certificate that certbot gets and renews."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certbot_certificate
short_description: A certificate that certbot gets and renews
description:
  - Makes sure that certbot holds a certificate for exactly these names, with an RSA key, from this ACME directory, and
    renews it by its own timer in the way described here. What is there already and fits is left alone.
  - The key is RSA because Microsoft's proxies offer ECDHE-RSA suites only (Microsoft, Plan Direct Routing, May 2025).
  - A certificate is asked for only if names, directory or key differ. How it will be renewed is written into certbot's
    renewal configuration without asking anybody.
  - Whatever else certbot holds on this machine is no longer renewed, such as the certificate of an earlier FQDN.
options:
  name:
    description: Name of the certificate for certbot, and of its directory under /etc/letsencrypt/live.
    type: str
    required: true
  names:
    description: The DNS names that it covers.
    type: list
    elements: str
    required: true
  directory:
    description: URL of the ACME directory.
    type: str
    required: true
  profile:
    description: Profile to ask for, if the directory offers it; empty for the directory's own default.
    type: str
    default: ""
  email:
    description: Address for the ACME account.
    type: str
    required: true
  challenge:
    description:
      - V(http) is answered by certbot on port 80.
      - V(dns) is answered by certbot's plugin dns-standalone on port 53 of O(address), to which C(_acme-challenge.NAME)
        is delegated. Nothing is asked for before the delegation leads here.
    type: str
    choices: [http, dns]
    default: http
  address:
    description: The machine's public address. Required with O(challenge=dns).
    type: str
  delegation_wait:
    description: Seconds to wait for the delegation to lead here.
    type: int
    default: 120
  challenge_hook:
    description: Program that lets the check in (C(open http)), ends that (C(close http)), and knows of C(room).
    type: path
    default: /usr/local/sbin/sbc-challenge
  deploy_hook:
    description:
      - Program on the machine that installs the certificate. certbot runs it at every renewal (before 5.3 it runs none
        of its hook directories at the first issuance), and this module whenever O(installed) is not the certificate.
    type: path
    required: true
  installed:
    description:
      - The file that the hook puts the chain into. While a file of the same name with C(.due) exists, the hook has
        begun and not ended, and is run again.
    type: path
    required: true
  ask:
    description: Whether a certificate may be asked for. If not and one has to be, RV(reasons) says why.
    type: bool
    default: true
  state_dir:
    description:
      - Directory on the controller with what is kept of all hosts. If the machine holds no certificate of this name,
        the copy there is brought back, as M(saved_certificate) made it; what is asked for is noted there beforehand,
        and saved there afterwards.
    type: path
    required: true
  password_file:
    description: File on the controller with the password of the copies, see M(saved_certificate).
    type: path
    required: true
attributes:
  check_mode:
    description: Changes nothing and says whether a certificate would be asked for.
    support: full
  diff_mode:
    description: Shows names, directory, key type and what is kept for the renewal.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: A certificate that Microsoft accepts
  certbot_certificate:
    name: sbc.example.com
    names: [sbc.example.com, "*.sbc.example.com"]
    directory: https://acme-v02.api.letsencrypt.org/directory
    email: operator@example.com
    challenge: dns
    address: 203.0.113.10
    deploy_hook: /etc/letsencrypt/renewal-hooks/deploy/kamailio
    installed: /etc/kamailio/tls/fullchain.pem
    state_dir: "{{ inventory_dir }}/state"
    password_file: ~/.config/teams-sbc/vault-password
"""

RETURN = r"""
present:
  description: Whether certbot held a certificate of this name beforehand, whatever it is for.
  returned: always
  type: bool
restored:
  description: Whether the controller's copy was, or would be, brought back.
  returned: success
  type: bool
issued:
  description: Whether a certificate was, or would be, asked for.
  returned: always
  type: bool
reasons:
  description: Why.
  returned: always
  type: list
  elements: str
  sample: ["there is none"]
asked:
  description: Whether certbot was run, so that the authority may have counted it.
  returned: always
  type: bool
settings:
  description: What the next renewal will do differently.
  returned: always
  type: list
  elements: str
  sample: ["dns_standalone_address is 203.0.113.9, not 203.0.113.10"]
stopped:
  description: Other certificates that certbot held, and renews no longer.
  returned: always
  type: list
  elements: str
"""

import configparser
import contextlib
import filecmp
import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.certbot_lineage import is_staging

LETSENCRYPT = "/etc/letsencrypt"
LOG = "/var/log/letsencrypt/letsencrypt.log"
PROBE = "/usr/local/bin/sbc-probe"
# Between two looks for the delegation: a resolver may remember for some seconds that there was none.
PAUSE = 5.0
Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Lineage:
    """What is, or shall be, behind a certificate's name; `renewal` is what certbot keeps for later."""

    names: tuple[str, ...]
    directory: str
    key_type: str
    renewal: dict[str, str] = field(default_factory=dict)


def wanted_lineage(given: dict[str, Any]) -> Lineage:
    """What the module's parameters ask for, the renewal's settings spelled as certbot 4.0 spells them."""
    hook, challenge = given["challenge_hook"], given["challenge"]
    renewal = {
        "authenticator": {"http": "standalone", "dns": "dns-standalone"}[challenge],
        "pref_challs": f"{challenge}-01,",
        "pre_hook": f"{hook} open {challenge}",
        "post_hook": f"{hook} close {challenge}",
    }
    if challenge == "dns":
        # The plugin takes two addresses and complains only if it can have none of them. A second one that means the
        # same lets it answer here alone, and notice when that is impossible.
        renewal |= {
            "dns_standalone_address": given["address"],
            "dns_standalone_ipv6_address": f"::ffff:{given['address']}",
        }
    if given["profile"]:
        renewal["preferred_profile"] = given["profile"]
    names = tuple(sorted({name.lower() for name in given["names"]}))
    return Lineage(names, given["directory"], "rsa", renewal)


def parse(path: str) -> dict[str, str]:
    """The settings of a renewal configuration; empty if it has none."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_string("[lineage]\n" + file.read())
    except configparser.Error:
        return {}
    return dict(parser["renewalparams"]) if parser.has_section("renewalparams") else {}


def present(name: str, run: Run) -> Lineage | None:
    """What certbot holds; None if it holds nothing that can be used, such as what a full disk leaves."""
    live, conf = f"{LETSENCRYPT}/live/{name}", f"{LETSENCRYPT}/renewal/{name}.conf"
    parts = [f"{live}/{part}.pem" for part in ("cert", "chain", "fullchain", "privkey")]
    if not all(map(os.path.exists, (*parts, conf))):
        return None
    certificate, chain, fullchain, key = parts
    if _read(certificate) + _read(chain) != _read(fullchain):
        return None
    rc, said, _ = run(["openssl", "x509", "-in", certificate, "-noout", "-pubkey", "-ext", "subjectAltName"])
    other, public, _ = run(["openssl", "pkey", "-in", key, "-pubout"])
    settings = parse(conf)
    if rc != 0 or other != 0 or public.strip() not in said or not settings:
        return None
    names = tuple(sorted(re.findall(r"DNS:([^,\s]+)", said)))
    return Lineage(names, settings.get("server", ""), settings.get("key_type", ""), settings)


def reasons(found: Lineage | None, wanted: Lineage) -> list[str]:
    """Why a certificate must be asked for; none if what was found will do."""
    if found is None:
        return ["there is none"]
    pairs = (("names", "names"), ("directory", "directory"), ("key_type", "key type"))
    return [
        f"its {label} is {_shown(getattr(found, field))}, not {_shown(getattr(wanted, field))}"
        for field, label in pairs
        if getattr(found, field) != getattr(wanted, field)
    ]


def unsettled(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What a renewal would do differently from what is wanted."""
    differing = [
        f"{key} is {found.get(key, 'not set')}, not {value}" for key, value in wanted.items() if found.get(key) != value
    ]
    return differing + [f"{key} is {found[key]}" for key in superfluous(found, wanted)]


def superfluous(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Settings that must not stay: a renewal that was stopped, a profile that nobody wants any more."""
    return [key for key in ("autorenew", "preferred_profile") if key in found and key not in wanted]


def settle(path: str, wanted: dict[str, str], unwanted: list[str]) -> None:
    """Change settings of a renewal configuration. certbot's own way, `reconfigure`, would ask for a certificate."""
    with open(path, encoding="utf-8") as file:
        before, header, rest = file.read().partition("[renewalparams]\n")
    gone = {*wanted, *unwanted}
    # Sections of a further level, such as a webroot's, follow the settings.
    settings, further, tail = rest.partition("\n[[")
    kept = [line for line in settings.splitlines() if line.partition("=")[0].strip() not in gone]
    lines = [*kept, *(f"{key} = {value}" for key, value in wanted.items())]
    handle, unfinished = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".sbc-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(before + header + "\n".join(lines) + "\n" + further.lstrip("\n") + tail)
            file.flush()
            os.fchmod(handle, os.stat(path).st_mode & 0o777)
            os.fsync(handle)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def strangers(name: str) -> list[str]:
    """Names of other certificates that certbot renews."""
    found = []
    for path in sorted(glob.glob(f"{LETSENCRYPT}/renewal/*.conf")):
        other = os.path.basename(path).removesuffix(".conf")
        if other != name and (settings := parse(path)) and settings.get("autorenew", "True").lower() != "false":
            found.append(other)
    return found


def set_aside(name: str) -> None:
    """Take the remains of a broken certificate out of certbot's way: it would get a new one and then not store it."""
    aside = f"{LETSENCRYPT}/broken/{name}"
    leftovers = {kind: f"{LETSENCRYPT}/{kind}/{name}" for kind in ("live", "archive")}
    leftovers["renewal"] = f"{LETSENCRYPT}/renewal/{name}.conf"
    if any(map(os.path.lexists, leftovers.values())):
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside, mode=0o700)
        for kind, path in leftovers.items():
            if os.path.lexists(path):
                os.rename(path, f"{aside}/{kind}")


def in_force(chain: str, installed: str) -> bool:
    """Whether the hook has put this chain where it is used, and ended."""
    there = os.path.exists(chain) and os.path.exists(installed) and not os.path.exists(f"{installed}.due")
    return there and filecmp.cmp(chain, installed, shallow=False)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _shown(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def command(name: str, wanted: Lineage, email: str) -> list[str]:
    """The one certbot call that gets it, and that tells certbot how to renew it."""
    renewal = wanted.renewal
    options = [
        *("--preferred-challenges", renewal["pref_challs"].rstrip(",")),
        *(f"--{key.replace('_', '-')}={renewal[key]}" for key in renewal if key != "pref_challs"),
    ]
    domains = [argument for domain in wanted.names for argument in ("--domain", domain)]
    return [
        *("certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--email", email),
        *options,
        *("--key-type", wanted.key_type, "--rsa-key-size", "2048"),
        *("--server", wanted.directory, "--cert-name", name, "--force-renewal", "--renew-with-new-domains", *domains),
    ]


def delegated(name: str, hook: str, patience: float, run: Run) -> str | None:
    """Wait until questions for the challenge's name reach this machine; what was seen instead if they do not."""
    deadline = time.monotonic() + patience
    while True:
        rc, out, err = run([hook, "open", "dns"])
        if rc != 0:
            return f"{hook} open dns failed: {(err or out).strip()}"
        try:
            rc, out, err = run([PROBE, "delegation", name])
        finally:
            run([hook, "close", "dns"])
        if rc == 0:
            return None
        if time.monotonic() + PAUSE > deadline:
            return (out.strip() or err.strip().removeprefix("sbc-probe: ")).replace("\n", " ")
        time.sleep(PAUSE)


def refusal(found: Lineage | None, wanted: Lineage, given: dict[str, Any], run: Run) -> str | None:
    """Why nothing is asked for although something should be."""
    name = given["name"]
    if found and is_staging(wanted.directory) and not is_staging(found.directory):
        return (
            f"certbot holds one of {found.directory}; one of {wanted.directory} in its place would take the trunk down,"
            " because Microsoft does not trust it. Rehearse with a customer of its own, or remove the one that is"
            f" there: `certbot delete --cert-name {name}` on the machine"
        )
    rc, out, err = run([given["challenge_hook"], "room"])
    if rc != 0:
        return "; ".join((err or out).splitlines())
    if given["challenge"] == "dns":
        seen = delegated(name, given["challenge_hook"], given["delegation_wait"], run)
        if seen is not None:
            return (
                f"nothing was asked for, because questions for _acme-challenge.{name} do not reach this machine: {seen}"
            )
    return None


def main() -> None:
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "str", "required": True},
            "profile": {"type": "str", "default": ""},
            "email": {"type": "str", "required": True},
            "challenge": {"type": "str", "choices": ["http", "dns"], "default": "http"},
            "address": {"type": "str"},
            "delegation_wait": {"type": "int", "default": 120},
            "challenge_hook": {"type": "path", "default": "/usr/local/sbin/sbc-challenge"},
            "deploy_hook": {"type": "path", "required": True},
            "installed": {"type": "path", "required": True},
            "ask": {"type": "bool", "default": True},
            # The action plugin's, which has the controller's side.
            "state_dir": {"type": "path", "required": True},
            "password_file": {"type": "path", "required": True, "no_log": False},
        },
        required_if=[("challenge", "dns", ["address"])],
        supports_check_mode=True,
    )
    given, run = module.params, module.run_command
    name, wanted = given["name"], wanted_lineage(given)
    found = present(name, run)
    why = reasons(found, wanted)
    settings = unsettled(found.renewal, wanted.renewal) if found and not why else []
    chain = f"{LETSENCRYPT}/live/{name}/fullchain.pem"
    result = {
        "changed": bool(why or settings or strangers(name)) or not in_force(chain, given["installed"]),
        "present": found is not None,
        "issued": bool(why),
        "reasons": why,
        "asked": False,
        "settings": settings,
        "stopped": strangers(name),
        "diff": {"before": _described(found, wanted), "after": asdict(wanted)} if why or settings else {},
    }
    if module.check_mode or (why and not given["ask"]):
        module.exit_json(**result)
    if why:
        if refused := refusal(found, wanted, given, run):
            module.fail_json(msg=f"no certificate for {_shown(wanted.names)}: {refused}", **result)
        if found is None:
            set_aside(name)
        result["asked"] = True
        rc, out, err = run(command(name, wanted, given["email"]))
        if rc != 0:
            said = [line.strip() for line in (out + err).splitlines() if line.strip()]
            problem = f"certbot got no certificate for {_shown(wanted.names)}: {cause(run)}"
            module.fail_json(msg=problem, said=said, **result)
    conf = f"{LETSENCRYPT}/renewal/{name}.conf"
    now = parse(conf)
    if unsettled(now, wanted.renewal):
        settle(conf, wanted.renewal, superfluous(now, wanted.renewal))
    for other in strangers(name):
        settle(f"{LETSENCRYPT}/renewal/{other}.conf", {"autorenew": "False"}, [])
    if not in_force(chain, given["installed"]):
        rc, out, err = run([given["deploy_hook"]], environ_update=_lineage_environment(name, wanted))
        if rc != 0:
            module.fail_json(msg=f"{given['deploy_hook']} failed: {(err or out).strip()}", **result)
    module.exit_json(**result)


def _described(found: Lineage | None, wanted: Lineage) -> dict[str, Any]:
    """What was found, as far as it is comparable with what is wanted."""
    if not found:
        return {}
    keys = [*wanted.renewal, *superfluous(found.renewal, wanted.renewal)]
    return asdict(found) | {"renewal": {key: found.renewal[key] for key in keys if key in found.renewal}}


def cause(run: Run) -> str:
    """Why certbot failed, and what to do, in the probe's words."""
    out = ""
    with contextlib.suppress(OSError):
        _, out, _ = run([PROBE, "renewal"], handle_exceptions=False)
    return out.strip().replace("\n", " ") or f"certbot's own account is in {LOG} on the machine"


def _lineage_environment(name: str, wanted: Lineage) -> dict[str, str]:
    """What certbot gives a deploy hook (certbot's documentation, "Pre and Post Validation Hooks", 4.0)."""
    return {"RENEWED_LINEAGE": f"{LETSENCRYPT}/live/{name}", "RENEWED_DOMAINS": " ".join(wanted.names)}


if __name__ == "__main__":
    main()
