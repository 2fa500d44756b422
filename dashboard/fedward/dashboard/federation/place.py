"""What `fedward monitor --store` names: a coordinator's home, its SQLite file, or a PostgreSQL database. Opened to read alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.errors import InputError
from fedward.server.home import CoordinatorHome
from fedward.server.store import Store

DEFAULT_HOME = Path.home() / ".fedward" / "coordinator"
_URL = "postgresql"
_REMEDY = "give the coordinator's folder, its store.sqlite, or a PostgreSQL URL: fedward monitor --store DIR"


@dataclass(frozen=True)
class Place:
    """Where a record lies. `home` is the coordinator's folder, None where the place is a database by itself: then there is no
    audit log to show, and no model."""

    store: Path | str
    home: CoordinatorHome | None

    @property
    def shown(self) -> str:
        """What people see of it; a URL holds no password (`Store.open` refuses one)."""
        return str(self.home.path if self.home is not None else self.store)

    @property
    def mark(self) -> int:
        """Changes when another file takes the store's place, as after a restore: it is to be opened anew then."""
        try:
            return self.store.stat().st_ino if isinstance(self.store, Path) else 0
        except OSError:
            return 0

    def open(self) -> Store:
        """Errors as `Store.open`."""
        return Store.open(self.store, read_only=True)


def place(given: str | None) -> Place:
    """The place that a person named; without a name, the coordinator's usual folder.

    Raises:
        InputError: no coordinator lives there; code `not-a-store`.
    """
    if given is not None and given.startswith(_URL):
        return Place(given, None)
    path = DEFAULT_HOME if given is None else Path(given)
    if path.is_file():
        return Place(path, _home(path.parent))
    home = _home(path)
    if home is None:
        raise InputError(
            f"no coordinator lives in {path}" if given is not None else "there is nothing to look at",
            expected="a coordinator's folder, with federation.json in it",
            got="a folder without one" if path.is_dir() else f"no such folder: {path}",
            remedy=_REMEDY if given is not None else f"{_REMEDY}; or a simulated run's folder: fedward monitor RUN",
            code="not-a-store",
        )
    if isinstance(home.store_place, Path) and not home.store_place.is_file():
        raise InputError(
            f"the coordinator in {path} has no record yet",
            expected=f"its store, {home.store_place}",
            remedy=f"fedward coordinator serve --home {path}",
            code="not-a-store",
        )
    return Place(home.store_place, home)


def _home(folder: Path) -> CoordinatorHome | None:
    home = CoordinatorHome(folder)
    return home if home.settings_file.is_file() else None
