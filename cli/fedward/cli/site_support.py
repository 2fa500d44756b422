"""`fedward site support`: a bundle for whoever helps, free of patients' data, for a person to read and send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home


def support(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new file.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Write a support bundle: versions, the doctor's findings by code, counts of events, times, references. Nothing is sent.

    It holds no text and no value: no patient's data, no name of a person, study, column, file or address. Read it, then send it.
    """
    from fedward.client.home import SiteHome
    from fedward.client.support import support_bundle, write_bundle
    from fedward.privacy.errors import UsageError
    from fedward.study.files import write_atomic

    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another file")
    made = support_bundle(SiteHome.open(home))
    write_atomic(out, write_bundle(made), 0o600)
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "verdict": made["doctor"]["verdict"]})
        return
    say(f"{out} is written. Read it, it is plain JSON, then send it to whoever helps you. This program sends nothing.")
    say(
        "It holds versions, the doctor's findings by code, and how often what happened; no patient's data, no name, no text."
    )
