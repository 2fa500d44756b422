"""What a secure sum is made of: weights, bounds, grid and counts, against a weighted mean in floats, and what is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.faults import ProtocolError
from fedward.study.evaluation import count_deviation, most_noise
from fedward.study.manifest import RosterEntry, SealedManifest, parse_sealed
from fedward.study.metrics import histogram_shape
from fedward.study.secure import (
    DEFAULT_BOUND,
    SecureTerms,
    batch_of,
    check_plan,
    secure_terms,
    update_bound,
)
from fedward.study.terms import most_patients

WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
COHORTS = (300, 290, 120, 200)


def seal(cohorts: Sequence[int] = COHORTS, *, dp: bool = True, secure: bool = True, **changes: Any) -> SealedManifest:
    """The heart study, sealed for sites that declare these cohorts."""
    changes["privacy"] = ({} if dp else WITHOUT) | changes.get("privacy", {})
    changes["evaluation"] = {"bins": 10} | changes.get("evaluation", {})
    roster = [
        RosterEntry(
            site=f"s{index:02d}",
            identity_key=f"{index:064x}",
            declared_patients=patients,
            noise_multiplier=1.7 if dp else 0.0,
        )
        for index, patients in enumerate(cohorts)
    ]
    manifest = heart_manifest(secure=secure, **changes)
    return SealedManifest(
        manifest=manifest,
        federation_id="f" * 32,
        coordinator_key="c" * 64,
        roster=tuple(roster),
        count_deviation=count_deviation(manifest),
        sealed_at=1,
        expires_at=2,
    )


def names(sealed: SealedManifest) -> list[str]:
    return [entry.site for entry in sealed.roster]


def both(sealed: SealedManifest, dimension: int = 5, members: int | None = None) -> SecureTerms:
    return secure_terms(sealed, members or len(sealed.roster), dimension=dimension, train=True, evaluate=True)


def added(terms: SecureTerms, vectors: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """The blocks of the sum, by Python's integers: what a ring does, without one."""
    modulus = 2**terms.ring.bits
    totals = [sum(column) % modulus for column in zip(*(vector.tolist() for vector in vectors), strict=True)]
    signed = [total - modulus if total >= modulus // 2 else total for total in totals]
    blocks, start = [], 0
    for block in terms.ring.blocks:
        blocks.append(np.array(signed[start : start + block.length], dtype=np.int64))
        start += block.length
    return blocks


def some_counts(generator: np.random.Generator, sealed: SealedManifest, most: int) -> NDArray[np.int64]:
    everybody = generator.integers(0, most, histogram_shape(sealed.manifest)[1:], endpoint=True)
    share = generator.random(histogram_shape(sealed.manifest))
    share[0] = 1.0
    return np.floor(everybody * share).astype(np.int64)


# --- sums ---------------------------------------------------------------------------------------------------------------


@st.composite
def sums(draw: st.DrawFn) -> tuple[SealedManifest, int, list[int], float, int]:
    """A study, a dimension, who survives, how long updates are compared with their bounds, and a seed."""
    cohorts = draw(st.lists(st.integers(50, 1_000_000), min_size=3, max_size=9))
    privacy: dict[str, Any] = {"ring_bits": draw(st.sampled_from([32, 64]))}
    bound = draw(st.none() | st.floats(1e-3, 1e3))
    if bound is not None:
        privacy["update_bound"] = bound
    sealed = seal(cohorts, dp=draw(st.booleans()), privacy=privacy)
    survivors = draw(st.sets(st.integers(0, len(cohorts) - 1), min_size=1))
    length = draw(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1.5, 1e4]))
    return sealed, draw(st.integers(1, 30)), sorted(survivors), length, draw(st.integers(0, 2**32))


@settings(max_examples=150, deadline=None)
@given(sums())
def test_a_decoded_sum_is_the_weighted_mean_and_the_exact_counts(
    case: tuple[SealedManifest, int, list[int], float, int],
) -> None:
    sealed, dimension, survivors, length, seed = case
    generator = np.random.default_rng(seed)
    terms = both(sealed, dimension)
    updates, counts, vectors = [], [], []
    for index in survivors:
        site = names(sealed)[index]
        update = generator.normal(size=dimension)
        update *= length * terms.bounds[site] / max(np.linalg.norm(update), 1e-30)
        updates.append(update.astype(np.float32))
        counts.append(some_counts(generator, sealed, most_patients(sealed, site) // 100))
        vector, clipped = terms.encode(site, updates[-1], counts[-1], os.urandom)
        assert clipped == (float(np.linalg.norm(updates[-1].astype(np.float64))) > terms.bounds[site])
        assert vector.dtype == terms.ring.dtype
        vectors.append(vector)
    sites = [names(sealed)[index] for index in survivors]
    delta, total = terms.decode(added(terms, vectors), sites)

    # The oracle knows nothing of rings: longer updates are shortened, then averaged by declared cohorts.
    shortened = [
        update.astype(np.float64) * min(1.0, terms.bounds[site] / max(np.linalg.norm(update.astype(np.float64)), 1e-30))
        for site, update in zip(sites, updates, strict=True)
    ]
    declared = [sealed.entry(site).declared_patients for site in sites]
    largest = max(entry.declared_patients for entry in sealed.roster)
    mean = np.average(shortened, axis=0, weights=declared)
    # Each site rounds each coordinate by less than one unit; at 64 bits a float is as coarse as the grid.
    units = len(sites) * (1 if terms.ring.bits == 32 else 3)
    assert delta is not None
    np.testing.assert_allclose(delta, mean, rtol=1e-12, atol=units * terms.grid * largest / sum(declared) * (1 + 1e-6))
    assert total is not None
    np.testing.assert_array_equal(total, np.sum(counts, axis=0))


@pytest.mark.parametrize("bits", [32, 64])
def test_all_sites_at_their_bounds_fill_the_ring_and_do_not_wrap(bits: int) -> None:
    sealed = seal([1000] * 7, dp=False, privacy={"ring_bits": bits, "update_bound": 2.0})
    terms = both(sealed, 3)
    update = np.array([2.0, 0.0, 0.0], dtype=np.float32)
    vectors = [terms.encode(site, update, nobody(sealed), os.urandom)[0] for site in names(sealed)]
    for sign in (1, -1):
        signed = [vector if sign == 1 else (-vector.astype(vector.dtype)).astype(vector.dtype) for vector in vectors]
        delta, _ = terms.decode(added(terms, signed), names(sealed))
        assert delta is not None
        np.testing.assert_allclose(delta, [sign * 2.0, 0.0, 0.0], rtol=1e-9)
    most = terms.ring.blocks[0].most
    assert 7 * most <= 2 ** (bits - 1) - 1
    if bits == 32:
        assert 7 * (most + 1) > 2 ** (bits - 1) - 1, "a finer grid would do"
        assert int(vectors[0][0]) == most


def nobody(sealed: SealedManifest) -> NDArray[np.int64]:
    return np.zeros(histogram_shape(sealed.manifest), dtype=np.int64)


def test_the_grid_is_finer_in_a_wider_ring() -> None:
    narrow, wide = (both(seal(privacy={"ring_bits": bits})).grid for bits in (32, 64))
    assert wide < narrow / 2**20


@pytest.mark.parametrize(("train", "evaluate"), [(True, False), (False, True)])
def test_a_round_that_does_one_thing_sums_one_thing(train: bool, evaluate: bool) -> None:
    sealed = seal()
    terms = secure_terms(sealed, 4, dimension=5, train=train, evaluate=evaluate)
    update = np.ones(5, dtype=np.float32) if train else None
    counts = np.ones(histogram_shape(sealed.manifest), dtype=np.int64) if evaluate else None
    vectors = [terms.encode(site, update, counts, os.urandom)[0] for site in names(sealed)]
    assert len(vectors[0]) == (5 if train else 0) + (math.prod(histogram_shape(sealed.manifest)) if evaluate else 0)
    delta, total = terms.decode(added(terms, vectors), names(sealed))
    assert (delta is None, total is None) == (not train, not evaluate)
    if delta is not None:
        np.testing.assert_allclose(delta, np.ones(5), atol=1e-4)
    if total is not None:
        assert (total == 4).all()


def test_weights_are_declared_cohorts_of_training_patients() -> None:
    expected = {"s00": 1.0, "s01": 290 / 300, "s02": 0.4, "s03": 200 / 300}
    assert both(seal()).weights == pytest.approx(expected, rel=1e-15)


# --- bounds ---------------------------------------------------------------------------------------------------------------


def test_a_bound_that_the_study_names_is_everyone_s() -> None:
    assert set(both(seal(privacy={"update_bound": 2.5})).bounds.values()) == {2.5}


def test_without_a_named_bound_it_is_what_clipping_and_noise_can_reach_at_each_site() -> None:
    training = {
        "algorithm": "fedavg",
        "local_steps": 4,
        "local_learning_rate": 0.25,
        "sampling_rate": 0.5,
        "holdout": 0.2,
    }
    sealed = seal(training=training, privacy={"clipping_norm": 1.5})
    for entry in sealed.roster:
        # One step moves by at most lr (C n + ‖noise‖) / (q N₀), the noise being N(0, σ²C²) in each of 5 coordinates.
        patients, batch = 2 * entry.declared_patients + 10, 0.5 * 0.8 * entry.declared_patients
        noise = 1.7 * 1.5 * (math.sqrt(5) + 12)
        expected = 4 * 0.25 * (1.5 * patients + noise) / batch
        assert update_bound(sealed, entry.site, 5) == pytest.approx(expected, rel=0.011)
        assert update_bound(sealed, entry.site, 5) >= expected
    bounds = both(sealed).bounds
    assert bounds == {site: update_bound(sealed, site, 5) for site in names(sealed)}
    assert bounds["s02"] > bounds["s00"]  # fewer patients: their noise weighs more


@pytest.mark.parametrize(
    "changes",
    [
        {"dp": False},
        {"training": {"algorithm": "fedprox", "local_learning_rate": 3.0, "proximal": 1.0}},
    ],
    ids=["without-dp", "a pull that grows"],
)
def test_where_nothing_bounds_an_update_the_default_does(changes: dict[str, Any]) -> None:
    sealed = seal(**changes)
    assert [update_bound(sealed, site, 5) for site in names(sealed)] == [DEFAULT_BOUND] * 4


# --- what a site refuses to encode ------------------------------------------------------------------------------------------

SHAPE = histogram_shape(seal().manifest)
ZEROS = np.zeros(SHAPE, dtype=np.int64)


@pytest.mark.parametrize(
    ("update", "counts", "code"),
    [
        (None, ZEROS, "wrong-shape"),
        (np.zeros(5, np.float32), None, "wrong-shape"),
        (None, None, "wrong-shape"),
        (np.zeros(4, np.float32), ZEROS, None),
        (np.zeros(6, np.float32), ZEROS, None),
        (np.zeros(1, np.float32), ZEROS, None),
        (np.zeros((5, 1), np.float32), ZEROS, "wrong-shape"),
        (np.zeros(5, np.int64), ZEROS, "wrong-shape"),
        (np.array([0, 0, np.nan, 0, 0], np.float32), ZEROS, "not-finite"),
        (np.array([0, 0, np.inf, 0, 0], np.float32), ZEROS, "not-finite"),
        (np.array([0, 0, -np.inf, 0, 0], np.float32), ZEROS, "not-finite"),
        (np.zeros(5, np.float32), np.zeros(SHAPE[:2], np.int64), "wrong-shape"),
        (np.zeros(5, np.float32), np.zeros(1, np.int64), "wrong-shape"),
        (np.zeros(5, np.float32), np.zeros(SHAPE, np.int32), "wrong-shape"),
        (np.zeros(5, np.float32), np.zeros(SHAPE, np.float64), "wrong-shape"),
        (np.zeros(5, np.float32), ZEROS - 1, "out-of-bounds"),
        (np.zeros(5, np.float32), ZEROS + 2 * 300 + 11, "out-of-bounds"),
    ],
    ids=[
        "no update", "no counts", "nothing", "short", "long", "to broadcast", "column", "integers", "nan", "inf", "-inf",
        "flat counts", "counts to broadcast", "narrow counts", "counts in floats", "negative counts", "too many",
    ],
)  # fmt: skip
def test_what_does_not_fit_the_terms_is_not_encoded(update: Any, counts: Any, code: str | None) -> None:
    with pytest.raises(InputError) as caught:
        both(seal()).encode("s00", update, counts, os.urandom)
    assert code in {None, caught.value.code}


def test_the_largest_count_that_a_declared_cohort_allows_is_encoded() -> None:
    vector, _ = both(seal()).encode("s00", np.zeros(5, np.float32), ZEROS + 2 * 300 + 10, os.urandom)
    assert set(vector[5:].tolist()) == {610}


@pytest.mark.parametrize("terms", [(True, False), (False, True)], ids=["train", "evaluate"])
def test_a_superfluous_part_is_refused(terms: tuple[bool, bool]) -> None:
    made = secure_terms(seal(), 4, dimension=5, train=terms[0], evaluate=terms[1])
    with pytest.raises(InputError, match="other parts"):
        made.encode("s00", np.zeros(5, np.float32), ZEROS, os.urandom)


# --- what a coordinator refuses to decode -------------------------------------------------------------------------------------


def opened(update: NDArray[np.int64], counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [update, counts.reshape(-1)]


def test_a_sum_beyond_its_survivors_bounds_is_refused_and_names_nobody() -> None:
    sealed = seal(dp=False, privacy={"update_bound": 1.0})
    terms = both(sealed)
    unit = np.array([1, 0, 0, 0, 0], dtype=np.int64)
    for survivors in (["s00", "s01", "s02"], ["s01", "s02"], names(sealed)):
        most = sum(terms.weights[site] for site in survivors) / terms.grid
        inside, outside = unit * int(most * 0.999), unit * int(most * 1.001)
        delta, _ = terms.decode(opened(inside, ZEROS), survivors)
        assert delta is not None
        assert delta[0] == pytest.approx(0.999, rel=1e-5)
        with pytest.raises(ProtocolError) as caught:
            terms.decode(opened(outside, ZEROS), survivors)
        assert (caught.value.code, caught.value.blamed, caught.value.lie) == ("sum-out-of-bounds", "", False)


@pytest.mark.parametrize("place", [(0, 3, 1), (2, 0, 0)])
def test_a_negative_count_is_refused(place: tuple[int, int, int]) -> None:
    counts = ZEROS.copy()
    counts[place] = -1
    with pytest.raises(ProtocolError, match="negative") as caught:
        both(seal()).decode(opened(np.zeros(5, np.int64), counts), names(seal()))
    assert caught.value.code == "sum-out-of-bounds"


def noised() -> SealedManifest:
    return seal(noised=True, evaluation={"bins": 10})


def test_noised_counts_may_be_negative_or_contradict_each_other_but_not_beyond_their_noise() -> None:
    sealed = noised()
    terms, reach = both(sealed), most_noise(sealed)
    assert terms.count_noise == reach > 0
    survivors = names(sealed)[:3]
    counts = ZEROS.copy()
    counts[0, 3, 1], counts[1, 3, 1] = -3 * reach, 5
    _, total = terms.decode(opened(np.zeros(5, np.int64), counts), survivors)
    np.testing.assert_array_equal(total, counts)
    counts[0, 3, 1] -= 1
    with pytest.raises(ProtocolError, match="negative count that no noise explains"):
        terms.decode(opened(np.zeros(5, np.int64), counts), survivors)


def test_noised_counts_of_sites_add_up_in_the_ring() -> None:
    sealed, generator = noised(), np.random.default_rng(5)
    terms, update = both(sealed), np.zeros(5, dtype=np.float32)
    parts = [np.rint(generator.normal(0, sealed.count_deviation, ZEROS.shape)).astype(np.int64) for _ in sealed.roster]
    assert min(part.min() for part in parts) < 0
    vectors = [terms.encode(site, update, part, os.urandom)[0] for site, part in zip(names(sealed), parts, strict=True)]
    _, total = terms.decode(added(terms, vectors), names(sealed))
    np.testing.assert_array_equal(total, sum(parts))


def test_a_site_s_counts_beyond_its_noise_and_patients_are_refused_not_clamped() -> None:
    sealed, update = noised(), np.zeros(5, dtype=np.float32)
    terms = both(sealed)
    most = max(most_patients(sealed, site) for site in names(sealed)) + terms.count_noise
    for number, fits in ((most, True), (most + 1, False), (-terms.count_noise, True), (-terms.count_noise - 1, False)):
        counts = ZEROS.copy()
        counts[0, 0, 0] = number
        if fits:
            terms.encode("s00", update, counts, os.urandom)
        else:
            with pytest.raises(InputError, match="out of bounds"):
                terms.encode("s00", update, counts, os.urandom)


def test_the_noise_is_bound_into_the_terms() -> None:
    sealed = noised()
    louder = sealed.model_copy(update={"count_deviation": sealed.count_deviation * 2})
    assert both(sealed).ring.digest != both(louder).ring.digest


def test_a_group_with_more_patients_than_everybody_is_refused() -> None:
    counts = ZEROS.copy()
    counts[0, 3, 1], counts[1, 3, 1] = 6, 7
    with pytest.raises(ProtocolError, match="more patients in a group than in all"):
        both(seal()).decode(opened(np.zeros(5, np.int64), counts), names(seal()))
    counts[0, 3, 1] = 7
    _, total = both(seal()).decode(opened(np.zeros(5, np.int64), counts), names(seal()))
    np.testing.assert_array_equal(total, counts)


def test_more_votes_than_patients_are_refused() -> None:
    """The votes are the last slice, and no group: more of one cell than everybody's is no lie, more of all is."""
    sealed = seal(evaluation={"influence": True})
    terms = secure_terms(sealed, 4, dimension=5, train=True, evaluate=True)
    assert terms.shape == (len(ZEROS) + 1, *ZEROS.shape[1:])
    counts = np.zeros(terms.shape, dtype=np.int64)
    counts[0, 3, 1], counts[0, 4, 0] = 6, 2
    features = len(sealed.manifest.features)
    for cell, votes, fits in ((0, 8, True), (features - 1, 8, True), (0, 9, False), (features, 1, False)):
        counts[-1] = 0
        counts[-1].reshape(-1)[cell] = votes
        if fits:
            _, total = terms.decode(opened(np.zeros(5, np.int64), counts), names(sealed))
            np.testing.assert_array_equal(total, counts)
        else:
            with pytest.raises(ProtocolError, match="or more votes"):
                terms.decode(opened(np.zeros(5, np.int64), counts), names(sealed))


# --- plans that no ring could hold ----------------------------------------------------------------------------------------------

# 11 sites, each of which may show 2 · declared + 10 patients: 11 · (2 · 97 612 888 + 10) = 2³¹ − 1 − 1, two more are too many.
FULL = 97_612_888


def test_a_plan_one_step_beyond_the_ring_is_refused() -> None:
    check_plan(seal([FULL] + [50] * 10, dp=False), 5)
    with pytest.raises(InputError) as caught:
        check_plan(seal([FULL + 1] + [50] * 10, dp=False), 5)
    assert caught.value.code == "ring-overflow"
    assert "64 bits" in str(caught.value)


def test_a_wider_ring_or_fewer_members_hold_it() -> None:
    check_plan(seal([FULL + 1] + [50] * 10, dp=False, privacy={"ring_bits": 64}), 5)
    check_plan(seal([FULL + 1] + [50] * 9, dp=False), 5)


def test_a_plain_plan_needs_no_ring() -> None:
    check_plan(seal([FULL + 1] + [50] * 10, dp=False, secure=False), 5)


def test_a_model_beyond_any_vector_is_refused() -> None:
    with pytest.raises(InputError, match="too long"):
        check_plan(seal(), 2**27)


# --- the digest of the terms -------------------------------------------------------------------------------------------------


def test_both_sides_have_the_same_terms() -> None:
    """A site parses the manifest's bytes; floats survive that."""
    sealed = seal([300, 291, 123, 207], training={"holdout": 0.37})
    parsed = parse_sealed(sealed.canonical)
    for train, evaluate in ((True, True), (True, False), (False, True)):
        here, there = (secure_terms(side, 4, dimension=29, train=train, evaluate=evaluate) for side in (sealed, parsed))
        assert here == there
        assert here.ring.digest == there.ring.digest
    assert parsed.digest == sealed.digest


def digest(
    sealed: SealedManifest, members: int = 4, dimension: int = 5, train: bool = True, evaluate: bool = True
) -> bytes:
    return secure_terms(sealed, members, dimension=dimension, train=train, evaluate=evaluate).ring.digest


CHANGED: dict[str, Any] = {
    "members": lambda: digest(seal(), members=3),
    "dimension": lambda: digest(seal(), dimension=6),
    "train alone": lambda: digest(seal(), evaluate=False),
    "evaluate alone": lambda: digest(seal(), train=False),
    "a cohort": lambda: digest(seal([300, 290, 120, 210])),
    "the largest cohort": lambda: digest(seal([310, 290, 120, 200])),
    "one more site": lambda: digest(seal([*COHORTS, 50])),
    "the bound": lambda: digest(seal(privacy={"update_bound": 3.0})),
    "a cohort, under that bound": lambda: digest(seal([300, 290, 120, 210], privacy={"update_bound": 3.0})),
    "another bound": lambda: digest(seal(privacy={"update_bound": 3.5})),
    "the clipping norm": lambda: digest(seal(privacy={"clipping_norm": 2.0})),
    "no noise": lambda: digest(seal(dp=False)),
    "the ring": lambda: digest(seal(privacy={"ring_bits": 64})),
    "the bins": lambda: digest(seal(evaluation={"bins": 11})),
    "the groups": lambda: digest(seal(fairness={"groups": [{"column": "sex"}]})),
    "the steps": lambda: digest(seal(training={"algorithm": "fedavg", "local_steps": 2})),
    "another site's name": lambda: digest(renamed(seal())),
}


def renamed(sealed: SealedManifest) -> SealedManifest:
    first = sealed.roster[0].model_copy(update={"site": "a00"})
    return sealed.model_copy(update={"roster": (first, *sealed.roster[1:])})


def test_whatever_matters_changes_the_digest() -> None:
    found = {"as it is": digest(seal())} | {name: make() for name, make in CHANGED.items()}
    by_digest: dict[bytes, str] = {}
    for name, value in found.items():
        assert value not in by_digest, f"{name} has the digest of {by_digest[value]}"
        by_digest[value] = name


def test_shapes_of_one_size_have_different_digests() -> None:
    """(6, 10, 2) and (3, 20, 2) are 120 counts each: another meaning is another sum."""
    one = seal(fairness={"groups": [{"column": "sex"}, {"column": "age", "cut": [0, 50, 65, 120]}]})
    other = seal(fairness={"groups": [{"column": "sex"}]}, evaluation={"bins": 20})
    assert math.prod(histogram_shape(one.manifest)) == math.prod(histogram_shape(other.manifest))
    assert digest(one) != digest(other)


# --- batches of the roster ------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_roster_s_keys_and_the_study_s_quorum() -> None:
    sealed = seal(federation={"quorum": 3}, privacy={"colluders": 1})
    batch = batch_of(sealed, "b" * 32, ["s00", "s01", "s03"], 3, 7)
    assert batch.members == ("s00", "s01", "s03")
    assert batch.keys == tuple(sealed.entry(site).identity_key for site in batch.members)
    assert (batch.study, batch.quorum, batch.slots, batch.withstands) == (sealed.digest, 3, 7, 1)


@pytest.mark.parametrize(
    "cohort",
    [["s00", "s01", "eve"], ["s01", "s00", "s02"], ["s00", "s00", "s01", "s02"], ["s00", "s01", "s02", "s02"], []],
    ids=str,
)
def test_a_cohort_that_is_not_the_roster_s_is_refused(cohort: list[str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        batch_of(seal(), "b" * 32, cohort, 3, 4)
    assert (caught.value.code, caught.value.blamed) in {
        ("cohort-foreign", "coordinator"),
        ("cohort-size", "coordinator"),
    }


@pytest.mark.parametrize(
    ("cohort", "threshold", "code"),
    [(2, 2, "cohort-size"), (4, 2, "threshold-too-low"), (4, 5, "threshold-too-low"), (5, 4, "threshold-too-low")],
)
def test_the_floors_of_the_approved_study_hold(cohort: int, threshold: int, code: str) -> None:
    sealed = seal([100] * 5, privacy={"colluders": 2 if cohort == 4 else 3 if cohort == 5 else 1})
    with pytest.raises(ProtocolError) as caught:
        batch_of(sealed, "b" * 32, names(sealed)[:cohort], threshold, 4)
    assert (caught.value.code, caught.value.lie) == (code, True)


# --- shared noise -----------------------------------------------------------------------------------------------------------


def shared(cohorts: Sequence[int] = COHORTS, **privacy: Any) -> SealedManifest:
    return seal(cohorts, privacy={"noise": "shared"} | privacy)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(50, 5000), min_size=3, max_size=9), st.integers(1, 30), st.integers(0, 2**32))
def test_integers_with_shared_noise_sum_to_the_step_over_the_declared_total(
    cohorts: list[int], dimension: int, seed: int
) -> None:
    sealed, generator = shared(cohorts), np.random.default_rng(seed)
    terms = both(sealed, dimension)
    assert terms.noise is not None
    values = [generator.integers(-(2**20), 2**20, dimension) for _ in cohorts]
    counts = nobody(sealed)
    vectors = [terms.encode(site, z, counts, os.urandom) for site, z in zip(names(sealed), values, strict=True)]
    assert not any(clipped for _, clipped in vectors)
    delta, _ = terms.decode(added(terms, [vector for vector, _ in vectors]), names(sealed))
    total = sum(entry.declared_patients * (1 - sealed.manifest.training.holdout) for entry in sealed.roster)
    np.testing.assert_allclose(delta, -terms.noise.step * np.sum(values, axis=0) / total, rtol=1e-12)


def test_no_value_with_shared_noise_is_clamped_not_even_beyond_the_ring() -> None:
    terms = secure_terms(shared(), 4, dimension=2, train=True, evaluate=False)
    vector, _ = terms.encode("s00", np.array([2**33 + 5, -7], dtype=np.int64), None, os.urandom)
    assert vector.tolist() == [5, 2**32 - 7]


def test_reals_are_no_sum_with_shared_noise_and_integers_no_update() -> None:
    reals, integers = np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.int64)
    with pytest.raises(InputError):
        secure_terms(shared(), 4, dimension=2, train=True, evaluate=False).encode("s00", reals, None, os.urandom)
    with pytest.raises(InputError):
        secure_terms(seal(), 4, dimension=2, train=True, evaluate=False).encode("s00", integers, None, os.urandom)


def test_the_grid_of_shared_noise_is_one_for_every_cohort() -> None:
    sealed = shared()
    one, two = (secure_terms(sealed, n, dimension=20, train=True, evaluate=False) for n in (3, 4))
    assert one.noise == two.noise
    assert one.ring.digest != two.ring.digest
    assert one.ring.digest != secure_terms(seal(), 3, dimension=20, train=True, evaluate=False).ring.digest


def test_a_sum_with_shared_noise_beyond_what_its_sites_could_make_is_refused() -> None:
    terms = secure_terms(shared(), 4, dimension=2, train=True, evaluate=False)
    assert terms.noise is not None
    far = round(3000 / terms.noise.step)
    with pytest.raises(ProtocolError):
        terms.decode([np.array([far, 0], dtype=np.int64)], names(shared()))
