"""The record's rows as protobuf messages and back: fields of the same name, None where an optional field is absent.

A long answer travels in parts, whose first says how long it is: so it is refused before it is collected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf.message import Message
from pydantic import ValidationError

from fedward.privacy.errors import (
    FedwardError,
    InputError,
    IntegrityError,
    RefusalError,
    UnreachableError,
    UsageError,
)
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.histories import History
from fedward.server.records import (
    AlarmRow,
    AttemptRow,
    Contribution,
    JournalEntry,
    Membership,
    MetricRow,
    Question,
    ReleaseRow,
    SharedMetrics,
    StandingRow,
    StatusRow,
    StudyRow,
)
from fedward.server.seconding import Policy, Request
from fedward.server.verdicts import Judgement, Verdict
from fedward.server.views import StudyHead, StudyView
from fedward.study.manifest import explain
from fedward.study.releases import Override

if TYPE_CHECKING:
    from fedward.server.mitigating import Mitigated

R = TypeVar("R")
M = TypeVar("M")
_MOST_TEXT: Final = 400
"""An error's texts are cut here: clients take trailing metadata of about 8 KiB."""

PART_BYTES: Final = 1 << 20
MOST_BYTES: Final = 256 << 20
"""The longest answer that is not a model's file."""
MOST_MODEL_BYTES: Final = 1 << 30

ERROR_KEY: Final = "fedward-error-bin"
"""The trailing metadata in which an error travels whole."""

_ROWS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "Membership": Membership, "Standing": StandingRow, "Attempt": AttemptRow, "SiteStatus": StatusRow,
        "Metric": MetricRow, "Alarm": AlarmRow, "Question": Question, "Study": StudyView,
        "StudyHead": StudyHead, "StudyRow": StudyRow, "Contribution": Contribution, "Verdict": Verdict,
        "ReleaseRow": ReleaseRow, "SharedMetrics": SharedMetrics,
    }
)  # fmt: skip
_ERRORS: Final = {
    kind.exit_code: kind
    for kind in (FedwardError, UsageError, InputError, RefusalError, IntegrityError, UnreachableError)
}


def to_message(kind: type[M], row: object) -> M:
    """A row as its message."""
    names: Any = row.__dataclass_fields__  # type: ignore[attr-defined]  # as `fields` finds them, each time anew
    values = {name: getattr(row, name) for name in names}
    for name, value in values.items():
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            inner: Any = kind.DESCRIPTOR.fields_by_name[name].message_type  # type: ignore[attr-defined]
            values[name] = [to_message(inner._concrete_class, item) for item in value]
    return kind(**values)  # None is an optional field that is absent


def from_message(message: Message) -> Any:
    """The row of a message. A field that this version does not know is passed over."""
    row, told = _form(message.DESCRIPTOR.name)
    values = []
    for name, form in told:
        value = getattr(message, name)
        if form == "rows":
            value = tuple(from_message(item) for item in value)
        elif form == "texts":
            value = tuple(value)
        elif form == "optional" and not message.HasField(name):
            value = None
        values.append(value)
    return row(*values)


@cache
def _form(kind: str) -> tuple[type[Any], tuple[tuple[str, str], ...]]:
    """The row of a kind of message, and how each of its fields is told: there are thousands of rows in an answer."""
    named = getattr(pb, kind).DESCRIPTOR.fields_by_name
    row = _ROWS.get(kind) or _of_study(kind)

    def form(name: str) -> str:
        if named[name].is_repeated:
            return "rows" if named[name].message_type else "texts"
        return "optional" if named[name].has_presence else "plain"

    return row, tuple((field.name, form(field.name)) for field in fields(row))


def _of_study(name: str) -> type[Any]:
    if name in {"GroupPoint", "Choice", "LeftOut"}:
        from fedward.server.mitigating import LeftOut  # noqa: PLC0415
        from fedward.study.metrics.mitigation import Choice, GroupPoint  # noqa: PLC0415

        return {"GroupPoint": GroupPoint, "Choice": Choice, "LeftOut": LeftOut}[name]
    if name == "CalibrationGroup":
        from fedward.study.metrics import CalibrationGroup  # noqa: PLC0415 - few calls have one

        return CalibrationGroup
    if name in {"HospitalInfluence", "VotedFeature"}:
        from fedward.study import hospital_influence  # noqa: PLC0415

        voted: type[Any] = getattr(hospital_influence, name)
        return voted
    from fedward.study.answers import Answer, Estimate  # noqa: PLC0415 - pandas takes its time, and few studies have answers

    return {"Answer": Answer, "Estimate": Estimate}[name]


def study_message(view: StudyView) -> pb.Study:
    """A study; `answered` tells an exploration's empty answers from none."""
    message = to_message(pb.Study, view)
    message.answered = view.answers is not None
    return message


def study_view(message: pb.Study) -> StudyView:
    """The inverse of `study_message`."""
    made: StudyView = from_message(message)
    if message.answered:
        return made
    return StudyView(**{field.name: getattr(made, field.name) for field in fields(made)} | {"answers": None})


def history_message(history: History) -> pb.History:
    """A study's record."""
    return pb.History(
        study=to_message(pb.StudyRow, history.study),
        view=study_message(history.view),
        journal=[
            pb.JournalEntry(sequence=one.sequence, at=one.at, kind=one.kind, data=json.dumps(one.data))
            for one in history.journal
        ],
        alarms=[to_message(pb.Alarm, one) for one in history.alarms],
        evidence=[pb.Evidence(site=site, message=message) for site, message in history.evidence.items()],
        shared=[to_message(pb.SharedMetrics, one) for one in history.shared],
        calibration=[to_message(pb.CalibrationGroup, one) for one in history.calibration],
        votes=None if history.votes is None else to_message(pb.HospitalInfluence, history.votes),
    )


def history_of(message: pb.History) -> History:
    """The inverse of `history_message`."""
    return History(
        study=from_message(message.study),
        view=study_view(message.view),
        journal=tuple(JournalEntry(one.sequence, one.at, one.kind, json.loads(one.data)) for one in message.journal),
        alarms=tuple(from_message(one) for one in message.alarms),
        evidence={one.site: one.message for one in message.evidence},
        shared=tuple(from_message(one) for one in message.shared),
        calibration=tuple(from_message(one) for one in message.calibration),
        votes=from_message(message.votes) if message.HasField("votes") else None,
    )


def waits_message(request: Request) -> pb.Waits:
    """A request that waits for a second person; the first one's signature stays here."""
    override = None if request.override is None else request.override.canonical
    return pb.Waits(**request.model_dump(exclude={"override", "signed"}), override=override)


def request_of(message: pb.Waits) -> Request:
    """The inverse of `waits_message`."""
    plain = {name: getattr(message, name) for name in Request.model_fields if name not in {"override", "signed"}}
    override = Override.model_validate_json(message.override) if message.HasField("override") else None
    return Request(**plain, override=override)


def judgement_message(found: Judgement) -> pb.Judgement:
    """A study's gates."""
    return pb.Judgement(
        study_id=found.study_id,
        ended=found.ended,
        verdicts=[to_message(pb.Verdict, one) for one in found.verdicts],
        waiting=None if found.waiting is None else waits_message(found.waiting),
    )


def judgement_of(message: pb.Judgement) -> Judgement:
    """The inverse of `judgement_message`."""
    return Judgement(
        message.study_id,
        message.ended,
        tuple(from_message(one) for one in message.verdicts),
        request_of(message.waiting) if message.HasField("waiting") else None,
    )


def mitigated_message(made: Mitigated) -> pb.Mitigated:
    """An analysis of thresholds."""
    plain = {name: value for name, value in vars(made).items() if name not in {"left_out", "found"}}
    return pb.Mitigated(
        **plain,
        left_out=[to_message(pb.LeftOut, one) for one in made.left_out],
        criterion=made.found.criterion,
        bound=made.found.bound,
        before=to_message(pb.Choice, made.found.before),
        after=to_message(pb.Choice, made.found.after),
    )


def mitigated_of(message: pb.Mitigated) -> Mitigated:
    """The inverse of `mitigated_message`."""
    from fedward.server.mitigating import Mitigated  # noqa: PLC0415 - few calls have one
    from fedward.study.metrics.mitigation import Mitigation  # noqa: PLC0415

    criterion: Any = message.criterion
    return Mitigated(
        message.study_id, message.version, message.sites, message.attribute, tuple(message.attributes), message.threshold,
        message.deviation, tuple(message.choices), tuple(from_message(one) for one in message.left_out),
        Mitigation(criterion, message.bound, from_message(message.before), from_message(message.after)),
    )  # fmt: skip


def policy_of(message: pb.TwoPersonPolicy) -> Policy:
    """
    Raises:
        InputError: it names an action that there is not, or no number of hours that may be.
    """
    try:
        return Policy.model_validate({"two_persons": tuple(sorted(set(message.two_persons))), "hours": message.hours})
    except ValidationError as error:
        raise InputError("the policy cannot be used", got=explain(error)) from None


def parts(answer: bytes | Message) -> Iterator[pb.Part]:
    """A long answer as it travels."""
    data = answer if isinstance(answer, bytes) else answer.SerializeToString()
    yield pb.Part(size=len(data), data=data[:PART_BYTES])
    for start in range(PART_BYTES, len(data), PART_BYTES):
        yield pb.Part(data=data[start : start + PART_BYTES])


def joined(arriving: Iterator[pb.Part], most: int) -> bytes:
    """A long answer of at most so many bytes, put together again.

    Raises:
        RefusalError: `answer-too-large`: it is longer, or says so.
        UnreachableError: `answer-cut-off`: it ended before it was whole.
    """
    found, size = bytearray(), None
    for part in arriving:
        size = part.size if size is None else size
        if size > most or len(found) + len(part.data) > size:
            raise too_large(max(size, len(found) + len(part.data)), min(most, size))
        found += part.data
    if size is None or len(found) != size:
        raise UnreachableError("the coordinator's answer is not whole", remedy="try again", code="answer-cut-off")
    return bytes(found)


def too_large(size: int, most: int) -> RefusalError:
    """What is said of an answer that is longer than one may be."""
    return RefusalError(
        "the answer is too large for one call", expected=f"at most {most} bytes", got=str(size),
        remedy="stop the service, and run the command on the coordinator's machine", code="answer-too-large",
    )  # fmt: skip


def error_message(error: FedwardError) -> bytes:
    """An error, whole, as trailing metadata carries it."""
    message = pb.Error(code=error.code, what=_cut(error.what), exit_code=error.exit_code)
    for name in ("expected", "got", "remedy"):
        if (value := getattr(error, name)) is not None:
            setattr(message, name, _cut(value))
    return bytes(message.SerializeToString())


def error_of(data: bytes) -> FedwardError:
    """The error that was raised at the other end, of the same kind."""
    message = pb.Error.FromString(data)
    texts = {name: getattr(message, name) if message.HasField(name) else None for name in ("expected", "got", "remedy")}
    return _ERRORS.get(message.exit_code, FedwardError)(message.what, code=message.code, **texts)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
