"""What is exhaustive, and too long for `make test`: `python scripts/prove.py [--only foundation] [--again]`.

A proof is one run of pytest. One that holds is recorded in .prove/state.json under a digest of everything it depends on,
so that a run which was interrupted goes on where it was, and a change of the code asks for the proof again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".prove" / "state.json"
PACKAGES = ("study", "privacy", "client", "server", "cli", "scripts/bundle")
SHARED = (
    "pyproject.toml",
    "constraints.txt",
    "benchmarks/fleet.py",
    "benchmarks/node_host.py",
    "benchmarks/node_warmth.py",
    "benchmarks/processes.py",
    "tests/childnode.py",
    "tests/cohort.py",
    "tests/conftest.py",
    "tests/damages.py",
    "tests/deadly_app.py",
    "tests/deadly_service.py",
    "tests/deaths.py",
    "tests/federation.py",
    "tests/forgeries.py",
    "tests/invariants.py",
    "tests/mortal.py",
    "tests/nodefaults.py",
    "tests/relay.py",
    "tests/sampling.py",
    "tests/scripted.py",
    "tests/secured.py",
    "tests/siege.py",
    "tests/sitesteps.py",
    "tests/sums.py",
)


@dataclass(frozen=True)
class Proof:
    """One run of pytest over `tests`. `needs` are environment variables that must be set; `settings` are set for it."""

    name: str
    what: str
    tests: tuple[str, ...]
    marker: str = "prove"
    settings: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


PROOFS: dict[str, list[Proof]] = {
    "foundation": [
        Proof(
            "heart-data",
            "the embedded hospitals hold UCI's records, bit by bit",
            ("tests/study/test_heart_data.py",),
            marker="not prove",
            needs=("FEDWARD_TEST_DATA",),
        ),
        Proof(
            "kill-everywhere",
            "coordinator and nodes die at every single step of a study",
            ("tests/prove/test_kill_everywhere.py",),
        ),
        Proof(
            "ledger-kill",
            "200 × kill -9 while a ledger is charged",
            ("tests/faults/test_ledger_kill.py",),
            marker="not prove",
            settings={"FEDWARD_KILLS": "200"},
        ),
        Proof(
            "ledger-writes",
            "kill -9 at every durable write of a ledger, of which `make test` takes a sample",
            ("tests/faults/test_ledger_writes.py",),
            marker="not prove",
            settings={"FEDWARD_EVERYWHERE": "all"},
        ),
        Proof(
            "coordinator-kill",
            "a coordinator dies before and after every write and message, of which `make test` takes a sample",
            ("tests/server/test_running.py", "tests/server/test_secure_running.py"),
            marker="not prove",
            settings={"FEDWARD_EVERYWHERE": "all"},
        ),
        Proof("soak", "50 rounds of everyday trouble", ("tests/prove/test_soak.py",), settings={"FEDWARD_SOAKS": "10"}),
        Proof(
            "fuzz-messages",
            "100 000 changed messages and manifests for each parser",
            ("tests/prove/test_fuzz_messages.py",),
            settings={"FEDWARD_FUZZ_EXAMPLES": "100000"},
        ),
    ],
    "coordinator": [
        Proof(
            "dies",
            "a coordinator dies at every place of a study, and its last model is the undisturbed one's",
            ("tests/faults/test_coordinator_dies.py",),
            marker="not prove",
            settings={"FEDWARD_EVERYWHERE": "all"},
        ),
        *(
            Proof(
                f"killed-{mode}-{name}",
                f"real processes, {mode} sums: {who} killed at every journal point",
                ("tests/prove/test_coordinator_killed.py",),
                settings={"FEDWARD_SIEGE_MODES": mode, "FEDWARD_SIEGE_VICTIMS": victims},
            )
            for mode in ("plain", "secure")
            for name, who, victims in (
                ("app", "the ServerApp", "app"),
                ("service", "the service with its SuperLink", "service"),
                ("sites", "each hospital's node", "cleveland,hungarian,switzerland,va"),
            )
        ),
        Proof(
            "secure-stages",
            "real processes: sites and coordinator killed at each stage of a secure round",
            ("tests/faults/test_secure_processes.py",),
        ),
        Proof(
            "fuzz-replies",
            "100 000 changed replies for each kind of admission",
            ("tests/attacks/test_mutated_replies.py",),
            marker="not prove",
            settings={"FEDWARD_FUZZ_EXAMPLES": "100000"},
        ),
    ],
    "demo": [
        Proof(
            "own",
            "the demo on three hospitals of somebody's own, and Ray's engine while its processes die",
            ("tests/e2e/test_demo.py", "tests/simulations/test_flower_engine.py"),
        ),
    ],
    "node": [
        Proof(
            "study",
            "a hospital's node is killed, or finds its disk full, at every write of a study",
            ("tests/prove/test_node_faults.py",),
        ),
        Proof(
            "commands",
            "every command of a hospital is killed, or finds its disk full, at every write",
            ("tests/prove/test_site_commands_faults.py",),
        ),
        Proof(
            "files",
            "every file of a hospital's home is damaged in seven ways, and named",
            ("tests/faults/test_damaged_files.py",),
            marker="not prove",
            settings={"FEDWARD_DAMAGES": "all"},
        ),
    ],
    "network": [
        Proof(
            "cut",
            "the line between a hospital and its coordinator is dead for ten minutes of a study",
            ("tests/e2e/test_network_cut.py",),
            marker="not prove",
            settings={"FEDWARD_CUT_S": "600"},
        ),
        Proof(
            "network",
            "rounds through a real proxy while keys rotate, the proxy dies and a site is revoked; a clock that jumps",
            ("tests/prove/test_behind_a_proxy.py", "tests/faults/test_clock.py"),
        ),
    ],
    "monitor": [
        Proof(
            "live",
            "every page in a real browser while a real federation is at work, and its end",
            ("tests/prove/test_monitor_live.py",),
        ),
    ],
    "soak": [
        Proof(
            "sites",
            "500 rounds over the real SuperLink while sites die: no leak, no stuck round, every ledger equals the journal",
            ("tests/prove/test_long_soak.py",),
        ),
    ],
    "secagg": [
        Proof(
            "exact",
            "9 900 sums of up to 20 sites, 100 of up to 200, and 10 000 of masks alone are exact",
            ("tests/prove/test_secagg_exact.py",),
            settings={"FEDWARD_SECAGG_SUMS": "9900", "FEDWARD_SECAGG_LARGE": "100", "FEDWARD_SECAGG_ALGEBRA": "10000"},
        ),
        Proof(
            "fuzz",
            "100 000 changed messages for each parser and each machine of secure aggregation",
            ("tests/prove/test_secagg_fuzz.py",),
            settings={"FEDWARD_FUZZ_EXAMPLES": "100000"},
        ),
    ],
    "bundle": [
        Proof(
            "offline",
            "the offline kit is made, installed without any network, and a federation trains with it there",
            ("tests/prove/test_offline_kit.py",),
        ),
    ],
}

State = dict[str, dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run every proof that is not on record; 0 if all of them hold, else 1."""
    names, again = _chosen(arguments)
    proofs = [(f"{name}/{proof.name}", proof) for name in names for proof in PROOFS[name]]
    state, results = _read_state(), {}
    for place, (name, proof) in enumerate(proofs, 1):
        digest = _digest(proof)
        known = state.get(name)
        if known is not None and known["digest"] == digest and not again:
            results[name] = f"holds (on record since {known['at']}, commit {known['commit']})"
            _say(f"[{place}/{len(proofs)}] {name}: on record")
            continue
        _say(f"[{place}/{len(proofs)}] {name}: {proof.what} …")
        began = time.monotonic()
        failure = _run(proof)
        took = time.monotonic() - began
        if not failure and digest != _digest(proof):
            failure = "what it tests was changed while it ran; run it again"
        _record(state, name, None if failure else digest, took)
        results[name] = f"FAILED: {failure}" if failure else f"holds ({took:.0f} s)"
        _say(f"[{place}/{len(proofs)}] {name}: {results[name]}")
    _say("\nsummary")
    for name, result in results.items():
        _say(f"  {name:32} {result}")
    return 1 if any(result.startswith("FAILED") for result in results.values()) else 0


def _chosen(arguments: list[str] | None) -> tuple[list[str], bool]:
    parser = argparse.ArgumentParser(
        prog="scripts/prove.py", description="Run what is exhaustive; it goes on where it was."
    )
    parser.add_argument("--only", metavar="NAME,…", help=f"some of: {', '.join(PROOFS)}; all by default")
    parser.add_argument("--again", action="store_true", help="run proofs again that are on record")
    parsed = parser.parse_args(arguments)
    if parsed.only is None:
        return list(PROOFS), parsed.again
    names = [name.strip() for name in parsed.only.split(",") if name.strip()]
    unknown = [name for name in names if name not in PROOFS]
    if unknown or not names:
        parser.error(f"no proofs {', '.join(unknown) or 'named'}; there is: {', '.join(PROOFS)}")
    return names, parsed.again


def _run(proof: Proof) -> str:
    """Run one proof with its output passed on; what went wrong, or nothing."""
    missing = [name for name in proof.needs if not os.environ.get(name)]
    if missing:
        return f"set {', '.join(missing)} (see CONTRIBUTING.md)"
    # A skipped test proves nothing: tests/conftest.py turns each into a failure.
    # The models are tiny: a second thread of torch only waits, and much longer on a busy machine.
    environment = os.environ | proof.settings | {"FEDWARD_REQUIRE_ALL": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *proof.tests, "-m", proof.marker, "--disable-warnings"]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode  # noqa: S603 - our own interpreter
    return {0: "", 1: "a test failed", 2: "interrupted", 5: "no test was found"}.get(
        code, f"pytest ended with code {code}"
    )


def _digest(proof: Proof) -> str:
    """SHA-256 over the proof and every file that it depends on, by path."""
    whole = hashlib.sha256(repr(proof).encode())
    for path in sorted(_files(proof)):
        whole.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _files(proof: Proof) -> Iterable[Path]:
    yield from (ROOT / name for name in (*SHARED, *proof.tests))
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _read_state() -> State:
    try:
        state: State = json.loads(STATE.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state


def _record(state: State, name: str, digest: str | None, took: float) -> None:
    """Write what holds at once, so that an interruption loses at most the proof that it hits."""
    state.pop(name, None)
    if digest is not None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        state[name] = {"digest": digest, "commit": _commit(), "at": at, "seconds": round(took, 1)}
    STATE.parent.mkdir(exist_ok=True)
    draft = STATE.with_suffix(".new")
    draft.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    draft.replace(STATE)


def _commit() -> str:
    """The commit that is checked out, with a + when files differ from it."""
    described = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    done = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - git of the PATH
    return done.stdout.strip() or "unknown"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say("interrupted; what holds so far is on record, run it again to go on")
        sys.exit(130)
