"""What a ledger counts: noisy sums, each described by its mechanism. Events are stored; ε is derived (`accounting`).

`DpEvent` is a Poisson-sampled Gaussian sum of clipped gradients, `CountEvent` integer sums under discrete Gaussian noise,
`SharedEvent` a secure integer sum whose noise comes from several sites.
Neighbours differ by one patient, added or removed. An event's canonical form, `to_record`, is what ledgers keep and digest.

Every patient of a hospital has a fixed position in [0, 1), a keyed hash of the patient's id. An event's `share` says which
positions its sum was over: held-out patients lie in [0, holdout), training patients in [holdout, 1). What that saves is
counted by `populations`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as fields_of
from typing import Any, ClassVar, Literal, TypeAlias

from fedward.privacy.errors import InputError

# More steps than any study runs; keeps every count exact in a float.
MOST_STEPS = 10**9
# Above this a patient's part of an integer sum is no count or bounded value any more.
MOST_SENSITIVITY = 10**6
# More hospitals than any federation has.
MOST_SITES = 1000
# On every grid that shared noise allows, this is more than the half unit from which on sums of discrete Gaussians are bounded.
LEAST_OWN_NOISE = 0.005

Share: TypeAlias = tuple[float, float]
EVERYBODY: Share = (0.0, 1.0)


@dataclass(frozen=True)
class _OverShare:
    """What every event has: the half-open interval of positions whose patients it touches.

    Raises:
        InputError: the interval is empty or leaves [0, 1], NaN included.
    """

    share: Share = field(default=EVERYBODY, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.share, (tuple, list)) or len(self.share) != 2:
            raise InputError("share is no interval", expected="two numbers", got=repr(self.share)[:80])
        low, high = (number(end, "an end of the share") for end in self.share)
        if not 0 <= low < high <= 1:
            raise InputError("share is no interval of positions", expected="0 ≤ low < high ≤ 1", got=f"{low}, {high}")
        object.__setattr__(self, "share", (low + 0.0, high))  # −0.0 is 0.0


@dataclass(frozen=True)
class DpEvent(_OverShare):
    """`steps` Poisson-sampled Gaussian sums with the same noise (Abadi et al. 2016, algorithm 1).

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the clipping norm C; finite and above 0.
        sampling_rate: q in (0, 1], the probability that a patient is in a step.
        steps: how many such steps, at least 1.
        share: the positions of the patients that it is over; everybody's unless said.

    Raises:
        InputError: a value is outside its range, NaN included.
    """

    KIND: ClassVar[str] = "gaussian"

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "noise_multiplier", _above_zero(self.noise_multiplier, "noise_multiplier"))
        q = number(self.sampling_rate, "sampling_rate")
        if not 0 < q <= 1:
            raise InputError("sampling_rate is no probability", expected="a number in (0, 1]", got=repr(q))
        object.__setattr__(self, "sampling_rate", q)
        _check_whole(self.steps, "steps", MOST_STEPS)


@dataclass(frozen=True)
class CountEvent(_OverShare):
    """`steps` vectors of integers, each coordinate with discrete Gaussian noise (Canonne, Kamath & Steinke 2020).

    Attributes:
        deviation: σ of the discrete Gaussian N_Z(0, σ²), in units of the sum; finite and above 0.
        sensitivity: the most that one patient changes a coordinate by, a whole number of at least 1.
        coordinates: the most coordinates that one patient changes, at least 1.
        steps: how many such releases, at least 1.
        share: the positions of the patients that it is over; everybody's unless said.

    Raises:
        InputError: a value is outside its range, NaN included.
    """

    KIND: ClassVar[str] = "counts"

    deviation: float
    sensitivity: int
    coordinates: int
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "deviation", _above_zero(self.deviation, "deviation"))
        _check_whole(self.sensitivity, "sensitivity", MOST_SENSITIVITY)
        _check_whole(self.coordinates, "coordinates", MOST_SENSITIVITY)
        _check_whole(self.steps, "steps", MOST_STEPS)


@dataclass(frozen=True)
class SharedEvent(_OverShare):
    """`steps` secure sums of clipped gradients, to which every site adds discrete Gaussian noise of its own (`shared_noise`).

    What they cost depends on who looks (`View`): against the coordinator, outsiders and the colluders that the study names,
    the noise of `sites` honest sites protects a patient; against everyone else colluding, the own site's alone.

    Attributes:
        noise_multiplier: σ_own, the standard deviation of one site's noise over the sensitivity, grid included; at least 0.005.
        sites: the honest sites that are sure to be in the sum, the patient's own included; at least 1.
        steps: how many such sums, at least 1.
        share: the positions of the patients that it is over; everybody's unless said.

    Raises:
        InputError: a value is outside its range, NaN included.
    """

    KIND: ClassVar[str] = "shared"

    noise_multiplier: float
    sites: int
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        sigma = number(self.noise_multiplier, "noise_multiplier")
        if not sigma >= LEAST_OWN_NOISE:
            raise InputError("noise_multiplier is too small", expected=f"at least {LEAST_OWN_NOISE:g}", got=repr(sigma))
        object.__setattr__(self, "noise_multiplier", sigma)
        _check_whole(self.sites, "sites", MOST_SITES)
        _check_whole(self.steps, "steps", MOST_STEPS)

    @property
    def pool_noise(self) -> float:
        """σ_pool: the noise of all those sites together over the sensitivity."""
        return math.sqrt(self.sites) * self.noise_multiplier


Event: TypeAlias = DpEvent | CountEvent | SharedEvent
EVENTS: tuple[type[DpEvent] | type[CountEvent] | type[SharedEvent], ...] = (DpEvent, CountEvent, SharedEvent)
History: TypeAlias = tuple[Event, ...]

View: TypeAlias = Literal["coordinator", "everyone"]
"""Who looks: "coordinator" is the coordinator, outsiders and the colluders that a study with shared noise names; "everyone" is
everyone outside the patient's hospital together, all other hospitals included. Noise that is not shared is the same in both."""


def in_view(history: Iterable[Event], view: View) -> History:
    """The history as an adversary meets it: against everyone else together, only the own site's noise is left.

    Raises:
        InputError: there is no such view.
    """
    if view not in ("coordinator", "everyone"):
        raise InputError("there is no such view", expected="coordinator or everyone", got=repr(view)[:80])
    if view == "coordinator":
        return tuple(history)
    return tuple(replace(event, sites=1) if isinstance(event, SharedEvent) else event for event in history)


def merge(history: Iterable[Event]) -> History:
    """The history with equal mechanisms added up, sorted: equal for every order of the same events.

    Raises:
        InputError: one mechanism's steps add up to more than `MOST_STEPS`.
    """
    steps: Counter[Event] = Counter()
    for event in history:
        steps[replace(event, steps=1)] += event.steps
    return tuple(sorted((replace(one, steps=n) for one, n in steps.items()), key=_order))


def _order(event: Event) -> tuple[Any, ...]:
    return event.KIND, *asdict(event).values()


def to_record(event: Event) -> dict[str, Any]:
    """The event's fields and its kind, for canonical JSON; a share of everybody is left out."""
    fields = asdict(event)
    if event.share == EVERYBODY:
        del fields["share"]
    return {"kind": event.KIND, **fields}


def from_record(record: Mapping[str, Any]) -> Event:
    """The event of a record.

    Raises:
        InputError: the kind is unknown, a field is missing or superfluous, or a value is outside its range.
    """
    fields = dict(record)
    kind = fields.pop("kind", None)
    for known in EVENTS:
        if kind == known.KIND:
            if set(fields) | {"share"} != {known_field.name for known_field in fields_of(known)}:
                raise InputError("the event has other fields than its kind", got=", ".join(map(str, fields))[:200])
            event = known(**fields)
            if "share" in fields and event.share == EVERYBODY:
                raise InputError("a share of everybody is not written down", got=repr(fields["share"]))
            return event
    raise InputError(
        "the event's kind is unknown",
        expected=", ".join(known.KIND for known in EVENTS),
        got=repr(kind)[:80],
        remedy="use the Fedward version that wrote it, or upgrade",
    )


def number(value: float, name: str) -> float:
    """The value as a float. Raises: InputError unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name} is no finite number", expected="a finite number", got=repr(value))
    return float(value)


def _above_zero(value: float, name: str) -> float:
    found = number(value, name)
    if not found > 0:
        raise InputError(f"{name} gives no privacy", expected="a number above 0", got=repr(found))
    return found


def _check_whole(value: int, name: str, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} is no count", expected=f"a whole number, 1 to {most}", got=repr(value))
