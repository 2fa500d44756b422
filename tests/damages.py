"""A hospital's home that has run one study and is in the middle of another; everything that can befall one of its files; and
what its commands and its node say then.

The files are found by walking the home. `Home.say` is what a person and the coordinator get to know: codes, by who says them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command import fedward
from federation import Federation, heart_manifest
from hospital import SITE, Site

from fedward.client import approvals, decisions
from fedward.client.flower import FleetLoop
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.client.node_state import write_state
from fedward.client.running import run_node
from fedward.client.unlock import forget
from fedward.privacy.errors import FedwardError
from fedward.study.messages import Refusal

OTHER = "cleveland"
UNNAMED = frozenset({"internal-error", "system", "error", "traceback"})
VOLATILE = ("node.lock", "audit/lock", "ledger.sqlite-shm")
"""Files that hold nothing: locks, and SQLite's index of its log, which it makes anew."""


def _half(path: Path, _older: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path, _older: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _copy_of(source: Path, path: Path) -> None:
    if not source.is_file() or source.read_bytes() == path.read_bytes():
        raise NotThereError
    shutil.copyfile(source, path)


class NotThereError(Exception):
    """This damage cannot befall this file: there is no older copy that differs, or it is empty."""


def _nonempty(change: Callable[[Path, Path, Path], None]) -> Callable[[Path, Path, Path], None]:
    def step(path: Path, older: Path, other: Path) -> None:
        if not path.stat().st_size:
            raise NotThereError
        change(path, older, other)

    return step


DAMAGES: dict[str, Callable[[Path, Path, Path], None]] = {
    "emptied": _nonempty(lambda path, *_: path.write_bytes(b"")),
    "cut in half": _nonempty(_half),
    "one bit flipped": _nonempty(_flip),
    "an older copy": lambda path, older, _: _copy_of(older, path),
    "another home's": lambda path, _, other: _copy_of(other, path),
    "deleted": lambda path, *_: path.unlink(),
    "open to others": lambda path, *_: path.chmod(0o666),
}


@dataclass(frozen=True)
class Said:
    """Codes, by who says them; `unfit` lists what must never be said."""

    status: str
    review: str
    doctor: tuple[str, ...]
    start: str
    work: str
    unfit: tuple[str, ...]
    spent: float | None
    state: str

    @property
    def told(self) -> frozenset[str]:
        return frozenset({self.status, self.review, *self.doctor, self.start, self.work} - {"ok"})


@dataclass
class Damaged:
    """The federation of the damaged home, to copy; and its home as it was before its second study."""

    folder: Path
    federation: Federation = field(init=False)
    found: Said = field(init=False)
    spent: float = field(init=False)

    def make(self) -> Damaged:
        self.federation = Federation(self.folder / "now")
        first = heart_manifest(secure=True, noised=True, training={"rounds": 1}, evaluation={"every": 1})
        self.federation.ready(first)
        self.federation.run()
        home = self.federation.sites[SITE]
        shutil.copytree(home.path, self.folder / "older")
        second = heart_manifest(noised=True, study={"id": "second"}, training={"rounds": 3}, evaluation={"every": 1})
        self.federation.ready(second)
        site = Site(self.federation)
        site.work(base="0" * 64)  # a lie, for an incident with its evidence
        site.work()
        assert Incidents(home.incidents_folder).list()
        write_state(home, "connected", "")
        for node in self.federation.transport.nodes.values():
            node._ledger.close()  # type: ignore[attr-defined]
            node._log.close()  # type: ignore[attr-defined]
        with home.ledger(witnessed=False) as ledger:
            self.spent = ledger.spent()
        self.found = self.say(None, None)
        return self

    def files(self) -> list[str]:
        home = self.federation.sites[SITE].path
        return sorted(
            path.relative_to(home).as_posix()
            for path in home.rglob("*")
            if path.is_file() and path.relative_to(home).as_posix() not in VOLATILE
        )

    def say(self, file: str | None, damage: str | None) -> Said:
        """What is said after a damage to one file of a fresh copy. Raises NotThereError where it cannot befall it."""
        folder = self.folder / "case"
        twin = self.federation.copy(folder)
        try:
            home = twin.sites[SITE]
            for node in twin.transport.nodes.values():
                node._ledger.close()  # type: ignore[attr-defined]
                node._log.close()  # type: ignore[attr-defined]
            if file is not None and damage is not None:
                if file.endswith(("-wal", "-shm")) and not (home.path / file).exists():
                    raise NotThereError  # SQLite took it away as the last connection closed
                other = self.federation.sites[OTHER].path / file
                DAMAGES[damage](home.path / file, self.folder / "older" / file, other)
            forget()
            decisions.forget(home.path)  # as a process that was just started
            return _say(twin, home)
        finally:
            forget()
            twin.store.close()
            shutil.rmtree(folder)


def _say(twin: Federation, home: SiteHome) -> Said:
    unfit: list[str] = []
    codes = {name: _command(unfit, name, home) for name in ("status", "review")}
    doctor = fedward("site", "doctor", "--home", home.path, "--json")
    checks = doctor.json.get("checks", doctor.json.get("findings", []))
    failed = tuple(
        sorted({f"{one['check']}: {one['code']}" for one in checks if one["code"] and one["check"] not in NETWORK})
    )
    unfit += [f"doctor {one}" for one in failed if one.split(": ")[1] in UNNAMED]
    start = _start(unfit, home)
    work = _work(unfit, twin)
    try:
        with home.ledger() as ledger:
            spent: float | None = ledger.spent()
    except FedwardError:
        spent = None
    try:
        state = approvals.standing_of(home, twin.sealed().digest, twin.clock.unix()).state
    except FedwardError as error:
        state = error.code
    except Exception as error:  # noqa: BLE001 - a traceback is a finding here
        unfit.append(f"standing: {type(error).__name__}")
        state = "traceback"
    return Said(codes["status"], codes["review"], failed, start, work, tuple(unfit), spent, state)


NETWORK = frozenset(
    {"coordinator", "tls", "clock", "proxy", "service", "node", "memory", "disk", "versions", "certificate"}
)


def _command(unfit: list[str], name: str, home: SiteHome) -> str:
    try:
        ran = fedward("site", name, "--home", home.path, "--json")
    except Exception as error:  # noqa: BLE001 - a traceback is a finding here
        unfit.append(f"{name}: {type(error).__name__}")
        return "traceback"
    code = "ok" if ran.code == 0 else str(ran.json.get("error"))
    if code in UNNAMED:
        unfit.append(f"{name}: {ran.json}")
    return code


def _start(unfit: list[str], home: SiteHome) -> str:
    """`fedward site start`, whose connection ends at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FleetLoop, "run", lambda _: None)
        patch.setattr("fedward.client.running.SiteLog.take_over", lambda _: None)
        patch.setattr("fedward.client.running.signal.signal", lambda *_: None)
        patch.setattr("fedward.client.running.resource.setrlimit", lambda *_: None)
        patch.setattr("fedward.client.running._warm_up", lambda: None)
        try:
            run_node(home, lambda _: None)
        except FedwardError as error:
            if error.code in UNNAMED:
                unfit.append(f"start: {error.text()}")
            return error.code
        except Exception as error:  # noqa: BLE001 - likewise
            unfit.append(f"start: {type(error).__name__} {error}")
            return "traceback"
    return "ok"


def _work(unfit: list[str], twin: Federation) -> str:
    """The next attempt of the study that is running here."""
    try:
        twin.restart(SITE)
    except FedwardError as error:
        return f"no node: {error.code}"
    except Exception as error:  # noqa: BLE001 - likewise
        unfit.append(f"node: {type(error).__name__} {error}")
        return "traceback"
    try:
        reply = Site(twin).work(attempt=2)
    except FedwardError as error:
        return f"no request: {error.code}"
    except Exception as error:  # noqa: BLE001 - the site's key may be gone for this test, too
        unfit.append(f"work: {type(error).__name__} {error}")
        return "traceback"
    finally:
        node = twin.transport.nodes[SITE]
        node._ledger.close()  # type: ignore[attr-defined]
        node._log.close()  # type: ignore[attr-defined]
    if isinstance(reply, Refusal):
        if reply.code in UNNAMED:
            unfit.append(f"work: {reply.code}")
        return reply.code
    return "ok"


def general(file: str) -> str:
    """A file's name without what differs from home to home."""
    name = re.sub(r"[0-9a-f]{64}", "DIGEST", file)
    name = re.sub(r"[0-9]{12}\.log", "NUMBER.log", name)
    return re.sub(r"[0-9]{6}-[0-9a-f]{12}", "NUMBER-REFERENCE", name)
