"""The Models page: which model may be used? And two studies side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.seen import named, others
from fedward.dashboard.federation.views import accuracy, fairness, gates
from fedward.dashboard.federation.views.overview import elsewhere, estimate, when
from fedward.server.cards import pages
from fedward.server.cards.facts import card, of_study
from fedward.server.comparing import Comparison, Side
from fedward.server.histories import History
from fedward.server.records import MetricRow, ReleaseRow, in_force
from fedward.server.verdicts import Verdict


def cards(history: History, verdicts: Sequence[Verdict] | None, releases: Sequence[ReleaseRow]) -> dict[str, bytes]:
    """The model's card, by file name; nothing before a model is trained."""
    if history.view.version == 0:
        return {}
    made = card(history, verdicts or (), of_study(releases, history.study.key))
    return {"card.html": pages.html(made).encode(), "card.md": pages.markdown(made).encode()}


def sentence(
    look: Look, releases: Sequence[ReleaseRow], verdicts: Sequence[Verdict] | None, short: Sequence[str]
) -> str:
    """Which model may be used?"""
    if not look.trains:
        return "An exploration trains no model."
    one = in_force(releases)
    if one is None:
        why = f" {short[0][:1].upper()}{short[0][1:]}." if short else ""
        return f"No model of this study has been released: none may be used yet.{why}"
    own = "" if one.study == look.study.key else " It was trained by another version of this study."
    return f"Release {one.study_id} v{one.number}: {gates.sentence(verdicts)}{own}"


def table(releases: Sequence[ReleaseRow]) -> pd.DataFrame:
    """release, rounds, model, released (UTC), by, stands, why: newest first."""
    used = in_force(releases)
    rows = [
        (
            f"v{one.number}", one.version, one.model[:12], when(one.released_at), one.by,
            "in use" if one is used else "earlier" if one.withdrawn_at is None else "rolled back",
            _why(one),
        )
        for one in reversed(releases)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["release", "rounds", "model", "released (UTC)", "by", "stands", "why"])


def _why(one: ReleaseRow) -> str:
    """In the words of who released it, and of who took it back."""
    said = json.loads(one.statement).get("reason", "") if one.statement else ""
    if one.withdrawn_at is None:
        return str(said)
    return f"{said} Taken back {when(one.withdrawn_at)} by {one.withdrawn_by}: {one.withdrawn_why}".strip()


def newest(look: Look) -> pd.DataFrame:
    """what, is: the study's newest model, released or not."""
    rows = [
        ("model (digest)", look.model or "none yet"),
        ("rounds committed", f"{look.version} of {look.rounds}"),
        ("study (digest)", look.study.digest or "not sealed"),
        ("kind of model", getattr(getattr(look.manifest, "model", None), "name", "none")),
        ("algorithm", getattr(getattr(look.manifest, "training", None), "algorithm", "none")),
    ]
    return pd.DataFrame(rows, columns=["what", "is"])


def facts(made: Comparison, a: Look, b: Look) -> pd.DataFrame:
    """what, and a column for each study: the two side by side."""
    names = _names(made)
    rows = [
        ("title", made.a.title, made.b.title),
        ("state", made.a.state, made.b.state),
        ("rounds committed", f"{made.a.version} of {made.a.rounds}", f"{made.b.version} of {made.b.rounds}"),
        ("hospitals", _hospitals(a), _hospitals(b)),
        ("attempts", _counts(made.a), _counts(made.b)),
        ("seconds of all attempts", f"{made.a.seconds:.0f}", f"{made.b.seconds:.0f}"),
        ("measured after round", _number(made.a.measured_after), _number(made.b.measured_after)),
        ("ε at most, with δ", _epsilon(made.a), _epsilon(made.b)),
    ]
    return pd.DataFrame(rows, columns=["what", *names])


def _names(made: Comparison) -> tuple[str, str]:
    """Of the columns: the ids, told apart by digest where both are of one."""
    if made.a.study_id != made.b.study_id:
        return made.a.study_id, made.b.study_id
    one, other = (f"{side.study_id} · {(side.digest or 'draft')[:8]}" for side in (made.a, made.b))
    return (one, other) if one != other else (one, f"{other} (2)")


def _hospitals(look: Look) -> str:
    apart = [elsewhere(others(look))] if others(look) else []
    return f"{len(look.sites)}: {words.listed([*named(look), *apart])}"


def _counts(side: Side) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(side.outcomes.items())) or "none"


def _number(value: int | None) -> str:
    return "not yet" if value is None else str(value)


def _epsilon(side: Side) -> str:
    return "no promise" if side.epsilon is None else f"{side.epsilon:g} at δ = {side.delta:g}"


def side_by_side(made: Comparison, a: Look, b: Look) -> pd.DataFrame:
    """group, metric, study, value, low, high, told: the newest measured models, where neither study suppresses the group."""
    small = _small(a, [one.a for one in made.metrics]) | _small(b, [one.b for one in made.metrics])
    rows = []
    for one in made.metrics:
        if one.name not in accuracy.NAMES or one.slice in small:
            continue
        for name, row in zip(_names(made), (one.a, one.b), strict=True):
            value = (math.nan,) * 3 if row is None else estimate(row)
            told = "not measured" if row is None else words.estimate(*value)
            rows.append((fairness.group(one.slice), accuracy.NAMES[one.name][0], name, *value, told))
    return pd.DataFrame(rows, columns=["group", "metric", "study", "value", "low", "high", "told"])


def _small(look: Look, rows: Sequence[MetricRow | None]) -> frozenset[str]:
    known = [row for row in rows if row is not None]
    return fairness.hidden(look, known) if known else frozenset()
