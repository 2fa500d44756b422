"""A Rényi privacy filter: how much may be spent when each study is chosen after the results of those before it. Pure.

Feldman & Zrnic, "Individual Privacy Accounting via a Rényi Filter" (NeurIPS 2021, arXiv 2008.11193): if mechanisms, chosen one
after the other with full knowledge of all earlier answers, stop before the sum of their Rényi divergences at one order α fixed
in advance exceeds ρ, then all answers together are (α, ρ)-RDP. The bound ρ is the one that Canonne, Kamath & Steinke (arXiv
2004.00010, proposition 12) turn into ε at δ:  ε = ρ + log((α − 1)/α) − (log δ + log α)/(α − 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedward.privacy.accounting import ORDERS, divergences
from fedward.privacy.entries import Budget
from fedward.privacy.events import Event
from fedward.privacy.populations import histories

# Round-off of the limit and of the sums compared with it.
_ROUND_OFF = 1e-9


def filter_order(budget: Budget) -> float:
    """The order to fix when a budget is opened: the one at which the strongest Gaussian mechanism passes.

    A Gaussian mechanism of ρ-zCDP costs ρα at order α, so the best order has the largest limit per α.
    """
    return max(ORDERS, key=lambda order: filter_limit(budget, order) / order)


def filter_limit(budget: Budget, order: float) -> float:
    """What the Rényi divergences at this order may add up to, rounded down; not above 0 if the order is of no use."""
    limit = budget.epsilon - math.log1p(-1 / order) + (math.log(budget.delta) + math.log(order)) / (order - 1)
    return limit - _ROUND_OFF


def filter_spent(history: Sequence[Event], order: float) -> float:
    """The sum of the events' Rényi divergences at this order for the worst population, rounded up; `inf` where unknown."""
    totals = [
        sum(event.steps * float(divergences(event, (order,))[0]) for event in piece) for piece in histories(history)
    ]
    return max(totals, default=0.0)
