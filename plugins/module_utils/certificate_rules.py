"""What preflight says of certificates: those that were asked for lately, and those that a customer brings along.

For action plugins; no module imports it. The certificate itself is judged by the probe's own rules.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.certbot_lineage import is_staging
from ansible.module_utils.preflight_rules import Customer, Mistake
from ansible.module_utils.saved_certificates import DAY, Asked, Saved, SavedError, date
from ansible.parsing.vault import VaultLib, is_encrypted

FILES = "sbc_certificate_files"
# Let's Encrypt, "Rate Limits", new certificates per exact set of identifiers, seen in 2026.
LIMIT, WINDOW = 5, 7 * DAY
NEAR = LIMIT - 1
# Debian's; a controller may be another system and have neither.
NAMED_ROOTS = Path("/usr/share/ca-certificates/mozilla")
ALL_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")


def limit_warning(
    customer: Customer, asked: Iterable[Asked], names: Iterable[str], directory: str, now: float
) -> str | None:
    """What to say when another certificate of the same names may be one too many; None if there is room."""
    wanted = tuple(sorted(names))
    recent = [
        each.at
        for each in asked
        if each.at > now - WINDOW and each.names == wanted and each.directory == directory and not is_staging(directory)
    ]
    if len(recent) < NEAR:
        return None
    room = "the next is the last one" if len(recent) == NEAR else "another may be refused"
    return (
        f"{customer.host}: {len(recent)} certificates for {', '.join(wanted)} were asked for in the last 7 days of"
        f" {directory}. Let's Encrypt issues {LIMIT} per exact set of names in 7 days: {room} until the oldest stops"
        f" counting on {date(min(recent) + WINDOW)}. To rehearse meanwhile: certificate_directory: staging"
        f" ({customer.place})"
    )


def load(files: Mapping[str, Any], part: str, base: str, loader: Any, password_file: str) -> bytes:
    """One of a customer's own files, decrypted where it is encrypted. Raises SavedError: the problem and a remedy."""
    path = place(files, part, base)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SavedError("is missing; correct the path, which starts at the inventory's directory") from None
    except OSError as error:
        raise SavedError(f"cannot be read ({error.strerror}); let your user read it") from None
    if not is_encrypted(content):
        return content
    # The passwords that ansible-playbook was given, and that of the saved certificates.
    secrets = list(loader._vault.secrets or [])
    problem = f"is encrypted, and {password_file} is missing"
    if Path(password_file).expanduser().exists():
        secrets.append(("default", Saved(base, "", password_file, loader).secret()[0]))
        problem = f"is encrypted, and does not open with the password in {password_file}"
    try:
        return bytes(VaultLib(secrets).decrypt(content))
    except AnsibleError:
        remedy = "name the right file in certificate_vault_password_file, or give ansible-playbook the vault password"
        raise SavedError(f"{problem}; {remedy}") from None


def place(files: Mapping[str, Any], part: str, base: str) -> Path:
    """Where a customer's own file is."""
    return Path(base) / Path(str(files[part])).expanduser()


def check_files(
    customer: Customer,
    files: Any,
    names: Sequence[str],
    roots: Sequence[str],
    added_roots: Mapping[str, str],
    base: str,
    loader: Any,
    password_file: str,
) -> tuple[list[Mistake], list[str]]:
    """Mistakes and warnings about a certificate that a customer brings along."""
    mistakes: list[Mistake] = []
    warnings: list[str] = []
    contents = {}

    def found(part: str, problem: str, remedy: str) -> None:
        value = files[part] if isinstance(files, dict) and part in files else None
        variable = f"{FILES}.{part}"
        mistakes.append(Mistake(customer.host, variable, value, problem, f"{remedy} ({customer.place})"))

    for part, what in (("chain", "the certificate and its intermediates"), ("key", "its private key")):
        if not isinstance(files, dict) or not files.get(part):
            found(part, "is missing", f"name the PEM file with {what}")
            continue
        try:
            contents[part] = load(files, part, base, loader, password_file)
        except SavedError as error:
            problem, _, remedy = str(error).partition("; ")
            found(part, problem, remedy)
    if "chain" not in contents:
        return mistakes, warnings

    _find_probe()
    from sbc_probe.certificate import facts
    from sbc_probe.content import judge_files
    from sbc_probe.findings import Cause
    from sbc_probe.ours import BOUGHT_NOTICE

    now, cloud = time.time(), str(customer.values.get("sbc_cloud"))
    accepted, missing = accepted_roots(roots, added_roots)
    untold = (
        f"{customer.host}: {FILES}.chain = {files['chain']}: whether its root is accepted cannot be told here, because"
        f" {', '.join(missing)} cannot be read; verify will tell"
    )
    if not accepted:
        warnings.append(untold)
    findings = judge_files(contents["chain"], contents.get("key"), names, accepted, now, cloud)
    for finding in findings:
        part = "key" if finding.cause in (Cause.CERTIFICATE_KEY_UNREADABLE, Cause.CERTIFICATE_KEY_MISMATCH) else "chain"
        problem, remedy = (
            f"{text[:1].lower()}{text[1:].rstrip('.')}" for text in (finding.evidence, finding.next_step)
        )
        fails_here = finding.cause is Cause.CERTIFICATE_UNTRUSTED and judged_by_this_machine(contents["chain"])
        if fails_here and missing:
            warnings.append(untold)
        elif fails_here and not roots:
            warnings.append(
                f"{customer.host}: {FILES}.chain = {files['chain']}: {problem} of this machine's; if"
                " the droplet knows none either, verify will say so"
            )
        else:
            found(part, problem, remedy)
    if not findings:
        from cryptography import x509

        ends = facts(x509.load_pem_x509_certificate(contents["chain"])).not_after
        if ends - now <= BOUGHT_NOTICE:
            warnings.append(
                f"{customer.host}: {FILES}.chain = {files['chain']}: ends in {(ends - now) / DAY:.0f} days, on"
                f" {date(ends)}; nothing renews it: buy another, replace the files and run site.yml"
            )
    return mistakes, warnings


def accepted_roots(names: Sequence[str], added: Mapping[str, str]) -> tuple[bytes | None, list[str]]:
    """The roots that a chain may lead to, PEM, or None; and the files with others that this machine does not have.

    `names` are Debian's, or those of `added`; without names, all of the machine's count and all that are added.
    """
    known = [root.encode() for name, root in added.items() if name in names or not names]
    missing = []
    for file in [NAMED_ROOTS / f"{name}.crt" for name in names if name not in added] if names else [ALL_ROOTS]:
        try:
            known.append(file.read_bytes())
        except OSError:
            missing.append(str(file))
    return b"\n".join(known) or None, missing


def judged_by_this_machine(chain: bytes) -> bool:
    """Whether only this machine's roots are what a chain fails at: that which issued itself fails everywhere."""
    _find_probe()
    from cryptography import x509

    from sbc_probe.certificate import chain_flaw

    return chain_flaw(x509.load_pem_x509_certificates(chain), None) is None


def _find_probe() -> None:
    """The probe's rules are read from this checkout, as they will be on the droplet."""
    source = str(Path(__file__).resolve().parents[2] / "src")
    if source not in sys.path:
        sys.path.append(source)
