"""`fedward sweep`: a study with some of its fields varied, chosen on validation patients and tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, note, print_json, say, table
from fedward.cli.simulate import EngineChoice, cells, failures, privacy, privacy_sentence, short

if TYPE_CHECKING:
    from fedward.simulations.simulate import Outcome
    from fedward.simulations.sweep import Validated

MOST_ROWS = 30
"""Settings that the table shows, the best first; `--json` and the folder have all."""


def sweep(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help='The study\'s TOML file, a folder with study.toml, or "heart".')
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUE,…",
            help="A field of the study and its values, such as privacy.epsilon=1,3,8 or training.local_steps=1,5; repeat for more "
            'fields. A table takes inline tables: training={algorithm="fedavg"},{algorithm="fedprox",proximal=0.1}.',
        ),
    ],
    along: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="For each of its values the best setting of the others is chosen and tested; privacy.epsilon if it is varied, "
            "else the first field.",
        ),
    ] = None,
    sites: Annotated[str, typer.Option(metavar="SITES", help="The hospitals, as in `fedward simulate`.")] = "heart",
    partition: Annotated[
        str | None, typer.Option(metavar="HOW", help="Cut all patients anew, as in `fedward simulate`.")
    ] = None,
    engine: Annotated[EngineChoice, typer.Option(help="Who computes the sites' updates.")] = EngineChoice.STACKED,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Simulated studies of each setting, with seeds 0, 1, …")
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep everything there, with plots; a sweep that was broken off goes on."),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Try settings of a study without a look at the test.

    Each seed's held-out patients are its test. Settings are compared on validation patients, a part of the training ones; for each
    value of one field the best is chosen, trained on all training patients, and scored on the test once, with all baselines.
    """
    from fedward.privacy.errors import UsageError
    from fedward.simulations.grid import parse_vary, settings
    from fedward.simulations.options import load_study
    from fedward.simulations.seeds import run_seeds
    from fedward.simulations.sources import read_sites
    from fedward.simulations.sweep import choose, validate
    from fedward.simulations.sweep_folder import SweepFolder
    from fedward.simulations.sweep_plots import draw_sweep

    manifest, options = load_study(study)
    varied = [parse_vary(text) for text in vary]
    found = settings(manifest, varied)
    fields = [one.field for one in varied]
    field = along or ("privacy.epsilon" if "privacy.epsilon" in fields else fields[0])
    if field not in fields:
        raise UsageError("--along is not varied", expected=" or ".join(fields), got=field)
    if any(name.split(".")[0] == "eligibility" for name in fields):
        raise UsageError(
            "eligibility is not varied: all settings have the same hospitals",
            remedy="run `fedward simulate` once for each demand",
        )
    source = read_sites(sites, manifest, partition)
    for line in source.left_out:
        note(line)
    hospitals = source.hospitals
    folder = None if out is None else SweepFolder.open(out, found, hospitals, engine.value, options)
    validated = validate(
        found,
        hospitals,
        range(seeds),
        engine.value,
        options,
        known=(lambda _setting, _seed: None) if folder is None else folder.known,
        keep=(lambda _setting, _seed, _area: None) if folder is None else folder.keep,
        tell=_progress(len(found) * seeds),
    )
    chosen = choose(validated, field)
    outcomes: dict[str, list[Outcome]] = {}
    for number, (value, one) in enumerate(chosen.items()):
        note(f"test {number + 1} of {len(chosen)}: {one.setting.name}, {seeds} seeds")
        place = None if folder is None else folder.chosen(value, one.setting)
        outcomes[value] = run_seeds(one.setting.manifest, hospitals, seeds, engine.value, options, place)
    summary = _summary(field, validated, chosen, outcomes)
    if folder is not None:
        folder.finish(validated, range(seeds), summary)
        tested = {value: (one.setting.manifest, outcomes[value]) for value, one in chosen.items()}
        draw_sweep(folder.path / "plots", field, tested)
    if as_json:
        print_json(summary)
    else:
        _show(field, validated, chosen, outcomes, out)


def _progress(number: int, every: float = 2.0) -> Callable[[str], None]:
    """Says how far validation is, and how long the rest of it will take, every so many seconds."""
    began = last = time.monotonic()
    done = 0

    def tell(line: str) -> None:
        nonlocal last, done
        done += 1
        now = time.monotonic()
        if now - last >= every or done == number:
            last = now
            note(f"{line}, {(now - began) / done * (number - done):.0f} s to go")

    return tell


def _summary(
    along: str,
    validated: Sequence[Validated],
    chosen: Mapping[str, Validated],
    outcomes: Mapping[str, Sequence[Outcome]],
) -> dict[str, object]:
    """For scripts: every setting on validation patients; for each value what was chosen, and its test."""
    from fedward.simulations.run_folder import plain, summary
    from fedward.simulations.scores import Summary

    def figures(one: Validated) -> dict[str, object]:
        found: Summary = one.summary
        return {
            "setting": dict(one.setting.values),
            "mean": plain(found.mean),
            "low": plain(found.low),
            "high": plain(found.high),
        }

    return {
        "along": along,
        "validation": [figures(one) for one in validated],
        "chosen": {
            value: {
                "setting": dict(one.setting.values),
                "privacy": privacy(one.setting.manifest),
                "test": summary(one.setting.manifest, outcomes[value]),
            }
            for value, one in chosen.items()
        },
    }


def _show(
    along: str,
    validated: Sequence[Validated],
    chosen: Mapping[str, Validated],
    outcomes: Mapping[str, Sequence[Outcome]],
    out: Path | None,
) -> None:
    from fedward.simulations.simulate import EVERYBODY, summarise

    best = sorted(validated, key=lambda one: one.mean, reverse=True)
    told = "" if len(best) <= MOST_ROWS else f" The best {MOST_ROWS} of {len(best)}."
    table(
        "AUROC on validation patients",
        ("setting", "mean (95%)", "one study"),
        [(one.setting.name, *cells(one.summary)) for one in best[:MOST_ROWS]],
        caption=f"Chosen by these alone: the best for each {along}.{told}",
    )
    models = ("federated", "alone, mean", "pooled")
    rows = []
    for value, one in chosen.items():
        by = {found.model: found for found in summarise(outcomes[value]) if found.slice == EVERYBODY}
        rows.append(
            (value, one.setting.without(along), *(short(by[model]) if model in by else "undefined" for model in models))
        )
    table(
        "AUROC on held-out patients (test), of what was chosen",
        (along, "best of the others", *models),
        rows,
        caption="The mean over seeds with its 95% interval. Nothing was chosen by these figures.",
    )
    for value in chosen:
        for said in failures(outcomes[value]):
            say(f"{along} = {value}: {said}")
    for said in dict.fromkeys(privacy_sentence(one.setting.manifest, along) for one in chosen.values()):
        say(said)
    if out is not None:
        say(f"Everything is kept in {out}; the same command goes on there.")
