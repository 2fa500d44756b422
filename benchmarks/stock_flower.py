"""Flower as shipped, as the peer of a round's overhead: SuperLink, SuperNodes and `flwr run`, each as its manual says.

Everything is Flower's own: its SuperNode starts a process for each message, its grid waits in its fixed steps, and the
bundle that `flwr run` uploads holds the ClientApp's code. The app echoes one array of floats, so that an exchange costs
nothing but Flower. It runs without TLS and without node authentication, on loopback with the database in memory: all
of that is in Flower's favour.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 60.0
RUN_S = 240.0

_PROJECT = """
[project]
name = "echo"
version = "1.0.0"
description = "Echoes an array"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.42.0"]

[tool.flwr.app]
publisher = "benchmark"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "echo.server:app"
clientapp = "echo.client:app"

[tool.flwr.app.config]
nodes = 0
floats = 0
exchanges = 0
result = ""
"""

_CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return Message(content=message.content, reply_to=message)
"""

_SERVER = """
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.2)
    seconds, result = [], Path(config["result"])
    for number in range(config["exchanges"]):
        arrays = ArrayRecord({"model": Array(np.full(config["floats"], number, dtype=np.float32))})
        content = RecordDict({"arrays": arrays})
        began = time.monotonic()
        replies = list(grid.send_and_receive([Message(content, node, MessageType.TRAIN) for node in nodes]))
        seconds.append(time.monotonic() - began)
        if len(replies) != len(nodes) or any(reply.has_error() for reply in replies):
            raise RuntimeError("an exchange failed")
        draft = result.with_suffix(".new")
        draft.write_text(json.dumps(seconds))
        draft.replace(result)
"""


def exchanges(nodes: int, floats: int, count: int) -> list[float]:
    """Seconds of `count` exchanges of an array with every one of `nodes` SuperNodes, after a first one to warm up.

    Raises:
        RuntimeError: Flower did not start, or an exchange failed; the end of its logs is repeated.
    """
    with tempfile.TemporaryDirectory(prefix="stock-flower-") as name:
        folder = Path(name)
        try:
            return _measure(folder, nodes, floats, count)[1:]
        except (OSError, subprocess.SubprocessError, TimeoutError) as error:
            raise RuntimeError(f"Flower as shipped could not be measured: {error}\n{_logs(folder)}") from error


def _measure(folder: Path, nodes: int, floats: int, count: int) -> list[float]:
    link, *runtimes = _free_ports(1 + nodes)
    _write_app(folder / "app")
    _write_connection(folder / "home", link)
    result = folder / "seconds.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _process(
                folder,
                "superlink",
                ["flower-superlink", "--insecure", "--port", str(link), "--disable-runtime-dependency-installation"],
            )
        )
        _await_port(link)
        for place, runtime in enumerate(runtimes):
            command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(runtime)]
            stack.enter_context(_process(folder, f"supernode-{place}", command))
        config = f"nodes={nodes} floats={floats} exchanges={count + 1} result={json.dumps(str(result))}"
        run = [_tool("flwr"), "run", str(folder / "app"), "benchmark", "--run-config", config]
        done = subprocess.run(run, env=_environment(folder), capture_output=True, timeout=START_S, check=False)
        if done.returncode != 0:
            raise TimeoutError(f"`flwr run` failed: {(done.stdout + done.stderr).decode(errors='replace')[-800:]}")
        return _await_result(result, count + 1)


def _write_app(folder: Path) -> None:
    package = folder / "echo"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "client.py").write_text(_CLIENT, encoding="utf-8")
    (package / "server.py").write_text(_SERVER, encoding="utf-8")


def _write_connection(home: Path, port: int) -> None:
    home.mkdir()
    text = (
        f'[superlink]\ndefault = "benchmark"\n\n[superlink.benchmark]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def _environment(folder: Path) -> dict[str, str]:
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    bin_ = str(Path(sys.executable).parent)  # Flower finds its own programs by name
    return kept | {
        "PATH": os.pathsep.join((bin_, os.environ.get("PATH", ""))),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextlib.contextmanager
def _process(folder: Path, name: str, command: list[str]) -> Iterator[None]:
    """A process of Flower and all that it starts, ended when the block is left."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [_tool(command[0]), *command[1:]],
            env=_environment(folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole session: Flower's programs leave helpers behind when they are asked kindly."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise TimeoutError("the SuperLink does not listen")


def _await_result(path: Path, count: int) -> list[float]:
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        if path.is_file():
            seconds = [float(value) for value in json.loads(path.read_text(encoding="utf-8"))]
            if len(seconds) == count:
                return seconds
        time.sleep(0.2)
    raise TimeoutError(f"fewer than {count} exchanges in {RUN_S:.0f} s")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _logs(folder: Path) -> str:
    return "\n".join(
        f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.glob("*.log"))
    )
