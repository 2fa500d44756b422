"""What hospitals gave away of their own metrics: files of `fedward site metrics --release`, in the folder `site-metrics`.

Nothing of this is ever sent by a node (`study.site_metrics`): people there release a file and hand it over, and a coordinator's
person puts it into the folder. Whoever is without one has not shared. The reading of the files is IO; what they say is checked as
what a stranger wrote.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from fedward.dashboard.federation.reading import Look
from fedward.study.manifest import Manifest
from fedward.study.metrics import slice_names
from fedward.study.site_metrics import METRICS

FOLDER: Final = "site-metrics"
MOST_BYTES: Final = 200_000
MOST_FILES: Final = 2000


@dataclass(frozen=True)
class Given:
    """One hospital's file. `slices` is slice → metric → value, None where the slice is suppressed."""

    site: str
    round: int
    slices: dict[str, dict[str, float] | None]


def read(folder: Path, look: Look) -> tuple[dict[str, Given], tuple[str, ...]]:
    """By site, what was given of this study; and the names of files that cannot be used."""
    found: dict[str, Given] = {}
    bad: list[str] = []
    for path in sorted(folder.glob("*.json"))[:MOST_FILES] if folder.is_dir() else ():
        given = _read(path, look)
        if given is None:
            bad.append(path.name)
        elif given is not _OTHER and (given.site not in found or found[given.site].round < given.round):
            found[given.site] = given
    return found, tuple(bad)


_OTHER: Final = Given("", 0, {})
"""A file of another study."""


def _read(path: Path, look: Look) -> Given | None:
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return _given(data, look) if data.get("digest") == look.study.digest else _OTHER


def _given(data: dict[str, Any], look: Look) -> Given | None:
    site, round_, slices = data.get("site"), data.get("round"), data.get("slices")
    if not isinstance(look.manifest, Manifest) or site not in look.sites:
        return None
    if type(round_) is not int or not isinstance(slices, dict) or set(slices) != set(slice_names(look.manifest)):
        return None
    return Given(str(site), round_, slices) if all(_whole(one) for one in slices.values()) else None


def _whole(values: Any) -> bool:
    """Whether a slice is suppressed, or has values of its metrics within their ranges."""
    if values is None:
        return True
    if not isinstance(values, dict) or not set(values) <= set(METRICS):
        return False
    return all(
        type(value) in {int, float} and math.isfinite(value) and METRICS[name].low <= value <= METRICS[name].high
        for name, value in values.items()
    )


def by_site(look: Look, given: dict[str, Given], name: str = "auroc", slice_: str = "everybody") -> pd.DataFrame:
    """hospital, value, low, high, patients, shown: "shared", "suppressed" or "not shared"; in the roster's order.

    The interval of an AUROC is Hanley & McNeil's (1982), from the two counts alone: the file has no more.
    """
    rows = []
    for site in look.sites:
        one = given.get(site)
        values = None if one is None else one.slices[slice_]
        if values is None or name not in values:
            rows.append((site, math.nan, math.nan, math.nan, math.nan, "not shared" if one is None else "suppressed"))
            continue
        with_, without = values.get("positives", 0), values.get("negatives", 0)
        low, high = _hanley(values[name], with_, without) if name == "auroc" else (math.nan, math.nan)
        rows.append((site, values[name], low, high, with_ + without, "shared"))
    return pd.DataFrame(rows, columns=["hospital", "value", "low", "high", "patients", "shown"])


def _hanley(area: float, with_: float, without: float) -> tuple[float, float]:
    """Hanley & McNeil 1982, eq. 1–2, on the scale of the AUROC, cut to [0, 1]."""
    if not (with_ > 0 and without > 0):
        return math.nan, math.nan
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (with_ - 1) * (first - area**2) + (without - 1) * (second - area**2)
    half = 1.96 * math.sqrt(max(spread, 0.0) / (with_ * without))
    return max(area - half, 0.0), min(area + half, 1.0)
