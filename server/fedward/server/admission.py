"""What of a site's reply the coordinator accepts: everything is checked by name before anything is kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedward.privacy.errors import FedwardError, InputError, RefusalError
from fedward.study import messages
from fedward.study.messages import Refusal, Reply, Result, Work
from fedward.study.metrics import Counts
from fedward.study.vectors import Vector, norm
from fedward.study.votes import fit_together


@dataclass(frozen=True)
class Admitted:
    """A site's admitted answer: update, shape (d,), and histogram; each None when it was not asked for."""

    update: Vector | None
    counts: Counts | None


@dataclass(frozen=True)
class Limits:
    """What a site can honestly answer: the counts' shape, the patients that it may count, the update's L2 norm, what noise adds to
    a count at most, up or down, and for how many features the counts' last slice holds votes; 0 without votes."""

    shape: tuple[int, ...]
    patients: int
    norm: float
    noise: int = 0
    voted: int = 0


def open_answer(data: bytes, *, site: str, key: str, request_digest: str) -> tuple[Reply, bytes]:
    """A site's signed answer to a request, and its body.

    Raises:
        RefusalError: the site refused; the code is the site's.
        FedwardError: malformed, wrongly signed, of another site, or (code `stale`) an answer to another request.
    """
    reply, body = messages.open_reply(data, key)
    if reply.site != site:
        raise InputError("a reply names another site than its key", expected=site, got=reply.site, code="wrong-site")
    if reply.request != request_digest:
        raise InputError("a reply answers another request", code="stale")
    if isinstance(reply, Refusal):
        blames = f", blaming {reply.blames}" if reply.blames else ""
        raise RefusalError(
            f"{site} refused: {reply.code}{blames}", remedy=f"ask {site} about {reply.reference}", code=reply.code
        )
    return reply, body


def admit(data: bytes, *, site: str, key: str, request: Work, request_digest: str, limits: Limits) -> Admitted:
    """Check a reply to a request against all that is known.

    Raises:
        RefusalError: the site refused; the code is the site's.
        FedwardError: malformed, stale, of another site, wrongly signed, of the wrong size, not finite, or out of bounds.
    """
    reply, body = open_answer(data, site=site, key=key, request_digest=request_digest)
    if not isinstance(reply, Result):
        raise InputError("a reply is of the wrong kind", expected="result", got=reply.kind, code="wrong-kind")
    _same_attempt(reply, request)
    size = int(np.prod(limits.shape)) if request.evaluate else 0
    length = request.dimension if request.train else 0
    if reply.update_values != length or reply.histogram_values != size or len(body) != 4 * length + 8 * size:
        raise InputError(
            "a reply has the wrong size",
            expected=f"{length} parameters and {size} counts",
            got=f"{reply.update_values} and {reply.histogram_values}",
            code="wrong-shape",
        )
    update = messages.floats_from_bytes(body[: 4 * length], length, "the update") if request.train else None
    counts = messages.counts_from_bytes(body[4 * length :], limits.shape, -limits.noise) if request.evaluate else None
    if update is not None:
        check_update(update, limits)
    if counts is not None:
        _plausible_counts(counts, limits)
    return Admitted(update, counts)


def admit_answers(data: bytes, *, site: str, key: str, request: Work, request_digest: str, most: Counts) -> Admitted:
    """Check a site's noised answers to an exploration; `most`, shape (m,), is what a coordinate can honestly hold.

    Raises:
        RefusalError: the site refused; the code is the site's.
        FedwardError: malformed, stale, of another site, wrongly signed, of the wrong size, or out of bounds.
    """
    reply, body = open_answer(data, site=site, key=key, request_digest=request_digest)
    if not isinstance(reply, Result):
        raise InputError("a reply is of the wrong kind", expected="result", got=reply.kind, code="wrong-kind")
    _same_attempt(reply, request)
    if (reply.update_values, reply.histogram_values) != (0, len(most)) or len(body) != 8 * len(most):
        raise InputError(
            "a reply has the wrong size",
            expected=f"{len(most)} answers",
            got=f"{reply.update_values} parameters and {reply.histogram_values} answers",
            code="wrong-shape",
        )
    answers = np.frombuffer(body, dtype="<i8").astype(np.int64)
    if (answers > most).any() or (answers < -most).any():
        raise InputError("an answer is beyond what the site's patients and noise can make it", code="out-of-bounds")
    return Admitted(None, answers)


def check_update(update: Vector, limits: Limits) -> None:
    """
    Raises:
        InputError: the update, shape (d,), is larger than an honest one can be.
    """
    size = norm(update)
    if not size <= limits.norm:
        raise InputError(
            "an update is larger than clipping and noise can make it",
            expected=f"a norm of at most {limits.norm:.3g}",
            got=f"{size:.3g}",
            code="out-of-bounds",
        )


def _plausible_counts(counts: Counts, limits: Limits) -> None:
    if limits.noise:  # sums and differences of noised counts prove nothing; a single one cannot be beyond this
        if not int(counts.max()) <= limits.patients + limits.noise:
            raise InputError("a histogram counts more patients than were declared", code="out-of-bounds")
        return
    # In floats: the sum of a liar's int64 counts would wrap.
    if not float(counts[0].astype(np.float64).sum()) <= limits.patients:
        raise InputError("a histogram counts more patients than were declared", code="out-of-bounds")
    if not fit_together(counts, limits.voted):
        raise InputError("a histogram counts more patients in a group than in all, or more votes", code="out-of-bounds")


def _same_attempt(reply: Result, request: Work) -> None:
    expected = (request.study, request.round, request.attempt, request.base)
    if (reply.study, reply.round, reply.attempt, reply.base) != expected:
        raise InputError("a reply belongs to another attempt", code="stale")


def reason_of(error: FedwardError) -> str:
    """How a refused reply stands in the record: its code and what the coordinator may know."""
    return f"{error.code}: {error.what}" if not isinstance(error, RefusalError) else f"{error.what} ({error.remedy})"
