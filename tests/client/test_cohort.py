"""The cohort's fingerprint: equal for equal patients, keyed, and silent about each of them."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.cohort import fingerprint
from fedward.privacy.errors import InputError

KEY, OTHER = b"k" * 32, b"o" * 32
ids = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8)


@given(ids, st.randoms())
def test_order_and_encounters_do_not_matter(patients: list[str], random: object) -> None:
    shuffled = [*patients, patients[0]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint(shuffled, KEY) == fingerprint(patients, KEY)


@given(ids, ids)
def test_other_patients_or_another_key_give_another(one: list[str], two: list[str]) -> None:
    assert (fingerprint(one, KEY) == fingerprint(two, KEY)) == (set(one) == set(two))
    assert fingerprint(one, KEY) != fingerprint(one, OTHER)


def test_it_is_the_hmac_of_the_sorted_hmacs() -> None:
    each = sorted(hmac.new(KEY, b"fedward/patient\x00" + p, hashlib.sha256).digest() for p in (b"a", b"b"))
    assert (
        fingerprint(["b", "a"], KEY)
        == hmac.new(KEY, b"fedward/cohort\x00" + b"".join(each), hashlib.sha256).hexdigest()
    )


def test_a_damaged_key_is_refused() -> None:
    with pytest.raises(InputError, match="key"):
        fingerprint(["a"], b"short")
