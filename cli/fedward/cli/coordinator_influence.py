"""`fedward coordinator influence STUDY`: which features a study's model follows, and a logistic regression's odds ratios.

`--from hospitals`: what held-out patients voted for, from the record, beside the same model's shares on synthetic patients.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.coordinator import Coordinator
    from fedward.server.histories import History
    from fedward.study.hospital_influence import HospitalInfluence
    from fedward.study.influence import Influence


class Source(StrEnum):
    """Whose patients tell."""

    synthetic = "synthetic"
    hospitals = "hospitals"


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
    source: Annotated[
        Source,
        typer.Option(
            "--from",
            help='"hospitals": what held-out patients voted for, if the study asks (evaluation.influence) and hospitals allow.',
        ),
    ] = Source.synthetic,
    rows: Annotated[int, typer.Option(min=10, max=100_000, help="How many synthetic patients.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="For the synthetic patients and the intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it as JSON too; must not exist.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Say which features the study's newest model follows, on public or synthetic patients; odds ratios of a logistic regression.

    No hospital's patient is read. With `--from hospitals`: what held-out patients voted for when they were evaluated, as a sum.
    Influence is association, on those patients alone: it explains the model, not the disease.
    """
    from fedward.privacy.errors import UsageError
    from fedward.server.cards.facts import card
    from fedward.study.files import write_atomic

    if out is not None and out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    if source is Source.hospitals and data is not None:
        raise UsageError("--data is of public patients, and --from hospitals of theirs", remedy="leave out one of them")
    coordinator = open_coordinator(home)
    history = coordinator.history(study)
    model = card(history)
    if source is Source.hospitals:
        _of_hospitals(coordinator, history, rows, seed, out, as_json)
        return
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


def _of_hospitals(
    coordinator: Coordinator, history: History, rows: int, seed: int, out: Path | None, as_json: bool
) -> None:
    """The votes of the newest evaluation, and the same model's shares on synthetic patients, where these can be had."""
    from fedward.study.files import write_atomic

    votes = _votes(history)
    released = [
        row.number
        for row in coordinator.releases(history.view.study_id)
        if (row.study, row.version, row.withdrawn_at) == (history.study.key, votes.version, None)
    ]
    beside, why = _beside(coordinator, history, votes.version, rows, seed)
    told = {
        "study_id": history.view.study_id,
        "version": votes.version,
        "release": max(released, default=None),
        "hospitals": votes.as_json(),
        "synthetic": None if beside is None else beside.as_json(),
    }
    if out is not None:
        write_atomic(out, (json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode())
    if as_json:
        print_json(told)
        return
    standing = f"release {max(released)}" if released else "not released"
    say(f'"{history.view.title}" ({history.view.study_id}), the model of {votes.version} rounds, {standing}')
    say(votes.about)
    _say_votes(votes, beside)
    say(
        why
        or "The synthetic share is of the mean absolute attributions, on made-up patients, the votes' of each patient's own: "
        "compare their order, and not their digits."
    )
    if out is not None:
        say(f"Written to {out}.")


def _votes(history: History) -> HospitalInfluence:
    """
    Raises:
        InputError: `no-votes`: the study asks for none, or none were counted yet.
    """
    from fedward.privacy.errors import InputError
    from fedward.study.manifest import Manifest

    if history.votes is not None:
        return history.votes
    asked = isinstance(history.manifest, Manifest) and history.manifest.evaluation.influence
    raise InputError(
        f'no patients of study "{history.view.study_id}" voted for features',
        expected="an evaluated version" if asked else "a study approved with evaluation.influence = true",
        got="none yet" if asked else "one without",
        remedy="wait for its first evaluation"
        if asked
        else "leave out --from; a new version of the study may ask for it",
        code="no-votes",
    )


def _beside(
    coordinator: Coordinator, history: History, version: int, rows: int, seed: int
) -> tuple[Influence | None, str]:
    """The influence of the very model that was evaluated, on synthetic patients; or why it is not there."""
    from fedward.privacy.errors import FedwardError

    if history.view.model is None or history.view.version != version:
        return (
            None,
            f"The newest model is of {history.view.version} rounds: no synthetic patients beside another one's votes.",
        )
    try:
        return influence_of(coordinator, history, history.view.model, version, None, rows, seed), ""
    except FedwardError as error:
        return None, f"Without synthetic patients beside them: {error.what}."


def _say_votes(found: HospitalInfluence, beside: Influence | None) -> None:
    if not found.features:
        say(f"Nothing can be told: {found.why}.")
        return
    of_all = "held-out patients, of whom a few gave no vote" if found.of_all else "votes"
    synthetic = {} if beside is None else {one.feature: f"{one.share:.3f}" for one in beside.features}
    words = {"small": "< 11", "hidden": "not shown"}
    rows = []
    for one in found.features:
        if one.share is None or one.low is None or one.high is None:
            cells = (words[one.shown], "", "")
        else:
            cells = (str(one.votes), f"{one.share:.3f}", f"{one.low:.3f} to {one.high:.3f}")
        rows.append((one.feature, *cells, *([synthetic[one.feature]] if synthetic else [])))
    table(
        "What the held-out patients voted for",
        ("feature", "votes", "share", "95% interval", *(["on synthetic patients"] if synthetic else [])),
        rows,
        caption=f"Of {found.voters} {of_all}{', noise included' if found.deviation else ''}.",
    )
    say(found.noise)
    if any(one.shown != "shown" for one in found.features):
        say('"< 11": fewer than 11 votes. "not shown": else such a number would follow by subtraction.')


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
