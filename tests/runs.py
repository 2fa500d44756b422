"""Simulated runs' folders: a real one of the heart study, and small ones whose every figure is written by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command import good

from fedward.study.heart import heart_folder
from fedward.study.manifest import load

Scores = Mapping[tuple[str, str], float | None]
"""AUROC by model and slice."""


def simulated(folder: Path, seeds: int = 3) -> Path:
    """What `fedward simulate` makes of the heart study."""
    good("simulate", "heart", "--seeds", seeds, "--out", folder)
    return folder


def broken_off(run: Path, folder: Path, seeds: Sequence[int]) -> Path:
    """A copy of a run that was broken off after these seeds, before its end."""
    shutil.copytree(run, folder)
    for name in ("scores.parquet", "rounds.parquet", "summary.json"):
        (folder / name).unlink()
    for file in (folder / "seeds").iterdir():
        if int(file.stem) not in seeds:
            file.unlink()
    return folder


def written(folder: Path, studies: Sequence[Scores], study: Mapping[str, str] | None = None, **files: Any) -> Path:
    """An unfinished run with these scores, 100 patients each; `study` changes the manifest's words, `files` replace others."""
    (folder / "seeds").mkdir(parents=True)
    manifest = json.loads(load(heart_folder() / "study.toml").canonical)
    manifest["study"] |= study or {}
    said = {
        "run": {"format": 2, "manifest": "ab", "patients": "cd", "engine": "stacked", "options": "ef"},
        "study": manifest,
        "simulation": {"threshold": 0.5, "adversaries": []},
        "environment": {"python": "3.11", "packages": {"numpy": "2"}},
    }
    for name, value in (said | files).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    for seed, areas in enumerate(studies):
        scores = [
            {"model": model, "slice": part, "patients": 100, "positives": 50, "auroc": area, "brier": 0.1}
            for (model, part), area in areas.items()
        ]
        failed = "it did not stay finite" if ("federated", "everybody") not in areas else ""
        curve = [0.5, areas.get(("federated", "everybody"))][: 1 if failed else 2]
        data = {"scores": scores, "curve": curve, "failure": failed, "attacks": []}
        (folder / "seeds" / f"{seed}.json").write_text(json.dumps(data))
    return folder
