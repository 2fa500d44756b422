"""The planner: its rule against its own formulas computed differently, its choices, its costs by another accountant."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import heart_manifest

from fedward.client.closed_form import layers_of
from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import Budget, Reservation
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import CountEvent, DpEvent
from fedward.privacy.ledger import Ledger
from fedward.simulations import planner
from fedward.simulations.baselines import UnsafeSeededDraws, rehearse, split
from fedward.simulations.expected import Trials, split_key, summarise
from fedward.simulations.folders import read_hospitals
from fedward.simulations.planner import Schedule, by_rule, by_trials, candidates, check_delta, left, most_rate, plan
from fedward.simulations.rounds import federate
from fedward.simulations.stacked import federate_stacked
from fedward.study import schedule as releases_of
from fedward.study.encoding import Encoded, input_names
from fedward.study.heart import heart_folder
from fedward.study.models import build
from fedward.study.schedule import least_noise, study_events, training_schedule

HEART = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
MANIFEST = heart_manifest()
DELTA = 1e-3


@pytest.fixture(scope="module")
def at_3() -> tuple[Schedule, ...]:
    return candidates(MANIFEST, HEART, 3.0, DELTA)


@pytest.fixture(scope="module")
def public() -> dict[str, Encoded]:
    return read_hospitals(heart_folder(), MANIFEST)


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_noise_is_how_far_noise_moves_a_real_model() -> None:
    """Without any patient every step is its noise."""
    training = {"rounds": 6, "server_learning_rate": 0.3, "server_momentum": 0.7}
    manifest = heart_manifest(training=training, federation={"quorum": 2})
    sizes = {"a": 80, "b": 140}
    width = len(input_names(manifest))
    schedule = planner._moved(manifest, sizes, Schedule(6, 1, 1.0, 0.3, 2.0))
    sealed = planner.seal(manifest, sizes, schedule)
    nobody = Encoded((), np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.zeros((0, 0), np.bool_))
    moved = federate_stacked(
        [sealed], [{"a": nobody, "b": nobody}] * 60, [UnsafeSeededDraws(seed) for seed in range(60)]
    )
    measured = math.sqrt(np.square(moved).sum(axis=2).mean())
    assert schedule.noise == pytest.approx(measured, rel=0.06)


def test_signal_is_how_far_patients_who_agree_move_a_real_model() -> None:
    training = {"rounds": 6, "server_learning_rate": 0.01, "server_momentum": 0.7}
    manifest = heart_manifest(training=training, privacy={"clipping_norm": 0.2}, federation={"quorum": 2})
    width = len(input_names(manifest))
    number = round(100 * (1 - manifest.training.holdout))
    same = Encoded(
        tuple(map(str, range(number))), np.ones((number, width), np.float32), np.ones(number, np.float32),
        np.zeros((number, 0), np.bool_),
    )  # fmt: skip
    schedule = planner._moved(manifest, {"a": 100, "b": 100}, Schedule(6, 1, 1.0, 0.01, 1e-6))
    sealed = planner.seal(manifest, {"a": 100, "b": 100}, schedule)
    vector = federate(sealed, {"a": same, "b": same}, UnsafeSeededDraws(0))
    assert np.linalg.norm(vector) == pytest.approx(schedule.signal, rel=0.01)


def test_candidates_are_calibrated_as_a_study_of_as_many_rounds_would_be(at_3: tuple[Schedule, ...]) -> None:
    assert [one.rounds for one in at_3] == list(planner.ROUNDS)
    for one in (at_3[0], at_3[2], at_3[-1]):
        study = planner.with_schedule(MANIFEST, 3.0, DELTA, one)
        assert one.noise_multiplier == pytest.approx(least_noise(study), rel=1e-3)


def test_noise_moves_the_model_by_at_most_one_and_rates_keep_below_their_limit(at_3: tuple[Schedule, ...]) -> None:
    for one in at_3:
        assert one.noise <= planner.MOST_NOISE
        assert one.learning_rate <= most_rate(MANIFEST)
        assert one.noise > 0.9 or one.learning_rate > 0.9 * most_rate(MANIFEST), "the rate could be larger"


def test_the_limit_bounds_the_curvature_of_any_patients(public: dict[str, Encoded]) -> None:
    largest = max(float(np.square(data.inputs).sum(axis=1).max()) for data in public.values())
    curvature = 2 * (1 + MANIFEST.training.server_momentum) / (2 * most_rate(MANIFEST))
    assert (1 + largest) / 4 <= curvature


def test_the_rule_takes_the_fewest_rounds_whose_signal_is_nearly_the_largest() -> None:
    def one(rounds: int, signal: float) -> Schedule:
        return Schedule(rounds, 1, 1.0, 1.0, 1.0, signal, 1.0)

    assert by_rule([one(5, 8.9), one(10, 9.1), one(20, 10.0)]).rounds == 10
    assert by_rule([one(5, 9.5), one(10, 9.9), one(20, 8.0)]).rounds == 5
    assert by_rule([one(20, 1.0)]).rounds == 20


def test_a_larger_epsilon_takes_more_signal() -> None:
    strict, loose = (by_rule(candidates(MANIFEST, HEART, value, DELTA, [5, 20])) for value in (0.5, 8.0))
    assert loose.signal > 4 * strict.signal
    assert loose.learning_rate > 4 * strict.learning_rate


def test_fedadam_keeps_the_authors_rate() -> None:
    adam = heart_manifest(training={"algorithm": "fedadam", "server_learning_rate": 0.07, "rounds": 4})
    (only,) = candidates(adam, HEART, 3.0, DELTA)
    assert (only.rounds, only.learning_rate, math.isnan(only.signal)) == (4, 0.07, True)


def test_sampled_studies_are_calibrated_one_by_one() -> None:
    sampled = heart_manifest(
        training={"algorithm": "fedavg", "sampling_rate": 0.25, "local_steps": 2, "local_learning_rate": 0.5}
    )
    for one in candidates(sampled, HEART, 3.0, DELTA, [3, 6]):
        study = planner.with_schedule(sampled, 3.0, DELTA, one)
        assert one.noise_multiplier == least_noise(study)


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned() -> planner.Plan:
    return plan(MANIFEST, HEART, 1.0, DELTA, rounds=[10], budget=3.0)


def test_the_plan_keeps_its_promise_and_no_smaller_noise_would(planned: planner.Plan) -> None:
    schedule, steps = planned.schedule, planned.schedule.rounds + MANIFEST.privacy.spare_attempts
    assert planned.attempts == steps
    event = DpEvent(schedule.noise_multiplier, 1.0, steps)
    assert planned.training == planned.against_all == epsilon([event], DELTA) <= 1.0
    assert epsilon([replace(event, noise_multiplier=schedule.noise_multiplier - 0.002)], DELTA) > 1.0
    assert planned.per_round == epsilon([replace(event, steps=1)], DELTA)
    assert planned.training / steps < planned.per_round < planned.training


def test_a_plan_prices_the_evaluation_and_a_ledger_is_charged_the_larger() -> None:
    found = plan(
        heart_manifest(evaluation={"noise": "counts", "epsilon": 2.0}), HEART, 1.0, DELTA, rounds=[10], budget=3.0
    )
    events = study_events(rehearse(found.manifest, HEART), "va")
    assert found.evaluation == epsilon([event for event in events if isinstance(event, CountEvent)], DELTA)
    assert found.training <= 1.0 < found.evaluation <= 2.0
    assert found.left is not None
    assert found.whole == found.left.spent == epsilon(events, DELTA) == found.evaluation


def test_a_plan_prices_no_evaluation_that_leaves_without_noise(planned: planner.Plan) -> None:
    assert planned.evaluation is None
    assert planned.whole == planned.training


def test_shared_noise_is_planned_for_the_pool_and_priced_against_everyone() -> None:
    shared = heart_manifest(privacy={"noise": "shared", "epsilon": 1.0, "delta": DELTA, "secure_aggregation": True})
    found = plan(shared, HEART, 1.0, DELTA, rounds=[10])
    local = plan(MANIFEST, HEART, 1.0, DELTA, rounds=[10])
    assert found.training <= 1.0 < found.against_all
    assert found.sampled == {}
    assert {sigma for sigma, _ in found.sites.values()} == {least_noise(found.manifest)}
    assert found.schedule.signal / found.schedule.noise > 1.2 * local.schedule.signal / local.schedule.noise


def test_the_manifest_of_the_plan_is_sealed_with_its_noise(planned: planner.Plan) -> None:
    assert planned.manifest.training.rounds == 10
    assert planned.manifest.privacy.epsilon == 1.0
    sealed = rehearse(planned.manifest, HEART)
    assert {site: sigma for site, (sigma, _) in planned.sites.items()} == {
        entry.site: least_noise(planned.manifest) for entry in sealed.roster
    }
    assert planned.sites["va"][1] == pytest.approx(200 / 910)  # declared: 300 + 290 + 120 + 200
    assert sum(weight for _, weight in planned.sites.values()) == pytest.approx(1.0)


def test_full_batches_are_the_cheapest_at_equal_noise(planned: planner.Plan) -> None:
    assert set(planned.sampled) == set(planner.SAMPLED)
    assert all(price > planned.training for price in planned.sampled.values())
    assert not any("sampling" in line for line in planned.warnings)


def test_what_is_left_of_a_lifetime_is_what_a_ledger_would_still_admit(planned: planner.Plan, tmp_path: Path) -> None:
    found = planned.left
    assert found is not None
    events = study_events(rehearse(planned.manifest, HEART), "va")
    assert found.spent == planned.whole
    with Ledger.create(tmp_path / "ledger.db", budget=Budget(3.0, DELTA), lineage="all") as ledger:
        ledger.reserve(Reservation("0" * 64, "first", events, 100, "0" * 64), at=1)
        for number in range(1, found.again + 1):
            assert ledger.fits(events)
            ledger.reserve(Reservation(f"{number:064x}", f"study-{number}", events, 100, "0" * 64), at=1)
        assert not ledger.fits(events)
    with Ledger.create(tmp_path / "other.db", budget=Budget(3.0, DELTA), lineage="all") as ledger:
        ledger.reserve(Reservation("0" * 64, "first", events, 100, "0" * 64), at=1)
        schedule = training_schedule(planned.manifest)
        sigma = planner.calibrate([], schedule.events, found.later, DELTA)
        assert ledger.fits(schedule.events(sigma + 0.002))
        assert not ledger.fits(schedule.events(sigma - 0.01))


def test_a_first_study_beyond_the_filter_leaves_nothing(planned: planner.Plan) -> None:
    releases = training_schedule(planned.manifest)
    found = left(releases, planned.schedule.noise_multiplier, (), planned.training, DELTA)
    assert (found.later, found.again) == (0.0, 0)


def test_a_budget_that_does_not_hold_the_study_is_refused() -> None:
    releases = releases_of.Schedule(1.0, 1, 10, (0.0, 1.0))
    with pytest.raises(RefusalError, match="lifetime") as caught:
        left(releases, 2.0, (), 1.0, DELTA)
    assert caught.value.code == "budget-exhausted"
    assert left(releases, 10.0, (), epsilon(releases.events(10.0), DELTA), DELTA).again == 0


@pytest.mark.parametrize(("delta", "smallest"), [(0.01, 100), (0.5, 3), (float("nan"), 100)])
def test_a_delta_that_promises_nothing_is_refused(delta: float, smallest: int) -> None:
    with pytest.raises(RefusalError, match="promises nothing at b") as caught:
        check_delta(delta, {"a": 1000, "b": smallest})
    assert caught.value.code == "delta-too-large"


def test_a_large_delta_is_warned_about() -> None:
    assert "above 1/(10 N)" in check_delta(1.1e-3, {"a": 1000, "b": 100})[0]
    assert check_delta(1e-3, {"a": 1000, "b": 100}) == ()


def test_a_plan_without_hospitals_or_rounds_is_refused() -> None:
    with pytest.raises(InputError, match="no hospitals"):
        plan(MANIFEST, {}, 1.0, DELTA)
    with pytest.raises(InputError, match="no number of rounds"):
        candidates(MANIFEST, HEART, 1.0, DELTA, [])


# ---- simulation ------------------------------------------------------------------------------------------------------


def test_expected_auroc_is_that_of_the_node_code(public: dict[str, Encoded]) -> None:
    """One study of the trials, redone by hand: split, `federate`, scikit-learn on the held-out patients."""
    from sklearn.metrics import roc_auc_score

    manifest = heart_manifest(training={"rounds": 4})
    sealed = rehearse(manifest, {site: len(data) for site, data in public.items()}, noise_multiplier=4.0)
    trials = Trials(public, HEART, manifest.training.holdout, [3, 5])
    found = trials.run([sealed])
    for column, seed in enumerate((3, 5)):
        parts = {site: split(data, manifest.training.holdout, split_key(seed, site)) for site, data in public.items()}
        vector = federate(sealed, {site: part.training for site, part in parts.items()}, UnsafeSeededDraws(seed))
        inputs = np.concatenate([parts[site].held_out.inputs for site in sorted(parts)])
        outcomes = np.concatenate([parts[site].held_out.outcomes for site in sorted(parts)])
        assert found[0, column] == pytest.approx(roc_auc_score(outcomes, inputs @ vector[:-1]), abs=2e-4)


def test_other_models_are_simulated_by_the_node_code(public: dict[str, Encoded]) -> None:
    manifest = heart_manifest(model={"name": "mlp", "hidden": [3]}, training={"rounds": 1})
    trials = Trials(public, HEART, manifest.training.holdout, [0])
    sealed = rehearse(manifest, HEART, noise_multiplier=1.0)
    assert layers_of(build(manifest)) is not None
    assert not trials.fast(sealed)
    told: list[str] = []
    assert 0 < trials.run([sealed], told.append)[0, 0] < 1
    assert told == ["simulated study 1 of 1, 1 rounds"]


def test_planned_hospitals_of_other_sizes_are_drawn_from_the_public_ones(public: dict[str, Encoded]) -> None:
    trials = Trials(public, {"cleveland": 303, "new": 1000, "small": 50}, 0.33, [0])
    (study,) = trials.training
    names = sorted(public)
    assert study["cleveland"].patients == trials.splits[0]["cleveland"].training.patients
    assert (len(study["new"]), len(study["small"])) == (670, 34)
    source = trials.splits[0][names[1]].training
    known = {row.tobytes() for row in source.inputs}
    assert {row.tobytes() for row in study["new"].inputs} <= known
    unseen = sum(len(part.held_out) for part in trials.splits[0].values())
    assert len(trials.unseen[0]) == unseen


def test_encounters_are_drawn_with_their_patient() -> None:
    rows = np.arange(5, dtype=np.float32)[:, None]
    data = Encoded(("a", "a", "b", "c", "b"), rows, np.zeros(5, np.float32), np.zeros((5, 0), np.bool_))
    from fedward.simulations.expected import _drawn

    drawn = _drawn(data, 30, np.random.default_rng(0))
    assert len(drawn) == 30
    for patient in set(drawn.patients):
        own = sorted(drawn.inputs[np.array(drawn.patients) == patient, 0])
        assert own in ([0, 1], [2, 4], [3])


def test_trials_choose_the_fewest_rounds_that_are_not_worse(
    monkeypatch: pytest.MonkeyPatch, public: dict[str, Encoded]
) -> None:
    tried = [Schedule(rounds, 1, 1.0, 0.1, 1.0, 1.0, 1.0) for rounds in (5, 10, 20)]
    monkeypatch.setattr(planner, "FACTORS", (1.0,))
    trials = Trials(public, HEART, 0.33, range(4))

    def choice(*areas: list[float]) -> int:
        monkeypatch.setattr(Trials, "run", lambda _self, _settings, *_report: np.array(areas))
        return by_trials(MANIFEST, HEART, tried, tried[0], trials).rounds

    assert choice([0.8, 0.7, 0.8, 0.7], [0.9, 0.8, 0.9, 0.8], [0.9, 0.8, 0.91, 0.8]) == 10
    assert choice([0.9, 0.7, 0.8, 0.7], [0.8, 0.8, 0.7, 0.8], [0.8, 0.8, 0.8, 0.8]) == 5
    assert choice([0.8, 0.7, 0.8, 0.7], [math.nan] * 4, [0.9, 0.8, 0.9, 0.9]) == 20


def test_trials_choose_on_other_seeds_than_they_report(
    monkeypatch: pytest.MonkeyPatch, public: dict[str, Encoded]
) -> None:
    used: list[list[int]] = []
    real = Trials.run

    def run(self: Trials, settings: list[object], *report: object) -> object:
        used.append(list(self.seeds))
        return real(self, settings, *report)  # type: ignore[arg-type]

    monkeypatch.setattr(Trials, "run", run)
    found = plan(MANIFEST, HEART, 3.0, DELTA, rounds=[2], trials=Trials(public, HEART, 0.33, range(2)))
    assert used == [[1000, 1001], [0, 1]]
    assert found.expected is not None
    assert found.expected.seeds == 2


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        found = summarise(generator.normal(0.88, 0.02, 20))
        inside += found.low <= 0.88 <= found.high
    assert 0.88 < inside / 100 < 0.98
    assert summarise([0.8, 0.9]).deviation == pytest.approx(0.1 / math.sqrt(2))
    with pytest.raises(InputError, match="no figure"):
        summarise([0.8, math.nan])


@pytest.mark.parametrize(("target", "least"), [(0.5, 0.865), (3.0, 0.88)])
def test_the_rule_serves_the_heart_hospitals(target: float, least: float, public: dict[str, Encoded]) -> None:
    """Without a look at any patient; the utility benchmark measures all four ε, with the planner's other choices."""
    found = plan(MANIFEST, HEART, target, DELTA, rounds=[10])
    sealed = planner.seal(found.manifest, HEART, found.schedule)
    assert Trials(public, HEART, MANIFEST.training.holdout, range(20)).expected(sealed).mean >= least
