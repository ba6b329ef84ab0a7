#!/usr/bin/python
"""Ansible module: a certificate that certbot gets and renews."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certbot_certificate
short_description: A certificate that certbot gets and renews
description:
  - Makes sure that certbot holds a certificate for exactly these names, with an RSA key, from this ACME directory, and
    renews it by its own timer. What is there already and fits is left alone.
  - The key is RSA because Microsoft's proxies offer ECDHE-RSA suites only (Microsoft, Plan Direct Routing, May 2025).
  - The challenge is HTTP-01, answered by certbot itself on port 80 for as long as it takes.
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
  email:
    description: Address for the ACME account.
    type: str
    required: true
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
    description: Whether a certificate may be asked for. If not, RV(reasons) says why none that is there will do.
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
    description: Shows names, directory and key type.
    support: full
author: teams-sbc
"""

EXAMPLES = r"""
- name: A certificate that Microsoft accepts
  certbot_certificate:
    name: sbc.example.com
    names: [sbc.example.com]
    directory: https://acme-v02.api.letsencrypt.org/directory
    email: operator@example.com
    deploy_hook: /etc/letsencrypt/renewal-hooks/deploy/kamailio
    installed: /etc/kamailio/tls/fullchain.pem
    state_dir: "{{ inventory_dir }}/state"
    password_file: ~/.config/teams-sbc/vault-password
"""

RETURN = r"""
present:
  description: Whether the machine held a certificate of this name beforehand, whatever it is for.
  returned: success
  type: bool
restored:
  description: Whether the controller's copy was, or would be, brought back.
  returned: success
  type: bool
issued:
  description: Whether a certificate was, or would be, asked for.
  returned: success
  type: bool
reasons:
  description: Why.
  returned: success
  type: list
  elements: str
  sample: ["there is none"]
"""

import configparser
import filecmp
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ansible.module_utils.basic import AnsibleModule

LETSENCRYPT = "/etc/letsencrypt"
LOG = "/var/log/letsencrypt/letsencrypt.log"

# What certbot says, and what to do about it: the commonest first.
_REMEDIES = (
    (
        r"too many certificates|rateLimited",
        "the authority's rate limit is reached; wait, or rehearse with certificate_directory: staging",
    ),
    (
        r"certificate verify failed|CERTIFICATE_VERIFY_FAILED",
        "the directory's own certificate is not trusted: see base_trusted_roots",
    ),
    (
        r"HTTPSConnectionPool|anti-replay nonce|Failed to resolve|Name or service not known|acme:error:serverInternal",
        "the ACME directory does not answer as it should: look at certificate_directory, or try again later",
    ),
    (r"NXDOMAIN|no valid A records|DNS problem", "the name does not lead here yet: look at its A record"),
    (
        r"Timeout during connect|Connection refused|Fetching http",
        "port 80 cannot be reached from outside: look at the firewalls",
    ),
    (
        r"Could not bind|port 80.*in use",
        "something else listens on port 80 of the droplet: `ss -ltnp sport = :80` names it",
    ),
)


@dataclass(frozen=True)
class Lineage:
    """What is, or shall be, behind a certificate's name."""

    names: tuple[str, ...]
    directory: str
    key_type: str


def present(name: str, run: Callable[[list[str]], tuple[int, str, str]]) -> Lineage | None:
    """What certbot holds; None if it holds nothing that can be used."""
    certificate = f"{LETSENCRYPT}/live/{name}/fullchain.pem"
    conf = f"{LETSENCRYPT}/renewal/{name}.conf"
    if not (os.path.exists(certificate) and os.path.exists(conf)):
        return None
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    with open(conf, encoding="utf-8") as file:
        parser.read_string("[lineage]\n" + file.read())
    rc, said, _ = run(["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"])
    if rc != 0:
        return None
    renewal = parser["renewalparams"]
    return Lineage(
        tuple(sorted(re.findall(r"DNS:([^,\s]+)", said))), renewal.get("server", ""), renewal.get("key_type", "")
    )


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


def in_force(chain: str, installed: str) -> bool:
    """Whether the hook has put this chain where it is used, and ended."""
    there = os.path.exists(chain) and os.path.exists(installed) and not os.path.exists(f"{installed}.due")
    return there and filecmp.cmp(chain, installed, shallow=False)


def _shown(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def remedy(output: str) -> str:
    """One sentence on what to do about certbot's words."""
    for pattern, advice in _REMEDIES:
        if re.search(pattern, output, re.IGNORECASE):
            return advice
    return f"certbot's own account is in {LOG} on the droplet"


def command(name: str, wanted: Lineage, email: str) -> list[str]:
    """The one certbot call that gets it."""
    domains = [argument for domain in wanted.names for argument in ("--domain", domain)]
    return [
        *("certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--email", email),
        *("--standalone", "--preferred-challenges", "http", "--key-type", wanted.key_type, "--rsa-key-size", "2048"),
        *("--server", wanted.directory, "--cert-name", name, "--force-renewal", "--renew-with-new-domains", *domains),
    ]


def main() -> None:
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "str", "required": True},
            "email": {"type": "str", "required": True},
            "deploy_hook": {"type": "path", "required": True},
            "installed": {"type": "path", "required": True},
            "ask": {"type": "bool", "default": True},
            # The action plugin's, which has the controller's side.
            "state_dir": {"type": "path", "required": True},
            "password_file": {"type": "path", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = Lineage(tuple(sorted(name.lower() for name in given["names"])), given["directory"], "rsa")
    found = present(given["name"], module.run_command)
    why = reasons(found, wanted)
    chain = f"{LETSENCRYPT}/live/{given['name']}/fullchain.pem"
    result = {
        "changed": bool(why) or not in_force(chain, given["installed"]),
        "issued": bool(why),
        "reasons": why,
        "present": found is not None,
        "diff": {"before": asdict(found) if found else {}, "after": asdict(wanted)} if why else {},
    }
    if why and not given["ask"]:
        module.exit_json(**result)
    if why and not module.check_mode:
        rc, out, err = module.run_command(command(given["name"], wanted, given["email"]))
        if rc != 0:
            said = [line.strip() for line in (out + err).splitlines() if line.strip()]
            problem = f"certbot got no certificate for {_shown(wanted.names)}: {remedy(out + err)}"
            module.fail_json(msg=problem, said=said, **result)
    if result["changed"] and not module.check_mode and not in_force(chain, given["installed"]):
        environment = _lineage_environment(given["name"], wanted)
        rc, out, err = module.run_command([given["deploy_hook"]], environ_update=environment)
        if rc != 0:
            module.fail_json(msg=f"{given['deploy_hook']} failed: {(err or out).strip()}", **result)
    module.exit_json(**result)


def _lineage_environment(name: str, wanted: Lineage) -> dict[str, str]:
    """What certbot gives a deploy hook (certbot's documentation, "Pre and Post Validation Hooks", 4.0)."""
    return {"RENEWED_LINEAGE": f"{LETSENCRYPT}/live/{name}", "RENEWED_DOMAINS": " ".join(wanted.names)}


if __name__ == "__main__":
    main()
