"""A simulated run's folder, read as it stands: finished, running or broken off. Nothing is written.

What `fedward.simulations.run_folder` writes is read here anew, as data: the monitor needs neither torch nor the simulator.
While seeds are being simulated their own files speak; once the run's tables hold every seed, the tables do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from fedward.privacy.errors import FedwardError, InputError
from fedward.study.manifest import Manifest, parse

FORMAT = 2
SCORES = ("seed", "model", "slice", "patients", "positives", "auroc", "brier")
CURVE = ("seed", "round", "auroc")
_SAID = ("study", "environment", "simulation")
"""Files that say what was run; the first thing that a run writes."""

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """What a run's folder says.

    Attributes:
        path: the folder.
        identity: run.json: format, engine, digests of manifest, patients and options.
        study: study.json, the manifest in canonical form.
        environment: environment.json.
        options: simulation.json, the simulator's own.
        scores: columns SCORES, a row for each seed, model and slice; NaN is undefined.
        curve: columns CURVE; round 0 is the model before the first round.
        seeds: those that are done.
        diverged: those of them that have no federated model.
        finished: whether the run's end was written after its last seed.
        summary: summary.json of a finished run, else empty.
    """

    path: Path
    identity: Mapping[str, Any]
    study: Mapping[str, Any]
    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    scores: pd.DataFrame
    curve: pd.DataFrame
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    finished: bool
    summary: Mapping[str, Any]

    def manifest(self) -> Manifest | None:
        """The study; None where this version of Fedward does not know its form."""
        try:
            return parse(dict(self.study), "study.json")
        except FedwardError:
            return None


def check(path: Path) -> None:
    """
    Raises:
        InputError: the path is no simulated run's folder; the message says what it is instead.
    """
    if (path / "run.json").is_file():
        return
    if (path / "federation.json").is_file():
        raise InputError(
            f"{path} is a coordinator's home, and not a simulated run's folder",
            remedy=f"fedward monitor --store {path}",
            code="not-a-run",
        )
    if (path / "sweep.json").is_file():
        raise InputError(
            f"{path} is a sweep's folder: the monitor shows runs of one study",
            remedy=f"fedward monitor {path}/chosen/VALUE, once the sweep has chosen; its plots are in {path}/plots",
            code="not-a-run",
        )
    raise InputError(
        f"{path} is not a run's folder",
        expected="a folder that `fedward simulate` made, with run.json in it",
        got="no such folder" if not path.exists() else ("a folder without run.json" if path.is_dir() else "a file"),
        remedy=f"fedward simulate STUDY --out {path}"
        if not path.exists()
        else "name a folder given to `fedward simulate --out`",
        code="not-a-run",
    )


def stamp(path: Path) -> Stamp:
    """Changes whenever the folder's results do; costs a few looks at the file system whatever the run's size."""
    names = ("run.json", "seeds", "scores.parquet", "rounds.parquet", "summary.json")
    return tuple((path / name).stat().st_mtime_ns if (path / name).exists() else 0 for name in names)


def read(path: Path) -> Record:
    """
    Raises:
        InputError: no run's folder, one of another version, or a file that cannot be read, with what helps.
    """
    check(path)
    identity = _object(path / "run.json")
    if identity.get("format") != FORMAT:
        raise InputError(
            f"{path} is of another version of Fedward",
            expected=f"format {FORMAT}",
            got=f"format {identity.get('format')}"[:40],
            remedy="open it with the version in its environment.json",
        )
    study, environment, options = (_object(path / f"{name}.json") for name in _SAID)
    seeds = sorted(int(file.stem) for file in (path / "seeds").glob("*.json") if file.stem.isdecimal())
    summary = _object(path / "summary.json") if (path / "summary.json").exists() else {}
    told = [int(seed) for seed in _numbers(summary.get("seeds"))]
    if summary and set(told) >= set(seeds):
        diverged = tuple(int(seed) for seed in _numbers(summary.get("diverged")))
        scores, curve = _table(path / "scores.parquet", SCORES), _table(path / "rounds.parquet", CURVE)
        return Record(path, identity, study, environment, options, scores, curve, tuple(told), diverged, True, summary)
    scores, curve, diverged = _of_seeds([path / "seeds" / f"{seed}.json" for seed in seeds])
    return Record(path, identity, study, environment, options, scores, curve, tuple(seeds), diverged, False, {})


def _of_seeds(files: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame, tuple[int, ...]]:
    """Scores, curve and diverged seeds of the seeds' own files."""
    found = [_of_seed(file, _changed(file)) for file in files]
    scores = pd.concat([_empty(SCORES), *(one for one, _, _ in found)], ignore_index=True)
    curve = pd.concat([_empty(CURVE), *(one for _, one, _ in found)], ignore_index=True)
    return scores, curve, tuple(int(file.stem) for file, (_, _, failed) in zip(files, found, strict=True) if failed)


@lru_cache(maxsize=256)
def _of_seed(file: Path, changed: int) -> tuple[pd.DataFrame, pd.DataFrame, bool]:  # noqa: ARG001 - the cache's key
    """A seed's scores and curve, and whether its study diverged; a file that stays is read once."""
    seed, data = int(file.stem), _object(file)
    try:
        scores = [{"seed": seed, **{name: one[name] for name in SCORES[1:]}} for one in data["scores"]]
        curve = [{"seed": seed, "round": number, "auroc": area} for number, area in enumerate(data["curve"])]
        failed = bool(data["failure"])
    except (KeyError, TypeError):
        raise _unreadable(file) from None
    return _typed(pd.DataFrame(scores, columns=list(SCORES))), _typed(pd.DataFrame(curve, columns=list(CURVE))), failed


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        raise _unreadable(file) from None


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return _typed(pd.DataFrame(columns=list(columns)))


def _table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        return _typed(pd.read_parquet(file, columns=list(columns)))
    except (OSError, ValueError, KeyError, NotImplementedError):  # most of pyarrow's errors are ValueErrors
        raise _unreadable(file) from None


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as numbers, None as NaN, names as text."""
    for name in frame.columns:
        frame[name] = (
            frame[name].astype(str) if name in {"model", "slice"} else pd.to_numeric(frame[name], errors="coerce")
        )
    return frame


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise _unreadable(file) from None
    if not isinstance(found, dict):
        raise _unreadable(file)
    return found


def _numbers(found: object) -> list[int]:
    return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []


def _unreadable(file: Path) -> InputError:
    if file.stem in {"run", *_SAID}:
        remedy = "restore it, or simulate into a new folder: fedward simulate STUDY --out DIR"
    elif file.parent.name == "seeds":
        remedy = f"delete it and run the same fedward simulate again: seed {file.stem} is then made anew"
    else:
        remedy = "run the same fedward simulate again: it writes this file from the seeds that are done"
    return InputError(f"{file} cannot be read", remedy=remedy, code="unreadable")
