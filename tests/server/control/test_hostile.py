"""What somebody may try against the control plane, with access and without, and what its commands write and print."""

from __future__ import annotations

import logging
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from command import fedward
from joining import free_ports

from fedward.cli.output import console, say
from fedward.privacy.errors import FedwardError
from fedward.server.authority import Authority
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control import server as control_server
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.control.roles import Role
from fedward.server.control.server import ControlServer
from fedward.server.home import CoordinatorHome
from fedward.server.operators import Operators, operators_authority
from fedward.server.store import Store
from fedward.study.access import load_access, request_access

SERVICE = "/fedward.v1.Coordinator"


@dataclass
class Served:
    """A coordinator without hospitals, whose record is served."""

    home: CoordinatorHome
    folder: Path

    def give(self, name: str, role: Role) -> RemoteCoordinator:
        access = Operators(self.home).add(request_access(name, self.folder).read_bytes(), role, datetime.now(UTC))
        path = self.folder / f"{name}.access.json"
        path.write_text(access.model_dump_json())
        return RemoteCoordinator(path)


def made_home(folder: Path) -> CoordinatorHome:
    port, fleet, superlink = free_ports(3)
    return CoordinatorHome.create(
        folder, name="Hostile", host="localhost", bind="127.0.0.1", port=fleet, control_port=superlink,
        now=datetime.now(UTC), operators_port=port,
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    home = made_home(folder / "home")
    store = Store.open(home.store_file)
    server = ControlServer(home, store, logging.getLogger("test-hostile"))
    server.start()
    yield Served(home, folder)
    server.stop(0.2)
    store.close()


def error_of(call: Callable[[], object]) -> FedwardError:
    with pytest.raises(FedwardError) as caught:
        call()
    return caught.value


class Held:
    """Calls whose message never comes."""

    def __init__(self, who: RemoteCoordinator, number: int, seconds: float | None) -> None:
        self._end = threading.Event()
        begin = who._channel.stream_unary(f"{SERVICE}/Whoami")
        self.calls = [begin.future(self._never(), timeout=seconds) for _ in range(number)]

    def _never(self) -> Iterator[bytes]:
        self._end.wait(20)
        yield from ()

    def end(self) -> None:
        self._end.set()
        for call in self.calls:
            call.cancel()


def test_who_holds_calls_open_does_not_keep_others_out(served: Served) -> None:
    slow, other = served.give("slow", "viewer"), served.give("other", "viewer")
    held = Held(slow, 24, 15)
    try:
        time.sleep(0.3)
        assert other._stub.Whoami(pb.WhoamiRequest(), timeout=4).name == "other"
        codes = [call.code() for call in held.calls if call.done()]
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 8  # beyond 16 of one certificate
    finally:
        held.end()


def test_a_connection_that_says_nothing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_HANDSHAKE_MS", 300)
    home = made_home(tmp_path / "home")
    store = Store.open(home.store_file)
    server = ControlServer(home, store, logging.getLogger("test-silent"))
    with socket.create_connection(("127.0.0.1", server.start()), 5) as silent:
        silent.settimeout(5)
        ended = silent.recv(1)  # TimeoutError, if it is kept
    assert ended == b""
    server.stop(0.1)
    store.close()


@pytest.mark.parametrize("why", ["removed", "no-deadline"])
def test_who_may_not_call_holds_nothing(served: Served, why: str) -> None:
    who = served.give(f"gone-{why}", "coordinator")
    if why == "removed":
        Operators(served.home).remove("gone-removed", 1)
    held = Held(who, 4, 15 if why == "removed" else None)
    try:
        assert {call.exception(timeout=4).details() for call in held.calls} == {
            "operator-removed" if why == "removed" else "deadline-missing"
        }
    finally:
        held.end()


def test_bytes_that_are_no_message_are_refused_as_everything_else(served: Served) -> None:
    viewer = served.give("garbage", "viewer")
    for call, code in (("Status", "bad-input"), ("Revoke", "role-may-not")):
        with pytest.raises(grpc.RpcError) as caught:
            viewer._channel.unary_unary(f"{SERVICE}/{call}")(b"\xff\xff\xff", timeout=4)
        assert caught.value.details() == code


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\0", "\u202eback", "x" * 501])
def test_a_text_is_one_short_line(served: Served, text: str) -> None:
    who = RemoteCoordinator(served.folder / "writer.access.json") if (served.folder / "writer.key").exists() else None
    who = who or served.give("writer", "coordinator")
    for call in (
        lambda: who.revoke("va", text), lambda: who.revoke(text, ""), lambda: who.status(text),
        lambda: who.clear_alarm("va", "writer", text),
    ):  # fmt: skip
        error = error_of(call)
        assert error.code == "bad-input"
        assert "one line" in str(error.expected)
        assert text not in error.text()


def test_an_alarm_is_not_cleared_without_a_reason(served: Served) -> None:
    who = served.give("careless", "coordinator")
    assert error_of(lambda: who.clear_alarm("va", "careless", " ")).code == "usage"


def test_a_long_error_arrives(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def long(*_: object) -> None:
        raise FedwardError("w" * 50_000, expected="e" * 50_000, code="long")

    monkeypatch.setattr(Store, "studies", long)
    assert error_of(served.give("reader", "viewer").studies).code == "long"


def test_two_that_make_the_operators_authority_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, create = made_home(tmp_path / "home"), Authority.create

    def slowly(name: str, now: datetime) -> Authority:
        made = create(name, now)
        time.sleep(0.2)
        return made

    monkeypatch.setattr(Authority, "create", slowly)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(operators_authority(home, datetime.now(UTC)))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({authority.pem() for authority in found}) == 1
    assert len(found) == 2


def test_a_request_with_a_damaged_name(served: Served, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_csr(request_access("damaged", tmp_path).read_bytes()).public_bytes(Encoding.DER)
    import base64

    pem = base64.encodebytes(der.replace(b"damaged", b"\xff\xfeamage")).decode()
    changed = f"-----BEGIN CERTIFICATE REQUEST-----\n{pem}-----END CERTIFICATE REQUEST-----\n".encode()
    error = error_of(lambda: Operators(served.home).add(changed, "viewer", datetime.now(UTC)))
    assert error.code == "bad-input"


@pytest.mark.parametrize("name", ["../up", "Anna", "a" * 65, "", "a\n", "Über"])
def test_a_name_that_no_coordinator_takes_makes_no_key(tmp_path: Path, name: str) -> None:
    assert error_of(lambda: request_access(name, tmp_path / "in")).code == "bad-input"
    assert not list(tmp_path.rglob("*.key"))


def test_a_request_leaves_the_folder_s_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    request_access("anna", tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "anna.key").stat().st_mode) == 0o600


def test_a_key_given_for_an_access_file_is_not_printed(tmp_path: Path) -> None:
    request_access("anna", tmp_path)
    secret = (tmp_path / "anna.key").read_text().splitlines()[1]
    ran = fedward("coordinator", "whoami", "--home", tmp_path / "anna.key")
    assert ran.code == 3
    assert secret[:16] not in ran.out + ran.err


def test_an_access_file_without_its_key(served: Served, tmp_path: Path) -> None:
    served.give("apart", "viewer")
    alone = tmp_path / "apart.access.json"
    alone.write_bytes((served.folder / "apart.access.json").read_bytes())
    assert "beside" in str(error_of(lambda: load_access(alone)).remedy)


@pytest.mark.parametrize("command", [("start",), ("service",), ("operator", "list"), ("init", "Name")])
def test_commands_that_need_the_folder_say_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "anna.access.json"
    file.write_text("{}")
    ran = fedward("coordinator", *command, "--home", file)
    assert ran.code in {2, 3}
    assert "the file" in ran.err


def test_operators_can_be_imported_first() -> None:
    """`operator list` and `remove` begin with it, in a process of their own."""
    ran = subprocess.run([sys.executable, "-c", "import fedward.server.operators"], check=False, capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_what_is_said_does_not_steer_a_terminal() -> None:
    with console.capture() as taken:
        say("a\x1b]0;x\x07\x9b2J\u202eb\nc")
    assert taken.get() == "a\\x1b]0;x\\x07\\x9b2J\\u202eb\nc\n"
