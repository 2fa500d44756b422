"""The `Coordinator` interface over gRPC: what the command line uses from another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc

from fedward.privacy.errors import FedwardError, UnreachableError
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control import coordinator_pb2_grpc as stubs
from fedward.server.control.wire import (
    ERROR_KEY,
    MOST_BYTES,
    MOST_MODEL_BYTES,
    error_of,
    from_message,
    history_of,
    joined,
    judgement_of,
    mitigated_of,
    policy_of,
    request_of,
    study_view,
)
from fedward.server.histories import History
from fedward.server.home import CoordinatorHome
from fedward.server.operators import Operators
from fedward.server.records import AlarmRow, Membership, ReleaseRow, SharedMetrics
from fedward.server.seconding import Policy, Request
from fedward.server.verdicts import Judgement
from fedward.server.views import StudyHead, StudyView
from fedward.study.access import Access, load_access
from fedward.study.enrolment import JoinKit, JoinRequest, RotationRequest
from fedward.study.releases import Override, Signed, sign_override

if TYPE_CHECKING:
    from fedward.server.enrolment import Enrolled
    from fedward.server.mitigating import Mitigated
    from fedward.study.kinds import AnyManifest
    from fedward.study.metrics.mitigation import Criterion
    from fedward.study.transcript import Transcript

CALL_S: Final = 20.0
LONG_S: Final = 120.0
_GONE: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class RemoteCoordinator:
    """The coordinator that an access file names. Each call has a deadline; errors are those of `LocalCoordinator`, and:

    Raises:
        UnreachableError: it cannot be reached, or does not answer in time.
        RefusalError: `role-may-not`, or the access was removed or has expired.
    """

    def __init__(self, path: Path) -> None:
        self._open(*load_access(path))

    @classmethod
    def at_home(cls, home: CoordinatorHome, port: int) -> RemoteCoordinator:
        """The service of a home on this machine, asked by its local operator; errors as `Operators.local_access`."""
        made = cls.__new__(cls)
        made._open(*Operators(home).local_access(port))
        return made

    def _open(self, access: Access, key: bytes) -> None:
        self.access, self._key = access, key
        credentials = grpc.ssl_channel_credentials(self.access.ca.encode(), key, self.access.certificate.encode())
        self._channel = grpc.secure_channel(f"{self.access.host}:{self.access.port}", credentials)
        self._stub = stubs.CoordinatorStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._channel.close()

    def whoami(self) -> pb.Identity:
        """Who asks, as the coordinator knows it."""
        made: pb.Identity = self._ask(self._stub.Whoami, pb.WhoamiRequest())
        return made

    def enroll(
        self, request: JoinRequest | RotationRequest, *, confirmed: bool = False, end_studies: bool = False
    ) -> Enrolled:
        from fedward.server.enrolment import Enrolled  # noqa: PLC0415 - it works on the store, which others here never open

        asked = pb.EnrollRequest(
            request=request.model_dump_json().encode(), confirmed=confirmed, end_studies=end_studies
        )
        done = self._ask(self._stub.Enroll, asked)
        return Enrolled(JoinKit.model_validate_json(done.kit), done.what, tuple(done.superseded))

    def sites(self) -> list[Membership]:
        return [from_message(one) for one in self._ask(self._stub.Sites, pb.SitesRequest()).sites]

    def revoke(self, site: str, reason: str) -> None:
        self._ask(self._stub.Revoke, pb.RevokeRequest(site=site, reason=reason))

    def propose(self, manifest: AnyManifest, sites: tuple[str, ...]) -> StudyView:
        asked = pb.ProposeRequest(manifest=manifest.model_dump_json().encode(), sites=sites)
        return self._study(self._stub.Propose, asked, LONG_S)

    def launch(self, reference: str) -> StudyView:
        return self._study(self._stub.Launch, pb.StudyRequest(reference=reference))

    def pause(self, reference: str, *, now: bool = False) -> StudyView:
        return self._study(self._stub.Pause, pb.PauseRequest(reference=reference, now=now))

    def resume(self, reference: str) -> StudyView:
        return self._study(self._stub.Resume, pb.StudyRequest(reference=reference))

    def stop(self, reference: str) -> StudyView:
        return self._study(self._stub.Stop, pb.StudyRequest(reference=reference))

    def decide(self, reference: str, *, wait: bool) -> StudyView:
        return self._study(self._stub.Decide, pb.DecideRequest(reference=reference, wait=wait))

    def status(self, reference: str, recent: int | None = None) -> StudyView:
        return self._study(self._stub.Status, pb.StatusRequest(reference=reference, recent=recent))

    def studies(self) -> list[StudyHead]:
        found = pb.StudyList.FromString(self._whole(self._stub.Studies, pb.StudiesRequest()))
        return [from_message(one) for one in found.studies]

    def history(self, reference: str) -> History:
        return self._history(self._stub.History, reference)

    def record(self, reference: str) -> History:
        return self._history(self._stub.Record, reference)

    def model(self, digest: str) -> bytes:
        from fedward.server.models import check_model  # noqa: PLC0415 - few commands need a model

        data = self._whole(self._stub.Model, pb.ModelRequest(digest=digest), LONG_S, MOST_MODEL_BYTES)
        check_model(data, digest)
        return data

    def transcript(self, reference: str) -> Transcript:
        from fedward.study.transcript import Transcript  # noqa: PLC0415

        made = self._whole(self._stub.Transcript, pb.StudyRequest(reference=reference), LONG_S)
        return Transcript.model_validate_json(made)

    def waiting(self) -> list[Request]:
        return [request_of(one) for one in self._ask(self._stub.Waiting, pb.WaitingRequest()).waiting]

    def withdraw(self, reference: str) -> Request:
        return request_of(self._ask(self._stub.Withdraw, pb.WithdrawRequest(reference=reference)))

    def policy(self) -> Policy:
        return policy_of(self._ask(self._stub.Policy, pb.PolicyRequest()))

    def change_policy(self, policy: Policy) -> None:
        asked = pb.TwoPersonPolicy(two_persons=policy.two_persons, hours=policy.hours)
        self._ask(self._stub.ChangePolicy, asked)

    def share(self, reference: str, file: bytes) -> SharedMetrics:
        made: SharedMetrics = from_message(self._ask(self._stub.Share, pb.ShareRequest(reference=reference, file=file)))
        return made

    def gates(self, reference: str) -> Judgement:
        return judgement_of(self._ask(self._stub.Gates, pb.StudyRequest(reference=reference)))

    def mitigation(self, reference: str, attribute: str | None, bound: float, criterion: Criterion) -> Mitigated:
        asked = pb.MitigationRequest(reference=reference, attribute=attribute, bound=bound, criterion=criterion)
        return mitigated_of(self._ask(self._stub.Mitigation, asked))

    def override(self, reference: str, reason: str) -> Override:
        asked = self._ask(self._stub.Override, pb.OverrideRequest(reference=reference, reason=reason))
        return Override.model_validate_json(asked.override)

    def sign(self, override: Override) -> Signed:
        return sign_override(override, self.access.name, self.access.certificate, self._key)

    def release(self, reference: str, reason: str, signed: Signed | None = None) -> ReleaseRow:
        data = None if signed is None else signed.model_dump_json().encode()
        asked = pb.ReleaseRequest(reference=reference, reason=reason, signed=data)
        made: ReleaseRow = from_message(self._ask(self._stub.Release, asked))
        return made

    def rollback(self, study_id: str, reason: str) -> tuple[ReleaseRow, ReleaseRow | None]:
        done = self._ask(self._stub.Rollback, pb.RollbackRequest(study_id=study_id, reason=reason))
        return from_message(done.ended), from_message(done.current) if done.HasField("current") else None

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        found = self._whole(self._stub.Releases, pb.ReleasesRequest(study_id=study_id))
        return [from_message(one) for one in pb.ReleaseList.FromString(found).releases]

    def alarms(self) -> list[AlarmRow]:
        return [from_message(one) for one in self._ask(self._stub.Alarms, pb.AlarmsRequest()).alarms]

    def clear_alarm(self, site: str, by: str, why: str) -> None:
        """`by` must be who calls: the coordinator enters the name of the certificate."""
        self._ask(self._stub.ClearAlarm, pb.ClearAlarmRequest(site=site, reason=why, by=by))

    def serving(self) -> bool:
        """Whether the service answers: the control plane is a part of it."""
        try:
            self.whoami()
        except UnreachableError:
            return False
        return True

    def _study(self, call: Any, request: Any, seconds: float = CALL_S) -> StudyView:
        return study_view(pb.Study.FromString(self._whole(call, request, seconds)))

    def _history(self, call: Any, reference: str) -> History:
        return history_of(pb.History.FromString(self._whole(call, pb.StudyRequest(reference=reference), LONG_S)))

    def _whole(self, call: Any, request: Any, seconds: float = CALL_S, most: int = MOST_BYTES) -> bytes:
        """An answer that comes in parts."""
        arriving = call(request, timeout=seconds)
        try:
            return joined(arriving, most)
        except grpc.RpcError as error:
            raise self._told(error) from None
        finally:
            arriving.cancel()  # what is left of an answer that was refused

    def _ask(self, call: Any, request: Any, seconds: float = CALL_S) -> Any:
        try:
            return call(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self._told(error) from None

    def _told(self, error: Any) -> FedwardError:
        for key, value in error.trailing_metadata() or ():
            if key == ERROR_KEY:
                return error_of(value)
        where = f"{self.access.host}:{self.access.port}"
        status = error.code()
        if status in _GONE:
            return UnreachableError(
                f"the coordinator at {where} cannot be reached or does not answer",
                got=f"{status.name.lower()}: {error.details()}",
                remedy="see whether its service runs, and whether this machine may reach that port",
                code="coordinator-unreachable",
            )
        return FedwardError(f"the coordinator at {where} failed", got=status.name.lower(), code="coordinator-failed")
