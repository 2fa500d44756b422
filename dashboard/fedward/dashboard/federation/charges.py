"""What a study charges each hospital's ledger, by the sealed manifest: all that a hospital's ε is computed from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedward.privacy.events import Event, History
from fedward.study.kinds import AnySealed
from fedward.study.schedule import attempt_events, study_events


@dataclass(frozen=True)
class Charge:
    """One hospital's part.

    Attributes:
        once: by purpose, what one attempt charges; None for what carries no noise, which no ε covers.
        planned: every planned attempt, spare ones included; what the hospital approved.
    """

    once: Mapping[str, Event | None]
    planned: History


def charges(sealed: AnySealed | None) -> dict[str, Charge]:
    """By site, in the roster's order; nothing before the seal, and where no ε is promised."""
    if sealed is None or sealed.manifest.privacy.epsilon is None:
        return {}
    sites = [entry.site for entry in sealed.roster]
    return {
        site: Charge(attempt_events(sealed, site, train=True, evaluate=True), study_events(sealed, site))
        for site in sites
    }
