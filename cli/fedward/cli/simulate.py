"""`fedward simulate`: the same study on one machine, over many seeds, before any hospital is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, note, print_json, say, table

if TYPE_CHECKING:
    from fedward.simulations.engines import EngineFactory
    from fedward.simulations.simulate import Outcome, Summary
    from fedward.study.manifest import Manifest


MOST_ROWS = 20
"""Hospitals that a table shows; `--json` and the folder have all."""


class EngineChoice(StrEnum):
    """Who computes the sites' updates."""

    STACKED = "stacked"
    LOOP = "loop"
    FLOWER = "flower"


def simulate(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            help="The study's TOML file, a folder with study.toml, or an example: heart, diabetes130, pneumonia.",
        ),
    ],
    sites: Annotated[
        str,
        typer.Option(
            metavar="heart|DIR|diabetes130:PATH|medmnist:PATH|synthetic:SITES:PATIENTS[:SHIFT]",
            help=(
                "The hospitals: a folder with NAME.csv and NAME.mapping.toml, the example's, your own download of Diabetes 130-US "
                "Hospitals or of a MedMNIST file, or made-up ones with a known truth."
            ),
        ),
    ] = "heart",
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Cut all patients anew: iid:N, labels:N:ALPHA, sizes:N:ALPHA, shift:N:COLUMN or column:COLUMN.",
        ),
    ] = None,
    engine: Annotated[
        EngineChoice,
        typer.Option(
            help="stacked: all sites at once, and the loop where a model cannot be stacked; loop: as a node trains; "
            "flower: the loop's code in the processes of Flower's Ray simulation."
        ),
    ] = EngineChoice.STACKED,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="For --engine flower: how many processes train; by default one a core."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="For --engine flower: a Ray cluster that this machine belongs to; all its cores train. "
            "Without it Ray is started here, on loopback.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Simulated studies, with seeds 0, 1, …")] = 20,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="A probability from here on is called positive, for gaps and attacks; 0.5, or as the study's file says."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep everything there; a run that was broken off goes on.")
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Simulate a study with its baselines: federated, each hospital alone, and the pool that privacy forbids.

    Each seed draws the held-out patients, the samples and the noise anew. AUROC is exact, on held-out patients. The data must be
    public or your own: seeded noise protects nobody.
    """
    from fedward.simulations.options import load_study
    from fedward.simulations.run_folder import summary
    from fedward.simulations.seeds import run_seeds
    from fedward.simulations.sources import read_sites

    manifest, options = load_study(study)
    options = options if threshold is None else options.with_threshold(threshold)
    source = read_sites(sites, manifest, partition)
    if source.said:
        note(source.said)
    for line in source.left_out:
        note(line)
    hospitals = source.hospitals
    with _engine(engine, len(hospitals), workers, ray_address) as factory:
        outcomes = run_seeds(manifest, hospitals, seeds, engine.value, options, out, _progress(seeds), factory)
    if as_json:
        told = {"study": manifest.study.id, "privacy": privacy(manifest), "not_eligible": sorted(source.not_eligible)}
        print_json(summary(manifest, outcomes) | told)
    else:
        _show(manifest, outcomes, out)


@contextmanager
def _engine(
    choice: EngineChoice, sites: int, workers: int | None, address: str | None
) -> Iterator[EngineFactory | None]:
    """What makes the sites of an engine that must be started; None where there is nothing to start."""
    from fedward.privacy.errors import UsageError

    if choice is not EngineChoice.FLOWER:
        if workers is not None or address is not None:
            raise UsageError("--workers and --ray-address are for Flower's engine", remedy="add --engine flower")
        yield None
        return
    from fedward.simulations.flower.engine import FlowerEngines

    with FlowerEngines(sites, workers=workers, address=address, tell=note) as engines:
        yield engines


def _progress(seeds: int, every: float = 2.0) -> Callable[[int, bool], None]:
    """Says how many seeds are done and how long the rest will take, every so many seconds."""
    began, last, ran = time.monotonic(), time.monotonic(), 0

    def tell(done: int, known: bool) -> None:
        nonlocal last, ran
        ran += not known
        now = time.monotonic()
        if now - last < every and done < seeds:
            return
        last = now
        left = (now - began) / ran * (seeds - done) if ran else 0.0
        note(f"seed {done} of {seeds}" + (f", {left:.0f} s to go" if done < seeds else f", {now - began:.0f} s"))

    return tell


def privacy_sentence(manifest: Manifest, along: str = "") -> str:
    """What a study promises, in a sentence; where ε itself is varied `along`, without its number."""
    said = privacy(manifest)
    if said["epsilon"] is None:
        return "The study trains without differential privacy."
    most = "of the setting" if along == "privacy.epsilon" else f"at most {said['epsilon']:g}"
    return f"ε {most} at δ = {said['delta']:g}, were it real: {said['meaning']}."


def privacy(manifest: Manifest) -> dict[str, object]:
    from fedward.study.terms import privacy_words

    privacy = manifest.privacy
    if privacy.epsilon is None:
        return {"epsilon": None, "meaning": "the study trains without differential privacy"}
    return {"epsilon": privacy.epsilon, "delta": privacy.delta, "meaning": privacy_words(manifest)}


def _show(manifest: Manifest, outcomes: Sequence[Outcome], out: Path | None) -> None:
    from fedward.simulations.simulate import EVERYBODY, attacked, gains, gaps, summarise

    found = summarise(outcomes)
    models = [one.model for one in found if one.slice == EVERYBODY]
    if len(models) > MOST_ROWS:
        models = [model for model in models if not model.startswith("alone:")]
    table(
        f"AUROC on held-out patients: {manifest.study.id}, {len(outcomes)} seeds",
        ("model", "mean (95%)", "one study"),
        [(model, *cells(one)) for model in models for one in found if (one.model, one.slice) == (model, EVERYBODY)],
        caption="The mean over seeds with its 95% interval; and the deviation from study to study.",
    )
    shown = [model for model in ("federated", "alone, mean", "pooled") if model in models]
    gained = sorted(gains(outcomes), key=lambda one: one.mean)
    told = "" if len(gained) <= MOST_ROWS else f"The {MOST_ROWS} of {len(gained)} hospitals that gain least."
    gained = gained[:MOST_ROWS]
    sites = {one.slice for one in gained} if told else set()
    parts = [
        part
        for part in dict.fromkeys(one.slice for one in found if one.slice != EVERYBODY)
        if not told or part in sites or not part.startswith("site=")
    ]
    by = {(one.model, one.slice): one for one in found}
    table(
        "By hospital and by group",
        ("held-out patients", "number", *shown),
        [(part, f"{by[shown[0], part].patients:.0f}", *(short(by[model, part]) for model in shown)) for part in parts],
    )
    table(
        "What a hospital gains over its own model, on its own patients",
        ("hospital", "AUROC gained (95%)", "one study"),
        [(one.slice.removeprefix("site="), *cells(one, sign="+")) for one in gained],
        caption=told or None,
    )
    _show_gaps(gaps(manifest, outcomes))
    _show_attacks(attacked(outcomes))
    for said in failures(outcomes):
        say(said)
    say(privacy_sentence(manifest))
    if out is not None:
        say(f"Everything is kept in {out}; the same command goes on there.")


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Why studies have no federated model, a sentence for each reason; their seeds are in no federated figure."""
    found: dict[str, list[int]] = {}
    for one in outcomes:
        if one.vector is None:
            found.setdefault(one.failure, []).append(one.seed)
    return [
        f"{len(seeds)} of {len(outcomes)} studies have no federated model and count in none of its figures (seeds "
        f"{', '.join(map(str, seeds[:10]))}{', …' if len(seeds) > 10 else ''}): {why}"
        + ("; lower the rates." if why.endswith("stay finite") else ".")
        for why, seeds in found.items()
    ]


def _show_gaps(found: Sequence[Summary]) -> None:
    """How far groups lie apart, a row for each attribute and kind."""
    models = [model for model in ("federated", "pooled") if any(one.model == model for one in found)]
    by = {(one.model, one.slice): one for one in found}
    if models:
        table(
            "Largest difference between groups",
            ("of", *models),
            [
                (part.replace("_", " "), *(short(by[model, part]) for model in models))
                for part in dict.fromkeys(one.slice for one in found)
            ],
            caption="A group without patients of an outcome is left out. Of noise alone gaps are above 0.",
        )


def _show_attacks(found: Sequence[Summary]) -> None:
    """What each adversary reached."""
    by = {(one.model, one.slice): one for one in found}
    if found:
        table(
            "What the adversaries reached",
            ("adversary", "success", "unattacked", "AUROC lost"),
            [
                (who, *(short(by[figure, who]) for figure in ("success", "unattacked", "auroc_drop")))
                for who in dict.fromkeys(one.slice for one in found)
            ],
            caption="Success is what docs/simulation.md says of each attack; AUROC is lost to all of them together.",
        )


def cells(one: Summary, sign: str = "") -> tuple[str, str]:
    if one.seeds == 0:
        return "undefined", ""
    if one.seeds == 1:
        return f"{one.mean:{sign}.3f}", ""
    return f"{one.mean:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})", f"± {one.deviation:.3f}"


def short(one: Summary) -> str:
    """Mean and interval in a narrow column."""
    if one.seeds < 2:
        return cells(one)[0]
    return f"{one.mean:.3f} ({one.low:.2f}-{one.high:.2f})"
