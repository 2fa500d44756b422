"""Asks an OpenID Connect provider who it is, before people need it (OpenID Connect Discovery 1.0, section 4)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from fedward.dashboard.accessfile import Provider, loopback
from fedward.privacy.errors import InputError, UnreachableError
from fedward.study.manifest import explain

_TIMEOUT_S: Final = 10.0


class Found(BaseModel):
    """What a provider says of itself, of what the monitor needs."""

    model_config = ConfigDict(frozen=True, strict=True)
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


def discovered(provider: Provider) -> Found:
    """The provider's own words.

    Raises:
        UnreachableError: it cannot be reached, or answers with an error.
        InputError: what it says is no such document, names another issuer, or sends people over plain http.
    """
    address = provider.server_metadata_url
    try:
        reply = httpx.get(address, timeout=_TIMEOUT_S, follow_redirects=False)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"the provider does not answer at {address}",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="check server_metadata_url, and whether this machine may reach it",
            code="no-provider",
        ) from None
    try:
        found = Found.model_validate_json(reply.content)
    except ValidationError as error:
        raise InputError(f"{address} is no OpenID Connect provider's document", got=explain(error)) from None
    if found.issuer.removesuffix("/") != provider.vouches.removesuffix("/"):
        raise InputError(
            "the provider has another name",
            expected=provider.vouches,
            got=found.issuer[:200],
            remedy="write its name as issuer in [provider], if it is the one that you mean",
        )
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        parts = urlsplit(getattr(found, name))
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.hostname or "")):
            raise InputError(f"the provider's {name} is not https", got=parts.geturl()[:200], remedy="ask who runs it")
    return found
