"""A simulated run on disk: one folder that says what was run, where, with which seeds, and what came out; it can go on.

run.json        what the run is: digests of manifest and patients, engine; a folder never mixes two
study.json      the manifest, in canonical form: a coordinator proposes the same
simulation.json the simulator's own options
environment.json  versions, platform
seeds/N.json    one study: every score and the curve; written last of a seed, so that it stands for a seed that is done
models/N.safetensors  its federated model
scores.parquet, rounds.parquet, summary.json, plots/*.svg   made of the above, again at every end
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedward.privacy.canonical import digest_of
from fedward.privacy.errors import InputError
from fedward.simulations.attack_success import AttackFigure
from fedward.simulations.options import PLAIN, Options
from fedward.simulations.simulate import Outcome, Score, attacked, gains, gaps, summarise
from fedward.study.encoding import Encoded
from fedward.study.files import write_atomic
from fedward.study.manifest import Manifest

FORMAT = 2


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path, self._identity = path, identity

    @classmethod
    def open(
        cls,
        path: Path,
        manifest: Manifest,
        hospitals: Mapping[str, Encoded],
        engine: str,
        options: Options = PLAIN,
    ) -> RunFolder:
        """Make the folder, or go on with one that holds the same run.

        Raises:
            InputError: it holds another run, or files of somebody else.
        """
        identity = {
            "format": FORMAT,
            "manifest": hashlib.sha256(manifest.canonical).hexdigest(),
            "patients": hospitals_digest(hospitals),
            "engine": engine,
            "options": digest_of(options.model_dump(mode="json")),
        }
        found = cls(path, identity)
        if (path / "run.json").exists():
            found._check()
        elif path.exists() and not unused(path, ("study.json", "simulation.json", "environment.json")):
            raise InputError(
                f"{path} holds other files", expected="a new or empty folder", remedy="choose another --out"
            )
        else:
            found._begin(manifest, options)
        return found

    def _check(self) -> None:
        try:
            known = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{self.path}/run.json cannot be read", remedy="choose another --out") from None
        if not isinstance(known, dict):
            raise InputError(f"{self.path}/run.json cannot be read", remedy="choose another --out")
        different = [name for name, value in self._identity.items() if known.get(name) != value]
        if different:
            raise InputError(
                f"{self.path} holds another run: its {' and '.join(different)} differ",
                remedy="choose another --out, or run what it was made with",
                code="another-run",
            )

    def _begin(self, manifest: Manifest, options: Options) -> None:
        for name in ("seeds", "models", "plots"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "study.json", manifest.canonical)
        write_atomic(self.path / "simulation.json", plain_json(options.model_dump(mode="json")))
        write_atomic(self.path / "environment.json", plain_json(environment()))
        write_atomic(self.path / "run.json", plain_json(self._identity))

    def done(self, seed: int) -> Outcome | None:
        """A seed's study, if it is done.

        Raises:
            InputError: its files cannot be read.
        """
        file = self.path / "seeds" / f"{seed}.json"
        if not file.exists():
            return None
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            scores = tuple(Score(**{name: _number(value) for name, value in one.items()}) for one in data["scores"])
            curve = tuple(float(_number(value)) for value in data["curve"])
            model = self.path / "models" / f"{seed}.safetensors"
            tensors = {} if data["failure"] else load_tensors(model.read_bytes())
            vector = None if data["failure"] else tensors["parameters"]
            attacks = tuple(
                AttackFigure(**{name: _number(value) for name, value in one.items()}) for one in data["attacks"]
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            raise InputError(f"{file} or its model cannot be read", remedy="delete it: the seed is run again") from None
        return Outcome(seed, scores, curve, vector, data["failure"], tensors.get("own"), attacks)

    def keep(self, outcome: Outcome) -> None:
        """Write a seed's study; the scores last."""
        if outcome.vector is not None:
            model = self.path / "models" / f"{outcome.seed}.safetensors"
            own = {} if outcome.own is None else {"own": np.ascontiguousarray(outcome.own)}
            write_atomic(model, save_tensors({"parameters": np.ascontiguousarray(outcome.vector)} | own))
        data = {
            "scores": [asdict(score) for score in outcome.scores],
            "curve": outcome.curve,
            "failure": outcome.failure,
            "attacks": [asdict(one) for one in outcome.attacks],
        }
        write_atomic(self.path / "seeds" / f"{outcome.seed}.json", plain_json(data))

    def finish(self, manifest: Manifest, outcomes: Sequence[Outcome]) -> None:
        """Write the tables of all seeds, and their summary."""
        score_table(outcomes).to_parquet(self.path / "scores.parquet", index=False)
        round_table(outcomes).to_parquet(self.path / "rounds.parquet", index=False)
        write_atomic(self.path / "summary.json", plain_json(summary(manifest, outcomes)))


def unused(path: Path, known: tuple[str, ...] = ()) -> bool:
    """Whether a folder is empty but for what is there when its making is broken off: these files, parts of them, empty folders."""
    return path.is_dir() and all(
        not any(part.iterdir()) if part.is_dir() else part.name in known or part.name.startswith(".")
        for part in path.iterdir()
    )


def score_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every score of every seed, a row each."""
    return pd.DataFrame([{"seed": one.seed, **asdict(score)} for one in outcomes for score in one.scores])


def round_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The federated model's AUROC by seed and round."""
    rows = [(one.seed, number, area) for one in outcomes for number, area in enumerate(one.curve)]
    return pd.DataFrame(rows, columns=["seed", "round", "auroc"])


def summary(manifest: Manifest, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What came out, for scripts: seeds, AUROC by model and slice, gains by hospital, gaps between groups, attacks."""
    return {
        "seeds": [one.seed for one in outcomes],
        "diverged": [one.seed for one in outcomes if one.vector is None],
        "auroc": [plain(asdict(one)) for one in summarise(outcomes)],
        "gain_over_own_model": [plain(asdict(one)) for one in gains(outcomes)],
        "fairness_gap": [plain(asdict(one)) for one in gaps(manifest, outcomes)],
        "attacks": [plain(asdict(one)) for one in attacked(outcomes)],
    }


def environment() -> dict[str, object]:
    """What the numbers may depend on beside manifest, patients and seed."""
    packages = ("fedward", "numpy", "torch", "opacus", "pandas", "scipy", "cryptography")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in packages},
    }


def hospitals_digest(hospitals: Mapping[str, Encoded]) -> str:
    """A name of all hospitals' patients, as the model sees them."""
    return digest_of(
        {
            site: [
                hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
                for part in (data.inputs, data.outcomes, data.membership)
            ]
            + [digest_of(list(data.patients))]
            for site, data in hospitals.items()
        }
    )


def plain_json(data: object) -> bytes:
    """JSON with null for what is no number: NaN is none in JSON."""
    return json.dumps(plain(data), indent=1, allow_nan=False).encode() + b"\n"


def plain(data: object) -> object:
    """The same with None for what is no number."""
    if isinstance(data, float):
        return data if np.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(name): plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return data


def _number(value: Any) -> Any:
    return float("nan") if value is None else value
