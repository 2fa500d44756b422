"""The site's half of joining: a request file from keys made here, and the check of the kit that comes back."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedward.client import rotation
from fedward.client.home import SiteHome
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, fingerprint
from fedward.study.enrolment import JoinKit, JoinRequest, RotationRequest, check_kit, sign
from fedward.study.files import read_secret, write_atomic


def make_request(home: SiteHome) -> JoinRequest:
    """A signed request to join, or for a fresh certificate. It holds public keys only; asked again, the same ones."""
    return _request(home, home.key("tls.pem").parent, home.identity())


def make_rotation(home: SiteHome, *, identity: bool) -> RotationRequest:
    """A request with new keys, signed by the identity of now. Asked again it holds the same new keys.

    Raises:
        InputError: the site has not joined a federation.
    """
    folder = rotation.stage(home, identity=identity)
    request = _request(home, folder, rotation.identity_in(home, folder))
    present = home.identity()
    return sign(RotationRequest(site=home.site, identity_key=present.public, request=request), present)


def _request(home: SiteHome, folder: Path, identity: Identity) -> JoinRequest:
    key = _private(home, folder / "tls.pem")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, home.site)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return sign(
        JoinRequest(
            site=home.site,
            identity_key=identity.public,
            node_key=_public_pem(_private(home, folder / "node.pem")).decode(),
            certificate_request=csr.public_bytes(serialization.Encoding.PEM).decode(),
        ),
        identity,
    )


def accept_kit(home: SiteHome, kit: JoinKit, expected_fingerprint: str | None, now: datetime) -> str:
    """Check a kit whole, then keep it: "joined", "renewed", or, with new keys, "rotated" or "identity-rotated".

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
    folder = _keys_of(home, kit)
    identity = rotation.identity_in(home, folder)
    if kit.site != home.site or kit.identity_key != identity.public:
        raise IntegrityError(
            "the kit was made for another site or other keys",
            expected=f'site "{home.site}" and its key',
            got=f'site "{kit.site}"',
            remedy="send this site's request again and use the kit that comes back",
        )
    _check_certificate(home, kit, folder, now)
    if home.kit_file.is_file() and home.kit().coordinator_key != kit.coordinator_key:
        raise IntegrityError(
            f'site "{home.site}" already belongs to another federation',
            remedy="use a separate --home for each federation",
        )
    if folder.name == rotation.NEW:
        return _switch(home, kit, identity)
    joined = not home.kit_file.is_file()
    home.record("enrolled", site=kit.site, key=fingerprint(kit.coordinator_key))
    write_atomic(home.ca_file, kit.ca.encode())
    write_atomic(home.kit_file, kit.model_dump_json(indent=1).encode())
    write_atomic(home.certificate_file, kit.certificate.encode())
    return "joined" if joined else "renewed"


def _switch(home: SiteHome, kit: JoinKit, identity: Identity) -> str:
    """Make the new keys the site's, with their kit."""
    before = home.identity().public
    home.record("key-rotated", site=kit.site, key=identity.public, previous=before)
    rotation.remember_identity(home)
    rotation.decide(home, kit)
    return "rotated" if before == identity.public else "identity-rotated"


def _keys_of(home: SiteHome, kit: JoinKit) -> Path:
    """The folder of the keys that a kit's certificate is for: the new ones that wait for it, or else the site's."""
    waiting = rotation.staged(home)
    if waiting is not None:
        with contextlib.suppress(ValueError):
            certified = x509.load_pem_x509_certificate(kit.certificate.encode()).public_key()
            if certified == _private(home, waiting / "tls.pem").public_key():
                return waiting
    return home.key("tls.pem").parent


def check_certificate_dates(home: SiteHome, now: datetime) -> int:
    """Days until the site's certificate expires.

    Raises:
        IntegrityError: it has expired or is not yet valid.
    """
    certificate = read_certificate(home.certificate_file)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise IntegrityError(
            "the site's certificate is not valid now",
            expected=f"a time between {certificate.not_valid_before_utc:%Y-%m-%d} and {certificate.not_valid_after_utc:%Y-%m-%d}",
            got=f"{now:%Y-%m-%d}",
            remedy="check this machine's clock; if the certificate has expired, send a fresh request and enroll the new kit",
            code="certificate-expired",
        )
    return (certificate.not_valid_after_utc - now).days


def check_keys(home: SiteHome) -> None:
    """That the keys of the connection open.

    Raises:
        InputError: one is missing.
        IntegrityError: one is damaged, of another home, or may be read by others.
    """
    for name in ("node.pem", "tls.pem"):
        _private(home, home.key(name))


def check_chain(home: SiteHome) -> None:
    """
    Raises:
        InputError: a certificate is missing or none.
        IntegrityError: the kit was changed, or the kept certificate is not by the kept CA, or is for another key than this site's.
    """
    check_kit(home.kit())
    certificate = read_certificate(home.certificate_file)
    try:
        certificate.verify_directly_issued_by(read_certificate(home.ca_file))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(
            "the site's certificate is not by the federation's CA",
            got=type(error).__name__,
            remedy="enroll the kit again: fedward site enroll KIT",
        ) from None
    if _public_bytes(certificate.public_key()) != _public_bytes(_private(home, home.key("tls.pem")).public_key()):
        raise IntegrityError("the site's certificate is for another key", remedy="send a fresh request")


def _check_certificate(home: SiteHome, kit: JoinKit, folder: Path, now: datetime) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
        ca = x509.load_pem_x509_certificate(kit.ca.encode())
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(
            "the kit's certificate is not by the kit's CA", got=type(error).__name__, remedy="ask for a fresh kit"
        ) from None
    if _public_bytes(certificate.public_key()) != _public_bytes(_private(home, folder / "tls.pem").public_key()):
        raise IntegrityError("the kit's certificate is for another key", remedy="send a fresh request")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise IntegrityError(
            "the kit's certificate is not valid now",
            got=f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            remedy="check this machine's clock, or ask for a fresh kit",
            code="certificate-expired",
        )


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate of the kit. Raises: InputError, code `credentials-unreadable`, where it is missing or none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.name} cannot be read as a certificate",
            got=type(error).__name__,
            remedy="enroll the kit again: fedward site enroll KIT",
            code="credentials-unreadable",
        ) from None


def _private(home: SiteHome, path: Path) -> ec.EllipticCurvePrivateKey:
    data = read_secret(path, f"the key {path.name}")
    try:
        key = serialization.load_pem_private_key(data, home.key_password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IntegrityError(
            f"the key {path.name} is damaged, or of another home", remedy="restore it from a backup", code="damaged"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"the key {path.name} is of another kind", expected="an elliptic-curve key")
    return key


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return _public_bytes(key.public_key())


def _public_bytes(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("the certificate's key is of another kind", expected="an elliptic-curve key")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
