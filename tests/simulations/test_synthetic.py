"""Made-up hospitals: their truth is the truth, and a study finds most of it."""

from __future__ import annotations

import numpy as np
import pytest
from federation import heart_manifest
from sklearn.metrics import roc_auc_score

from fedward.privacy.errors import InputError
from fedward.simulations.baselines import auroc, pooled
from fedward.simulations.synthetic import synthetic

MANIFEST = heart_manifest()


def test_the_best_auroc_is_that_of_the_true_chances_and_a_pooled_model_nearly_has_it() -> None:
    made = synthetic(MANIFEST, 5, 2000, seed=1)
    chances = np.concatenate(list(made.chances.values()))
    outcomes = np.concatenate([one.outcomes for one in made.hospitals.values()])
    assert made.best == pytest.approx(roc_auc_score(outcomes, chances))
    assert 0.8 < made.best < 0.97
    # The chances are calibrated: patients of like chances have that share of outcomes.
    for low in (0.1, 0.4, 0.7):
        band = (chances >= low) & (chances < low + 0.1)
        assert outcomes[band].mean() == pytest.approx(chances[band].mean(), abs=0.08)
    model = pooled(MANIFEST, made.hospitals.values())
    assert made.best - auroc(MANIFEST, model, list(made.hospitals.values())) < 0.01


def test_hospitals_with_shifted_truths_share_less() -> None:
    def lost(shift: float) -> float:
        made = synthetic(MANIFEST, 6, 400, shift, seed=2)
        return made.best - auroc(MANIFEST, pooled(MANIFEST, made.hospitals.values()), list(made.hospitals.values()))

    assert lost(3.0) > lost(0.0) + 0.03


def test_two_hundred_hospitals_of_a_few_dozen_patients() -> None:
    made = synthetic(MANIFEST, 200, 36)
    assert len(made.hospitals) == 200
    assert {len(one) for one in made.hospitals.values()} == {36}
    assert list(made.hospitals)[:2] == ["site-001", "site-002"]
    again = synthetic(MANIFEST, 200, 36)
    assert all((again.hospitals[site].inputs == one.inputs).all() for site, one in made.hospitals.items())


@pytest.mark.parametrize(
    ("sites", "patients", "shift"), [(0, 10, 0), (10, 0, 0), (10_000, 10_000, 0), (3, 10, -1.0), (3, 10, float("nan"))]
)
def test_numbers_out_of_range_are_refused(sites: int, patients: int, shift: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        synthetic(MANIFEST, sites, patients, shift)
