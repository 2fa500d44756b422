"""The access file of a monitor that others than this machine reach: where it listens, who vouches for people, and who is let in.

    session_minutes = 480
    [listen]
    address = "0.0.0.0"
    port = 8501
    url = "https://monitor.example.org"
    tls_certificate = "monitor.crt"      # or, where a proxy speaks TLS: behind_proxy = true
    tls_key = "monitor.key"
    [provider]
    server_metadata_url = "https://id.example.org/.well-known/openid-configuration"
    client_id = "fedward-monitor"
    client_secret_file = "client-secret" # or client_secret_env = "NAME"
    cookie_secret_file = "cookie-secret"
    [[allow]]
    group = "cleveland-data-office"
    role = "hospital"
    site = "cleveland"

No secret stands in it, and its paths are relative to it. `[[allow]]`, `session_minutes`, `groups_claim` and `contact` are read anew
at every look at a page; the rest when the monitor starts.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from fedward.dashboard.access import Role, Rules
from fedward.privacy.errors import InputError, IntegrityError
from fedward.study.fields import NAME, Part
from fedward.study.files import read_secret
from fedward.study.manifest import parse_data, read_toml

WELL_KNOWN: Final = "/.well-known/openid-configuration"
CALLBACK: Final = "/oauth2callback"
MIN_SECRET: Final = 32
"""Characters of the secret that signs cookies."""

_Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^\S(.*\S)?$")]
_Path = Annotated[str, Field(min_length=1, max_length=4000)]


class Allow(Part):
    """Whom to let in, by exactly one of subject, group and email, and as what. The first that fits decides."""

    subject: _Text | None = None
    group: _Text | None = None
    email: _Text | None = None
    role: Role
    site: Annotated[str, Field(pattern=NAME)] | None = None

    @model_validator(mode="after")
    def _one_person(self) -> Self:
        if sum(one is not None for one in (self.subject, self.group, self.email)) != 1:
            raise ValueError("needs exactly one of subject, group and email")
        if (self.role == "hospital") != (self.site is not None):
            raise ValueError('a site goes with role = "hospital", and that role with a site')
        return self


class Listen(Part):
    """Where the monitor listens, and the address that people type."""

    address: str
    port: Annotated[int, Field(ge=1, le=65535)]
    url: str
    tls_certificate: _Path | None = None
    tls_key: _Path | None = None
    behind_proxy: bool = False
    """A proxy speaks TLS for `url`, and nobody but it reaches the port."""

    @field_validator("address")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError('must be an IP address, as "127.0.0.1" or "0.0.0.0"') from None
        return value

    @field_validator("url")
    @classmethod
    def _an_origin(cls, value: str) -> str:
        parts = _parts(value)
        if parts.path not in {"", "/"}:
            raise ValueError("must have no path: other applications of that host would share the monitor's cookies")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        usual = {"http": 80, "https": 443}[parts.scheme]
        port = "" if parts.port in {None, usual} else f":{parts.port}"
        return f"{parts.scheme}://{host}{port}"  # as browsers write an origin, which cookies are compared with

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        tls = self.tls_certificate is not None
        if tls and self.behind_proxy:
            raise ValueError("either TLS here (tls_certificate, tls_key) or behind_proxy = true, not both")
        if _parts(self.url).scheme == "https":
            if not tls and not self.behind_proxy:
                raise ValueError(
                    "https needs tls_certificate and tls_key, or behind_proxy = true if a proxy speaks TLS"
                )
        elif tls or self.behind_proxy or not loopback(self.address) or not loopback(self.host):
            raise ValueError("url must be https; http is for trying it on this machine alone (127.0.0.1)")
        return self

    @property
    def host(self) -> str:
        """The host of `url`."""
        return _parts(self.url).hostname or ""


class Provider(Part):
    """The OpenID Connect provider, and this monitor's registration there."""

    server_metadata_url: str
    issuer: _Text | None = None
    """Left out, it follows from `server_metadata_url` (OpenID Connect Discovery 1.0, section 4)."""
    client_id: _Text
    client_secret_file: _Path | None = None
    client_secret_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    cookie_secret_file: _Path
    scope: Annotated[str, Field(pattern=r"^openid( [!-~]+)*$")] = "openid profile email"

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, data: Any) -> Any:
        """Before anything that would repeat it."""
        written = [name for name in ("client_secret", "cookie_secret") if isinstance(data, dict) and name in data]
        if written:
            raise ValueError(f"{written[0]} must not stand in the file: write {written[0]}_file, a file of mode 0600")
        return data

    @field_validator("server_metadata_url")
    @classmethod
    def _reached_safely(cls, value: str) -> str:
        parts = _parts(value)
        if parts.scheme != "https" and not loopback(parts.hostname or ""):
            raise ValueError("must be https; http is for a provider on this machine alone")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.client_secret_file is None) == (self.client_secret_env is None):
            raise ValueError("needs exactly one of client_secret_file and client_secret_env")
        if self.issuer is None and not self.server_metadata_url.endswith(WELL_KNOWN):
            raise ValueError(f"needs issuer, as server_metadata_url does not end with {WELL_KNOWN}")
        return self

    @property
    def vouches(self) -> str:
        """The provider's name in its claims."""
        return self.issuer or self.server_metadata_url.removesuffix(WELL_KNOWN)


class Access(Part):
    """An access file."""

    listen: Listen
    provider: Provider
    allow: Annotated[tuple[Allow, ...], Field(min_length=1, max_length=10_000)]
    session_minutes: Annotated[int, Field(ge=1, le=1440)] = 480
    groups_claim: _Text = "groups"
    contact: Annotated[str, Field(max_length=300)] = ""
    """Whom people ask who are not let in."""

    @property
    def rules(self) -> Rules:
        return Rules(
            self.provider.vouches, self.provider.client_id, self.session_minutes, self.groups_claim, self.allow
        )


def loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(path: Path) -> Access:
    """
    Raises:
        InputError: there is no such file, or it is not what it must be; no secret is repeated.
        IntegrityError: others than its owner may change it.
    """
    data = read_toml(path, "access file")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        raise IntegrityError(
            f"{path.name} may be changed by others, who could let themselves in",
            expected="a file that its owner alone may write",
            got=oct(mode),
            remedy=f"chmod go-w {path}, after looking who is on its list",
        )
    return parse_data(Access, data, path.name, "access file")


def client_secret(access: Access, folder: Path) -> str:
    """The secret that the provider knows this monitor by. `folder`: of the access file.

    Raises:
        InputError: there is none.
        IntegrityError: others than its owner may read its file.
    """
    name = access.provider.client_secret_env
    if access.provider.client_secret_file is not None:
        return _secret(folder / access.provider.client_secret_file, "client secret")
    found = os.environ.get(name or "", "").strip()
    if not found:
        raise InputError(
            f"no client secret in the environment's {name}",
            expected=f"the secret of {access.provider.client_id} at {access.provider.vouches}",
            remedy="set it for this process alone, or write client_secret_file",
            code="no-client-secret",
        )
    return found


def cookie_secret(access: Access, folder: Path) -> str:
    """The secret that signs the monitor's cookies; errors as `client_secret`, and one that is too short is none."""
    file = folder / access.provider.cookie_secret_file
    found = _secret(file, "cookie secret")
    if len(found) < MIN_SECRET:
        raise InputError(
            "the cookie secret is too short: whoever guesses it signs in as anybody",
            expected=f"{MIN_SECRET} random characters or more",
            got=f"{len(found)}",
            remedy=_make(file),
        )
    return found


def tls_files(access: Access, folder: Path) -> tuple[Path, Path] | None:
    """The certificate and its key, where the monitor speaks TLS itself.

    Raises:
        InputError: one of them is missing.
        IntegrityError: others than its owner may read the key.
    """
    listen = access.listen
    if listen.tls_certificate is None or listen.tls_key is None:
        return None
    certificate, key = folder / listen.tls_certificate, folder / listen.tls_key
    if not certificate.is_file():
        raise InputError(
            f"no TLS certificate at {certificate}",
            remedy="correct tls_certificate; paths are relative to the access file",
        )
    _secret(key, "TLS key")
    return certificate, key


def _secret(file: Path, what: str) -> str:
    if not file.is_file():
        raise InputError(
            f"no {what} at {file}",
            expected="a file of mode 0600; its path is relative to the access file",
            remedy=_make(file)
            if what == "cookie secret"
            else "write it there as its provider gave it, and chmod 600 it",
        )
    try:
        return read_secret(file, f"the {what}").decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"the {what} at {file} is not text", remedy="write it as UTF-8 text") from None


def _make(file: Path) -> str:
    return f"(umask 077; openssl rand -hex 32 > {file})"


def _parts(value: str) -> SplitResult:
    """A web address's parts, of one that names a host and nothing more than a path."""
    try:
        parts = urlsplit(value)
        named = parts.hostname is not None and parts.port != 0
    except ValueError:
        raise ValueError("must be a web address, as https://monitor.example.org") from None
    extra = parts.username is not None or parts.password is not None or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or not named or extra or value != value.strip() or "*" in value:
        raise ValueError("must be a web address, as https://monitor.example.org, without user, query or fragment")
    return parts
