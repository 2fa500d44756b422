"""The page and the plot of what an ε buys, from the rows that `benchmarks.utility` measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedward.simulations.expected import Expected
from fedward.study.heart import SITES
from fedward.study.terms import PRIVACY_WORDS

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 20, 50


@dataclass(frozen=True)
class Row:
    """AUROC of one way to train, over the studies.

    Attributes:
        kind: how; rows of one kind at several ε are one line of the plot.
        epsilon: ε, or None for what has none.
        schedule: rounds and rate, for people.
        sigma: the noise multiplier, for people.
        area: AUROC over all held-out patients together.
        parts: the mean AUROC within each hospital and fairness group, by its name.
    """

    kind: str
    epsilon: float | None
    schedule: str
    sigma: str
    area: Expected
    parts: Mapping[str, float]


def page(
    rows: Sequence[Row],
    targets: Mapping[float, float],
    spans: Mapping[float, tuple[float, float]],
    varied: int,
    evaluated: Sequence[str],
) -> str:
    """docs/privacy-utility.md.

    Args:
        rows: what was measured.
        targets: the AUROC to reach at each ε.
        spans: at each ε the least and largest AUROC of the rule's schedule over `varied` settings of what was fixed.
        varied: how many settings.
        evaluated: the lines of `evaluation.table`.
    """
    names = [*SITES, *(name for name in rows[0].parts if name not in SITES)]
    table = [
        _line(row, targets.get(row.epsilon) if row.epsilon and row.kind == "planned" else None) for row in _sorted(rows)
    ]
    fixed = [f"| {epsilon:g} | {_number(low)} – {_number(high)} |" for epsilon, (low, high) in spans.items()]
    parts = [f"| {_label(row)} | {' | '.join(_number(row.parts[name]) for name in names)} |" for row in _sorted(rows)]
    filled = _PAGE.format(
        words=f"{PRIVACY_WORDS[0].upper()}{PRIVACY_WORDS[1:]}; covers training patients; the evaluation is priced below.",
        table="\n".join(table),
        varied=varied,
        fixed="\n".join(fixed),
        evaluated="\n".join(evaluated),
        names=" | ".join(names),
        rules="---|" * len(names),
        parts="\n".join(parts),
    )
    return filled.lstrip()


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """By ε, those without one last."""
    return sorted(rows, key=lambda row: math.inf if row.epsilon is None else row.epsilon)


def _label(row: Row) -> str:
    return row.kind if row.epsilon is None else f"ε = {row.epsilon:g}, {row.kind}"


_PAGE = """
# What an ε buys

<!-- Written by `make bench ONLY=utility`; changes by hand are lost. -->

The four heart hospitals of the example study learn one logistic regression by FedSGD: one full-batch step of clipped
gradients a round, each hospital's own noise on its sum, hospitals weighted by their declared cohorts. AUROC is exact, on raw
scores of all held-out patients of the four hospitals together, and a mean over 20 studies (seeds 0–19, each with its own
held-out third and its own noise). Its 95% bootstrap interval is over studies. Most of it is the split's doing, which all rows
share: it says how well a mean is known, not how far two rows are apart.

ε at δ = 0.001 is what training spends, two spare attempts included. {words}

![AUROC against ε](privacy-utility.svg)

| ε | schedule | rounds and server rate | σ | AUROC | 95% interval | sd of one study | reach |
|---|---|---|---|---|---|---|---|
{table}

- **planned**: in each study [the planner](planning.md) chose rounds and rate by simulated studies within that study's own
  training patients, a third of whom stood for the held-out ones. No held-out patient of a study had a say in its schedule.
- **by the rule**: the planner's signal-to-noise rule, which sees no patient at all.
- **no DP**, with the example study's own schedule, and the models of one hospital or of the pool: context, without privacy.

What these figures share: a patient held out in one study trains in others, so the studies are not independent. C = 1 and
momentum 0.9 are the example study's, whose search used other splits of the same patients, and the rule's bound on noise, 1, was
fixed while such splits were looked at. So that nobody has to believe that this decided anything, here is the rule's schedule
with all {varied} combinations of C of 0.25, 0.5, 1 and 2, momentum 0, 0.5 and 0.9, and a bound of 0.5, 1 and 2:

| ε | AUROC by the rule, least and largest of {varied} |
|---|---|
{fixed}

## What a noised evaluation costs, and what it reports

The AUROC above is exact: nobody in a real study may see it. There the hospitals' counts leave with noise, charged to held-out
patients. No patient both trains and is held out, so a ledger is charged the larger of the two, not their sum. The example
study with its own schedule, 20 seeds, each model evaluated five times with noise of its own; the evaluation has the study's ε
again, for one evaluation and a spare one:

{evaluated}

An AUROC is undefined where the counts hold too few patients for their noise. [How models are measured](evaluation.md) says
what helps.

## Within hospitals and groups

Mean AUROC among the held-out patients of one hospital, or of one group over all hospitals. Patients of all hospitals
together flatter every model, since hospitals differ in how many of their patients are diseased (36% to 93%).

| | {names} |
|---|{rules}
{parts}
"""


def _line(row: Row, bound: float | None) -> str:
    area = row.area
    epsilon = "∞" if row.epsilon is None else f"{row.epsilon:g}"
    reach = "" if bound is None else f"≥ {bound:g}"
    cells = (epsilon, row.kind, row.schedule, row.sigma, _number(area.mean), f"{area.low:.3f}–{area.high:.3f}",
             f"{area.deviation:.3f}", reach)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


# ---- the plot --------------------------------------------------------------------------------------------------------

_COLOURS = ("#0b6e99", "#c2571a", "#4a7c2c", "#7a4b94", "#8a6d00")


def plot(rows: Sequence[Row], targets: Mapping[float, float]) -> str:
    """docs/privacy-utility.svg: AUROC against ε on a logarithmic axis, intervals as bars, context as levels."""
    kinds = list(dict.fromkeys(row.kind for row in rows if row.epsilon is not None))
    levels = [row for row in rows if row.epsilon is None and "alone" not in row.kind]
    alone = [row.area.mean for row in rows if row.epsilon is None and "alone" in row.kind]
    marks = [(row.kind.split(",")[0], row.area.mean) for row in levels]
    marks += [("hospitals alone, mean", sum(alone) / len(alone))] if alone else []
    bounds = [*(row.area.low for row in rows if row.epsilon), *(row.area.high for row in rows if row.epsilon)]
    bounds += [value for _, value in marks] + list(targets.values())
    axes = _Axes(min(targets), max(targets), math.floor(min(bounds) * 100) / 100, math.ceil(max(bounds) * 100) / 100)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        "<title>AUROC on held-out patients against ε</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *axes.frame(sorted(targets)),
    ]
    below = 0.0
    for name, value in sorted(marks, key=lambda mark: -mark[1]):
        y = axes.y(value)
        below = max(y + 4, below + 14)  # labels of near levels must not cover each other
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#777" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{below:.1f}" fill="#555">{name} {value:.3f}</text>')
    for value, bound in targets.items():
        x, y = axes.x(value), axes.y(bound)
        parts.append(f'<path d="M{x - 9:.1f} {y:.1f}h18" stroke="#b00020" stroke-width="2"/>')
    for index, kind in enumerate(kinds):
        parts += _series(axes, [row for row in rows if row.kind == kind], _COLOURS[index % len(_COLOURS)], 4 * index)
    parts += _legend(kinds)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Axes:
    least: float
    most: float
    low: float
    high: float

    def x(self, epsilon: float) -> float:
        share = math.log(epsilon / self.least) / math.log(self.most / self.least)
        return _LEFT + 25 + share * (_WIDTH - _LEFT - _RIGHT - 50)

    def y(self, area: float) -> float:
        return _TOP + (self.high - area) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, epsilons: Sequence[float]) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="black"/>']
        for hundredth in range(round(self.low * 100), round(self.high * 100) + 1):
            y = self.y(hundredth / 100)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{hundredth / 100:.2f}</text>')
        for epsilon in epsilons:
            x = self.x(epsilon)
            parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="black"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{epsilon:g}</text>')
        middle = (_LEFT + right) / 2
        parts.append(f'<text x="{middle}" y="{bottom + 40}" text-anchor="middle">ε at δ = 0.001, logarithmic</text>')
        parts.append(
            f'<text transform="translate(18 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">AUROC</text>'
        )
        return parts


def _series(axes: _Axes, rows: Sequence[Row], colour: str, shift: int) -> list[str]:
    points = [(axes.x(row.epsilon) + shift, row.area) for row in rows if row.epsilon is not None]
    line = " ".join(f"{x:.1f},{axes.y(area.mean):.1f}" for x, area in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, area in points:
        parts.append(f'<path d="M{x:.1f} {axes.y(area.low):.1f}V{axes.y(area.high):.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{axes.y(area.mean):.1f}" r="3.5" fill="{colour}"/>')
    return parts


def _legend(kinds: Sequence[str]) -> list[str]:
    x, y = _WIDTH - _RIGHT - 150, _HEIGHT - _BOTTOM - 16 * (len(kinds) + 1) - 6
    parts = []
    for index, kind in enumerate(kinds):
        at = y + 16 * (index + 1)
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(f'<path d="M{x} {at - 4}h22" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 28}" y="{at}">{kind}</text>')
    at = y + 16 * (len(kinds) + 1)
    parts.append(
        f'<path d="M{x} {at - 4}h22" stroke="#b00020" stroke-width="2"/><text x="{x + 28}" y="{at}">reach</text>'
    )
    return parts
