"""Whose audit log a command works on: a site's or a coordinator's, by what lies in the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.site_home import DEFAULT_HOME

if TYPE_CHECKING:
    from fedward.privacy.log import AuditLog
    from fedward.privacy.signing import Identity
    from fedward.study.sightings import Sightings

AuditHome = Annotated[
    Path,
    typer.Option("--home", envvar="FEDWARD_SITE_HOME", help="The home of the site, or of the coordinator."),
]
DEFAULT = DEFAULT_HOME


@dataclass(frozen=True)
class Party:
    """Who keeps a log: a site or a coordinator."""

    log: AuditLog
    identity: Identity
    sightings: Sightings


def open_log(path: Path) -> AuditLog:
    """The log in a home.

    Raises:
        InputError: neither a site nor a coordinator lives there.
        IntegrityError: the log does not hold.
    """
    if (path / "site.json").is_file():
        from fedward.client.home import SiteHome

        return SiteHome.open(path).audit
    from fedward.server.home import CoordinatorHome

    return CoordinatorHome.open(path).audit


def open_party(path: Path) -> Party:
    """The log in a home with what signs it and what it was compared with; errors as `open_log`."""
    if (path / "site.json").is_file():
        from fedward.client.home import SiteHome
        from fedward.client.sightings import load_sightings

        site = SiteHome.open(path)
        return Party(site.audit, site.identity(), load_sightings(site))
    from fedward.server.checkpoints import load_sightings as load_coordinators
    from fedward.server.home import CoordinatorHome

    coordinator = CoordinatorHome.open(path)
    return Party(coordinator.audit, coordinator.identity(), load_coordinators(coordinator))
