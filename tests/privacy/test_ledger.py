"""The privacy ledger: what it counts, and every way to make it forget."""

from __future__ import annotations

import math
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlcipher3 import dbapi2 as sqlite3

from fedward.privacy import ledger as module
from fedward.privacy import ledgerfile
from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import (
    FedwardError,
    InputError,
    IntegrityError,
    RefusalError,
    UnreachableError,
    UsageError,
)
from fedward.privacy.events import CountEvent, DpEvent, Event
from fedward.privacy.ledger import Budget, Charge, Head, Ledger, Receipt, Reservation

STUDY = "a" * 64
OTHER = "b" * 64
BUDGET = Budget(3.0, 1e-5)
EVENT = DpEvent(4.0, 1.0, 1)
FITTING = 8  # as many of these as the budget bears


def charge(round_: int, *, study: str = STUDY, attempt: int = 0, event: Event | None = EVENT, **rest: Any) -> Charge:
    return Charge(study, f"study-{study[0]}", round_, attempt, event, **rest)


def reserve(made: Ledger, *events: Event, study: str = STUDY) -> Receipt:
    """Reserve the events, or three charges, for a study."""
    schedule = events or (DpEvent(4.0, 1.0, 3),)
    return made.reserve(Reservation(study, f"study-{study[0]}", schedule, 10**10, "c" * 64), at=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "patients.ledger"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path, budget=BUDGET, lineage="st-elsewhere/cardiology") as made:
        yield made


def filled(path: Path, count: int = 3) -> Head:
    """A closed ledger with a reservation and `count` charges, the last without differential privacy; its head."""
    with Ledger.create(path, budget=BUDGET, lineage="st-elsewhere/cardiology") as made:
        reserve(made, DpEvent(4.0, 1.0, FITTING - 2))
        for number in range(count - 1):
            made.charge(charge(number), at=1_000 + number)
        made.charge(charge(count - 1, event=None, purpose="train-without-dp"), at=2_000)
        return made.head


@contextmanager
def forced_open(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody with a SQLite shell has it: without the triggers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection


# --- what it counts --------------------------------------------------------------------------------------------------


def test_events_of_every_kind_survive(path: Path) -> None:
    events = [EVENT, CountEvent(20.0, 1, 3, 2), DpEvent(8.0, 0.25, 10)]
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made, *events)
        for number, event in enumerate(events):
            made.charge(charge(number, event=event), at=number)
    with Ledger.open(path) as found:
        assert [entry.charge.event for entry in found.charges()] == events
        assert found.spent() == epsilon(events, BUDGET.delta)


def test_a_charge_is_counted_and_survives(ledger: Ledger, path: Path) -> None:
    reserve(ledger)
    receipt = ledger.charge(charge(0), at=1234)
    assert receipt.sequence == 2
    assert ledger.spent() == epsilon([EVENT], 1e-5)
    assert receipt.committed == epsilon([EVENT] * 3, 1e-5) == ledger.committed()
    assert receipt.remaining == pytest.approx(3.0 - receipt.committed, abs=1e-4) == ledger.remaining
    ledger.close()
    with Ledger.open(path) as again:
        (entry,) = again.charges()
        assert (entry.sequence, entry.at, entry.charge, entry.digest) == (2, 1234, charge(0), receipt.entry_digest)
        assert again.budget == BUDGET
        assert again.lineage == "st-elsewhere/cardiology"
        assert again.spent() == epsilon([EVENT], 1e-5)
        assert again.head == again.verify() == Head(2, receipt.entry_digest)


def test_a_new_ledger_has_everything_left(ledger: Ledger) -> None:
    assert ledger.spent() == 0.0
    assert ledger.remaining == 3.0
    assert not ledger.charges()
    assert not ledger.spent_by_study()
    assert ledger.would_cost([]) == 0.0


def test_asking_what_something_would_cost_spends_nothing(ledger: Ledger) -> None:
    reserve(ledger, EVENT)
    ledger.charge(charge(0), at=1)
    assert ledger.would_cost([EVENT, EVENT]) == epsilon([EVENT] * 3, 1e-5)
    assert ledger.spent() == epsilon([EVENT], 1e-5)


def test_studies_compose_over_one_ledger(ledger: Ledger) -> None:
    reserve(ledger)
    reserve(ledger, study=OTHER)
    ledger.charge(charge(0), at=1)
    ledger.charge(charge(0, study=OTHER), at=2)
    ledger.charge(charge(1), at=3)
    first, second = ledger.spent_by_study()
    assert (first.study_digest, first.study_id, first.charges) == (STUDY, "study-a", 2)
    assert (second.study_digest, second.charges) == (OTHER, 1)
    assert (first.epsilon, first.reserved) == (epsilon([EVENT] * 2, 1e-5), epsilon([EVENT], 1e-5))
    assert second.epsilon < first.epsilon < ledger.spent() == epsilon([EVENT] * 3, 1e-5)
    assert ledger.charges_of(STUDY) == 2
    assert ledger.charges_of("c" * 64) == 0


def test_a_round_is_charged_once(ledger: Ledger) -> None:
    reserve(ledger, DpEvent(4.0, 1.0, 4), DpEvent(9.0, 0.1, 1))
    reserve(ledger, EVENT, study=OTHER)
    ledger.charge(charge(0), at=1)
    with pytest.raises(RefusalError) as caught:
        ledger.charge(charge(0, event=DpEvent(9.0, 0.1, 1)), at=2)
    assert caught.value.code == "already-charged"
    for other in (charge(0, attempt=1), charge(1), charge(0, study=OTHER), charge(0, purpose="evaluate")):
        ledger.charge(other, at=3)
    assert len(ledger.charges()) == 5


def test_an_exhausted_budget_refuses(ledger: Ledger) -> None:
    with pytest.raises(RefusalError) as caught:
        reserve(ledger, DpEvent(4.0, 1.0, FITTING + 1))
    assert (caught.value.code, caught.value.exit_code) == ("budget-exhausted", 4)
    assert ledger.entries() == []
    reserve(ledger, DpEvent(4.0, 1.0, FITTING))
    for round_ in range(FITTING):
        ledger.charge(charge(round_), at=round_)
    with pytest.raises(RefusalError) as caught:
        ledger.charge(charge(FITTING), at=99)
    assert caught.value.code == "reservation-used-up"
    assert len(ledger.charges()) == FITTING
    assert ledger.spent() <= BUDGET.epsilon < epsilon([EVENT] * (FITTING + 1), BUDGET.delta)


def test_an_unprotected_run_is_listed_and_unbounded(ledger: Ledger) -> None:
    reserve(ledger)
    ledger.charge(charge(0), at=1)
    assert ledger.promised() == ledger.spent()
    receipt = ledger.charge(charge(1, event=None, purpose="train-without-dp"), at=2)
    assert ledger.spent() == epsilon([EVENT], 1e-5) < receipt.committed
    assert ledger.unprotected == 1
    assert ledger.promised() == math.inf
    assert ledger.spent_by_study()[0].unprotected == 1
    assert ledger.charges()[1].charge.event is None


def test_epsilon_is_never_stored(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(entries)")]
    assert not [name for name in columns if "epsilon" in name or "delta" in name]


def test_only_the_owner_can_read_it(path: Path) -> None:
    old = os.umask(0)
    try:
        with Ledger.create(path, budget=BUDGET, lineage="x") as made:
            reserve(made)
            made.charge(charge(0), at=1)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert "patients.ledger" in modes
    assert "patients.ledger.head" in modes
    assert set(modes.values()) == {0o600}


# --- what it is given ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"study_digest": "A" * 64},
        {"study_digest": "a" * 63},
        {"study_id": ""},
        {"study_id": "two\nlines"},
        {"round": -1},
        {"round": True},
        {"attempt": 1.0},
        {"attempt": 2**31},
        {"purpose": ""},
        {"event": (4.0, 1.0, 1)},
        {"event": None},
        {"purpose": "train-without-dp"},
    ],
)
def test_malformed_charges_are_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"study_digest": STUDY, "study_id": "s", "round": 0, "attempt": 0, "event": EVENT}
    with pytest.raises(InputError):
        Charge(**(fields | wrong))


@pytest.mark.parametrize("at", [-1, 1.5, True, None])
def test_a_charge_without_a_time_is_refused(ledger: Ledger, at: Any) -> None:
    with pytest.raises(InputError, match="at"):
        ledger.charge(charge(0), at=at)
    with pytest.raises(InputError, match="at"):
        ledger.reserve(Reservation(STUDY, "s", (EVENT,), 9, "c" * 64), at=at)
    assert ledger.entries() == []


@pytest.mark.parametrize("budget", [(0.0, 1e-5), (math.nan, 1e-5), (math.inf, 1e-5), (1.0, 0.0), (1.0, 1.0), (1, "x")])
def test_budgets_that_bound_nothing_are_refused(budget: Any) -> None:
    with pytest.raises(InputError, match="budget"):
        Budget(*budget)


def test_a_lineage_has_one_ledger(ledger: Ledger, path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        Ledger.create(path, budget=BUDGET, lineage="x")


def test_no_ledger_is_no_empty_ledger(path: Path) -> None:
    with pytest.raises(InputError, match="no ledger"):
        Ledger.open(path)
    assert not path.exists()


def test_a_creation_that_was_cut_off_can_be_done_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UnreachableError):
            Ledger.create(path, budget=BUDGET, lineage="x")
    assert not path.exists()
    with Ledger.create(path, budget=BUDGET, lineage="y") as made:
        assert reserve(made).sequence == 1


def test_a_killed_creation_names_its_remains(path: Path) -> None:
    path.with_name(path.name + ".new").touch()
    with pytest.raises(InputError, match="delete that file"):
        Ledger.create(path, budget=BUDGET, lineage="x")


def test_another_ledgers_log_is_not_replayed_into_a_new_one(path: Path) -> None:
    path.with_name(path.name + "-wal").touch()
    with pytest.raises(InputError, match="left over"):
        Ledger.create(path, budget=BUDGET, lineage="x")


# --- attacks on the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["UPDATE entries SET at = 0", "DELETE FROM entries", "DELETE FROM genesis"])
def test_sqlite_itself_refuses_changes(path: Path, statement: str) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)


TEXTS = ("previous", "kind", "body", "digest")
NUMBERS = ("sequence", "at")
tampering = st.one_of(
    st.tuples(st.sampled_from(TEXTS), st.one_of(st.text(max_size=70), st.binary(max_size=5), st.just("c" * 64))),
    st.tuples(st.sampled_from(NUMBERS), st.one_of(st.none(), st.integers(0, 2**40), st.floats(allow_nan=False))),
    st.tuples(st.sampled_from(TEXTS + NUMBERS), st.sampled_from([0, 0.5, 4, 8.0, "x", b"x", -1])),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    filled(folder / "l", 4)
    return folder


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), tampering)
def test_any_changed_field_of_any_entry_is_found(pristine: Path, sequence: int, change: tuple[str, Any]) -> None:
    column, value = change
    with tempfile.TemporaryDirectory() as folder:
        target = Path(shutil.copytree(pristine, Path(folder) / "copy")) / "l"
        select = f"SELECT {column}, typeof({column}) FROM entries WHERE rowid = ?"  # noqa: S608 - constants
        update = f"UPDATE entries SET {column} = ? WHERE rowid = ?"  # noqa: S608 - constants
        with forced_open(target) as connection:
            before = connection.execute(select, (sequence,)).fetchone()
            try:
                connection.execute(update, (value, sequence))
            except (sqlite3.Error, UnicodeEncodeError, OverflowError):
                return  # SQLite refused it: nothing was changed
            if column != "sequence" and connection.execute(select, (sequence,)).fetchone() == before:
                return  # the value was the same
            if column == "sequence" and value == sequence:
                return
        with pytest.raises(IntegrityError):
            Ledger.open(target)


@pytest.mark.parametrize("sequence", [1, 2, 3])
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("sequence", "sequence + 7"),
        ("previous", f"'{'d' * 64}'"),
        ("at", "at + 7"),
        ("kind", "iif(kind = 'charge', 'reservation', 'charge')"),
        ("body", "replace(body, '4.0', '5.0')"),
        ("body", "replace(body, 'study-a', 'study-b')"),
        ("body", f"replace(body, '{STUDY}', '{OTHER}')"),
        ("body", "replace(body, ',', ', ')"),
        ("body", "replace(body, '}', ',\"x\":1}')"),
        ("digest", f"'{'d' * 64}'"),
    ],
)
def test_a_plausible_change_of_any_field_is_found(
    pristine: Path, tmp_path: Path, column: str, change: str, sequence: int
) -> None:
    target = Path(shutil.copytree(pristine, tmp_path / "copy")) / "l"
    with forced_open(target) as connection:
        connection.execute(f"UPDATE entries SET {column} = {change} WHERE rowid = {sequence}")  # noqa: S608 - constants
    with pytest.raises(IntegrityError):
        Ledger.open(target)


@pytest.mark.parametrize(
    ("column", "value"),
    [("epsilon", 30.0), ("delta", 1e-3), ("lineage", "y"), ('"order"', 3.0), ('"order"', 1.0), ("digest", "c" * 64)],
)
def test_a_changed_budget_is_found(path: Path, column: str, value: object) -> None:
    filled(path)
    with forced_open(path) as connection:
        connection.execute(f"UPDATE genesis SET {column} = ?", (value,))  # noqa: S608 - constants
    with pytest.raises(IntegrityError):
        Ledger.open(path)


def test_a_format_of_another_version_is_named(path: Path) -> None:
    filled(path)
    with forced_open(path) as connection:
        connection.execute("UPDATE genesis SET format = 99")
    with pytest.raises(InputError, match="another version"):
        Ledger.open(path)


def test_a_ledger_of_the_format_before_is_named(path: Path) -> None:
    """Format 2 had no reservations, and no order in its first link."""
    filled(path)
    with forced_open(path) as connection:
        connection.execute("DROP TABLE genesis")
        connection.execute(
            "CREATE TABLE genesis (id INTEGER, format INTEGER, lineage TEXT, epsilon REAL, delta REAL, digest TEXT)"
        )
        connection.execute("INSERT INTO genesis VALUES (1, 2, 'x', 3.0, 1e-5, 'd')")
    with pytest.raises(InputError, match="another version"):
        Ledger.open(path)


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_a_deleted_entry_is_found(path: Path, which: int) -> None:
    filled(path)
    with forced_open(path) as connection:
        connection.execute("DELETE FROM entries WHERE sequence = ?", (which,))
    with pytest.raises(IntegrityError) as caught:
        Ledger.open(path)
    assert caught.value.code == ("ledger-rolled-back" if which == 4 else "ledger-broken")
    assert "named person" in str(caught.value)


def test_rollback_to_an_older_copy_is_found(path: Path, tmp_path: Path) -> None:
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made)
        made.charge(charge(0), at=1)
    older = Path(shutil.copy(path, tmp_path / "older"))
    with Ledger.open(path) as made:
        made.charge(charge(1), at=2)
    shutil.copy(older, path)
    with pytest.raises(IntegrityError) as caught:
        Ledger.open(path)
    assert caught.value.code == "ledger-rolled-back"


def test_rollback_of_file_and_head_is_found_by_what_was_countersigned(path: Path, tmp_path: Path) -> None:
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made, DpEvent(4.0, 1.0, FITTING))
        made.charge(charge(0), at=1)
    for suffix in ("", ".head"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"older{suffix}")
    with Ledger.open(path) as made:
        made.charge(charge(1), at=2)
        countersigned = made.head
    Ledger.open(path, witness=countersigned).close()
    for suffix in ("", ".head"):
        shutil.copy(tmp_path / f"older{suffix}", f"{path}{suffix}")
    with Ledger.open(path) as undetected:
        with pytest.raises(IntegrityError, match="countersigned"):
            undetected.verify(countersigned)
        undetected.charge(charge(2), at=3)
    with pytest.raises(IntegrityError, match="another than was countersigned"):
        Ledger.open(path, witness=countersigned)


def test_rollback_under_an_open_ledger_is_found(path: Path) -> None:
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made)
        made.charge(charge(0), at=1)
        with forced_open(path) as connection:
            connection.execute("DELETE FROM entries")
        for call in (made.spent, made.charges, lambda: made.charge(charge(1), at=2)):
            with pytest.raises(IntegrityError):
                call()


def test_opening_makes_no_file(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        ledgerfile.connect(path)
    assert not path.exists()


def test_a_ledger_that_vanished_is_not_made_anew(path: Path) -> None:
    filled(path)
    path.unlink()
    with pytest.raises(IntegrityError):
        Ledger.open(path)
    with pytest.raises(IntegrityError):
        Ledger.create(path, budget=BUDGET, lineage="x")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"sequence":true,"digest":"x"}', b"\xff\x00"])
def test_a_head_that_is_none_is_found(path: Path, content: bytes | None) -> None:
    filled(path)
    head = path.with_name(path.name + ".head")
    head.unlink() if content is None else head.write_bytes(content)
    with pytest.raises(IntegrityError):
        Ledger.open(path)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_file_that_is_no_ledger_is_found(path: Path, content: bytes) -> None:
    filled(path)
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        Ledger.open(path)


# --- crashes and full disks ------------------------------------------------------------------------------------------


def crash_before_the_head(monkeypatch: pytest.MonkeyPatch, path: Path, round_: int) -> None:
    """A charge that is committed and whose head is never written."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, Ledger.open(path) as doomed:
        patched.setattr(module, "write_head", crash)
        with pytest.raises(KeyboardInterrupt):
            doomed.charge(charge(round_), at=9)


def test_a_crash_between_commit_and_head_is_mended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(path)
    crash_before_the_head(monkeypatch, path, 7)
    assert ledgerfile.read_head(path) == before
    with Ledger.open(path) as healed:
        assert healed.charges()[-1].charge.round == 7
        assert ledgerfile.read_head(path) == healed.head == healed.verify()


def test_an_open_ledger_mends_the_head_of_another_that_crashed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    with Ledger.open(path) as survivor:
        crash_before_the_head(monkeypatch, path, 7)
        survivor.charge(charge(8), at=10)
        assert [entry.charge.round for entry in survivor.charges()] == [0, 1, 2, 7, 8]
        survivor.verify()


def test_two_crashes_in_a_row_leave_the_head_one_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    filled(path)
    with Ledger.open(path) as second:
        crash_before_the_head(monkeypatch, path, 7)
        with monkeypatch.context() as patched:
            patched.setattr(module, "write_head", crash)
            with pytest.raises(KeyboardInterrupt):
                second.charge(charge(8), at=9)
    with Ledger.open(path) as healed:
        assert [entry.charge.round for entry in healed.charges()] == [0, 1, 2, 7]


def test_a_head_two_behind_is_no_crash(path: Path) -> None:
    filled(path)
    head = path.with_name(path.name + ".head")
    old = head.read_bytes()
    with Ledger.open(path) as made:
        made.charge(charge(7), at=1)
        made.charge(charge(8), at=1)
    head.write_bytes(old)
    with pytest.raises(IntegrityError):
        Ledger.open(path)


def test_a_head_that_cannot_be_written_grants_nothing_and_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made)
        with monkeypatch.context() as patched:
            patched.setattr(module, "write_head", full)
            with pytest.raises(UnreachableError) as caught:
                made.charge(charge(0), at=1)
        assert caught.value.code == "charge-unconfirmed"
        assert len(made.charges()) == 1
        with pytest.raises(RefusalError) as again:
            made.charge(charge(0), at=1)
        assert again.value.code == "already-charged"
        made.charge(charge(0, attempt=1), at=1)
        made.verify()


def test_a_full_disk_charges_nothing_silently(path: Path) -> None:
    """The process may write no file beyond its present size: SQLite's log and database both hit the limit."""
    filled(path)
    code = """
import resource, sys
from pathlib import Path
from fedward.privacy.accounting import DpEvent
from fedward.privacy.errors import UnreachableError
from fedward.privacy.ledger import Charge, Ledger, Reservation
ledger = Ledger.open(Path(sys.argv[1]))
ledger.reserve(Reservation("b" * 64, "s", (DpEvent(1000.0, 0.5, 100),), 9, "c" * 64), at=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for round_ in range(10, 100):
    try:
        ledger.charge(Charge("b" * 64, "s", round_, 0, DpEvent(1000.0, 0.5, 1)), at=1)
        print(round_, flush=True)
    except UnreachableError as error:
        print(error.code, flush=True)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ledger.charge(Charge("b" * 64, "s", 100, 0, DpEvent(1000.0, 0.5, 1)), at=1).sequence)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    *rounds, refusal, last = done.stdout.split()
    assert refusal == "ledger-unreachable"
    with Ledger.open(path) as again:
        assert [str(e.charge.round) for e in again.charges()[3:]] == [*rounds, "100"]
        assert len(again.entries()) == int(last)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be used now"):
        Ledger.create(tmp_path / "missing" / "l", budget=BUDGET, lineage="x")


def test_a_ledger_held_by_another_is_unreachable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    monkeypatch.setattr(ledgerfile, "_PATIENCE", 0.05)
    with Ledger.open(path) as made, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnreachableError, match="locked"):
            made.charge(charge(7), at=1)
        other.execute("ROLLBACK")
        made.charge(charge(7), at=1)


# --- several processes -----------------------------------------------------------------------------------------------


SPEND_ALL = """
import sys
from pathlib import Path
from fedward.privacy.accounting import DpEvent
from fedward.privacy.errors import RefusalError
from fedward.privacy.ledger import Charge, Ledger, Reservation
event = DpEvent(4.0, 1.0, 1)
with Ledger.open(Path(sys.argv[1])) as ledger:
    ledger.would_cost([event])  # loads the accountant
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(40):
        study = sys.argv[2] * 62 + f"{number:02d}"
        try:
            ledger.reserve(Reservation(study, "s", (event,), 99, "c" * 64), at=number)
            print(ledger.charge(Charge(study, "s", 0, 0, event), at=number).entry_digest, flush=True)
            ledger.charge(Charge("f" * 64, "shared", int(sys.argv[3]), number, event), at=number)
            print("shared", flush=True)
        except RefusalError as error:
            print(error.code, flush=True)
            if error.code != "reservation-used-up":
                break
"""


def test_processes_never_spend_the_same_remainder(path: Path) -> None:
    """Three processes reserve and charge at once, and draw from one reservation that they share."""
    with Ledger.create(path, budget=BUDGET, lineage="x") as made:
        reserve(made, DpEvent(4.0, 1.0, 2), study="f" * 64)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SPEND_ALL, str(path), name, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, name in enumerate("abc")
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:  # and now all at once
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [answer.pop() for answer in answers] == ["budget-exhausted"] * 3
    said = [line for answer in answers for line in answer]
    receipts = [line for line in said if len(line) == 64]
    assert said.count("shared") == 2
    assert said.count("reservation-used-up") == len(receipts) - 2
    with Ledger.open(path) as made:
        own = [entry.digest for entry in made.charges() if entry.charge.study_id == "s"]
        assert sorted(own) == sorted(receipts)
        assert len(made.charges()) == len(receipts) + 2
        assert made.spent() == made.committed() <= BUDGET.epsilon
        assert not made.fits([EVENT])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_ledger_is_not_used_across_a_fork(ledger: Ledger) -> None:
    child = os.fork()
    if child == 0:
        try:
            ledger.spent()
        except UsageError:
            os._exit(42)
        except FedwardError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42
