"""A coordinator that asks a hospital for more than the exploration that a person there approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exploring import SITE, Asking, allow, charged, exact, heart_exploration, set_policy, shown
from federation import Federation

from fedward.client import approvals, datasets
from fedward.client.incidents import Incidents
from fedward.privacy.errors import RefusalError
from fedward.study.heart import SITES, heart_folder
from fedward.study.messages import Refusal, Result

QUERIES: list[dict[str, Any]] = [
    {"kind": "count", "name": "ill", "where": [{"column": "disease", "level": "1"}]},
    {"kind": "histogram", "name": "sex", "column": "sex"},
]


def code(reply: Any) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("approved"))
    allow(federation)
    federation.ready(heart_exploration(secure=False, queries=QUERIES))
    return federation


@pytest.fixture
def asking(approved: Federation, tmp_path: Path) -> Asking:
    return Asking(approved.copy(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"round": 2}, "unknown-round"),
        ({"train": True, "evaluate": False}, "unplanned-work"),
        ({"train": True}, "unplanned-work"),
        ({"evaluate": False}, "unplanned-work"),
        ({"dimension": 5}, "wrong-shape"),
        ({"base": "0" * 64}, "wrong-base"),
        ({"body": b"code"}, "wrong-shape"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_approved_exploration_does_not_ask_is_a_lie_whose_proof_is_kept(
    asking: Asking, changes: dict[str, Any], refused: str
) -> None:
    assert code(asking.work(**changes)) == refused
    assert charged(asking.federation, SITE) == []
    kept = Incidents(asking.home.incidents_folder).list()
    assert [(one.code, one.blamed, one.kept) for one in kept] == [(refused, "coordinator", True)]
    assert isinstance(asking.work(), Result)  # the honest request is answered all the same


def test_a_secure_exploration_is_never_answered_unmasked(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    allow(federation)
    federation.ready(heart_exploration(queries=QUERIES))
    asking = Asking(federation)
    assert code(asking.work()) == "not-masked"
    assert charged(federation, SITE) == []
    assert [one.code for one in Incidents(asking.home.incidents_folder).list()] == ["not-masked"]


def test_another_query_needs_another_approval(asking: Asking) -> None:
    """The same id, the same roster, one more query, well signed: another digest, and nobody approved that one."""
    federation = asking.federation
    more = [*QUERIES, {"kind": "histogram", "name": "pain", "column": "cp"}]
    sealed = federation.propose(heart_exploration(secure=False, queries=more))
    assert approvals.standing_of(asking.home, sealed.digest, 0).state == "pending"
    assert code(Asking(federation).work()) == "not-approved"
    assert charged(federation, SITE) == []


@pytest.mark.parametrize("column", ["disease", "sex"])
def test_a_denied_column_is_refused_in_a_query_and_in_a_condition(asking: Asking, column: str) -> None:
    set_policy(asking.home, "explore_denied_columns", f'["hiv", "{column}"]')
    assert code(asking.work()) == "policy-explore-column"
    assert charged(asking.federation, SITE) == []
    set_policy(asking.home, "explore_denied_columns", '["hiv", "age"]')
    assert isinstance(asking.work(), Result)


def test_a_denied_column_stays_denied_under_another_name(approved: Federation, tmp_path: Path) -> None:
    """The study calls the column "hobby"; the hospital's own file calls it "SEX_CD", and that is what is denied."""
    federation = approved.copy(tmp_path / "copy")
    home = federation.sites[SITE]
    set_policy(home, "explore_denied_columns", '["SEX_CD"]')
    renamed = heart_exploration(secure=False, queries=[{"kind": "histogram", "name": "q", "column": "hobby"}], study={"id": "sly"},
                                features=[{"type": "categorical", "column": "hobby", "levels": ["0", "1"]}])  # fmt: skip
    parts = (heart_folder() / f"{SITE}.mapping.toml").read_text().split("\n[columns.")
    outcome = next(part for part in parts if part.startswith("disease]"))
    mapping = tmp_path / "sly.mapping.toml"
    mapping.write_text("\n[columns.".join([parts[0], outcome, 'hobby]\nfrom = "SEX_CD"\n']))
    datasets.register(home, renamed, heart_folder() / f"{SITE}.csv", mapping, 0)
    with pytest.raises(RefusalError, match="too few sites") as refused:
        federation.propose(renamed)
    assert f"{SITE}: refused: policy-explore-column" in refused.value.text()


def test_a_new_hospital_answers_no_exploration(tmp_path: Path) -> None:
    """Nobody allowed it: not even the size of the cohort is declared for one."""
    federation = Federation(tmp_path)
    federation.register(heart_exploration(queries=QUERIES))
    with pytest.raises(RefusalError, match="too few sites") as refused:
        federation.propose(heart_exploration(queries=QUERIES))
    assert refused.value.text().count("policy-explore ") == len(SITES)


def test_a_policy_that_forbids_it_later_binds_at_once(asking: Asking) -> None:
    assert isinstance(asking.work(), Result)
    set_policy(asking.home, "allow_explore", "false")
    assert code(asking.work(attempt=2)) == "policy-explore"


def test_a_group_of_a_few_patients_drowns_in_noise_and_is_not_shown(approved: Federation, tmp_path: Path) -> None:
    """Conditions that single out fewer than 11 patients of 920. What leaves a hospital differs from their number by its noise."""
    federation = approved.copy(tmp_path / "copy")
    few = [{"kind": "count", "name": "few", "where": [{"column": "sex", "level": "female"}, {"column": "age", "at_least": 74}]},
           {"kind": "mean", "name": "their-heart-rate", "column": "thalach",
            "where": [{"column": "sex", "level": "female"}, {"column": "age", "at_least": 74}]}]  # fmt: skip
    federation.ready(heart_exploration(secure=False, queries=few, study={"id": "few"}, privacy={"epsilon": 0.5}))
    truth = exact(federation, SITES)
    assert 0 < truth[0] < 11
    leaving = []
    for attempt in (1, 2):
        asking = Asking(federation)
        assert isinstance(asking.work(attempt=attempt), Result)
        leaving.append(np.frombuffer(asking.body, dtype="<i8")[0])
    assert leaving[0] != leaving[1] or abs(leaving[0]) > 1  # fresh noise, of a deviation of about 11, each time
    federation.run()
    answers = shown(federation).answers
    assert answers is not None
    for answer in answers:
        for one in answer.estimates:
            # Noise may lift a count over 11; a mean of so few is then too noisy to be told.
            if one.value is not None:
                assert answer.kind == "count" or one.label == "patients"
                assert one.low == 0
            else:
                assert one.reason
