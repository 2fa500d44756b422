"""The two doors to Flower, against a real SuperLink over real TLS on loopback.

This module is also the ServerApp of its own runs: `app` below is what the SuperLink starts.
"""

from __future__ import annotations

import array
import base64
import contextlib
import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flwr
import httpx
import pytest
from certificates import Authority, private_pem
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid, ServerApp

from fedward.client import flower as client_door
from fedward.client.flower import FleetAddress, FleetLoop, session
from fedward.client.flower import loop as client_loop
from fedward.privacy.errors import InputError, UnreachableError
from fedward.server import flower as server_door
from fedward.server.flower import GridTransport, SuperLinkService, control, forkserver, layers, listeners
from fedward.server.records import CredentialRow

pytestmark = pytest.mark.federation

HIDDEN = "patient 4711 has a secret"
MAX_BYTES = 10 * 2**20
OWN_PATH = os.pathsep.join(
    [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
)


# --- the ServerApp of these tests ---------------------------------------------------------------------------------

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the scenario that the run config names, and write down what came of it."""
    began = time.time()
    config = context.run_config
    nodes = [int(node) for node in str(config["nodes"]).split(",") if node]
    if config["scenario"] == "unexplained":
        result = unexplained(grid, nodes)
    else:
        result = SCENARIOS[str(config["scenario"])](GridTransport(grid, max_bytes=MAX_BYTES), nodes)
    out = Path(str(config["out"]))
    out.with_suffix(".part").write_text(json.dumps({"began": began, "pid": os.getpid(), **result}))
    out.with_suffix(".part").rename(out)
    if config["scenario"] == "linger":
        while True:
            time.sleep(0.1)


def exchange(transport: GridTransport, payloads: dict[int, bytes], timeout: float = 60.0) -> dict[int, Any]:
    """Send and wait for all; payload or failure by node."""
    waiting = transport.send_all(payloads)
    ends: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        for arrival in transport.poll(waiting):
            assert waiting.pop(arrival.message_id) == arrival.node_id
            ends[arrival.node_id] = arrival.failure if arrival.payload is None else arrival.payload
        time.sleep(0.02)
    return ends


def echo(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    """Exchange 1 000 and 1 000 000 floats with every node; then ten small messages, for the time they take."""
    result: dict[str, Any] = {}
    for count in (1_000, 1_000_000):
        payload = b"E" + array.array("d", [0.5]).tobytes() * count
        began = time.monotonic()
        ends = exchange(transport, dict.fromkeys(nodes, payload))
        result[str(count)] = {str(node): ends.get(node) == payload for node in nodes}
        result[f"seconds_{count}"] = time.monotonic() - began
    times = []
    for i in range(10):
        began = time.monotonic()
        exchange(transport, {node: b"E small %d %d" % (i, node) for node in nodes})
        times.append(time.monotonic() - began)
    result["small_ms"] = 1000 * statistics.median(times)
    return result


def trouble(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    """A good site, one whose handler raises, one that answers too much, one that left, one that never came."""
    payloads = dict(zip(nodes, [b"E fine", b"X raise", b"B too much", b"E gone", b"E never"], strict=True))
    ends = exchange(transport, payloads)
    return {str(node): end.decode() if isinstance(end, bytes) else end for node, end in ends.items()}


def lost(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    """The answer that carries one of two replies gets lost between the SuperLink and the ServerApp."""
    sent = transport.send_all({nodes[0]: b"E forgotten", nodes[1]: b"E kept"})
    forgotten = next(message for message, node in sent.items() if node == nodes[0])
    time.sleep(1)
    transport._client.PullMessages(PullAppMessagesRequest(message_ids=[forgotten]))
    ends: dict[str, Any] = {}
    while len(ends) < 2:
        for arrival in transport.poll(sent):
            ends[str(arrival.node_id)] = arrival.failure or "arrived"
        time.sleep(0.05)
    return ends


def linger(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    return {"parent": server_door.parent_alive()}


def raises(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    raise RuntimeError("this ServerApp fails")


def unexplained(grid: Grid, nodes: list[int]) -> dict[str, Any]:
    """An answer of 17 MiB to a request of a few bytes, though answers of any request may have 256 MiB."""
    ends = exchange(GridTransport(grid), {nodes[0]: b"L too much", nodes[1]: b"E fine"})
    return {str(node): end.decode() if isinstance(end, bytes) else end for node, end in ends.items()}


def taken(transport: GridTransport, nodes: list[int]) -> dict[str, Any]:
    """One message to each node, and how long it took until all had an end."""
    began = time.monotonic()
    ends = exchange(transport, dict.fromkeys(nodes, b"E taken"))
    seconds = time.monotonic() - began
    return {str(node): end.decode() if isinstance(end, bytes) else end for node, end in ends.items()} | {
        "seconds": seconds
    }


SCENARIOS = {"taken": taken, "echo": echo, "trouble": trouble, "lost": lost, "linger": linger, "raises": raises}


def handle(request: bytes) -> bytes:
    """The handler of every site."""
    if request.startswith(b"X"):
        raise ValueError(HIDDEN)
    if request.startswith(b"B"):
        return bytes(MAX_BYTES + 100_000)
    if request.startswith(b"L"):
        return bytes(17 * 2**20)
    return request


# --- certificates, sites, services --------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """A node in a thread of this process."""

    address: FleetAddress
    public_key: bytes
    reports: list[tuple[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self, session_file: Path | None = None) -> None:
        self.stop.clear()
        loop = FleetLoop(
            self.address,
            handle,
            report=lambda *said: self.reports.append(said),
            stop=self.stop,
            session_file=session_file,
        )
        self.thread = threading.Thread(target=loop.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        if self.thread is not None:
            self.thread.join(10)
            assert not self.thread.is_alive()

    def said(self, code: str) -> str | None:
        return next((text for told, text in self.reports if told == code), None)


class MemoryCredentials:
    """The coordinator's table of certificates, without a store."""

    def __init__(self) -> None:
        self.rows: dict[str, CredentialRow] = {}
        self.used: list[str] = []

    def add(self, site: str, certificate: Path, node_key: bytes) -> None:
        der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        fingerprint = hashlib.sha256(der).hexdigest()
        key = control.node_key(node_key).decode()
        self.rows[fingerprint] = CredentialRow(fingerprint, site, site, key, site, 0, 2**40)

    def find(self, fingerprint: str) -> CredentialRow | None:
        return self.rows.get(fingerprint)

    def connected(self, fingerprint: str) -> None:
        self.used.append(fingerprint)

    def refused(self, fingerprint: str, code: str) -> None:
        self.used.append(code)


@dataclass
class Workshop:
    """Makes the files, sites and services of one test module."""

    folder: Path

    def __post_init__(self) -> None:
        self.credentials = MemoryCredentials()
        self.ca = Authority(self.folder, "federation")
        self.certificate, self.key = self.ca.issue("coordinator")

    def service(self, ports: tuple[int, int], **changes: Any) -> SuperLinkService:
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "fleet_port": ports[0],
            "control_port": ports[1],
            "certificate": self.certificate,
            "key": self.key,
            "ca": self.ca.file,
            "credentials": self.credentials,
            "flwr_home": self.folder / "flwr-home",
            "component": "test_flower_door:app",
            "environment": {"PYTHONPATH": OWN_PATH},
            "log_file": self.folder / "flower.log",
        }
        return SuperLinkService(**{**settings, **changes})

    def site(self, name: str, port: int, *, issuer: Authority | None = None, ca: Path | None = None) -> Site:
        certificate, key = (issuer or self.ca).issue(name)
        node = ec.generate_private_key(ec.SECP384R1())
        node_key = self.folder / f"{name}.node"
        node_key.write_bytes(private_pem(node))
        public = node.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.credentials.add(name, certificate, public)
        return Site(FleetAddress("127.0.0.1", port, ca or self.ca.file, certificate, key, node_key), public)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class Federation:
    workshop: Workshop
    service: SuperLinkService
    fleet_port: int
    control_port: int
    sites: list[Site]
    nodes: list[int]

    def play(self, scenario: str, nodes: list[int], out: Path) -> dict[str, Any]:
        launched = time.time()
        config = {"scenario": scenario, "nodes": ",".join(map(str, nodes)), "out": str(out)}
        run_id = self.service.launch(config)
        assert until(lambda: self.service.run_finished(run_id)[0], 120)
        assert self.service.run_finished(run_id) == (True, "completed")
        result: dict[str, Any] = json.loads(out.read_text())
        return {**result, "launch_s": result["began"] - launched}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def federation(workshop: Workshop) -> Iterator[Federation]:
    ports = free_port(), free_port()
    service = workshop.service(ports)
    service.start()
    sites = [workshop.site(f"site-{i}", ports[0]) for i in range(4)]
    nodes = [service.register_node(site.public_key) for site in sites]
    for site in sites:
        site.start()
    assert until(lambda: service.online_nodes() == set(nodes))
    yield Federation(workshop, service, *ports, sites, nodes)
    for site in sites:
        site.end()
    service.stop()


def fleet_tls(workshop: Workshop, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(workshop.ca.file))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


# --- the tests ----------------------------------------------------------------------------------------------------


def test_payloads_of_1_000_and_1_000_000_floats_return_unchanged(federation: Federation, tmp_path: Path) -> None:
    result = federation.play("echo", federation.nodes, tmp_path / "echo.json")
    print("\nfigures", {k: v for k, v in result.items() if isinstance(v, float)})  # noqa: T201
    for count in ("1000", "1000000"):
        assert result[count] == {str(node): True for node in federation.nodes}


def test_every_failure_of_a_site_has_a_name_and_no_text_of_a_handler_leaves(
    federation: Federation, tmp_path: Path
) -> None:
    left = federation.workshop.site("left", federation.fleet_port)
    left_node = federation.service.register_node(left.public_key)
    left.start()
    assert until(lambda: left_node in federation.service.online_nodes())
    left.end()
    never = federation.service.register_node(federation.workshop.site("never", 1).public_key)
    nodes = [*federation.nodes[:3], left_node, never]
    out = tmp_path / "trouble.json"

    result = federation.play("trouble", nodes, out)

    assert [result[str(node)] for node in nodes] == [
        "E fine",
        "handler-failed",
        server_door.REPLY_TOO_LARGE,
        server_door.NODE_OFFLINE,
        server_door.NODE_UNKNOWN,
    ]
    assert HIDDEN not in out.read_text()
    assert HIDDEN not in (federation.workshop.folder / "flower.log").read_text()
    assert federation.sites[1].said(client_door.HANDLER_FAILED) == "ValueError"
    assert HIDDEN not in repr(federation.sites[1].reports)


def test_a_reply_that_its_request_does_not_explain_is_not_fetched(federation: Federation, tmp_path: Path) -> None:
    result = federation.play("unexplained", federation.nodes[:2], tmp_path / "unexplained.json")
    assert [result[str(node)] for node in federation.nodes[:2]] == [server_door.REPLY_TOO_LARGE, "E fine"]


def test_a_lost_reply_is_named_and_does_not_keep_the_others(federation: Federation, tmp_path: Path) -> None:
    result = federation.play("lost", federation.nodes[:2], tmp_path / "lost.json")
    assert [result[str(node)] for node in federation.nodes[:2]] == [server_door.MESSAGE_LOST, "arrived"]


def test_a_run_whose_serverapp_fails_is_finished_and_failed(federation: Federation, tmp_path: Path) -> None:
    run_id = federation.service.launch({"scenario": "raises", "nodes": "", "out": str(tmp_path / "none")})
    assert until(lambda: federation.service.run_finished(run_id)[0], 20)
    finished, status = federation.service.run_finished(run_id)
    assert finished
    assert status.startswith("failed")


def test_a_run_whose_process_is_killed_is_finished_at_once(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "linger.json"
    run_id = federation.service.launch({"scenario": "linger", "nodes": "", "out": str(out)})
    assert until(out.exists, 60)
    assert not federation.service.run_finished(run_id)[0]
    os.kill(json.loads(out.read_text())["pid"], signal.SIGKILL)
    assert until(lambda: federation.service.run_finished(run_id)[0], 5)


def linger_in(federation: Federation, out: Path) -> tuple[int, int]:
    """A run that goes on until it is stopped, and its process."""
    run_id = federation.service.launch({"scenario": "linger", "nodes": "", "out": str(out)})
    assert until(out.exists, 60)
    return run_id, int(json.loads(out.read_text())["pid"])


def test_every_run_is_a_fork_of_one_process_which_is_named_as_what_it_is(
    federation: Federation, tmp_path: Path
) -> None:
    runs = [linger_in(federation, tmp_path / f"{name}.json") for name in "ab"]
    server = federation.service._forks._process
    assert server is not None
    assert all(parent_of(pid) == server.pid for _, pid in runs)
    assert {Path(f"/proc/{pid}/comm").read_text().strip() for _, pid in runs} == {"serverapp"}
    shown = Path(f"/proc/{runs[0][1]}/cmdline").read_bytes() + Path(f"/proc/{runs[0][1]}/environ").read_bytes()
    assert str(federation.control_port).encode() not in shown  # orders, and so tokens, are read by nobody else
    for run_id, pid in runs:
        federation.service.stop_run(run_id)
        assert until(lambda pid=pid: not alive(pid), 1)
    assert server.poll() is None


def test_a_fork_server_that_is_killed_takes_no_run_with_it_and_is_replaced(
    federation: Federation, tmp_path: Path
) -> None:
    run_id, pid = linger_in(federation, tmp_path / "before.json")
    server = federation.service._forks._process
    assert server is not None
    server.kill()
    server.wait()
    assert alive(pid)
    assert not federation.service.run_finished(run_id)[0]
    after, following = linger_in(federation, tmp_path / "after.json")
    assert parent_of(following) not in {parent_of(pid), server.pid}
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: federation.service.run_finished(run_id)[0], 5)  # though nobody is left to say how it ended
    federation.service.stop_run(after)
    assert not alive(following)


def test_a_run_that_heeds_no_end_is_killed(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forkserver, "ORPHAN_S", -0.5)
    run_id, pid = linger_in(federation, tmp_path / "deaf.json")
    os.kill(pid, signal.SIGSTOP)
    app = federation.service._apps[run_id]
    federation.service.stop_run(run_id)
    assert not alive(pid)
    assert app.code == -signal.SIGKILL


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_registering_a_node_again_gives_the_same_identifier(federation: Federation) -> None:
    again = [federation.service.register_node(site.public_key) for site in federation.sites]
    assert again == federation.nodes


def test_a_certificate_of_another_ca_is_refused(federation: Federation) -> None:
    foreign = Authority(federation.workshop.folder, "foreign")
    site = federation.workshop.site("foreigner", federation.fleet_port, issuer=foreign)
    federation.service.register_node(site.public_key)
    site.start()
    assert until(lambda: site.said(client_door.CERTIFICATE_REFUSED) is not None), site.reports
    site.end()
    assert site.said(client_door.CONNECTED) is None


def test_a_coordinator_of_another_ca_is_not_trusted(federation: Federation) -> None:
    other = Authority(federation.workshop.folder, "other")
    site = federation.workshop.site("careful", federation.fleet_port, ca=other.file)
    site.start()
    assert until(lambda: site.said(client_door.SERVER_UNTRUSTED) is not None), site.reports
    site.end()


def converse(federation: Federation, certificate: tuple[Path, Path] | None, request: bytes) -> bytes:
    """What the hospitals' port answers to raw bytes; nothing, if it hangs up."""
    context = fleet_tls(federation.workshop, certificate)
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", federation.fleet_port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(request)
        return secured.recv(1000)
    return b""


def test_no_certificate_is_refused(federation: Federation) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert converse(federation, None, request) == b""
    assert b" 404 " in converse(federation, federation.workshop.ca.issue("any"), request)


def test_tls_1_2_is_refused(federation: Federation) -> None:
    context = fleet_tls(federation.workshop, federation.workshop.ca.issue("old"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        pytest.raises(ssl.SSLError),
        socket.create_connection(("127.0.0.1", federation.fleet_port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        pass


def test_an_unregistered_node_key_is_refused(federation: Federation) -> None:
    site = federation.workshop.site("stranger", federation.fleet_port)
    site.start()
    assert until(lambda: site.said(client_door.ACTIVATION_REFUSED) is not None), site.reports
    site.end()
    assert site.said(client_door.CONNECTED) is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/push-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/get-fab",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/pull-messages/",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
    ],
)
def test_hospitals_reach_nothing_but_the_fleet_calls(federation: Federation, path: str) -> None:
    context = fleet_tls(federation.workshop, federation.workshop.ca.issue("curious"))
    with httpx.Client(verify=context) as wire:
        url = f"https://127.0.0.1:{federation.fleet_port}{path}"
        assert wire.post(url, content=b"").status_code == 404
        assert wire.get(url).status_code == 404


def test_a_site_cannot_answer_for_another(federation: Federation) -> None:
    forged = PushMessagesRequest(
        node=Node(node_id=federation.nodes[0]),
        messages_list=[Message(metadata=Metadata(src_node_id=federation.nodes[1]))],
    )
    site = federation.sites[0]
    context = fleet_tls(federation.workshop, (site.address.certificate, site.address.key))
    pem = base64.b64encode(control.node_key(site.public_key)).decode()
    with httpx.Client(verify=context) as wire:
        url = f"https://127.0.0.1:{federation.fleet_port}/v1/fleet/push-messages"
        answer = wire.post(url, content=forged.SerializeToString(), headers={"flwr-public-key": pem})
    assert (answer.status_code, answer.headers["fedward-refusal"]) == (403, "foreign-node")


def _tree(parts: int, *, deep: bool) -> ObjectTree:
    names = [f"{number:064x}" for number in range(parts)]
    if not deep:
        return ObjectTree(object_id=names[0], children=[ObjectTree(object_id=name) for name in names[1:]])
    tree = ObjectTree(object_id=names[-1])
    for name in reversed(names[:-1]):
        tree = ObjectTree(object_id=name, children=[tree])
    return tree


@pytest.mark.parametrize(("trees", "answers"), [
    ([_tree(4, deep=False)], 1), ([_tree(4, deep=True)], 1), ([_tree(90, deep=True)], 1), ([_tree(700, deep=False)], 1),
    ([_tree(3, deep=True)] * 2, 1), ([_tree(3, deep=True)], 2),
])  # fmt: skip
def test_a_reply_that_announces_more_than_a_reply_is_refused_before_anything_is_kept(
    federation: Federation, trees: list[ObjectTree], answers: int
) -> None:
    """Flower would keep room for each part, of any size, until the run ends."""
    node = federation.nodes[0]
    flood = PushMessagesRequest(
        node=Node(node_id=node), messages_list=[Message(metadata=Metadata(src_node_id=node))] * answers,
        message_object_trees=trees,
    )  # fmt: skip
    site = federation.sites[0]
    context = fleet_tls(federation.workshop, (site.address.certificate, site.address.key))
    pem = base64.b64encode(control.node_key(site.public_key)).decode()
    with httpx.Client(verify=context) as wire:
        url = f"https://127.0.0.1:{federation.fleet_port}/v1/fleet/push-messages"
        answer = wire.post(url, content=flood.SerializeToString(), headers={"flwr-public-key": pem})
    assert (answer.status_code, answer.headers["fedward-refusal"]) == (403, "reply-crowded")


@pytest.mark.parametrize(("header", "status"), [("content-length: 1099511627776", 413), ("x: y", 411)])
def test_a_request_over_the_bound_is_refused_unread(federation: Federation, header: str, status: int) -> None:
    request = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n"
    answer = converse(federation, federation.workshop.ca.issue("large"), request.encode())
    assert f" {status} ".encode() in answer


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task"])
def test_the_loopback_port_starts_nothing_without_the_secret(federation: Federation, path: str) -> None:
    with httpx.Client(trust_env=False) as wire:
        assert wire.post(f"http://127.0.0.1:{federation.control_port}{path}", content=b"").status_code == 401


def test_a_port_in_use_is_named_with_its_remedy(federation: Federation) -> None:
    service = federation.workshop.service((federation.fleet_port, free_port()))
    with pytest.raises(UnreachableError, match=f"Port {federation.fleet_port} .*another port") as caught:
        service.start()
    assert caught.value.code == "port-in-use"
    service.stop()


def test_a_run_config_key_that_toml_would_split_is_refused(federation: Federation) -> None:
    with pytest.raises(InputError, match="bad key"):
        federation.service.launch({"a.b": "c"})


def test_a_node_key_of_another_kind_is_refused(workshop: Workshop) -> None:
    site = workshop.site("weak", 1)
    site.address.node_key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(InputError, match="P-384"):
        FleetLoop(site.address, handle, report=lambda *_: None, stop=threading.Event())


class FailingKeys:
    """Keys that cannot be noted as used, as on a full disk, a few times."""

    def __init__(self, address: FleetAddress, failures: int) -> None:
        self.address = address
        self.failures = failures

    def current(self) -> FleetAddress:
        return self.address

    def used(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "no patient's name belongs into a report")


def test_a_fault_of_the_node_itself_is_named_and_the_node_connects_anew(
    federation: Federation, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_loop, "_FAULT_PAUSE_S", 0.05)
    site = workshop.site("faulty", federation.fleet_port)
    node = federation.service.register_node(site.public_key)
    heard = iter([RuntimeError("in the middle of serving")])

    def contact() -> None:
        for error in heard:
            raise error

    loop = FleetLoop(
        site.address, handle, report=lambda *said: site.reports.append(said), stop=site.stop,
        keys=FailingKeys(site.address, 2), contact=contact,
    )  # fmt: skip
    site.thread = threading.Thread(target=loop.run, daemon=True)
    site.thread.start()
    try:
        assert until(lambda: sum(code == client_door.CONNECTED for code, _ in site.reports) == 2), site.reports
        assert until(lambda: node in federation.service.online_nodes())
    finally:
        site.end()
    faults = [text for code, text in site.reports if code == client_door.NODE_FAULT]
    assert faults == ["OSError; activating again"] * 2 + ["RuntimeError; activating again"]


def test_a_reply_that_cannot_leave_is_told_while_it_is_tried_and_when_it_has_left(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, site = listeners.FleetGuard.__call__, federation.sites[0]
    began: list[float] = []

    async def broken(guard: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/v1/fleet/push-messages" or time.monotonic() > (began or [time.monotonic()])[0] + 2:
            await serve(guard, scope, receive, send)
            return
        began[:] = began or [time.monotonic()]
        await listeners.answer(send, 500)

    site.reports.clear()
    with monkeypatch.context() as patch:
        patch.setattr(listeners.FleetGuard, "__call__", broken)
        result = federation.play("echo", federation.nodes[:1], tmp_path / "late.json")
    assert result["1000"] == {str(federation.nodes[0]): True}
    told = [(code, text) for code, text in site.reports if code != client_door.HANDLED]
    assert told == [
        (client_door.RETRYING, "HTTP 500"),
        (client_door.CONNECTED, f"node {federation.nodes[0]} again"),
    ]


def test_the_loop_outlives_errors_500_and_a_restart_that_loses_all_state(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_port(), free_port()
    first = workshop.service(ports)
    first.start()
    site = workshop.site("survivor", ports[0])
    node = first.register_node(site.public_key)
    monkeypatch.setattr(session, "_HEARTBEAT_PERIOD_S", 0.1)
    site.start()
    assert until(lambda: first.online_nodes() == {node})

    failed: set[str] = set()

    async def broken(guard: object, scope: Any, receive: Any, send: Any) -> None:
        failed.add(scope["path"])
        await listeners.answer(send, 500)

    with monkeypatch.context() as patch:
        patch.setattr(listeners.FleetGuard, "__call__", broken)
        assert until(lambda: {"/v1/fleet/pull-messages", "/v1/fleet/send-node-heartbeat"} <= failed)
    site.reports.clear()
    assert until(lambda: site.said(client_door.CONNECTED) == f"node {node} again"), site.reports

    first.stop()
    second = workshop.service(ports)
    second.start()
    site.reports.clear()
    again = second.register_node(site.public_key)
    assert again != node
    assert until(lambda: second.online_nodes() == {again}), site.reports
    site.end()
    assert second.online_nodes() == set()
    assert site.said(client_door.DISCONNECTED)
    second.stop()


def test_a_killed_coordinator_leaves_no_serverapp_behind(workshop: Workshop, tmp_path: Path) -> None:
    ports, out = (free_port(), free_port()), tmp_path / "orphan.json"
    code = "import sys, test_flower_door; test_flower_door.coordinate(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": OWN_PATH}
    arguments = [sys.executable, "-c", code, str(workshop.folder), *map(str, ports), str(out)]
    with subprocess.Popen(arguments, env=environment) as coordinator:
        assert until(out.exists, 30)
        result = json.loads(out.read_text())
        assert result["parent"] is True
        coordinator.kill()
        # Deliberately not reaped before the check: a zombie must count as dead.
        assert until(lambda: not alive(result["pid"]), 6)


def coordinate(folder: str, fleet_port: str, control_port: str, out: str) -> None:
    """A coordinator in a process of its own, for the test above."""
    own = Path(folder) / "orphan"
    own.mkdir()
    service = Workshop(own).service((int(fleet_port), int(control_port)))
    service.start()
    service.launch({"scenario": "linger", "nodes": "", "out": out})
    signal.pause()


def alive(pid: int) -> bool:
    """Whether a process runs; nobody may have reaped it yet."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.prove
def test_a_crashed_node_is_welcome_again_within_twenty_seconds(federation: Federation) -> None:
    site = federation.workshop.site("crashed", federation.fleet_port)
    federation.service.register_node(site.public_key)
    crashed = session.Session.activate(site.address, MAX_BYTES)
    crashed._send.close()  # gone without a word
    began = time.monotonic()
    site.start()
    assert until(lambda: site.said(client_door.CONNECTED) is not None, 25)
    assert site.said(client_door.ACTIVATION_REFUSED) is not None
    assert time.monotonic() - began < 2 * session.HEARTBEAT_S + 2
    site.end()


def test_a_killed_node_is_welcome_again_at_once_and_what_it_had_taken_is_no_mystery(
    federation: Federation, tmp_path: Path
) -> None:
    site = federation.workshop.site("killed", federation.fleet_port)
    node, file = federation.service.register_node(site.public_key), tmp_path / "session.json"
    died = _dies_with_a_message(federation, site, node, file, tmp_path / "taken.json")
    site.start(file)
    assert until(lambda: site.said(client_door.CONNECTED) is not None, 5)
    assert site.said(client_door.ACTIVATION_REFUSED) is None
    assert until((tmp_path / "taken.json").exists, 5)
    assert time.monotonic() - died < session.HEARTBEAT_S  # less than any session takes to lapse
    assert json.loads((tmp_path / "taken.json").read_text())[str(node)] == server_door.NODE_OFFLINE
    assert federation.play("taken", [node], tmp_path / "again.json")[str(node)] == "E taken"
    site.end()
    assert not file.exists()
    assert node not in federation.service.online_nodes()


def test_a_copy_of_a_home_does_not_end_the_session_of_the_node_that_it_was_copied_from(
    federation: Federation, tmp_path: Path
) -> None:
    site = federation.workshop.site("copied", federation.fleet_port)
    node = federation.service.register_node(site.public_key)
    (tmp_path / "home").mkdir()
    site.start(tmp_path / "home" / "session.json")
    assert until(lambda: node in federation.service.online_nodes())
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    copy = Site(site.address, site.public_key)
    copy.start(tmp_path / "copy" / "session.json")
    assert until(lambda: copy.said(client_door.ACTIVATION_REFUSED) is not None, 5)
    time.sleep(2.5)  # it asks every second
    assert copy.said(client_door.CONNECTED) is None
    assert [code for code, _ in site.reports] == [client_door.CONNECTED]
    assert federation.play("taken", [node], tmp_path / "still.json")[str(node)] == "E taken"
    copy.end()
    site.end()


def _dies_with_a_message(federation: Federation, site: Site, node: int, file: Path, out: Path) -> float:
    """Let the site's node be killed while it has taken a message of a run; when it was, by the monotonic clock."""
    files = {name: str(getattr(site.address, name)) for name in ("ca", "certificate", "key", "node_key")}
    asked = [sys.executable, str(Path(__file__).with_name("dying_node.py"))]
    asked += [json.dumps({"port": federation.fleet_port, "files": files}), str(file)]
    with subprocess.Popen(
        asked, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": OWN_PATH}
    ) as process:
        assert until(lambda: node in federation.service.online_nodes(), 30)
        federation.service.launch({"scenario": "taken", "nodes": str(node), "out": str(out)})
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        process.kill()
    assert not out.exists()
    return time.monotonic()


PRIVATE_NAMES = {
    "flwr.superlink.main": ["create_app"],
    "flwr.superlink.cli.flower_superlink": ["SuperLinkLifespan"],
    "flwr.superlink.config_loader": ["SuperLinkLifespanConfig", "load_control_authn_plugin"],
    "flwr.superlink.runtime": ["run_serverapp"],
    "flwr.supercore.control.control_http_client": ["ControlHttpClient"],
    "flwr.supercore.runtime": ["RuntimeHttpClient"],
    "flwr.supercore.interceptors": ["RuntimeTokenHttpInterceptor"],
    "flwr.supercore.constant": ["FLEET_HTTP_PUBLIC_KEY_HEADER", "FLWR_IN_MEMORY_DB_NAME", "NodeStatus", "TaskType"],
    "flwr.supercore.inflatable.inflatable_object": [
        "get_all_nested_objects",
        "get_object_tree",
        "iterate_object_tree",
        "no_object_id_recompute",
    ],
    "flwr.supercore.inflatable.inflatable_utils": ["inflate_object_from_contents"],
    "flwr.supercore.primitives.asymmetric": ["public_key_to_bytes"],
    "flwr.supernode.fleet_http_client": ["FleetHttpClient"],
    "flwr.supernode.node_auth_http_interceptor": ["NodeAuthHttpInterceptor"],
    "flwr.cli.build": ["build_fab_from_files"],
    "flwr.common.serde": ["message_from_proto", "message_to_proto", "user_config_to_proto"],
}


@pytest.mark.parametrize("module", PRIVATE_NAMES)
def test_flower_still_has_the_private_names_that_the_doors_use(module: str) -> None:
    loaded = importlib.import_module(module)
    missing = [name for name in PRIVATE_NAMES[module] if not hasattr(loaded, name)]
    assert not missing, f"flwr {flwr.__version__} has no {missing} in {module}: revise the doors"


def test_flower_is_the_release_that_the_doors_were_written_for() -> None:
    assert flwr.__version__.startswith("1.42."), "read both doors again before raising the pin of flwr"


def is_layer(value: object) -> bool:
    return isinstance(value, type) and value.__name__.endswith("Middleware")


def test_flower_still_behaves_as_the_doors_assume() -> None:
    constants = importlib.import_module("flwr.common.constant")
    assert constants.HEARTBEAT_MIN_INTERVAL <= session.HEARTBEAT_S
    assert constants.HEARTBEAT_PATIENCE == 2
    assert constants.SUPERLINK_NODE_ID == 1
    config = importlib.import_module("flwr.superlink.config_loader").SuperLinkLifespanConfig
    assert set(config.__dataclass_fields__) == {
        *("control_address", "health_server_address", "host", "port", "insecure", "certificates"),
        *("superexec_auth_secret", "authn_plugin", "event_log_plugin", "fleet_event_log_plugin", "enable_event_log"),
        *("artifact_provider", "enable_supernode_auth", "fleet_api_type", "fleet_api_address", "simulation"),
        *("ssl_ca_certfile", "ssl_certfile", "ssl_keyfile", "database", "isolation", "runtime_dependency_install"),
    }
    found = [
        layer.__name__ for layer in vars(importlib.import_module("flwr.superlink.main")).values() if is_layer(layer)
    ]
    assert set(found) > layers.IDLE_LAYERS
    assert "NodeAuthMiddleware" in found
    grid = importlib.import_module("flwr.superlink.grid").HttpGrid("127.0.0.1:1", insecure=True, token="token")  # noqa: S106
    assert (grid._addr, grid._token) == ("127.0.0.1:1", "token")
