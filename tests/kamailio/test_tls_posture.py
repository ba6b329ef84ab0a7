"""What a scanner sees of port 5061, with a certificate of an authority and its intermediate."""

from __future__ import annotations

import datetime
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.kamailio import handshakes
from tests.kamailio.running import ADDRESS, FQDN, Start, exchange, needs_kamailio

# It wants another version of a library than the rest, so lab/bootstrap gives it an environment of its own.
SSLYZE = Path(sys.prefix) / "sslyze/bin/sslyze"
DAY = datetime.timedelta(days=1)


def certificate(
    name: str, issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None, *, is_authority: bool
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    """A certificate and its key; signed by itself without an issuer."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer[1] if issuer else key
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 89 * DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(key_usage(is_authority), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


def key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_encipherment=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def install_chain(directory: Path) -> None:
    """Give Kamailio what an authority gives: a certificate and the intermediate that it was signed with."""
    root = certificate("Root", None, is_authority=True)
    intermediate = certificate("Intermediate", root, is_authority=True)
    own, key = certificate(FQDN, intermediate, is_authority=False)
    pem = serialization.Encoding.PEM
    (directory / "root.pem").write_bytes(root[0].public_bytes(pem))
    (directory / "sbc.pem").write_bytes(own.public_bytes(pem) + intermediate[0].public_bytes(pem))
    (directory / "sbc.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def results(report: Path) -> dict[str, Any]:
    """What each of the scanner's plugins found."""
    (server,) = json.loads(report.read_text())["server_scan_results"]
    assert server["scan_status"] == "COMPLETED"
    found = server["scan_result"]
    done = {name: item for name, item in found.items() if item["status"] != "NOT_SCHEDULED"}
    assert {item["status"] for item in done.values()} == {"COMPLETED"}
    return {name: item["result"] for name, item in done.items()}


@needs_kamailio
def test_a_scanner_finds_no_weakness(start: Start, directory: Path) -> None:
    sbc = start()
    install_chain(directory)
    assert "reloaded" in sbc.rpc("tls.reload")
    report = directory / "report.json"
    scan = subprocess.run(
        [SSLYZE, "--mozilla_config=intermediate", "--resum", "--slow_connection", f"--json_out={report}",
         f"--certinfo_ca_file={directory / 'root.pem'}", f"{FQDN}:5061{{{ADDRESS}}}"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert scan.returncode == 0, scan.stdout[scan.stdout.find("COMPLIANCE") :] + scan.stderr
    found = results(report)
    accepted = {
        version.removesuffix("_cipher_suites"): {
            suite["cipher_suite"]["name"] for suite in item["accepted_cipher_suites"]
        }
        for version, item in found.items()
        if version.endswith("_cipher_suites")
    }
    assert accepted.pop("tls_1_3")
    assert accepted.pop("tls_1_2") == {
        f"TLS_ECDHE_RSA_WITH_AES_{size}" for size in ("256_GCM_SHA384", "128_GCM_SHA256")
    }
    assert accepted == {"ssl_2_0": set(), "ssl_3_0": set(), "tls_1_0": set(), "tls_1_1": set()}
    assert {curve["name"] for curve in found["elliptic_curves"]["supported_curves"]} == {
        "X25519",
        "secp256r1",
        "secp384r1",
    }
    weaknesses = {
        "heartbleed": found["heartbleed"]["is_vulnerable_to_heartbleed"],
        "ccs": found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"],
        "robot": found["robot"]["robot_result"] != "NOT_VULNERABLE_RSA_NOT_SUPPORTED",
        "compression": found["tls_compression"]["supports_compression"],
        "insecure renegotiation": not found["session_renegotiation"]["supports_secure_renegotiation"],
        "renegotiation by the client": found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"],
        "downgrade": not found["tls_fallback_scsv"]["supports_fallback_scsv"],
        "no extended master secret": not found["tls_extended_master_secret"]["supports_ems_extension"],
    }
    assert weaknesses == dict.fromkeys(weaknesses, False)
    # Tickets alone, and their key dies with the certificate: no state here, and nothing that outlives a renewal.
    resumption = found["session_resumption"]
    assert resumption["session_id_resumption_result"] == "NOT_SUPPORTED"
    assert resumption["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"


@needs_kamailio
def test_a_session_is_not_resumed_with_an_earlier_certificate(start: Start) -> None:
    sbc = start()
    with sbc.connect() as first:
        assert exchange(first).startswith("SIP/2.0 200 ")
        with sbc.connect(earlier=first) as second:
            assert second.session_reused
            assert exchange(second).startswith("SIP/2.0 200 ")
        handshakes.make_certificates(sbc.directory)
        assert "reloaded" in sbc.rpc("tls.reload")
        with pytest.raises(ssl.SSLCertVerificationError):  # the new certificate, of an authority that it does not know
            sbc.connect(earlier=first)


@needs_kamailio
@pytest.mark.parametrize("suite", handshakes.SUITES.split(":"))
@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1"])
def test_a_client_with_one_of_microsofts_suites_alone_is_answered(start: Start, suite: str, curve: str) -> None:
    sbc = start()
    with sbc.connect(suites=suite, curve=curve) as session:
        assert session.cipher() == (suite, "TLSv1.2", 256 if "256-GCM" in suite else 128)
        assert exchange(session).startswith("SIP/2.0 200 ")


@needs_kamailio
def test_cbc_and_older_versions_are_refused(start: Start) -> None:
    sbc = start()
    for suite in ("ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA256", "AES256-GCM-SHA384"):
        with pytest.raises(ssl.SSLError):
            sbc.connect(suites=suite)
