"""Several studies share a site, which answers one request at a time: in the order in which they came, over Flower's own queue.

A study owes each site at most one answer: its next request waits for the last one's. So between two requests of a study a site
works on at most one request of each other study, however many rounds those have.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.common import Message
from flwr.server.superlink.linkstate import InMemoryLinkState

SITE = 7


class Queue(InMemoryLinkState):
    """Flower's queue of messages, without its runs and federations."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        self._numbers = itertools.count()

    def _check_stored_messages(self, message_ids: set[str], run_id: int | None = None) -> None:
        """Nothing expires here."""

    def push(self, study: str) -> None:
        metadata = SimpleNamespace(dst_node_id=SITE, run_id=study, delivered_at="")
        message: Any = SimpleNamespace(metadata=metadata)
        self.message_ins_store[f"message-{next(self._numbers)}"] = message

    def pull(self) -> str:
        """The study of the one request that a node takes, as Flower's Fleet API gives it out."""
        found: list[Message] = self.get_message_ins(SITE, limit=1)
        return str(found[0].metadata.run_id) if found else ""


def served(rounds: dict[str, int], late: str) -> list[str]:
    """Whom a site worked for, in order; `late` is launched when the others are under way."""
    queue, left = Queue(), dict(rounds)
    for study in rounds:
        if study != late:
            queue.push(study)
    order: list[str] = []
    while study := queue.pull():
        order.append(study)
        left[study] -= 1
        if left[study]:
            queue.push(study)
        if len(order) == 10:
            queue.push(late)
    return order


@pytest.mark.parametrize("others", [1, 2])
def test_a_short_study_waits_for_one_request_of_each_other_study_at_a_time(others: int) -> None:
    longs = {f"long-{number}": 200 for number in range(others)}
    order = served({**longs, "short": 5}, "short")
    assert {study: order.count(study) for study in {*longs, "short"}} == {**longs, "short": 5}
    turns = [place for place, study in enumerate(order) if study == "short"]
    assert turns[0] <= 10 + others
    assert all(later - earlier <= others + 1 for earlier, later in itertools.pairwise(turns))
    # Nor do the long ones wait for it, or for each other.
    for study in longs:
        places = [place for place, one in enumerate(order) if one == study][:180]
        assert all(later - earlier <= others + 1 for earlier, later in itertools.pairwise(places))
