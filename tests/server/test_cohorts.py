"""Who is asked where a round asks some of the hospitals: fair turns, lots that can be drawn again, and never too few."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from hypothesis import given
from hypothesis import strategies as st
from observed import outcomes, run, state, statuses

from fedward.privacy.errors import InputError
from fedward.server.cohorts import NOT_DRAWN, draw
from fedward.study.heart import SITES

NAMES = tuple(f"s{n}" for n in range(12))


@given(
    there=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    asked=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5)),
    size=st.integers(1, 12),
    seed=st.text(max_size=8),
)
def test_a_draw_is_of_that_size_in_roster_order_and_passes_nobody_over(
    there: list[str], asked: dict[str, int], size: int, seed: str
) -> None:
    drawn = draw(there, asked, size, seed)
    assert len(drawn) == min(size, len(there))
    assert list(drawn) == [site for site in there if site in drawn]
    out = [asked.get(site, 0) for site in there if site not in drawn]
    assert not out or max(asked.get(site, 0) for site in drawn) <= min(out)
    assert draw(there, asked, size, seed) == drawn


def test_turns_are_even_and_lots_reach_everybody() -> None:
    turns: Counter[str] = Counter()
    for n in range(60):
        turns.update(draw(NAMES, turns, 5, str(n)))
        assert max(turns.values()) - min(turns[site] for site in NAMES) <= 1
    first = {draw(NAMES, {}, 1, str(n)) for n in range(200)}
    assert len(first) == len(NAMES)


def test_a_cohort_without_a_size_is_refused() -> None:
    with pytest.raises(InputError):
        draw(NAMES, {}, 0, "")


def test_a_cohort_that_is_too_small_for_a_round_is_no_manifest() -> None:
    with pytest.raises(InputError, match="asks too few sites"):
        heart_manifest(federation={"quorum": 3, "cohort": 2})
    with pytest.raises(InputError, match="asks too few sites"):
        heart_manifest(secure=True, federation={"quorum": 1, "cohort": 2})


def test_secure_rounds_ask_three_of_four_by_turns_each_in_a_batch_of_its_own_and_the_test_asks_all(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    federation.ready(
        heart_manifest(
            secure=True, training={"rounds": 4}, privacy={"spare_attempts": 3}, federation={"quorum": 3, "cohort": 3}
        )
    )
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(n, "committed") for n in range(1, 6)]
    gave = Counter(
        s for n in range(1, 5) for s, (status, _) in statuses(federation, n).items() if status == "contributed"
    )
    assert gave == dict.fromkeys(SITES, 3)
    for n in range(1, 5):
        out = [reason for status, reason in statuses(federation, n).values() if status != "contributed"]
        assert out == [NOT_DRAWN]
    assert {status for status, _ in statuses(federation, 5).values()} == {"contributed"}
    drawn = [entry.data for entry in federation.store.journal(federation.key, "drawn")]
    asked: Counter[str] = Counter()
    for data in drawn:
        assert list(draw(data["there"], asked, 3, data["seed"])) == data["cohort"]
        asked.update(data["cohort"])
    opened = {e.data["attempt"]: e.data["cohort"] for e in federation.store.journal(federation.key, "opened")}
    assert [opened[data["attempt"]] for data in drawn] == [data["cohort"] for data in drawn]
    batches = federation.store.journal(federation.key, "batch")
    assert (
        len(batches) == len({tuple(data["cohort"]) for data in drawn}) + 1
    )  # no two of the four rounds ask the same three
