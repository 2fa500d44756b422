"""The unmasked sum is the plain sum, exactly: 9 900 sums of up to 20 sites, 100 of up to 200, and the masks alone in 10 000
cases of up to 200. Each test says how many it compared, and fails if they are not all that it was to compare.

FEDWARD_SECAGG_SUMS, _LARGE and _ALGEBRA say how many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from cohort import drawing
from sums import Tally, check_algebra, check_sums

pytestmark = [pytest.mark.prove, pytest.mark.timeout(14_400)]

SUMS = int(os.environ.get("FEDWARD_SECAGG_SUMS", "9900"))
LARGE = int(os.environ.get("FEDWARD_SECAGG_LARGE", "100"))
ALGEBRA = int(os.environ.get("FEDWARD_SECAGG_ALGEBRA", "10000"))
SLOTS = 11
COMPARED: dict[str, int] = {}
Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def print_now(text: str) -> None:
        with capsys.disabled():
            print(f"\n{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - for who waits

    return print_now


def test_sums_of_up_to_twenty_sites_are_exact(say: Say) -> None:
    tally, draw, batch = Tally(), drawing("sizes"), 0
    sizes: set[int] = set()
    while tally.cases < SUMS:
        n = draw.randint(3, 20)
        check_sums(tally, f"sums/{batch}", n, min(SLOTS, SUMS - tally.cases))
        sizes.add(n)
        batch += 1
        if batch % 100 == 0:
            say(f"sums: {tally.cases} of {SUMS}")
    say(f"sums of 3 to 20 sites, all exact: {tally}")
    assert tally.cases == SUMS
    if SUMS >= 1000:
        assert sizes == set(range(3, 21))
        stages = ("before masked", "before confirm", "before unmask")
        assert min(tally.seen[f"dropped {stage}"] for stage in stages) > SUMS // 20
        assert tally.seen["at the largest sum"] > SUMS // 100
    COMPARED["sums"] = tally.cases


def test_sums_of_up_to_two_hundred_sites_are_exact(say: Say) -> None:
    tally, draw, batch = Tally(), drawing("large sizes"), 0
    while tally.cases < LARGE:
        n = 200 if batch % 10 == 0 else draw.randint(21, 200)
        check_sums(tally, f"large/{batch}", n, min(5, LARGE - tally.cases))
        batch += 1
        say(f"large sums: {tally.cases} of {LARGE}, the last of {n} sites")
    say(f"sums of 21 to 200 sites, all exact: {tally}")
    assert tally.cases == LARGE
    if LARGE >= 100:
        assert tally.seen["at the largest sum"] > 0
        assert tally.seen["with t above the least"] < LARGE
    COMPARED["large"] = tally.cases


def test_masks_of_up_to_two_hundred_sites_cancel(say: Say) -> None:
    tally, draw = Tally(), drawing("mask sizes")
    for number in range(ALGEBRA):
        # Half of the cases are of fewer than 53 members, a quarter of more than 113; every hundredth of 200.
        n = 200 if number % 100 == 0 else 3 + int(197 * draw.random() ** 2)
        check_algebra(tally, f"masks/{number}", n)
        if (number + 1) % 1000 == 0:
            say(f"masks: {tally.cases} of {ALGEBRA}")
    say(f"masks of 3 to 200 sites, all cancelled: {tally}")
    assert tally.cases == ALGEBRA
    COMPARED["masks"] = tally.cases


def test_all_of_it_was_compared(say: Say) -> None:
    say(f"compared: {COMPARED}")
    assert COMPARED == {"sums": SUMS, "large": LARGE, "masks": ALGEBRA}
