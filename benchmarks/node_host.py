"""Hospitals' nodes in processes of their own: many warm ones as threads of a host, or one as `fedward site start` runs it.

Processes come from a fork server that has imported everything, so that a node starts in milliseconds and may be killed like any
other. Connections, ledgers, logs and handlers are the product's own.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from fedward.study.manifest import Manifest

MANIFEST = "FEDWARD_FLEET_MANIFEST"
"""The environment variable in which `node_warmth` finds a study."""
_PRELOADED = (
    "benchmarks.node_host",
    "benchmarks.node_warmth",
    "fedward.client.running",
    "fedward.client.training",
    "fedward.client.evaluation",
    "fedward.client.datasets",
    "fedward.study.models",
)


class Host:
    """A process with a warm loop for each home. `made_up`: nobody trains, an update is a vector of noise of its size."""

    def __init__(self, homes: Iterable[Path], *, made_up: bool = False) -> None:
        self._requests = multiprocessing.get_context("forkserver").Value("Q", 0)
        self.process = _start(_host, [str(home) for home in homes], made_up, self._requests)

    @property
    def requests(self) -> int:
        """How many HTTP requests its nodes have sent."""
        return int(self._requests.value)

    def end(self) -> None:
        end([self.process])


def expect(manifest: Manifest) -> None:
    """Let nodes that are started from now on know the calibration of a study. To be called before the first one is."""
    os.environ[MANIFEST] = manifest.model_dump_json()


def start_node(home: Path) -> ForkServerProcess:
    """One node's process, as its own command runs it."""
    return _start(_node, str(home))


def kill(process: ForkServerProcess) -> None:
    """As the kernel would for want of memory: nothing of it says goodbye."""
    process.kill()
    process.join()


def end(processes: Sequence[ForkServerProcess], seconds: float = 30.0) -> None:
    """End processes as a person would, then not kindly."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            kill(process)


def _start(work: Any, *arguments: Any) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def _node(home: str) -> None:
    from fedward.client.home import SiteHome
    from fedward.client.running import run_node

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_node(SiteHome.open(Path(home)), lambda _text: None)


def _host(homes: list[str], made_up: bool, requests: Any) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    _count_requests(requests)
    if made_up:
        _make_updates_up()
    with contextlib.ExitStack() as locks:
        loops = [threading.Thread(target=_loop(Path(home), stop, locks).run, name=Path(home).name) for home in homes]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()


def _loop(path: Path, stop: threading.Event, locks: contextlib.ExitStack) -> Any:
    from fedward.client.flower import FleetAddress, FleetLoop
    from fedward.client.home import SiteHome
    from fedward.client.log import SiteLog
    from fedward.client.node import SiteNode
    from fedward.client.node_state import node_lock, write_state
    from fedward.privacy.draws import SecureDraws
    from fedward.privacy.errors import UsageError
    from fedward.study.lock import hold

    home = SiteHome.open(path)
    locks.enter_context(hold(node_lock(home), 1.0, lambda: UsageError(f"{home.site} is served already")))
    kit = home.kit()
    address = FleetAddress(
        host=kit.host, port=kit.port, ca=home.ca_file, certificate=home.certificate_file,
        key=home.key("tls.pem"), node_key=home.key("node.pem"), password=home.key_password,
    )  # fmt: skip
    log = SiteLog(home.log_file, None)

    def told(code: str, text: str) -> None:
        log.write(code, text)
        if code != "handled":
            write_state(home, code, text)

    return FleetLoop(address, SiteNode(home, log, SecureDraws()), report=told, stop=stop)


def _count_requests(counter: Any) -> None:
    send = httpx.Client.send

    def counted(client: httpx.Client, *arguments: Any, **named: Any) -> httpx.Response:
        with counter.get_lock():
            counter.value += 1
        return send(client, *arguments, **named)

    httpx.Client.send = counted  # type: ignore[assignment,method-assign]


def _make_updates_up() -> None:
    """A 10-million-parameter step of DP-SGD takes minutes on two cores; what is measured is the coordinator."""
    training = importlib.import_module("fedward.client.training")
    chance = np.random.default_rng(os.getpid())

    def train(model: Any, *_: Any) -> Any:
        size = sum(parameter.numel() for parameter in model.parameters())
        return chance.normal(0.0, 1e-4, size).astype(np.float32)

    training.train = train  # type: ignore[attr-defined]
