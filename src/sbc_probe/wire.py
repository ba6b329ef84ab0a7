"""What a plain client on this host finds on the network: our own signalling port, and Microsoft's proxies."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys

from sbc_probe import parsed, sip
from sbc_probe.config import Config
from sbc_probe.model import Certificate, ChainFlaw, Lookup, OptionsReply, Port, Reach, Tcp, Unread

# All that Microsoft offers (its own connections to an SBC, observed); none of them works with an ECDSA certificate.
RSA_SUITES = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256"
# X509_V_FLAG_NO_CHECK_TIME: the dates are judged on their own and must not hide a broken chain (OpenSSL, x509_vfy.h).
NO_CHECK_TIME = 0x200000
# X509_V_ERR_INVALID_PURPOSE: what the certificate may be used for is judged on its own, too.
INVALID_PURPOSE = 26
TIMEOUT = 4.0

VERIFY = "import sys; sys.path.insert(0, sys.argv[1]); from sbc_probe.wire import verify; verify(sys.argv[2])"

# What was last verified (the chain, the roots), and what came of it.
_verified: tuple[tuple[object, ...], ChainFlaw | None] | None = None


class _Closed(OSError):
    """TCP was not possible; `kind` says how."""

    def __init__(self, kind: Tcp) -> None:
        super().__init__(kind)
        self.kind = kind


def _connect(address: str, port: int, source: str = "") -> socket.socket:
    try:
        return socket.create_connection((address, port), TIMEOUT, (source, 0))
    except ConnectionRefusedError:
        raise _Closed("refused") from None
    except TimeoutError:
        raise _Closed("timeout") from None
    except OSError:
        raise _Closed("unreachable") from None


def _context(roots: str | None = None, suites: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    if roots:
        context.load_verify_locations(roots)
    else:
        context.verify_mode = ssl.CERT_NONE
    if suites:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)
    return context


def _why(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLEOFError() | ConnectionResetError():
            return "the peer closed the connection"
        case TimeoutError():
            return "no answer"
        case ssl.SSLError():
            return (error.reason or str(error)).lower().replace("_", " ")
        case _:
            return error.strerror or str(error)


def _handshake(config: Config, context: ssl.SSLContext) -> ssl.SSLSocket:
    # From our own address, by which Kamailio tells us from Microsoft.
    return context.wrap_socket(_connect(config.address, config.port, config.address), server_hostname=config.fqdn)


def read_port(config: Config) -> Port:
    """Handshake with our own port as Microsoft would, and send it an OPTIONS."""
    address, port = config.address, config.port
    rsa_suites = True
    try:
        try:
            tls = _handshake(config, _context(suites=RSA_SUITES))
        except ssl.SSLError:
            rsa_suites = False
            tls = _handshake(config, _context())
        with tls:
            sent, options = _sent(tls, config), _options(tls, config)
    except _Closed as closed:
        unread = Unread(f"TCP to {address}:{port}: {closed.kind}")
        return Port(closed.kind, unread, False, None, unread)
    except OSError as error:
        unread = Unread(f"TLS with {address}:{port}: {_why(error)}")
        return Port("open", unread, False, None, unread)
    if not sent:
        return Port("open", Unread("no certificate was sent"), rsa_suites, None, options)
    leaf, *others = parsed.from_ders(sent)
    intermediates = tuple(other for other in others if isinstance(other, Certificate))
    flaw = _chain_flaw(sent, config)
    return Port("open", leaf, rsa_suites, flaw, options, intermediates)


def _chain_flaw(sent: list[bytes], config: Config) -> ChainFlaw | None:
    """Why the chain leads to no trusted root; the answer is kept for as long as neither it nor the roots change."""
    global _verified
    roots = config.trusted_roots
    try:
        question = (*sent, roots, os.stat(roots).st_mtime_ns)
    except OSError as error:
        return ChainFlaw(False, f"{roots}: {error.strerror}")
    if _verified and _verified[0] == question:
        return _verified[1]
    settled, flaw = _verify(sent, config)
    if settled:
        _verified = question, flaw
    return flaw


def _verify(sent: list[bytes], config: Config) -> tuple[bool, ChainFlaw | None]:
    """Let OpenSSL verify the chain in another handshake; False: that came to no word on the chain.

    In a child, since a hundred roots once read stay in the memory of a process that lives long.
    """
    asked = [config.address, config.port, config.fqdn, config.trusted_roots, [der.hex() for der in sent]]
    try:
        said = subprocess.run(
            [sys.executable, "-I", "-c", VERIFY, parsed.HOME, json.dumps(asked)],
            capture_output=True,
            timeout=3 * TIMEOUT,
            check=True,
        )
        settled, found = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return False, ChainFlaw(False, f"the chain was not verified: {error}")
    return settled, ChainFlaw(*found) if found else None


def verify(asked: str) -> None:
    """What the child of `_verify` does: print whether that settles it, and the fields of a ChainFlaw or null."""
    address, port, fqdn, roots, ders = json.loads(asked)
    settled, flaw = True, None
    try:
        context = _context(roots)
        context.verify_flags |= NO_CHECK_TIME
        # Later versions send tickets after the handshake; Kamailio would complain that nobody read them.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.wrap_socket(_connect(address, port), server_hostname=fqdn).close()
    except ssl.SSLCertVerificationError as error:
        flaw = parsed.chain_flaw([bytes.fromhex(der) for der in ders], roots)
        if flaw is None and error.verify_code != INVALID_PURPOSE:
            flaw = ChainFlaw(False, _why(error))
    except OSError as error:
        settled = False
        flaw = ChainFlaw(False, _why(error) if isinstance(error, ssl.SSLError) else f"{roots}: {_why(error)}")
    print(json.dumps([settled, flaw and [flaw.incomplete, flaw.why]]))


def _sent(tls: ssl.SSLSocket, config: Config) -> list[bytes]:
    """All certificates that the port sent, its own first."""
    if sys.version_info >= (3, 13):
        return list(tls.get_unverified_chain())
    # Older ones give the first alone; what Kamailio reads from disk is what it sends.
    leaf = tls.getpeercert(binary_form=True)
    on_disk = parsed.ders_from_file(config.certificate)
    return on_disk if leaf in on_disk[:1] else [leaf] if leaf else []


def _options(tls: ssl.SSLSocket, config: Config) -> OptionsReply | Unread:
    """Send one OPTIONS and read the final answer."""
    host, port = tls.getsockname()[:2]
    uri, contact = f"sip:{config.fqdn}:{config.port};transport=tls", f"sip:sbc-probe@{host}:{port};transport=tls"
    request, call_id = sip.options_request(uri, f"sbc-probe@{config.fqdn}", contact, f"{host}:{port}")
    try:
        answer = sip.final_answer(tls, request, call_id, TIMEOUT)
    except EOFError:
        return Unread("the connection was closed without an answer")
    except sip.NotSip as error:
        return Unread(f"no SIP answer but {error}")
    except OSError as error:
        return Unread(_why(error))
    return OptionsReply(answer.code or 0, answer.reason, answer.get("contact"))


def reach(host: str, found: Lookup, port: int, roots: str) -> Reach:
    """Try a proxy as a plain TLS client: TCP, its certificate and its name. No SIP is sent."""
    if not found.addresses:
        return Reach(found)
    try:
        raw = _connect(found.addresses[0], port)
    except _Closed as closed:
        return Reach(found, closed.kind)
    context = _context(roots)
    context.check_hostname = True
    with raw:
        try:
            with context.wrap_socket(raw, server_hostname=host) as tls:
                # TLS 1.2 has said all by now; a TLS 1.3 server refuses a missing client certificate only afterwards.
                return Reach(found, "open", "complete", tls.version() or "")
        except ssl.SSLCertVerificationError as error:
            return Reach(found, "open", "untrusted", _why(error))
        except ssl.SSLEOFError as error:
            return Reach(found, "open", "broken", _why(error))
        except ssl.SSLError as error:
            return Reach(found, "open", "alert", _why(error))
        except OSError as error:
            return Reach(found, "open", "broken", _why(error))
