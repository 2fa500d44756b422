"""The gRPC server. Before a call reaches the coordinator: a certificate of the operators' CA, in the list and not removed; its
role; a deadline; an entry in the audit log. Whatever goes wrong leaves as a code and a remedy, never as a traceback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from pydantic import ValidationError

from fedward.privacy.errors import (
    FedwardError,
    InputError,
    IntegrityError,
    RefusalError,
    UnreachableError,
    UsageError,
)
from fedward.server.authority import certificate_digest
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control import coordinator_pb2_grpc as stubs
from fedward.server.control.calls import Calls
from fedward.server.control.roles import LARGE, MAY, may
from fedward.server.control.wire import (
    ERROR_KEY,
    MOST_BYTES,
    MOST_MODEL_BYTES,
    error_message,
    history_message,
    judgement_message,
    mitigated_message,
    parts,
    policy_of,
    study_message,
    to_message,
    too_large,
    waits_message,
)
from fedward.server.coordinator import Coordinator, LocalCoordinator
from fedward.server.home import CoordinatorHome, server_names
from fedward.server.models import model_size
from fedward.server.operators import LOCAL, Operator, Operators, operators_authority, role_of
from fedward.server.seconding import Asker
from fedward.server.store import Store
from fedward.study.enrolment import JoinRequest, RotationRequest
from fedward.study.kinds import parse_stored
from fedward.study.manifest import explain
from fedward.study.releases import Signed

SERVICE: Final = "fedward.v1.Coordinator"
MOST_S: Final = 300.0
"""The longest deadline that a call may have."""
MOST_REQUEST_BYTES: Final = 4 << 20
_AT_ONCE: Final = 32
_HANDSHAKE_MS = 10_000
"""gRPC would wait for two minutes for a connection that says nothing, and each holds a file of the whole service."""
_EACH: Final = 16
"""Calls at once of one certificate: one person's slow calls leave room for the others."""
_LARGE: Final = 4
_LARGE_EACH: Final = 2
"""Calls at once whose answers are held in memory."""
_MOST_TEXT: Final = 500
_HEALTH: Final = "/grpc.health.v1.Health/Check"
_STATUS: Final = {
    UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalError: grpc.StatusCode.FAILED_PRECONDITION,
    IntegrityError: grpc.StatusCode.DATA_LOSS,
    UnreachableError: grpc.StatusCode.UNAVAILABLE,
}
_caller: ContextVar[Operator] = ContextVar("caller")


class ControlServer:
    """Serves one coordinator's home: on loopback for its own machine, and at the operators' port, if there is one.

    `stop` waits for calls under way, for at most some seconds.
    """

    def __init__(self, home: CoordinatorHome, store: Store, log: logging.Logger) -> None:
        self._home = home
        self._health = health.HealthServicer(experimental_non_blocking=False)
        guard = _Guard(Operators(home), Calls(home), log)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(_AT_ONCE, "control"),
            interceptors=(guard,),
            maximum_concurrent_rpcs=_AT_ONCE,
            options=(
                ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ),
        )
        stubs.add_CoordinatorServicer_to_server(_Servicer(home, store), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> int:
        """The port of loopback.

        Raises:
            UnreachableError: `port-in-use`: the operators' port.
        """
        settings = self._home.settings
        authority = operators_authority(self._home, datetime.now(UTC))
        certificate, key = authority.issue_server(
            server_names(settings.host), datetime.now(UTC)
        )  # anew at each start: nothing to keep
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=authority.pem(), require_client_auth=True
        )
        port = self._server.add_secure_port("127.0.0.1:0", credentials)
        if settings.operators_port is not None:
            self._add_port(f"{settings.operators_bind}:{settings.operators_port}", credentials)
        self._server.start()
        self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return int(port)

    def _add_port(self, address: str, credentials: grpc.ServerCredentials) -> None:
        try:
            taken = not self._server.add_secure_port(address, credentials)
        except RuntimeError:
            taken = True
        if taken:
            raise UnreachableError(
                f"the operators' port {address} cannot be used",
                remedy="end what uses it, or change operators_port in federation.json",
                code="port-in-use",
            )

    def stop(self, grace: float = 5.0) -> None:
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()


class _Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets through what a person may call, and nothing else: a call that it does not know is refused.

    To gRPC each call is a stream of one message, as on the wire: so who calls is known before the message is waited for, which
    somebody without access could hold back for ever.
    """

    def __init__(self, operators: Operators, calls: Calls, log: logging.Logger) -> None:
        self._operators = operators
        self._calls = calls
        self._log = log
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    def intercept_service(self, continuation: Callable[..., Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        method = str(details.method)
        known = method == _HEALTH or method.startswith(f"/{SERVICE}/")
        if not known or handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(_unimplemented)
        call = "Whoami" if method == _HEALTH else method.rpartition("/")[2]

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._let_in(call, handler.request_deserializer, requests, context) as request:
                return handler.unary_unary(request, context)

        def answer_in_parts(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._let_in(call, handler.request_deserializer, requests, context) as request:
                yield from handler.unary_stream(request, context)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(answer_in_parts, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(answer, None, handler.response_serializer)

    @contextmanager
    def _let_in(
        self, call: str, parse: Callable[[bytes], Any], requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """The request of somebody who may make the call, entered in the audit log; what goes wrong then ends the call."""
        name: str | None = None
        key = ""
        try:
            key, role = _peer(context)
            operator = self._operators.living(key, role, int(time.time()))
            name = operator.name
            _check(operator, call, context)
            with self._turn(key, call):
                request = _received(requests, parse)
                self._calls.called(name, key, call)
                _caller.set(operator)
                yield request
        except FedwardError as error:
            self._refused(name, key, call, error.code)
            _abort(context, _status(error), error)
        except Exception:  # noqa: BLE001 - its text may say anything; the log has it
            self._log.exception("control: %s failed", call)
            self._refused(name, key, call, "internal-error")
            hidden = FedwardError(
                "the coordinator failed", remedy="see coordinator.log on its machine", code="internal-error"
            )
            _abort(context, grpc.StatusCode.INTERNAL, hidden)

    @contextmanager
    def _turn(self, key: str, call: str) -> Iterator[None]:
        """
        Raises:
            RefusalError: `too-many-calls`.
        """
        with self._lock:
            for counted, most, who in self._limits(key, call):
                if self._under_way[counted] >= most:
                    raise RefusalError(
                        "too many calls at once", expected=f"at most {most} {who}", remedy="wait for some to end",
                        code="too-many-calls",
                    )  # fmt: skip
            for counted, _, _ in self._limits(key, call):
                self._under_way[counted] += 1
        try:
            yield
        finally:
            with self._lock:
                for counted, _, _ in self._limits(key, call):
                    self._under_way[counted] -= 1
                self._under_way += Counter()  # forgets who has none

    @staticmethod
    def _limits(key: str, call: str) -> list[tuple[str, int, str]]:
        """What a call counts as, how many of it may be under way, and whose."""
        limits = [(key, _EACH, "with one certificate")]
        if call in LARGE:
            limits += [
                (f"large {key}", _LARGE_EACH, "large ones with one certificate"),
                ("large", _LARGE, "large ones"),
            ]
        return limits

    def _refused(self, name: str | None, key: str, call: str, code: str) -> None:
        self._log.warning("control: %s of %s: %s", call, name or f"certificate {key[:16]}", code)
        try:
            self._calls.refused(name, key, call, code)
        except FedwardError as error:  # it is refused all the same
            self._log.error("control: %s", error.text())


class _Servicer(stubs.CoordinatorServicer):
    """The calls, in the coordinator's own interface. Who asks stands in the context."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self._home = home
        self._store = store

    @property
    def _coordinator(self) -> Coordinator:
        caller = _caller.get()
        return LocalCoordinator.asked(self._home, self._store, Asker(caller.name, caller.issued_at))

    def Whoami(self, request: pb.WhoamiRequest, context: object) -> pb.Identity:
        caller = _caller.get()
        return pb.Identity(
            name=caller.name, role=caller.role, may=sorted(MAY[caller.role]), federation=self._home.settings.name
        )

    def Sites(self, request: pb.SitesRequest, context: object) -> pb.SiteList:
        return pb.SiteList(sites=_messages(pb.Membership, self._coordinator.sites()))

    def Enroll(self, request: pb.EnrollRequest, context: object) -> pb.Enrollment:
        asked = _join_request(request.request)
        done = self._coordinator.enroll(asked, confirmed=request.confirmed, end_studies=request.end_studies)
        return pb.Enrollment(kit=done.kit.model_dump_json().encode(), what=done.what, superseded=done.superseded)

    def Revoke(self, request: pb.RevokeRequest, context: object) -> pb.Done:
        self._coordinator.revoke(request.site, request.reason)
        return pb.Done()

    def Propose(self, request: pb.ProposeRequest, context: object) -> Iterator[pb.Part]:
        manifest = parse_stored(request.manifest.decode(errors="replace"))
        return parts(study_message(self._coordinator.propose(manifest, tuple(request.sites))))

    def Launch(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        return parts(study_message(self._coordinator.launch(request.reference)))

    def Pause(self, request: pb.PauseRequest, context: object) -> Iterator[pb.Part]:
        return parts(study_message(self._coordinator.pause(request.reference, now=request.now)))

    def Resume(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        return parts(study_message(self._coordinator.resume(request.reference)))

    def Stop(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        return parts(study_message(self._coordinator.stop(request.reference)))

    def Decide(self, request: pb.DecideRequest, context: object) -> Iterator[pb.Part]:
        return parts(study_message(self._coordinator.decide(request.reference, wait=request.wait)))

    def Status(self, request: pb.StatusRequest, context: object) -> Iterator[pb.Part]:
        recent = request.recent if request.HasField("recent") else None
        return parts(study_message(self._coordinator.status(request.reference, recent)))

    def Studies(self, request: pb.StudiesRequest, context: object) -> Iterator[pb.Part]:
        return parts(pb.StudyList(studies=_messages(pb.StudyHead, self._coordinator.studies())))

    def History(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        return parts(history_message(self._coordinator.history(request.reference)))

    def Record(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        self._bounded(request.reference)
        return parts(history_message(self._coordinator.record(request.reference)))

    def Model(self, request: pb.ModelRequest, context: object) -> Iterator[pb.Part]:
        size = model_size(self._home.models_folder, request.digest)
        if size > MOST_MODEL_BYTES:
            raise too_large(size, MOST_MODEL_BYTES)
        return parts(self._coordinator.model(request.digest))

    def Transcript(self, request: pb.StudyRequest, context: object) -> Iterator[pb.Part]:
        self._bounded(request.reference)
        return parts(self._coordinator.transcript(request.reference).model_dump_json().encode())

    def _bounded(self, reference: str) -> None:
        """Refuse a study whose journal is too long to be sent, before it is read."""
        length = self._store.journal_length(self._store.find(reference).key)
        if length > MOST_BYTES:
            raise too_large(length, MOST_BYTES)

    def Waiting(self, request: pb.WaitingRequest, context: object) -> pb.WaitingList:
        return pb.WaitingList(waiting=[waits_message(one) for one in self._coordinator.waiting()])

    def Withdraw(self, request: pb.WithdrawRequest, context: object) -> pb.Waits:
        return waits_message(self._coordinator.withdraw(request.reference))

    def Policy(self, request: pb.PolicyRequest, context: object) -> pb.TwoPersonPolicy:
        policy = self._coordinator.policy()
        return pb.TwoPersonPolicy(two_persons=policy.two_persons, hours=policy.hours)

    def ChangePolicy(self, request: pb.TwoPersonPolicy, context: object) -> pb.Done:
        self._coordinator.change_policy(policy_of(request))
        return pb.Done()

    def Share(self, request: pb.ShareRequest, context: object) -> pb.SharedMetrics:
        return to_message(pb.SharedMetrics, self._coordinator.share(request.reference, request.file))

    def Gates(self, request: pb.StudyRequest, context: object) -> pb.Judgement:
        return judgement_message(self._coordinator.gates(request.reference))

    def Mitigation(self, request: pb.MitigationRequest, context: object) -> pb.Mitigated:
        attribute = request.attribute if request.HasField("attribute") else None
        criterion: Any = request.criterion  # any other text is refused where it is used
        return mitigated_message(self._coordinator.mitigation(request.reference, attribute, request.bound, criterion))

    def Override(self, request: pb.OverrideRequest, context: object) -> pb.OverrideText:
        return pb.OverrideText(override=self._coordinator.override(request.reference, request.reason).canonical)

    def Release(self, request: pb.ReleaseRequest, context: object) -> pb.ReleaseRow:
        signed = _signed(request.signed) if request.HasField("signed") else None
        return to_message(pb.ReleaseRow, self._coordinator.release(request.reference, request.reason, signed))

    def Rollback(self, request: pb.RollbackRequest, context: object) -> pb.RolledBack:
        ended, current = self._coordinator.rollback(request.study_id, request.reason)
        return pb.RolledBack(
            ended=to_message(pb.ReleaseRow, ended),
            current=None if current is None else to_message(pb.ReleaseRow, current),
        )

    def Releases(self, request: pb.ReleasesRequest, context: object) -> Iterator[pb.Part]:
        study_id = request.study_id if request.HasField("study_id") else None
        return parts(pb.ReleaseList(releases=_messages(pb.ReleaseRow, self._coordinator.releases(study_id))))

    def Alarms(self, request: pb.AlarmsRequest, context: object) -> pb.AlarmList:
        return pb.AlarmList(alarms=_messages(pb.Alarm, self._coordinator.alarms()))

    def ClearAlarm(self, request: pb.ClearAlarmRequest, context: object) -> pb.Done:
        if not request.reason.strip():
            raise UsageError("an alarm is cleared by a named person who says why", expected="a reason")
        caller = _caller.get().name
        by = request.by or caller
        if caller not in {by, LOCAL}:  # who works on the machine is a person with a name of their own
            raise RefusalError("an alarm is cleared by who calls", expected=caller, code="another-s-name")
        self._coordinator.clear_alarm(request.site, by, request.reason)
        return pb.Done()


def _messages(kind: type[Any], rows: Sequence[object]) -> list[Any]:
    return [to_message(kind, row) for row in rows]


def _join_request(data: bytes) -> JoinRequest | RotationRequest:
    for kind in (JoinRequest, RotationRequest):
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            told = explain(error)
    raise InputError("this is no request to join or to rotate keys", got=told)


def _signed(data: bytes) -> Signed:
    try:
        return Signed.model_validate_json(data)
    except ValidationError as error:
        raise InputError("this is no signature of an override", got=explain(error)) from None


def _received(requests: Iterator[bytes], parse: Callable[[bytes], Any]) -> Any:
    """
    Raises:
        UnreachableError: the message did not come before the deadline.
        InputError: it is none, or a text in it is not a line that lists, logs and terminals can show.
    """
    try:
        data = next(requests, b"")
    except grpc.RpcError:
        raise UnreachableError("the request did not arrive", remedy="try again", code="request-cut-off") from None
    try:
        request = parse(data)
    except DecodeError:
        raise InputError("the request cannot be read", expected="a message of coordinator.proto") from None
    for field, value in request.ListFields():
        if field.type != field.TYPE_STRING:
            continue
        for text in value if field.is_repeated else (value,):
            if len(text) > _MOST_TEXT or not text.isprintable():
                raise InputError(
                    f"{field.name} cannot be used", expected=f"one line of at most {_MOST_TEXT} printable characters"
                )
    return request


def _peer(context: grpc.ServicerContext) -> tuple[str, str]:
    """SHA-256 of the client's certificate, which the TLS handshake proved, and the role that it names."""
    found = context.auth_context().get("x509_pem_cert", [])
    if len(found) != 1:
        raise RefusalError("a call without a certificate", code="operator-unknown")
    made = x509.load_pem_x509_certificate(found[0])
    return certificate_digest(made), role_of(made)


def _check(operator: Operator, call: str, context: grpc.ServicerContext) -> None:
    """
    Raises:
        RefusalError: the role may not.
        UsageError: no deadline, or one too far away.
    """
    if not may(operator.role, call):
        raise RefusalError(
            f"the role {operator.role} may not do this",
            expected=f"a role that may: {', '.join(role for role in MAY if may(role, call)) or 'none'}",
            remedy="ask for access with another role",
            code="role-may-not",
        )
    left = context.time_remaining()
    if left is None or not left <= MOST_S:
        raise UsageError("a call without a deadline", expected=f"at most {MOST_S:g} s", code="deadline-missing")


def _status(error: FedwardError) -> grpc.StatusCode:
    if error.code in {"role-may-not", "operator-unknown", "operator-removed", "operator-expired"}:
        return grpc.StatusCode.PERMISSION_DENIED
    if error.code == "too-many-calls":
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _STATUS.get(type(error), grpc.StatusCode.UNKNOWN)


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, error: FedwardError) -> NoReturn:
    context.set_trailing_metadata(((ERROR_KEY, error_message(error)),))
    context.abort(status, error.code)
    raise AssertionError("unreachable: abort raises")


def _unimplemented(requests: object, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
    raise AssertionError("unreachable: abort raises")
