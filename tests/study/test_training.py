"""The training table: what belongs together, and what only the simulator runs."""

from __future__ import annotations

import pytest
from federation import heart_manifest
from pydantic import ValidationError

from fedward.privacy.errors import InputError
from fedward.study.training import Training

WITHOUT: dict[str, object] = {"mechanism": "none", "epsilon": None, "delta": None}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"algorithm": "fedprox"}, "fedprox needs proximal"),
        ({"algorithm": "fedavg", "proximal": 1.0}, "proximal belongs to fedprox"),
        ({"algorithm": "qfedavg"}, "qfedavg needs q"),
        ({"algorithm": "fedavg", "q": 1.0}, "q belongs to qfedavg"),
        ({"algorithm": "fedavg", "aggregation": "krum"}, "needs byzantine"),
        ({"algorithm": "fedavg", "byzantine": 1}, "byzantine belongs"),
        ({"algorithm": "fedavg", "aggregation": "median", "byzantine": 1}, "byzantine belongs"),
        ({"algorithm": "scaffold", "aggregation": "median"}, "server step of its own"),
        ({"algorithm": "scaffold", "server_momentum": 0.9}, "server step of its own"),
        ({"algorithm": "qfedavg", "q": 1.0, "kept": ("0.",)}, "leave out kept"),
        ({"algorithm": "fedsgd", "local_steps": 2}, "full-batch step"),
        ({"algorithm": "fedavg", "q": float("nan")}, "q"),
    ],
)
def test_what_does_not_belong_together_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Training.model_validate({"rounds": 1} | fields)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"aggregation": "median"}, "privacy": {"secure_aggregation": True}}, "secure sum hides"),
        ({"training": {"aggregation": "krum", "byzantine": 1}}, "quorum of at least 5"),
        ({"training": {"algorithm": "qfedavg", "q": 1.0, "server_momentum": 0.0}}, "losses that carry no noise"),
        (
            {
                "training": {"algorithm": "qfedavg", "q": 1.0, "server_momentum": 0.0},
                "privacy": WITHOUT | {"secure_aggregation": True},
            },
            "secure sum hides",
        ),
        (
            {"training": {"kept": ["0."]}, "privacy": {"noise": "shared", "secure_aggregation": True}},
            "leave out kept",
        ),
    ],
)
def test_what_the_study_does_not_allow_is_refused(changes: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        heart_manifest(**changes)


def test_what_only_the_simulator_runs_is_named() -> None:
    def only(**fields: object) -> str:
        return Training.model_validate({"rounds": 1, "algorithm": "fedavg"} | fields).simulated_only

    assert only() == only(aggregation="median") == ""
    assert only(algorithm="scaffold", fine_tuning_steps=3) == "scaffold, fine_tuning_steps"
    assert only(kept=("0.",)) == "kept"
    assert heart_manifest(
        training={"algorithm": "qfedavg", "q": 1.0, "server_momentum": 0.0}, privacy=WITHOUT
    ).training.simulated_only


def test_a_study_that_uses_nothing_new_is_written_as_before() -> None:
    plain = heart_manifest()
    assert b"byzantine" not in plain.canonical
    assert b"aggregation" not in plain.training.model_dump_json().encode()
    robust = heart_manifest(training={"aggregation": "trimmed-mean", "byzantine": 1})
    assert b'"byzantine":1' in robust.canonical
    assert type(robust).model_validate_json(robust.model_dump_json()) == robust
