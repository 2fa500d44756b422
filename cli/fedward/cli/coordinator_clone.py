"""`fedward coordinator clone STUDY --out FILE`: the draft of a study, out of what was sealed, to edit and propose again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say


def clone(
    study: Reference,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The TOML file to write; must not exist.")],
    new_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="NEW", help="The id of the new study; the same one by default, for a new version."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Write a study's TOML draft from the manifest that was sealed, to edit and propose again."""
    from fedward.privacy.errors import UsageError
    from fedward.study.drafts import draft, renamed
    from fedward.study.files import write_atomic

    found = open_coordinator(home).history(study)
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    made = renamed(found.manifest, new_id)
    what = f"the sealed study {found.view.digest}" if found.view.digest else "a draft that was never sealed"
    write_atomic(out, draft(made, f"Cloned from {what} (id {found.view.study_id})."))
    if as_json:
        print_json(
            {"file": str(out), "study_id": made.study.id, "from": found.view.study_id, "digest": found.view.digest}
        )
        return
    say(f'{out}: the draft of "{found.view.title}", with the id {made.study.id}.')
    if made.study.id == found.view.study_id:
        say(
            "The id is the same: hospitals that approve the new version run the older ones no more. Another study needs --id."
        )
    say(f"Next: edit it, then fedward coordinator propose {out}")
