"""Taking in what a hospital gave of its own metrics: signed by the site, of the study, and no other number."""

from __future__ import annotations

from pydantic import ConfigDict

from fedward.privacy.canonical import digest
from fedward.privacy.errors import InputError, RefusalError
from fedward.server.home import CoordinatorHome
from fedward.server.records import SharedMetrics
from fedward.server.store import Store
from fedward.study.fields import Part
from fedward.study.kinds import parse_sealed
from fedward.study.manifest import SealedManifest
from fedward.study.shared_metrics import MOST_FILE_BYTES, check_figures


class _File(Part):
    """Of the file that a hospital gives: the rest is for people to read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    figures: str
    signature: str


def take_in(home: CoordinatorHome, store: Store, reference: str, data: bytes, by: str, at: int) -> SharedMetrics:
    """Enter what a hospital gave; what it gave before is replaced.

    Raises:
        InputError: no such study, or not the file of `fedward site metrics --release`.
        IntegrityError: it was changed, or is another study's or another site's.
        RefusalError: the hospital has withdrawn its data.
    """
    study = store.find(reference)
    sealed = None if study.sealed is None else parse_sealed(study.sealed)
    if not isinstance(sealed, SealedManifest):
        raise InputError(f'study "{study.study_id}" has no metrics', expected="a sealed study that trains")
    try:
        if len(data) > MOST_FILE_BYTES:
            raise ValueError
        file = _File.model_validate_json(data)
    except ValueError:
        raise InputError(
            "this is no file of a hospital's own metrics", expected="what `fedward site metrics DIGEST --release` wrote",
            remedy="ask the hospital for it",
        ) from None  # fmt: skip
    made = check_figures(file.figures.encode(), file.signature, sealed)
    gone = {row.site for row in store.standings(study.key) if row.state == "withdrawn"}
    if made.site in gone:
        raise RefusalError(f"{made.site} has withdrawn its data", remedy="use none of its numbers", code="withdrawn")
    row = SharedMetrics(made.site, made.version, made.auroc, made.auroc_alone, made.canonical, file.signature, at)
    mark = digest(made.canonical)
    home.record("metrics-shared", at=at, study=sealed.digest, site=made.site, digest=mark, round=made.round, by=by)
    store.share(study.key, row, mark)
    return row
