"""The people who may ask the coordinator something over the network, each with a certificate that names a role.

Their CA is not the hospitals': a hospital's certificate opens nothing here, and an operator's nothing at the hospitals' listener.
Who is removed is refused at the next call, on open connections too. One of them is nobody in particular: `local`, by whose
certificate the commands of the coordinator's own machine ask its service. Its key lies in the home, for who may read the home.
"""

from __future__ import annotations

import os
import pwd
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from fedward.privacy.errors import InputError, RefusalError, UsageError
from fedward.server.authority import ROLE_URI, Authority, certificate_digest, private_pem
from fedward.server.control.roles import ROLES, Role
from fedward.server.home import RENEW_DAYS, CoordinatorHome
from fedward.study.access import Access
from fedward.study.fields import NAME, Part
from fedward.study.files import read_model, read_secret, write_atomic, write_secret
from fedward.study.lock import hold
from fedward.study.manifest import HEX_KEY

PATIENCE_S = 10.0
LOCAL: Final = "local"
LOCAL_ROLE: Final[Role] = "coordinator"


class Operator(Part):
    """A certificate that was issued. `fingerprint` is the SHA-256 of its DER; `removed_at` is 0 while it may be used."""

    name: Annotated[str, Field(pattern=NAME)]
    role: Annotated[str, Field(pattern=NAME)]
    fingerprint: Annotated[str, Field(pattern=HEX_KEY)]
    issued_at: Annotated[int, Field(ge=0)]
    expires_at: Annotated[int, Field(ge=0)]
    removed_at: Annotated[int, Field(ge=0)] = 0


class _List(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    operators: tuple[Operator, ...] = ()


@dataclass(frozen=True)
class Operators:
    """The operators of one coordinator's home."""

    home: CoordinatorHome

    def all(self) -> tuple[Operator, ...]:
        """Every certificate that was ever issued, oldest first.

        Raises:
            InputError: the file is damaged; nobody is let in.
        """
        path = self.home.operators_file
        return read_model(path, _List, "file of operators").operators if path.is_file() else ()

    def living(self, fingerprint: str, role: str, now: int) -> Operator:
        """The operator of a certificate that names this role: both the certificate and the list must say so.

        Raises:
            RefusalError: `operator-unknown`, `operator-removed` or `operator-expired`.
        """
        found = next((one for one in self.all() if (one.fingerprint, one.role) == (fingerprint, role)), None)
        if found is None:
            raise RefusalError("this certificate is no operator's", remedy="ask for access", code="operator-unknown")
        if found.removed_at:
            raise RefusalError(f'the access of "{found.name}" was removed', code="operator-removed")
        if not now < found.expires_at:
            raise RefusalError(
                f'the certificate of "{found.name}" has expired', remedy="ask for a new one", code="operator-expired"
            )
        return found

    def add(self, request: bytes, role: Role, now: datetime) -> Access:
        """Answer a certificate request.

        Raises:
            InputError: it is no request that can be answered.
            UsageError: somebody of that name has access, or the service has no port for operators.
        """
        port = self.home.settings.operators_port
        if port is None:
            raise UsageError(
                "this coordinator has no port for operators",
                remedy='add "operators_port": 9445 to federation.json in its home, and start the service again',
            )
        name, key = _requested(request)
        if role not in ROLES:
            raise InputError(f'no role "{role}"', expected=", ".join(ROLES))
        certificate, added = self._issued(name, role, key, now)
        with _held(self.home):
            known = self.all()
            if any(one.name == name and not one.removed_at for one in known):
                raise UsageError(
                    f'"{name}" has access already',
                    remedy=f"remove it first: fedward coordinator operator remove {name}",
                )
            self._enter(known, added)
        settings = self.home.settings
        return Access(
            federation_name=settings.name, name=name, role=role, host=settings.host, port=port,
            ca=self.home.operators_ca_file.read_text(), certificate=certificate.decode(),
        )  # fmt: skip

    def settle_local(self, now: datetime) -> None:
        """The certificate of this machine's commands, made if there is none that will hold for a while.

        Raises:
            IntegrityError: others may read a key, or the operators' CA cannot be read.
        """
        if self._local_holds(now):
            return
        key = ec.generate_private_key(ec.SECP384R1())
        certificate, added = self._issued(LOCAL, LOCAL_ROLE, key.public_key(), now)
        write_secret(self._local_key, private_pem(key))
        write_atomic(self.home.local_certificate_file, certificate)
        with _held(self.home):
            at = max(int(now.timestamp()), 1)
            known = tuple(
                one.model_copy(update={"removed_at": at}) if one.name == LOCAL and not one.removed_at else one
                for one in self.all()
            )
            self._enter(known, added)  # last: until it stands there, nothing of the above is anybody's

    def local_access(self, port: int) -> tuple[Access, bytes]:
        """How this machine's commands reach the service at a port of loopback, and their key (PEM).

        Raises:
            InputError: there is no such key.
            IntegrityError: others may read it.
        """
        key = read_secret(self._local_key, "the key of this machine's commands")
        access = Access(
            federation_name=self.home.settings.name, name=LOCAL, role=LOCAL_ROLE, host="127.0.0.1", port=port,
            ca=self.home.operators_ca_file.read_text(), certificate=self.home.local_certificate_file.read_text(),
        )  # fmt: skip
        return access, key

    @property
    def _local_key(self) -> Path:
        return self.home.key("local-operator.pem")

    def _local_holds(self, now: datetime) -> bool:
        if not (self._local_key.is_file() and self.home.local_certificate_file.is_file()):
            return False
        key = serialization.load_pem_private_key(
            read_secret(self._local_key, "the key of this machine's commands"), None
        )
        made = x509.load_pem_x509_certificate(self.home.local_certificate_file.read_bytes())
        listed = {one.fingerprint for one in self.all() if one.name == LOCAL and not one.removed_at}
        fresh = now < made.not_valid_after_utc - timedelta(days=RENEW_DAYS)
        return fresh and made.public_key() == key.public_key() and certificate_digest(made) in listed

    def _issued(self, name: str, role: Role, key: ec.EllipticCurvePublicKey, now: datetime) -> tuple[bytes, Operator]:
        """A certificate (PEM), and how it will stand in the list."""
        certificate = operators_authority(self.home, now).issue_operator(name, role, key, now)
        made = x509.load_pem_x509_certificate(certificate)
        return certificate, Operator(
            name=name,
            role=role,
            fingerprint=certificate_digest(made),
            issued_at=int(now.timestamp()),
            expires_at=int(made.not_valid_after_utc.timestamp()),
        )

    def _enter(self, known: tuple[Operator, ...], added: Operator) -> None:
        self.home.record(
            "operator-added",
            by=account(), other=added.name, key=added.fingerprint, purpose=added.role, until=added.expires_at,
        )  # fmt: skip
        self._save((*known, added))

    def remove(self, name: str, now: int) -> Operator:
        """
        Raises:
            InputError: nobody of that name has access.
            UsageError: it is this machine's own.
        """
        if name == LOCAL:
            raise UsageError(
                f'"{LOCAL}" is who may read this home, and has access as long', remedy="change who may read the folder"
            )
        with _held(self.home):
            known = self.all()
            found = next((one for one in known if one.name == name and not one.removed_at), None)
            if found is None:
                raise InputError(f'nobody called "{name}" has access', remedy="see `fedward coordinator operator list`")
            removed = found.model_copy(update={"removed_at": max(now, 1)})
            self.home.record("operator-removed", by=account(), other=name, key=found.fingerprint)
            self._save(tuple(removed if one is found else one for one in known))
            return removed

    def _save(self, operators: tuple[Operator, ...]) -> None:
        write_atomic(self.home.operators_file, _List(operators=operators).model_dump_json(indent=1).encode(), 0o600)


def account() -> str:
    """Who works on this machine, as the audit log names it: the operating system's account. No operator's name has a slash."""
    try:
        return f"{LOCAL}/{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"{LOCAL}/{os.getuid()}"


def _held(home: CoordinatorHome) -> AbstractContextManager[None]:
    busy = UsageError("operators are being changed by another command", remedy="try again")
    return hold(home.path / "operators.lock", PATIENCE_S, lambda: busy)


def operators_authority(home: CoordinatorHome, now: datetime) -> Authority:
    """The operators' own CA, made when it is first asked for; errors as `CoordinatorHome.authority`."""
    with _held(home):  # two that make it at once would keep one's key and the other's certificate
        if not home.operators_ca_file.is_file():
            made = Authority.create(f"{home.settings.name} operators", now)
            write_secret(home.key("operators-ca.pem"), made.key_pem())
            write_atomic(home.operators_ca_file, made.pem())  # last: its presence says that the key is there
    key = read_secret(home.key("operators-ca.pem"), "the operators' CA key")
    return Authority.load(home.operators_ca_file.read_bytes(), key)


def role_of(certificate: x509.Certificate) -> str:
    """The role that an operator's certificate names; empty if it names none, or more than one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    roles = [uri.removeprefix(ROLE_URI) for uri in uris if uri.startswith(ROLE_URI)]
    return roles[0] if len(roles) == 1 else ""


def _requested(request: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
    try:
        csr = x509.load_pem_x509_csr(request)
        key = csr.public_key()
        valid = csr.is_signature_valid
        names = [str(one.value) for one in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(
            "this is no request for access", remedy="make one with `fedward coordinator operator request`"
        ) from None
    if (
        not valid
        or len(names) != 1
        or not (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1")
    ):
        raise InputError(
            "the request for access cannot be answered", expected="one name, a key on P-384, and a signature by it",
            remedy="make one with `fedward coordinator operator request`",
        )  # fmt: skip
    try:
        Operator(name=names[0], role="viewer", fingerprint="0" * 64, issued_at=0, expires_at=0)
    except ValidationError:
        raise InputError(
            "the name in the request cannot be used", expected="small letters, digits, - and _, at most 64"
        ) from None
    if names[0] == LOCAL:
        raise InputError(f'"{LOCAL}" is the name of the coordinator\'s own machine', remedy="choose another")
    return names[0], key
