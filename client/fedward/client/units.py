"""Numbers in another unit than the study's: the commonest mistake of an export, and one that bounds do not always catch.

A column is suspected when its median, multiplied by the factor of a known pair of units, lies where the study or
the last registration says that it should. What is said is the factor and the units, for a person to judge: nothing
is ever converted by a guess. Factors are those of the SI tables of clinical chemistry (mmol/L and mg/dL differ by a
molar mass / 10).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.study.manifest import NumericFeature

NEAR = 0.15
"""How close a converted median must come to the last registration's, relative to it."""
FAR = 0.5
"""How far the median itself must be from it, before another unit is thought of."""


class Factor(NamedTuple):
    """`value × factor` in the study's unit, if the source has the unit `source`."""

    factor: float
    source: str


_CHOLESTEROL, _GLUCOSE, _TRIGLYCERIDES, _CREATININE, _BILIRUBIN, _UREA = 38.67, 18.016, 88.57, 88.42, 17.1, 6.006
_FACTORS: dict[str, tuple[Factor, ...]] = {
    "mg/dl": (
        Factor(_CHOLESTEROL, "mmol/L (cholesterol)"),
        Factor(_GLUCOSE, "mmol/L (glucose)"),
        Factor(_TRIGLYCERIDES, "mmol/L (triglycerides)"),
        Factor(_UREA, "mmol/L (urea)"),
        Factor(1 / _CREATININE, "µmol/L (creatinine)"),
        Factor(1 / _BILIRUBIN, "µmol/L (bilirubin)"),
        Factor(100.0, "g/L"),
        Factor(0.1, "mg/L"),
    ),
    "mmol/l": (
        Factor(1 / _CHOLESTEROL, "mg/dL (cholesterol)"),
        Factor(1 / _GLUCOSE, "mg/dL (glucose)"),
        Factor(1 / _TRIGLYCERIDES, "mg/dL (triglycerides)"),
        Factor(1 / _UREA, "mg/dL (urea)"),
    ),
    "umol/l": (
        Factor(_CREATININE, "mg/dL (creatinine)"),
        Factor(_BILIRUBIN, "mg/dL (bilirubin)"),
        Factor(1000.0, "mmol/L"),
    ),
    "g/dl": (Factor(0.1, "g/L"), Factor(1.611, "mmol/L (haemoglobin)")),
    "g/l": (Factor(10.0, "g/dL"), Factor(16.11, "mmol/L (haemoglobin)")),
    "mmhg": (Factor(7.50062, "kPa"), Factor(10.0, "cm Hg")),
    "years": (Factor(1 / 12, "months"), Factor(1 / 365.25, "days")),
    "kg": (Factor(0.453592, "pounds"), Factor(0.001, "g")),
    "cm": (Factor(100.0, "m"), Factor(2.54, "inches"), Factor(0.1, "mm")),
    "m": (Factor(0.01, "cm"), Factor(0.0254, "inches")),
    "mm": (Factor(10.0, "cm"), Factor(25.4, "inches")),
    "%": (Factor(100.0, "a share of 1"),),
    "mv": (Factor(0.1, "mm"), Factor(0.001, "µV")),
}
_SPELLINGS = {"year": "years", "yr": "years", "a": "years", "µmol/l": "umol/l", "μmol/l": "umol/l", "mm[hg]": "mmhg"}
_ANY_UNIT = (Factor(10.0, "a tenth of it"), Factor(0.1, "ten times it"), Factor(1000.0, "a thousandth of it"),
             Factor(0.001, "a thousand times it"))  # fmt: skip


def factors(unit: str) -> tuple[Factor, ...]:
    """What the source's unit might be, where a study's unit is known; powers of ten for any other."""
    plain = unit.lower().replace(" ", "")
    return _FACTORS.get(_SPELLINGS.get(plain, plain), _ANY_UNIT)


def suspects(feature: NumericFeature, median: float, before: float | None) -> list[Factor]:
    """Units in which the source may have this column, the likeliest first; none if the median is where it should be.

    Args:
        feature: the study's column.
        median: of the values before they were clipped, in what the mapping makes the study's unit.
        before: the last registration's median, if there is one.
    """
    if before is not None and before != 0:
        if not abs(median - before) > FAR * abs(before):
            return []
        off = [(abs(median * one.factor - before) / abs(before), one) for one in factors(feature.unit)]
        return _named_first(feature, [one for distance, one in sorted(off) if distance <= NEAR])
    low, high = feature.bounds
    if low <= median <= high:
        return []
    # Several may; the table has the commonest first.
    inside = [one for one in factors(feature.unit) if low < median * one.factor < high]
    return _named_first(feature, inside)


def _named_first(feature: NumericFeature, found: list[Factor]) -> list[Factor]:
    """A factor of the substance that the column is named after is likelier than any other."""
    name = f"{feature.column} {feature.description}".lower()
    return sorted(found, key=lambda one: "(" not in one.source or one.source.split("(")[1][:4] not in name)


def unit_words(found: list[Factor]) -> str:
    """What to tell a data manager of the suspects: `perhaps it is in mmol/L (cholesterol): set scale = 38.67`."""
    return ", or ".join(f"in {one.source}: scale = {one.factor:.6g}" for one in found[:3])


def unit_hint(feature: NumericFeature, values: NDArray[np.float64]) -> str:
    """What may be said of a column's values, NaN for missing, before they are clipped: factors and units, no value.

    Those out of bounds are held against those within; where most are out, against the bounds.
    """
    low, high = feature.bounds
    known = values[~np.isnan(values)]
    within = (known >= low) & (known <= high)
    outside = known[~within]
    if not outside.size:
        return ""
    usual = float(np.median(known[within])) if 2 * outside.size <= known.size else None
    found = suspects(feature, float(np.median(outside)), usual)
    if not found:
        return ""
    return f"{feature.column}: the values out of bounds may be {unit_words(found)}"
