"""Valid replies, changed anywhere, with and without a fresh signature: each is refused by name, or is what it was; nothing else.

The examples of each test: FEDWARD_FUZZ_EXAMPLES. Memory stays within a few times what arrived, whatever a header claims.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError
from fedward.privacy.signing import SIGNATURE_BYTES, Identity
from fedward.server.admission import Admitted, Limits, admit, admit_answers
from fedward.server.flower.replies import FIELD, MESSAGE_TYPE, RECORD, ReplyError, Upload, payload_of
from fedward.study import messages
from fedward.study.messages import Result, Work

EXAMPLES = int(os.environ.get("FEDWARD_FUZZ_EXAMPLES", "300"))
SITE, COORDINATOR = Identity.generate(), Identity.generate()
SHAPE = (2, 10, 2)
LIMITS = Limits(SHAPE, patients=100, norm=10.0)
NOISED = Limits(SHAPE, patients=100, norm=10.0, noise=30)
REQUEST = Work(study="1" * 64, round=2, attempt=5, base="2" * 64, dimension=50, train=True, evaluate=True)
DIGEST = digest(messages.pack(REQUEST, bytes(200), COORDINATOR))
UPDATE = np.linspace(-1, 1, 50, dtype="<f4")
COUNTS = np.ones(SHAPE, dtype="<i8")
RESULT = Result(site="va", request=DIGEST, study="1" * 64, round=2, attempt=5, base="2" * 64, update_values=50,
                histogram_values=40)  # fmt: skip
BODY = UPDATE.tobytes() + COUNTS.tobytes()
VALID = messages.pack(RESULT, BODY, SITE)
ANSWERS = messages.pack(RESULT.model_copy(update={"update_values": 0}), COUNTS.tobytes(), SITE)

fuzz = settings(max_examples=EXAMPLES, deadline=None)


@st.composite
def changed(draw: st.DrawFn, valid: bytes) -> bytes:
    """Some bytes replaced, removed, doubled or put in, at one to three places."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 9))
        new = draw(st.one_of(st.binary(max_size=9), st.just(bytes(data[at : at + size] * 2)), st.sampled_from(NASTY)))
        data[at : at + size] = new
    return bytes(data)


NASTY = (
    b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00\x00\x00\x00\x80", b"9" * 5000, b"1e999", b"NaN", b'{"a":' * 2000, b"[" * 3000, b"\\ud800", b"-1",
)  # fmt: skip
"""Lengths, floats and counts at their ends, numbers that JSON reads slowly or not at all, and depths."""


def plain(data: bytes) -> Admitted:
    return admit(data, site="va", key=SITE.public, request=REQUEST, request_digest=DIGEST, limits=LIMITS)


def noised(data: bytes) -> Admitted:
    return admit(data, site="va", key=SITE.public, request=REQUEST, request_digest=DIGEST, limits=NOISED)


def answers(data: bytes) -> Admitted:
    most = np.full(40, 100)
    return admit_answers(data, site="va", key=SITE.public, request=REQUEST, request_digest=DIGEST, most=most)


def kept_within(data: bytes, take: Callable[[bytes], Admitted]) -> Admitted | None:
    """What is admitted, or None with a typed refusal; and no more memory than the data explain."""
    refused = None
    tracemalloc.start()
    try:
        return take(data)
    except FedwardError as error:
        refused = error
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 * len(data) + 2**20, f"{peak} bytes for {len(data)}"
        if refused is not None:
            assert refused.code not in {"error", ""}, "a refusal without a name"
            assert len(refused.text()) < 3000, "a refusal that repeats what a site wrote"


@fuzz
@given(changed(VALID))
def test_bytes_changed_on_the_way_are_refused_or_are_the_same(data: bytes) -> None:
    found = kept_within(data, plain)
    assert (found is not None) == (data == VALID)


@pytest.mark.parametrize(("valid", "take"), [(VALID, plain), (VALID, noised), (ANSWERS, answers)],
                         ids=["plain", "noised", "answers"])  # fmt: skip
def test_a_site_that_changes_what_it_signs_is_refused_or_within_every_bound(
    valid: bytes, take: Callable[[bytes], Admitted]
) -> None:
    @fuzz
    @given(changed(valid[:-SIGNATURE_BYTES]))
    def each(framed: bytes) -> None:
        found = kept_within(framed + SITE.sign("message", framed), take)
        if found is None:
            return
        if found.update is not None:
            assert found.update.shape == (50,)
            assert float(np.linalg.norm(found.update.astype(float))) <= LIMITS.norm
        assert found.counts is not None
        assert found.counts.size == 40
        assert -100 <= int(found.counts.min()) <= int(found.counts.max()) <= 130

    each()


@pytest.mark.parametrize(("limits", "take"), [(LIMITS, plain), (NOISED, noised)], ids=["plain", "noised"])
def test_a_body_of_any_numbers_that_is_told_truly_is_refused_or_within_every_bound(
    limits: Limits, take: Callable[[bytes], Admitted]
) -> None:
    """With the right digest in its header: only the numbers themselves can be wrong."""

    @fuzz
    @given(changed(BODY))
    def each(body: bytes) -> None:
        found = kept_within(messages.pack(RESULT, body, SITE), take)
        if found is not None:
            assert found.update is not None
            assert np.isfinite(found.update).all()
            assert float(np.linalg.norm(found.update.astype(float))) <= limits.norm

    each()


# --- the message of Flower around a reply -----------------------------------------------------------------------------------


def parts() -> tuple[str, dict[str, bytes]]:
    """A reply as a site uploads it: its name, and its three parts by theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        message = Message(RecordDict({RECORD: ConfigRecord({FIELD: VALID})}), 1, MESSAGE_TYPE)
        return message.object_id, {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


NAME, PARTS = parts()


def test_the_parts_of_a_true_reply_are_its_payload() -> None:
    assert len(PARTS) == 3
    assert payload_of(Upload(NAME, list(PARTS), 0.0, dict(PARTS)), 10**6) == VALID


@fuzz
@given(st.sampled_from(sorted(PARTS)), st.data())
def test_parts_that_were_changed_are_malformed_or_a_payload_of_bytes(which: str, data: st.DataObject) -> None:
    contents = PARTS | {which: data.draw(changed(PARTS[which]))}
    try:
        kept: bytes | str = payload_of(Upload(NAME, list(contents), 0.0, contents), 10**6)
    except ReplyError as error:
        kept = error.code
    assert kept in {"reply-malformed", "reply-too-large"} or (type(kept) is bytes and len(kept) <= 10**6)
