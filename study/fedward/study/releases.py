"""A release: what the coordinator signs of a model that may be used, and what two persons sign if it missed a gate.

A `Statement` is signed by the coordinator's key (Ed25519) over canonical JSON. An override names the gates that were missed and
the reason, and two persons each sign exactly that (ECDSA on P-384, FIPS 186-5) with the key of their access; the statement carries
their signatures with the certificates, and the CA that issued them. `check_release` needs no coordinator and no network.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import AfterValidator, Field, ValidationError

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, fingerprint, verify
from fedward.study.enrolment import Pem
from fedward.study.fields import NAME, Finite, Part
from fedward.study.files import read_model
from fedward.study.manifest import HEX_KEY, explain

MOST_REASON: Final = 500
_FRAME: Final = b"fedward/override\x00"
"""What an operator's key signs nothing else with: TLS, its other use, never signs bytes that begin so."""

Key = Annotated[str, Field(pattern=HEX_KEY)]
Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


def _line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("expected one line of printable characters, without spaces at its ends")
    return text


Reason = Annotated[str, Field(min_length=10, max_length=MOST_REASON), AfterValidator(_line)]
"""Why, in a person's words: ten characters at least, since it is read years later."""


def reason_of(text: str) -> str:
    """A reason as it may stand in what is signed.

    Raises:
        InputError: it is too short or too long, or no line.
    """
    if not 10 <= len(text) <= MOST_REASON or not text.isprintable() or text != text.strip():
        raise InputError(
            "the reason cannot be used", expected=f"one line of 10 to {MOST_REASON} characters, for whoever reads it in years",
            got=f"{len(text)} characters", remedy='say why in words: --reason "…"', code="bad-reason",
        )  # fmt: skip
    return text


class Judged(Part):
    """A gate as it stood when the model was released; fields as `fedward.server.gates.Verdict`."""

    gate: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    side: Literal["least", "most"]
    limit: Finite | None
    holds: bool
    value: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    of: Annotated[str, Field(max_length=200)] = ""
    why: Annotated[str, Field(max_length=1000)] = ""


class Override(Part):
    """What two persons sign: this model shall be released although it missed these gates, for this reason."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    kind: Literal["override"] = "override"
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    study: Key
    model: Key
    version: Count
    missed: Annotated[tuple[Judged, ...], Field(min_length=1, max_length=20)]
    reason: Reason

    @property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        return digest(self.canonical)


class Signed(Part):
    """One person's signature of an override. `signature` is DER in base64."""

    by: Name
    certificate: Pem
    signature: Annotated[str, Field(max_length=200)]


class Statement(Part):
    """A release. `number` counts the releases of the study's id from 1; `version` the rounds that the model was trained for.

    `by` released it; `other` is the second person, where the federation's policy or an override asks for one.
    """

    format: Annotated[int, Field(ge=1, le=1)] = 1
    kind: Literal["release"] = "release"
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    federation: Annotated[str, Field(min_length=1, max_length=200)]
    coordinator_key: Key
    study: Key
    study_id: Name
    title: Annotated[str, Field(max_length=200)]
    number: Annotated[int, Field(ge=1, lt=2**31)]
    model: Key
    version: Count
    gates: Annotated[tuple[Judged, ...], Field(max_length=20)]
    reason: Reason
    by: Name
    other: Name | None = None
    at: Count
    override: Override | None = None
    signatures: Annotated[tuple[Signed, ...], Field(max_length=2)] = ()
    operators_ca: Pem | None = None

    @property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))


class ReleaseFile(Part):
    """A statement and the coordinator's signature of it, as they are handed on. `statement` are its canonical bytes, as text."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    statement: Annotated[str, Field(max_length=200_000)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def sign_override(override: Override, by: str, certificate: str, key: bytes) -> Signed:
    """One person's signature, by the private key (PEM) of their access.

    Raises:
        InputError: the key cannot be read.
    """
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InputError(
            "the key of this access cannot be read", expected="a key on P-384, as `operator request` made it"
        )
    made = private.sign(_FRAME + override.canonical, ec.ECDSA(hashes.SHA384()))
    return Signed(by=by, certificate=certificate, signature=base64.b64encode(made).decode())


def check_signed(override: Override, signed: Signed, ca: str) -> x509.Certificate:
    """That the person whom the certificate names signed exactly this override; the certificate.

    Raises:
        IntegrityError: `bad-signature`: they did not, or the CA did not issue the certificate.
    """
    what = f"the override's signature of {signed.by}"
    try:
        authority = x509.load_pem_x509_certificate(ca.encode())
        made = x509.load_pem_x509_certificate(signed.certificate.encode())
        made.verify_directly_issued_by(authority)
        names = [str(one.value) for one in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key = made.public_key()
        if names != [signed.by] or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("another's certificate")
        signature = base64.b64decode(signed.signature, validate=True)
        key.verify(signature, _FRAME + override.canonical, ec.ECDSA(hashes.SHA384()))
    except (ValueError, TypeError, InvalidSignature, binascii.Error):
        raise IntegrityError(
            f"{what} does not hold",
            expected="a signature by the key of a certificate of this federation's operators, with that name",
            remedy="sign it again with the access that the coordinator gave",
            code="bad-signature",
        ) from None
    return made


def sign_statement(statement: Statement, identity: Identity) -> str:
    """The coordinator's signature, hex."""
    return identity.sign("release", statement.canonical).hex()


def parse_statement(data: bytes) -> Statement:
    """A statement from its canonical bytes.

    Raises:
        InputError: they are none.
        IntegrityError: they are not its only form.
    """
    try:
        made = Statement.model_validate_json(data)
    except ValidationError as error:
        raise InputError("this is no statement of a release", got=explain(error)) from None
    if made.canonical != data:
        raise IntegrityError(
            "the statement is not in canonical form", remedy="ask for a fresh copy", code="bad-signature"
        )
    return made


def check_release(data: bytes, signature: str, keys: Sequence[str] = ()) -> Statement:
    """A statement whose signature holds, with everything that it says of an override.

    Args:
        data: the statement's canonical bytes.
        signature: the coordinator's, hex.
        keys: the coordinator's key or fingerprint as the reader knows it; any if there is none.

    Raises:
        InputError: the bytes are no statement.
        IntegrityError: it was changed, another coordinator's, or lets a missed gate pass without two persons' signatures.
    """
    made = parse_statement(data)
    what = f"the release {made.number} of {made.study_id}"
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        raw = b""
    verify(made.coordinator_key, "release", data, raw, what)
    if keys and not {made.coordinator_key, fingerprint(made.coordinator_key)} & {key.lower() for key in keys}:
        raise IntegrityError(
            "the release is another coordinator's", expected=", ".join(keys), got=fingerprint(made.coordinator_key),
            remedy="compare the coordinator's fingerprint by telephone", code="foreign-key",
        )  # fmt: skip
    _check_gates(made)
    return made


def _check_gates(made: Statement) -> None:
    missed = tuple(one for one in made.gates if not one.holds)
    if made.override is None:
        if missed or made.signatures:
            raise _unheld("no gate missed, or an override", f"{len(missed)} gates missed and none")
        return
    override = made.override
    about = (override.federation_id, override.study, override.model, override.version)
    if about != (made.federation_id, made.study, made.model, made.version) or override.missed != missed:
        raise _unheld("an override of exactly the gates that were missed", "another one")
    if (
        made.operators_ca is None
        or len({one.by for one in made.signatures}) != len(made.signatures)
        or len(made.signatures) != 2
    ):
        raise _unheld("the signatures of two persons", f"{len(made.signatures)}")
    for signed in made.signatures:
        check_signed(override, signed, made.operators_ca)


def _unheld(expected: str, got: str) -> IntegrityError:
    return IntegrityError(
        "the release does not say why its gates may be passed", expected=expected, got=got, code="bad-release"
    )


def load_release(path: Path) -> tuple[bytes, str]:
    """The statement's bytes and the signature in a release's file; errors as `read_model`."""
    found = read_model(path, ReleaseFile, "release file")
    return found.statement.encode(), found.signature
