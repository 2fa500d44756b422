"""`fedward coordinator influence STUDY`: which features a study's model follows, and a logistic regression's odds ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.coordinator import Coordinator
    from fedward.server.histories import History
    from fedward.study.influence import Influence


def influence(
    study: Reference,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE.csv",
            help="PUBLIC patients, in the study's columns and levels. Without it, synthetic ones within the manifest's bounds.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=10, max=100_000, help="How many synthetic patients.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="For the synthetic patients and the intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it as JSON too; must not exist.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Say which features the study's newest model follows, on public or synthetic patients; odds ratios of a logistic regression.

    No hospital's patient is read. Influence is association, on those patients alone: it explains the model, not the disease.
    """
    from fedward.privacy.errors import UsageError
    from fedward.server.cards.facts import card
    from fedward.study.files import write_atomic

    if out is not None and out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    coordinator = open_coordinator(home)
    history = coordinator.history(study)
    model = card(history)
    found = influence_of(coordinator, history, model.model, model.version, data, rows, seed)
    told = {"study_id": model.study_id, "model": model.model, "version": model.version} | found.as_json()
    if out is not None:
        write_atomic(out, (json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode())
    if as_json:
        print_json(told)
        return
    say(f'"{model.title}" ({model.study_id}), model {model.model[:12]} of {model.version} rounds')
    say(found.about)
    _say(found)
    if out is not None:
        say(f"Written to {out}.")


def influence_of(
    coordinator: Coordinator,
    history: History,
    model: str,
    version: int,
    data: Path | None = None,
    rows: int = 1000,
    seed: int = 0,
) -> Influence:
    """Of the committed model of that digest.

    Raises:
        InputError: `no-captum`; or as `fedward.study.influence`.
    """
    from fedward.study.attribution import installed

    installed()
    from fedward.server.carried_noise import carried_noise
    from fedward.server.models import check_model
    from fedward.study.influence import influence as influence_over
    from fedward.study.influence import public, synthetic
    from fedward.study.manifest import Manifest
    from fedward.study.models import build, load_vector

    manifest = history.manifest
    if not isinstance(manifest, Manifest):  # whoever calls has its model
        raise TypeError("an exploration has no model")
    patients = synthetic(manifest, rows, seed) if data is None else public(data, manifest)
    made = build(manifest)
    load_vector(made, check_model(coordinator.model(model), model))
    noise = carried_noise(history, version)
    return influence_over(manifest, made, patients, noise.deviation, noise.words, seed)


def _say(found: Influence) -> None:
    table(
        "What the model follows",
        ("feature", "share", "95% interval", "log-odds", "predicted probability"),
        [
            (one.feature, f"{one.share:.3f}", f"{one.low:.3f} to {one.high:.3f}", f"{one.log_odds:.3f}", one.direction)
            for one in found.features
        ],
        caption="Share of the mean absolute attributions; the interval is a bootstrap's over these patients.",
    )
    if found.odds:
        table(
            "Odds ratios",
            ("feature", "per", "ratio", "noise alone, 95%"),
            [
                (one.feature, one.per, f"{one.ratio:.3f}", "" if one.low is None or one.high is None
                 else f"{one.low:.3f} to {one.high:.3f}")
                for one in found.odds
            ],
        )  # fmt: skip
        say(found.noise)
