"""What single hospitals gave away of their own metrics, as the record has it: signed, and taken in by `fedward coordinator share`.

Nothing of this is ever sent by a node (`study.site_metrics`): people at a hospital release a file and hand it over. A hospital
without one has not shared. Figures are of the model version that the hospital measured, and no ε covers them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.seen import named as told
from fedward.dashboard.federation.seen import others
from fedward.server.records import SharedMetrics
from fedward.study.manifest import Manifest
from fedward.study.shared_metrics import SiteFigures
from fedward.study.site_metrics import named

COLUMNS = ("hospital", "value", "low", "high", "alone", "patients", "version", "shown")


def by_site(
    look: Look, shared: Sequence[SharedMetrics], name: str = "auroc", slice_: str = "everybody"
) -> pd.DataFrame:
    """hospital, value, low, high, alone, patients, version, shown: "shared", "suppressed" or "not shared"; in the roster's order,
    of hospitals that are told by name.

    `alone` is the AUROC of the model that the hospital trained by itself, NaN where it gave none. The interval of an AUROC is
    Hanley & McNeil's (1982), from the two counts alone: the file has no more.
    """
    given = {one.site: one for one in shared}
    rows = [_row(look, site, given.get(site), name, slice_) for site in told(look)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unshared(look: Look) -> str:
    """What is said where no figure of a single hospital can be shown."""
    if not others(look):
        of = len(look.sites)
        return f"Not shared: none of the {of} hospitals has given its own metrics away, and the coordinator sees sums alone."
    own = f"Not shared: {words.listed(told(look))} has not given its own metrics away. " if told(look) else ""
    return f"{own}What other hospitals gave away is not shown to your role."


def _row(look: Look, site: str, one: SharedMetrics | None, name: str, slice_: str) -> tuple[object, ...]:
    if one is None or not isinstance(look.manifest, Manifest):
        return (site, *(math.nan,) * 6, "not shared")
    figures = SiteFigures.model_validate_json(one.figures)
    values = named(look.manifest, figures.values).get(slice_)
    alone = figures.auroc_alone if slice_ == "everybody" and name == "auroc" else None
    if values is None or name not in values:
        return (site, *(math.nan,) * 5, one.version, "suppressed")
    with_, without = values["positives"], values["negatives"]
    low, high = _hanley(values[name], with_, without) if name == "auroc" else (math.nan, math.nan)
    own = math.nan if alone is None else alone
    return (site, values[name], low, high, own, with_ + without, one.version, "shared")


def _hanley(area: float, with_: float, without: float) -> tuple[float, float]:
    """Hanley & McNeil 1982, eq. 1–2, on the scale of the AUROC, cut to [0, 1]."""
    if not (with_ > 0 and without > 0):
        return math.nan, math.nan
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (with_ - 1) * (first - area**2) + (without - 1) * (second - area**2)
    half = 1.96 * math.sqrt(max(spread, 0.0) / (with_ * without))
    return max(area - half, 0.0), min(area + half, 1.0)
