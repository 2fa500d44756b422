"""Which release schedule serves an ε best: rounds, sampling rate q, noise multiplier σ and server rate, and what they cost.

Without data a signal-to-noise rule decides. Over T rounds of rate η and momentum β, hospitals with N patients in all and
clipping norm C, clipped gradients that all agree move the model by at most
    signal = η C Σ_t c_t,   c_t = (1 − β^t)/(1 − β),
while K hospitals' noise alone moves it, as the root of its expected square over d parameters, by
    noise = η C σ √(K d) / (q N) · √(Σ_t c_t²),
K being hospitals over sure contributors where they share one hospital's noise.
σ grows as √(T + spare attempts), so that signal/noise hardly depends on T or C, and η fixes how far both go. The rule lets the
noise move the model by at most one: that is the scale of a logistic model's weights on inputs in [−1, 1]. Among rates below
half the heavy ball's limit of stability, 2(1 + β)/L (Polyak 1964), it takes the fewest rounds whose signal is nearly the
largest. Full batches, q = 1, have the least σ/q at a given ε and number of steps; `Plan.sampled` shows it by the gate itself.
Given public data, simulated studies choose between schedules around the rule's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedward.client.datasets import declared
from fedward.privacy.accounting import calibrate, epsilon
from fedward.privacy.entries import Budget
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import DpEvent, History
from fedward.privacy.rdp_filter import filter_limit, filter_order, filter_spent
from fedward.privacy.shares import Gate
from fedward.simulations.baselines import rehearse
from fedward.simulations.expected import Expected, Trials
from fedward.study.evaluation import count_events
from fedward.study.manifest import ImageFeature, Manifest, SealedManifest, parse
from fedward.study.models import build, dimension
from fedward.study.schedule import Schedule as Releases
from fedward.study.schedule import training_schedule
from fedward.study.terms import study_noise, training_cohort

ROUNDS = (5, 10, 15, 20, 30, 40)
"""Numbers of rounds to choose from."""
MOST_NOISE = 1.0
"""How far the noise alone may move a model; `benchmarks.utility` shows what half and twice as much do."""
NEARLY = 0.9
"""The share of the largest signal for which fewer rounds are preferred: each costs the hospitals time."""
FACTORS = (0.5, 1.0, 2.0)
"""Rates around the rule's that simulated studies try."""
SAMPLED = (0.5, 0.1)
"""Sampling rates whose price at equal noise is shown beside the full batch's."""
MOST_AGAIN = 1000
"""More later studies than this are not counted."""
SEARCH_SEED = 1000
"""Simulations that choose a schedule have seeds from here on, those that tell what it gives have others below."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """One way to spend ε. `learning_rate` is the server's; signal and noise are this module's, NaN for adaptive server steps."""

    rounds: int
    local_steps: int
    sampling_rate: float
    learning_rate: float
    noise_multiplier: float
    signal: float = math.nan
    noise: float = math.nan


@dataclass(frozen=True)
class Left:
    """What a hospital's lifetime budget leaves after the study.

    Attributes:
        budget: the lifetime ε, at the study's δ.
        spent: ε that the study takes of it, all attempts charged.
        later: the largest ε of one later study of as many training releases, 0 if none.
        again: how many more studies like this one fit, counted up to `MOST_AGAIN`.
    """

    budget: float
    spent: float
    later: float
    again: int


@dataclass(frozen=True)
class Plan:
    """What one ε buys.

    Attributes:
        epsilon: what was asked for.
        delta: δ.
        schedule: the chosen one; σ is calibrated for all planned attempts.
        manifest: the study with that schedule.
        sites: each hospital's σ and weight: its share of the declared training patients.
        attempts: planned attempts, spare ones included.
        per_round: ε of one attempt alone, for a patient who trains.
        training: ε of all planned attempts, for a patient who trains.
        evaluation: ε of all planned evaluations, for a held-out patient; None where counts leave without noise.
        whole: what a ledger is charged: the larger of the two, as no patient is in both.
        against_all: ε against everyone together, where noise is shared and that is more; else as `training`.
        sampled: for other q, ε of as many steps with equal noise, σ/q.
        candidates: the schedules that were compared, the rule's choice of rate for each number of rounds.
        expected: AUROC in simulated studies, if there was data.
        left: of a lifetime budget, if one was given.
        warnings: sentences for a person.
    """

    epsilon: float
    delta: float
    schedule: Schedule
    manifest: Manifest
    sites: Mapping[str, tuple[float, float]]
    attempts: int
    per_round: float
    training: float
    evaluation: float | None
    whole: float
    against_all: float
    sampled: Mapping[float, float]
    candidates: tuple[Schedule, ...]
    expected: Expected | None
    left: Left | None
    warnings: tuple[str, ...]


def check_delta(delta: float, patients: Mapping[str, int]) -> tuple[str, ...]:
    """Warnings about δ for hospitals of these many patients.

    Raises:
        RefusalError: δ ≥ 1/N at one of them: publishing a random patient's record would satisfy such a promise.
    """
    least = min(patients, key=lambda site: patients[site])
    number = patients[least]
    if not delta < 1 / number:
        raise RefusalError(
            f"δ = {delta:g} promises nothing at {least}, which has {number} patients",
            expected=f"δ below 1/N = {1 / number:.2g}",
            remedy=f"choose δ of at most 1/(10 N) = {0.1 / number:.1g}, or leave {least} out",
            code="delta-too-large",
        )
    if delta > 0.1 / number:
        return (
            f"δ = {delta:g} is above 1/(10 N) = {0.1 / number:.2g} at {least} ({number} patients): choose it smaller",
        )
    return ()


# ---- the signal-to-noise rule ----------------------------------------------------------------------------------------


def candidates(
    manifest: Manifest, patients: Mapping[str, int], target: float, delta: float, rounds: Sequence[int] = ROUNDS
) -> tuple[Schedule, ...]:
    """A schedule for each number of rounds, at the rule's rate; for adaptive server steps the manifest's own alone.

    Args:
        manifest: the study: its algorithm, local steps, q, momentum, C and spare attempts stay.
        patients: each hospital's registered patients.
        target: ε of the whole study.
        delta: δ.
        rounds: numbers of rounds to compare.

    Raises:
        InputError: an argument is out of range.
        RefusalError: no σ in reach keeps ε.
    """
    training = manifest.training
    if not rounds:
        raise InputError("no number of rounds to choose from", expected="at least one")
    if training.adaptive:  # its steps are normalised: no rate bounds what noise does to them
        sigma = _calibrated(manifest, training.rounds, target, delta)
        return (_schedule(manifest, training.rounds, sigma),)
    most = max(rounds)
    largest = _calibrated(manifest, most, target, delta)
    found = []
    for number in sorted(set(rounds)):
        # Unsampled Gaussians compose to one of variance 1/Σσ⁻²: σ ∝ √steps. The chosen schedule is calibrated by itself.
        exact = number == most or training.sampling_rate < 1
        share = math.sqrt(_attempts(manifest, number) / _attempts(manifest, most))
        sigma = _calibrated(manifest, number, target, delta) if exact else largest * share
        found.append(at_best_rate(manifest, patients, _schedule(manifest, number, sigma)))
    return tuple(found)


def by_rule(found: Sequence[Schedule]) -> Schedule:
    """The fewest rounds whose signal is nearly the largest."""
    if len(found) == 1:
        return found[0]
    largest = max(one.signal for one in found)
    return min((one for one in found if one.signal >= NEARLY * largest), key=lambda one: one.rounds)


def most_rate(manifest: Manifest) -> float:
    """The largest server rate that the rule uses: half the heavy ball's limit of stability for logistic regression by FedSGD,
    whatever the patients; for other studies, whose curvature nothing bounds, the manifest's own.

    The loss's Hessian is at most (1 + ‖x‖²)/4, and each feature adds at most 1 to ‖x‖²: a number is in [−1, 1], of a level
    and a gap's indicator one is 1. Declared and actual cohorts may differ by five patients, which half the limit covers.
    """
    training = manifest.training
    if manifest.model.name != "logistic-regression" or training.algorithm != "fedsgd":
        return training.server_learning_rate
    features = sum(f.pixels if isinstance(f, ImageFeature) else 1 for f in manifest.features)
    return (1 + training.server_momentum) / ((2 + features) / 4)


def at_best_rate(
    manifest: Manifest, patients: Mapping[str, int], schedule: Schedule, most_noise: float = MOST_NOISE
) -> Schedule:
    """The schedule at the largest server rate with which its noise moves the model by at most `most_noise`, below the limit."""
    at_one = _moved(manifest, patients, replace(schedule, learning_rate=1.0))
    # Rounded down to two digits: a person reads the rate in the manifest.
    rate = _two_digits(min(most_rate(manifest), most_noise / at_one.noise))
    return replace(at_one, learning_rate=rate, signal=rate * at_one.signal, noise=rate * at_one.noise)


def _two_digits(value: float) -> float:
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale + 1e-9) * scale:.2g}")


def _moved(manifest: Manifest, patients: Mapping[str, int], schedule: Schedule) -> Schedule:
    """The schedule with its signal and noise."""
    training, clip = manifest.training, manifest.privacy.clipping_norm
    local = 1.0 if training.algorithm == "fedsgd" else training.local_learning_rate
    cohort = sum(declared(number) for number in patients.values()) * (1 - training.holdout)
    beta = training.server_momentum
    stays = (1 - beta ** np.arange(1, schedule.rounds + 1)) / (1 - beta)
    step = schedule.learning_rate * local * clip
    noises = len(patients) / max(1, _releases(manifest, schedule.rounds).honest_sites)
    coordinates = dimension(build(manifest)) * noises * schedule.local_steps
    spread = schedule.noise_multiplier / (schedule.sampling_rate * cohort) * math.sqrt(coordinates)
    return replace(
        schedule,
        signal=step * schedule.local_steps * float(stays.sum()),
        noise=step * spread * float(np.sqrt((stays**2).sum())),
    )


def _schedule(manifest: Manifest, rounds: int, sigma: float) -> Schedule:
    training = manifest.training
    return Schedule(rounds, training.local_steps, training.sampling_rate, training.server_learning_rate, sigma)


def _attempts(manifest: Manifest, rounds: int) -> int:
    return _releases(manifest, rounds).attempts


def _releases(manifest: Manifest, rounds: int) -> Releases:
    """What the study would release in so many rounds."""
    training = manifest.training.model_copy(update={"rounds": rounds})
    return training_schedule(manifest.model_copy(update={"training": training}))


def _calibrated(manifest: Manifest, rounds: int, target: float, delta: float) -> float:
    return calibrate([], _releases(manifest, rounds).events, target, delta)


# ---- the plan --------------------------------------------------------------------------------------------------------


def with_schedule(manifest: Manifest, target: float, delta: float, schedule: Schedule) -> Manifest:
    """The study with a schedule's rounds and rate, ε and δ.

    Raises:
        InputError: a value is outside what a manifest allows.
    """
    data = manifest.model_dump(mode="json")
    data["training"] |= {"rounds": schedule.rounds, "server_learning_rate": schedule.learning_rate}
    data["privacy"] |= {"mechanism": "dp-sgd", "epsilon": target, "delta": delta}
    return parse(data, "the planned study")


def seal(manifest: Manifest, patients: Mapping[str, int], schedule: Schedule) -> SealedManifest:
    """The study sealed for a simulation with the schedule's σ, which spends ε on training alone."""
    return rehearse(manifest, patients, noise_multiplier=schedule.noise_multiplier)


def plan(
    manifest: Manifest,
    patients: Mapping[str, int],
    target: float,
    delta: float,
    *,
    rounds: Sequence[int] = ROUNDS,
    trials: Trials | None = None,
    budget: float | None = None,
    report: Report = lambda _line: None,
) -> Plan:
    """The schedule that serves an ε best, and what it costs and gives.

    Args:
        manifest: the study.
        patients: each hospital's registered patients.
        target: ε of the whole study, for each hospital.
        delta: δ.
        rounds: numbers of rounds to choose from.
        trials: public data to simulate on; without it the rule decides.
        budget: a hospital's lifetime ε, at the same δ.
        report: told what is being done.

    Raises:
        InputError: an argument is out of range.
        RefusalError: δ ≥ 1/N, or no σ in reach keeps ε.
    """
    if not patients:
        raise InputError("no hospitals", expected="each hospital's number of patients")
    warnings = check_delta(delta, patients)
    report(f"ε = {target:g}: calibrating noise for {min(rounds)} to {max(rounds)} rounds")
    found = candidates(manifest, patients, target, delta, rounds)
    chosen = by_rule(found)
    if trials is not None:
        report(f"ε = {target:g}: simulating studies of {len(patients)} hospitals")
        chosen = by_trials(manifest, patients, found, chosen, trials)
    chosen = calibrated(manifest, patients, chosen, target, delta)
    planned = with_schedule(manifest, target, delta, chosen)
    sealed = seal(planned, patients, chosen)
    return _costed(sealed, target, delta, chosen, found, trials, budget, warnings, report)


def calibrated(
    manifest: Manifest, patients: Mapping[str, int], schedule: Schedule, target: float, delta: float
) -> Schedule:
    """The schedule with the smallest σ that keeps ε, by the gate itself; arguments and errors as `plan`."""
    found = replace(schedule, noise_multiplier=_calibrated(manifest, schedule.rounds, target, delta))
    return found if manifest.training.adaptive else _moved(manifest, patients, found)


def by_trials(
    manifest: Manifest, patients: Mapping[str, int], found: Sequence[Schedule], rule: Schedule, trials: Trials
) -> Schedule:
    """Of each candidate at rates around the rule's, the schedule that serves best in simulated studies: the fewest rounds
    within one standard error of the largest mean AUROC, paired over seeds (Breiman et al. 1984, section 3.4.3). The rule's own
    where a simulation takes minutes: another model than logistic regression, or several rows a patient.
    """
    if manifest.training.adaptive or not trials.fast(seal(manifest_at(manifest, rule), patients, rule)):
        return rule
    limit = 2 * most_rate(manifest)
    tried = [
        _moved(manifest, patients, replace(one, learning_rate=_two_digits(min(limit, factor * one.learning_rate))))
        for one in found
        for factor in FACTORS
    ]
    sealed = [seal(manifest_at(manifest, one), patients, one) for one in tried]
    areas = np.nan_to_num(trials.shifted(SEARCH_SEED).run(sealed), nan=0.0)
    means = areas.mean(axis=1)
    behind = areas[np.argmax(means)] - areas
    error = behind.std(axis=1, ddof=1) / math.sqrt(areas.shape[1])
    good = [index for index in range(len(tried)) if behind[index].mean() <= error[index]]
    return tried[min(good, key=lambda index: (tried[index].rounds, -means[index]))]


def manifest_at(manifest: Manifest, schedule: Schedule) -> Manifest:
    """The study with a schedule, whatever it costs: ε and δ stand for nothing but that there is noise."""
    privacy = manifest.privacy
    return with_schedule(manifest, privacy.epsilon or 1.0, privacy.delta or 1e-3, schedule)


def _costed(
    sealed: SealedManifest,
    target: float,
    delta: float,
    schedule: Schedule,
    found: tuple[Schedule, ...],
    trials: Trials | None,
    budget: float | None,
    warnings: tuple[str, ...],
    report: Report,
) -> Plan:
    releases = training_schedule(sealed.manifest)
    sigma, steps = schedule.noise_multiplier, releases.steps * releases.attempts
    trained = releases.events(sigma)
    counted = count_events(sealed.manifest, sealed.count_deviation)
    sites = [entry.site for entry in sealed.roster]
    everybody = sum(training_cohort(sealed, site) for site in sites)
    sampled = (
        {}
        if releases.honest_sites
        else {
            q: epsilon([DpEvent(sigma * q / schedule.sampling_rate, q, steps)], delta)
            for q in (SAMPLED if schedule.sampling_rate == 1 else (1.0,))
        }
    )
    cheaper = [q for q, price in sampled.items() if price < target]
    if cheaper:
        warnings += (f"sampling at q = {cheaper[0]:g} would give the same noise for ε = {sampled[cheaper[0]]:g}",)
    return Plan(
        epsilon=target,
        delta=delta,
        schedule=schedule,
        manifest=sealed.manifest,
        sites={site: (study_noise(sealed, site), training_cohort(sealed, site) / everybody) for site in sites},
        attempts=releases.attempts,
        per_round=epsilon(replace(releases, attempts=1).events(sigma), delta),
        training=epsilon(trained, delta),
        evaluation=epsilon(counted, delta) if counted else None,
        whole=epsilon((*trained, *counted), delta),
        against_all=epsilon(trained, delta, "everyone"),
        sampled=sampled,
        candidates=found,
        expected=None if trials is None else trials.expected(sealed, report),
        left=None if budget is None else left(releases, sigma, counted, budget, delta),
        warnings=warnings,
    )


def left(releases: Releases, sigma: float, counted: History, budget: float, delta: float) -> Left:
    """What a lifetime budget leaves after a study, by the rule with which a ledger admits studies.

    Args:
        releases: what the study trains with.
        sigma: its noise multiplier.
        counted: its noised evaluations.
        budget: the lifetime ε.
        delta: δ of study and budget.

    Raises:
        RefusalError: the study alone does not fit.
    """
    events = (*releases.events(sigma), *counted)
    spent = epsilon(events, delta)
    if not spent <= budget:
        raise RefusalError(
            f"the study costs ε = {spent:g}, a lifetime budget of {budget:g} does not hold it",
            remedy="plan a smaller ε",
            code="budget-exhausted",
        )
    gate = _gate_after(events, Budget(budget, delta))
    try:
        later_sigma = calibrate(events, releases.events, budget, delta, also=gate.fits)
        later = epsilon(releases.events(later_sigma), delta)
    except RefusalError:
        later = 0.0
    return Left(budget, spent, later, _again(events, gate))


def _gate_after(events: History, budget: Budget) -> Gate:
    """How the ledger of a hospital that ran this study alone would judge the next one."""
    order = filter_order(budget)
    locked = not filter_spent(events, order) <= filter_limit(budget, order)
    return Gate(budget, order, events, locked=locked, unfiltered=Counter(), written_off=False)


def _again(events: History, gate: Gate) -> int:
    """How many more of a study's releases fit after the first, at most `MOST_AGAIN`."""

    def fits(more: int) -> bool:
        return gate.fits([replace(event, steps=event.steps * more) for event in events])

    low, high = 0, 1
    while high <= MOST_AGAIN and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_AGAIN + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
