"""The transcript of a study's secure sums: a file that anyone can check, without trusting whoever wrote it.

It holds the sealed manifest with the coordinator's signature, and of every batch the signed messages of its setup and of its
sums (`privacy.secagg.transcript`). Keys, quorum and the promise against colluders are taken from the sealed manifest, never from
the rest of the file; compare its digest with the one that your hospital approved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.transcript import BatchRecord, SumRecord, check_batch, check_sums
from fedward.privacy.signing import from_text, verify
from fedward.study.fields import Part
from fedward.study.kinds import AnySealed, parse_sealed
from fedward.study.manifest import explain
from fedward.study.secure import batch_of

MAX_TRANSCRIPT_BYTES = 1_000_000_000

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]


class Sum(Part):
    """A sum that was about to be opened. The attempt's outcome is the coordinator's word; all else is signed by the sites."""

    attempt: Annotated[int, Field(ge=1)]
    outcome: Annotated[str, Field(max_length=40)]
    context: Hex
    confirmations: tuple[Hex, ...]


class BatchPart(Part):
    batch: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    cohort: tuple[str, ...]
    threshold: int
    slots: int
    adverts: tuple[Hex, ...]
    roots: tuple[Hex, ...]
    opened: tuple[Hex, ...]
    sums: tuple[Sum, ...] = ()


class Transcript(Part):
    format: Literal[1] = 1
    sealed: str
    signature: Annotated[str, Field(max_length=100)]
    batches: tuple[BatchPart, ...]


@dataclass(frozen=True)
class Checked:
    """One sum whose signatures hold."""

    batch: str
    slot: int
    round: int
    attempt: int
    outcome: str
    base: str
    survivors: tuple[str, ...]
    signers: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What the transcript proves."""

    sealed: AnySealed
    sums: tuple[Checked, ...]


def load_transcript(path: Path) -> Transcript:
    """
    Raises:
        InputError: missing, too large, or no transcript.
    """
    if not path.is_file():
        raise InputError(f"no transcript at {path}", remedy="check the path")
    if path.stat().st_size > MAX_TRANSCRIPT_BYTES:
        raise InputError(f"{path.name} is too large", expected=f"at most {MAX_TRANSCRIPT_BYTES} bytes")
    try:
        return Transcript.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path.name} is no transcript", got=explain(error)) from None


def check_transcript(transcript: Transcript) -> Report:
    """Check every signature and rule of a transcript.

    Raises:
        IntegrityError: something in it does not hold; a `ProtocolError` says whose message.
        InputError: the sealed manifest is none.
    """
    sealed = parse_sealed(transcript.sealed.encode())
    signature = from_text(transcript.signature, "the manifest's signature")
    verify(sealed.coordinator_key, "manifest", sealed.canonical, signature, "the sealed manifest")
    found: list[Checked] = []
    for part in transcript.batches:
        found.extend(_check_batch(sealed, part))
    attempts = [one.attempt for one in found]
    if attempts != sorted(set(attempts)):
        raise IntegrityError("an attempt stands in the transcript twice, or out of order", got=str(attempts)[:200])
    return Report(sealed, tuple(found))


def _check_batch(sealed: AnySealed, part: BatchPart) -> list[Checked]:
    batch = batch_of(sealed, part.batch, part.cohort, part.threshold, part.slots)
    record = BatchRecord(batch, _raw(part.adverts), _raw(part.roots), _raw(part.opened))
    setup = check_batch(record)
    sums = [SumRecord(RoundContext.decode(bytes.fromhex(one.context)), _raw(one.confirmations)) for one in part.sums]
    checked: list[Checked] = []
    for said, held in zip(part.sums, check_sums(record, setup, sums), strict=True):
        context = held.context
        if said.attempt != context.attempt:
            raise IntegrityError("a sum is listed under another attempt than the sites signed", got=str(said.attempt))
        checked.append(
            Checked(
                part.batch,
                context.slot,
                context.round,
                context.attempt,
                said.outcome,
                context.base.hex(),
                held.survivors,
                held.signers,
            )
        )
    return checked


def _raw(items: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(item) for item in items)
