"""This hospital's own metrics of a study: its counts, kept here, and what may leave of them under its policy.

A study's metrics leave once. Asked again, they are the very same, or they are refused: two tables of almost the same patients
would show by their difference what each of them suppresses. In the folder (0700, its files 0600), by the study's digest:

DIGEST.json            the counts of the last evaluation, as they are; never sent
DIGEST.released.json   what left
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedward.client.decisions import load
from fedward.client.exclusions import listed
from fedward.client.home import SiteHome
from fedward.client.policy import Policy
from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.fields import Part
from fedward.study.manifest import HEX_KEY, SealedManifest
from fedward.study.messages import Count
from fedward.study.metrics import Counts, histogram_shape
from fedward.study.site_metrics import Values, may_leave, site_metrics

PURPOSE = "metrics-without-dp"
"""What the ledger is charged for: these numbers carry no noise, and no ε covers them."""


class _Kept(Part):
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    counts: tuple[Count, ...]
    exclusions: Annotated[int, Field(ge=0)] = 0
    """How often the exclusion list had changed: counts of patients who have opted out since are not shown."""


class _Released(Part):
    study: Annotated[str, Field(pattern=HEX_KEY)]
    round: Annotated[int, Field(ge=1, le=10_001)]
    values: tuple[tuple[int | None, ...], ...]


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

    def release(self, sealed: SealedManifest, policy: Policy, ledger: Ledger, *, at: int) -> Values:
        """What may leave, recorded as having left, and charged once as unprotected; the same ever after.

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
        round_, values = self.shown(sealed)
        if not may_leave(values, sealed.manifest):
            raise IntegrityError("these metrics are not of the form that may leave", code="not-allowed-out")
        path = self._folder / f"{sealed.digest}.released.json"
        if path.exists():
            if self._home.read_part(path, _Released, "released metrics").values != values:
                raise RefusalError(
                    "other metrics of this study left before: both together would show what each suppresses",
                    remedy="give the file that was written then",
                    code="differencing",
                )
            return values
        charge = Charge(sealed.digest, sealed.manifest.study.id, round_, 1, None, PURPOSE)
        try:
            ledger.charge(charge, at=at)
        except RefusalError as error:
            if error.code != "already-charged":  # a crash came between the charge and the record of it
                raise
        released = {"study": sealed.digest, "round": round_, "values": values}
        self._home.write(path, canonical_json(released))
        return values
