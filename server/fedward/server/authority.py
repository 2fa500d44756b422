"""The federation's certificate authority and the coordinator's half of enrolment.

Certificates are X.509 (RFC 5280) on P-384. The CA signs one server certificate and one client certificate a site; a
site's certificate is issued for the key of its own request, so no private key is ever sent.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward.privacy.errors import IntegrityError
from fedward.study.enrolment import JoinRequest, check_request

CA_DAYS = 3650
ROLE_URI = "fedward:role:"
LEAF_DAYS = 397  # CA/Browser Forum's limit of the time: a year and a month


@dataclass(frozen=True)
class Authority:
    """A CA's certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _name(f"{name} federation CA")
        builder = _builder(subject, subject, key.public_key(), now, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA384()), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Authority:
        """
        Raises:
            IntegrityError: the files are no CA.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise IntegrityError("the federation's CA cannot be read", remedy="restore it from a backup") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IntegrityError("the federation's CA key is of another kind", expected="an elliptic-curve key")
        if certificate.public_key() != key.public_key():
            raise IntegrityError(
                "the federation's CA key is not its certificate's", remedy="restore both from a backup"
            )
        return cls(certificate, key)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return private_pem(self.key)

    def issue_server(self, hosts: tuple[str, ...], now: datetime) -> tuple[bytes, bytes]:
        """(certificate, key) in PEM for the hospitals' listener."""
        key = ec.generate_private_key(ec.SECP384R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(_name(hosts[0]), key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, names, now), private_pem(
            key
        )

    def issue_site(self, request: JoinRequest, now: datetime) -> bytes:
        """The site's client certificate in PEM.

        Raises:
            IntegrityError: the request was changed, its node key is none that Flower takes, or its certificate request
                is not for the site that it names.
        """
        check_request(request)
        node_key(request)
        try:
            csr = x509.load_pem_x509_csr(request.certificate_request.encode())
            key = csr.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise IntegrityError("the certificate request is damaged", remedy="make the request again") from None
        named = csr.subject == _name(request.site)
        if not csr.is_signature_valid or not named or not isinstance(key, ec.EllipticCurvePublicKey):
            raise IntegrityError("the certificate request does not fit the site", remedy="make the request again")
        alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"fedward:site:{request.site}")])
        return self._issue(csr.subject, key, ExtendedKeyUsageOID.CLIENT_AUTH, alternative, now)

    def issue_operator(self, name: str, role: str, key: ec.EllipticCurvePublicKey, now: datetime) -> bytes:
        """A person's client certificate in PEM: name and role stand in its URI names."""
        uris = [x509.UniformResourceIdentifier(uri) for uri in (f"fedward:operator:{name}", f"{ROLE_URI}{role}")]
        return self._issue(_name(name), key, ExtendedKeyUsageOID.CLIENT_AUTH, x509.SubjectAlternativeName(uris), now)

    def _issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        use: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName,
        now: datetime,
    ) -> bytes:
        builder = _builder(subject, self.certificate.subject, key, now, LEAF_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
        # Not critical, as the CA/Browser Forum's profile has it: strict verifiers refuse it otherwise.
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        builder = builder.add_extension(names, critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(authority, critical=False)
        return builder.sign(self.key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def certificate_digest(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's DER, hex: by it the record knows the certificate."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def node_key(request: JoinRequest) -> str:
    """The request's node key as Flower writes it: SubjectPublicKeyInfo in PEM.

    Raises:
        IntegrityError: it is none that Flower takes.
    """
    try:
        key = serialization.load_pem_public_key(request.node_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise IntegrityError("the request's node key is damaged", remedy="make the request again") from None
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)):
        raise IntegrityError(
            "the request's node key is of another kind", expected="EC P-384", remedy="make the request again"
        )
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, unencrypted: the file's permissions protect it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    # Hospitals' clocks drift: a certificate made now must already hold at a site that is minutes behind.
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
