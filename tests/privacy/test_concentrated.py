"""Sums of discrete Gaussians against their exact distribution, in 40 decimal digits; the two views of shared noise."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.accounting import calibrate, epsilon, epsilon_pld, epsilon_rdp
from fedward.privacy.concentrated import LEAST_UNITS, concentration, sum_concentration, sum_inflation
from fedward.privacy.errors import InputError
from fedward.privacy.events import CountEvent, DpEvent, SharedEvent, from_record, in_view, merge, to_record

Law = dict[int, Decimal]


def discrete_gaussian(deviation: float) -> Law:
    """The probabilities of N_Z(0, σ²), by its definition, far beyond where the divergences' mass lies: (α − 1) times the shift."""
    reach = math.ceil(20 + 12 * deviation)
    weights = {x: (-Decimal(x * x) / (2 * Decimal(deviation) ** 2)).exp() for x in range(-reach, reach + 1)}
    total = sum(weights.values())
    return {x: weight / total for x, weight in weights.items()}


@cache
def sum_of(deviation: float, sites: int) -> Law:
    """The exact law of the sum of so many independent draws."""
    one = discrete_gaussian(deviation)
    law = one
    for _ in range(sites - 1):
        added: Law = {}
        for x, p in law.items():
            for y, q in one.items():
                added[x + y] = added.get(x + y, Decimal(0)) + p * q
        law = added
    return law


def divergence(law: Law, shift: int, order: Decimal) -> Decimal:
    """The exact Rényi divergence of the law and its shift: log Σ p^α q^(1−α) / (α − 1), where both have mass."""
    both = [(p, law[x - shift]) for x, p in law.items() if x - shift in law]
    total = sum((order * p.ln() + (1 - order) * q.ln()).exp() for p, q in both)
    return total.ln() / (order - 1)


class TestExactSums:
    """A vector moves by one coordinate's `shift`, or by it in each of `dimension` coordinates: divergences add up."""

    @pytest.mark.parametrize("deviation", [0.5, 0.7, 1.0, 2.0])
    @pytest.mark.parametrize("sites", [1, 2, 3])
    def test_no_order_exceeds_the_bound(self, deviation: float, sites: int) -> None:
        with localcontext(prec=40):
            law = sum_of(deviation, sites)
            for shift in (1, 2):
                for dimension in (1, 4):
                    rho = Decimal(sum_concentration(deviation, shift * math.sqrt(dimension), dimension, sites))
                    for order in map(Decimal, ("1.01", "2", "10")):
                        assert dimension * divergence(law, shift, order) <= rho * order

    def test_without_the_inflation_the_bound_would_be_false(self) -> None:
        """A sum of narrow discrete Gaussians is none: that is why the term is there."""
        with localcontext(prec=40):
            law = sum_of(0.5, 2)
            naive = Decimal(1) / (2 * 2 * Decimal("0.25"))
            assert any(divergence(law, 1, order) > naive * order for order in map(Decimal, ("1.01", "2", "10")))

    @pytest.mark.parametrize(("deviation", "shift", "sites"), [(60.0, 101, 1), (60.0, 101, 2), (101.0, 101, 2)])
    def test_the_epsilon_shown_holds_at_its_delta(self, deviation: float, shift: int, sites: int) -> None:
        """On the coarsest grid of a single parameter, by floats: the masses that matter are far above their round-off."""
        reach = round(12 * deviation)
        one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
        one /= one.sum()
        law = one
        for _ in range(sites - 1):
            law = np.convolve(law, one)
        beside, moved = np.pad(law, (0, shift)), np.pad(law, (shift, 0))
        for delta in (1e-2, 1e-3, 1e-5):
            eps = epsilon([SharedEvent(deviation / shift, sites, 1)], delta)
            assert np.maximum(beside - math.exp(eps) * moved, 0).sum() <= delta
            assert np.maximum(beside - math.exp(0.7 * eps) * moved, 0).sum() > delta  # and is not idle

    @settings(max_examples=200, deadline=None)
    @given(st.floats(0.005, 1.0), st.integers(1, 200), st.integers(1, 10**6), st.floats(1.0, 1e6))
    def test_no_grid_and_no_dimension_cost_more_than_the_event(
        self, own: float, sites: int, dimension: int, finer: float
    ) -> None:
        units = LEAST_UNITS * math.sqrt(dimension) * finer
        found = concentration(SharedEvent(own, sites, 1))
        assert found is not None
        assert sum_concentration(own * units, units, dimension, sites) <= found * (1 + 1e-12)

    def test_the_inflation_is_the_papers_sum(self) -> None:
        pi2 = math.pi**2
        assert sum_inflation(0.5, 3) == pytest.approx(10 * (math.exp(-pi2 / 4) + math.exp(-pi2 / 3)), rel=1e-12)
        assert sum_inflation(0.5, 1) == 0.0
        assert sum_inflation(4.0, 200) < 1e-40


# --- two views ----------------------------------------------------------------------------------------------------------

H = SharedEvent(noise_multiplier=10 / math.sqrt(2), sites=2, steps=50)
"""The reference history (10, 1, 50) at δ = 1e-3, its noise shared by two."""


def test_history_h_in_both_views() -> None:
    assert H.pool_noise == pytest.approx(10.0)
    assert epsilon([H], 1e-3) == pytest.approx(2.3305, abs=2e-4)  # RDP (Opacus) of the table in the privacy page
    assert epsilon([H], 1e-3, "everyone") == pytest.approx(3.5368, abs=2e-4)
    # The float PLD, as if the noise were continuous: 2.064 and 3.15 by PRV, which is 0.01 above it.
    assert epsilon_pld([H], 1e-3) == pytest.approx(2.0533, abs=5e-3)
    assert epsilon_pld(in_view([H], "everyone"), 1e-3) == pytest.approx(3.14, abs=5e-3)


def test_the_zcdp_bound_is_the_gaussians_own() -> None:
    assert epsilon_rdp([DpEvent(10.0, 1.0, 50)], 1e-3) == pytest.approx(2.3305, abs=2e-4)
    assert epsilon_rdp([DpEvent(1.0, 1.0, 1)], 1e-5) == pytest.approx(4.7285, abs=2e-4)


def test_noise_that_is_not_shared_is_the_same_in_both_views() -> None:
    local = [DpEvent(4.0, 0.3, 20), CountEvent(5.0, 1, 3, 2)]
    assert epsilon(local, 1e-3) == epsilon(local, 1e-3, "everyone")


@pytest.mark.parametrize("local", [[DpEvent(4.0, 0.3, 20)], [DpEvent(9.0, 1.0, 20)], [CountEvent(5.0, 1, 3, 2)]])
def test_shared_and_local_events_add_up_in_each_view(local: list[DpEvent | CountEvent]) -> None:
    both = [*local, H]
    for view in ("coordinator", "everyone"):
        alone = epsilon([H], 1e-3, view)
        together = epsilon(both, 1e-3, view)
        assert alone < together
        assert together >= epsilon_pld(in_view(both, view), 1e-3)
    assert epsilon(both, 1e-3) < epsilon(both, 1e-3, "everyone")


def test_more_shares_of_the_same_noise_protect_against_the_coordinator_alone() -> None:
    costs = [epsilon([SharedEvent(2.0, sites, 10)], 1e-3) for sites in (1, 2, 4)]
    assert costs[0] > costs[1] > costs[2]
    everyone = {epsilon([SharedEvent(2.0, sites, 10)], 1e-3, "everyone") for sites in (1, 2, 4)}
    assert everyone == {costs[0]}


def test_calibration_finds_the_smallest_pool() -> None:
    def schedule(z: float) -> list[SharedEvent]:
        return [SharedEvent(z / math.sqrt(3), 3, 17)]

    found = calibrate([DpEvent(30.0, 1.0, 5)], schedule, 0.5, 1e-3)
    past = DpEvent(30.0, 1.0, 5)
    assert epsilon([past, *schedule(found)], 1e-3) <= 0.5 < epsilon([past, *schedule(found - 1e-3)], 1e-3)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(InputError, match="no such view"):
        epsilon([H], 1e-3, "nobody")  # type: ignore[arg-type]


# --- the event ----------------------------------------------------------------------------------------------------------


def test_the_event_keeps_its_record_and_merges() -> None:
    assert from_record(to_record(H)) == H
    assert merge([H, H]) == (SharedEvent(H.noise_multiplier, 2, 100),)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 0.0049},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"sites": 0},
        {"sites": 1.0},
        {"steps": 0},
    ],
)
def test_an_event_outside_its_ranges_is_refused(changes: dict[str, float]) -> None:
    fields = {"noise_multiplier": 7.0, "sites": 2, "steps": 1}
    with pytest.raises(InputError):
        SharedEvent(**(fields | changes))  # type: ignore[arg-type]
