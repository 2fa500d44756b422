"""The option that says where a coordinator lives, and the interface to it; every `fedward coordinator` command has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedward.server.coordinator import Coordinator

Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="FEDWARD_COORDINATOR_HOME",
        help="The coordinator's folder: keys, store, models. Or, on another machine, an access file (NAME.access.json).",
    ),
]
Reference = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id, or the first digits of its digest.")]
DEFAULT_HOME = Path.home() / ".fedward" / "coordinator"


def open_coordinator(home: Path) -> Coordinator:
    """Whom a command asks; docs/operators.md has the rule.

    An access file names a coordinator elsewhere. In a home whose service runs, the service is asked, over loopback, as `local`.
    Where it does not run there is nobody to ask, and the command works on the home itself.

    Raises:
        InputError: no coordinator lives there, or the file is no access file.
        IntegrityError: others may read a key.
    """
    if home.is_file():
        from fedward.server.control.remote import RemoteCoordinator

        return RemoteCoordinator(home)
    from fedward.server.home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    service = opened.service()
    if service is not None and service.control is not None:
        from fedward.server.control.remote import RemoteCoordinator

        return RemoteCoordinator.at_home(opened, service.control)
    from fedward.server.coordinator import LocalCoordinator

    return LocalCoordinator(home)
