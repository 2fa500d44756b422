"""What differs between two sealed or drafted studies, field by field, in words.

`changes` tells an approver what is new since a version; `differences` sets two studies side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from fedward.privacy.signing import fingerprint
from fedward.study.kinds import AnyManifest, AnySealed
from fedward.study.manifest import RosterEntry

_WORDS: Final = MappingProxyType(
    {
        "training.rounds": "rounds",
        "training.algorithm": "algorithm",
        "training.aggregation": "how the sites' updates are combined",
        "training.byzantine": "sites that may send anything",
        "training.local_steps": "steps at a site in a round",
        "training.sampling_rate": "share of the patients in a step",
        "training.holdout": "share of the patients that only test",
        "model.name": "model",
        "model.start": "model that it starts from",
        "privacy.epsilon": "ε of a patient",
        "privacy.delta": "δ",
        "privacy.mechanism": "differential privacy",
        "privacy.noise": "whose noise protects",
        "privacy.clipping_norm": "clipping norm",
        "privacy.spare_attempts": "spare attempts",
        "privacy.secure_aggregation": "secure aggregation",
        "privacy.colluders": "sites that may collude",
        "evaluation.noise": "noise on counts of held-out patients",
        "evaluation.epsilon": "ε of a held-out patient",
        "evaluation.every": "rounds between evaluations",
        "evaluation.influence": "votes of held-out patients for a feature",
        "federation.quorum": "quorum",
        "outcome.column": "what it predicts",
        "study.title": "title",
        "study.description": "description",
        "fairness.groups": "groups that it compares",
        "fairness.intersections": "groups that it crosses",
        "eligibility": "what it demands of a hospital's patients",
        "eligibility.min_patients": "patients that it demands of a hospital",
        "eligibility.min_positive": "patients with the outcome that it demands of a hospital",
        "eligibility.min_negative": "patients without the outcome that it demands of a hospital",
        "eligibility.groups": "group sizes that it demands of a hospital",
        "queries": "questions",
        "expires_at": "expiry",
    }
)
_SAID: Final = ("before", "now")
"""How the two sides are told of where they are versions of one study."""


def changes(old: AnySealed, new: AnySealed) -> list[str]:
    """Each difference as a sentence's rest: `rounds: 10 before, 15 now`."""
    was, is_ = ({**side.model_dump(mode="json"), "expires_at": _day(side.expires_at)} for side in (old, new))
    ignored = {"sealed_at", "format", "kind", "federation_id", "coordinator_key", "roster"}
    found = list(_roster(old.roster, new.roster))
    found += _features(was["manifest"].pop("features"), is_["manifest"].pop("features"))
    found += _fields(was.pop("manifest"), is_.pop("manifest"), "")
    rest = [{name: value for name, value in side.items() if name not in ignored} for side in (was, is_)]
    return found + list(_fields(rest[0], rest[1], ""))


def differences(a: AnyManifest, b: AnyManifest) -> list[str]:
    """Each difference of two manifests as a sentence's rest: `rounds: 10 in A, 15 in B`. An id is no difference."""
    one, other = (side.model_dump(mode="json") for side in (a, b))
    for side in (one, other):
        side["study"].pop("id")
    said = ("in A", "in B")
    return [*_features(one.pop("features"), other.pop("features"), said), *_fields(one, other, "", said)]


def _roster(old: tuple[RosterEntry, ...], new: tuple[RosterEntry, ...]) -> Iterator[str]:
    before, now = ({entry.site: entry for entry in side} for side in (old, new))
    for site in sorted(before.keys() - now.keys()):
        yield f"roster: {site} takes part no more"
    for site in sorted(now.keys() - before.keys()):
        yield f"roster: {site} is new, with the key {fingerprint(now[site].identity_key)}"
    for site in sorted(now.keys() & before.keys()):
        if before[site].identity_key != now[site].identity_key:
            yield (
                f"roster: {site} HAS ANOTHER KEY: {fingerprint(before[site].identity_key)} before, "
                f"{fingerprint(now[site].identity_key)} now; ask that hospital by telephone"
            )
        if before[site].declared_patients != now[site].declared_patients:
            counts = (before[site].declared_patients, now[site].declared_patients)
            yield f"roster: {site} had about {counts[0]} patients, now about {counts[1]}"
        if before[site].noise_multiplier != now[site].noise_multiplier:
            noise = (before[site].noise_multiplier, now[site].noise_multiplier)
            yield f"roster: {site} added noise σ = {noise[0]:g} before, {noise[1]:g} now"


def _features(
    old: list[Mapping[str, Any]], new: list[Mapping[str, Any]], said: tuple[str, str] = _SAID
) -> Iterator[str]:
    versions = said == _SAID
    before, now = ({one["column"]: one for one in side} for side in (old, new))
    for column in sorted(before.keys() - now.keys()):
        yield f"features: {column} is {'used no more' if versions else f'only {said[0]}'}"
    for column in [column for column in now if column not in before]:
        yield f"features: {column} is {'new' if versions else f'only {said[1]}'}"
    for column in [column for column in now if column in before and before[column] != now[column]]:
        parts = sorted(
            name for name in {*before[column], *now[column]} if before[column].get(name) != now[column].get(name)
        )
        told = "; ".join(
            f"{name} {_shown(before[column].get(name))} {said[0]}, {_shown(now[column].get(name))} {said[1]}"
            for name in parts
        )
        yield f"features: {column} has another {told}"


def _fields(old: Any, new: Any, where: str, said: tuple[str, str] = _SAID) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _fields(old.get(name), new.get(name), f"{where}.{name}" if where else name, said)
        return
    yield f"{_WORDS.get(where, where)}: {_shown(old)} {said[0]}, {_shown(new)} {said[1]}"


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        parts = (" & ".join(map(_shown, one)) if isinstance(one, list) else _shown(one) for one in value)
        return ", ".join(parts) or "none"
    if isinstance(value, dict):
        return " ".join(f"{name} {_shown(one)}" for name, one in value.items() if one is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)
