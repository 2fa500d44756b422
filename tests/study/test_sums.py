"""The ring's terms of an exploration: signed answers in and out, room for noise, and what binds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from exploring import heart_exploration
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.ring import RingTerms
from fedward.study.answers import GRID, deviation, shape_of
from fedward.study.exploration import SealedExploration
from fedward.study.manifest import RosterEntry
from fedward.study.secure import SecureTerms
from fedward.study.sums import TAIL, answer_terms, counts_shape, most_each, sum_terms


def sealed(
    *, patients: int = 300, noise: tuple[float, ...] = (4.0, 5.0, 6.0, 7.0), **changes: Any
) -> SealedExploration:
    roster = tuple(
        RosterEntry(site=f"s{i}", identity_key=f"{i:064x}", declared_patients=patients, noise_multiplier=s)
        for i, s in enumerate(noise)
    )
    return SealedExploration(manifest=heart_exploration(**changes), federation_id="0" * 32, coordinator_key="0" * 64,
                             roster=roster, sealed_at=0, expires_at=1)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from([32, 64]), st.data())
def test_a_sum_in_the_ring_is_the_sum_of_signed_answers(bits: int, data: st.DataObject) -> None:
    terms = answer_terms(sealed(privacy={"ring_bits": bits}), 4)
    most = most_each(terms.ring)
    extreme = data.draw(st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.7, 1.0]), min_size=4, max_size=4))
    vectors = [(share * most).astype(np.int64) for share in extreme]
    total = np.zeros(terms.ring.length, dtype=terms.ring.dtype)
    for vector in vectors:
        inside, clipped = terms.encode("s0", None, vector, bytes)
        assert not clipped
        total = total + inside
    delta, counts = terms.decode(terms.ring.open_sum(total, 4), ("s0", "s1", "s2", "s3"))
    assert delta is None
    np.testing.assert_array_equal(counts, np.sum(vectors, axis=0))


def test_there_is_room_for_every_patient_and_for_the_noise() -> None:
    asked = sealed()
    counts, sums = answer_terms(asked, 4).ring.blocks
    largest = deviation(asked.manifest, 7.0)
    assert counts.most == 2 * 300 + 10 + math.ceil(TAIL * largest)
    assert sums.most == GRID * counts.most
    shape = shape_of(asked.manifest)
    assert (counts.length, sums.length) == (shape.counts, shape.sums)
    assert counts_shape(asked) == (shape.length,)


def test_only_answers_within_their_bounds_go_in() -> None:
    terms = answer_terms(sealed(), 4)
    most = most_each(terms.ring)
    for wrong in (most + 1, -most - 1, most[:-1], most.astype(np.int32)):
        with pytest.raises(InputError):
            terms.encode("s0", None, wrong, bytes)
    with pytest.raises(InputError, match="other parts"):
        terms.encode("s0", np.zeros(3, dtype=np.float32), most, bytes)
    with pytest.raises(InputError, match="other parts"):
        terms.encode("s0", None, None, bytes)


def test_a_sum_that_could_wrap_is_refused_and_64_bits_hold_it() -> None:
    with pytest.raises(InputError, match="overflow the ring"):
        answer_terms(sealed(patients=10_000_000), 4)
    assert isinstance(answer_terms(sealed(patients=10_000_000, privacy={"ring_bits": 64}), 4).ring, RingTerms)


def test_the_terms_bind_every_sites_noise() -> None:
    ours = answer_terms(sealed(), 4).ring.digest
    assert answer_terms(sealed(), 4).ring.digest == ours
    assert answer_terms(sealed(noise=(4.0, 5.0, 6.001, 7.0)), 4).ring.digest != ours  # 7.0 alone decides the room
    assert answer_terms(sealed(), 3).ring.digest != ours


def test_a_study_that_trains_has_its_own_terms() -> None:
    assert not isinstance(sum_terms(sealed(), 4, dimension=1, train=False, evaluate=True), SecureTerms)
