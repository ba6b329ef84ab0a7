"""A SIP-over-TLS client at Microsoft's own address, as a program: it keeps one connection and asks over it.

Started in the namespace of the lab's Microsoft. Each line on its standard input is a name to ask for with OPTIONS, or
empty to look only; each answer is a line of JSON on its standard output: {"up": bool, "code": int | null,
"contact": str | null, "fingerprint": str}, the fingerprint (SHA-256) being that of the certificate it was shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import select
import socket
import ssl
import sys
from uuid import uuid4

TIMEOUT = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="the SBC's")
    parser.add_argument("name", help="for SNI; the certificate is verified for it")
    parser.add_argument("--source", required=True, help="address to call from")
    parser.add_argument("--certificate", required=True, help="what we show: PEM")
    parser.add_argument("--key", required=True)
    parser.add_argument("--roots", required=True, help="what their certificate must lead to: PEM")
    given = parser.parse_args()

    context = ssl.create_default_context(cafile=given.roots)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(given.certificate, given.key)
    plain = socket.create_connection((given.address, 5061), TIMEOUT, (given.source, 0))
    with context.wrap_socket(plain, server_hostname=given.name) as connection:
        shown = connection.getpeercert(binary_form=True)
        assert shown
        fingerprint = hashlib.sha256(shown).hexdigest()
        print(json.dumps({"up": True, "code": None, "contact": None, "fingerprint": fingerprint}), flush=True)
        for line in sys.stdin:
            answer = _ask(connection, line.strip(), given.source) if _is_up(connection) else None
            code = re.match(r"SIP/2\.0 (\d{3})", answer or "")
            contact = re.search(r"^Contact: *(.*?)\r$", answer or "", re.MULTILINE | re.IGNORECASE)
            result = {
                "up": answer is not None,
                "code": int(code[1]) if code else None,
                "contact": contact[1] if contact else None,
                "fingerprint": fingerprint,
            }
            print(json.dumps(result), flush=True)


def _is_up(connection: ssl.SSLSocket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return True
    try:
        return bool(connection.recv(65536))
    except (ssl.SSLError, OSError):
        return False


def _ask(connection: ssl.SSLSocket, name: str, source: str) -> str | None:
    """Everything that came back up to an empty line; empty if nothing was asked, None if the connection is gone."""
    if not name:
        return ""
    request = (
        f"OPTIONS sip:{name}:5061;transport=tls SIP/2.0",
        f"Via: SIP/2.0/TLS {source}:5061;branch=z9hG4bK{uuid4().hex};alias",
        "Max-Forwards: 70",
        f"From: <sip:sip.pstnhub.microsoft.com:5061>;tag={uuid4().hex}",
        f"To: <sip:{name}>",
        f"Call-ID: {uuid4().hex}",
        "CSeq: 1 OPTIONS",
        "User-Agent: Microsoft.PSTNHub.SIPProxy caller",
        "Content-Length: 0",
    )
    try:
        connection.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = connection.recv(65536)
            if not data:
                return None
            answer += data
    except OSError:
        return None
    return answer.decode()


if __name__ == "__main__":
    main()
