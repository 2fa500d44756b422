"""What a study may cost this hospital's patients: its noise, what is held for it, and when that is free again.

σ is calibrated at planning, by the hospital itself, and rounded up to one of a few steps, so that the answer tells little of
what was spent before. What is kept is kept twice: the study alone costs at most the ε of its manifest at the study's δ, and
everything that this hospital was ever asked, this study included, at most the lifetime budget at the ledger's own δ.
Approval reserves the whole schedule; refusing, revoking, the study's end and its expiry give free what was not charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedward.client.policy import load_policy
from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import Reason
from fedward.privacy.errors import RefusalError
from fedward.privacy.events import Event, History, SharedEvent
from fedward.privacy.ledger import Charge, Ledger, Release, Reservation
from fedward.privacy.shares import history_of, steps_of
from fedward.study.evaluation import count_deviation, count_events, counts_keep_promise
from fedward.study.kinds import AnyManifest, AnySealed
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.schedule import least_noise, noise_steps, schedule_of, study_events
from fedward.study.terms import study_noise

if TYPE_CHECKING:
    from fedward.client.home import SiteHome


def calibrated(ledger: Ledger, manifest: AnyManifest, *, at: int) -> float:
    """The smallest step of noise at which a study keeps its own ε and the ledger its lifetime budget; 0 without DP.

    Raises:
        RefusalError: `budget-exhausted`: not even the largest step fits what is left; `budget-unreachable`: no noise keeps the
            manifest's own ε.
    """
    schedule, steps, gate = schedule_of(manifest), noise_steps(least_noise(manifest)), ledger.gate(at=at)
    counts = count_events(manifest, count_deviation(manifest)) if isinstance(manifest, Manifest) else ()
    low, high = 0, len(steps)
    while low < high:  # more noise never costs more, so halving finds the smallest step that fits
        middle = (low + high) // 2
        events = (*schedule.events(steps[middle]), *counts)
        if not events or gate.fits(events):
            high = middle
        else:
            low = middle + 1
    if low == len(steps):
        budget = ledger.budget
        raise RefusalError(
            "too little of the lifetime budget is left for this study",
            expected=f"at most ε = {budget.epsilon:g} at δ = {budget.delta:g} with it",
            got=f"ε = {gate.cost(events)} even with {steps[-1] / steps[0]:.1f} times its least noise",
            remedy="plan a study of a smaller ε or of fewer rounds",
            code="budget-exhausted",
        )
    return steps[low]


def check_promise(sealed: AnySealed, site: str) -> None:
    """That this site's σ keeps the ε that the study promises: a coordinator may have sealed another than was declared.

    Raises:
        RefusalError: `budget-exhausted`: it does not.
    """
    privacy = sealed.manifest.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return
    found = epsilon(schedule_of(sealed.manifest).events(study_noise(sealed, site)), privacy.delta)
    if not found <= privacy.epsilon:
        raise RefusalError(
            "the study's noise for this site does not keep its own promise",
            expected=f"ε = {privacy.epsilon:g} at δ = {privacy.delta:g} with every planned attempt",
            got=f"ε = {found} with σ = {sealed.entry(site).noise_multiplier:g}",
            remedy="refuse it, and ask the coordinator to propose it again",
            code="budget-exhausted",
        )
    if isinstance(sealed, SealedManifest) and not counts_keep_promise(sealed):
        raise RefusalError(
            "the study's noise on counts does not keep its own promise",
            expected=f"ε = {sealed.manifest.counting.epsilon} with every planned evaluation",
            got=f"noise of {sealed.count_deviation:g} a count",
            remedy="refuse it, and ask the coordinator to propose it again",
            code="policy-count-noise",
        )


def check_delta(ledger: Ledger, patients: int) -> None:
    """That the ledger's own δ promises something: it must lie below 1/N, or one patient may be told outright.

    Raises:
        RefusalError: `policy-delta`: it does not.
    """
    delta = ledger.budget.delta
    if not delta * patients < 1:
        raise RefusalError(
            f"the lifetime budget's δ is not below 1/N for {patients} patients, so it promises nothing",
            expected=f"below {1 / patients:.2g}",
            got=f"{delta:g}",
            remedy="make the site anew with a smaller --delta, before anything is charged",
            code="policy-delta",
        )


def warnings(ledger: Ledger, sealed: AnySealed, patients: int) -> list[str]:
    """What a person should know of δ before they approve: above 1/(10 N) it says little."""
    found = []
    for whose, delta in (("the study's", sealed.manifest.privacy.delta), ("the lifetime", ledger.budget.delta)):
        if delta is not None and delta * patients > 0.1:
            found.append(
                f"{whose} δ = {delta:g} is above 1/(10 N) = {0.1 / patients:.2g} for {patients} patients: it promises little"
            )
    return found


def reserve(home: SiteHome, sealed: AnySealed, cohort: str, *, at: int) -> None:
    """Hold for a study what it may still charge here; one that is held already stays held.

    Args:
        cohort: the fingerprint of the patients that it is for.
        at: now, in Unix seconds.

    Raises:
        RefusalError: `budget-exhausted` or `period-exhausted`: it does not fit; nothing is held.
    """
    check_promise(sealed, home.site)
    with home.ledger() as ledger:
        rest = rest_of(ledger, sealed.digest, study_events(sealed, home.site))
        held = [one for one in ledger.reservations(at=at) if one.reservation.study_digest == sealed.digest]
        if held and (held[0].reservation.cohort, held[0].remaining) == (cohort, rest):
            return
        if held:
            release(home, ledger, sealed.digest, "replaced", at=at)
        if rest:
            check_all_others(home, ledger, rest, at=at)
            reservation = Reservation(sealed.digest, sealed.manifest.study.id, rest, sealed.expires_at, cohort)
            ledger.reserve(reservation, at=at, period=load_policy(home.policy_file).period)
            home.record("reserved", at=at, study=sealed.digest, entry=ledger.head.sequence, until=sealed.expires_at)


def release(home: SiteHome, ledger: Ledger, study: str, reason: Reason, *, at: int) -> None:
    """Give free what a study has not charged; errors as `Ledger.release` and `SiteHome.record`."""
    before = ledger.head.sequence
    ledger.release(study, reason, at=at)
    for entry in ledger.entries()[-1:]:
        if entry.sequence > before and isinstance(entry.what, Release) and _of(entry.what, study):
            home.record("released", at=at, study=study, reason=reason, entry=entry.sequence)


def check_all_others(home: SiteHome, ledger: Ledger, events: Sequence[Event], *, at: int) -> None:
    """That what is held, with these events, stays within the policy's ceiling even if everyone else colludes.

    The lifetime budget is held against the adversary that each study names. Where noise is shared, that leaves more to all others
    together, and this ceiling, `max_epsilon_all_others`, bounds it over all studies at the ledger's δ.

    Raises:
        RefusalError: `policy-epsilon-all-others`: it does not.
    """
    history = (*ledger.commitments(at=at), *events)
    if not is_shared(history):
        return
    most, found = (
        load_policy(home.policy_file).max_epsilon_all_others,
        epsilon(history, ledger.budget.delta, "everyone"),
    )
    if not found <= most:
        raise RefusalError(
            "the study would cost too much if everyone else colluded",
            expected=f"at most ε = {most:g} over all studies, at δ = {ledger.budget.delta:g}",
            got=f"ε = {found:g}",
            remedy="ask for a study with local noise, or raise max_epsilon_all_others in the policy",
            code="policy-epsilon-all-others",
        )


def against_all_others(ledger: Ledger) -> tuple[float, float] | None:
    """(ε spent, ε with all that is reserved) if everyone else colludes, at the ledger's δ; None where no noise is shared."""
    made = [entry.charge.event for entry in ledger.charges() if entry.charge.event is not None]
    held, delta = ledger.commitments(), ledger.budget.delta
    if not is_shared(held):
        return None
    return epsilon(made, delta, "everyone"), epsilon(held, delta, "everyone")


def is_shared(history: Sequence[Event]) -> bool:
    """Whether any noise of a history is shared, so that its ε differs by adversary."""
    return any(isinstance(event, SharedEvent) for event in history)


def rest_of(ledger: Ledger, study: str, events: Sequence[Event]) -> History:
    """What of a study's schedule was not charged yet, merged."""
    made = [e.what.event for e in ledger.entries() if isinstance(e.what, Charge) and e.what.study_digest == study]
    return history_of([steps_of(events) - steps_of(event for event in made if event is not None)])


def stopped_before(ledger: Ledger, study: str) -> bool:
    """Whether a study holds nothing because its coordinator stopped it: continued, it is held again under the same approval."""
    told = [e.what for e in ledger.entries() if not isinstance(e.what, Charge) and _of(e.what, study)]
    return bool(told) and isinstance(told[-1], Release) and told[-1].reason == "stopped"


def _of(what: object, study: str) -> bool:
    return getattr(what, "study_digest", None) == study


def require_room(home: SiteHome, sealed: AnySealed) -> None:
    """That a study fits into what is left of the lifetime budget; the last approval reserves it.

    Raises:
        RefusalError: `budget-exhausted`: it does not.
    """
    _, after = cost(home, sealed)
    with home.ledger() as ledger:
        budget = ledger.budget
    if not after <= budget.epsilon:
        raise RefusalError(
            "the study does not fit into what is left of the privacy budget",
            expected=f"ε at most {budget.epsilon:g} in all",
            got=f"{after:.3f} with this study",
            remedy="refuse it, or ask for a study with a smaller ε",
            code="budget-exhausted",
        )


def cost(home: SiteHome, sealed: AnySealed) -> tuple[float, float]:
    """(ε spent at this hospital so far, ε once all that is reserved and all of this study is charged), at the ledger's δ."""
    ledger = home.ledger()
    if any(held.reservation.study_digest == sealed.digest for held in ledger.reservations()):
        return ledger.spent(), ledger.committed()
    return ledger.spent(), ledger.would_cost(rest_of(ledger, sealed.digest, study_events(sealed, home.site)))
