"""Commands of the coordinator's own machine go through its running service, as the operator `local`; else they work on the home."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import fedward, good
from joining import free_ports
from loopback import wait_for

from fedward.cli.coordinator_home import open_coordinator
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError
from fedward.privacy.ledger import Budget
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome, ServiceFile
from fedward.server.operators import LOCAL, Operators
from fedward.server.service import CoordinatorService


def made(folder: Path) -> CoordinatorHome:
    port, superlink = free_ports(2)
    good("coordinator", "init", "Local", "--port", port, "--control-port", superlink, "--home", folder)
    return CoordinatorHome.open(folder)


class Running:
    """A home's real service in a thread of this process."""

    def __init__(self, home: CoordinatorHome) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=CoordinatorService(home, self._stop, lambda _: None).run, daemon=True)
        self._thread.start()
        wait_for("the service runs", lambda: (found := home.service()) and found.pid == os.getpid(), 120)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorHome]:
    """A home whose service runs. It has no port for operators."""
    opened = made(tmp_path_factory.mktemp("local") / "home")
    running = Running(opened)
    try:
        yield opened
    finally:
        running.end()


def code_of(error: pytest.ExceptionInfo[FedwardError]) -> str:
    return error.value.code


def test_a_command_asks_the_running_service(
    home: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one that changes or reads studies, sites and alarms: the home's store is opened by the service alone."""
    site = SiteHome.create(tmp_path / "site", "elsewhere", Budget(1.0, 1e-3))
    request = good("site", "request", "--home", site.path)["request"]
    monkeypatch.setattr(CoordinatorHome, "open_store", lambda *_, **__: pytest.fail("a command opened the store"))
    since = home.audit.size
    good("coordinator", "enroll", request, "--home", home.path)
    assert [one["site"] for one in good("coordinator", "sites", "--home", home.path)["sites"]] == ["elsewhere"]
    assert good("coordinator", "status", "--home", home.path)["serving"] is True
    good("coordinator", "revoke", "elsewhere", "--reason", "a test", "--home", home.path)
    assert good("coordinator", "whoami", "--home", home.path)["name"] == LOCAL
    for command in (("stop",), ("launch",), ("explain",), ("answers",), ("clone", "--out", tmp_path / "x"),
                    ("export", "--out", tmp_path / "y"), ("transcript", "--out", tmp_path / "z"), ("compare", "none")):  # fmt: skip
        assert fedward("coordinator", *command, "none", "--home", home.path).code == 3
    told = [(e.kind, e.fields.get("by"), e.fields.get("stage")) for e in home.audit.entries(since)]
    assert ("called", LOCAL, "enroll") in told
    assert ("called", LOCAL, "revoke") in told
    assert ("key-revoked", LOCAL, None) in told


def test_an_alarm_is_cleared_by_a_named_person_at_the_machine(home: CoordinatorHome) -> None:
    store = home.open_store()
    store.raise_alarm("elsewhere", "its ledger went back", 1)
    store.close()
    (alarm,) = good("coordinator", "status", "--home", home.path)["alarms"]
    assert alarm["site"] == "elsewhere"
    good("coordinator", "clear-alarm", "elsewhere", "--by", "Dr. Weiß", "--reason", "seen", "--home", home.path)
    (cleared,) = [e for e in home.audit.entries() if e.kind == "alarm-cleared"]
    assert cleared.fields["by"] == "Dr. Weiß"


def test_the_service_answers_on_loopback_alone_and_over_tls_1_3(home: CoordinatorHome) -> None:
    """TLS 1.3 is what our own clients get; gRPC's Python server cannot be told to refuse 1.2."""
    service = home.service()
    assert service is not None
    assert service.control is not None
    lines = (line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:])
    heard = {
        line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[1].endswith(f":{service.control:04X}")
    }
    assert heard <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, as such and mapped into IPv6
    assert heard
    context = ssl.create_default_context(cadata=home.operators_ca_file.read_text())
    context.load_cert_chain(home.local_certificate_file, home.key("local-operator.pem"))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", service.control), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wire,
    ):
        assert wire.version() == "TLSv1.3"


def test_the_local_operator_is_made_at_init_with_a_secret_key(tmp_path: Path) -> None:
    home = made(tmp_path / "home")
    key = home.key("local-operator.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    (listed,) = Operators(home).all()
    assert (listed.name, listed.role, listed.removed_at) == (LOCAL, "coordinator", 0)
    assert "commands of this machine" in fedward("coordinator", "operator", "list", "--home", home.path).out


def test_a_key_that_others_may_read_is_refused(home: CoordinatorHome) -> None:
    key = home.key("local-operator.pem")
    key.chmod(0o644)
    try:
        ran = fedward("coordinator", "status", "--home", home.path)
        assert ran.code == 5
        assert "may be read by others" in ran.err
    finally:
        key.chmod(0o600)


def test_the_local_operator_s_certificate_is_renewed_and_the_old_one_ends(tmp_path: Path) -> None:
    home, now = made(tmp_path / "home"), datetime.now(UTC)
    operators = Operators(home)
    before = home.local_certificate_file.read_bytes()
    operators.settle_local(now + timedelta(days=300))
    assert home.local_certificate_file.read_bytes() == before
    operators.settle_local(now + timedelta(days=350))
    assert home.local_certificate_file.read_bytes() != before
    old, new = operators.all()
    assert (bool(old.removed_at), bool(new.removed_at)) == (True, False)
    home.key("local-operator.pem").unlink()  # a crash left a certificate without its key
    operators.settle_local(now + timedelta(days=350))
    assert [bool(one.removed_at) for one in operators.all()] == [True, True, False]


def test_nobody_else_gets_the_local_operator_s_name(tmp_path: Path) -> None:
    home = made(tmp_path / "home")
    home.settings_file.write_text(home.settings.model_copy(update={"operators_port": 9445}).model_dump_json())
    good("coordinator", "operator", "request", LOCAL, "--folder", tmp_path)
    asked = fedward("coordinator", "operator", "add", tmp_path / "local.csr", "--role", "viewer", "--home", home.path)
    assert asked.code == 3
    assert fedward("coordinator", "operator", "remove", LOCAL, "--home", home.path).code == 2
    assert len(Operators(home).all()) == 1


def test_a_home_from_before_gets_its_local_operator_at_the_next_start(tmp_path: Path) -> None:
    home = made(tmp_path / "home")
    for path in (home.operators_file, home.operators_ca_file, home.local_certificate_file,
                 home.key("local-operator.pem"), home.key("operators-ca.pem")):  # fmt: skip
        path.unlink()
    home.service_file.write_text(ServiceFile(pid=1, started_at=0, control=1).model_dump_json())  # of one that died
    running = Running(home)
    try:
        assert isinstance(open_coordinator(home.path), RemoteCoordinator)
        assert good("coordinator", "status", "--home", home.path)["serving"] is True
    finally:
        running.end()
    assert isinstance(open_coordinator(home.path), LocalCoordinator)  # nobody is there to ask
    assert good("coordinator", "status", "--home", home.path)["serving"] is False


def test_a_service_that_does_not_answer_is_told_and_not_gone_around(tmp_path: Path) -> None:
    home = made(tmp_path / "home")
    (port,) = free_ports(1)
    with home.serving():
        home.service_file.write_text(ServiceFile(pid=1, started_at=0, control=port).model_dump_json())
        with pytest.raises(FedwardError) as caught:
            open_coordinator(home.path).studies()
    assert code_of(caught) == "coordinator-unreachable"
