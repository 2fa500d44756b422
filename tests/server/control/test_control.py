"""The control plane over real gRPC and real TLS: who may call what, what is logged, and that errors arrive whole."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joining import free_ports
from loopback import wait_for
from serving import code_of

from fedward.client.enrolment import make_request
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError, InputError
from fedward.privacy.ledger import Budget
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control import server as control_server
from fedward.server.control.coordinator_pb2_grpc import CoordinatorStub
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.control.roles import MAY, READS, ROLES, Role
from fedward.server.control.server import ControlServer
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.operators import Operators
from fedward.server.service import CoordinatorService
from fedward.study.access import Access, load_access, request_access

CALLS: dict[str, Any] = {
    "Whoami": pb.WhoamiRequest(), "Sites": pb.SitesRequest(), "Enroll": pb.EnrollRequest(),
    "Revoke": pb.RevokeRequest(site="nobody"), "Propose": pb.ProposeRequest(), "Launch": pb.StudyRequest(reference="none"),
    "Pause": pb.PauseRequest(reference="none"), "Resume": pb.StudyRequest(reference="none"),
    "Decide": pb.DecideRequest(reference="none"),
    "Stop": pb.StudyRequest(reference="none"), "Status": pb.StatusRequest(reference="none"), "Studies": pb.StudiesRequest(),
    "History": pb.StudyRequest(reference="none"), "Record": pb.StudyRequest(reference="none"),
    "Model": pb.ModelRequest(digest="none"), "Transcript": pb.StudyRequest(reference="none"), "Alarms": pb.AlarmsRequest(),
    "Waiting": pb.WaitingRequest(), "Withdraw": pb.WithdrawRequest(reference="none"), "Policy": pb.PolicyRequest(),
    "ChangePolicy": pb.TwoPersonPolicy(two_persons=["nothing"], hours=1),
    "Gates": pb.StudyRequest(reference="none"), "Mitigation": pb.MitigationRequest(reference="none"),
    "Override": pb.OverrideRequest(reference="none"),
    "Release": pb.ReleaseRequest(reference="none"), "Rollback": pb.RollbackRequest(study_id="none"),
    "Releases": pb.ReleasesRequest(), "Share": pb.ShareRequest(reference="none", file=b"x"),
    "ClearAlarm": pb.ClearAlarmRequest(site="nobody", reason="x"),
}  # fmt: skip


@dataclass
class Control:
    """An in-memory federation whose record is served; people have access by their role's name."""

    federation: Federation
    folder: Path
    server: ControlServer
    port: int

    def give(self, name: str, role: Role, now: datetime | None = None) -> Path:
        request = request_access(name, self.folder)
        access = Operators(self.federation.home).add(request.read_bytes(), role, now or datetime.now(UTC))
        path = self.folder / f"{name}.access.json"
        path.write_text(access.model_dump_json())
        return path

    def as_(self, name: str) -> RemoteCoordinator:
        return RemoteCoordinator(self.folder / f"{name}.access.json")

    def entries(self, since: int = 0) -> list[tuple[str, object, object, object]]:
        found = self.federation.home.audit.entries(since)
        return [(e.kind, e.fields.get("by"), e.fields.get("stage"), e.fields.get("code")) for e in found]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    folder = tmp_path_factory.mktemp("control")
    federation = Federation(folder / "federation")
    (port,) = free_ports(1)
    file = federation.home.settings_file
    file.write_text(federation.home.settings.model_copy(update={"operators_port": port}).model_dump_json())
    server = ControlServer(federation.home, federation.store, logging.getLogger("test-control"))
    server.start()
    made = Control(federation, folder, server, port)
    for role in ROLES:
        made.give(role, role)
    federation.ready(heart_manifest(secure=True, training={"rounds": 2}))
    federation.run()
    try:
        yield made
    finally:
        server.stop(1.0)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", CALLS)
def test_a_role_may_call_what_is_listed_and_nothing_else(control: Control, role: Role, call: str) -> None:
    who = control.as_(role)
    method = pb.DESCRIPTOR.services_by_name["Coordinator"].methods_by_name[call]
    ask = who._whole if method.server_streaming else who._ask
    code = code_of(lambda: ask(getattr(who._stub, call), CALLS[call]))
    assert (code == "role-may-not") == (call not in MAY[role]), code
    who.close()


def test_every_call_of_the_service_is_somebody_s() -> None:
    methods = set(pb.DESCRIPTOR.services_by_name["Coordinator"].methods_by_name)
    assert methods == set(CALLS) == MAY["coordinator"]
    assert MAY["viewer"] < MAY["auditor"] < MAY["coordinator"]
    assert MAY["auditor"] == READS


def test_what_arrives_is_what_stands_in_the_record(control: Control) -> None:
    local, remote = LocalCoordinator(control.federation.home.path), control.as_("coordinator")
    assert remote.studies() == local.studies() != []
    study = local.status(local.studies()[0].study_id)
    assert remote.status(study.study_id) == study
    recent = remote.status(study.study_id, 1)
    assert recent == local.status(study.study_id, 1)
    assert {row.attempt for row in recent.statuses} == {len(study.attempts)} != {row.attempt for row in study.statuses}
    assert (recent.contributions(), recent.measured()) == (study.contributions(), study.measured())
    assert (recent.attempts, recent.not_releasable) == (study.attempts, study.not_releasable)
    assert remote.history(study.study_id) == local.history(study.study_id)
    assert remote.history(study.study_id).calibration
    assert remote.record(study.study_id) == local.record(study.study_id)
    assert remote.record(study.study_id).evidence
    assert study.model is not None
    assert remote.model(study.model) == local.model(study.model)
    assert remote.transcript(study.study_id) == local.transcript(study.study_id)
    assert study.metrics
    assert study.attempts[0].outcome == "committed"
    assert remote.sites() == local.sites() != []
    assert remote.alarms() == local.alarms() == []
    assert remote.serving()
    with pytest.raises(InputError) as here:
        local.status("no-such-study")
    with pytest.raises(InputError) as there:
        remote.status("no-such-study")
    assert there.value.as_json() == here.value.as_json()
    local.close()


def test_a_site_joins_and_is_revoked_from_another_machine(control: Control, tmp_path: Path) -> None:
    home, remote = SiteHome.create(tmp_path / "new", "newcomer", Budget(1.0, 1e-3)), control.as_("coordinator")
    since = control.federation.home.audit.size
    done = remote.enroll(make_request(home), confirmed=True)
    assert (done.what, done.kit.site) == ("joined", "newcomer")
    remote.revoke("newcomer", "a test")
    assert control.entries(since) == [
        ("called", "coordinator", "enroll", None), ("enrolled", None, None, None),
        ("called", "coordinator", "revoke", None), ("key-revoked", "coordinator", None, None),
    ]  # fmt: skip


def test_what_only_reads_is_logged_once_and_what_is_refused_too(control: Control) -> None:
    control.give("reader", "viewer")
    reader, since = control.as_("reader"), control.federation.home.audit.size
    for _ in range(20):
        reader.studies()
        assert code_of(lambda: reader.revoke("va", "")) == "role-may-not"
    assert control.entries(since) == [
        ("called", "reader", "studies", None), ("call-refused", "reader", "revoke", "role-may-not")
    ]  # fmt: skip


def test_who_is_removed_is_refused_on_an_open_connection(control: Control) -> None:
    control.give("leaver", "coordinator")
    leaver = control.as_("leaver")
    assert leaver.whoami().role == "coordinator"
    Operators(control.federation.home).remove("leaver", 1)
    assert code_of(leaver.whoami) == "operator-removed"
    assert code_of(lambda: control.as_("leaver").studies()) == "operator-removed"
    assert code_of(lambda: Operators(control.federation.home).remove("leaver", 1)) == "bad-input"


def test_a_certificate_that_has_expired_is_refused(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.give("late", "viewer")
    (late,) = [one for one in Operators(control.federation.home).all() if one.name == "late"]
    who = control.as_("late")
    monkeypatch.setattr(control_server.time, "time", lambda: late.expires_at)
    assert code_of(who.whoami) == "operator-expired"


def test_the_list_decides_and_not_the_certificate_alone(control: Control) -> None:
    """The operators' CA key alone, say of a backup, makes nobody an operator."""
    control.give("ghost", "coordinator")
    home = control.federation.home
    kept = home.operators_file.read_bytes()
    home.operators_file.write_bytes(kept.replace(b'"ghost"', b'"other"').replace(
        next(one.fingerprint for one in Operators(home).all() if one.name == "ghost").encode(), b"0" * 64))  # fmt: skip
    try:
        assert code_of(control.as_("ghost").whoami) == "operator-unknown"
        home.operators_file.write_bytes(b"{")
        assert code_of(control.as_("coordinator").whoami) == "bad-input"  # damaged: nobody is let in
    finally:
        home.operators_file.write_bytes(kept)


def test_a_role_must_stand_in_the_certificate_and_in_the_list(control: Control) -> None:
    control.give("climber", "viewer")
    home = control.federation.home
    kept = home.operators_file.read_text()
    listed = Operators(home).all()
    raised = [one.model_copy(update={"role": "coordinator"}) if one.name == "climber" else one for one in listed]
    home.operators_file.write_text(json.dumps({"format": 1, "operators": [one.model_dump() for one in raised]}))
    try:
        assert code_of(control.as_("climber").whoami) == "operator-unknown"
    finally:
        home.operators_file.write_text(kept)
    assert control.as_("climber").whoami().role == "viewer"


def channel(control: Control, access: Access, key: bytes | None) -> grpc.Channel:
    root = control.federation.home.operators_ca_file.read_bytes()
    pair = (key, access.certificate.encode()) if key else (None, None)
    return grpc.secure_channel(f"localhost:{control.port}", grpc.ssl_channel_credentials(root, *pair))


def test_without_a_certificate_or_with_a_hospital_s_there_is_no_connection(control: Control, tmp_path: Path) -> None:
    access, _ = load_access(control.folder / "viewer.access.json")
    site = next(iter(control.federation.sites.values()))
    of_a_site = access.model_copy(update={"certificate": site.certificate_file.read_text()})
    from cryptography.hazmat.primitives import serialization as pem

    private = pem.load_pem_private_key(site.key("tls.pem").read_bytes(), site.key_password)
    clear = private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    for who, key in ((access, None), (of_a_site, clear)):
        with channel(control, who, key) as wire, pytest.raises(grpc.RpcError) as caught:
            CoordinatorStub(wire).Whoami(pb.WhoamiRequest(), timeout=5)  # type: ignore[no-untyped-call]
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_call_without_a_deadline_is_refused(control: Control) -> None:
    who = control.as_("viewer")
    for timeout in (None, 1e6):
        with pytest.raises(grpc.RpcError) as caught:
            who._stub.Whoami(pb.WhoamiRequest(), timeout=timeout)
        assert caught.value.details() == "deadline-missing"


def test_health_is_told_to_operators_and_nothing_else_is_served(control: Control) -> None:
    who = control.as_("viewer")
    health = health_pb2_grpc.HealthStub(who._channel)
    asked = health_pb2.HealthCheckRequest(service="fedward.v1.Coordinator")
    assert health.Check(asked, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        list(health.Watch(asked, timeout=5))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    reflection = who._channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as caught:
        reflection(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_fault_of_the_coordinator_leaves_as_a_code(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ValueError("secret words")

    monkeypatch.setattr(LocalCoordinator, "studies", fail)
    who = control.as_("viewer")
    with pytest.raises(FedwardError) as caught:
        who.studies()
    assert caught.value.code == "internal-error"
    assert "secret" not in str(caught.value)


def test_what_cannot_be_logged_is_not_done(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedward.privacy.errors import UnreachableError
    from fedward.privacy.log import AuditLog

    def full(*_: object, **__: object) -> None:
        raise UnreachableError("full", code="audit-unwritable")

    site = next(iter(control.federation.sites))
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", full)
        assert code_of(lambda: control.as_("coordinator").revoke(site, "")) == "audit-unwritable"
    assert not next(row for row in control.federation.store.sites() if row.site == site).revoked


def test_an_alarm_is_cleared_by_who_calls(control: Control) -> None:
    who = control.as_("coordinator")
    assert code_of(lambda: who.clear_alarm("va", "somebody else", "x")) == "another-s-name"
    assert code_of(lambda: who.clear_alarm("va", "coordinator", "x")) == "bad-input"  # there is none


def test_a_coordinator_that_is_gone_is_told(control: Control, tmp_path: Path) -> None:
    access, _ = load_access(control.folder / "viewer.access.json")
    (port,) = free_ports(1)
    (tmp_path / "viewer.key").write_bytes((control.folder / "viewer.key").read_bytes())
    (tmp_path / "viewer.key").chmod(0o600)
    path = tmp_path / "viewer.access.json"
    path.write_text(access.model_copy(update={"port": port}).model_dump_json())
    gone = RemoteCoordinator(path)
    assert not gone.serving()
    assert code_of(gone.studies) == "coordinator-unreachable"


def test_requests_that_cannot_be_answered(control: Control, tmp_path: Path) -> None:
    operators, now = Operators(control.federation.home), datetime.now(UTC)
    assert code_of(lambda: operators.add(b"no request", "viewer", now)) == "bad-input"
    again = request_access("viewer", tmp_path).read_bytes()
    assert code_of(lambda: operators.add(again, "viewer", now)) == "usage"  # the name is taken
    assert code_of(lambda: request_access("viewer", tmp_path)) == "usage"  # and so is the key's file
    (tmp_path / "viewer.access.json").write_bytes((control.folder / "viewer.access.json").read_bytes())
    assert code_of(lambda: RemoteCoordinator(tmp_path / "viewer.access.json")) == "foreign-key"


def test_two_start_on_one_port_is_told(control: Control) -> None:
    second = ControlServer(control.federation.home, control.federation.store, logging.getLogger("second"))
    assert code_of(second.start) == "port-in-use"


def test_commands_work_from_another_machine(control: Control, tmp_path: Path) -> None:
    home = control.federation.home.path
    good("coordinator", "operator", "request", "anna", "--folder", tmp_path)
    made = good("coordinator", "operator", "add", tmp_path / "anna.csr", "--role", "auditor", "--home", home)
    assert made["access"] == str(tmp_path / "anna.access.json")
    access = tmp_path / "anna.access.json"
    assert good("coordinator", "whoami", "--home", access)["role"] == "auditor"
    there, here = (good("coordinator", "status", "--home", where) for where in (access, home))
    assert there["studies"] == here["studies"] != []
    assert there["serving"] is True
    assert good("coordinator", "sites", "--home", access) == good("coordinator", "sites", "--home", home)
    refused = fedward("coordinator", "stop", there["studies"][0]["study_id"], "--home", access)
    assert refused.code == 4
    assert "the role auditor may not do this" in refused.err
    listed = good("coordinator", "operator", "list", "--home", home)["operators"]
    assert ("anna", "auditor", 0) in [(one["name"], one["role"], one["removed_at"]) for one in listed]
    good("coordinator", "operator", "remove", "anna", "--home", home)
    assert fedward("coordinator", "whoami", "--home", access).code == 4
    assert fedward("coordinator", "whoami", "--home", home).code == 2


def test_calls_at_once_are_answered(control: Control) -> None:
    who, found = control.as_("viewer"), []
    threads = [threading.Thread(target=lambda: found.append(who.studies()[0].state)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == ["completed"] * 16


def test_the_service_serves_operators_while_it_runs(tmp_path: Path) -> None:
    fleet, superlink, port = free_ports(3)
    home = tmp_path / "coordinator"
    good("coordinator", "init", "Served", "--port", fleet, "--control-port", superlink, "--operators-port", port,
         "--home", home)  # fmt: skip
    good("coordinator", "operator", "request", "ops", "--folder", tmp_path)
    good("coordinator", "operator", "add", tmp_path / "ops.csr", "--role", "coordinator", "--home", home)
    access, said, stop = tmp_path / "ops.access.json", list[str](), threading.Event()
    site = SiteHome.create(tmp_path / "site", "site", Budget(1.0, 1e-3))
    service = threading.Thread(
        target=CoordinatorService(CoordinatorHome.open(home), stop, said.append).run, daemon=True
    )
    service.start()
    try:
        wait_for("operators are served", lambda: f"serving operators on 127.0.0.1:{port}" in said)
        request = good("site", "request", "--home", site.path)["request"]
        good("coordinator", "enroll", request, "--home", access)
        wait_for("the site may connect", lambda: 'site "site" may connect' in said)
        assert [row["site"] for row in good("coordinator", "sites", "--home", access)["sites"]] == ["site"]
        remote = RemoteCoordinator(access)
        study = remote.propose(
            heart_manifest(federation={"quorum": 1}, privacy={"secure_aggregation": False}), ("site",)
        )
        assert study.state == "draft"
        stopped = good("coordinator", "stop", study.study_id, "--home", access)
        assert stopped["study_id"] == study.study_id
    finally:
        stop.set()
        service.join(20)
    assert not remote.serving()
    assert [e.fields["by"] for e in CoordinatorHome.open(home).audit.entries() if e.kind == "stopped"] == ["ops"]
