"""Joining a federation: a request file out, a signed kit back. Private keys never leave the site.

    request  site name, Ed25519 identity, Flower node key, certificate request; signed by the identity
    rotation a request with new keys, signed besides by the identity that the site has now
    kit      federation, coordinator's identity and address, CA and the site's certificate; signed by the coordinator

The kit's signature says only that it is whole; that it comes from the right coordinator is for two people to check by
comparing fingerprints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import Identity, Purpose, from_text, to_text, verify
from fedward.study.fields import NAME, Part
from fedward.study.files import read_json, read_model
from fedward.study.manifest import HEX_KEY

Pem = Annotated[str, Field(min_length=20, max_length=20_000)]
Signature = Annotated[str, Field(max_length=100)]


class JoinRequest(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    site: Annotated[str, Field(pattern=NAME)]
    identity_key: Annotated[str, Field(pattern=HEX_KEY)]
    node_key: Pem
    certificate_request: Pem
    signature: Signature = ""


class RotationRequest(Part):
    """A request with new keys in the place of the site's present ones. Its own identity may be new as well."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    site: Annotated[str, Field(pattern=NAME)]
    identity_key: Annotated[str, Field(pattern=HEX_KEY)]
    """The site's present identity, which signs."""
    request: JoinRequest
    signature: Signature = ""

    @property
    def changes_identity(self) -> bool:
        return self.request.identity_key != self.identity_key


class JoinKit(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    federation_name: Annotated[str, Field(min_length=1, max_length=200)]
    site: Annotated[str, Field(pattern=NAME)]
    identity_key: Annotated[str, Field(pattern=HEX_KEY)]
    coordinator_key: Annotated[str, Field(pattern=HEX_KEY)]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    ca: Pem
    certificate: Pem
    signature: Signature = ""


F = TypeVar("F", JoinRequest, RotationRequest, JoinKit)


def _signed_bytes(form: JoinRequest | RotationRequest | JoinKit) -> bytes:
    return canonical_json(form.model_dump(mode="json", exclude={"signature"}))


def _purpose(form: JoinRequest | RotationRequest | JoinKit) -> Purpose:
    if isinstance(form, RotationRequest):
        return "rotation"
    return "request" if isinstance(form, JoinRequest) else "kit"


def sign(form: F, signer: Identity) -> F:
    """The form with its signature filled in."""
    signature = to_text(signer.sign(_purpose(form), _signed_bytes(form)))
    return form.model_copy(update={"signature": signature})


def check_request(request: JoinRequest) -> None:
    """
    Raises:
        IntegrityError: the request was changed after the site signed it.
    """
    signature = from_text(request.signature, "the request's signature")
    verify(request.identity_key, "request", _signed_bytes(request), signature, f'the request of "{request.site}"')


def check_rotation(rotation: RotationRequest) -> None:
    """Both signatures: the present identity's over the whole, and the request's own, which shows that its keys are held.

    Raises:
        IntegrityError: it was changed after the site signed it, or the request inside is another site's.
    """
    signature = from_text(rotation.signature, "the rotation request's signature")
    what = f'the rotation request of "{rotation.site}"'
    verify(rotation.identity_key, "rotation", _signed_bytes(rotation), signature, what)
    if rotation.request.site != rotation.site:
        raise IntegrityError(
            "the rotation request holds another site's request",
            expected=rotation.site,
            got=rotation.request.site,
            remedy="ask the site for a fresh one: fedward site rotate",
        )
    check_request(rotation.request)


def read_request(path: Path) -> JoinRequest | RotationRequest:
    """A request file, to join or to rotate keys. Its signatures are not checked here.

    Raises:
        InputError: missing, or neither.
    """
    data = read_json(path, "request")
    if isinstance(data, dict) and "request" in data:
        return read_model(path, RotationRequest, "request")
    return read_model(path, JoinRequest, "request")


def check_kit(kit: JoinKit) -> None:
    """
    Raises:
        IntegrityError: the kit was changed after the coordinator signed it.
    """
    signature = from_text(kit.signature, "the kit's signature")
    verify(kit.coordinator_key, "kit", _signed_bytes(kit), signature, f'the kit for "{kit.site}"')
