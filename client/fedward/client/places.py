"""A node's places in batches of secure aggregation: one batch a study, in memory alone.

A new batch of a study takes the place of the one before it. A restarted node has no place: it says `unknown-batch`, and the
coordinator opens a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward.client.reveals import Reveals
from fedward.privacy.errors import RefusalError
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.site import SiteParty
from fedward.study.messages import Step


@dataclass
class Place:
    """A site's party in a batch, the sums it helped to open, and what the slot in use holds.

    `base` is the base model's digest where the slot's vector holds un-noised numbers, else "".
    """

    party: SiteParty
    reveals: Reveals
    base: str = ""

    def take(self, context: RoundContext, *, unnoised: bool) -> None:
        """Consume a slot for an attempt; errors as `SiteParty.take`."""
        self.party.take(context)
        self.base = context.base.hex() if unnoised else ""

    def step(self, request: Step, body: bytes) -> bytes:
        """The party's answer to a step.

        Raises:
            ProtocolError: the machine refuses, or the sum would be a second one of un-noised numbers on a base model.
        """
        if request.kind == "share":
            return self.party.share(body)
        if request.kind == "open":
            return self.party.open(body)
        survivors = self.party.survivors_named(body)
        if self.base:
            self._refuse_second_set(survivors)
        if request.kind == "confirm":
            return self.party.confirm(body)
        reply = self.party.unmask(body)
        if self.base:
            self.reveals.add(self.base, survivors)
        return reply

    def _refuse_second_set(self, survivors: tuple[str, ...]) -> None:
        other = self.reveals.other_than(self.base, survivors)
        if other is not None:
            raise ProtocolError(
                "a sum of un-noised numbers on this base model was opened for another set of sites",
                code="differencing",
                lie=False,
                expected=", ".join(other),
                got=", ".join(survivors),
                remedy="the coordinator must bring the same sites together again",
            )


class Places:
    """The places of a node, by study. `folder` holds what must outlive a batch: `reveals`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Place] = {}
        self._reveals: dict[str, Reveals] = {}

    def enter(self, party: SiteParty) -> None:
        """Take a place in a new batch; the study's earlier one is left, and its secrets dropped."""
        study = party.batch.study
        if study in self._places:
            self._places[study].party.close()
        reveals = self._reveals.setdefault(study, Reveals(self._folder / f"{study}.jsonl"))
        self._places[study] = Place(party, reveals)

    def seen(self, study: str) -> int:
        """The highest attempt of the study that this process has taken part in."""
        known = self._places.get(study)
        return known.party.seen if known is not None else 0

    def find(self, study: str, batch: str) -> Place:
        """
        Raises:
            RefusalError: this process has no place in that batch.
        """
        known = self._places.get(study)
        if known is None or known.party.batch.batch != batch:
            raise RefusalError(
                "this node is not in that batch: it was restarted, or another batch was opened since",
                remedy="the coordinator opens a new batch",
                code="unknown-batch",
            )
        return known
