"""What a node enters in its audit log of the requests it gets, before their answers leave: answered, refused, lied to.

An answer that cannot be entered does not leave. A refusal does, and says that it could not be.
"""

from __future__ import annotations

from collections.abc import Callable

from fedward.client.audit import policy_digest
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.client.log import SiteLog
from fedward.privacy.errors import FedwardError
from fedward.privacy.secagg.faults import ProtocolError
from fedward.study import messages
from fedward.study.codes import leaving
from fedward.study.messages import Advertise, Declared, Reply, Step, Task


class Entries:
    """One node's entries. `clock` gives seconds since 1970."""

    def __init__(self, home: SiteHome, log: SiteLog, clock: Callable[[], float]) -> None:
        self._home = home
        self._log = log
        self._clock = clock
        self._incidents = Incidents(home.incidents_folder)
        self._policy = policy_digest(home)

    def note_policy(self) -> None:
        """Enter in the audit log that a person changed the policy, before anything is decided by the new one."""
        now = policy_digest(self._home)
        if now is not None and now != self._policy:
            self._home.record("policy-changed", at=int(self._clock()), digest=now, previous=self._policy)
            self._policy = now

    def keep_evidence(self, error: ProtocolError, request: messages.Request, data: bytes, reference: str) -> None:
        """Keep a lie, byte by byte, with the coordinator's signature."""
        if not error.lie:
            return
        try:
            kept = self._incidents.record(
                reference=reference,
                at=int(self._clock()),
                code=error.code,
                what=error.text(),
                study=getattr(request, "study", ""),
                stage=request.kind,
                blamed=error.blamed,
                evidence=data,
            )
            self._log.write("incident", reference=reference, first=kept.reference, times=kept.times)
            self._home.record(
                "incident",
                at=int(self._clock()),
                code=error.code,
                reference=reference,
                other=error.blamed or None,
                stage=request.kind,
                study=getattr(request, "study", None),
            )
        except FedwardError as full:  # the lie is refused all the same, and stands in the log
            self._log.error(full, code="incident-not-recorded")

    def answered(self, request: messages.Request, reply: Reply) -> None:
        """Before it leaves. Steps that only set up a sum are not told one by one."""
        at = int(self._clock())
        if isinstance(reply, Declared):
            self._home.record("declared", at=at, study_id=reply.study_id)
        elif isinstance(request, Task):
            self._home.record(
                "round-answered", at=at, study=request.study, stage=request.kind, round=request.round,
                attempt=request.attempt, model=request.base,
            )  # fmt: skip
        elif isinstance(request, Step) and request.kind == "unmask":
            self._home.record("round-answered", at=at, study=request.study, stage=request.kind)

    def refused(self, request: messages.Request | None, code: str, reference: str) -> str:
        """The code that leaves: if the refusal cannot be logged, that is what the coordinator is told."""
        study, stage = getattr(request, "study", None), None if request is None else request.kind
        try:
            if isinstance(request, (Task, Advertise, Step)):
                round_, attempt = getattr(request, "round", None), getattr(request, "attempt", None)
                self._home.record(
                    "round-refused", at=int(self._clock()), study=study, stage=stage, code=code, reference=reference,
                    round=round_, attempt=attempt,
                )  # fmt: skip
            else:
                self._home.record(
                    "request-refused", at=int(self._clock()), study=study, stage=stage, code=code, reference=reference
                )
        except FedwardError as error:
            self._log.error(error, code=error.code, reference_of=reference)
            return leaving(error.code)
        return code
