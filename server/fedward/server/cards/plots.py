"""The calibration plot as SVG, drawn from numbers alone: no text of a manifest, no script, colours by the page's classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedward.study.metrics import CalibrationGroup

_LEFT, _TOP, _SIDE = 58, 14, 360
_STRIP, _GAP = 64, 56
"""Pixels of the bars below, and between them and the plot: the upper axis' names stand there."""
WIDTH, HEIGHT = _LEFT + _SIDE + 20, _TOP + _SIDE + _GAP + _STRIP + 30
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def calibration(groups: Sequence[CalibrationGroup]) -> str:
    """The observed frequency by mean score with 95% intervals, the line of perfect calibration, and the patients of each group."""
    lines = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="calibration-title calibration-words">',
        '<title id="calibration-title">Calibration plot</title>',
        f'<desc id="calibration-words">{words(groups)}</desc>',
        *_axes(),
        *_points(groups),
        *_bars(groups),
        "</svg>",
    ]
    return "\n".join(lines)


def words(groups: Sequence[CalibrationGroup]) -> str:
    """The plot for those who do not see it."""
    told = "; ".join(
        f"mean score {one.score:.2f}, observed {one.observed:.2f} ({one.observed_low:.2f} to {one.observed_high:.2f}), "
        f"{one.patients} patients"
        for one in groups
    )
    return f"The outcome's observed frequency by predicted probability. {told}."


def _x(value: float) -> str:
    return f"{_LEFT + value * _SIDE:.1f}"


def _y(value: float) -> str:
    return f"{_TOP + (1 - value) * _SIDE:.1f}"


def _axes() -> Iterator[str]:
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    for tick in _TICKS:
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{_y(tick)}" y2="{_y(tick)}"/>'
        yield f'<line class="grid" x1="{_x(tick)}" x2="{_x(tick)}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text x="{_LEFT - 8}" y="{_y(tick)}" dy="0.35em" text-anchor="end">{tick:.1f}</text>'
        yield f'<text x="{_x(tick)}" y="{bottom + 17}" text-anchor="middle">{tick:.1f}</text>'
    yield f'<line class="ideal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    middle = _TOP + _SIDE / 2
    yield f'<text class="name" x="{_LEFT + _SIDE / 2}" y="{bottom + 36}" text-anchor="middle">mean predicted probability</text>'
    yield (
        f'<text class="name" x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        "observed frequency of the outcome</text>"
    )


def _points(groups: Sequence[CalibrationGroup]) -> Iterator[str]:
    for one in groups:
        x = _x(one.score)
        yield f'<line class="range" x1="{x}" x2="{x}" y1="{_y(one.observed_high)}" y2="{_y(one.observed_low)}"/>'
        yield f'<circle class="point" cx="{x}" cy="{_y(one.observed)}" r="5"/>'


def _bars(groups: Sequence[CalibrationGroup]) -> Iterator[str]:
    base, most = _TOP + _SIDE + _GAP + _STRIP, max((one.patients for one in groups), default=1)
    free = 0.0
    for one in groups:
        tall, wide = (_STRIP - 16) * one.patients / most, max((one.high - one.low) * _SIDE - 1, 1)
        yield f'<rect class="bar" x="{_x(one.low)}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
        centre, half = _LEFT + (one.low + one.high) / 2 * _SIDE, 4.0 * len(str(one.patients))
        if centre - half >= free:  # a number that would lie on another is left to the table
            free = centre + half + 4
            yield f'<text x="{centre:.1f}" y="{base - tall - 4:.1f}" text-anchor="middle">{one.patients}</text>'
    yield f'<line class="axis" x1="{_x(0)}" x2="{_x(1)}" y1="{base}" y2="{base}"/>'
    centre = _LEFT + _SIDE / 2
    yield f'<text class="name" x="{centre}" y="{base + 18}" text-anchor="middle">patients in each range of predictions</text>'
