"""A study's transcript out of its journal: what was written before each batch was used and before each sum was opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.signing import to_text
from fedward.server.records import StudyRow
from fedward.server.store import Store
from fedward.study.transcript import BatchPart, Sum, Transcript


def batch_entry(opened: OpenBatch) -> dict[str, Any]:
    """The journal's entry of a batch: its terms and the signed messages of its setup."""
    batch, record = opened.batch, opened.record
    return {
        "batch": batch.batch,
        "cohort": list(batch.members),
        "threshold": batch.threshold,
        "slots": batch.slots,
        "setup": opened.setup.hex(),
        "adverts": _hex(record.adverts),
        "roots": _hex(record.roots),
        "opened": _hex(record.opened),
    }


def sum_entry(
    attempt: int, context: RoundContext, survivors: Sequence[str], confirmations: Sequence[bytes]
) -> dict[str, Any]:
    """The journal's entry of a sum that is about to be opened."""
    return {
        "attempt": attempt,
        "base": context.base.hex(),
        "setup": context.setup.hex(),
        "survivors": list(survivors),
        "context": context.encoded.hex(),
        "confirmations": _hex(confirmations),
    }


def transcript_of(store: Store, study: StudyRow) -> Transcript:
    """The transcript of a study's secure sums so far.

    Raises:
        InputError: the study is not sealed, or does not use secure aggregation.
    """
    if study.sealed is None or study.signature is None:
        raise InputError(f'study "{study.study_id}" has not been proposed, so it has no transcript')
    batches = [entry.data for entry in store.journal(study.key, "batch")]
    if not batches:
        raise InputError(
            f'study "{study.study_id}" has no transcript', expected="a study that has run under secure aggregation"
        )
    outcomes = {attempt.attempt: attempt.outcome or "under way" for attempt in store.attempts(study.key)}
    sums = [entry.data for entry in store.journal(study.key, "unmasking")]
    return Transcript(
        sealed=study.sealed.decode(),
        signature=to_text(study.signature),
        batches=tuple(_part(batch, sums, outcomes) for batch in batches),
    )


def _part(batch: dict[str, Any], sums: list[dict[str, Any]], outcomes: dict[int, str]) -> BatchPart:
    return BatchPart(
        batch=batch["batch"],
        cohort=tuple(batch["cohort"]),
        threshold=batch["threshold"],
        slots=batch["slots"],
        adverts=tuple(batch["adverts"]),
        roots=tuple(batch["roots"]),
        opened=tuple(batch["opened"]),
        sums=tuple(
            Sum(
                attempt=one["attempt"],
                outcome=outcomes.get(one["attempt"], "unknown"),
                context=one["context"],
                confirmations=tuple(one["confirmations"]),
            )
            for one in sums
            if one["setup"] == batch["setup"]
        ),
    )


def _hex(messages: Sequence[bytes]) -> list[str]:
    return [message.hex() for message in messages]
