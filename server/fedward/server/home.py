"""The coordinator's home folder: keys, CA, settings, store and models.

federation.json   id, name, address, ports              keys/   coordinator identity, CA key, server key (0600)
ca.pem, server.pem  certificates                        store.sqlite   studies, rounds, journal
models/DIGEST.safetensors  every committed model        log/    coordinator.log and one log a run
service.json      the running service's process and ports; absent when it is stopped
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fedward.privacy.errors import InputError, UsageError
from fedward.privacy.signing import Identity
from fedward.server.authority import Authority
from fedward.study.fields import Part
from fedward.study.files import read_model, read_secret, write_atomic, write_secret
from fedward.study.lock import held, hold
from fedward.study.manifest import explain

LOCK_S = 1.0


class Settings(Part):
    """What `coordinator init` fixed."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    bind: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    control_port: Annotated[int, Field(ge=1, le=65535)]


class ServiceFile(Part):
    pid: Annotated[int, Field(ge=1)]
    started_at: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class CoordinatorHome:
    path: Path

    @classmethod
    def create(
        cls, path: Path, *, name: str, host: str, bind: str, port: int, control_port: int, now: datetime
    ) -> CoordinatorHome:
        """
        Raises:
            UsageError: a coordinator lives there already.
            InputError: no name, or a host or address that is none.
        """
        home = cls(path)
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
            )
        except ValidationError as error:
            raise InputError("the federation's settings cannot be used", got=explain(error)) from None
        authority = Authority.create(name, now)
        certificate, key = authority.issue_server(tuple(dict.fromkeys((host, "localhost", "127.0.0.1"))), now)
        write_secret(home.key("coordinator.pem"), Identity.generate().pem())
        write_secret(home.key("ca.pem"), authority.key_pem())
        write_secret(home.key("server.pem"), key)
        write_atomic(home.ca_file, authority.pem())
        write_atomic(home.certificate_file, certificate)
        # Written last: its presence says that everything before it is whole.
        write_atomic(home.settings_file, settings.model_dump_json(indent=1).encode())
        return home

    @classmethod
    def open(cls, path: Path) -> CoordinatorHome:
        """
        Raises:
            InputError: no coordinator lives there.
        """
        home = cls(path)
        if not home.settings_file.is_file():
            raise InputError(
                f"no coordinator lives in {path}",
                remedy="run `fedward coordinator init` first, or give the right --home",
            )
        return home

    def key(self, name: str) -> Path:
        return self.path / "keys" / name

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
    def store_file(self) -> Path:
        return self.path / "store.sqlite"

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

    def serving(self) -> AbstractContextManager[None]:
        """Hold the home for one service.

        Raises:
            UsageError: a service of this home runs already.
        """
        return hold(self._lock_file, LOCK_S, self._taken)

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
