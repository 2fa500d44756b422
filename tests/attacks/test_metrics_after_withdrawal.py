"""What was counted of patients before their data were withdrawn is given away afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import APPROVER, Federation, heart_manifest, key_of
from hospital import SITE, Site

from fedward.client.own_metrics import OwnMetrics
from fedward.client.policy import Policy
from fedward.client.withdrawing import withdraw
from fedward.privacy.errors import RefusalError
from fedward.study.metrics import histogram_shape


def test_metrics_of_withdrawn_patients(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "federation", sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}))
    site, at = Site(federation), federation.clock.unix()
    own = OwnMetrics(site.home)
    own.keep(site.sealed, 1, np.full(histogram_shape(site.sealed.manifest), 20, dtype=np.int64))
    withdraw(site.home, "heart-4-hospitals", by=APPROVER, signer=key_of(site.home), at=at)
    with site.home.ledger() as ledger:
        before = len(ledger.entries())
        with pytest.raises(RefusalError) as refused:
            own.release(site.sealed, Policy(share_metrics=True), ledger, at=at + 1)
        assert refused.value.code == "withdrawn"
        assert len(ledger.entries()) == before
