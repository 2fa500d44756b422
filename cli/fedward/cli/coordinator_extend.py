"""`fedward coordinator extend STUDY --out FILE`: a new version that goes on from a study's last model, for hospitals to approve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.server.histories import History


def extend(
    study: Reference,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The TOML file to write; must not exist.")],
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="How many rounds more; those that were left, by default."),
    ] = None,
    spare_attempts: Annotated[
        int | None, typer.Option("--spare-attempts", min=0, max=1000, help="Another number of spare attempts.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Write the draft of a new version that goes on from a study's last model: more rounds, spare attempts, another 180 days.

    What hospitals approved is never changed. They approve the new version, and it costs them its own ε beside what was spent.
    """
    from fedward.privacy.errors import UsageError
    from fedward.study.drafts import continued, draft
    from fedward.study.files import write_atomic
    from fedward.study.manifest import Manifest

    found = open_coordinator(home).history(study)
    start, left = _last_model(found)
    more = rounds or left
    if not more:
        raise UsageError("every round is committed", expected="--rounds N: how many more")
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    if not isinstance(found.manifest, Manifest):
        raise UsageError("an exploration has no model to go on from", remedy="explore again")
    made = continued(found.manifest, start, more, spare_attempts)
    comment = f"Goes on from round {found.view.version} of {found.view.digest} (id {found.view.study_id})."
    write_atomic(out, draft(made, comment))
    if as_json:
        print_json(
            {"file": str(out), "study_id": made.study.id, "from": found.view.digest, "start": start, "rounds": more}
        )
        return
    say(f'{out}: a version of "{found.view.title}" that goes on from its model {start[:12]} with {more} rounds.')
    say(
        "Hospitals approve it anew. Once they have, their nodes run the earlier version no more, and what it had reserved is free."
    )
    if made.privacy.epsilon is not None:
        say(
            f"It costs a patient at most ε = {made.privacy.epsilon:g} (privacy.epsilon in the file) beside what the "
            "earlier version has spent; each hospital's ledger counts both."
        )
    say(f"Next: look it over, then fedward coordinator propose {out}")


def _last_model(found: History) -> tuple[str, int]:
    """The study's last committed model, and how many of its rounds are left.

    Raises:
        UsageError: something of it is still to come, or there is nothing to go on from.
    """
    from fedward.privacy.errors import UsageError
    from fedward.server.lifecycle import is_busy

    view = found.view
    if is_busy(found.study.life):
        raise UsageError(
            f'study "{view.study_id}" is under way',
            remedy=f"let it end, or run `fedward coordinator pause {view.study_id}`",
        )
    if view.model is None or not view.version:
        raise UsageError(
            f'study "{view.study_id}" has committed no round',
            remedy="use `fedward coordinator clone` to propose it anew",
        )
    return view.model, view.rounds - view.version
