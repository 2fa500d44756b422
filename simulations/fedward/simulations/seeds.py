"""The seeds of a run, one study after the other, kept and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedward.simulations.engines import EngineFactory, EngineName
from fedward.simulations.options import PLAIN, Options
from fedward.simulations.plots import draw
from fedward.simulations.run_folder import RunFolder
from fedward.simulations.simulate import Outcome, study
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest

Progress = Callable[[int, bool], None]
"""Told how many seeds are done, and whether the last one was known already."""


def run_seeds(
    manifest: Manifest,
    hospitals: Mapping[str, Encoded],
    seeds: int,
    engine_name: EngineName = "stacked",
    options: Options = PLAIN,
    out: Path | None = None,
    tell: Progress = lambda _done, _known: None,
    factory: EngineFactory | None = None,
) -> list[Outcome]:
    """Simulate a study with seeds 0, 1, …; with a folder everything is kept there, and a run that was broken off goes on.

    Args:
        manifest: the study.
        hospitals: every hospital's patients.
        seeds: how many.
        engine_name: who computes the sites' updates.
        options: of the simulation alone.
        out: the run's folder.
        tell: hears of each seed.
        factory: what makes the sites of an engine that was started before, such as Flower's; its name is then only kept.

    Raises:
        InputError: as `simulate.study` and `RunFolder.open`.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
        UnreachableError: the workers of a started engine are lost.
    """
    folder = None if out is None else RunFolder.open(out, manifest, hospitals, engine_name, options)
    outcomes: list[Outcome] = []
    for seed in range(seeds):
        known = None if folder is None else folder.done(seed)
        outcome = known or study(manifest, hospitals, seed, factory or engine_name, options=options)
        if folder is not None and known is None:
            folder.keep(outcome)
        outcomes.append(outcome)
        tell(seed + 1, known is not None)
    if folder is not None:
        folder.finish(manifest, outcomes)
        draw(folder.path / "plots", manifest, outcomes)
    return outcomes
