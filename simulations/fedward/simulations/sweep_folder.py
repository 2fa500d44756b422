"""A sweep on disk; it goes on where it was broken off.

sweep.json            what it is: digests of settings and patients, engine, options; the field along which settings are chosen
validation.jsonl      a line for each setting and seed, as it was found
validation.parquet    the same as a table
chosen/VALUE/         the chosen studies, each a run's folder
summary.json, plots/*.svg
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fedward.privacy.canonical import digest_of
from fedward.privacy.errors import InputError
from fedward.simulations.engines import EngineName
from fedward.simulations.grid import Setting
from fedward.simulations.options import Options
from fedward.simulations.run_folder import hospitals_digest, plain_json
from fedward.simulations.sweep import Validated
from fedward.study.encoding import Encoded
from fedward.study.files import write_atomic

FORMAT = 1


class SweepFolder:
    """One sweep's folder."""

    def __init__(self, path: Path, known: dict[tuple[str, int], float]) -> None:
        self.path, self._known = path, known

    @classmethod
    def open(
        cls,
        path: Path,
        found: Sequence[Setting],
        hospitals: Mapping[str, Encoded],
        engine: EngineName,
        options: Options,
    ) -> SweepFolder:
        """Make the folder, or go on with one that holds the same sweep; seeds may be more or fewer.

        Raises:
            InputError: it holds another sweep, other files, or lines that cannot be read.
        """
        identity = {
            "format": FORMAT,
            "settings": digest_of([_key(setting) for setting in found]),
            "patients": hospitals_digest(hospitals),
            "engine": engine,
            "options": digest_of(options.model_dump(mode="json")),
        }
        file = path / "sweep.json"
        if file.exists():
            try:
                same = json.loads(file.read_text(encoding="utf-8")) == identity
            except (OSError, ValueError):
                raise InputError(f"{file} cannot be read", remedy="choose another --out") from None
            if not same:
                raise InputError(f"{path} holds another sweep", remedy="choose another --out", code="another-run")
        elif path.exists() and any(path.iterdir()):
            raise InputError(
                f"{path} holds other files", expected="a new or empty folder", remedy="choose another --out"
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_atomic(file, plain_json(identity))
        return cls(path, _read(path / "validation.jsonl"))

    def known(self, setting: Setting, seed: int) -> float | None:
        """What an earlier run found."""
        return self._known.get((_key(setting), seed))

    def keep(self, setting: Setting, seed: int, area: float) -> None:
        """Add a figure; it is on disk when this returns."""
        line = json.dumps({"setting": _key(setting), "seed": seed, "auroc": None if math.isnan(area) else area})
        with (self.path / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def chosen(self, value: str) -> Path:
        """The folder of what was chosen for a value."""
        return self.path / "chosen" / re.sub(r"[^A-Za-z0-9._-]+", "-", value)

    def finish(self, validated: Sequence[Validated], seeds: Sequence[int], summary: Mapping[str, object]) -> None:
        """Write the table of validation figures, and the summary."""
        rows = [
            {**one.setting.values, "seed": seed, "auroc": area}
            for one in validated
            for seed, area in zip(seeds, one.areas, strict=True)
        ]
        pd.DataFrame(rows).to_parquet(self.path / "validation.parquet", index=False)
        write_atomic(self.path / "summary.json", plain_json(summary))


def _key(setting: Setting) -> str:
    return digest_of(setting.manifest.model_dump(mode="json"))


def _read(file: Path) -> dict[tuple[str, int], float]:
    """A line that a kill left unfinished is the last one, and left out."""
    if not file.exists():
        return {}
    found = {}
    text = file.read_text(encoding="utf-8")
    whole, _, rest = text.rpartition("\n")
    if rest:
        write_atomic(file, (whole + "\n" if whole else "").encode())
    for line in whole.splitlines():
        try:
            data = json.loads(line)
            area = data["auroc"]
            found[str(data["setting"]), int(data["seed"])] = math.nan if area is None else float(area)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file} cannot be read", remedy="delete it: its figures are found again") from None
    return found
