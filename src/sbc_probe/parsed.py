"""What certificates and keys say, for a process that lives long: a child parses them, and its answers are remembered.

The library that parses them weighs 8 MB and takes 40 ms to import, and a certificate says the same every time.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sbc_probe.model import Certificate, ChainFlaw, Unread

# Where the package lies: a directory, or the zipapp.
HOME = str(Path(__file__).parents[1])
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from sbc_probe.certificate import answer; answer()"
TIMEOUT = 10.0
# An SBC has about ten certificates; a peer that shows another one each time must not fill the memory.
LIMIT = 64
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

Question = list[str]
# By SHA-256 of the question, so that no private key is kept.
_remembered: dict[str, Any] = {}


class NotParsed(Exception):
    """The child gave no answer."""


def from_file(path: str) -> Certificate | Unread:
    """The first certificate of a PEM file."""
    try:
        ders = _ders(Path(path).read_text("ascii", "replace"))
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    if not ders:
        return Unread(f"{path} holds no readable certificate")
    (found,) = from_ders(ders[:1])
    return Unread(f"{path}: {found.why}") if isinstance(found, Unread) else found


def ders_from_file(path: str) -> list[bytes]:
    """All certificates of a PEM file, none where it cannot be read."""
    try:
        return _ders(Path(path).read_text("ascii", "replace"))
    except OSError:
        return []


def from_kamailio(texts: Sequence[str]) -> list[Certificate | Unread]:
    """Certificates as Kamailio keeps them, each a PEM in URL encoding ($tls_peer_urlencoded_cert); NotParsed."""
    ders = [_ders(unquote(text))[:1] for text in texts]
    parsed = iter(_facts([der for one in ders for der in one]))
    return [next(parsed) if one else Unread("the certificate cannot be read") for one in ders]


def from_ders(ders: Sequence[bytes]) -> list[Certificate | Unread]:
    """Certificates as they came over the wire."""
    try:
        return _facts(ders)
    except NotParsed as error:
        return [Unread(str(error)) for _ in ders]


def key_from_file(path: str) -> str | Unread:
    """The fingerprint of the public half of a private key in a PEM file."""
    try:
        ((fingerprint, why),) = _ask([["key", Path(path).read_text("ascii", "replace"), path]])
    except OSError as error:
        return Unread(f"{path}: {error.strerror}", denied=isinstance(error, PermissionError))
    except NotParsed as error:
        return Unread(str(error))
    return str(fingerprint) if fingerprint else Unread(why)


def chain_flaw(ders: Sequence[bytes], roots: str) -> ChainFlaw | None:
    """Why what came over the wire leads to no root of this file, as far as can be told (`certificate.chain_flaw`)."""
    try:
        ((incomplete, why),) = _ask([["chain", Path(roots).read_text(), *(der.hex() for der in ders)]])
    except (OSError, ValueError, NotParsed):
        return None
    return ChainFlaw(incomplete, why) if why else None


def _facts(ders: Sequence[bytes]) -> list[Certificate | Unread]:
    return [
        Unread(answer) if isinstance(answer, str) else Certificate(**answer | {"names": tuple(answer["names"])})
        for answer in _ask([["facts", der.hex()] for der in ders])
    ]


def _ders(text: str) -> list[bytes]:
    try:
        return [ssl.PEM_cert_to_DER_cert(pem) for pem in PEM.findall(text)]
    except ValueError:
        return []


def _ask(questions: Sequence[Question]) -> list[Any]:
    """The answers of `certificate.answer`, from memory where the same was asked before; NotParsed."""
    digests = [hashlib.sha256(json.dumps(question).encode()).hexdigest() for question in questions]
    known = _remembered.copy()
    if missing := {digest: one for digest, one in zip(digests, questions, strict=True) if digest not in known}:
        new = dict(zip(missing, _answers_of_child(list(missing.values())), strict=True))
        known |= new
        if len(_remembered) + len(new) > LIMIT:
            _remembered.clear()
        _remembered.update(new)
    return [known[digest] for digest in digests]


def _answers_of_child(questions: list[Question]) -> list[Any]:
    command = [sys.executable, "-I", "-c", CHILD, HOME]
    try:
        said = subprocess.run(
            command, input=json.dumps(questions).encode(), capture_output=True, timeout=TIMEOUT, check=True
        )
        return list(json.loads(said.stdout))
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotParsed(f"certificates are not parsed: {last or f'exit code {error.returncode}'}") from None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NotParsed(f"certificates are not parsed: {error}") from None
