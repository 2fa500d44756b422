"""Studies that demand something of a hospital's patients, and the same study proposed again with another demand."""

from __future__ import annotations

from typing import Any

from federation import heart_manifest
from hospital import Site

from fedward.privacy.canonical import canonical_json
from fedward.study.manifest import Manifest, SealedManifest, parse

FAILING: dict[str, dict[str, Any]] = {
    "patients": {"min_patients": 210},
    "positive": {"min_positive": 150},
    "negative": {"min_negative": 60},
    "level": {"groups": [{"column": "sex", "min_patients": 10}]},
    "levels": {"groups": [{"column": "age", "min_patients": 40, "min_levels": 3}]},
    "everything": {"min_patients": 10_000, "min_positive": 10_000, "min_negative": 10_000},
}
"""Demands that the hospital `va` does not meet, each by another of its counts: 200 patients, 149 of them with the outcome, 6 women,
age bands of 19, 139 and 42."""
JUST_MET: dict[str, Any] = {
    "min_patients": 200,
    "min_positive": 140,
    "min_negative": 50,
    "groups": [
        {"column": "sex", "min_patients": 190, "min_levels": 1},
        {"column": "age", "min_patients": 40, "min_levels": 2},
    ],
}
"""What `va` just meets."""


def demanding(demand: dict[str, Any] | None, **changes: Any) -> Manifest:
    """The heart study with that demand."""
    return parse(heart_manifest(**changes).model_dump(mode="json") | {"eligibility": demand})


def proposal(site: Site, demand: dict[str, Any] | None, seconds: int = 60) -> SealedManifest:
    """The site's study, sealed by its coordinator so many seconds later, with that demand; not offered yet."""
    data = site.sealed.model_dump(mode="json")
    data["manifest"]["eligibility"] = demand
    data["sealed_at"] += seconds
    return SealedManifest.model_validate_json(canonical_json(data))
