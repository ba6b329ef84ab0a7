"""One OPTIONS over TLS to one host, each step shown with all that was seen: `sbc-probe options`.

As JSON, schema version 1; times are seconds, dates ISO 8601 in UTC, null stands for what was not come to:

    schema        1
    host, port, name, sender
                  who was asked, the name that its certificate must carry, the FQDN in From and Contact
    steps         one each, in this order, as far as it got:
      dns         took_s, addresses, error
      tcp         took_s, address, source, outcome ("open", "refused", "timeout", "unreachable")
      tls         took_s, outcome ("complete", "unverified", "alert", "closed", "silent", "failed"), version, suite,
                  asked (for our certificate), shown (whether it got it), alerts (from, level, description), verified,
                  why_not, chain (subject, names, issuer, not_before, not_after, key, fingerprint of each)
      request     message
      answer      took_s, outcome ("answered", "alert", "closed", "silent", "not_sip"), code, reason, headers (pairs)
    cause         one of the causes of `sbc-probe check`; null when all is well or none of them fits
    meaning       one sentence
    exit_code     0 answered with 2xx in time, 1 not, 2 it could not be tried
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from sbc_probe import parsed, sip
from sbc_probe.findings import Cause, ExitCode
from sbc_probe.model import Certificate, Lookup
from sbc_probe.resolver import lookup

SCHEMA = 1
# Content types, handshake messages and the first version that encrypts them (RFC 8446, 4 and 5.1).
ALERT, HANDSHAKE = 21, 22
CERTIFICATE, CERTIFICATE_REQUEST = 11, 13
TLS_1_3 = 0x0304
# Alerts by which a peer says that our certificate is not good enough (RFC 8446, 6.2).
ABOUT_CERTIFICATES = frozenset({42, 43, 44, 45, 46, 48, 49, 116})
# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED; _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH (x509_vfy.h).
DATES, NAMES = frozenset({9, 10}), frozenset({62, 64})
# How long (s) a server of TLS 1.3 gets to refuse our certificate before anything is sent.
SETTLING = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """Whom to ask for what. `sender` is the FQDN in From and Contact, `source` the address that it leaves from.

    `timeout` (s) holds for each step, `patience` (s) is what Kamailio waits for an answer. `insecure`: a peer whose
    certificate does not verify is asked all the same.
    """

    host: str
    port: int
    name: str
    sender: str
    sender_port: int
    source: str
    certificate: str
    key: str
    roots: str
    timeout: float
    patience: float
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What one step saw: in words for people, as facts for programs. `took` in seconds."""

    name: str
    took: float | None
    lines: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """What it all means."""

    meaning: str
    cause: Cause | None = None
    exit_code: ExitCode = ExitCode.FAILED


class _Ended(Exception):
    def __init__(self, meaning: str, cause: Cause | None = None, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(meaning)
        self.end = End(meaning, cause, exit_code)


Show = Callable[[Step], None]


def ask(question: Question, show: Show) -> End:
    """Go as far as it gets; every step is shown as soon as it is over."""
    try:
        context = _with_our_certificate(question)
        address = _resolve(question, show)
        tls, record = _secure(question, address, context, show)
        with tls:
            return _exchange(question, tls, record, show)
    except _Ended as ended:
        return ended.end


def as_json(question: Question, steps: list[Step], end: End) -> dict[str, Any]:
    """The whole as described at the top of this file."""
    return {
        "schema": SCHEMA,
        "host": question.host,
        "port": question.port,
        "name": question.name,
        "sender": question.sender,
        "steps": {step.name: step.facts for step in steps},
        "cause": end.cause,
        "meaning": end.meaning,
        "exit_code": int(end.exit_code),
    }


def as_text(step: Step) -> str:
    """One step for people, its continuation lines below its first."""
    took = "" if step.took is None else f"{step.took:.3f} s"
    head = f"{step.name.upper():<8} {took:>9}  "
    return "\n".join(f"{head if number == 0 else ' ' * len(head)}{line}" for number, line in enumerate(step.lines))


# ---------------------------------------------------------------- before anything is sent


def _with_our_certificate(question: Question) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (question.certificate, question.key, question.roots):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            advice = ": run it as root" if isinstance(error, PermissionError) else ""
            raise _Ended(f"{path}: {error.strerror}{advice}", exit_code=ExitCode.UNKNOWN) from None
    try:
        # The password keeps OpenSSL from asking the terminal for one.
        context.load_cert_chain(question.certificate, question.key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        both = f"{question.certificate} and {question.key}"
        raise _Ended(f"{both} are no usable pair: {_words(error)}", exit_code=ExitCode.UNKNOWN) from None
    try:
        context.load_verify_locations(question.roots)
    except (ssl.SSLError, OSError):
        raise _Ended(f"{question.roots} holds no certificates", exit_code=ExitCode.UNKNOWN) from None
    return context


def _resolve(question: Question, show: Show) -> str:
    """The address to ask: the first one, as Kamailio does."""
    if _is_address(question.host):
        return question.host
    begun = time.monotonic()
    found: Lookup = lookup(question.host)
    took = time.monotonic() - begun
    said = f"{question.host}: {', '.join(found.addresses) or found.error}"
    lines = [said]
    if len(found.addresses) > 1:
        lines.append(f"asking the first; the others: sbc-probe options ADDRESS --name {question.name}")
    facts = {"took_s": _rounded(took), "addresses": list(found.addresses), "error": found.error}
    show(Step("dns", took, lines, facts))
    if not found.addresses:
        raise _Ended(f"DNS for {said}", Cause.PROXY_DNS)
    return found.addresses[0]


def _is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def _connect(question: Question, address: str, show: Show | None) -> socket.socket:
    where, begun = f"{address}:{question.port}", time.monotonic()

    def tell(line: str, outcome: str, source: str | None = None) -> None:
        took = time.monotonic() - begun
        facts = {"took_s": _rounded(took), "address": where, "source": source, "outcome": outcome}
        if show:
            show(Step("tcp", took, [line], facts))

    try:
        connection = socket.create_connection(
            (address, question.port), question.timeout, source_address=(question.source, 0)
        )
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise _Ended(f"{question.source} is no address of this machine", exit_code=ExitCode.UNKNOWN) from None
        match error:
            case ConnectionRefusedError():
                outcome, said = "refused", "refuses TCP: nothing listens there, or a firewall says so"
            case TimeoutError():
                outcome = "timeout"
                said = f"no answer to TCP within {question.timeout:g} s: a firewall on the way, or nobody there"
            case _:
                outcome, said = "unreachable", f"TCP: {error.strerror or error}"
        tell(f"{question.source} to {where}: {said}", outcome)
        raise _Ended(f"{where}: {said}", Cause.PROXY_UNREACHABLE) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = connection.getsockname()[:2]
    tell(f"{host}:{port} to {where}", "open", f"{host}:{port}")
    return connection


# ---------------------------------------------------------------- TLS


@dataclass(slots=True)
class Alert:
    """A TLS alert; `theirs`: the peer sent it."""

    theirs: bool
    level: int
    number: int

    @property
    def words(self) -> str:
        """Its name in RFC 8446, 6, with spaces."""
        with contextlib.suppress(ValueError):
            return ssl.AlertDescription(self.number).name.removeprefix("ALERT_DESCRIPTION_").lower().replace("_", " ")
        return {49: "access denied", 116: "certificate required", 120: "no application protocol"}.get(
            self.number, f"alert {self.number}"
        )


@dataclass(slots=True)
class Record:
    """What a handshake said, noted as it passed.

    `ders` are the peer's certificates, `unverified` is what is wrong with them; `suite` is the version and the suite
    of a handshake that was completed.
    """

    ders: list[bytes] = field(default_factory=list)
    asked: bool = False
    shown: bool = False
    alerts: list[Alert] = field(default_factory=list)
    unverified: End | None = None
    suite: tuple[str, str] | None = None

    def note(self, connection: object, direction: str, version: int, content: int, message: int, data: bytes) -> None:
        """Called by OpenSSL for each message, after decryption."""
        theirs = direction == "read"
        if content == ALERT and len(data) == 2:
            self.alerts.append(Alert(theirs, data[0], data[1]))
        elif content == HANDSHAKE and message == CERTIFICATE_REQUEST and theirs:
            self.asked = True
        elif content == HANDSHAKE and message == CERTIFICATE:
            ders = _certificates(data, version >= TLS_1_3)
            if theirs:
                self.ders = ders
            else:
                self.shown = bool(ders)

    @property
    def refusal(self) -> Alert | None:
        """The alert by which the peer ended it; close notify (0) is a good-bye and no refusal."""
        return next((alert for alert in reversed(self.alerts) if alert.theirs and alert.number), None)


def _certificates(data: bytes, with_extensions: bool) -> list[bytes]:
    """Those in a Certificate message (RFC 5246, 7.4.2; RFC 8446, 4.4.2), without its header's meaning."""
    at = 4 + (1 + data[4] if with_extensions else 0) + 3
    found = []
    while at + 3 <= len(data):
        length = int.from_bytes(data[at : at + 3])
        found.append(data[at + 3 : at + 3 + length])
        at += 3 + length
        if with_extensions:
            at += 2 + int.from_bytes(data[at : at + 2])
    return found


def _handshake(context: ssl.SSLContext, connection: socket.socket, question: Question, record: Record) -> ssl.SSLSocket:
    # Private, and the only way to what Python does not tell: the chain of a peer that is refused, whether a certificate
    # was asked for, and the alerts. There since Python 3.8.
    context._msg_callback = record.note  # type: ignore[attr-defined]
    tls = context.wrap_socket(connection, server_hostname=question.name)
    record.suite = (tls.version() or "", (tls.cipher() or ("",))[0])
    return tls


def _secure(question: Question, address: str, context: ssl.SSLContext, show: Show) -> tuple[ssl.SSLSocket, Record]:
    """A TLS connection to a peer whose certificate verifies, or, where that was asked for, to any."""
    connection, record, begun = _connect(question, address, show), Record(), time.monotonic()
    try:
        try:
            connection = _handshake(context, connection, question, record)
        except ssl.SSLCertVerificationError as error:
            unverified = record.unverified = End(_why_not(question, error, record), _cause_of(error))
            connection.close()
            if not question.insecure:
                _show_tls(question, show, begun, record, "unverified")
                advice = "nothing was sent (--insecure sends it all the same)"
                raise _Ended(f"{unverified.meaning}; {advice}", unverified.cause) from None
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            record = Record(unverified=unverified)
            connection, begun = _connect(question, address, None), time.monotonic()
            connection = _handshake(context, connection, question, record)
        _settle(connection, record)
    except (OSError, EOFError) as error:
        connection.close()
        outcome, said = _broken(question, record, error)
        _show_tls(question, show, begun, record, outcome, said)
        raise _Ended(f"{address}:{question.port} {said}", Cause.PROXY_TLS) from None
    _show_tls(question, show, begun, record, "unverified" if record.unverified else "complete")
    return connection, record


def _cause_of(error: ssl.SSLCertVerificationError) -> Cause:
    if error.verify_code in DATES:
        return Cause.PROXY_CERTIFICATE_EXPIRED
    return Cause.PROXY_CERTIFICATE_NAME if error.verify_code in NAMES else Cause.PROXY_CERTIFICATE_UNTRUSTED


def _why_not(question: Question, error: ssl.SSLCertVerificationError, record: Record) -> str:
    """Why the peer's certificate does not verify, with what it shows instead."""
    for leaf in parsed.from_ders(record.ders[:1]):
        if error.verify_code in NAMES and isinstance(leaf, Certificate):
            return f"its certificate is for {_names(leaf)}, not for {question.name}"
    flaw = parsed.chain_flaw(record.ders, question.roots) if record.ders else None
    if flaw is None:
        return f"its certificate does not verify: {error.verify_message}"
    return f"its certificate leads to no root in {question.roots}: {flaw.why}"


def _broken(question: Question, record: Record, error: Exception) -> tuple[str, str]:
    """How TLS failed: the outcome, and what to say of it."""
    when = "after the handshake" if record.suite else "during the TLS handshake"
    if alert := record.refusal:
        return "alert", _refusal(alert, record, question, when)
    match error:
        case TimeoutError():
            return "silent", f"takes TCP and then says nothing in TLS for {question.timeout:g} s"
        case EOFError() | ssl.SSLEOFError() | ConnectionResetError() | BrokenPipeError():
            return "closed", f"takes TCP and hangs up {when}, without an alert"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "HTTP_REQUEST"):
            return "failed", "takes TCP, but what it speaks is no TLS"
        case _:
            return "failed", f"TLS fails: {_words(error)}"


def _refusal(alert: Alert, record: Record, question: Question, when: str) -> str:
    said = f"ends TLS {when} with the alert '{alert.words}'"
    if alert.number in ABOUT_CERTIFICATES and record.shown:
        return f"{said}: it refuses our certificate, {question.certificate}"
    return said


def _show_tls(
    question: Question, show: Show, begun: float, record: Record, outcome: str, said: str | None = None
) -> None:
    took = time.monotonic() - begun
    chain = [one for one in parsed.from_ders(record.ders) if isinstance(one, Certificate)]
    lines = [", ".join(record.suite)] if record.suite else []
    if said:
        lines.append(said)
    if record.unverified:
        lines.append(f"NOT VERIFIED: {record.unverified.meaning}")
    elif record.suite:
        lines.append(f"verified: it carries {question.name} and leads to a root in {question.roots}")
    for number, one in enumerate(chain):
        lines += _certificate_lines("its certificate" if number == 0 else "its issuer's", one)
    if record.asked:
        lines.append(
            f"asks for our certificate and gets {question.certificate}" if record.shown else "asks for our certificate"
        )
    elif record.suite:
        lines.append("does not ask for our certificate")
    for alert in record.alerts:
        lines.append(f"alert from {'it' if alert.theirs else 'us'}: {alert.words}")
    facts = {
        "took_s": _rounded(took),
        "outcome": outcome,
        "version": record.suite[0] if record.suite else None,
        "suite": record.suite[1] if record.suite else None,
        "asked": record.asked,
        "shown": record.shown,
        "alerts": [_alert_facts(alert) for alert in record.alerts],
        "verified": False if record.unverified else True if record.suite else None,
        "why_not": record.unverified.meaning if record.unverified else None,
        "chain": [_certificate_facts(one) for one in chain],
    }
    show(Step("tls", took, lines, facts))


def _alert_facts(alert: Alert) -> dict[str, Any]:
    level = {1: "warning", 2: "fatal"}.get(alert.level)
    return {"from": "peer" if alert.theirs else "us", "level": level, "description": alert.words}


def _certificate_lines(label: str, one: Certificate) -> list[str]:
    return [
        f"{label}: {_names(one) if label == 'its certificate' else one.subject}",
        f"  from {_iso(one.not_before)} until {_iso(one.not_after)}, {one.key_type} {one.key_bits or ''}".rstrip(),
        f"  issuer {one.issuer}",
    ]


def _names(one: Certificate) -> str:
    more = len(one.names) - 6
    return (", ".join(one.names[:6]) or "no name at all") + (f" and {more} more" if more > 0 else "")


def _certificate_facts(one: Certificate) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "names": list(one.names),
        "issuer": one.issuer,
        "not_before": _iso(one.not_before),
        "not_after": _iso(one.not_after),
        "key": f"{one.key_type} {one.key_bits or ''}".rstrip(),
        "fingerprint": one.fingerprint,
    }


# ---------------------------------------------------------------- SIP


def _exchange(question: Question, tls: ssl.SSLSocket, record: Record, show: Show) -> End:
    uri = f"sip:{question.name}:{question.port};transport=tls"
    contact = f"sip:{question.sender}:{question.sender_port};transport=tls"
    request, call_id = sip.options_request(uri, question.sender, contact, f"{question.sender}:{question.sender_port}")
    show(Step("request", None, request.rstrip().split("\r\n"), {"message": request}))
    begun = time.monotonic()

    def tell(outcome: str, lines: list[str], answer: sip.Message | None = None) -> float:
        took = time.monotonic() - begun
        facts = {
            "took_s": _rounded(took),
            "outcome": outcome,
            "code": answer.code if answer else None,
            "reason": answer.reason if answer else None,
            "headers": [list(pair) for pair in answer.headers] if answer else None,
        }
        show(Step("answer", took, lines, facts))
        return took

    try:
        answer = sip.final_answer(tls, request, call_id, question.timeout)
    except sip.NotSip as error:
        said = f"answers with something that is no SIP: {error}"
        tell("not_sip", [said])
        return End(f"{question.host} {said}")
    except (OSError, EOFError) as error:
        outcome, said, cause = _no_answer(question, record, error)
        took = tell(outcome, [said])
        return End(
            f"{question.host} {said}" + (f", {took:.3f} s after the OPTIONS" if outcome == "closed" else ""), cause
        )
    took = tell("answered", [answer.first, *(f"{name}: {value}" for name, value in answer.headers)], answer)
    return _meaning(question, answer, took, record.unverified)


def _settle(tls: ssl.SSLSocket, record: Record) -> None:
    """Let a server of TLS 1.3 that asked for our certificate look at it first, for `SETTLING` at most.

    Its alert would get lost when it closes a connection on which our OPTIONS is still on its way. Raises OSError, and
    EOFError where it closes.
    """
    if tls.version() != "TLSv1.3" or not record.asked:
        return
    tls.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        # What comes is the alert, or session tickets, which are no data: the certificate is accepted then.
        if select.select([tls], [], [], SETTLING)[0] and not tls.recv(1):
            raise EOFError


def _no_answer(question: Question, record: Record, error: Exception) -> tuple[str, str, Cause]:
    """The outcome, what to say of it, and its cause."""
    if alert := record.refusal:
        return "alert", _refusal(alert, record, question, "after the handshake"), Cause.PROXY_TLS
    if isinstance(error, TimeoutError):
        return "silent", f"completes TLS and does not answer within {question.timeout:g} s", Cause.PROXY_SILENT
    if isinstance(error, EOFError | ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return "closed", "completes TLS and closes the connection without an answer", Cause.PROXY_SILENT
    return "closed", f"completes TLS and is lost without an answer: {_words(error)}", Cause.PROXY_SILENT


def _meaning(question: Question, answer: sip.Message, took: float, unverified: End | None) -> End:
    said = f"{question.host} answers {answer.code} {answer.reason}".rstrip() + f" after {took:.3f} s"
    if why := answer.get("reason"):
        said += f", Reason: {why}"
    code = answer.code or 0
    if code == 403:
        return End(f"{said}: it has no enabled trunk {question.sender}, or refuses everybody", Cause.PROXY_FORBIDS)
    if code == 503:
        wait = answer.get("retry-after")
        return End(
            f"{said}: it takes no calls now" + (f", Retry-After: {wait}" if wait else ""), Cause.PROXY_OVERLOADED
        )
    if not 200 <= code < 300:
        return End(said, Cause.PROXY_REFUSES)
    if took > question.patience:
        return End(f"{said}; Kamailio gives up after {question.patience:g} s", Cause.PROXY_SILENT)
    if unverified:
        return End(f"{said}, and yet {unverified.meaning}", unverified.cause)
    return End(f"{said}: the way there, its certificate and what it takes us for are in order", None, ExitCode.PROVEN)


def _words(error: Exception) -> str:
    match error:
        case ssl.SSLError():
            return (error.reason or str(error)).lower().replace("_", " ")
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _rounded(seconds: float) -> float:
    return round(seconds, 4)
