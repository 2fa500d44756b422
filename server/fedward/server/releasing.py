"""Whether a model was trained by enough sites and groups of patients to become a release: the manifest's `[release]`. Pure.

A site counts that contributed to enough committed rounds of training. A group counts whose patients were enough in the newest
evaluation: its counts are sums over the sites' held-out patients, a random share of each group. Nothing else is known of
groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedward.study.manifest import BaseManifest, Manifest, Release
from fedward.study.metrics import slice_names

if TYPE_CHECKING:
    from fedward.server.records import MetricRow
    from fedward.server.views import StudyView


def shortfalls(manifest: BaseManifest, view: StudyView) -> tuple[str, ...]:
    """Why the study's newest model may not become a release; nothing if sites and groups suffice."""
    if not isinstance(manifest, Manifest):
        return ("an exploration trains no model",)
    if view.version == 0:
        return ("no round of training is committed",)
    floors = manifest.release or Release()
    return (*_sites(view, floors, manifest.least_sites), *_groups(view, manifest, floors))


def trained_by(view: StudyView, min_rounds: int = 1) -> tuple[str, ...]:
    """The sites that contributed to that many committed rounds of training, by name."""
    return tuple(site for site, rounds in view.contributions().items() if rounds >= min_rounds)


def _sites(view: StudyView, floors: Release, least: int) -> tuple[str, ...]:
    need = least if floors.min_sites is None else floors.min_sites
    found = trained_by(view, floors.min_rounds)
    if len(found) >= need:
        return ()
    often = "" if floors.min_rounds == 1 else f" in {floors.min_rounds} rounds or more"
    return (f"trained by {len(found)} of at least {need} sites{often} ({', '.join(found) or 'none'})",)


def _groups(view: StudyView, manifest: Manifest, floors: Release) -> tuple[str, ...]:
    if floors.min_groups is None:
        return ()
    names = slice_names(manifest)[1:]
    newest = {row.slice: row for row in view.measured() if row.slice in names}
    if not newest or next(iter(newest.values())).version != view.version:
        return ("its groups are not known: the newest model has not been evaluated",)
    found = [name for name in names if name in newest and _patients(newest[name]) >= floors.min_group_patients]
    if len(found) >= floors.min_groups:
        return ()
    return (
        f"{len(found)} of at least {floors.min_groups} groups have {floors.min_group_patients} held-out patients or more "
        f"({', '.join(found) or 'none'})",
    )


def _patients(row: MetricRow) -> int:
    return row.positives + row.negatives
