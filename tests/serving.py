"""A coordinator's record served to operators on loopback, without the rest of the service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from joining import free_ports

from fedward.privacy.errors import FedwardError
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.control.roles import Role
from fedward.server.control.server import ControlServer
from fedward.server.home import CoordinatorHome
from fedward.server.operators import Operators
from fedward.study.access import request_access


@dataclass
class Served:
    """A served home; whoever is given access has the file in `folder`."""

    home: CoordinatorHome
    folder: Path

    def give(self, name: str, role: Role, now: datetime | None = None) -> Path:
        """Somebody's access file; made once, the key beside it."""
        path = self.folder / f"{name}.access.json"
        if not path.exists():
            request = request_access(name, self.folder).read_bytes()
            path.write_text(Operators(self.home).add(request, role, now or datetime.now(UTC)).model_dump_json())
        return path

    def again(self, name: str, role: Role) -> RemoteCoordinator:
        """Somebody with a second certificate: access is removed and given anew, as for a key that was lost."""
        Operators(self.home).remove(name, int(time.time()))
        for path in (self.folder / f"{name}.access.json", self.folder / f"{name}.key"):
            path.unlink()
        return self.as_(name, role)

    def as_(self, name: str, role: Role) -> RemoteCoordinator:
        return RemoteCoordinator(self.give(name, role))


@contextmanager
def served(home: CoordinatorHome, folder: Path) -> Iterator[Served]:
    """Serve a home's record for the block; access files are written into the folder."""
    if home.settings.operators_port is None:
        (port,) = free_ports(1)
        home.settings_file.write_text(home.settings.model_copy(update={"operators_port": port}).model_dump_json())
    store = home.open_store()
    server = ControlServer(home, store, logging.getLogger("test-served"))
    server.start()
    try:
        yield Served(home, folder)
    finally:
        server.stop(0.2)
        store.close()


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that a call ends with; empty where it does not."""
    try:
        call()
    except FedwardError as error:
        return error.code
    return ""
