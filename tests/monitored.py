"""A coordinator's record with all that the monitor shows: two studies that real nodes took part in, absences, a missed quorum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from federation import Federation, heart_manifest
from histories import after, lived

from fedward.server.records import MetricRow
from fedward.study.manifest import Manifest, parse

PILOT, STUDY = "heart-pilot", "heart-4-hospitals"
SECONDS = {"cleveland": 0.6, "hungarian": 0.5, "switzerland": 0.4, "va": 1.9}
"""How long each hospital's answer takes, by the test's clock."""


def manifest(name: str, title: str, rounds: int) -> Manifest:
    """The heart study under another name, without an evaluation but at its end."""
    data = heart_manifest(training={"rounds": rounds}, privacy={"spare_attempts": 1}).model_dump(mode="json")
    data["study"] |= {"id": name, "title": title}
    return parse(data)


def study() -> Manifest:
    gates = {"min_auroc": 0.8, "max_equalized_odds_gap": 0.2, "max_site_drop": 0.05}
    return heart_manifest(training={"rounds": 5}, privacy={"spare_attempts": 4}, evaluation={"every": 1}, gates=gates)


def monitored(folder: Path) -> Federation:
    """The pilot, then a study of five rounds: VA is away in round 2, VA and Cleveland at the first attempt of round 4."""
    federation = Federation(folder)
    federation.transport.tamper = lambda site, reply: (_took(federation, site), reply)[1]
    federation.ready(manifest(PILOT, "Pilot: coronary disease in two rounds", rounds=2))
    lived(federation)
    federation.ready(study())
    offline = federation.transport.offline
    ears = [
        after(1, lambda: offline.add("va")),
        after(2, lambda: offline.discard("va")),
        after(3, lambda: offline.update({"va", "cleveland"})),
        after(4, offline.clear),
    ]
    lived(federation, lambda text: [ear(text) for ear in ears] and None)
    return federation


def _took(federation: Federation, site: str) -> None:
    federation.clock.elapsed += SECONDS[site]


def sized(rows: Sequence[MetricRow], positives: Mapping[str, int] | None = None) -> list[MetricRow]:
    """The same measured on 300 patients of each outcome, 150 of each sex and 100 of each age; some with other `positives`."""
    sizes, few = {"sex": 150, "age": 100}, positives or {}
    made = []
    for row in rows:
        patients = sizes.get(row.slice.replace("=", " ").split(" ")[0], 300)
        made.append(replace(row, positives=few.get(row.slice, patients), negatives=patients))
    return made
