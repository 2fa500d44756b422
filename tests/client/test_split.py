"""The held-out split: fixed by the hospital's key and the patient's id, by nothing else."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedward.client.split import KEY_BYTES, held_out
from fedward.privacy.errors import InputError

KEY, OTHER = bytes(range(32)), bytes(32)
MANY = [f"patient-{i}" for i in range(5000)]


def test_the_split_is_the_documented_hash() -> None:
    def position(patient: str) -> float:
        mac = hmac.new(KEY, b"fedward/holdout\0" + patient.encode(), hashlib.sha256).hexdigest()
        return int(mac[:16], 16) / 2**64

    expected = [position(patient) < 0.33 for patient in MANY[:200]]
    assert held_out(MANY[:200], 0.33, KEY).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(patients=st.lists(st.text(max_size=20), unique=True, max_size=30), share=st.floats(0.05, 0.9))
def test_a_patient_s_side_depends_on_no_other_patient_nor_on_the_order(patients: list[str], share: float) -> None:
    whole = held_out(patients, share, KEY)
    assert whole.shape == (len(patients),)
    assert whole.dtype == np.bool_
    assert held_out(patients[::-1], share, KEY).tolist() == whole.tolist()[::-1]
    assert [held_out([patient], share, KEY)[0] for patient in patients] == whole.tolist()


@pytest.mark.parametrize("share", [0.05, 0.33, 0.9])
def test_the_share_held_out_is_the_share_asked_for(share: float) -> None:
    found = int(held_out(MANY, share, KEY).sum())
    assert stats.binomtest(found, len(MANY), share).pvalue > 1e-6


def test_a_larger_share_holds_out_the_same_patients_and_more() -> None:
    small, large = held_out(MANY, 0.2, KEY), held_out(MANY, 0.4, KEY)
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_without_the_key_the_split_cannot_be_told() -> None:
    one, two = held_out(MANY, 0.5, KEY), held_out(MANY, 0.5, OTHER)
    assert stats.binomtest(int((one == two).sum()), len(MANY), 0.5).pvalue > 1e-6


@pytest.mark.parametrize("length", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_damaged_key_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="patient key is damaged"):
        held_out(["p"], 0.3, bytes(length))
