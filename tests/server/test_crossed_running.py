"""A study that crosses sex and age, from proposal to its last model's metrics: crossed groups are counted, charged and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import fedward
from federation import Federation, heart_manifest

from fedward.client import datasets
from fedward.client.split import held_out
from fedward.privacy.events import CountEvent
from fedward.server.models import load_model
from fedward.server.readings import view
from fedward.study import models
from fedward.study.evaluation import count_deviation
from fedward.study.metrics import slice_names

CROSSED = {"intersections": [["sex", "age"]]}
BANDS = ((0, 50), (50, 65), (65, 120))


def by_hand(federation: Federation) -> dict[str, tuple[int, int, float, float]]:
    """(positives, negatives, sensitivity, specificity) of each crossed group, from the pooled rows of held-out patients."""
    found: list[pd.DataFrame] = []
    manifest = heart_manifest(fairness=CROSSED)
    model = models.build(manifest)
    file = view(federation.store, federation.store.study(federation.key)).model
    models.load_vector(model, load_model(federation.home.models_folder, file or ""))
    for home in federation.sites.values():
        dataset = datasets.find(home, manifest.study.id)
        frame, data = datasets.read(home, dataset, manifest), datasets.load(home, dataset, manifest)
        frame["score"] = models.scores(model, data.inputs)
        found.append(frame[held_out(data.patients, manifest.training.holdout, home.patient_key())])
    everybody = pd.concat(found)
    cells = {}
    for sex in ("female", "male"):
        for low, high in BANDS:
            part = everybody[(everybody["sex"] == sex) & (everybody["age"] >= low) & (everybody["age"] < high)]
            ill, well = part[part["disease"] == 1], part[part["disease"] == 0]
            cells[f"sex={sex} & age in [{low}, {high})"] = (
                len(ill), len(well), float((ill["score"] >= 0.5).mean()), float((well["score"] < 0.5).mean()),
            )  # fmt: skip
    return cells


@pytest.mark.parametrize("secure", [False, True])
def test_crossed_groups_are_told_as_counted_by_hand_on_the_pooled_patients(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    manifest = heart_manifest(secure=secure, training={"rounds": 2}, fairness=CROSSED)
    digest = federation.ready(manifest).digest
    review = fedward("site", "review", digest, "--home", federation.sites["va"].path).out
    assert "compares     sex, age, sex & age" in review
    federation.run()
    seen = view(federation.store, federation.store.study(federation.key))
    assert (seen.state, seen.version) == ("completed", 2)
    rows = {(row.slice, row.name): row for row in seen.measured()}
    cells = by_hand(federation)
    assert tuple(cells) == slice_names(manifest)[6:]
    for name, (positives, negatives, sensitivity, specificity) in cells.items():
        for metric, rate in (("sensitivity", sensitivity), ("specificity", specificity)):
            row = rows[name, metric]
            assert (row.positives, row.negatives) == (positives, negatives)
            if np.isnan(rate):
                assert row.value is None
            else:
                assert row.value == pytest.approx(rate, abs=1e-12)
    assert min(positives + negatives for positives, negatives, *_ in cells.values()) > 0
    assert sum(positives for positives, *_ in cells.values()) == rows["everybody", "auroc"].positives
    gap, rates = rows["sex & age", "equal_opportunity_gap"], [cell[2] for cell in cells.values()]
    assert (gap.value is None) == bool(np.isnan(rates).any())


@pytest.mark.parametrize("secure", [False, True])
def test_noised_crossed_counts_are_charged_as_one_attribute_more(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    changes = {"training": {"rounds": 1}, "privacy": {"epsilon": 5.0}}
    manifest = heart_manifest(secure=secure, noised=True, fairness=CROSSED, **changes)
    sealed = federation.ready(manifest)
    assert sealed.count_deviation == count_deviation(manifest) > count_deviation(heart_manifest(noised=True, **changes))
    federation.run()
    seen = view(federation.store, federation.store.study(federation.key))
    assert (seen.state, seen.version) == ("completed", 1)
    rows = {(row.slice, row.name): row for row in seen.measured()}
    for name in slice_names(manifest):
        assert (name, "auroc") in rows
    assert ("sex & age", "equalized_odds_gap") in rows
    for home in federation.sites.values():
        with home.ledger(witnessed=False) as ledger:
            [charge] = [entry.charge for entry in ledger.charges() if entry.charge.purpose == "evaluate"]
            # Everybody's count, sex, age, and sex & age.
            assert charge.event == CountEvent(sealed.count_deviation, 1, 4, 1, share=(0.0, manifest.training.holdout))
            assert ledger.spent() <= 5.0
