"""`fedward plan`: what an ε buys, before anyone is asked: schedule, noise, cost, and AUROC where public data is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.output import JsonOption, note, print_json, say, shown, shown_left, table

if TYPE_CHECKING:
    from fedward.simulations.planner import Plan, Schedule
    from fedward.study.manifest import Manifest

EPSILONS = (0.5, 1.0, 3.0, 8.0)


def plan(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY", help='The study\'s TOML file, or a folder with study.toml; "heart" is the example.'
        ),
    ],
    patients: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Registered patients of each hospital: 303,294,123,200, or cleveland=303,…; by default those of --on.",
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            metavar="ε,ε,…", help="The ε to compare; by default 0.5, 1, 3, 8 and the study's own, up to --budget."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="δ of study and budget; the study's own by default, else 1/(10 N) or less.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="A hospital's lifetime ε: shows what remains of it for later studies.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="heart|DIR",
            help="Public data to simulate on: the heart example, or a folder with NAME.csv and NAME.mapping.toml.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Simulated studies behind each AUROC, with --on.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="The most rounds that the study may take.")] = 40,
    write: Annotated[
        Path | None,
        typer.Option(metavar="OUT.toml", help="Write the study with the chosen schedule; needs one --epsilon."),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Choose the release schedule (rounds, sampling rate, noise) that serves an ε best, and show what each ε buys.

    Without --on the signal-to-noise rule decides; with it, simulated studies on public data do, and give the AUROC to
    expect. Nothing is sent anywhere and no ledger is touched: a study's σ is calibrated again when it is proposed.
    """
    from fedward.privacy.errors import UsageError
    from fedward.simulations.expected import Trials
    from fedward.simulations.folders import read_hospitals
    from fedward.simulations.planner import ROUNDS
    from fedward.simulations.planner import plan as make_plan
    from fedward.study.examples import study_file
    from fedward.study.files import write_atomic
    from fedward.study.heart import heart_folder
    from fedward.study.manifest import load

    manifest = load(study_file(study))
    targets = _targets(epsilon, manifest.privacy.epsilon, budget)
    if write is not None and len(targets) != 1:
        raise UsageError("--write needs exactly one --epsilon")
    public = None if on is None else read_hospitals(heart_folder() if on == "heart" else Path(on), manifest)
    cohort = _patients(patients, None if public is None else {site: len(data) for site, data in public.items()})
    chosen_delta = _delta(delta, manifest, cohort)
    trials = None if public is None else Trials(public, cohort, manifest.training.holdout, range(seeds))
    plans = []
    for target in targets:
        note(f"ε = {target:g}: calibrating the noise of each number of rounds …")
        plans.append(
            make_plan(
                manifest, cohort, target, chosen_delta,
                rounds=[number for number in ROUNDS if number < rounds] + [rounds],
                trials=trials, budget=budget, report=note,
            )
        )  # fmt: skip
    if write is not None:
        write_atomic(write, _toml(plans[0].manifest))
        note(f"wrote {write}")
    if as_json:
        print_json(_as_json(manifest, cohort, plans, on))
    else:
        _show(manifest, cohort, plans)


def _targets(text: str | None, own: float | None, budget: float | None) -> list[float]:
    """The ε to plan for: those asked for, or those of the usual ones and the study's own that a lifetime budget can hold."""
    from fedward.privacy.errors import UsageError

    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError("--budget is no lifetime ε", expected="a number above 0", got=f"{budget:g}")
    if text is None:
        usual = sorted({*EPSILONS, *([] if own is None else [own])})
        return [value for value in usual if budget is None or value <= budget] or usual[:1]
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UsageError("--epsilon is no list of numbers", expected="0.5,1,3", got=text) from None
    if not all(0 < value < float("inf") for value in found):
        raise UsageError("--epsilon holds a value that is no budget", expected="numbers above 0", got=text)
    return found


def _patients(text: str | None, public: Mapping[str, int] | None) -> dict[str, int]:
    from fedward.privacy.errors import UsageError

    if text is None:
        if public is None:
            raise UsageError(
                "no numbers of patients", remedy="give --patients 303,294,123,200, or --on with public data"
            )
        return dict(public)
    parts = [part.strip() for part in text.split(",")]
    if all("=" not in part for part in parts):
        names = list(public) if public is not None and len(public) == len(parts) else []
        width = len(str(len(parts)))
        parts = [
            f"{names[index] if names else f'hospital-{index + 1:0{width}d}'}={part}" for index, part in enumerate(parts)
        ]
    try:
        found = {name.strip(): int(number) for name, number in (part.split("=") for part in parts)}
    except ValueError:
        raise UsageError("--patients is no list of numbers", expected="303,294 or a=303,b=294", got=text) from None
    if len(found) != len(parts) or not all(number >= 1 for number in found.values()):
        raise UsageError("--patients needs a number of at least 1 for each hospital, named once", got=text)
    return found


def _delta(given: float | None, manifest: Manifest, cohort: Mapping[str, int]) -> float:
    """The δ asked for, the study's, or the largest 10^-k of at most 1/(10 N)."""
    if given is not None:
        return given
    if manifest.privacy.delta is not None:
        return manifest.privacy.delta
    digits = 1
    while 10.0**-digits > 0.1 / min(cohort.values()):
        digits += 1
    return 10.0**-digits


def _toml(manifest: Manifest) -> bytes:
    import tomli_w

    return tomli_w.dumps(manifest.model_dump(mode="json", exclude_none=True)).encode()


# ---- JSON: docs/planning.md describes it -----------------------------------------------------------------------------


def _as_json(manifest: Manifest, cohort: Mapping[str, int], plans: Sequence[Plan], on: str | None) -> dict[str, Any]:
    from fedward.study.terms import privacy_words

    return {
        "study": manifest.study.id,
        "patients": dict(cohort),
        "delta": plans[0].delta,
        "meaning": privacy_words(plans[0].manifest),
        "simulated_on": on,
        "clipping_norm": manifest.privacy.clipping_norm,
        "server_momentum": manifest.training.server_momentum,
        "spare_attempts": manifest.privacy.spare_attempts,
        "plans": [_plan_json(one) for one in plans],
    }


def _plan_json(one: Plan) -> dict[str, Any]:
    return {
        "epsilon": one.epsilon,
        "schedule": _schedule_json(one.schedule),
        "sites": {
            site: {"noise_multiplier": sigma, "weight": round(weight, 6)} for site, (sigma, weight) in one.sites.items()
        },
        "attempts": one.attempts,
        "epsilon_per_round": one.per_round,
        "epsilon_training": one.training,
        "epsilon_evaluation": one.evaluation,
        "epsilon_whole": one.whole,
        "epsilon_training_against_all_others": one.against_all,
        "equal_noise_at": [{"sampling_rate": q, "epsilon": price} for q, price in one.sampled.items()],
        "candidates": [_schedule_json(candidate) for candidate in one.candidates],
        "auroc": None if one.expected is None else asdict(one.expected),
        "left": None if one.left is None else asdict(one.left),
        "warnings": list(one.warnings),
    }


def _schedule_json(one: Schedule) -> dict[str, Any]:
    return {
        "rounds": one.rounds,
        "local_steps": one.local_steps,
        "sampling_rate": one.sampling_rate,
        "server_learning_rate": one.learning_rate,
        "noise_multiplier": round(one.noise_multiplier, 4),
        "signal": None if one.signal != one.signal else round(one.signal, 3),
        "noise": None if one.noise != one.noise else round(one.noise, 3),
    }


# ---- tables ----------------------------------------------------------------------------------------------------------


def _show(manifest: Manifest, cohort: Mapping[str, int], plans: Sequence[Plan]) -> None:
    from fedward.study.terms import privacy_words

    simulated = plans[0].expected is not None
    table(
        f"What an ε buys: {manifest.study.id}, {len(cohort)} hospitals, {sum(cohort.values())} patients",
        ("ε", "rounds", "q", "σ", "rate", *(("AUROC (95%)", "one study") if simulated else ("signal", "noise"))),
        [_served(one) for one in plans],
        caption=_meaning(plans[0]),
    )
    lifetime = plans[0].left is not None
    table(
        "What it costs each hospital's patients",
        ("ε", "steps", "ε a round", "training", "evaluation", *(("later study", "as many more") if lifetime else ())),
        [_spent(one) for one in plans],
        caption=_prices(plans[0], alone=len(plans) == 1),
    )
    table(
        "Hospitals: weight, and σ at each ε",
        ("hospital", "patients", "weight", *(f"ε = {one.epsilon:g}" for one in plans)),
        [
            (site, str(cohort[site]), f"{weight:.3f}", *(f"{one.sites[site][0]:g}" for one in plans))
            for site, (_, weight) in plans[0].sites.items()
        ],
        caption="Weights follow the declared cohorts: registered patients rounded to tens, less the held-out share.",
    )
    for warning in dict.fromkeys(line for one in plans for line in one.warnings):
        say(f"Warning: {warning}.")
    say(f"ε at δ = {plans[0].delta:g}. {privacy_words(plans[0].manifest)}.")


def _served(one: Plan) -> list[str]:
    chosen = one.schedule
    row = [f"{one.epsilon:g}", str(chosen.rounds), f"{chosen.sampling_rate:g}", f"{chosen.noise_multiplier:g}"]
    row.append(f"{chosen.learning_rate:g}")
    if one.expected is None:
        return [*row, f"{chosen.signal:.1f}", f"{chosen.noise:.2f}"]
    area = one.expected
    return [*row, f"{area.mean:.3f} ({area.low:.3f}-{area.high:.3f})", f"± {area.deviation:.3f}"]


def _spent(one: Plan) -> list[str]:
    counted = "no noise" if one.evaluation is None else f"{one.evaluation:.4f}"
    row = [f"{one.epsilon:g}", str(one.schedule.local_steps * one.attempts), f"{one.per_round:.4f}"]
    row += [f"{one.training:.4f}", counted]
    return row if one.left is None else [*row, f"ε = {shown_left(one.left.later)}", str(one.left.again)]


def _meaning(one: Plan) -> str:
    if one.expected is None:
        return "Signal: how far agreeing patients can move the model at most; noise: how far noise alone moves it."
    return (
        f"AUROC on all held-out patients of {one.expected.seeds} simulated studies: its mean with the mean's 95% interval, "
        "and the deviation from study to study."
    )


def _prices(one: Plan, *, alone: bool) -> str:
    words = [f"{one.attempts - one.schedule.rounds} spare attempts are counted.", _evaluation(one, alone=alone)]
    if one.sampled:
        prices = ", ".join(f"ε = {shown(price)} at q = {q:g}" for q, price in one.sampled.items())
        words.append(f"Sampled batches with equal noise would cost, instead of ε = {one.epsilon:g}: {prices}.")
    if one.against_all > one.training:
        words.append(
            "Noise is shared: should all other hospitals collude with the coordinator, "
            f"training costs ε = {shown(one.against_all)}."
        )
    if one.left is not None:
        words.append(
            f"Of the lifetime budget of ε = {one.left.budget:g}, one later study of as many steps could cost what is shown, or "
            "so many more studies like this one fit."
        )
    return " ".join(words)


def _evaluation(one: Plan, *, alone: bool) -> str:
    if one.evaluation is None:
        return "Counts of held-out patients leave without noise: no ε covers those patients."
    price = f", ε = {shown(one.whole)}" if alone else ""
    return f"A patient trains or is held out, so a ledger is charged the larger of the two{price}."
