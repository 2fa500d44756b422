"""What a study may cost this hospital's patients: the noise that it needs here, from what the ledger has left.

σ is calibrated at planning, by the hospital itself, and rounded up to one of a few steps, so that the answer tells little of
what was spent before. What is kept is kept twice: the study alone costs at most the ε of its manifest at the study's δ, and
everything that this hospital was ever asked, this study included, at most the lifetime budget at the ledger's own δ.
"""

from __future__ import annotations

from dataclasses import replace

from fedward.client.home import SiteHome
from fedward.privacy.errors import RefusalError
from fedward.privacy.events import History
from fedward.privacy.ledger import Ledger
from fedward.study.kinds import AnyManifest, AnySealed
from fedward.study.schedule import least_noise, noise_steps, schedule_of


def calibrated(ledger: Ledger, manifest: AnyManifest) -> float:
    """The smallest step of noise at which a study keeps its own ε and the ledger its lifetime budget; 0 without DP.

    Raises:
        RefusalError: `budget-exhausted`: not even the largest step fits what is left; `budget-unreachable`: no noise keeps the
            manifest's own ε.
    """
    schedule, steps = schedule_of(manifest), noise_steps(least_noise(manifest))
    low, high = 0, len(steps)
    while low < high:  # more noise never costs more, so halving finds the smallest step that fits
        middle = (low + high) // 2
        if _fits(ledger, schedule.events(steps[middle])):
            high = middle
        else:
            low = middle + 1
    if low == len(steps):
        budget = ledger.budget
        raise RefusalError(
            "too little of the lifetime budget is left for this study",
            expected=f"at most ε = {budget.epsilon:g} at δ = {budget.delta:g} with it",
            got=f"ε = {ledger.would_cost(schedule.events(steps[-1]))} even with {steps[-1] / steps[0]:.1f} times its least noise",
            remedy="plan a study of a smaller ε or of fewer rounds",
            code="budget-exhausted",
        )
    return steps[low]


def _fits(ledger: Ledger, events: History) -> bool:
    return not events or ledger.would_cost(events) <= ledger.budget.epsilon


def cost(home: SiteHome, sealed: AnySealed) -> tuple[float, float]:
    """(ε spent at this hospital so far, ε once all of the study's planned attempts are charged), at the ledger's δ."""
    ledger = home.ledger()
    charges = [entry.charge for entry in ledger.charges() if entry.charge.study_digest == sealed.digest]
    made = len({(charge.round, charge.attempt) for charge in charges if charge.event is not None})
    schedule = schedule_of(sealed.manifest)
    left = replace(schedule, attempts=schedule.attempts - made)
    return ledger.spent(), ledger.would_cost(left.events(sealed.entry(home.site).noise_multiplier))
