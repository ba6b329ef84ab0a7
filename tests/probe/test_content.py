"""A certificate that a customer brings as files, judged before anything is made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from miniature import FQDN, Authority

from sbc_probe.content import covers, judge_files
from sbc_probe.findings import Cause, Finding

DAY = 86400.0
TENANT = f"fabrikam.{FQDN}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("bought"), "root")


@pytest.fixture(scope="module")
def issuer(root: Authority) -> Authority:
    return Authority(root.directory, "issuer", root)


def judged(
    chain: Path, root: Authority | None, key: Path | None = None, names: tuple[str, ...] = (FQDN,), cloud: str = "dod"
) -> list[Finding]:
    return judge_files(
        chain.read_bytes(),
        (key or chain.with_suffix(".key")).read_bytes(),
        names,
        root.roots.read_bytes() if root else None,
        time.time(),
        cloud,
    )


def causes(found: list[Finding]) -> list[Cause]:
    return [finding.cause for finding in found]


def test_nothing_is_found_where_all_is_in_order(root: Authority, issuer: Authority) -> None:
    good = issuer.issue("good", FQDN, f"*.{FQDN}", chain=[issuer])
    for roots in (root, None):
        assert judged(good, roots, names=(FQDN, TENANT)) == []
    assert judge_files(good.read_bytes(), None, [FQDN], None, time.time()) == []
    with_root = issuer.issue("with-root", FQDN, chain=[issuer, root])
    assert judged(with_root, root) == judged(with_root, None) == []


def test_every_tenants_name_must_be_covered(root: Authority, issuer: Authority) -> None:
    (found,) = judged(issuer.issue("base", FQDN, chain=[issuer]), root, names=(FQDN, TENANT, f"a.{FQDN}"))
    assert found.cause is Cause.CERTIFICATE_NAME
    assert found.evidence == f"The certificate is for {FQDN}, not for {TENANT}, a.{FQDN}"
    assert judged(issuer.issue("each", FQDN, TENANT, chain=[issuer]), root, names=(FQDN, TENANT)) == []


def test_each_fault_has_its_own_cause(root: Authority, issuer: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    spent = Authority(tmp_path, "spent", root, ends=-1)
    faults = {
        Cause.CERTIFICATE_KEY_TYPE: issuer.issue("ecdsa", FQDN, ecdsa=True, chain=[issuer]),
        Cause.CERTIFICATE_NOT_YET_VALID: issuer.issue("early", FQDN, begins=1, chain=[issuer]),
        Cause.CERTIFICATE_USAGE: issuer.issue("client", FQDN, usage=ExtendedKeyUsageOID.CLIENT_AUTH, chain=[issuer]),
        Cause.CERTIFICATE_INCOMPLETE: issuer.issue("leaf", FQDN),
        Cause.CERTIFICATE_UNTRUSTED: stranger.issue("strange", FQDN, chain=[stranger]),
        Cause.CERTIFICATE_EXPIRED: issuer.issue("late", FQDN, begins=-9, ends=-1, chain=[issuer]),
    }
    for cause, chain in faults.items():
        (found,) = judged(chain, root)
        assert found.cause is cause
        assert "site.yml" in found.next_step
        assert "certbot" not in found.next_step
    (found,) = judged(spent.issue("spent-leaf", FQDN, chain=[spent]), root)
    assert found.cause is Cause.CERTIFICATE_EXPIRED
    assert "The chain's certificate CN=Test spent ended on" in found.evidence
    (short,) = judged(issuer.issue("short", FQDN, bits=1024, chain=[issuer]), root)
    assert "1024 bits" in short.evidence


def test_the_root_that_a_cloud_accepts_is_named(issuer: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    chain = issuer.issue("gov", FQDN, chain=[issuer])
    (found,) = judged(chain, other)
    assert "CN=Test issuer, whose issuer, CN=Test root, is no accepted root" in found.evidence
    assert "Microsoft's DoD accepts DigiCert's roots only" in found.evidence
    assert "DigiCert" not in judged(chain, other, cloud="commercial")[0].evidence


def test_a_certificate_that_issued_itself_needs_no_roots_to_be_refused(root: Authority) -> None:
    own = root.directory / "own.pem"
    own.write_bytes(root.roots.read_bytes())
    found = judge_files(own.read_bytes(), None, ["test root"], None, time.time())
    assert causes(found) == [Cause.CERTIFICATE_UNTRUSTED]


def test_an_authority_of_the_same_name_is_not_the_issuer(issuer: Authority, tmp_path: Path) -> None:
    namesake = Authority(tmp_path, "root")
    assert causes(judged(issuer.issue("namesake", FQDN, chain=[issuer]), namesake)) == [Cause.CERTIFICATE_UNTRUSTED]


@pytest.fixture(scope="module")
def chain(issuer: Authority) -> Path:
    return issuer.issue("keyed", FQDN, chain=[issuer])


class TestKey:
    def test_another_certificates(self, chain: Path, root: Authority, issuer: Authority) -> None:
        other = issuer.issue("other", FQDN).with_suffix(".key")
        assert causes(judged(chain, root, other)) == [Cause.CERTIFICATE_KEY_MISMATCH]

    def test_locked_or_no_key_at_all(self, chain: Path, root: Authority, tmp_path: Path) -> None:
        locked, junk = tmp_path / "locked.key", tmp_path / "junk.key"
        locked.write_bytes(
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        junk.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
        for key, why in ((locked, "passphrase"), (junk, "no readable private key")):
            (found,) = judged(chain, root, key)
            assert found.cause is Cause.CERTIFICATE_KEY_UNREADABLE
            assert why in found.evidence
            assert "c2VjcmV0" not in found.evidence


def test_what_is_no_chain_is_named(issuer: Authority, root: Authority) -> None:
    leaf = issuer.issue("order", FQDN)
    swapped = issuer.roots.read_bytes() + leaf.read_bytes()
    (found,) = judge_files(swapped, None, [FQDN], root.roots.read_bytes(), time.time())
    assert found.cause is Cause.CERTIFICATE_UNREADABLE
    assert "begins with an authority's certificate, CN=Test issuer" in found.evidence
    for junk in (b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"):
        assert causes(judge_files(junk, None, [FQDN], None, time.time())) == [Cause.CERTIFICATE_UNREADABLE]


@pytest.mark.parametrize(
    ("names", "host", "covered"),
    [
        (("sbc.example.com",), "sbc.example.com", True),
        (("*.example.com",), "sbc.example.com", True),
        (("*.example.com",), "a.b.example.com", False),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "*.example.com", True),
        (("a.example.com",), "*.example.com", False),
        (("example.com",), "sbc.example.com", False),
        ((), "sbc.example.com", False),
    ],
)
def test_names_that_cover_a_host(names: tuple[str, ...], host: str, covered: bool) -> None:
    assert covers(names, host) is covered
