"""`fedward coordinator card STUDY`: a model's card from the record, as HTML or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say


def card(
    study: Reference,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.html|FILE.md", help="What to write; must not exist. Without it, Markdown is shown."
        ),
    ] = None,
    influence: Annotated[
        bool,
        typer.Option("--influence", help="With what the model follows, on synthetic patients; see `influence`."),
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Make a model's card: for what and on whom, metrics with intervals, fairness, gates, privacy, digests, limits, TRIPOD+AI.

    It is of the study's released model, or else of its newest, and says which. The same record gives the same bytes.
    """
    from fedward.cli.coordinator_influence import influence_of
    from fedward.privacy.errors import UsageError
    from fedward.server.cards import pages
    from fedward.server.cards.facts import card as card_of
    from fedward.server.cards.facts import of_study
    from fedward.server.gates import verdicts
    from fedward.study.files import write_atomic

    if out is not None and out.suffix.lower() not in pages.FORMATS:
        raise UsageError("a card is HTML or Markdown", expected="--out FILE.html or FILE.md", got=out.name)
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    coordinator = open_coordinator(home)
    history = coordinator.history(study)
    release, held = of_study(coordinator.releases(history.view.study_id), history.study.key), verdicts(history)
    made = card_of(history, held, release)
    if influence:
        found = influence_of(coordinator, history, made.model, made.version)
        made = card_of(history, held, release, found)
    if out is not None:
        page = pages.html(made) if out.suffix.lower() == ".html" else pages.markdown(made)
        write_atomic(out, page.encode())
    if as_json:
        print_json(made.as_json() | {"out": None if out is None else str(out)})
    elif out is None:
        say(pages.markdown(made).rstrip())
    else:
        say(f'{out}: the card of "{made.title}", model {made.model[:12]} of {made.version} rounds.')
