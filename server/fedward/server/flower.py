"""The coordinator's door to Flower 1.42: the SuperLink, its two listeners, its runs and its messages.

The rest of the server sees bytes, node identifiers and run identifiers. Three things live here:

`SuperLinkService` runs the SuperLink inside the coordinator's process, behind two listeners:

1. Hospitals reach `/v1/fleet/…` over TLS 1.3 with a client certificate of the federation's CA, and of that only the
   eight calls of `_FLEET_CALLS`: no FAB, no registration, nothing else. A site speaks for itself only: a message whose
   sender is not the authenticated node is refused, which Flower does not check.
2. The loopback port serves the whole application. Flower's control API has no authentication in its open edition, so
   this door asks for a secret that never leaves the process: no other user of the machine can start or stop a run.
3. A poll that would bring nothing is held open until there is news (`_Doorbell`): sites learn of a round at once, and
   an idle federation costs next to nothing.
4. The database is in memory: our store and journal are the record, and nodes are registered again at every start.

`serve_app` is the ServerApp's process. The service starts it itself, in the part that Flower calls SuperExec, so that
it is this interpreter, ready before the launch, without proxies, and so that it dies with the coordinator: the process
reads its token from a pipe and ends when the pipe's other end is gone, however the coordinator died.

`GridTransport` carries payloads between the ServerApp and the sites.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import logging
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, Final, TypeVar

# Flower reads these when it is imported: a hospital network gets no telemetry and no update check.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, Status
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest, PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import ServerApp
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLWR_IN_MEMORY_DB_NAME, NodeStatus, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient

from fedward.privacy.errors import FedwardError, InputError, UnreachableError

__all__ = ["Arrival", "GridTransport", "ServerApp", "SuperLinkService", "parent_alive", "quiet_flower", "serve_app"]

RECORD: Final = "fedward"
FIELD: Final = "payload"
MESSAGE_TYPE: Final = "query.fedward"

NODE_OFFLINE: Final = "node-offline"
NODE_UNKNOWN: Final = "node-unknown"
MESSAGE_LOST: Final = "message-lost"
REPLY_LOST: Final = "reply-lost"
REPLY_INCOMPLETE: Final = "reply-incomplete"
REPLY_MALFORMED: Final = "reply-malformed"
REPLY_TOO_LARGE: Final = "reply-too-large"
SITE_ERROR: Final = "site-error"
# What a site's own loop may say; any other text of a site is not repeated.
_SITE_CODES: Final = frozenset({"handler-failed", "request-malformed"})
_FLOWER_CODES: Final = {
    ErrorCode.MESSAGE_UNAVAILABLE: MESSAGE_LOST,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: REPLY_LOST,
    ErrorCode.NODE_UNAVAILABLE: NODE_OFFLINE,
}

LOOPBACK: Final = "127.0.0.1"
_FLEET: Final = "/v1/fleet/"
_PULL: Final = _FLEET + "pull-messages"
_PUSH: Final = _FLEET + "push-messages"
_FLEET_CALLS: Final = frozenset(
    {
        _FLEET + "activate-node",
        _FLEET + "deactivate-node",
        _FLEET + "send-node-heartbeat",
        _FLEET + "confirm-message-received",
        _FLEET + "pull-object",
        _FLEET + "push-object",
        _PULL,
        _PUSH,
    }
)
_NEWS: Final = "/fedward/news"
# Layers around every request that do nothing without Flower's enterprise edition: a fifth of a request's time.
_IDLE: Final = frozenset(
    {
        "ControlSensitiveResponseMiddleware",
        "ControlLicenseMiddleware",
        "ControlEventLogMiddleware",
        "FleetEventLogMiddleware",
    }
)
_DOOR_HEADER: Final = "fedward-door"
_START_S: Final = 30.0
_STOP_S: Final = 5.0
_ORPHAN_S: Final = 3.0
_HELD_NODES: Final = 4096
# A reply is a message, its record dictionary and its one record.
_OBJECTS_PER_REPLY: Final = 3
_REPLY_UPLOAD_S: Final = 120.0
# The HTTP response around an object is a little larger than the object.
_ENVELOPE_BYTES: Final = 64 * 1024

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Asgi = Callable[[_Scope, _Receive, _Send], Awaitable[None]]
_T = TypeVar("_T")


class SuperLinkService:
    """The SuperLink of one coordinator: two listeners, the nodes' keys, and the runs.

    Nodes and runs are handled over the loopback listener with Flower's own protobuf clients, as `flwr run` and
    `flwr supernode register` do: it is the one path that Flower versions and tests, it costs some milliseconds, and
    it may be called from any thread. Those clients print nothing.
    """

    def __init__(
        self,
        *,
        host: str,
        fleet_port: int,
        control_port: int,
        certificate: Path,
        key: Path,
        ca: Path,
        flwr_home: Path,
        component: str = "fedward.server.app:app",
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        log_level: str = "WARNING",
        max_bytes: int = 256 * 2**20,
        hold_s: float = 2.0,
    ) -> None:
        """Hospitals connect to `host`:`fleet_port`; `certificate`, `key` and `ca` are PEM files.

        `component` is the ServerApp as `module:attribute` of an installed package. `environment` is added to the
        ServerApp's. Flower logs to `log_file`, or nowhere. A site's request may have `max_bytes`; a poll is held for
        `hold_s` seconds.
        """
        self._host = host
        self._fleet_port = fleet_port
        self._control_port = control_port
        self._tls = (certificate, key, ca)
        self._home = flwr_home
        self._component = component
        self._environment = dict(environment or {})
        self._log_file = log_file
        self._log_level = log_level
        self._max_bytes = max_bytes
        self._doorbell = _Doorbell(hold_s)
        self._secret = secrets.token_hex(32)
        address = f"{LOOPBACK}:{control_port}"
        send = _DirectSend(max_bytes, {_DOOR_HEADER: self._secret})
        self._address = address
        self._control = _flower_client(_control_client(), address, [send])
        self._runtime = _flower_client(RuntimeHttpClient, address, [send])
        self._servers: list[Any] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._nodes: dict[bytes, int] = {}
        self._apps: dict[int, subprocess.Popen[bytes]] = {}
        self._spare: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start both listeners in a background thread; they accept connections when this returns.

        Raises:
            UnreachableError: a port is in use or may not be opened.
            InputError: the TLS files cannot be used.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        os.environ["FLWR_HOME"] = str(self._home)
        quiet_flower(self._log_file, self._log_level)
        # Opened here, so that a port in use is an answer to the caller and not a line in a thread's log.
        sockets = _listen([(LOOPBACK, self._control_port), (self._host, self._fleet_port)])
        try:
            self._servers = self._make_servers()
        except BaseException:
            _close(sockets)
            raise
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(sockets, ready), name="fedward-superlink", daemon=True)
        self._thread.start()
        if not ready.wait(_START_S) or self._failure is not None:
            self.stop()
            raise UnreachableError(
                "The SuperLink did not start",
                got=type(self._failure).__name__ if self._failure else f"no answer within {_START_S:.0f} s",
                remedy="look into Flower's log file",
            ) from self._failure
        self._spare = self._spawn()

    def stop(self) -> None:
        """End the runs, then the listeners. May be called twice."""
        with self._lock:
            apps = [*self._apps.values(), *([self._spare] if self._spare else [])]
            self._spare = None
        for app in apps:
            _end(app)
        for server in self._servers:
            server.should_exit = True
        self._doorbell.close()
        if self._thread is not None:
            self._thread.join(_STOP_S)
            self._thread = None

    def register_node(self, public_key: bytes) -> int:
        """Let the node with this public key (PEM or OpenSSH) connect; its identifier. Safe to repeat.

        Raises:
            InputError: the key is not an EC P-384 public key.
            UnreachableError: the SuperLink does not run.
        """
        pem = _public_key(public_key)
        with self._lock:
            if pem not in self._nodes:
                proto = _control_protocol()
                response = self._ask(lambda: self._control.RegisterNode(proto.RegisterNodeRequest(public_key=pem)))
                self._nodes[pem] = int(response.node_id)
            return self._nodes[pem]

    def online_nodes(self) -> set[int]:
        """The nodes that Flower counts as online: it notices a dead one within 20 s."""
        nodes = self._ask(lambda: self._control.ListNodes(_control_protocol().ListNodesRequest())).nodes_info
        return {int(node.node_id) for node in nodes if node.status == NodeStatus.ONLINE}

    def launch(self, config: Mapping[str, str]) -> int:
        """Start a run whose ServerApp gets `config` as its run config; the run's identifier.

        The FAB is a `pyproject.toml` and a licence: the ServerApp is code that is installed here, and no other. It
        runs in a process that was started with the service, or in a new one.

        Raises:
            InputError: a key of `config` is not made of lower-case letters, digits, `-` and `_`.
            UnreachableError: the SuperLink does not run.
        """
        proto = _control_protocol()
        request = proto.StartRunRequest(override_config=_override(config))
        request.fab.content = _fab(self._component, sorted(config))
        with self._lock:
            run_id = int(self._ask(lambda: self._control.StartRun(request)).run_id)
            app, self._spare = self._spare, None
            if app is None or app.poll() is not None:
                app = self._spawn()
            _order(app, {"address": self._address, "token": self._claim(run_id)})
            self._apps[run_id] = app
        return run_id

    def run_finished(self, run_id: int) -> tuple[bool, str]:
        """Whether the run is over, and its status: "running", "completed", "stopped" or "failed: why".

        Raises:
            UnreachableError: the SuperLink does not know the run (it restarted) or does not run.
        """
        request = _control_protocol().ListRunsRequest(run_id=run_id)
        status = self._ask(lambda: self._control.ListRuns(request)).run_dict[run_id].status
        if status.status == Status.FINISHED:
            self._forget(run_id)
            return True, f"{status.sub_status}: {status.details}" if status.details else str(status.sub_status)
        app = self._apps.get(run_id)
        exit_code = app.poll() if app else None
        if exit_code is None:
            return False, str(status.status)
        # Flower would notice only when the task's heartbeats lapse, a minute from now.
        self.stop_run(run_id)
        return True, f"failed: the ServerApp's process ended with code {exit_code}"

    def stop_run(self, run_id: int) -> None:
        """End a run and its process; nothing happens if it is over."""
        with contextlib.suppress(FedwardError):
            self._ask(lambda: self._control.StopRun(_control_protocol().StopRunRequest(run_id=run_id)))
        self._forget(run_id)

    def _forget(self, run_id: int) -> None:
        """Let the process of a run that is over end, and clear it away."""
        with self._lock:
            app = self._apps.pop(run_id, None)
        if app is None:
            return
        _end(app)
        with self._lock:
            if self._spare is None and self._thread is not None:
                self._spare = self._spawn()

    def _claim(self, run_id: int) -> str:
        """The token that makes its holder the ServerApp of the run: what Flower's SuperExec polls for."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        response = self._ask(lambda: self._runtime.AcquireTask(request))
        if response.task.run_id != run_id:
            raise UnreachableError("Flower offered another run than the one that was just started")
        return str(response.token)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """A process that has imported everything and waits for its orders."""
        command = "from fedward.server.flower import serve_app; serve_app()"
        with open(self._log_file or os.devnull, "ab") as log:  # noqa: PTH123 - os.devnull is no path of ours
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", command, self._component.partition(":")[0], self._log_level],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_app_environment(self._home, self._environment),
                # A Ctrl-C in the coordinator's terminal is the coordinator's to handle.
                start_new_session=True,
            )

    def _ask(self, call: Callable[[], Any]) -> Any:
        """One call to the SuperLink, with its failures as ours."""
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise UnreachableError("The SuperLink refused", got=f"HTTP {error.response.status_code}") from error
        except httpx.TransportError as error:
            raise UnreachableError("The SuperLink does not answer", remedy="start the coordinator again") from error

    def _make_servers(self) -> list[Any]:
        """The loopback server and the hospitals' server, over one SuperLink application."""
        uvicorn = importlib.import_module("uvicorn")
        superlink = _superlink_application(self._control_port)
        # Sites keep a connection for as long as they poll; a server that drops it in between costs a failed request.
        common = {"log_config": None, "access_log": False, "timeout_keep_alive": 75, "timeout_graceful_shutdown": 1}
        local = uvicorn.Config(_local_only(superlink, self._secret, self._doorbell), **common)
        guard = _FleetGuard(superlink, self._doorbell, self._max_bytes)
        certificate, key, ca = self._tls
        fleet = uvicorn.Config(
            guard,
            lifespan="off",  # the loopback server owns the application's
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            ssl_ca_certs=str(ca),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            server_header=False,
            **common,
        )
        try:
            fleet.load()
        except (OSError, ValueError) as error:
            raise InputError(
                "The coordinator's TLS files cannot be used",
                expected=f"PEM files {certificate}, its key {key} and {ca}",
                got=type(error).__name__,
                remedy="issue the coordinator's certificate again, or correct the paths",
            ) from error
        fleet.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        return [uvicorn.Server(local), uvicorn.Server(fleet)]

    def _run(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        """The background thread: both servers in one event loop."""
        try:
            asyncio.run(self._serve(sockets, ready))
        except BaseException as error:  # noqa: BLE001 - handed to start()
            self._failure = error
        finally:
            ready.set()
            _close(sockets)

    async def _serve(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        self._doorbell.open()
        tasks = [
            asyncio.create_task(server.serve(sockets=[opened]))
            for server, opened in zip(self._servers, sockets, strict=True)
        ]
        while not all(server.started for server in self._servers) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        if any(task.done() for task in tasks):
            self._failure = RuntimeError("a listener ended while it started")
        ready.set()
        await asyncio.gather(*tasks)


class _Doorbell:
    """Holds polls open until there may be news.

    A message for a node can appear only when the ServerApp pushes messages, and it rings when a message and all its
    parts are there. So each ring counts one up, and a node that was told "nothing" at the present count need not be
    answered before the next ring; or before `hold_s`, should a ring be lost. A signature is checked when the poll goes
    on, well within the 300 s that Flower grants it.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._count = 0
        self._answered: dict[bytes, int] = {}
        self._rung: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Called in the event loop before anything else."""
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let every held poll go, from another thread."""
        self._hold_s = 0.0
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.ring)

    def ring(self) -> None:
        """There may be news: let every held poll go."""
        self._count += 1
        if self._rung is not None:
            self._rung.set()
            self._rung = asyncio.Event()

    async def wait(self, node: bytes) -> int:
        """Hold a poll of `node` if it would bring nothing; the count under which it is answered."""
        if self._answered.get(node) == self._count and self._rung is not None and self._hold_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), self._hold_s)
        return self._count

    def told_nothing(self, node: bytes, count: int) -> None:
        """A poll of `node` that was answered under `count` brought nothing."""
        if len(self._answered) >= _HELD_NODES:  # names are claimed before they are proven: keep the memory bounded
            self._answered.clear()
        self._answered[node] = count


class _FleetGuard:
    """What hospitals reach: the calls of `_FLEET_CALLS`, each within bounds, and 404 for all else."""

    def __init__(self, app: _Asgi, doorbell: _Doorbell, max_bytes: int) -> None:
        self._app = app
        self._doorbell = doorbell
        self._max_bytes = max_bytes

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request of a hospital."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path not in _FLEET_CALLS:
            await _answer(send, 404)
            return
        length = _header(scope, b"content-length")
        if not length.isdigit() or int(length) > self._max_bytes:
            await _answer(send, 413 if length.isdigit() else 411)
            return
        # Flower's lifespan state belongs to the loopback server; its routes expect a mapping all the same.
        scope = dict(scope, state={})
        if path == _PULL:
            await self._pull(scope, receive, send)
        elif path == _PUSH:
            await self._push(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pull(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a poll when there is something to say."""
        node = _header(scope, FLEET_HTTP_PUBLIC_KEY_HEADER.encode())
        count = await self._doorbell.wait(node)
        status = size = 0

        async def watch(event: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            status = event.get("status", status)
            size += len(event.get("body", b""))
            await send(event)

        await self._app(scope, receive, watch)
        if status == 200 and size == 0:  # an empty protobuf message has no bytes
            self._doorbell.told_nothing(node, count)

    async def _push(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Refuse a reply whose sender is not the node that the request authenticates."""
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] != "http.request":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
        if not _speaks_for_itself(bytes(body)):
            await _answer(send, 403)
            return
        replayed = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


def _speaks_for_itself(body: bytes) -> bool:
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError, whatever its implementation calls it
        return False
    return all(message.metadata.src_node_id == request.node.node_id for message in request.messages_list)


def _local_only(app: _Asgi, secret: str, doorbell: _Doorbell) -> _Asgi:
    """The loopback listener: control and the claiming of runs need the process's secret; a run has its own token."""

    async def serve(scope: _Scope, receive: _Receive, send: _Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/v1/control") or path == "/v1/runtime/acquire-task":
            offered = _header(scope, _DOOR_HEADER.encode())
            if not secrets.compare_digest(offered, secret.encode()):
                await _answer(send, 401)
                return
        if path == _NEWS:
            doorbell.ring()
            await _answer(send, 204)
            return
        await app(scope, receive, send)

    return serve


def _header(scope: _Scope, name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope.get("headers", ()) if key == name), b"")


async def _answer(send: _Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _superlink_application(port: int) -> _Asgi:
    """The whole SuperLink as an application; imported late, since the ServerApp's process has no use for it."""
    loader = importlib.import_module("flwr.superlink.config_loader")
    config = loader.SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=loader.load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",  # the service starts the ServerApp; Flower starts nothing
        runtime_dependency_install=False,
    )
    lifespan = importlib.import_module("flwr.superlink.cli.flower_superlink").SuperLinkLifespan
    application = importlib.import_module("flwr.superlink.main").create_app(config, lifespan)
    application.user_middleware = [layer for layer in application.user_middleware if layer.cls.__name__ not in _IDLE]
    served: _Asgi = application
    return served


def _control_client() -> Any:
    return importlib.import_module("flwr.supercore.control.control_http_client").ControlHttpClient


def _control_protocol() -> Any:
    return importlib.import_module("flwr.proto.control_pb2")


def _listen(addresses: list[tuple[str, int]]) -> list[socket.socket]:
    """Listening sockets, all of them or none."""
    sockets: list[socket.socket] = []
    for host, port in addresses:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named because asyncio switches Nagle's algorithm off only then: 40 ms per request otherwise.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sockets.append(opened)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((host, port))
            opened.listen(256)
        except OSError as error:
            _close(sockets)
            raise _port_error(host, port, error) from error
    return sockets


def _close(sockets: list[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def _port_error(host: str, port: int, error: OSError) -> UnreachableError:
    what = f"Port {port} on {host} cannot be opened"
    if error.errno == errno.EADDRINUSE:
        remedy = f"stop the program that uses port {port} (ss -ltnp shows it), or choose another port"
        return UnreachableError(what, got="another program uses it", remedy=remedy, code="port-in-use")
    if error.errno == errno.EACCES:
        return UnreachableError(what, got="no permission", remedy="choose a port above 1023", code="port-refused")
    remedy = "choose an address of this machine"
    return UnreachableError(what, got=os.strerror(error.errno or 0), remedy=remedy, code="port-refused")


def _public_key(text: bytes) -> bytes:
    """A node's public key in the form in which Flower compares keys."""
    try:
        load = load_pem_public_key if b"BEGIN PUBLIC KEY" in text else load_ssh_public_key
        key = load(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("A node's public key cannot be read", expected="PEM or OpenSSH", got="neither") from error
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)):
        raise InputError("A node's public key is of the wrong kind", expected="EC P-384", got=type(key).__name__)
    return bytes(public_key_to_bytes(key))


def _fab(component: str, keys: list[str]) -> bytes:
    """An application bundle without code: it names an installed ServerApp and declares the keys of its config."""
    wrong = [key for key in keys if not re.fullmatch(r"[a-z0-9_-]+", key)]
    if wrong:
        raise InputError("A run config has a bad key", expected="lower-case letters, digits, - and _", got=repr(wrong))
    build = importlib.import_module("flwr.cli.build").build_fab_from_files
    declared = "".join(f'{key} = ""\n' for key in keys)
    project = f"""
[project]
name = "fedward-run"
version = "1.0.0"
description = "Names an installed ServerApp; holds no code"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.42.0"]

[tool.flwr.app]
publisher = "fedward"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "{component}"
clientapp = "{component}"  # Flower demands the line; no hospital ever asks for it

[tool.flwr.app.config]
{declared}"""
    return bytes(build({"pyproject.toml": project.encode(), "LICENSE": b"Apache-2.0\n"})[0])


def _override(config: Mapping[str, str]) -> Any:
    return importlib.import_module("flwr.common.serde").user_config_to_proto(dict(config))


def _app_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The ServerApp's environment: it speaks to the loopback listener only, never through a proxy."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    return {**environment, "FLWR_HOME": str(home), "NO_PROXY": "*", **extra}


def _order(app: subprocess.Popen[bytes], order: Mapping[str, str]) -> None:
    """Tell a waiting process what to run. Over the pipe: a command line is read by every user of the machine."""
    if app.stdin is None:
        raise UnreachableError("The ServerApp's process has no pipe")
    try:
        app.stdin.write(json.dumps(dict(order)).encode() + b"\n")
        app.stdin.flush()
    except OSError:  # it died between the look and the order
        raise UnreachableError("The ServerApp's process ended before it had its orders") from None


def _end(app: subprocess.Popen[bytes]) -> None:
    """End a process kindly (its pipe closes), then not."""
    with contextlib.suppress(OSError):
        if app.stdin is not None:
            app.stdin.close()
    try:
        app.wait(_ORPHAN_S + 1)
    except subprocess.TimeoutExpired:
        app.kill()
        app.wait()


_orphaned = threading.Event()


def server_app(main: Callable[[Any, Mapping[str, str]], None]) -> Any:
    """The ServerApp that calls `main` with the run's grid and its run config."""
    app = ServerApp()

    def called(grid: Any, context: Any) -> None:
        main(grid, {key: str(value) for key, value in context.run_config.items()})

    app.main()(called)
    return app


def parent_alive() -> bool:
    """In the ServerApp's process: whether the coordinator that started it is still there."""
    return not _orphaned.is_set()


def serve_app() -> None:
    """The ServerApp's process: import, wait for orders on the standard input, run, and end with the coordinator.

    The arguments are the module to import ahead and Flower's log level.
    """
    module, level = sys.argv[1:3]
    quiet_flower(None, level, stream=True)
    run_serverapp = importlib.import_module("flwr.superlink.runtime").run_serverapp
    with contextlib.suppress(Exception):  # Flower imports it again and reports what is wrong with it
        importlib.import_module(module)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    threading.Thread(target=_watch_parent, name="fedward-lifeline", daemon=True).start()
    run_serverapp(
        runtime_api_address=order["address"],
        log_queue=Queue(),  # empty: logs go to our file, not to the SuperLink's memory
        token=order["token"],
        insecure=True,
        runtime_dependency_install=False,
    )


def _watch_parent() -> None:
    """End this process when the coordinator's end of the pipe is gone; works for SIGKILL and for zombies alike."""
    # The bare descriptor: a thread that waits in sys.stdin's buffer makes the interpreter abort when it ends.
    while os.read(0, 4096):
        pass
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGINT)  # Flower's handlers end the run in order
    time.sleep(_ORPHAN_S)
    os._exit(1)


def quiet_flower(log_file: Path | None, level: str = "WARNING", *, stream: bool = False) -> None:
    """Send the logs of Flower and its HTTP libraries to `log_file`, or to the standard error, or nowhere."""
    handler: logging.Handler = logging.NullHandler()
    if log_file is not None:
        handler = logging.FileHandler(log_file)
    elif stream:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)


class _TooLargeError(ValueError):
    """A response is larger than its bound."""


class _DirectSend:
    """Sends Flower's requests straight to the loopback listener, past any proxy, and bounds what comes back.

    The last interceptor of a Flower client's chain: it does not call the next one, which would be Flower's transport.
    """

    def __init__(self, max_bytes: int, headers: Mapping[str, str] | None = None) -> None:
        self._wire = httpx.Client(trust_env=False, follow_redirects=False)
        self._max_bytes = max_bytes
        self._headers = dict(headers or {})

    def intercept(self, context: Any, call_next: object) -> httpx.Response:
        """Send one request. Raises: httpx.HTTPError, or _TooLargeError."""
        del call_next
        context.request.headers.update(self._headers)
        response = self._wire.send(context.request, stream=True)
        with contextlib.closing(response):
            body = b"".join(self._chunks(response))
        # The body is decoded already; these two headers would make httpx decode it again.
        headers = [(k, v) for k, v in response.headers.items() if k not in {"content-encoding", "content-length"}]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    def ring(self, url: str) -> None:
        """Wake the sites' held polls; if it fails they wake a little later by themselves."""
        with contextlib.suppress(httpx.HTTPError):
            self._wire.post(url)

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLargeError
            yield chunk


def _flower_client(kind: Any, address: str, interceptors: list[Any]) -> Any:
    """A Flower client whose own transport is never used; the context keeps it from loading a CA bundle for nothing."""
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return kind(f"http://{address}", interceptors=interceptors, verify=unused)


@dataclass(frozen=True)
class Arrival:
    """The end of one message: the site's reply, or the name of what went wrong. Exactly one of the two is None."""

    message_id: str
    node_id: int
    payload: bytes | None
    failure: str | None


@dataclass
class _Upload:
    """A reply that is announced and may still be on its way to the SuperLink."""

    reply_id: str
    object_ids: list[str]
    deadline: float
    contents: dict[str, bytes] = field(default_factory=dict)


class _ReplyError(Exception):
    """A reply that will never be one."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class GridTransport:
    """Sends payloads to sites and collects their replies, from within the ServerApp's process.

    Built on Flower's Runtime API rather than on `Grid.pull_messages`, which blocks for up to two hours on a site that
    announces a reply and never uploads it, retries without end, and answers "unauthorised" with a SIGINT to itself.

    A reply is known by the message that it answers: Flower's own error replies do not carry the site's identifier.
    Flower hands every reply out once: one that is lost on the last yard, as one that expired, ends as `MESSAGE_LOST`.
    """

    def __init__(
        self,
        grid: Any,
        *,
        max_bytes: int = 256 * 2**20,
        patience_s: float = 30.0,
        ttl_s: float = 86_400.0,
    ) -> None:
        """A reply may have `max_bytes`; a message lives for `ttl_s` seconds; a SuperLink that does not answer for
        `patience_s` seconds is gone."""
        self._run_id = int(grid.run.run_id)
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._ttl_s = ttl_s
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        token = RuntimeTokenHttpInterceptor(token=grid._token)
        self._wire = _DirectSend(max_bytes + _ENVELOPE_BYTES)
        self._client = _flower_client(RuntimeHttpClient, grid._addr, [token, self._wire])
        self._news = f"http://{grid._addr}{_NEWS}"
        self._spent: list[str] = []
        self._waiting: dict[str, int] = {}
        self._uploads: dict[str, _Upload] = {}
        self._refused: set[str] = set()
        self._trouble_since: float | None = None

    def send(self, node_id: int, payload: bytes) -> str:
        """Send one payload; the message's identifier. Raises: as `send_all`."""
        return next(iter(self.send_all({node_id: payload})))

    def send_all(self, payloads: Mapping[int, bytes]) -> dict[str, int]:
        """Send one payload to each node; the node of each message, by the message's identifier.

        A node that the SuperLink does not know, or that never connected, is no error here: its message ends as an
        arrival with the failure `NODE_UNKNOWN`. Blocks while the SuperLink does not answer, for `patience_s` at most.

        Raises:
            UnreachableError: the SuperLink is gone, or the run is over.
        """
        if not payloads:
            return {}
        with no_object_id_recompute():  # Flower would hash each payload again at every mention
            messages = [self._message(node_id, payload) for node_id, payload in payloads.items()]
            self._persist(lambda: self._push(messages))
        self._wire.ring(self._news)
        sent = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        self._waiting.update(sent)
        return sent

    def poll(self, ids: Iterable[str]) -> list[Arrival]:
        """What became of the messages `ids` since the last poll; each message arrives once. Does not block.

        Raises:
            UnreachableError: the SuperLink has not answered for `patience_s`, or the run is over.
        """
        wanted = [message_id for message_id in ids if message_id in self._waiting]
        arrivals = [
            self._done(message_id, failure=NODE_UNKNOWN) for message_id in wanted if message_id in self._refused
        ]
        open_ids = [i for i in wanted if i in self._waiting and i not in self._uploads]
        if open_ids:
            arrivals += self._pull(open_ids)
        uploads = [i for i in wanted if i in self._uploads]
        arrivals += [arrival for i in uploads if (arrival := self._collect(i)) is not None]
        if not arrivals:
            self._tidy()
        return arrivals

    def online(self) -> set[int]:
        """The nodes that Flower counts as online. Raises: UnreachableError, as `send_all`."""
        return {int(node.node_id) for node in self._persist(lambda: self._client.GetNodes(GetNodesRequest())).nodes}

    def _message(self, node_id: int, payload: bytes) -> Any:
        content = RecordDict({RECORD: ConfigRecord({FIELD: payload})})
        message = Message(content, node_id, MESSAGE_TYPE, ttl=self._ttl_s)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def _push(self, messages: list[Any]) -> None:
        """Push messages and what the SuperLink lacks of their parts; safe to repeat."""
        parts: dict[str, Any] = {}
        for message in messages:
            parts.update(get_all_nested_objects(message))
        response = self._client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
                message_object_trees=[get_object_tree(message) for message in messages],
            )
        )
        self._refused.update(
            message.metadata.message_id
            for message, accepted in zip(messages, response.message_ids, strict=True)
            if not accepted
        )
        for object_id in response.objects_to_push:
            self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=self._run_id,
                    object_id=object_id,
                    object_content=parts[object_id].deflate(),
                    session_id=response.session_id,
                )
            )

    def _pull(self, ids: list[str]) -> list[Arrival]:
        """Ask for replies. Errors arrive at once; replies become uploads, to be collected."""
        try:
            response = self._client.PullMessages(PullAppMessagesRequest(message_ids=ids))
        except (httpx.HTTPError, ValueError) as error:
            self._trouble(error)
            return []
        self._trouble_since = None
        arrivals = []
        for reply, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            message_id = reply.metadata.reply_to_message_id
            if message_id not in self._waiting:
                continue
            if reply.HasField("error"):
                arrivals.append(self._done(message_id, failure=_failure(reply.error)))
                continue
            object_ids = [part.object_id for part in iterate_object_tree(tree)]
            deadline = time.monotonic() + _REPLY_UPLOAD_S
            self._uploads[message_id] = _Upload(reply.metadata.message_id, object_ids, deadline)
        return arrivals

    def _collect(self, message_id: str) -> Arrival | None:
        """A reply whose parts have all arrived, or None if one is still on its way."""
        upload = self._uploads[message_id]
        try:
            if not self._download(upload):
                return None
            payload = _payload(upload, self._max_bytes)
        except _ReplyError as error:
            return self._done(message_id, failure=error.code)
        except (httpx.HTTPError, ValueError) as error:
            self._trouble(error)
            return None
        self._trouble_since = None
        return self._done(message_id, payload=payload)

    def _download(self, upload: _Upload) -> bool:
        """Fetch what is there of a reply; whether it is complete. Raises: _ReplyError if it never will be."""
        if len(upload.object_ids) > _OBJECTS_PER_REPLY:
            raise _ReplyError(REPLY_MALFORMED)
        for object_id in upload.object_ids:
            if object_id in upload.contents:
                continue
            content = self._object(object_id)
            if content is None:
                if time.monotonic() > upload.deadline:
                    raise _ReplyError(REPLY_INCOMPLETE)
                return False
            upload.contents[object_id] = content
        return True

    def _object(self, object_id: str) -> bytes | None:
        """One part of a reply, or None if it is on its way. Raises: _ReplyError if it can never be had."""
        request = PullObjectRequest(node=self._node, run_id=self._run_id, object_id=object_id)
        try:
            response = self._client.PullObject(request)
        except _TooLargeError as error:
            raise _ReplyError(REPLY_TOO_LARGE) from error
        if not response.object_found:
            raise _ReplyError(REPLY_INCOMPLETE)
        return bytes(response.object_content) if response.object_available else None

    def _done(self, message_id: str, *, payload: bytes | None = None, failure: str | None = None) -> Arrival:
        """The end of a message."""
        upload = self._uploads.pop(message_id, None)
        self._refused.discard(message_id)
        if upload is not None:
            self._spent.append(upload.reply_id)
        return Arrival(message_id, self._waiting.pop(message_id), payload, failure)

    def _tidy(self) -> None:
        """Let the SuperLink free one reply that was read, while there is nothing better to do."""
        if self._spent:
            confirmation = ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run_id, message_object_id=self._spent.pop()
            )
            with contextlib.suppress(httpx.HTTPError, ValueError):  # the end of the run frees it all the same
                self._client.ConfirmMessageReceived(confirmation)

    def _persist(self, attempt: Callable[[], _T]) -> _T:
        """Try until it works or patience ends."""
        wait = 0.05
        while True:
            try:
                result = attempt()
            except (httpx.HTTPError, ValueError) as error:
                self._trouble(error)
                time.sleep(wait)
                wait = min(wait * 2, 2.0)
            else:
                self._trouble_since = None
                return result

    def _trouble(self, error: Exception) -> None:
        """Bear a failure that may pass, for as long as patience lasts."""
        status = _status(error)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise UnreachableError("The run is over", got=f"HTTP {status}", code="run-over") from error
        if isinstance(error, _TooLargeError):
            raise UnreachableError("The SuperLink sent more than the bound", code="response-too-large") from error
        began = self._trouble_since = self._trouble_since or time.monotonic()
        if time.monotonic() - began > self._patience_s:
            raise UnreachableError(
                "The SuperLink does not answer",
                expected=f"an answer within {self._patience_s:.0f} s",
                got=type(error).__name__ if status is None else f"HTTP {status}",
                remedy="start the coordinator again; it goes on from its journal",
            ) from error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def _failure(error: Any) -> str:
    """The name of a failure; what a site wrote is repeated only if it is one of our codes."""
    if error.code in _FLOWER_CODES:
        return _FLOWER_CODES[error.code]
    return str(error.reason) if error.reason in _SITE_CODES else SITE_ERROR


def _payload(upload: _Upload, max_bytes: int) -> bytes:
    """The one payload of a reply. Raises: _ReplyError if it is anything but that, or over the bound."""
    try:
        message = inflate_object_from_contents(upload.reply_id, upload.contents)
        record = message.content[RECORD]
        value = record[FIELD] if set(message.content) == {RECORD} and set(record) == {FIELD} else None
    except Exception as error:  # a site may send anything; whatever does not decode is malformed
        raise _ReplyError(REPLY_MALFORMED) from error
    if not isinstance(value, bytes):
        raise _ReplyError(REPLY_MALFORMED)
    if len(value) > max_bytes:
        raise _ReplyError(REPLY_TOO_LARGE)
    return value
