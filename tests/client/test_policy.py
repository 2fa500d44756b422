"""The hospital's policy: what it refuses, whoever asks; and a policy that cannot be read refuses everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exploring import heart_exploration
from federation import heart_manifest

from fedward.client.policy import DEFAULT_POLICY, Policy, load_policy, objections
from fedward.privacy.errors import InputError
from fedward.study.evaluation import count_deviation
from fedward.study.exploration import SealedExploration
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest

LAX = Policy(require_dp=False, max_epsilon=100.0, max_delta=0.5, min_patients=1, min_quorum=1)


def seal(manifest: Manifest) -> SealedManifest:
    noise = 5.0 if manifest.privacy.mechanism == "dp-sgd" else 0.0
    return SealedManifest(
        manifest=manifest,
        federation_id="0" * 32,
        coordinator_key="0" * 64,
        roster=tuple(
            RosterEntry(site=f"s{i}", identity_key=f"{i:064x}", declared_patients=100, noise_multiplier=noise)
            for i in range(5)
        ),
        count_deviation=count_deviation(manifest),
        sealed_at=0,
        expires_at=1,
    )


def codes(policy: Policy, patients: int = 200, **changes: Any) -> list[str]:
    return [o.code for o in objections(policy, seal(heart_manifest(secure=True, noised=True, **changes)), patients)]


def without_dp() -> dict[str, Any]:
    return {"privacy": {"mechanism": "none", "epsilon": None, "delta": None}}


def test_the_default_policy_of_a_new_site_is_the_default_of_its_class(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(DEFAULT_POLICY)
    assert load_policy(path) == Policy()


def test_the_heart_study_meets_the_default_policy() -> None:
    assert codes(Policy()) == []


@pytest.mark.parametrize(
    "training",
    [{"algorithm": "scaffold", "server_momentum": 0.0}, {"kept": ["0."]}, {"fine_tuning_steps": 3}],
)
def test_a_study_that_only_the_simulator_runs_is_refused(training: dict[str, Any]) -> None:
    assert codes(Policy(), training=training) == ["simulated-only"]


@pytest.mark.parametrize(
    ("strict", "changes", "code"),
    [
        (Policy(), without_dp(), "policy-requires-dp"),
        (Policy(max_epsilon=2.999), {}, "policy-epsilon"),
        (Policy(max_delta=0.000999), {}, "policy-delta"),
        (Policy(), {"evaluation": {"noise": "none"}}, "policy-evaluation-noise"),
        (Policy(), {"evaluation": {"epsilon": 6.0}}, "policy-epsilon"),
        (Policy(min_patients=201), {}, "policy-patients"),
        (Policy(), {"federation": {"min_patients": 201}}, "policy-patients"),
        (Policy(min_quorum=4), {}, "policy-quorum"),
        (Policy(), {"federation": {"quorum": 2}}, "policy-quorum"),
    ],
)
def test_each_rule_refuses_by_its_own_code(strict: Policy, changes: dict[str, Any], code: str) -> None:
    assert codes(strict, **changes) == [code]


@pytest.mark.parametrize(
    "exact", [Policy(max_epsilon=3.0), Policy(max_delta=1e-3), Policy(min_patients=200), Policy(min_quorum=3)]
)
def test_what_is_just_allowed_is_allowed(exact: Policy) -> None:
    assert codes(exact) == []


def test_a_study_without_dp_passes_only_where_the_hospital_allows_it() -> None:
    assert codes(LAX, **without_dp()) == []


@pytest.mark.parametrize(("patients", "refused"), [(999, False), (1000, True), (1001, True)])
def test_delta_must_be_below_one_in_n_whatever_the_policy(patients: int, refused: bool) -> None:
    """At δ = 1/N a mechanism that publishes one patient at random would pass."""
    assert codes(LAX, patients=patients) == (["policy-delta"] if refused else [])


def test_every_objection_is_named_not_only_the_first() -> None:
    strict = Policy(max_epsilon=1.0, max_delta=1e-4, min_patients=500, min_quorum=5)
    assert set(codes(strict)) == {"policy-epsilon", "policy-delta", "policy-patients", "policy-quorum"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[policy",
        "[policy]\nrequire_pd = true",
        "[policy]\nrequire_dp = 1",
        '[policy]\nrequire_dp = "false"',
        "[policy]\nmax_epsilon = nan",
        "[policy]\nmax_epsilon = inf",
        "[policy]\nmax_epsilon = 0",
        "[policy]\nmax_delta = 1.0",
        "[policy]\nmin_patients = 0",
        "[policy]\nmin_patients = 1.5",
        "[policy]\n[other]",
        "policy = 1",
        "require_dp = true",
        "a = " + "[" * 5000,
    ],
)
def test_a_policy_that_cannot_be_read_refuses_everything(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        load_policy(path)


def test_a_policy_that_is_missing_refuses_everything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no policy"):
        load_policy(tmp_path / "policy.toml")


def test_a_setting_left_out_has_its_strict_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[policy]\nmin_quorum = 1")
    assert load_policy(path) == Policy(min_quorum=1)


def test_counts_with_less_noise_than_the_study_s_epsilon_asks_for_are_refused() -> None:
    sealed = seal(heart_manifest(secure=True, noised=True))
    quiet = sealed.model_copy(update={"count_deviation": sealed.count_deviation / 2})
    assert [o.code for o in objections(Policy(), sealed, 200)] == []
    assert [o.code for o in objections(Policy(), quiet, 200)] == ["policy-count-noise"]


def test_a_hospital_may_allow_exact_counts() -> None:
    assert codes(Policy(require_evaluation_noise=False), evaluation={"noise": "none"}) == []
    assert "policy-evaluation-noise" not in codes(Policy(require_dp=False), **without_dp())


# --- explorations -----------------------------------------------------------------------------------------------------


def seal_exploration(**changes: Any) -> SealedExploration:
    return SealedExploration(
        manifest=heart_exploration(**changes),
        federation_id="0" * 32,
        coordinator_key="0" * 64,
        roster=seal(heart_manifest(secure=True)).roster,
        sealed_at=0,
        expires_at=1,
    )


def exploring(policy: Policy, origin: Callable[[str], str] = str, **changes: Any) -> list[str]:
    return [o.code for o in objections(policy, seal_exploration(**changes), 200, origin)]


def test_a_hospital_answers_explorations_only_where_it_says_so() -> None:
    assert exploring(Policy()) == ["policy-explore"]
    assert exploring(Policy(allow_explore=True)) == []


def test_an_exploration_has_a_ceiling_of_its_own_below_that_of_studies() -> None:
    assert exploring(Policy(allow_explore=True), privacy={"epsilon": 0.501}) == ["policy-explore-epsilon"]
    assert exploring(Policy(allow_explore=True, max_explore_epsilon=1.0), privacy={"epsilon": 1.0}) == []
    lax = Policy(allow_explore=True, max_explore_epsilon=100.0)
    assert exploring(lax, privacy={"epsilon": 6.0}) == ["policy-epsilon"]


def test_denied_columns_are_known_by_either_name() -> None:
    def denying(*columns: str) -> Policy:
        return Policy(allow_explore=True, explore_denied_columns=columns)

    assert exploring(denying("age")) == ["policy-explore-column"]
    assert exploring(denying("sex")) == ["policy-explore-column"]  # in a condition alone
    assert exploring(denying("thal", "hiv")) == []  # in the schema, but nothing asks about it
    assert exploring(denying("SEX_CD"), {"sex": "SEX_CD"}.get) == ["policy-explore-column"]  # type: ignore[arg-type]


def test_all_other_rules_hold_for_explorations_too() -> None:
    allowing = Policy(allow_explore=True)
    assert exploring(allowing, secure=False) == ["policy-requires-secure-aggregation"]
    assert exploring(allowing, federation={"quorum": 2}) == ["policy-quorum"]
    assert exploring(allowing, privacy={"delta": 0.004}) == ["policy-delta"]
    assert exploring(Policy(allow_explore=True, min_patients=201)) == ["policy-patients"]


def test_a_list_of_columns_is_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(DEFAULT_POLICY.replace("explore_denied_columns = []", 'explore_denied_columns = ["hiv", "age"]'))
    assert load_policy(path).explore_denied_columns == ("hiv", "age")
