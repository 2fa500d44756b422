"""Parallel composition: what each patient was in, by the patient's position. Pure.

Two sums over disjoint patients cost each patient only one of them (McSherry 2009, theorem 4): a study's training and its
evaluation, whose patients a keyed hash parts. Across studies with different held-out shares, and under statistics over
everybody, the shares overlap. So the shares cut [0, 1) into pieces whose patients were all in the same events; each
piece composes its own history, and the hospital's ε is the worst piece's.

This holds as long as a hospital's key stays the same and a patient keeps one id there: then a patient has one position for
life, whichever studies come. Adding or removing that patient leaves every sum over other positions as it was, and what is
computed adaptively from other sums (an evaluated model, say) is post-processing for that patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedward.privacy.events import EVERYBODY, Event, History, merge


def histories(history: Sequence[Event]) -> tuple[History, ...]:
    """Each population's merged history, without shares; those left out are part of another one, which costs no less.

    An accountant's answer for the ledger is the maximum of its answers for these; empty for an empty history.

    Raises:
        InputError: one mechanism's steps add up to too many.
    """
    # Where a share begins is enough: who lies behind an end was in part of what those before it were in.
    pieces = {_at(history, start) for start in {event.share[0] for event in history}}
    return tuple(sorted((piece for piece in pieces if not any(_within(piece, other) for other in pieces)), key=repr))


def _at(history: Sequence[Event], position: float) -> History:
    """What a patient at this position was in."""
    return merge(replace(event, share=EVERYBODY) for event in history if event.share[0] <= position < event.share[1])


def _within(piece: History, other: History) -> bool:
    """Whether one history is another with something left out."""
    if piece == other:
        return False
    steps = {replace(event, steps=1): event.steps for event in other}
    return all(event.steps <= steps.get(replace(event, steps=1), 0) for event in piece)
