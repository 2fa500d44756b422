"""The coordinator's home folder: keys, CA, settings, store and models.

federation.json   id, name, address, ports              keys/   coordinator identity, CA key, server key (0600)
ca.pem, server.pem  certificates                        store.sqlite   studies, rounds, journal; or in PostgreSQL
models/DIGEST.safetensors  every committed model        log/    coordinator.log and one log a run
operators.json, operators-ca.pem   who may ask the running service, and their own CA
local-operator.pem         the certificate by which this machine's commands ask it; its key is in keys/
policy.json, requests.json   what two persons are asked for, and what waits for the second
service.json      the running service's process and ports; absent when it is stopped
audit/, audit.origin   what happened here, for an auditor
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import Field, ValidationError

from fedward.privacy.auditentries import LogEntry, Value
from fedward.privacy.errors import InputError, UsageError
from fedward.privacy.log import AuditLog
from fedward.privacy.signing import Identity
from fedward.server import audit
from fedward.server.authority import Authority
from fedward.study.fields import Part
from fedward.study.files import read_model, read_secret, write_atomic, write_secret
from fedward.study.lock import held, hold
from fedward.study.manifest import explain

if TYPE_CHECKING:
    from fedward.server.leases import Holder
    from fedward.server.store import Store

LOCK_S = 1.0
RENEW_DAYS = 60


class Settings(Part):
    """What `coordinator init` fixed."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    bind: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    control_port: Annotated[int, Field(ge=1, le=65535)]
    store: Annotated[str, Field(max_length=2000)] | None = None
    """The URL of a PostgreSQL database, without its password; None is a SQLite file in the home."""
    operators_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where people and scripts with access reach the coordinator; None: nowhere."""
    operators_bind: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")] = "127.0.0.1"


class ServiceFile(Part):
    pid: Annotated[int, Field(ge=1)]
    started_at: Annotated[int, Field(ge=0)]
    control: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The loopback port at which commands of this machine ask it; None in a service that has none."""


@dataclass(frozen=True)
class CoordinatorHome:
    """`fence` is entered for every entry in the audit log."""

    path: Path
    fence: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, repr=False, compare=False)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        name: str,
        host: str,
        bind: str,
        port: int,
        control_port: int,
        now: datetime,
        store: str | None = None,
        operators_port: int | None = None,
        operators_bind: str = "127.0.0.1",
    ) -> CoordinatorHome:
        """
        Args:
            store: the URL of the PostgreSQL database that its store shall be in.

        Raises:
            UsageError: a coordinator lives there already; `store-taken`: another one's record is in the database.
            InputError: no name, or a host or address that is none.
            FedwardError: as `Store.open`.
        """
        home = cls(path)
        if path.is_file():
            raise UsageError("a coordinator lives in a folder", got=f"the file {path}", remedy="choose another --home")
        if home.settings_file.exists():
            raise UsageError(f"a coordinator already lives in {path}", remedy="choose another --home, or keep using it")
        try:
            settings = Settings(
                federation_id=os.urandom(16).hex(),
                name=name,
                host=host,
                bind=bind,
                port=port,
                control_port=control_port,
                store=store,
                operators_port=operators_port,
                operators_bind=operators_bind,
            )
        except ValidationError as error:
            raise InputError("the federation's settings cannot be used", got=explain(error)) from None
        if store is not None:
            _require_unused(store)
        authority = Authority.create(name, now)
        certificate, key = authority.issue_server(server_names(host), now)
        write_secret(home.key("coordinator.pem"), Identity.generate().pem())
        write_secret(home.key("ca.pem"), authority.key_pem())
        write_secret(home.key("server.pem"), key)
        write_atomic(home.ca_file, authority.pem())
        write_atomic(home.certificate_file, certificate)
        # Written last: its presence says that everything before it is whole.
        write_atomic(home.settings_file, settings.model_dump_json(indent=1, exclude_none=True).encode())
        home.audit  # noqa: B018  # begun now, so that the log tells from the first day on
        return home

    @classmethod
    def open(cls, path: Path) -> CoordinatorHome:
        """
        Raises:
            InputError: no coordinator lives there.
        """
        home = cls(path)
        if path.is_file():
            raise InputError(
                "this is done on the coordinator's own machine", expected="a coordinator's folder", got=f"the file {path}",
                remedy="run it there, or give the right --home",
            )  # fmt: skip
        if not home.settings_file.is_file():
            raise InputError(
                f"no coordinator lives in {path}",
                remedy="run `fedward coordinator init` first, or give the right --home",
            )
        return home

    def key(self, name: str) -> Path:
        return self.path / "keys" / name

    @cached_property
    def audit(self) -> AuditLog:
        """The coordinator's audit log, begun if there never was one; errors as `study.audit.home_log`."""
        return audit.coordinator_log(self)

    def record(self, kind: str, *, at: int | None = None, **fields: Value | None) -> LogEntry:
        """Add an entry to the audit log, durably; errors as `audit.record`, and of the fence."""
        with self.fence():
            return audit.record(self, kind, at, fields)

    def under_lease(self, store: Store) -> CoordinatorHome:
        """The same home for a service and its runs: who lost the store's lease (`lease-lost`) enters nothing in the audit log."""
        return CoordinatorHome(self.path, store.under_lease)

    @property
    def settings_file(self) -> Path:
        return self.path / "federation.json"

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def certificate_file(self) -> Path:
        return self.path / "server.pem"

    @property
    def operators_ca_file(self) -> Path:
        return self.path / "operators-ca.pem"

    @property
    def operators_file(self) -> Path:
        return self.path / "operators.json"

    @property
    def local_certificate_file(self) -> Path:
        return self.path / "local-operator.pem"

    @property
    def policy_file(self) -> Path:
        return self.path / "policy.json"

    @property
    def requests_file(self) -> Path:
        return self.path / "requests.json"

    @property
    def store_file(self) -> Path:
        return self.path / "store.sqlite"

    @property
    def store_place(self) -> Path | str:
        """Where its store lies: the file above, or the URL of a database."""
        return self.settings.store or self.store_file

    def open_store(self, *, read_only: bool = False) -> Store:
        """Its store, wherever it lies; errors as `Store.open`."""
        from fedward.server.store import Store  # noqa: PLC0415 - SQLAlchemy takes its time, and a command that asks needs none

        return Store.open(self.store_place, read_only=read_only)

    @property
    def models_folder(self) -> Path:
        return self.path / "models"

    @property
    def service_file(self) -> Path:
        return self.path / "service.json"

    @property
    def log_folder(self) -> Path:
        return self.path / "log"

    @property
    def settings(self) -> Settings:
        return read_model(self.settings_file, Settings, "federation file")

    def check_keys(self) -> None:
        """
        Raises:
            InputError: a key is missing.
            IntegrityError: others may read one.
        """
        for name in ("coordinator.pem", "ca.pem", "server.pem"):
            read_secret(self.key(name), f"the key {name}")

    def identity(self) -> Identity:
        return Identity.from_pem(read_secret(self.key("coordinator.pem"), "the coordinator's identity key"))

    def authority(self) -> Authority:
        return Authority.load(self.ca_file.read_bytes(), read_secret(self.key("ca.pem"), "the federation's CA key"))

    def renew_certificate(self, now: datetime) -> bool:
        """Issue the listener's certificate anew if it ends soon, or if a crash left it without its key; whether it did.

        Raises:
            IntegrityError: the CA cannot be read, or others may read a key.
        """
        made = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        key = serialization.load_pem_private_key(read_secret(self.key("server.pem"), "the key server.pem"), None)
        if now < made.not_valid_after_utc - timedelta(days=RENEW_DAYS) and made.public_key() == key.public_key():
            return False
        certificate, fresh = self.authority().issue_server(server_names(self.settings.host), now)
        write_secret(self.key("server.pem"), fresh)
        write_atomic(self.certificate_file, certificate)
        return True

    def service(self) -> ServiceFile | None:
        """The running service, or None when it is stopped or died.

        The lock says so, not the process number: after a crash or a reboot another program may have that number.
        """
        if not self.service_file.is_file() or not held(self._lock_file):
            return None
        try:
            return read_model(self.service_file, ServiceFile, "service file")
        except InputError:
            if self.service_file.is_file():
                raise
            return None  # it stopped between the look and the reading

    def holder(self) -> Holder:
        """This process as the one that serves the home; within `serving`."""
        from fedward.server.leases import Holder  # noqa: PLC0415 - as `open_store`

        return Holder.of(self._lock_file)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Hold the home for one service.

        Raises:
            UsageError: a service of this home runs already.
        """
        with hold(self._lock_file, LOCK_S, self._taken):
            self.service_file.unlink(missing_ok=True)  # of one that died: commands would look for it at its port
            yield

    def _taken(self) -> UsageError:
        service = self.service()
        return UsageError(
            "this coordinator's service runs already",
            got=f"process {service.pid}" if service else None,
            remedy="stop it first",
        )

    @property
    def _lock_file(self) -> Path:
        return self.path / "service.lock"


def _require_unused(place: str) -> None:
    """
    Raises:
        UsageError: `store-taken`.
    """
    from fedward.server.store import Store  # noqa: PLC0415

    store = Store.open(place)
    try:
        if store.sites() or store.studies():
            raise UsageError(
                "another coordinator's record is in this database",
                expected="an empty database, or a schema of its own by the user's search_path",
                remedy="give another --store",
                code="store-taken",
            )
    finally:
        store.close()


def server_names(host: str) -> tuple[str, ...]:
    """The names that the listeners' certificates hold for."""
    return tuple(dict.fromkeys((host, "localhost", "127.0.0.1")))
