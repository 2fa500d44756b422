"""Flower's engine against the loop, with a worker that dies, on a cluster by its address, and with a scripted driver."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation import heart_manifest

from fedward.privacy.errors import FedwardError, InputError, UnreachableError, UsageError
from fedward.simulations.baselines import rehearse
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import SiteLoop
from fedward.simulations.flower import engine as flower_engine
from fedward.simulations.flower.engine import ATTEMPTS, WORKERS_LOST, FlowerEngines
from fedward.simulations.flower.parcels import pack
from fedward.simulations.simulate import study as simulate_study
from fedward.study.encoding import Encoded, group_names, input_names
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.models import build, to_vector
from fedward.study.vectors import Vector

pytestmark = pytest.mark.xdist_group("ray")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

SIZES = {"a": 97, "b": 3, "c": 40, "d": 260}
SEED = (5, 1)


def hospitals(manifest: Manifest) -> dict[str, Encoded]:
    """One patient of "a" has two rows, so that it cannot be stacked."""
    generator, groups = np.random.default_rng(0), len(group_names(manifest))
    found = {}
    for site, number in SIZES.items():
        inputs = generator.uniform(-1, 1, (number, len(input_names(manifest)))).astype(np.float32)
        names = ["p1" if site == "a" and place == 0 else f"p{place}" for place in range(number)]
        outcomes = (generator.random(number) < 0.5).astype(np.float32)
        found[site] = Encoded(tuple(names), inputs, outcomes, np.zeros((number, groups), dtype=np.bool_))
    return found


def sealed(*, private: bool = True, steps: int = 7, rate: float = 0.4) -> SealedManifest:
    training = {"algorithm": "fedavg", "local_steps": steps, "sampling_rate": 0.3, "local_learning_rate": rate}
    manifest = heart_manifest(
        training=training,
        model={"name": "mlp", "hidden": [7, 5]},
        privacy={} if private else {"mechanism": "none", "epsilon": None, "delta": None},
    )
    return rehearse(manifest, SIZES, noise_multiplier=1.7 if private else None)


def looped(study: SealedManifest, base: Vector, call: int, corrections: Vector | None = None) -> Vector:
    """The loop with as many threads as a worker has: how a product is split decides its last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _looped(study, base, call, corrections)
    finally:
        torch.set_num_threads(before)


def _looped(study: SealedManifest, base: Vector, call: int, corrections: Vector | None) -> Vector:
    draws = {site: UnsafeKeyedDraws(*SEED, place, call) for place, site in enumerate(SIZES)}
    return SiteLoop(study, hospitals(study.manifest), draws).updates(base, corrections)


def base_of(study: SealedManifest) -> Vector:
    return to_vector(build(study.manifest))


def workers_of(engines: FlowerEngines) -> list[int]:
    return [int(worker.split(":")[1]) for worker in engines.workers]


def processes_of(session: int) -> list[int]:
    """Of a session, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def cpu_seconds(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def kill_at_work(process: int) -> None:
    """Kill it once it has worked for a while: well before its part of a round is done."""
    began, deadline = cpu_seconds(process), time.monotonic() + 60
    while cpu_seconds(process) < began + 0.15 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)


def started(command: list[str], said: Path) -> subprocess.Popen[bytes]:
    """A Ray head that is up. It gives itself 30 s, which a busy machine may not grant it: it may try three times."""
    for _ in range(3):
        with said.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        while process.poll() is None:
            if b"Ray runtime started" in said.read_bytes():
                return process
            time.sleep(0.1)
        for left in processes_of(process.pid):
            os.kill(left, signal.SIGKILL)
    raise TimeoutError(said.read_text(errors="replace")[-2000:])


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def engines(said: list[str]) -> Iterator[FlowerEngines]:
    """Interrupted by the last test that uses it."""
    with FlowerEngines(len(SIZES), workers=2, tell=said.append) as found:
        yield found


@needs_ray
@pytest.mark.parametrize(
    "private", [pytest.param(True, marks=pytest.mark.prove), False], ids=["dp", "without-dp"]
)  # under privacy it takes a minute
def test_every_site_s_update_is_the_loop_s_to_the_bit(engines: FlowerEngines, private: bool) -> None:
    study = sealed(private=private)
    sites = engines(study, hospitals(study.manifest), SEED)
    base = base_of(study)
    first, again = sites.updates(base), sites.updates(base)
    np.testing.assert_array_equal(first, looped(study, base, 0))
    np.testing.assert_array_equal(again, looped(study, base, 1))
    assert (first != again).any(axis=1).all()
    bases, corrections = base + first, 0.01 * again
    np.testing.assert_array_equal(sites.updates(bases, corrections), looped(study, bases, 2, corrections))


@needs_ray
@pytest.mark.prove
def test_a_worker_killed_in_a_round_changes_nothing_but_its_time(engines: FlowerEngines, said: list[str]) -> None:
    study = sealed(steps=4000)
    data, base = hospitals(study.manifest), base_of(study)
    undisturbed = engines(study, data, SEED).updates(base)
    before = set(workers_of(engines))
    assert len(before) == 2
    victim = min(before)
    killer = threading.Thread(target=kill_at_work, args=(victim,))
    killer.start()
    said.clear()
    disturbed = engines(study, data, SEED).updates(base)
    killer.join()
    np.testing.assert_array_equal(disturbed, undisturbed)
    assert any("asked again" in line for line in said), said
    engines(study, data, SEED).updates(base)
    assert len(set(workers_of(engines)) - before) == 1  # and another process took its place


@needs_ray
def test_training_that_bursts_is_its_own_error_and_is_not_asked_again(engines: FlowerEngines, said: list[str]) -> None:
    study = sealed(private=False, rate=1e3)
    said.clear()
    with pytest.raises(FedwardError) as caught:
        engines(study, hospitals(study.manifest), SEED).updates(np.full_like(base_of(study), np.inf))
    assert caught.value.code == "training-diverged"
    assert not said


def cut_short(engines: FlowerEngines, *, interrupted: bool) -> None:
    """Ctrl-C here, or the driver dies, while workers train; no process may be left."""
    study = sealed(steps=10_000)
    sites = engines(study, hospitals(study.manifest), SEED)
    session = engines._running()._process.pid
    assert len(processes_of(session)) > 3
    end = (os.getpid(), signal.SIGINT) if interrupted else (session, signal.SIGKILL)
    threading.Timer(1.0, os.kill, end).start()
    with pytest.raises(KeyboardInterrupt if interrupted else UnreachableError), engines:
        sites.updates(base_of(study))
    deadline = time.monotonic() + 5  # a killed process takes a moment
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(session)


@needs_ray
def test_ctrl_c_in_a_round_leaves_no_process(engines: FlowerEngines) -> None:
    cut_short(engines, interrupted=True)


@needs_ray
@pytest.mark.prove
def test_a_driver_that_dies_in_a_round_leaves_no_process() -> None:
    cut_short(FlowerEngines(len(SIZES), workers=1), interrupted=False)


@pytest.fixture
def cluster() -> Iterator[str]:
    """A Ray head on loopback, as somebody else would have started it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    loopback = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_failure_threshold": "200",  # as the engine's own: a busy machine stalls
    }
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--port",
        str(port),
    ]
    # Its own folder: what `ray start` writes to the common one would make others on this machine join it.
    folder = tempfile.mkdtemp(prefix="fedward-ray-", dir="/tmp")
    command += ["--temp-dir", folder]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in loopback.items():
            patch.setenv(name, value)
        process = started(command, Path(folder) / "said")
        try:
            yield f"127.0.0.1:{port}"
            assert process.poll() is None  # the engine left it alone
        finally:
            left = processes_of(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


@needs_ray
def test_a_cluster_that_runs_already_is_used_by_its_address(cluster: str) -> None:
    study = sealed()
    base = base_of(study)
    with FlowerEngines(len(SIZES), address=cluster) as engines:
        found = engines(study, hospitals(study.manifest), SEED).updates(base)
        short = heart_manifest(training={"rounds": 2})
        simulated = simulate_study(short, hospitals(short), 0, engines)
    np.testing.assert_array_equal(found, looped(study, base, 0))
    assert simulated.vector is not None


class Script:
    """A driver whose words are given."""

    def __init__(self, words: list[Any]) -> None:
        self.words = [({"event": "ready", "workers": 2}, b""), *words]
        self.works: list[tuple[int, int]] = []

    def send(self, header: dict[str, Any], parcel: bytes = b"") -> None:
        if header["do"] == "work":
            self.works.append((header["work"], header["place"]))

    def receive(self, seconds: float) -> Any:
        word = self.words.pop(0)
        if isinstance(word, Exception):
            raise word
        return word() if callable(word) else word

    def last_words(self) -> str:
        return "Out of memory"

    def close(self) -> None:
        self.words.clear()


def scripted(
    monkeypatch: pytest.MonkeyPatch, words: list[Any], address: str | None = None
) -> tuple[FlowerEngines, Script, list[str]]:
    script, lines = Script(words), []
    monkeypatch.setattr(flower_engine, "Driver", lambda _setup, _patience: script)
    monkeypatch.setattr(flower_engine.importlib.util, "find_spec", lambda _name: True)  # type: ignore[attr-defined]
    return FlowerEngines(len(SIZES), address=address, tell=lines.append, patience=7.0), script, lines


def reply(work: int, value: float = 0.0) -> Any:
    return {"event": "reply", "work": work, "worker": "here:1"}, pack(
        {"error": None}, update=np.full(3, value, dtype=np.float32)
    )


def lost(work: int) -> Any:
    return {
        "event": "lost",
        "work": work,
        "reason": "<class 'ray.exceptions.ActorDiedError'>:<'the worker\n died'>",
    }, b""


BASE = np.zeros(3, dtype=np.float32)


def test_a_ray_that_did_not_start_is_started_again_and_another_s_cluster_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = ({"event": "failed", "reason": "Exception: The current node timed out during startup."}, b"")
    study = sealed()
    for starts, address, reached in ((1, None, True), (2, None, True), (3, None, False), (1, "10.0.0.1:6379", False)):
        engines, _, lines = scripted(monkeypatch, [], address)
        scripts = [Script([]) for _ in range(starts + 1)]
        for script in scripts[:starts]:
            script.words = [slow]
        left = iter(scripts)
        monkeypatch.setattr(flower_engine, "Driver", lambda _setup, _patience, left=left: next(left))
        with engines, contextlib.ExitStack() as expected:
            if not reached:
                expected.enter_context(pytest.raises(UnreachableError, match="timed out during startup"))
            engines(study, hospitals(study.manifest), SEED)
        assert sum("started again" in line for line in lines) == (0 if address else min(starts, 2))


def test_a_site_that_is_lost_each_time_ends_the_round_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [reply(1), reply(2), reply(4), lost(3), *(lost(work) for work in range(5, 4 + ATTEMPTS))]
    paused: list[float] = []
    monkeypatch.setattr(flower_engine.time, "sleep", paused.append)
    engines, script, lines = scripted(monkeypatch, words)
    study = sealed()
    with (
        engines,
        pytest.raises(
            UnreachableError, match=rf"no update of c in {ATTEMPTS} attempts. Got ActorDiedError: the worker died"
        ) as caught,
    ):
        engines(study, hospitals(study.manifest), SEED).updates(BASE)
    assert caught.value.code == WORKERS_LOST
    assert [place for _, place in script.works] == [0, 1, 2, 3, *[2] * (ATTEMPTS - 1)]
    assert paused == [1, 2, 4, 8, 0]  # Ray has time to start another worker
    assert sum("c asked again" in line for line in lines) == ATTEMPTS - 1


def test_silence_has_an_end_and_late_or_double_replies_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    # Work 3 is asked again as 5 after silence; its first message is lost, which does not matter, and the second replies.
    words = [reply(1, 1), reply(2, 2), reply(4, 4), None, lost(3), reply(5, 3)]
    # The next round: 6 to 9, with a reply of the round before and a double one.
    words += [reply(3, 9), reply(6, 1), reply(6, 9), reply(7, 2), reply(8, 3), reply(9, 4)]
    words += [reply(10), reply(11), *[None] * ATTEMPTS]
    engines, _, lines = scripted(monkeypatch, words)
    study = sealed()
    with engines:
        sites = engines(study, hospitals(study.manifest), SEED)
        for _ in range(2):
            np.testing.assert_array_equal(sites.updates(BASE)[:, 0], [1, 2, 3, 4])
        assert any("c asked again: no site replied for 7 s" in line for line in lines)
        with pytest.raises(
            UnreachableError, match=rf"no update of c, d in {ATTEMPTS} attempts.*no site replied for 7 s"
        ):
            sites.updates(BASE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([reply(1), EOFError()], "has ended.*Out of memory"),
        ([({"event": "failed", "reason": "ActorPool is empty"}, b"")], "has failed.*ActorPool is empty"),
    ],
    ids=["ended", "failed"],
)
def test_a_simulation_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch, words: list[Any], said: str) -> None:
    engines, _, _ = scripted(monkeypatch, words)
    study = sealed()
    with engines, pytest.raises(UnreachableError, match=said):
        simulate_study(study.manifest, hospitals(study.manifest), 0, engines)


def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ray-address"):
        FlowerEngines(3, workers=2, address="auto")
    monkeypatch.setattr(flower_engine.importlib.util, "find_spec", lambda _name: None)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"fedward\[simulation\]") as caught:
        FlowerEngines(3)
    assert caught.value.code == "ray-missing"
    with pytest.raises(InputError, match="not started by its name"):
        simulate_study(sealed().manifest, hospitals(sealed().manifest), 0, "flower")
    engines, _, _ = scripted(monkeypatch, [])
    study = sealed()
    with engines, pytest.raises(InputError, match="roster"):
        engines(study, {}, SEED)
