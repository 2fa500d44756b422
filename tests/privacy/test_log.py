"""The durable audit log: what it keeps, what it refuses, what it tells, and what a crash leaves."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from fedward.privacy import log as logs
from fedward.privacy.auditentries import FIELDS, KINDS, make_entry, number_in, parse_entry
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UnreachableError, UsageError
from fedward.privacy.log import DAY_S, RETENTION_DAYS, AuditLog
from fedward.privacy.merkle import check_consistency, check_inclusion, leaf_hash

ORIGIN = "fedward/site/va/0123456789abcdef"
AT = 1_900_000_000


def filled(folder: Path, entries: int = 10) -> AuditLog:
    log = AuditLog.create(folder, ORIGIN, AT)
    for number in range(1, entries):
        log.append("charged", charge(number), AT + number)
    return log


def charge(number: int) -> dict[str, str | int]:
    return {"study": "a" * 64, "round": number, "attempt": 1, "purpose": "train", "entry": number}


def code(error: pytest.ExceptionInfo[FedwardError]) -> str:
    return error.value.code


def small_segments(monkeypatch: pytest.MonkeyPatch, size: int = 800) -> None:
    monkeypatch.setattr(logs, "SEGMENT_BYTES", size)


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path / "audit")
    log = AuditLog.open(tmp_path / "audit")
    assert log.size == 10
    found = list(log.entries())
    assert [entry.number for entry in found] == list(range(10))
    assert (found[0].kind, found[0].fields) == ("begun", {"origin": ORIGIN})
    assert (found[7].kind, found[7].at, found[7].fields) == ("charged", AT + 7, charge(7))
    assert log.entry(7) == found[7]
    assert log.verify() == 10
    assert [entry.number for entry in log.entries(8)] == [8, 9]


def test_proofs_of_any_size_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    log = filled(tmp_path / "audit", 21)
    assert len(log.segments.all()) > 3
    for size in range(1, 22):
        at_size = log.checkpoint(size)
        for number in range(size):
            check_inclusion(log.leaf(number), number, size, at_size.root, log.inclusion(number, size))
        for old in range(size + 1):
            check_consistency(old, size, log.checkpoint(old).root, at_size.root, log.consistency(old, size))


def test_two_handles_take_in_what_the_other_wrote(tmp_path: Path) -> None:
    one = filled(tmp_path / "audit", 3)
    two = AuditLog.open(tmp_path / "audit")
    for number in range(3, 9, 2):
        one.append("charged", charge(number), AT)
        two.append("charged", charge(number + 1), AT)
    assert one.checkpoint() == two.checkpoint() == AuditLog.open(tmp_path / "audit").checkpoint()
    assert [entry.fields.get("entry") for entry in one.entries(1)] == list(range(1, 9))


def test_threads_and_processes_append_side_by_side(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit", 1)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                mine = AuditLog.open(tmp_path / "audit")
                for number in range(10):
                    mine.append("charged", charge(number), AT)
            finally:
                os._exit(0)
        children.append(child)
    threads = [
        threading.Thread(target=lambda: [log.append("charged", charge(n), AT) for n in range(10)]) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert log.size == 41
    assert AuditLog.open(tmp_path / "audit").verify() == 41


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("no-such-kind", {}),
        ("charged", {"study": "a" * 64}),
        ("charged", charge(1) | {"note": "Mrs. Miller"}),
        ("charged", charge(1) | {"study": "Mrs. Miller"}),
        ("charged", charge(1) | {"entry": True}),
        ("charged", charge(1) | {"entry": -1}),
        ("charged", charge(1) | {"entry": 1.0}),
        ("charged", charge(1) | {"purpose": "two words"}),
        ("approved", {"study": "a" * 64, "by": "a\nb"}),
        ("approved", {"study": "a" * 64, "by": ""}),
        ("begun", {"origin": "fedward/site/va/x"}),
    ],
)
def test_an_entry_of_another_form_is_not_written(tmp_path: Path, kind: str, fields: dict[str, str | int]) -> None:
    log = filled(tmp_path / "audit", 2)
    with pytest.raises(UsageError) as error:
        log.append(kind, fields, AT)
    assert "Miller" not in str(error.value)
    assert log.size == 2


def test_every_field_of_every_kind_has_a_type() -> None:
    assert {name for form in KINDS.values() for name in form.allowed} == set(FIELDS)
    assert all(form.required <= form.allowed for form in KINDS.values())


def test_equal_entries_have_unequal_bytes() -> None:
    one, two = (make_entry(1, AT, "paused", {"by": "Dr. Who", "code": None}) for _ in range(2))
    assert one.data != two.data
    assert parse_entry(one.data, 1).fields == {"by": "Dr. Who"}
    assert number_in(one.data) == 1
    with pytest.raises(InputError, match="stands where entry 2"):
        parse_entry(one.data, 2)
    for wrong in (b"{}", b"[]", b"", one.data + b" ", one.data.replace(b"paused", b"poised"), b"{" * 9000):
        with pytest.raises(InputError):
            parse_entry(wrong, 1)


def test_every_changed_byte_of_the_files_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "audit", 4)
    for name in ("entries/000000000000.log", "tree"):
        path = tmp_path / "audit" / name
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(IntegrityError) as error:
                AuditLog.open(tmp_path / "audit").verify()
            assert code(error) in {"audit-changed", "audit-truncated"}, (name, at)
        path.write_bytes(data)
    assert AuditLog.open(tmp_path / "audit").verify() == 4


def test_entries_that_were_cut_off_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    filled(tmp_path / "audit", 8)
    folder = tmp_path / "audit" / "entries"
    newest = sorted(folder.iterdir())[-1]
    data = newest.read_bytes()
    for short in (b"", data[: data.rindex(b"\n", 0, -1) + 1], data[:-5]):
        newest.write_bytes(short)
        with pytest.raises(IntegrityError) as error:
            AuditLog.open(tmp_path / "audit")
        assert code(error) == "audit-truncated"
    newest.unlink()
    with pytest.raises(IntegrityError) as error:
        AuditLog.open(tmp_path / "audit")
    assert code(error) == "audit-truncated"


def test_an_older_log_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit", 5)
    files = {path: path.read_bytes() for path in (tmp_path / "audit").rglob("*") if path.is_file()}
    log.append("paused", {}, AT)
    log.keep_checkpoint(log.checkpoint().text)
    assert AuditLog.open(tmp_path / "audit").size == 6
    for path, data in files.items():
        path.write_bytes(data)
    with pytest.raises(IntegrityError) as error:
        AuditLog.open(tmp_path / "audit")
    assert code(error) == "audit-truncated"
    AuditLog(tmp_path / "audit")
    (tmp_path / "audit" / "checkpoint").unlink()
    AuditLog.open(tmp_path / "audit").append("resumed", {}, AT)
    log.keep_checkpoint(log.checkpoint().text.replace("=", "A", 1))
    with pytest.raises(IntegrityError) as error:
        AuditLog.open(tmp_path / "audit")
    assert code(error) == "audit-forked"


def test_a_torn_line_is_taken_out_and_told(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit", 3)
    with (tmp_path / "audit" / "entries" / "000000000000.log").open("ab") as file:
        file.write(b'{"at":19')
    entry = AuditLog.open(tmp_path / "audit").entry(3)
    assert (entry.kind, entry.fields["bytes"]) == ("mended", 8)
    log.append("paused", {}, AT)
    assert log.verify() == 5


@pytest.mark.parametrize("cut", [32, 33, 100, 10_000])
def test_a_tree_that_a_crash_left_short_is_made_again(tmp_path: Path, cut: int) -> None:
    log = filled(tmp_path / "audit", 7)
    before = log.checkpoint()
    tree = tmp_path / "audit" / "tree"
    data = tree.read_bytes()
    short = data[: max(0, len(data) - cut)]
    for left in (short, short[: len(short) // 32 * 32].ljust(len(data), b"\0")):  # a power cut leaves zeros
        tree.write_bytes(left)
        assert AuditLog.open(tmp_path / "audit").checkpoint() == before
        assert AuditLog.open(tmp_path / "audit").verify() == 7


def test_a_full_disk_refuses_and_keeps_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(tmp_path / "audit", 3)
    real = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if len(data) > 20:
            return real(handle, data[:20], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnreachableError) as error:
        log.append("paused", {}, AT)
    assert code(error) == "audit-unwritable"
    monkeypatch.undo()
    assert log.append("resumed", {}, AT).number == 3
    assert AuditLog.open(tmp_path / "audit").verify() == 4


def test_sealed_entries_are_not_readable_on_disk(tmp_path: Path) -> None:
    class Sealed:
        def __init__(self) -> None:
            self._key = Fernet(Fernet.generate_key())

        def seal(self, data: bytes) -> bytes:
            return self._key.encrypt(data)

        def unseal(self, data: bytes) -> bytes:
            return self._key.decrypt(data)

    sealer = Sealed()
    log = AuditLog.create(tmp_path / "audit", ORIGIN, AT, sealer)
    log.append("approved", {"study": "a" * 64, "by": "Dr. Who"}, AT)
    stored = (tmp_path / "audit" / "entries" / "000000000000.log").read_bytes()
    assert b"Who" not in stored
    again = AuditLog.open(tmp_path / "audit", sealer)
    assert again.entry(1).fields["by"] == "Dr. Who"
    assert again.leaf(1) == leaf_hash(again.entry(1).data)


def test_rotation_keeps_six_years_and_every_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_segments(monkeypatch)
    log = filled(tmp_path / "audit", 12)
    before, segments = log.checkpoint(), log.segments.all()
    proofs = {number: log.inclusion(number, 12) for number in range(12)}
    young = AT + RETENTION_DAYS * DAY_S
    assert log.rotate(young - 1) == 0
    with pytest.raises(UsageError):
        log.rotate(young, retention_days=RETENTION_DAYS - 1)
    second = segments[1].first
    assert log.rotate(young + second - 1) == second
    told = [entry for entry in log.entries() if entry.kind == "removed"]
    assert [entry.fields for entry in told] == [{"first": 0, "last": second - 1, "newest": AT + second - 1}]
    assert log.oldest() == second
    again = AuditLog.open(tmp_path / "audit")
    assert again.verify() == 13
    assert again.checkpoint(12) == before
    assert {number: again.inclusion(number, 12) for number in range(12)} == proofs
    check_consistency(12, 13, before.root, again.checkpoint().root, again.consistency(12, 13))
    with pytest.raises(UsageError, match="removed after its retention"):
        again.entry(0)


def test_a_segment_ends_with_its_month(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit", 3)
    log.append("paused", {}, AT + 32 * DAY_S)
    assert [segment.first for segment in log.segments.all()] == [0, 3]


def test_a_log_lies_where_it_was_made(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        AuditLog.open(tmp_path / "audit")
    log = filled(tmp_path / "audit", 2)
    with pytest.raises(UsageError):
        AuditLog.create(tmp_path / "audit", ORIGIN, AT)
    assert oct((tmp_path / "audit").stat().st_mode)[-3:] == "700"
    for wrong in (log.checkpoint, log.leaf, log.entry):
        with pytest.raises(UsageError):
            wrong(5)


def die_at(step: int, partial: bool) -> None:
    """From now on, this process is killed at the step-th call that changes the disk: before it, or in its middle."""
    calls = 0
    real = {name: getattr(os, name) for name in ("pwrite", "fdatasync", "fsync", "open", "replace", "truncate")}

    def killing(name: str) -> object:
        def call(*args: object, **more: object) -> object:
            nonlocal calls
            if name == "open" and not int(args[1]) & os.O_CREAT:  # type: ignore[call-overload]
                return real[name](*args, **more)
            calls += 1
            if calls == step:
                if partial and name == "pwrite":
                    handle, data, offset = args
                    real["pwrite"](handle, data[: len(data) // 2], offset)  # type: ignore[index, arg-type]
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*args, **more)

        return call

    for name in real:
        setattr(os, name, killing(name))


@pytest.mark.parametrize("partial", [False, True])
def test_kill_9_at_every_write_loses_no_acknowledged_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    small_segments(monkeypatch, 500)
    acknowledged: list[str] = []
    for step in range(1, 40):
        folder = tmp_path / f"{step}"
        filled(folder, 2)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                log = AuditLog.open(folder)
                die_at(step, partial)
                for number in range(2, 6):
                    entry = log.append("charged", charge(number), AT)
                    os.write(write, json.dumps([entry.number, log.checkpoint().root.hex()]).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(write)
        status = os.waitpid(child, 0)[1]
        with os.fdopen(read) as lines:
            said = [json.loads(line) for line in lines]
        log = AuditLog.open(folder)
        assert log.verify() >= 2 + len(said)
        for number, root in said:
            assert log.checkpoint(number + 1).root.hex() == root
        after = log.append("paused", {}, AT).number
        assert after <= 2 + len(said) + 2  # at most the entry in flight, and the one that tells of a torn line
        assert AuditLog.open(folder).verify() == after + 1
        acknowledged += said
        if status == 0:
            return
    raise AssertionError("the child was killed at every step tried: try more")


def test_a_log_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    for step in range(1, 40):
        folder = tmp_path / f"{step}" / "audit"
        folder.parent.mkdir()
        child = os.fork()
        if child == 0:
            try:
                die_at(step, True)
                AuditLog.create(folder, ORIGIN, AT)
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            assert AuditLog.open(folder).verify() == 1
            return
        log = AuditLog(folder)
        log = AuditLog.open(folder) if log.exists() else AuditLog.create(folder, ORIGIN, AT)
        assert log.append("paused", {}, AT).number <= 2
        assert AuditLog.open(folder).verify() == log.size
    raise AssertionError("the child was killed at every step tried: try more")


def test_a_segment_that_somebody_deleted_is_missed_and_one_that_was_rotated_out_is_not(tmp_path: Path) -> None:
    log = AuditLog.create(tmp_path / "audit", "fedward/site/here", 0)
    for day in (40, 80, 3000):
        log.append("node-stopped", {}, day * 86_400)
    first = log.segments.all()[0].path
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(IntegrityError, match="entry 0 is missing"):
        AuditLog.open(log.folder).verify()
    first.write_bytes(kept)
    assert log.rotate(3001 * 86_400) > 0
    AuditLog.open(log.folder).verify()


def test_another_name_than_the_one_that_it_began_with(tmp_path: Path) -> None:
    log = AuditLog.create(tmp_path / "audit", "fedward/site/here", 0)
    (log.folder / "origin").write_text("fedward/site/there")
    with pytest.raises(IntegrityError, match="name"):
        AuditLog.open(log.folder).verify()
