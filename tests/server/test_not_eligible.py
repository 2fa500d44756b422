"""A hospital that no longer meets a study's demands says so by one code; the study goes on while the quorum holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from demanding import demanding
from federation import Federation
from observed import state, statuses

from fedward.client import exclusions
from fedward.study.heart import heart_folder

GONE = "switzerland"
"""It has 123 patients."""


@pytest.mark.parametrize("secure", [False, True])
def test_the_study_goes_on_without_it_and_the_record_says_why(tmp_path: Path, secure: bool) -> None:
    federation = Federation(tmp_path)
    federation.ready(demanding({"min_patients": 120}, secure=secure, training={"rounds": 2}, federation={"quorum": 3}))
    rows = (heart_folder() / f"{GONE}.csv").read_text().splitlines()[1:]
    exclusions.add(federation.sites[GONE], [row.split(",")[0] for row in rows[:10]])
    federation.run()
    assert state(federation) == "completed"
    for attempt in federation.store.attempts(federation.key):
        named = statuses(federation, attempt.attempt)
        status, reason = named[GONE]
        assert status in ("refused", "absent"), named
        assert "not-eligible" in reason
        assert [site for site, (one, _) in named.items() if one == "contributed"] == ["cleveland", "hungarian", "va"]
