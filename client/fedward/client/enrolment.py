"""The site's half of joining: a request file from keys made here, and the check of the kit that comes back."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedward.client.home import SiteHome
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import fingerprint
from fedward.study.enrolment import JoinKit, JoinRequest, check_kit, sign
from fedward.study.files import read_secret, write_atomic


def make_request(home: SiteHome) -> JoinRequest:
    """A signed request to join. It holds public keys only; making it again gives the same keys."""
    identity = home.identity()
    key = _private(home, "tls.pem")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, home.site)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return sign(
        JoinRequest(
            site=home.site,
            identity_key=identity.public,
            node_key=_public_pem(_private(home, "node.pem")).decode(),
            certificate_request=csr.public_bytes(serialization.Encoding.PEM).decode(),
        ),
        identity,
    )


def accept_kit(home: SiteHome, kit: JoinKit, expected_fingerprint: str | None, now: datetime) -> None:
    """Check a kit whole, then keep it.

    Raises:
        IntegrityError: changed on the way, made for other keys, expired, or from another coordinator than expected.
    """
    check_kit(kit)
    seen = fingerprint(kit.coordinator_key)
    if expected_fingerprint is not None and expected_fingerprint.lower() != seen:
        raise IntegrityError(
            "the kit comes from another coordinator than you expected",
            expected=expected_fingerprint,
            got=seen,
            remedy="compare the fingerprint with the coordinator by telephone; do not use this kit",
        )
    if kit.site != home.site or kit.identity_key != home.identity().public:
        raise IntegrityError(
            "the kit was made for another site or other keys",
            expected=f'site "{home.site}" and its key',
            got=f'site "{kit.site}"',
            remedy="send this site's request again and use the kit that comes back",
        )
    _check_certificate(home, kit, now)
    if home.kit_file.is_file() and home.kit().coordinator_key != kit.coordinator_key:
        raise IntegrityError(
            f'site "{home.site}" already belongs to another federation',
            remedy="use a separate --home for each federation",
        )
    write_atomic(home.ca_file, kit.ca.encode())
    write_atomic(home.certificate_file, kit.certificate.encode())
    write_atomic(home.kit_file, kit.model_dump_json(indent=1).encode())


def check_certificate_dates(home: SiteHome, now: datetime) -> int:
    """Days until the site's certificate expires.

    Raises:
        IntegrityError: it has expired or is not yet valid.
    """
    certificate = x509.load_pem_x509_certificate(home.certificate_file.read_bytes())
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise IntegrityError(
            "the site's certificate is not valid now",
            expected=f"a time between {certificate.not_valid_before_utc:%Y-%m-%d} and {certificate.not_valid_after_utc:%Y-%m-%d}",
            got=f"{now:%Y-%m-%d}",
            remedy="check this machine's clock; if the certificate has expired, send a fresh request and enroll the new kit",
            code="certificate-expired",
        )
    return (certificate.not_valid_after_utc - now).days


def _check_certificate(home: SiteHome, kit: JoinKit, now: datetime) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
        ca = x509.load_pem_x509_certificate(kit.ca.encode())
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(
            "the kit's certificate is not by the kit's CA", got=type(error).__name__, remedy="ask for a fresh kit"
        ) from None
    if _public_bytes(certificate.public_key()) != _public_bytes(_private(home, "tls.pem").public_key()):
        raise IntegrityError("the kit's certificate is for another key", remedy="send a fresh request")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise IntegrityError(
            "the kit's certificate is not valid now",
            got=f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            remedy="check this machine's clock, or ask for a fresh kit",
            code="certificate-expired",
        )


def _private(home: SiteHome, name: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(read_secret(home.key(name), f"the key {name}"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"the key {name} is of another kind", expected="an elliptic-curve key")
    return key


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return _public_bytes(key.public_key())


def _public_bytes(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("the certificate's key is of another kind", expected="an elliptic-curve key")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
