"""How much privacy a history of noisy sums has cost: ε at a given δ, add/remove one patient.

A history is a sequence of `events`. Their order does not matter, so equal events are merged and sorted, and that
canonical tuple is what the caches are keyed by. Where events are over different patients, each population composes what it
was in and the worst one's ε counts (`populations`). A patient's part of a `CountEvent` is worst when every coordinate that it
changes moves by the whole sensitivity, since the noise is log-concave: its loss is that of as many scalar mechanisms.

`epsilon` is the gate. It composes pessimistic privacy loss distributions of dp_accounting (connect-the-dots, Doroshenko
et al., arXiv 2207.04380) on a grid of 1e-3: never below the true ε but for floating-point round-off, which the bounds on δ
and on the grid keep far below the 1e-4 that every ε is rounded up to. Rényi DP (Mironov et al., arXiv 1908.10530, with the
conversion of Canonne, Kamath & Steinke, arXiv 2004.00010, Prop. 12) is also an upper bound; it decides where the grid
cannot, and wherever noise is shared: of sums of discrete Gaussians only zCDP is proven (`concentrated`). GDP's central
limit under-reports and is not here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.concentrated import concentration
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import CountEvent, DpEvent, Event, History, SharedEvent, View, in_view, number
from fedward.privacy.populations import histories

_log = logging.getLogger(__name__)

# Grid of privacy losses. At 1e-4 everything is ten times as slow and ε at most 0.03 smaller on realistic histories.
_INTERVAL = 1e-3
# A single event whose losses need more grid points than this has no useful ε; RDP says so at once.
_MOST_POINTS = 2_000_000
# Below this δ the round-off of the FFT (about 1e-16 a grid point) is no longer small beside δ.
_SMALLEST_GRID_DELTA = 1e-10
# Above this ε a finer answer than RDP's is of no use, and the grid grows without bound.
_LARGEST_GRID_EPSILON = 60.0
# Integer orders are finite sums. Fractional ones under 2 do not converge in dp_accounting's series and are left out.
ORDERS = (2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, *map(float, range(5, 64)), 80.0, 128.0, 256.0, 512.0, 1024.0)
# Where the divergence is a line through the origin every order is known, and a fine choice loses nothing.
_FINE_ORDERS = tuple(1 + np.geomspace(1e-2, 1e6, 800))
# Few orders tell well enough whether the grid is worth it; each one more costs milliseconds a mechanism.
_COARSE_ORDERS = (2.0, 4.0, 8.0, 16.0)
# Round-off of one step's log-moment, added so that a difference of nearly equal numbers cannot read as "free".
_MOMENT_ROUND_OFF = 1e-13
# Range and resolution of proposed noise multipliers.
SMALLEST_SIGMA = 0.1
LARGEST_SIGMA = 1e4
_SIGMA_STEPS = 1000


# What a study will do at a noise multiplier: a function of σ, or (sampling rate, steps) for one constant schedule.
Schedule = Callable[[float], Sequence[Event]] | tuple[float, int]


def load() -> None:
    """Import what the first ε needs, which takes a second or two: for a process that has time before it is asked."""
    from dp_accounting.pld import privacy_loss_distribution as _losses  # noqa: F401, PLC0415
    from dp_accounting.rdp import rdp_privacy_accountant as _divergences  # noqa: F401, PLC0415


def epsilon(history: Sequence[Event], delta: float, view: View = "coordinator") -> float:
    """The gate's ε of a history: PLD, or RDP where PLD cannot be trusted.

    RDP decides, with a line in the log when that was a failure, if noise is shared, if δ is below 1e-10, if RDP's own ε
    exceeds 60, or if the grid fails numerically. Both are upper bounds, so the change never under-reports.

    Args:
        history: events in any order; none means nothing was spent.
        delta: δ in (0, 1).
        view: against whom, where noise is shared.

    Returns:
        ε, rounded up to 1e-4; `inf` if no finite bound is known.

    Raises:
        InputError: `delta` is outside (0, 1), or there is no such view.
    """
    _check_delta(delta)
    return _worst(_gate, in_view(history, view), delta)


def epsilon_pld(history: Sequence[Event], delta: float) -> float:
    """Pessimistic PLD ε, rounded up to 1e-4; arguments as `epsilon`. Of shared noise only a sanity check: as if continuous.

    Raises:
        InputError: `delta` is outside (0, 1).
        ArithmeticError: the grid is too large or the result is not a probability distribution.
    """
    _check_delta(delta)
    return _round_up(_worst(_pld_epsilon, history, delta))


def epsilon_rdp(history: Sequence[Event], delta: float) -> float:
    """RDP ε, rounded up to 1e-4; arguments as `epsilon`. Looser than PLD by about a tenth, and cheap.

    Raises:
        InputError: `delta` is outside (0, 1).
    """
    _check_delta(delta)
    return _round_up(_worst(_rdp_epsilon, history, delta))


def calibrate(
    history: Sequence[Event],
    schedule: Schedule,
    epsilon: float,
    delta: float,
    *,
    also: Callable[[Sequence[Event]], bool] = lambda _: True,
) -> float:
    """The smallest noise multiplier at which a schedule, after all that was spent before, stays within ε.

    Args:
        history: every event already charged to these patients.
        schedule: the events of the whole study, spare attempts included, as a function of σ; or (q, steps).
        epsilon: the target for history and schedule together.
        delta: δ in (0, 1).
        also: what else the schedule's events must pass, such as the `Gate.fits` of a ledger; true for less noise implies true
            for more.

    Returns:
        σ between 0.1 and 1e4, rounded up to three decimals; the gate holds at exactly this value.

    Raises:
        InputError: an argument is outside its range.
        RefusalError: `budget-exhausted` if the history alone leaves nothing, `budget-unreachable` if σ = 1e4 is too little.
    """
    _check_delta(delta)
    if not number(epsilon, "epsilon") > 0:
        raise InputError("epsilon is no budget", expected="a number above 0", got=repr(epsilon))
    past = tuple(history)
    spent = _worst(_gate, past, delta)
    if not spent < epsilon:
        raise RefusalError(
            f"earlier studies already cost ε = {spent} of {epsilon} at δ = {delta}, nothing is left",
            remedy="ask whether these patients' lifetime budget may be larger; no noise can help",
            code="budget-exhausted",
        )
    plan = schedule if callable(schedule) else _constant(*schedule)

    def over(thousandths: int) -> float:
        """What fits is at most 0; else how far it is beyond, as the logarithm of a ratio."""
        events = tuple(plan(thousandths / _SIGMA_STEPS))
        cost = _worst(_gate, (*past, *events), delta) - spent
        excess = math.log(cost / (epsilon - spent)) if 0 < cost < math.inf else cost
        return excess if excess > 0 or also(events) else math.inf

    found = _smallest(over, round(SMALLEST_SIGMA * _SIGMA_STEPS), round(LARGEST_SIGMA * _SIGMA_STEPS))
    if found is None:
        raise RefusalError(
            f"no noise multiplier up to {LARGEST_SIGMA:g} keeps this schedule within ε = {epsilon} at δ = {delta}",
            got=f"ε = {spent} spent before, {_left(epsilon, spent)} left",
            remedy="plan fewer steps, a smaller sampling rate or a larger ε",
            code="budget-unreachable",
        )
    return found / _SIGMA_STEPS


def _worst(account: Callable[[History, float], float], history: Sequence[Event], delta: float) -> float:
    """The largest ε of any population; 0 if nothing was done."""
    return max((account(piece, delta) for piece in histories(history)), default=0.0)


def _smallest(over: Callable[[int], float], low: int, high: int) -> int | None:
    """The smallest whole number n of [low, high] with over(n) ≤ 0, where all above it fit too; None if none does.

    Each evaluation may take a tenth of a second. ε falls about as a power of σ, so the secant over log n soon comes close; every
    fourth step halves instead, for where it does not.
    """
    at = max(low, _SIGMA_STEPS)
    tried = [(at, over(at))]
    failing = low - 1
    while tried[-1][1] > 0:
        if at == high:
            return None
        failing, at = at, min(2 * at, high)
        tried.append((at, over(at)))
    passing = at
    while passing - failing > 1:
        middle = (failing + passing) // 2
        at = middle if len(tried) % 4 == 0 else min(max(_secant(tried, middle), failing + 1), passing - 1)
        tried.append((at, over(at)))
        failing, passing = (at, passing) if tried[-1][1] > 0 else (failing, at)
    return passing


def _secant(tried: Sequence[tuple[int, float]], otherwise: int) -> int:
    """Where the line through the last two points, over log n, comes to 0, rounded up; `otherwise` where it comes to none."""
    (one, high), (two, low) = tried[-2:] if len(tried) > 1 else (tried[0], (tried[0][0], math.inf))
    if one == two or not math.isfinite(high - low) or high == low:
        return otherwise
    exponent = high / (high - low) * math.log(two / one)
    return math.ceil(one * math.exp(exponent)) if abs(exponent) < math.log(100) else otherwise


def _constant(sampling_rate: float, steps: int) -> Callable[[float], Sequence[Event]]:
    return lambda sigma: (DpEvent(sigma, sampling_rate, steps),)


def _check_delta(delta: float) -> None:
    if not 0 < number(delta, "delta") < 1:
        raise InputError("delta is no probability below certainty", expected="a number in (0, 1)", got=repr(delta))


def _round_up(value: float) -> float:
    """Up to a multiple of 1e-4, decided on the exact binary value."""
    if not math.isfinite(value):
        return math.inf
    return float(Decimal(value).quantize(Decimal("0.0001"), rounding=ROUND_CEILING))


def _left(budget: float, spent: float) -> float:
    return float(Decimal(repr(budget)) - Decimal(repr(spent)))


@lru_cache(maxsize=1024)
def _gate(merged: History, delta: float) -> float:
    shared = any(isinstance(event, SharedEvent) for event in merged)
    if shared or delta < _SMALLEST_GRID_DELTA or not _within_grid(merged, delta):
        return _round_up(_rdp_epsilon(merged, delta))
    try:
        return _round_up(_pld_epsilon(merged, delta))
    except (ArithmeticError, ValueError, MemoryError) as error:
        _log.warning("PLD accounting failed (%s); the looser RDP bound decides", error)
        return _round_up(_rdp_epsilon(merged, delta))


def _within_grid(merged: History, delta: float) -> bool:
    coarse = _rdp_at(merged, delta, _COARSE_ORDERS) <= _LARGEST_GRID_EPSILON
    return coarse or _rdp_epsilon(merged, delta) <= _LARGEST_GRID_EPSILON


def _pld_epsilon(merged: History, delta: float) -> float:
    with np.errstate(all="ignore"):  # what matters is checked below
        loss = _composed(merged)
        # At ε → −∞ the hockey-stick divergence is the whole mass.
        mass = float(loss.get_delta_for_epsilon(-1e9))
        value = float(loss.get_epsilon_for_delta(delta))
    # dp_accounting clips round-off upwards: 14 000 steps gain 2e-6 of mass, which only raises ε. Missing mass would lower it.
    if not 1.0 - 1e-9 <= mass <= 1.01:
        raise ArithmeticError(f"the composed distribution has mass {mass!r}")
    if not value >= 0:
        raise ArithmeticError(f"the composed distribution gave ε = {value!r}")
    return value


@lru_cache(maxsize=256)
def _composed(merged: History) -> Any:
    """The history's PLD. A balanced tree: when one mechanism gains a step, only the nodes above it are computed anew."""
    if len(merged) == 1:
        return _repeated(merged[0])
    middle = len(merged) // 2
    return _composed(merged[:middle]).compose(_composed(merged[middle:]))


def _repeated(event: Event) -> Any:
    if isinstance(event, CountEvent):
        return _single_count(event.deviation, event.sensitivity).self_compose(event.coordinates * event.steps)
    if isinstance(event, SharedEvent):
        return _single(event.pool_noise / math.sqrt(event.steps), 1.0)
    if event.sampling_rate == 1.0:
        # n Gaussians without sampling are exactly one with σ/√n.
        return _single(event.noise_multiplier / math.sqrt(event.steps), 1.0)
    return _single(event.noise_multiplier, event.sampling_rate).self_compose(event.steps)


@lru_cache(maxsize=256)
def _single(sigma: float, q: float) -> Any:
    # 10.5 standard deviations reach dp_accounting's tail bound of e^-50; losses run to about ±(1/2 + 10.5σ)/σ².
    points = 2 * (0.5 + 10.5 * sigma) / sigma**2 / _INTERVAL
    if not points <= _MOST_POINTS:
        raise ArithmeticError(f"σ = {sigma!r} needs a grid of {points:.1e} points")
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415 - imports scipy.stats, a second

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, value_discretization_interval=_INTERVAL, sampling_prob=q, pessimistic_estimate=True
    )


@lru_cache(maxsize=64)
def _single_count(deviation: float, sensitivity: int) -> Any:
    ratio = sensitivity / deviation
    points = max(24 * deviation, 2 * (ratio**2 / 2 + 12 * ratio) / _INTERVAL)
    if not points <= _MOST_POINTS or not sensitivity <= 10 * deviation:
        raise ArithmeticError(f"counts with σ = {deviation!r} need a grid of {points:.1e} points")
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415 - imports scipy.stats, a second

    return privacy_loss_distribution.from_discrete_gaussian_mechanism(
        deviation,
        sensitivity,
        value_discretization_interval=_INTERVAL,
        pessimistic_estimate=True,
        use_connect_dots=True,
    )


def _rdp_epsilon(merged: History, delta: float) -> float:
    if all(concentration(event) is not None for event in merged):
        return _rdp_at(merged, delta, _FINE_ORDERS)
    return _rdp_at(merged, delta, ORDERS)


def _rdp_at(merged: History, delta: float, orders: tuple[float, ...]) -> float:
    """ε by the best of the orders."""
    from dp_accounting.rdp import rdp_privacy_accountant  # noqa: PLC0415 - imports scipy.stats, a second

    total = np.zeros(len(orders))
    for event in merged:
        total += event.steps * divergences(event, orders)
    value, _ = rdp_privacy_accountant.compute_epsilon(orders, total, delta)
    return float(value) if value >= 0 else math.inf


def divergences(event: Event, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Rényi divergence of one step of an event at orders above 1, rounded up; `inf` where it is not known."""
    rho = concentration(event)
    if rho is not None:
        return np.asarray(orders) * rho
    if isinstance(event, DpEvent):
        return _at_orders(event.noise_multiplier, event.sampling_rate, orders)
    return np.full(len(orders), math.inf)


@lru_cache(maxsize=1024)
def _at_orders(sigma: float, q: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    import dp_accounting  # noqa: PLC0415 - imports scipy.stats, a second
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    # An order whose series does not converge is infinite here; absl would tell each time, on standard error.
    logging.getLogger("absl").setLevel(logging.ERROR)
    accountant = RdpAccountant(list(orders))
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    with np.errstate(all="ignore"):
        moments = np.asarray(accountant.compose(event).rdp, dtype=np.float64)
    moments = np.where(np.isnan(moments), np.inf, np.maximum(moments, 0.0))
    return np.asarray(moments + _MOMENT_ROUND_OFF / (np.asarray(orders) - 1.0))
