"""`fedward coordinator compare A B`: two studies, or two versions of one, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, open_coordinator
from fedward.cli.output import JsonOption, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.comparing import Comparison, Side
    from fedward.server.records import MetricRow

_HELP = "A study's id (its newest version), or the first digits of its digest."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other study.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Set two studies side by side: what they differ in, hospitals, rounds, outcomes, metrics with intervals, ε."""
    from fedward.server import comparing

    coordinator = open_coordinator(home)
    found = comparing.compare(coordinator.history(a), coordinator.history(b))
    if as_json:
        print_json(found.as_json())
        return
    for name, side in (("A", found.a), ("B", found.b)):
        say(f'{name}: "{side.title}" ({side.study_id}, {(side.digest or "not sealed")[:12]})')
    _say_differences(found)
    table("How they went", ("", "A", "B"), _went(found.a, found.b))
    _say_sites(found)
    _say_metrics(found)
    _say_privacy(found)


def _say_differences(found: Comparison) -> None:
    lines = list(found.differences)
    if found.a.digest is not None and found.a.digest == found.b.digest:
        say("They are one and the same study.")
    elif not lines:
        say("Their manifests are the same, but for the id.")
    else:
        say(f"\nTheir manifests differ in {len(lines)} point{'s' if len(lines) > 1 else ''}:")
    for line in lines:
        say(f"  {line}")
    for name, sites in (("A", found.only_a), ("B", found.only_b)):
        if sites:
            say(f"  hospitals: {', '.join(sites)} only in {name}")
    say("")


def _went(a: Side, b: Side) -> list[tuple[str, str, str]]:
    def row(what: str, tell: Callable[[Side], object]) -> tuple[str, str, str]:
        return (what, str(tell(a)), str(tell(b)))

    ends = sorted({*a.outcomes, *b.outcomes} - {"committed"})
    causes = sorted({*a.losses, *b.losses})
    return [
        row("state", lambda side: side.state),
        row("rounds committed", lambda side: f"{side.version} of {side.rounds}"),
        row("attempts", lambda side: sum(side.outcomes.values())),
        *((f"  {end}", str(a.outcomes.get(end, 0)), str(b.outcomes.get(end, 0))) for end in ends),
        row("time of all attempts", lambda side: f"{side.seconds:.1f} s"),
        *(
            (f"a hospital was out: {cause}", f"{a.losses.get(cause, 0)} ×", f"{b.losses.get(cause, 0)} ×")
            for cause in causes
        ),
    ]


def _say_sites(found: Comparison) -> None:
    rows = []
    for site in sorted({*found.a.patients, *found.b.patients}):
        rows.append((site, *(_part(side, site) for side in (found.a, found.b))))
    table("Hospitals: declared patients, and committed rounds that they are in", ("hospital", "A", "B"), rows)


def _part(side: Side, site: str) -> str:
    if site not in side.patients:
        return "-"
    patients = side.patients[site]
    about = "not sealed" if patients is None else f"about {patients}"
    return f"{about}; {side.contributions.get(site, 0)} of {side.version}" if side.kind == "train" else about


def _say_metrics(found: Comparison) -> None:
    from fedward.cli.measured import NAMES, is_told

    rows = [
        (one.slice, NAMES.get(one.name, one.name), _value(one.a), _value(one.b))
        for one in found.metrics
        if is_told(one.slice, one.name)
    ]
    if not rows:
        say("Nothing was measured yet.")
        return
    after = [f"{name} after round {side.measured_after}" for name, side in (("A", found.a), ("B", found.b))
             if side.measured_after is not None]  # fmt: skip
    table(
        f"Measured on held-out patients, from summed counts: {', '.join(after)}",
        ("who", "what", "A [95% interval]", "B [95% interval]"),
        rows,
        caption="Each study measured on held-out patients of its own. A difference within the intervals may be chance.",
    )


def _value(row: MetricRow | None) -> str:
    if row is None:
        return "-"
    if row.value is None:
        return "undefined"
    return (
        f"{row.value:.3f}" if row.low is None or row.high is None else f"{row.value:.3f} [{row.low:.2f},{row.high:.2f}]"
    )


def _say_privacy(found: Comparison) -> None:
    for name, side in (("A", found.a), ("B", found.b)):
        if side.epsilon is None:
            say(f"Privacy of {name}: it trains WITHOUT differential privacy.")
            continue
        others = (
            f"; against everyone else colluding {side.epsilon_all_others:g}"
            if side.epsilon_all_others is not None
            else ""
        )
        say(f"Privacy of {name}: ε at most {side.epsilon:g} at δ = {side.delta:g}{others}; {side.meaning}")
