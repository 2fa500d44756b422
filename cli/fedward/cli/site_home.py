"""The option that says where a site lives; every `fedward site` command has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path,
    typer.Option("--home", envvar="FEDWARD_SITE_HOME", help="The site's folder: keys, policy, ledger, log."),
]
DEFAULT_HOME = Path.home() / ".fedward" / "site"
