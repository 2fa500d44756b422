"""The demo's federation: real processes on loopback, each with its own home, driven by the real commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fedward.cli.lifeline import PARENT
from fedward.cli.output import shown, stderr
from fedward.client.home import SiteHome
from fedward.client.policy import DEFAULT_POLICY, load_policy
from fedward.privacy.errors import FedwardError, InputError, UnreachableError
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.views import StudyView
from fedward.simulations.folders import hospitals
from fedward.study.files import write_atomic
from fedward.study.manifest import Manifest, parse, read_text

COMMAND_S = 120.0
TRAIN_S = 3600.0
END_S = 8.0
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def demo_study(source: Path, target: Path, *, rounds: int | None, epsilon: float | None, no_dp: bool) -> Path:
    """The study's TOML with the demo's options applied, written into the demo's folder.

    Raises:
        InputError: the folder has no study.toml or no hospitals, or it is no valid study with these options.
    """
    import tomli_w

    text = read_text(source / "study.toml", "study")
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError("study.toml is not TOML", got=str(error)) from None
    privacy = data.setdefault("privacy", {})
    if rounds is not None:
        data.setdefault("training", {})["rounds"] = rounds
    if epsilon is not None:
        privacy |= {"mechanism": "dp-sgd", "epsilon": epsilon}
        privacy.setdefault("delta", 1e-3)
    if no_dp:
        privacy["mechanism"] = "none"
        privacy.pop("epsilon", None)
        privacy.pop("delta", None)
    parse(data, "study.toml")
    hospitals(source)
    path = target / "study.toml"
    write_atomic(path, tomli_w.dumps(data).encode())
    return path


class DemoFederation:
    """One coordinator and its sites as child processes. Leaving the `with` block ends every one of them."""

    def __init__(self, folder: Path, source: Path, study: Path, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.source = source
        self.study_file = study
        self.manifest: Manifest = parse(tomllib.loads(study.read_text(encoding="utf-8")))
        self.report = report
        self.relaxed: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.names = hospitals(source)

    def __enter__(self) -> DemoFederation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def coordinator_home(self) -> CoordinatorHome:
        return CoordinatorHome.open(self.folder / "coordinator")

    def home(self, site: str) -> SiteHome:
        return SiteHome.open(self.folder / "sites" / site)

    def set_up(self) -> None:
        """Init, start, request, enroll, register and start, by the commands.

        Raises:
            FedwardError: a command failed; its own error is repeated.
        """
        self.report(f"making a federation of {', '.join(self.names)} in {self.folder}")
        port, control = _free_ports(2)
        self._coordinator("init", "Fedward demo", "--port", str(port), "--control-port", str(control))
        self._start("coordinator", "coordinator", "start", "--home", str(self.folder / "coordinator"))
        with ThreadPoolExecutor(max_workers=len(self.names)) as pool:
            list(pool.map(self._join, self.names))
            self.report("hospitals check and register their data; their nodes start")
            list(pool.map(self._register, self.names))
        self._await_online()

    def _join(self, site: str) -> None:
        privacy = self.manifest.privacy
        epsilon = max(10.0, (privacy.epsilon or 0.0) * 1.01)
        budget = ("--epsilon-budget", f"{epsilon:.6g}", "--delta", str(privacy.delta or 1e-3))
        # A demo has nobody to type a passphrase; a hospital's approver has one.
        approver = ("--approver", f"demo officer of {site}", "--approver-unencrypted")
        self._site(site, "init", site, *budget, *approver)
        self._relax_policy(site)
        request = self._site(site, "request")["request"]
        kit = self._coordinator("enroll", request)["kit"]
        self._site(site, "enroll", kit)

    def _relax_policy(self, site: str) -> None:
        """The default policy refuses what some options ask for. The demo says so, it does not hide it."""
        path, privacy = self.home(site).policy_file, self.manifest.privacy
        policy, text = load_policy(path), DEFAULT_POLICY
        if privacy.mechanism == "none":
            text = text.replace("require_dp = true ", "require_dp = false")
            self.relaxed.append("require_dp = false")
        if not privacy.secure_aggregation:
            text = text.replace("require_secure_aggregation = true ", "require_secure_aggregation = false")
            self.relaxed.append("require_secure_aggregation = false")
        if privacy.epsilon is not None and privacy.epsilon > policy.max_epsilon:
            text = re.sub(r"max_epsilon = \S+", f"max_epsilon = {privacy.epsilon}", text)
            self.relaxed.append(f"max_epsilon = {privacy.epsilon:g}")
        if text != DEFAULT_POLICY:
            write_atomic(path, text.encode())

    def _register(self, site: str) -> None:
        own = self.folder / "sites" / site / "export"
        own.mkdir(parents=True, exist_ok=True)
        for name in (f"{site}.csv", f"{site}.mapping.toml"):
            shutil.copyfile(self.source / name, own / name)
        study = ("--study", str(self.study_file))
        self._site(
            site, "register", *study, "--csv", str(own / f"{site}.csv"), "--mapping", str(own / f"{site}.mapping.toml")
        )
        self._start(f"site-{site}", "site", "start", "--home", str(self.folder / "sites" / site))

    def train(self, *, progress: bool) -> StudyView:
        """Propose, approve, launch, and follow until the study ends.

        Raises:
            FedwardError: a command failed, or the study did not complete.
        """
        self.report("the coordinator proposes the study; every hospital reviews and approves it")
        digest = self._coordinator("propose", str(self.study_file))["digest"]
        with ThreadPoolExecutor(max_workers=len(self.names)) as pool:
            list(
                pool.map(
                    lambda site: self._site(site, "approve", digest, "--yes"),
                    self.names,
                )
            )
        if self.relaxed:
            self.report(
                f"note: the demo's hospitals relaxed their default policy: {', '.join(sorted(set(self.relaxed)))}"
            )
        self._coordinator("launch", digest)
        coordinator = LocalCoordinator(self.coordinator_home.path)
        try:
            view = self._follow(coordinator, digest, progress=progress)
        finally:
            coordinator.close()
        if view.state != "completed":
            raise FedwardError(
                f"the study ended as {view.state}", got=view.reason, remedy=f"see the logs in {self.folder / 'logs'}"
            )
        return view

    def _follow(self, coordinator: LocalCoordinator, digest: str, *, progress: bool) -> StudyView:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
        )
        deadline = time.monotonic() + TRAIN_S
        with Progress(*columns, console=stderr, disable=not (progress and stderr.is_terminal)) as bar:
            view = coordinator.status(digest)
            task = bar.add_task("rounds", total=view.rounds, told="")
            seen = -1
            while view.state in {"proposed", "ready", "running"} and time.monotonic() < deadline:
                self._check_processes()
                view = coordinator.status(digest)
                if view.version != seen:
                    seen = view.version
                    told = self._told(view)
                    bar.update(task, completed=seen, told=told)
                    if bar.disable and seen > 0:
                        self.report(f"round {seen} of {view.rounds}: {told}")
                time.sleep(0.2)
        return view

    def _told(self, view: StudyView) -> str:
        last = max((a.attempt for a in view.attempts if a.outcome == "committed"), default=0)
        contributed = [s.site for s in view.statuses if s.attempt == last and s.status == "contributed"]
        text = f"{len(contributed)} sites"
        if view.epsilon is not None:
            text += f", ε charged {shown(self.home(self.names[0]).ledger().spent())} of {view.epsilon:g} per patient"
        newest = view.auroc()
        return text + (f", AUROC {newest.value:.3f} after round {newest.version}" if newest and newest.value else "")

    def wait(self) -> None:
        """Until Ctrl-C, or until a process ends by itself."""
        while True:
            self._check_processes()
            time.sleep(0.5)

    def end(self) -> None:
        """End every child: kindly, then not. The nodes first, so that each can say farewell.

        A second, impatient Ctrl-C waits until this is done: it must not leave a process behind.
        """
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self._end()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)

    def _end(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _site(self, site: str, command: str, *arguments: str) -> dict[str, Any]:
        return self._run("site", command, *arguments, "--home", str(self.folder / "sites" / site), "--json")

    def _coordinator(self, command: str, *arguments: str) -> dict[str, Any]:
        return self._run("coordinator", command, *arguments, "--home", str(self.folder / "coordinator"), "--json")

    def _run(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(  # noqa: S603  # our own interpreter and our own commands
            [sys.executable, "-m", "fedward.cli.main", *arguments], capture_output=True, timeout=COMMAND_S, check=False,
            start_new_session=True,
        )  # fmt: skip
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError:
            raise FedwardError(f"`fedward {' '.join(arguments[:2])}` failed", got=done.stderr.decode()[-500:]) from None
        if done.returncode != 0:
            what = str(answer.get("what"))
            raise FedwardError(
                f"`fedward {' '.join(arguments[:2])}`: {what}",
                expected=answer.get("expected"),
                got=answer.get("got"),
                remedy=answer.get("remedy"),
                code=str(answer.get("error", "error")),
            )
        return answer

    def _start(self, name: str, *arguments: str) -> None:
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._processes.append(
                subprocess.Popen(  # noqa: S603  # our own interpreter and our own commands
                    [sys.executable, "-m", "fedward.cli.main", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=os.environ | {PARENT: str(os.getpid())},  # even a kill -9 of the demo leaves no process behind
                    start_new_session=True,
                )
            )

    def _await_online(self) -> None:
        deadline = time.monotonic() + COMMAND_S
        waiting = set(self.names)
        while waiting:
            self._check_processes()
            waiting = {site for site in waiting if not _connected(self.home(site))}
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"nodes did not connect: {', '.join(sorted(waiting))}",
                    remedy=f"see the logs in {self.folder / 'logs'}",
                )
            time.sleep(0.1)

    def _check_processes(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                name = (
                    " ".join(str(part) for part in process.args[3:5]) if isinstance(process.args, list) else "a process"
                )
                raise FedwardError(
                    f"`fedward {name}` ended by itself with code {process.returncode}",
                    remedy=f"see {self.folder / 'logs'}",
                )


def _connected(home: SiteHome) -> bool:
    path = home.path / "node.json"
    return path.is_file() and json.loads(path.read_text())["state"] in {"connected", "handled"}


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, on loopback."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
