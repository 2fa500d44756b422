"""`SuperLinkService`: the SuperLink in the coordinator's process, its nodes and its runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from flwr.common.constant import Status
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.runtime import RuntimeHttpClient

from fedward.privacy.errors import FedwardError, UnreachableError
from fedward.server.flower import control
from fedward.server.flower.forkserver import App, ForkServer
from fedward.server.flower.gate import Credentials, Gate
from fedward.server.flower.listeners import Doorbell
from fedward.server.flower.process import quiet_flower
from fedward.server.flower.superlink import close_all, listen, make_servers
from fedward.server.flower.wire import DOOR_HEADER, LOOPBACK, DirectSend, flower_client

_START_S: Final = 30.0
_STOP_S: Final = 5.0


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
        credentials: Credentials,
        flwr_home: Path,
        component: str = "fedward.server.app:app",
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        log_level: str = "WARNING",
        max_bytes: int = 256 * 2**20,
        hold_s: float = 2.0,
    ) -> None:
        """Hospitals connect to `host`:`fleet_port`; `certificate`, `key` and `ca` are PEM files.
        `credentials` says which of the hospitals' certificates may carry which node's messages.

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
        self._log = (log_file, log_level)
        self._forks = ForkServer(
            component, home=flwr_home, environment=environment or {}, log_file=log_file, log_level=log_level
        )
        self._max_bytes = max_bytes
        self._doorbell = Doorbell(hold_s)
        self._secret = secrets.token_hex(32)
        address = f"{LOOPBACK}:{control_port}"
        send = DirectSend(max_bytes, {DOOR_HEADER: self._secret})
        self._address = address
        self._control = flower_client(control.client(), address, [send])
        self._runtime = flower_client(RuntimeHttpClient, address, [send])
        self._servers: list[Any] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._nodes: dict[bytes, int] = {}
        self._gate = Gate(credentials, self._nodes.get)
        self._apps: dict[int, App] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start both listeners in a background thread; they accept connections when this returns.

        Raises:
            UnreachableError: a port is in use or may not be opened.
            InputError: the TLS files cannot be used.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        os.environ["FLWR_HOME"] = str(self._home)
        quiet_flower(*self._log)
        # Opened here, so that a port in use is an answer to the caller and not a line in a thread's log.
        sockets = listen([(LOOPBACK, self._control_port), (self._host, self._fleet_port)])
        try:
            self._servers = make_servers(
                self._control_port, self._secret, self._doorbell, self._gate, max_bytes=self._max_bytes, tls=self._tls
            )
        except BaseException:
            close_all(sockets)
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
        self._forks.start()

    def stop(self) -> None:
        """End the runs, then the listeners. May be called twice."""
        with self._lock:
            apps, self._apps = list(self._apps.values()), {}
        for app in apps:
            self._forks.end(app)
        self._forks.stop()
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
        pem = control.node_key(public_key)
        with self._lock:
            if pem not in self._nodes:
                proto = control.protocol()
                response = self._ask(lambda: self._control.RegisterNode(proto.RegisterNodeRequest(public_key=pem)))
                self._nodes[pem] = int(response.node_id)
            return self._nodes[pem]

    def registered_nodes(self) -> list[bytes]:
        """The node keys that may connect, as Flower writes them."""
        with self._lock:
            return list(self._nodes)

    def unregister_node(self, public_key: bytes) -> None:
        """Let this node connect no more; Flower forgets it. Its key can't be registered again. Safe to repeat.

        Raises:
            UnreachableError: the SuperLink does not run.
        """
        pem = control.node_key(public_key)
        with self._lock:
            node = self._nodes.get(pem)
            if node is None:
                return
            self._ask(lambda: self._control.UnregisterNode(control.protocol().UnregisterNodeRequest(node_id=node)))
            del self._nodes[pem]
        self._doorbell.wake()  # whoever holds a poll of it learns now

    def online_nodes(self) -> set[int]:
        """The nodes that Flower counts as online: it notices a dead one within 20 s."""
        nodes = self._ask(lambda: self._control.ListNodes(control.protocol().ListNodesRequest())).nodes_info
        return {int(node.node_id) for node in nodes if node.status == NodeStatus.ONLINE}

    def launch(self, config: Mapping[str, str]) -> int:
        """Start a run whose ServerApp gets `config` as its run config; the run's identifier.

        The FAB is a `pyproject.toml` and a licence: the ServerApp is code that is installed here, and no other. It
        runs in a fork of a process that was started with the service.

        Raises:
            InputError: a key of `config` is not made of lower-case letters, digits, `-` and `_`.
            UnreachableError: the SuperLink does not run, or no process can be started.
        """
        proto = control.protocol()
        request = proto.StartRunRequest(override_config=control.run_config(config))
        request.fab.content = control.bundle(self._component, sorted(config))
        with self._lock:
            run_id = int(self._ask(lambda: self._control.StartRun(request)).run_id)
            try:
                self._apps[run_id] = self._forks.fork({"address": self._address, "token": self._claim(run_id)})
            except BaseException:
                # A run left pending would be offered to every later launch in place of its own.
                with contextlib.suppress(FedwardError):
                    self._ask(lambda: self._control.StopRun(control.protocol().StopRunRequest(run_id=run_id)))
                raise
        return run_id

    def run_finished(self, run_id: int) -> tuple[bool, str]:
        """Whether the run is over, and its status: "running", "completed", "stopped" or "failed: why".

        Raises:
            UnreachableError: the SuperLink does not know the run (it restarted) or does not run.
        """
        request = control.protocol().ListRunsRequest(run_id=run_id)
        status = self._ask(lambda: self._control.ListRuns(request)).run_dict[run_id].status
        if status.status == Status.FINISHED:
            self._forget(run_id)
            return True, f"{status.sub_status}: {status.details}" if status.details else str(status.sub_status)
        app = self._apps.get(run_id)
        exit_code = self._forks.poll(app) if app else None
        if exit_code is None:
            return False, str(status.status)
        # Flower would notice only when the task's heartbeats lapse, a minute from now.
        self.stop_run(run_id)
        return True, f"failed: the ServerApp's process ended with code {exit_code}"

    def stop_run(self, run_id: int) -> None:
        """End a run and its process; nothing happens if it is over."""
        with contextlib.suppress(FedwardError):
            self._ask(lambda: self._control.StopRun(control.protocol().StopRunRequest(run_id=run_id)))
        self._forget(run_id)

    def _forget(self, run_id: int) -> None:
        """Let the process of a run that is over end, and clear it away."""
        with self._lock:
            app = self._apps.pop(run_id, None)
        if app is not None:
            self._forks.end(app)

    def _claim(self, run_id: int) -> str:
        """The token that makes its holder the ServerApp of the run: what Flower's SuperExec polls for."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        response = self._ask(lambda: self._runtime.AcquireTask(request))
        if response.task.run_id != run_id:
            raise UnreachableError("Flower offered another run than the one that was just started")
        return str(response.token)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """One call to the SuperLink, with its failures as ours."""
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise UnreachableError("The SuperLink refused", got=f"HTTP {error.response.status_code}") from error
        except httpx.TransportError as error:
            raise UnreachableError("The SuperLink does not answer", remedy="start the coordinator again") from error

    def _run(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        """The background thread: both servers in one event loop."""
        try:
            asyncio.run(self._serve(sockets, ready))
        except BaseException as error:  # noqa: BLE001 - handed to start()
            self._failure = error
        finally:
            ready.set()
            close_all(sockets)

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
