"""What certbot keeps of one certificate, as something that can be carried away and brought back.

Used on the droplet, which has it below /etc/letsencrypt, and on the controller, which keeps a copy.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import os
import re
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
ITEMS = ("cert", "chain", "fullchain", "privkey")
# Nothing that certbot keeps of one certificate is larger; what claims to be is not taken.
LARGEST, MOST = 1 << 20, 500


@dataclass(frozen=True)
class Entry:
    """A file with its content, or a symbolic link with its target."""

    content: bytes
    mode: int = 0o644
    link: bool = False


Entries = dict[str, Entry]


def collect(root: str, name: str) -> Entries:
    """The certificate that is in force, with its key and its settings, and all ACME accounts; empty if there is none.

    Raises ValueError where the certificate is not kept as certbot keeps it, OSError where it cannot be read.
    """
    _check_name(name)
    base = Path(root)
    conf = base / "renewal" / f"{name}.conf"
    links = {item: base / "live" / name / f"{item}.pem" for item in ITEMS}
    if not (conf.exists() and links["fullchain"].exists()):
        return {}
    found = {_relative(conf, base): _file(conf)}
    for link in links.values():
        if not link.is_symlink():
            raise ValueError(f"{link} is no symbolic link into {base}/archive/{name}")
        target = Path(os.path.normpath(link.parent / os.readlink(link)))
        if not target.is_relative_to(base):
            raise ValueError(f"{link} leads out of {base}, to {target}")
        found[_relative(link, base)] = Entry(os.readlink(link).encode(), link=True)
        found[_relative(target, base)] = _file(target)
    for directory, directories, files in os.walk(base / "accounts"):
        directories.sort()
        found |= {
            _relative(path, base): _file(path)
            for path in (Path(directory, file) for file in sorted(files))
            if path.is_file() and not path.is_symlink()
        }
    _check(found, name)
    return found


def digest(entries: Entries) -> str:
    """The same for the same content; owners, modes and times do not count. Empty for nothing."""
    if not entries:
        return ""
    total = hashlib.sha256()
    for path, entry in sorted(entries.items()):
        kind = "link" if entry.link else "file"
        total.update(f"{kind} {len(path)} {path} {len(entry.content)} ".encode() + entry.content)
    return total.hexdigest()


def pack(entries: Entries) -> bytes:
    """A compressed tar; it says nothing of owners and times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, entry in sorted(entries.items()):
            member = tarfile.TarInfo(path)
            member.mode = entry.mode
            if entry.link:
                member.type, member.linkname = tarfile.SYMTYPE, entry.content.decode()
                archive.addfile(member)
            else:
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))
    return packed.getvalue()


def unpack(packed: bytes, name: str) -> Entries:
    """What pack made. Raises ValueError for anything that is not certbot's of this name, whoever made it."""
    found: Entries = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            for member in archive:
                if member.size > LARGEST or len(found) >= MOST or member.name in found:
                    raise ValueError(f"{member.name!r}: too large, too many or twice")
                if member.issym():
                    found[member.name] = Entry(member.linkname.encode(), link=True)
                elif member.type == tarfile.REGTYPE and (stream := archive.extractfile(member)):
                    found[member.name] = Entry(stream.read(), stat.S_IMODE(member.mode))
                else:
                    raise ValueError(f"{member.name!r}: neither a file nor a symbolic link")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"no archive: {error}") from None
    _check(found, name)
    return found


def accounts(entries: Entries) -> Entries:
    """The ACME accounts alone."""
    return {path: entry for path, entry in entries.items() if path.startswith("accounts/")}


def restore(root: str, entries: Entries) -> None:
    """Write what unpack returned; `renewal`, without which it is no certificate, comes last. Raises OSError."""
    base = Path(root)
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path, entry in sorted(entries.items()):
        target, directory = base / path, base
        for part in Path(path).parts[:-1]:
            directory = directory / part
            # As certbot makes them: keys and accounts are reached by root alone.
            public = directory.parent.name in ("archive", "live") or directory.name == "renewal"
            directory.mkdir(mode=0o755 if public else 0o700, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=".restored-"))
        try:
            fresh = unfinished / target.name
            if entry.link:
                fresh.symlink_to(entry.content.decode())
            else:
                handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(entry.content)
                    stream.flush()
                    os.fchmod(handle, entry.mode & (0o700 if _is_secret(path) else 0o755))
                    os.fsync(handle)
            fresh.replace(target)
        finally:
            (unfinished / target.name).unlink(missing_ok=True)
            unfinished.rmdir()


def leaf(entries: Entries, name: str) -> bytes:
    """The certificate in force, PEM. Raises ValueError if the entries lack it."""
    link = entries.get(f"live/{name}/cert.pem")
    found = link and entries.get(os.path.normpath(f"live/{name}/{link.content.decode()}"))
    if not found:
        raise ValueError(f"it holds no certificate {name}")
    return found.content


def directory_of(entries: Entries, name: str) -> str:
    """URL of the ACME directory that it comes from and is renewed at; empty if it is not said."""
    conf = entries.get(f"renewal/{name}.conf")
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string("[lineage]\n" + (conf.content.decode(errors="replace") if conf else ""))
    return parser.get("renewalparams", "server", fallback="")


def is_staging(directory: str) -> bool:
    """Whether a directory is for rehearsals: nobody trusts its certificates, and its limits are wide."""
    return "staging" in directory


def describe(pem: bytes) -> dict[str, Any]:
    """Names, begin, end (seconds) and fingerprint of a certificate. Raises ValueError if it is none."""
    # Not at the top: a droplet gets python3-cryptography with certbot, and may have neither yet.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    certificate = x509.load_pem_x509_certificate(pem)
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    return {
        "names": sorted(str(name).lower() for name in names),
        "not_before": certificate.not_valid_before_utc.timestamp(),
        "not_after": certificate.not_valid_after_utc.timestamp(),
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def issuances(root: str, name: str, since: float) -> Iterator[dict[str, Any]]:
    """Names and begin of every certificate of this name that began after `since`, as the archive holds them."""
    _check_name(name)
    for path in sorted(Path(root, "archive", name).glob("cert*.pem")):
        try:
            found = describe(path.read_bytes())
        except (OSError, ValueError):
            continue  # A certificate that nobody can read was not renewed from; certbot itself complains of it.
        if found["not_before"] >= since:
            yield {"names": found["names"], "not_before": found["not_before"]}


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} is no name of a certificate")


def _check(entries: Entries, name: str) -> None:
    """Raises ValueError for a path or a link that certbot would not make for this certificate."""
    _check_name(name)
    own, items = re.escape(name), "|".join(ITEMS)
    files = re.compile(
        rf"archive/{own}/(?:{items})[0-9]+\.pem|renewal/{own}\.conf|accounts(?:/(?!\.)[\w~%:.-]+)+", re.ASCII
    )
    for path, entry in entries.items():
        if entry.link:
            link = re.fullmatch(rf"live/{own}/({items})\.pem", path)
            target = link and re.fullmatch(rf"\.\./\.\./archive/{own}/{link[1]}[0-9]+\.pem", entry.content.decode())
            if not target:
                raise ValueError(f"{path!r} -> {entry.content.decode()!r} is no link of the certificate {name}")
        elif not files.fullmatch(path):
            raise ValueError(f"{path!r} is no file of the certificate {name}")


def _is_secret(path: str) -> bool:
    name = Path(path).name
    return name not in ("meta.json", "regr.json") if path.startswith("accounts/") else name.startswith("privkey")


def _relative(path: Path, base: Path) -> str:
    return str(path.relative_to(base))


def _file(path: Path) -> Entry:
    return Entry(path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
