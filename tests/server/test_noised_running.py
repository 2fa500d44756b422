"""A study whose counts are noised, from proposal to the last model's metrics, with sums plain and secure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest

from fedward.privacy.accounting import epsilon
from fedward.server.readings import view
from fedward.study.evaluation import count_deviation


@pytest.mark.parametrize("secure", [False, True])
def test_the_last_model_is_measured_by_noised_counts_and_every_patient_is_covered(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    manifest = heart_manifest(secure=secure, noised=True, training={"rounds": 2}, privacy={"epsilon": 5.0})
    sealed = federation.ready(manifest)
    assert sealed.count_deviation == count_deviation(manifest) > 0
    federation.run()
    seen = view(federation.store, federation.store.study(federation.key))
    assert (seen.state, seen.version) == ("completed", 2)
    assert seen.meaning.endswith("covers training and held-out patients")
    assert {metric.version for metric in seen.metrics} == {2}
    area = seen.auroc()
    assert area is not None
    assert area.value is not None
    assert area.low is not None
    assert area.high is not None
    assert 0 <= area.low <= area.value <= area.high <= 1  # noise may push it to an end
    assert area.low < area.high
    assert np.isfinite([metric.value for metric in seen.measured() if metric.slice == "everybody"]).all()
    for home in federation.sites.values():
        with home.ledger(witnessed=False) as ledger:
            charges = [entry.charge for entry in ledger.charges()]
            assert [charge.purpose for charge in charges] == ["train", "train", "evaluate"]
            events = [charge.event for charge in charges if charge.event is not None]
            assert ledger.unprotected == 0
            assert ledger.spent() == epsilon(events, ledger.budget.delta) <= 5.0
