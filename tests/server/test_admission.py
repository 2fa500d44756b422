"""Admission: a reply is kept only when everything about it fits the request that it answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError, RefusalError
from fedward.privacy.signing import Identity
from fedward.server.admission import Admitted, Limits, admit, reason_of
from fedward.study import messages
from fedward.study.messages import Declared, Refusal, Reply, Result, Work

SITE, OTHER, COORDINATOR = Identity.generate(), Identity.generate(), Identity.generate()
SHAPE = (2, 10, 2)
LIMITS = Limits(SHAPE, patients=100, norm=10.0)
UPDATE = np.array([1.0, -2.0, 3.0], dtype="<f4")
COUNTS = np.zeros(SHAPE, dtype="<i8")
COUNTS[0, 3], COUNTS[1, 3] = (5, 4), (5, 1)


def work(**changes: object) -> Work:
    fields: dict[str, object] = {
        "study": "1" * 64,
        "round": 2,
        "attempt": 5,
        "base": "2" * 64,
        "dimension": 3,
        "train": True,
        "evaluate": True,
    }
    return Work.model_validate(fields | changes)


REQUEST = work()
DIGEST = digest(messages.pack(REQUEST, bytes(12), COORDINATOR))


def result(**changes: object) -> Result:
    fields: dict[str, object] = {
        "site": "va",
        "request": DIGEST,
        "study": "1" * 64,
        "round": 2,
        "attempt": 5,
        "base": "2" * 64,
        "update_values": 3,
        "histogram_values": 40,
    }
    return Result.model_validate(fields | changes)


def judge(
    message: Reply,
    body: bytes = UPDATE.tobytes() + COUNTS.tobytes(),
    *,
    request: Work = REQUEST,
    signer: Identity = SITE,
    limits: Limits = LIMITS,
) -> Admitted:
    data = messages.pack(message, body, signer)
    return admit(data, site="va", key=SITE.public, request=request, request_digest=DIGEST, limits=limits)


def refused(*args: object, **kwargs: object) -> str:
    with pytest.raises(FedwardError) as caught:
        judge(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value.code


def with_update(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes() + COUNTS.tobytes()


def with_count(place: tuple[int, int, int], value: int) -> bytes:
    counts = COUNTS.copy()
    counts[place] = value
    return UPDATE.tobytes() + counts.tobytes()


def test_a_fitting_reply_is_kept_as_it_was_sent() -> None:
    admitted = judge(result())
    assert admitted.update is not None
    assert admitted.counts is not None
    assert np.array_equal(admitted.update, UPDATE)
    assert np.array_equal(admitted.counts, COUNTS)


def test_only_what_was_asked_for_is_kept() -> None:
    trained = judge(result(histogram_values=0), UPDATE.tobytes(), request=work(evaluate=False))
    assert trained.counts is None
    evaluated = judge(result(update_values=0), COUNTS.tobytes(), request=work(train=False))
    assert evaluated.update is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"site": "hungarian"}, "wrong-site"),
        ({"request": "9" * 64}, "stale"),
        ({"study": "9" * 64}, "stale"),
        ({"round": 1}, "stale"),
        ({"round": 3}, "stale"),
        ({"attempt": 4}, "stale"),
        ({"base": "9" * 64}, "stale"),
        ({"update_values": 2}, "wrong-shape"),
        ({"update_values": 0}, "wrong-shape"),
        ({"histogram_values": 39}, "wrong-shape"),
        ({"histogram_values": 2**52}, "wrong-shape"),
    ],
)
def test_a_result_of_something_else_is_refused(change: dict[str, object], code: str) -> None:
    assert refused(result(**change)) == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "wrong-shape"),
        (UPDATE.tobytes(), "wrong-shape"),
        (UPDATE.tobytes() + COUNTS.tobytes() + b"\0", "wrong-shape"),
        (with_update(1.0, np.nan, 0.0), "not-finite"),
        (with_update(1.0, np.inf, 0.0), "not-finite"),
        (with_update(0.0, 0.0, 10.01), "out-of-bounds"),
        (with_update(3e38, 3e38, 3e38), "out-of-bounds"),
        (with_count((0, 3, 0), -1), "out-of-bounds"),
        (with_count((0, 0, 0), 92), "out-of-bounds"),
        (with_count((0, 0, 0), 2**63 - 1), "out-of-bounds"),
        (with_count((1, 3, 1), 5), "out-of-bounds"),
        (with_count((1, 0, 1), 1), "out-of-bounds"),
    ],
)
def test_a_body_that_no_honest_site_sends_is_refused(body: bytes, code: str) -> None:
    assert refused(result(), body) == code


def test_what_is_just_within_the_limits_is_kept() -> None:
    assert judge(result(), with_update(0.0, 0.0, 10.0)).update is not None
    assert judge(result(), with_count((0, 0, 0), 91)).counts is not None
    assert judge(result(), with_update(3e38, 0, 0), limits=Limits(SHAPE, 100, np.inf)).update is not None


def test_two_counts_that_wrap_around_are_refused() -> None:
    counts = COUNTS.copy()
    counts[0, :4] = 2**62  # eight of them are 2^65, or 0 in 64 bits
    assert refused(result(), UPDATE.tobytes() + counts.tobytes()) == "out-of-bounds"


def test_a_limit_that_is_no_number_admits_nothing() -> None:
    assert refused(result(), limits=Limits(SHAPE, 100, np.nan)) == "out-of-bounds"


@pytest.mark.parametrize("signer", [OTHER, COORDINATOR])
def test_a_reply_by_another_key_is_refused(signer: Identity) -> None:
    assert refused(result(), signer=signer) == "bad-signature"


@pytest.mark.parametrize("edit", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:0], lambda d: b"FWD1" + d])
def test_bytes_that_are_no_reply_are_refused(edit: Callable[[bytes], bytes]) -> None:
    data = edit(messages.pack(result(), UPDATE.tobytes() + COUNTS.tobytes(), SITE))
    with pytest.raises(FedwardError) as caught:
        admit(data, site="va", key=SITE.public, request=REQUEST, request_digest=DIGEST, limits=LIMITS)
    assert caught.value.code in {"malformed", "bad-signature"}


def test_a_reply_of_another_kind_is_refused() -> None:
    assert (
        refused(Declared(site="va", request=DIGEST, study_id="heart", patients=10, noise_multiplier=1.0), b"")
        == "wrong-kind"
    )


def test_a_refusal_is_passed_on_with_its_code_and_reference() -> None:
    message = Refusal(site="va", request=DIGEST, code="policy-epsilon", reference="0123456789ab")
    with pytest.raises(RefusalError) as caught:
        judge(message, b"")
    assert caught.value.code == "policy-epsilon"
    assert reason_of(caught.value) == "va refused: policy-epsilon (ask va about 0123456789ab)"


def test_a_refusal_of_another_request_is_stale_not_a_refusal() -> None:
    message = Refusal(site="va", request="9" * 64, code="policy-epsilon", reference="0123456789ab")
    assert refused(message, b"") == "stale"


def test_the_record_names_what_was_wrong() -> None:
    with pytest.raises(FedwardError) as caught:
        judge(result(), with_update(np.nan, 0, 0))
    assert reason_of(caught.value) == "not-finite: the update holds a number that is not finite"
