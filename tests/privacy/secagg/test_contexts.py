"""What messages belong to: the floors that nobody can lower, and digests that tell everything apart."""

from __future__ import annotations

import dataclasses
import struct
from fractions import Fraction
from hashlib import sha256
from typing import Any

import pytest
from cohort import BASE, STUDY, TERMS, batch_of
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.errors import IntegrityError
from fedward.privacy.secagg import Batch, ProtocolError, RoundContext, least_threshold
from fedward.privacy.secagg.contexts import MAX_MEMBERS, MAX_SLOTS, MIN_MEMBERS, framed
from fedward.privacy.secagg.faults import COORDINATOR

SETUP = b"\x07" * 32


def changed(batch: Batch, /, **fields: Any) -> Batch:
    return dataclasses.replace(batch, **fields)


# ---- floors ----------------------------------------------------------------------------------------------------------


def test_the_least_threshold_is_the_least_number_above_two_thirds() -> None:
    for n in range(MIN_MEMBERS, MAX_MEMBERS + 1):
        t = least_threshold(n)
        assert Fraction(t, n) > Fraction(2, 3) >= Fraction(t - 1, n)


@pytest.mark.parametrize("n", range(MIN_MEMBERS, MAX_MEMBERS + 1))
def test_every_cohort_takes_its_least_threshold_and_none_below(n: int) -> None:
    batch = batch_of(n)
    assert batch.threshold == least_threshold(n)
    assert batch.tolerated == n - batch.threshold
    for t in {0, 1, n // 2 + 1, batch.threshold - 1} - {batch.threshold}:
        with pytest.raises(ProtocolError) as caught:
            changed(batch, threshold=t)
        assert caught.value.code == "threshold-too-low"
    assert changed(batch, threshold=n).tolerated == 0


def test_a_threshold_above_the_cohort_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        changed(batch_of(5), threshold=6)
    assert caught.value.code == "threshold-too-low"


@pytest.mark.parametrize(("n", "colluders"), [(3, 1), (4, 1), (5, 2), (6, 3), (7, 2), (100, 33), (200, 67)])
def test_the_colluders_that_are_tolerated_are_those_of_the_page(n: int, colluders: int) -> None:
    assert batch_of(n).colluders == colluders


@pytest.mark.parametrize("n", range(MIN_MEMBERS, MAX_MEMBERS + 1))
def test_tolerated_colluders_can_neither_open_two_sets_nor_hold_a_secret(n: int) -> None:
    for t in {least_threshold(n), (least_threshold(n) + n) // 2, n}:
        c = changed(batch_of(n), threshold=t).colluders
        honest = n - c
        # Every honest site signs one set of a slot; colluders sign any. Two sets would need t signatures each.
        assert 2 * (t - c) > honest
        # Together with the one honest site whose share it takes, they would still be short of t.
        assert c + 1 < t
        one_more = c + 1
        assert 2 * (t - one_more) <= n - one_more or one_more + 1 >= t


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 20, 100, 200])
def test_the_least_threshold_for_a_promise_is_the_least_that_keeps_it(n: int) -> None:
    for c in range(1, n):
        keeping = [t for t in range(1, n + 1) if 3 * t > 2 * n and c <= min(2 * t - n - 1, t - 2)]
        t = least_threshold(n, c)
        assert t == keeping[0] if keeping else t > n
        if keeping:
            assert changed(batch_of(n, t=t), withstands=c).colluders >= c
            if t > least_threshold(n):
                with pytest.raises(ProtocolError) as caught:
                    changed(batch_of(n, t=t - 1), withstands=c)
                assert caught.value.code == "threshold-too-low"


@pytest.mark.parametrize(("t", "quorum", "floor"), [(3, 1, 3), (3, 3, 3), (3, 4, 4), (4, 2, 4)])
def test_the_floor_of_survivors_is_the_higher_of_threshold_and_quorum(t: int, quorum: int, floor: int) -> None:
    batch = batch_of(4, t=t, quorum=quorum)
    assert (batch.floor, batch.tolerated) == (floor, 4 - floor)


# ---- refusals --------------------------------------------------------------------------------------------------------


def refusal(**fields: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        changed(batch_of(3), **fields)
    return caught.value


@pytest.mark.parametrize("n", [0, 1, 2, MAX_MEMBERS + 1])
def test_a_cohort_too_small_or_too_large_is_refused(n: int) -> None:
    error = refusal(members=tuple(f"m{i}" for i in range(n)), keys=tuple(f"{i:064x}" for i in range(n)), threshold=n)
    assert (error.code, error.blamed, error.lie) == ("cohort-size", COORDINATOR, True)
    assert isinstance(error, IntegrityError)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"quorum": 4}, "cohort-size"),
        ({"quorum": 0}, "cohort-size"),
        ({"slots": 0}, "malformed"),
        ({"slots": MAX_SLOTS + 1}, "malformed"),
        ({"slots": -1}, "malformed"),
        ({"members": ("s000", "s001", "s001")}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64, "2" * 64)}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64)}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64, "3" * 64, "4" * 64)}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64, "A" * 64)}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64, "3" * 62)}, "cohort-doubles"),
        ({"keys": ("1" * 64, "2" * 64, "3" * 64 + "\n")}, "cohort-doubles"),
        ({"study": "5" * 63}, "malformed"),
        ({"study": "5" * 64 + "\n"}, "malformed"),
        ({"study": "G" * 64}, "malformed"),
        ({"study": STUDY[:-1] + "٣"}, "malformed"),
        ({"batch": ""}, "malformed"),
        ({"batch": "b" * 31}, "malformed"),
        ({"batch": "B" * 32}, "malformed"),
        ({"withstands": 0}, "threshold-too-low"),
        ({"withstands": 2}, "threshold-too-low"),
        *[
            ({name: value}, "malformed")
            for name in ("threshold", "quorum", "slots")
            for value in (True, 3.0, "3", None)
        ],
        ({"members": ("a", "b", "é")}, "malformed"),
        ({"members": ("a", "b", "\ud800")}, "malformed"),
        ({"members": ("a", "b", b"c")}, "malformed"),
    ],
)
def test_a_malformed_batch_is_refused_by_name(fields: dict[str, Any], code: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.blamed, error.lie) == (code, COORDINATOR, True)


def test_a_refusal_keeps_all_that_it_says() -> None:
    error = ProtocolError("no", code="c", blamed="b", lie=False, expected="e", got="g", remedy="r")
    assert (error.what, error.code, error.blamed, error.lie) == ("no", "c", "b", False)
    assert (error.expected, error.got, error.remedy) == ("e", "g", "r")
    assert (ProtocolError("no", code="c").blamed, ProtocolError("no", code="c").lie) == ("", True)


def test_who_is_not_in_the_cohort_has_no_place() -> None:
    batch = batch_of(4)
    assert [batch.index(site) for site in batch.members] == [0, 1, 2, 3]
    with pytest.raises(ProtocolError) as caught:
        batch.index("mallory")
    assert caught.value.code == "not-a-member"


# ---- digests ---------------------------------------------------------------------------------------------------------


def test_a_batch_s_digest_is_the_one_that_is_documented() -> None:
    batch = batch_of(5, quorum=2, slots=9)

    def list_of(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    whole = list_of(
        b"batch",
        bytes([1, 0, batch.threshold, 0, 2, 0, 9, 0, 1]),
        bytes.fromhex(batch.study),
        bytes.fromhex(batch.batch),
        list_of(*(name.encode() for name in batch.members)),
        b"".join(bytes.fromhex(key) for key in batch.keys),
    )
    assert batch.digest == sha256(whole).digest()


def test_changing_any_one_field_changes_a_batch_s_digest() -> None:
    batch = batch_of(6, t=5, quorum=2, slots=4)
    members, keys = batch.members, batch.keys
    others = [
        changed(batch, study="6" + STUDY[1:]),
        changed(batch, batch="c" + batch.batch[1:]),
        changed(batch, members=(*members[:-1], "t005")),
        changed(batch, members=(members[1], members[0], *members[2:])),
        changed(batch, keys=(*keys[:-1], "0" * 64)),
        changed(batch, keys=(keys[1], keys[0], *keys[2:])),
        changed(batch, members=members[:5], keys=keys[:5]),
        changed(batch, threshold=6),
        changed(batch, quorum=3),
        changed(batch, slots=5),
        changed(batch, withstands=2),
        # Swapped values of two fields.
        changed(batch, quorum=5, threshold=5),
        changed(batch, quorum=4, slots=2),
    ]
    fields = {field.name for field in dataclasses.fields(Batch)}
    assert fields == {"study", "batch", "members", "keys", "threshold", "quorum", "slots", "withstands"}
    assert len({batch.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_names_cannot_be_cut_elsewhere() -> None:
    one = changed(batch_of(3), members=("ab", "c", "d"))
    two = changed(batch_of(3), members=("a", "bc", "d"))
    assert one.digest != two.digest


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_framing_is_injective(one: list[bytes], two: list[bytes]) -> None:
    assert (framed(*one) == framed(*two)) == (one == two)


def test_a_way_names_the_batch_the_dealer_and_the_recipient_in_order() -> None:
    batch = batch_of(200)
    ways = {batch.way(dealer, to) for dealer in range(200) for to in range(200)}
    assert len(ways) == 200 * 200
    assert batch.way(3, 258 % 200) == batch.digest + b"\x00\x03\x00\x3a"


# ---- a slot's use ----------------------------------------------------------------------------------------------------

contexts = st.builds(
    RoundContext,
    st.binary(min_size=32, max_size=32),
    st.integers(0, MAX_SLOTS - 1),
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)


@given(contexts)
def test_a_round_s_context_comes_back_from_its_bytes(context: RoundContext) -> None:
    assert len(context.encoded) == RoundContext.SIZE
    assert RoundContext.decode(context.encoded) == context
    slot, round_, attempt = struct.unpack(">HII", context.encoded[32:42])
    assert (slot, round_, attempt) == (context.slot, context.round, context.attempt)
    assert context.digest == sha256(b"fedward round context\x00" + context.encoded).digest()


def test_the_largest_numbers_of_a_context_come_back() -> None:
    context = RoundContext(SETUP, MAX_SLOTS - 1, 2**32 - 1, 2**32 - 1, BASE, TERMS)
    assert RoundContext.decode(context.encoded) == context


def test_changing_any_one_field_changes_a_context_s_digest_and_is_named() -> None:
    context = RoundContext(SETUP, 3, 4, 5, BASE, TERMS)
    values = {"setup": b"\x08" * 32, "slot": 4, "round": 3, "attempt": 4, "base": TERMS, "terms": BASE}
    assert set(values) == {field.name for field in dataclasses.fields(RoundContext)}
    others = {name: dataclasses.replace(context, **{name: value}) for name, value in values.items()}
    assert len({context.digest, *(other.digest for other in others.values())}) == 7
    assert context.difference(dataclasses.replace(context)) == ""
    for name, other in others.items():
        assert context.difference(other) == other.difference(context) == name


@pytest.mark.parametrize(
    "fields",
    [
        {"setup": b""},
        {"setup": SETUP[1:]},
        {"base": BASE + b"\0"},
        {"terms": b"x"},
        {"slot": -1},
        {"slot": MAX_SLOTS},
        {"round": 0},
        {"round": 2**32},
        {"attempt": 0},
        {"attempt": 2**32},
    ],
)
def test_a_context_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        dataclasses.replace(RoundContext(SETUP, 0, 1, 1, BASE, TERMS), **fields)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("size", [0, 1, 105, 107, 212])
def test_a_context_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        RoundContext.decode(bytes(size))
    assert caught.value.code == "malformed"
