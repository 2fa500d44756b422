"""kill -9 at every durable write of a ledger: it opens again or says what to do, and never forgets what was acknowledged.

A child process counts the places at which it could die: before and after every statement and commit of SQLite, every fsync,
and every rename, removal and copy of a file. Then, for each place (or a sample of them, see sampling.py), a child kills itself
there, on a fresh copy of the files.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sampling import sample
from sqlcipher3 import dbapi2 as sqlite3

from fedward.privacy import ledgerfile
from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Ledger, Reservation
from fedward.privacy.recovery import assess, recover

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.timeout(600)]

BUDGET = Budget(3.0, 1e-5)
A, B = "a" * 64, "b" * 64
STEP, WHOLE = DpEvent(8.0, 1.0, 1), DpEvent(8.0, 1.0, 6)
FOLDER = Path("ledger")
Operation = Callable[[Path], None]


def create(path: Path) -> None:
    Ledger.create(path, budget=BUDGET, lineage="x").close()


def begin(path: Path) -> None:
    """A ledger with one reservation, of which one step was charged."""
    create(path)
    with Ledger.open(path) as book:
        book.reserve(Reservation(A, "s", (WHOLE,), 10**6, "c" * 64), at=1)
        book.charge(Charge(A, "s", 1, 0, STEP), at=2)


def reserve(path: Path) -> None:
    with Ledger.open(path) as book:
        book.reserve(Reservation(B, "t", (WHOLE,), 10**6, "c" * 64), at=3)


def charge(path: Path) -> None:
    with Ledger.open(path) as book:
        book.charge(Charge(A, "s", 2, 0, STEP), at=3)


def release(path: Path) -> None:
    with Ledger.open(path) as book:
        book.release(A, "stopped", at=3)


def put_back(path: Path) -> None:
    """From a copy that was made before the last charge; of what lies there, the head may tell."""
    copy = ledgerfile.read_chain(path.with_name("backup"))
    loss = assess(path, copy, [])
    recover(path, loss, lost="charges", by="Ada", reason="lost", at=9, budget=BUDGET, lineage="x")


class Mortal:
    """Counts the places that a process passes and kills it at the one numbered `at`."""

    def __init__(self, at: int | None, report: int) -> None:
        self.at, self.passed, self.report = at, 0, report

    def place(self, name: str) -> None:
        if self.at == self.passed:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1
        if self.at is None:
            os.write(self.report, f"{name}\n".encode())

    def around(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            self.place(f"before {name}")
            result = original(*arguments, **named)
            self.place(f"after {name}")
            return result

        setattr(owner, name, step)

    def install(self) -> None:
        mortal = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *rest: Any) -> sqlite3.Cursor:
                mortal.place(f"before {statement[:20]!r}")
                return super().execute(statement, *rest)

            def cursor(self, *rest: Any) -> Any:
                mortal.place("before a statement")
                return super().cursor(*rest)

            def commit(self) -> None:
                mortal.place("before commit")
                super().commit()
                mortal.place("after commit")

            def close(self) -> None:
                mortal.place("before close")
                super().close()
                mortal.place("after close")

        original = sqlite3.connect
        sqlite3.connect = lambda *a, **k: original(*a, factory=Connection, **k)  # type: ignore[assignment,misc]
        self.around(os, "fsync")
        for name in ("replace", "rename", "unlink"):
            self.around(Path, name)
        self.around(shutil, "copy2")
        self.around(os, "open")


def run(operation: Operation, path: Path, at: int | None) -> tuple[bool, list[str]]:
    """Runs it in a child that dies at a place; whether it came to its end, and the places of one that may not die."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Mortal(at, write).install()
            operation(path)
            os.write(write, b"done\n")
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as lines:
        said = lines.read().split("\n")[:-1]
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), said[-3:]
    return said[-1:] == ["done"], said[:-1]


def everywhere(
    folder: Path, ready: Callable[[Path], None], operation: Operation, check: Callable[[Path, bool], None]
) -> int:
    """Kills the operation at the sampled ones of its places, on a fresh copy each; returns how many places there are."""
    prepared = folder / "prepared"
    prepared.mkdir()
    ready(prepared / "ledger")
    epsilon([STEP], BUDGET.delta)  # the children inherit the loaded accountant
    dry = Path(shutil.copytree(prepared, folder / "dry")) / "ledger"
    done, places = run(operation, dry, None)
    assert done
    check(dry, True)
    for at in sample(places):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(shutil.copytree(prepared, Path(scratch) / "copy")) / "ledger"
            done, _ = run(operation, path, at)
            assert not done, "nothing was killed"
            try:
                check(path, False)
            except Exception as error:
                error.add_note(f"killed at place {at} of {len(places)}: {places[at]}")
                raise
    return len(places)


def test_create(tmp_path: Path) -> None:
    def check(path: Path, done: bool) -> None:
        try:
            Ledger.open(path).close()
        except InputError:
            assert not done
            leftover = path.with_name("ledger.new")
            if leftover.exists():
                with pytest.raises(InputError, match="delete that file"):
                    create(path)
                leftover.unlink()  # as it was told
            create(path)
        with Ledger.open(path) as book:
            assert (book.verify().sequence, book.spent()) == (0, 0.0)

    assert everywhere(tmp_path, lambda _: None, create, check) >= 20


def test_reserve(tmp_path: Path) -> None:
    def check(path: Path, done: bool) -> None:
        with Ledger.open(path) as book:
            held = {one.reservation.study_digest for one in book.reservations()}
            assert A in held
            assert not done or B in held
            if B in held:
                with pytest.raises(RefusalError, match="already"):
                    reserve(path)
            else:
                reserve(path)
            book.verify()
            assert book.committed() == epsilon([WHOLE, WHOLE], BUDGET.delta)

    assert everywhere(tmp_path, begin, reserve, check) >= 12


def test_charge(tmp_path: Path) -> None:
    def check(path: Path, done: bool) -> None:
        with Ledger.open(path) as book:
            made = len(book.charges())
            assert made == 2 if done else made in (1, 2)
            assert book.spent() == epsilon([STEP] * made, BUDGET.delta)
            if made == 2:
                with pytest.raises(RefusalError, match="before"):
                    charge(path)
            else:
                charge(path)
            book.verify()
            assert (len(book.charges()), book.committed()) == (2, epsilon([WHOLE], BUDGET.delta))

    assert everywhere(tmp_path, begin, charge, check) >= 12


def test_release(tmp_path: Path) -> None:
    def check(path: Path, done: bool) -> None:
        release(path)
        with Ledger.open(path) as book:
            book.verify()
            assert book.committed() == book.spent() == epsilon([STEP], BUDGET.delta)
            assert len(book.entries()) == 3

    assert everywhere(tmp_path, begin, release, check) >= 12


def lost(path: Path) -> None:
    """The file is gone; there is a backup from before the last charge, and the head file."""
    begin(path)
    shutil.copy(path, path.with_name("backup"))
    charge(path)
    path.unlink()


def damaged(path: Path) -> None:
    lost(path)
    path.write_bytes(b"no ledger" * 999)


def rolled_back(path: Path) -> None:
    lost(path)
    shutil.copy(path.with_name("backup"), path)


def without_head(path: Path) -> None:
    damaged(path)
    ledgerfile.head_path(path).unlink()


def _refused(path: Path) -> bool:
    try:
        Ledger.open(path).close()
    except (IntegrityError, InputError):
        return True
    return False


@pytest.mark.parametrize("ready", [lost, damaged, rolled_back, without_head])
def test_recover(tmp_path: Path, ready: Callable[[Path], None]) -> None:
    def check(path: Path, done: bool) -> None:
        if not done and _refused(path):
            put_back(path)  # again: nothing that the cut-off one left is in the way
        with Ledger.open(path) as book:
            book.verify()
            # Two steps were acknowledged; the backup knows of one; all that it reserved counts.
            assert book.spent() == book.committed() == epsilon([WHOLE], BUDGET.delta)
            assert book.reservations() == []
        with pytest.raises(FedwardError):
            charge(path)

    assert everywhere(tmp_path, ready, put_back, check) >= 25
