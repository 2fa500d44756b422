"""This hospital's own metrics of a study: its counts, kept here, and what may leave of them under its policy.

A study's metrics leave once. Asked again, they are the very same, or they are refused: two tables of almost the same patients
would show by their difference what each of them suppresses. In the folder (0700, its files 0600), by the study's digest:

DIGEST.json            the counts of the last evaluation, as they are; never sent
DIGEST.alone.json      how the model does that this hospital trained alone, beside it
DIGEST.released.json   what left
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedward.client import datasets
from fedward.client.decisions import load
from fedward.client.exclusions import listed
from fedward.client.home import SiteHome
from fedward.client.policy import Policy
from fedward.client.split import held_out
from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.fields import Part
from fedward.study.manifest import HEX_KEY, SealedManifest
from fedward.study.messages import Count
from fedward.study.metrics import Counts, auroc, histogram_shape
from fedward.study.shared_metrics import SiteFigures, may_be_given
from fedward.study.site_metrics import METRICS, Values, site_metrics

PURPOSE = "metrics-without-dp"
"""What the ledger is charged for: these numbers carry no noise, and no ε covers them."""


class _Kept(Part):
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    counts: tuple[Count, ...]
    exclusions: Annotated[int, Field(ge=0)] = 0
    """How often the exclusion list had changed: counts of patients who have opted out since are not shown."""


class _Alone(Part):
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    auroc: Annotated[int, Field(ge=0, le=100)]
    exclusions: Annotated[int, Field(ge=0)] = 0


class _Released(Part):
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    values: tuple[tuple[int | None, ...], ...]
    alone: int | None = None


class OwnMetrics:
    """The metrics in a home's folder, which need not exist before the first."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home
        self._folder = home.metrics_folder

    def keep(self, sealed: SealedManifest, round_: int, counts: Counts) -> None:
        """Keep the counts of a round's evaluation, shape (slices, bins, 2), in place of an earlier round's."""
        kept = {"study": sealed.digest, "round": round_, "counts": [int(count) for count in counts.reshape(-1)],
                "exclusions": listed(self._home).changes}  # fmt: skip
        self._home.write(self._folder / f"{sealed.digest}.json", canonical_json(kept))

    def shown(self, sealed: SealedManifest) -> tuple[int, Values]:
        """(the evaluation's round, what would leave of it if the policy allows). Nothing leaves.

        Raises:
            InputError: code `no-metrics`: the study was not evaluated here, or not since the exclusion list changed.
            IntegrityError: the kept counts are damaged.
        """
        path = self._folder / f"{sealed.digest}.json"
        if not path.is_file():
            raise InputError(
                "this hospital has no metrics of its own for the study",
                remedy="they are there once its patients were evaluated",
                code="no-metrics",
            )
        kept = self._home.read_part(path, _Kept, "own metrics")
        shape = histogram_shape(sealed.manifest)
        if kept.study != sealed.digest or len(kept.counts) != int(np.prod(shape)):
            raise IntegrityError("the kept counts are not those of the study", remedy=f"delete {path}")
        if kept.exclusions != listed(self._home).changes:
            raise InputError(
                "the exclusion list has changed since this hospital's patients were evaluated",
                remedy="its metrics are there again once they were evaluated anew",
                code="no-metrics",
            )
        return kept.round, site_metrics(sealed.manifest, np.array(kept.counts, dtype=np.int64).reshape(shape))

    def train_alone(self, sealed: SealedManifest) -> float:
        """Train this hospital's own model, of its own training patients and without the study, and keep how it does on the held-out
        ones: its AUROC, rounded as it may leave. Nothing leaves.

        Raises:
            InputError: as `shown`; the patients have not both outcomes; the study is not registered.
        """
        from fedward.client.alone import local_only  # noqa: PLC0415 - torch takes seconds
        from fedward.client.evaluation import held_out_counts  # noqa: PLC0415
        from fedward.study import models  # noqa: PLC0415

        round_, _ = self.shown(sealed)
        data = datasets.load(self._home, datasets.find(self._home, sealed.manifest.study.id), sealed.manifest)
        mask = held_out(data.patients, sealed.manifest.training.holdout, self._home.patient_key())
        model = models.build(sealed.manifest)
        models.load_vector(model, local_only(sealed.manifest, data.select(~mask)))
        area = auroc(held_out_counts(model, data.select(mask), sealed.manifest)[0])
        if area is None:
            raise InputError("the held-out patients have not both outcomes", code="no-metrics")
        steps = METRICS["auroc"].rounded(area.value)
        kept = {"study": sealed.digest, "round": round_, "auroc": steps, "exclusions": listed(self._home).changes}
        self._home.write(self._folder / f"{sealed.digest}.alone.json", canonical_json(kept))
        return METRICS["auroc"].value(steps)

    def alone(self, sealed: SealedManifest) -> int | None:
        """The AUROC of this hospital's own model, in steps, beside what `shown` shows; None if none was trained since, or if
        everybody's metrics are suppressed. Errors as `shown`."""
        path, (round_, values) = self._folder / f"{sealed.digest}.alone.json", self.shown(sealed)
        if not path.is_file() or values[0][0] is None:
            return None
        kept = self._home.read_part(path, _Alone, "own model's metrics")
        same = (kept.study, kept.round, kept.exclusions) == (sealed.digest, round_, listed(self._home).changes)
        return kept.auroc if same else None

    def release(self, sealed: SealedManifest, policy: Policy, ledger: Ledger, *, at: int) -> SiteFigures:
        """What may leave, recorded as having left, and charged once as unprotected; the same ever after. An own model's figure may
        be added to what left without one.

        Raises:
            RefusalError: `policy-metrics`: the policy shares none; `withdrawn`: its data were; `differencing`: others left before.
            InputError, IntegrityError: as `shown`.
        """
        if not policy.share_metrics:
            raise RefusalError(
                "the policy does not share this hospital's own metrics",
                remedy="set share_metrics = true in its policy, if it may",
                code="policy-metrics",
            )
        if load(self._home).standing(sealed.digest, at).state == "withdrawn":
            raise RefusalError(
                "this hospital has withdrawn the data that these metrics are of",
                remedy="nothing of withdrawn data is given away any more",
                code="withdrawn",
            )
        (round_, values), alone = self.shown(sealed), self.alone(sealed)
        figures = SiteFigures(site=self._home.site, study=sealed.digest, round=round_, values=values, alone=alone)
        if not may_be_given(values, alone, sealed):
            raise IntegrityError("these metrics are not of the form that may leave", code="not-allowed-out")
        path = self._folder / f"{sealed.digest}.released.json"
        if path.exists():
            left = self._home.read_part(path, _Released, "released metrics")
            if left.values != values or left.alone not in {None, alone}:
                raise RefusalError(
                    "other metrics of this study left before: both together would show what each suppresses",
                    remedy="give the file that was written then",
                    code="differencing",
                )
            if left.alone == alone:
                return figures
        charge = Charge(sealed.digest, sealed.manifest.study.id, round_, 1, None, PURPOSE)
        try:
            ledger.charge(charge, at=at)
        except RefusalError as error:
            if error.code != "already-charged":  # a crash came between the charge and the record of it
                raise
        released = {"study": sealed.digest, "round": round_, "values": values, "alone": alone}
        self._home.write(path, canonical_json(released))
        return figures
