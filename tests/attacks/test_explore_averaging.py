"""A coordinator that asks the same question again and again, to average the noise out of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exploring import SITE, Asking, allow, charged, heart_exploration, set_policy
from federation import Federation, decide

from fedward.privacy.errors import RefusalError
from fedward.privacy.ledger import Budget
from fedward.study.messages import Refusal, Result

ONE = [{"kind": "count", "name": "ill", "where": [{"column": "disease", "level": "1"}]}]


def code(reply: Any) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("asked"), budget=Budget(1.2, 1e-3))
    allow(federation)
    federation.ready(heart_exploration(secure=False, queries=ONE))
    return federation


@pytest.fixture
def asking(asked: Federation, tmp_path: Path) -> Asking:
    return Asking(asked.copy(tmp_path / "copy"))


def test_the_same_request_gets_the_same_answer(asking: Asking) -> None:
    """Byte by byte the same: no second draw of noise, and no second charge."""
    assert isinstance(asking.work(), Result)
    first = asking.body
    assert isinstance(asking.work(), Result)
    assert asking.body == first
    assert len(charged(asking.federation, SITE)) == 1


def test_a_restarted_node_does_not_answer_an_attempt_twice(asking: Asking) -> None:
    assert isinstance(asking.work(), Result)
    asking.federation.restart(SITE)
    assert code(asking.work()) == "already-charged"
    assert len(charged(asking.federation, SITE)) == 1


def test_no_more_attempts_than_were_approved_and_paid_for(asking: Asking) -> None:
    answers = [asking.work(attempt=attempt) for attempt in (1, 2, 3, 4, 999_999)]
    assert [isinstance(answer, Result) for answer in answers] == [True, True, False, False, False]
    assert {code(answer) for answer in answers[2:]} == {"attempts-used-up"}
    assert len(charged(asking.federation, SITE)) == 2
    spent = asking.home.ledger().spent()
    assert 0.4 < spent <= 0.5


def test_more_explorations_end_at_the_lifetime_budget(asking: Asking) -> None:
    """Even with a person who approves everything, the hospital's ledger ends it: ε = 1.2 pays for few of ε = 0.5."""
    federation = asking.federation
    answered, refused = sum(isinstance(asking.work(attempt=attempt), Result) for attempt in (1, 2)), ""
    for number in range(12):
        try:  # a hospital declares no noise with which another one would fit, and reserves what it approves
            federation.ready(heart_exploration(secure=False, queries=ONE, study={"id": f"again-{number}"}))
        except RefusalError as error:
            refused = error.text()
            break
        more = Asking(federation)
        answered += sum(isinstance(more.work(attempt=attempt), Result) for attempt in (1, 2))
    assert f"{SITE}: refused: budget-exhausted" in refused
    assert 2 < answered < 24
    assert 0.5 < asking.home.ledger().spent() <= 1.2


def test_one_exploration_costs_at_most_what_the_policy_allows(asking: Asking, tmp_path: Path) -> None:
    set_policy(asking.home, "max_explore_epsilon", "0.49")
    assert code(asking.work()) == "policy-explore-epsilon"
    assert charged(asking.federation, SITE) == []


def test_an_approval_that_is_withdrawn_ends_the_answers(asking: Asking) -> None:
    assert isinstance(asking.work(), Result)
    decide(asking.home, asking.sealed, "revoked", asking.federation.clock.unix())
    assert code(asking.work(attempt=2)) == "revoked-here"
