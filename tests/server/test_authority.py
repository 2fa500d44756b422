"""The federation's CA: what it signs, for whom, and that an independent verifier agrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import Identity
from fedward.server.authority import LEAF_DAYS, Authority
from fedward.server.home import CoordinatorHome
from fedward.study.enrolment import JoinRequest, sign

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IDENTITY = Identity.generate()
KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test", NOW)


def pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def request(
    site: str = "va",
    named: str = "va",
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
    csr: str | None = None,
) -> JoinRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return sign(
        JoinRequest(
            site=site,
            identity_key=IDENTITY.public,
            node_key=pem(KEY.public_key()),
            certificate_request=csr or made.public_bytes(serialization.Encoding.PEM).decode(),
        ),
        IDENTITY,
    )


def verifier(authority: Authority, at: datetime = NOW) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(at.replace(tzinfo=None))


def test_a_site_s_certificate_verifies_as_a_client_of_this_ca(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_site(request(), NOW))
    leaf.verify_directly_issued_by(authority.certificate)
    assert leaf.public_key() == KEY.public_key()
    assert leaf.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "va")])
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["fedward:site:va"]


def test_the_server_s_certificate_verifies_for_its_hosts_only(authority: Authority) -> None:
    certificate, key = authority.issue_server(("fed.example.org", "localhost", "127.0.0.1"), NOW)
    leaf = x509.load_pem_x509_certificate(certificate)
    private = serialization.load_pem_private_key(key, None)
    assert leaf.public_key() == private.public_key()
    for host in ("fed.example.org", "localhost"):
        verifier(authority).build_server_verifier(x509.DNSName(host)).verify(leaf, [])
    with pytest.raises(VerificationError):
        verifier(authority).build_server_verifier(x509.DNSName("evil.example.org")).verify(leaf, [])


def test_a_site_s_certificate_is_no_server_s(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_site(request(), NOW))
    with pytest.raises(VerificationError):
        verifier(authority).build_server_verifier(x509.DNSName("va")).verify(leaf, [])


def test_another_ca_s_certificate_does_not_verify(authority: Authority) -> None:
    other = Authority.create("test", NOW)  # of the same name
    certificate, _ = other.issue_server(("localhost",), NOW)
    with pytest.raises(VerificationError):
        verifier(authority).build_server_verifier(x509.DNSName("localhost")).verify(
            x509.load_pem_x509_certificate(certificate), []
        )


@pytest.mark.parametrize(("days", "holds"), [(-1, False), (0, True), (LEAF_DAYS - 1, True), (LEAF_DAYS + 1, False)])
def test_a_certificate_holds_for_its_time(authority: Authority, days: int, holds: bool) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_server(("localhost",), NOW)[0])
    check = verifier(authority, NOW + timedelta(days=days)).build_server_verifier(x509.DNSName("localhost"))
    if holds:
        assert check.verify(leaf, [])[0] == leaf
    else:
        with pytest.raises(VerificationError):
            check.verify(leaf, [])


def test_a_site_whose_clock_is_minutes_behind_already_accepts(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_site(request(), NOW))
    assert leaf.not_valid_before_utc <= NOW - timedelta(minutes=9)


def test_a_leaf_cannot_sign_and_the_ca_signs_leaves_only(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_site(request(), NOW))
    for certificate, signs in ((leaf, False), (authority.certificate, True)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        assert (constraints.value.ca, usage.value.key_cert_sign) == (signs, signs)
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_serial_numbers_differ(authority: Authority) -> None:
    made = [x509.load_pem_x509_certificate(authority.issue_site(request(), NOW)).serial_number for _ in range(3)]
    assert len(set(made)) == 3


def test_a_request_for_another_name_is_refused(authority: Authority) -> None:
    with pytest.raises(IntegrityError, match="does not fit the site"):
        authority.issue_site(request(named="cleveland"), NOW)


def test_a_request_with_a_key_of_another_kind_is_refused(authority: Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    with pytest.raises(IntegrityError, match="does not fit the site"):
        authority.issue_site(request(key=key), NOW)


def test_a_request_whose_certificate_request_is_not_signed_by_its_key_is_refused(authority: Authority) -> None:
    """Else a site could be given a certificate for a key that it does not hold."""
    text = request().certificate_request
    der = bytearray(x509.load_pem_x509_csr(text.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(IntegrityError, match="does not fit the site"):
        authority.issue_site(request(csr=broken), NOW)


def test_a_request_changed_after_it_was_signed_is_refused(authority: Authority) -> None:
    with pytest.raises(IntegrityError, match="signature"):
        authority.issue_site(request().model_copy(update={"node_key": "x" * 40}), NOW)


def test_the_ca_comes_back_from_its_files(authority: Authority) -> None:
    again = Authority.load(authority.pem(), authority.key_pem())
    leaf = x509.load_pem_x509_certificate(again.issue_site(request(), NOW))
    leaf.verify_directly_issued_by(authority.certificate)


def encrypted(authority: Authority) -> bytes:
    best = serialization.BestAvailableEncryption(b"secret")
    return authority.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, best)


@pytest.mark.parametrize("what", ["certificate", "key", "encrypted", "kind", "other"])
def test_files_that_are_no_ca_are_refused(authority: Authority, what: str) -> None:
    certificate, key = authority.pem(), authority.key_pem()
    if what == "certificate":
        certificate = b"no certificate"
    elif what == "key":
        key = key[:80]
    elif what == "encrypted":
        key = encrypted(authority)
    elif what == "kind":
        key = IDENTITY.pem()
    else:
        key = Authority.create("other", NOW).key_pem()
    with pytest.raises(IntegrityError, match="CA"):
        Authority.load(certificate, key)


def test_the_listener_s_certificate_is_renewed_in_time_and_mended_after_a_crash(tmp_path: Path) -> None:
    home = CoordinatorHome.create(
        tmp_path, name="t", host="fed.example.org", bind="127.0.0.1", port=1, control_port=2, now=NOW
    )
    first = home.certificate_file.read_bytes()
    assert not home.renew_certificate(NOW + timedelta(days=LEAF_DAYS - 61))
    assert home.renew_certificate(NOW + timedelta(days=LEAF_DAYS - 59))
    assert home.certificate_file.read_bytes() != first
    home.certificate_file.write_bytes(first)  # the new key was written, the new certificate not
    assert home.renew_certificate(NOW)
    leaf = x509.load_pem_x509_certificate(home.certificate_file.read_bytes())
    verifier(home.authority()).build_server_verifier(x509.DNSName("fed.example.org")).verify(leaf, [])
    assert not home.renew_certificate(NOW)
