"""`fedward site migrate`: a home of an earlier version, brought up to date; what was there stays beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home


def migrate(
    home: Home = DEFAULT_HOME,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help="Lock the home by a passphrase: asked, or from FEDWARD_PASSPHRASE_FILE."),
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            help="Lock the home by this key file, made where it is missing; by one inside it if not given.",
        ),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Bring this site's home up to the format of this version. What was there stays beside it; a home that is up to date stays.

    Stop the node first. A home that becomes encrypted is locked as the options say.
    """
    from fedward.cli.site_vault import new_passphrase
    from fedward.client.home import format_of
    from fedward.client.migrations import Unlock
    from fedward.client.migrations import migrate as bring_up
    from fedward.privacy.errors import UsageError

    if passphrase and key_file is not None:
        raise UsageError("--passphrase and --key-file exclude each other", remedy="give one of them")
    before = format_of(home) if home.exists() else None
    steps = bring_up(home, Unlock(new_passphrase() if passphrase else None, key_file))
    if as_json:
        print_json({"home": str(home), "from": before, "to": format_of(home), "steps": [step.what for step in steps]})
        return
    if not steps:
        say(f"The home in {home} is up to date: format {format_of(home)}.")
        return
    for step in steps:
        say(f"Format {step.to}: {step.what}.")
    say(
        f"The old home is {home}.format-{before}: its keys lie there as they did. Remove it, or lock it away, when all is well."
    )
    say("Now register data, review and approve again: fedward site doctor says what is missing.")
