"""Audit exports: whatever is done to one is noticed and named; two of one log, or of two parties, betray a split view."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedward.privacy.auditcompare import compare
from fedward.privacy.auditexport import AuditExport, Trailer, read_audit_export, write_audit_export
from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.checkpoint import Note, cosign, sign_checkpoint
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.log import DAY_S, RETENTION_DAYS, AuditLog
from fedward.privacy.merkle import leaf_hash
from fedward.privacy.signing import Identity, to_text

AT = 1_900_000_000
SITE = "fedward/site/va/0123456789abcdef"
OTHER = "fedward/site/cleveland/0123456789abcdef"
COORDINATOR = "fedward/coordinator/" + "ab" * 16


@dataclass
class Party:
    """One log, its key, and what it holds of others."""

    log: AuditLog
    identity: Identity
    cosigned: tuple[Note, ...] = ()
    known: tuple[Note, ...] = ()
    keys: dict[str, str] | None = None

    def add(self, *purposes: str) -> None:
        for purpose in purposes:
            size = self.log.size
            fields = {"study": "a" * 64, "round": size, "attempt": 1, "purpose": purpose, "entry": size}
            self.log.append("charged", fields, AT + size)

    def note(self, size: int | None = None) -> Note:
        return sign_checkpoint(self.log.checkpoint(size), self.identity)

    def export(self) -> bytes:
        out = io.BytesIO()
        trailer = Trailer(self.note(), self.cosigned, self.known, self.keys or {})
        checkpoint = trailer.checkpoint.checkpoint
        told = write_audit_export(
            out, self.log.leaves(checkpoint.size), self.log.entries(), trailer, self.identity, AT + 100
        )
        assert told == digest(out.getvalue())
        return out.getvalue()

    def read(self) -> AuditExport:
        return read_audit_export(io.BytesIO(self.export()), self.identity.public)


def party(folder: Path, origin: str = SITE, entries: int = 4) -> Party:
    made = Party(AuditLog.create(folder / "audit", origin, AT), Identity.generate())
    made.add(*["train"] * (entries - 1))
    return made


def witnessed(folder: Path) -> tuple[Party, Identity]:
    """A log of 4 entries, cosigned at 2 by a coordinator, which holds a checkpoint of the coordinator's."""
    one, coordinator = party(folder), Identity.generate()
    note = one.note(2)
    one.cosigned = (note.with_signatures([cosign(note.checkpoint, COORDINATOR, coordinator, AT + 5)]),)
    other = party(folder / "coordinator", COORDINATOR)
    other.identity = coordinator
    one.known, one.keys = (other.note(),), {COORDINATOR: coordinator.public}
    return one, coordinator


def refused(data: bytes, key: str | None = None) -> FedwardError:
    with pytest.raises((IntegrityError, InputError)) as error:
        read_audit_export(io.BytesIO(data), key)
    assert error.value.code in {
        "audit-changed", "audit-truncated", "audit-reordered", "audit-retention", "bad-signature", "bad-input",
        "foreign-key",
    }  # fmt: skip
    return error.value


def resigned(data: bytes, identity: Identity) -> bytes:
    """The parts' digests made again, by who has the key."""
    lines = data.splitlines(keepends=True)
    parts = {"header": lines[0], "entries": b"".join(lines[1:-2]), "trailer": lines[-2]}
    digests = {name: digest(part) for name, part in parts.items()}
    last = {"digests": digests, "signature": to_text(identity.sign("audit", canonical_json(digests)))}
    return b"".join(lines[:-1]) + canonical_json(last) + b"\n"


def test_an_export_holds_and_tells_what_it_is(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    found = one.read()
    assert (found.origin, found.size, found.oldest, found.at) == (SITE, 4, 0, AT + 100)
    assert found.kinds == {"begun": 1, "charged": 3}
    assert found.cosigners == {COORDINATOR: (2, AT + 5)}
    assert found.root(4) == one.log.checkpoint().root
    assert found.root(2) == one.log.checkpoint(2).root


@pytest.mark.parametrize("flip", [0x01, 0x04, 0x20, 0x80])
def test_every_changed_byte_is_named(tmp_path: Path, flip: int) -> None:
    one, _ = witnessed(tmp_path)
    data = one.export()
    lines = data.splitlines(keepends=True)
    start = 0
    for index, line in enumerate(lines):
        for at in range(start, start + len(line)):
            error = refused(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            if 1 <= index <= 4:  # an entry is named by its number
                assert re.search(rf"\bentry {index - 1}\b|entries were reordered", error.what), (at, error.what)
            else:
                assert re.search("header|trailer|last line|checkpoint|signature|format|export", error.what), error.what
        start += len(line)


def test_every_truncation_is_named(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    data = one.export()
    lines = data.splitlines(keepends=True)
    for count in range(1, len(lines)):
        error = refused(b"".join(lines[:count]))
        assert error.code == "audit-truncated"
        assert "cut short" in error.what
    for at in range(len(data)):
        refused(data[:at])


def test_every_missing_line_is_named(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    lines = one.export().splitlines(keepends=True)
    for gone in range(1, 5):
        error = refused(b"".join(line for index, line in enumerate(lines) if index != gone))
        assert error.code == "audit-truncated"
        assert f"entry {gone - 1}" in error.what


def test_every_adjacent_swap_is_named(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    lines = one.export().splitlines(keepends=True)
    for at in range(len(lines) - 1):
        swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
        error = refused(b"".join(swapped))
        if 1 <= at <= 3:
            assert error.code == "audit-reordered"
            assert f"entry {at} stands where entry {at - 1} must" in error.what


def test_a_doubled_line_is_named(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    lines = one.export().splitlines(keepends=True)
    for at in range(len(lines)):
        refused(b"".join([*lines[: at + 1], *lines[at:]]))


def test_an_entry_that_was_changed_with_its_hash_is_bounded_by_the_signed_checkpoints(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    lines = one.export().splitlines(keepends=True)
    for number, bounds in ((1, "from 0 to 1"), (3, "from 2 to 3")):
        text = lines[number + 1].partition(b" ")[2][:-1].replace(b'"train"', b'"other"')
        forged = list(lines)
        forged[number + 1] = to_text(leaf_hash(text)).encode() + b" " + text + b"\n"
        error = refused(resigned(b"".join(forged), one.identity))  # even by who has the key, once it signed checkpoints
        assert (error.code, bounds in error.what) == ("audit-changed", True)
        assert refused(b"".join(forged)).code == "audit-changed"


def test_an_export_by_another_key_is_refused(tmp_path: Path) -> None:
    one, _ = witnessed(tmp_path)
    data, other = one.export(), Identity.generate()
    assert refused(data, other.public).code == "foreign-key"
    replaced = data.replace(one.identity.public.encode(), other.public.encode())
    assert refused(resigned(replaced, other), other.public).code == "bad-signature"


def test_foreign_notes_in_the_trailer_are_refused(tmp_path: Path) -> None:
    one, coordinator = witnessed(tmp_path)
    true = one.known
    one.known = (party(tmp_path / "x", COORDINATOR).note(),)  # not signed by the coordinator's key
    assert refused(one.export()).code == "bad-signature"
    one.known = (party(tmp_path / "y", OTHER).note(),)
    assert "no key" in refused(one.export()).what
    one.known = true
    one.cosigned = (sign_checkpoint(one.log.checkpoint(2), one.identity), *true)
    assert refused(one.export()).code == "audit-changed"
    note = one.note(2)
    line = cosign(one.log.checkpoint(3), COORDINATOR, coordinator, AT)  # a cosignature of another checkpoint
    one.cosigned = (note.with_signatures([line]),)
    assert refused(one.export()).code == "bad-signature"


def test_what_was_removed_after_its_time_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.privacy.log.SEGMENT_BYTES", 800)
    one = party(tmp_path, entries=8)
    late = AT + 3 + RETENTION_DAYS * DAY_S
    assert one.log.rotate(late) == 3
    found = one.read()
    assert (found.size, found.oldest) == (9, 3)
    data = one.export()
    lines = data.splitlines(keepends=True)
    assert [line.endswith(b" -\n") for line in lines[1:10]] == [True] * 3 + [False] * 6
    for at in range(1, 4):
        bare = list(lines)
        bare[at] = to_text(b"\1" * 32).encode() + b" -\n"
        assert "digest" in refused(b"".join(bare)).what or "changed" in refused(b"".join(bare)).what
    hidden = [*lines[:5], lines[5].partition(b" ")[0] + b" -\n", *lines[6:]]
    assert "taken out" in refused(resigned(b"".join(hidden), one.identity)).what


def test_what_was_removed_too_soon_or_in_silence_is_named(tmp_path: Path) -> None:
    one = party(tmp_path)
    lines = one.export().splitlines(keepends=True)
    hidden = [lines[0], lines[1].partition(b" ")[0] + b" -\n", *lines[2:]]
    error = refused(resigned(b"".join(hidden), one.identity))
    assert (error.code, "no entry says" in error.what) == ("audit-truncated", True)
    one.log.append("removed", {"first": 0, "last": 0, "newest": AT}, AT + RETENTION_DAYS * DAY_S - 1)
    assert refused(one.export()).code == "audit-retention"


def test_other_files_are_no_exports(tmp_path: Path) -> None:
    one = party(tmp_path)
    data = one.export()
    header = json.loads(data.splitlines()[0])
    for changes in (
        {"format": 2},
        {"kind": "fedward-ledger"},
        {"size": 0},
        {"size": 2.0},
        {"origin": "x"},
        {"key": "x"},
    ):
        refused(canonical_json(header | changes) + b"\n" + data.partition(b"\n")[2])
    for other in (b"", b"\n", b"{}\n", b"[]\n", b"\xff\n", data + b"\n", data + b"x"):
        refused(other)


# forks and split views


def forked(one: Party, folder: Path) -> Party:
    """Another history of the same log, by who has its key: equal up to entry 1."""
    other = Party(AuditLog.open(_copied(one, folder)), one.identity, keys=one.keys)
    other.add("other", "other")
    return other


def _copied(one: Party, folder: Path) -> Path:
    import shutil

    shutil.copytree(one.log.folder, folder)
    return folder


def test_two_exports_of_one_log_betray_a_fork(tmp_path: Path) -> None:
    one = party(tmp_path, entries=2)
    other = forked(one, tmp_path / "fork")
    one.add("train", "train", "train")
    for pair in ([one.read(), other.read()], [other.read(), one.read()]):
        with pytest.raises(IntegrityError, match="entry 2 is another") as error:
            compare(pair)
        assert error.value.code == "audit-forked"


def test_an_older_export_of_the_same_log_agrees(tmp_path: Path) -> None:
    one = party(tmp_path)
    before = one.read()
    one.add("train")
    assert compare([before, one.read()]).open == ()
    with pytest.raises(IntegrityError) as error:
        compare([before], [one.note()])
    assert error.value.code == "audit-stale"


def two_sites(tmp_path: Path, note_a: Note, note_b: Note, key: str) -> list[AuditExport]:
    found = []
    for name, origin, note in (("a", SITE, note_a), ("b", OTHER, note_b)):
        one = party(tmp_path / name, origin)
        one.known, one.keys = (note,), {COORDINATOR: key}
        found.append(one.read())
    return found


def test_two_sites_exports_betray_a_coordinator_that_shows_each_its_own_log(tmp_path: Path) -> None:
    coordinator = party(tmp_path / "coordinator", COORDINATOR, entries=2)
    other = forked(coordinator, tmp_path / "fork")
    coordinator.add("train", "train")
    sites = two_sites(tmp_path, coordinator.note(), other.note(), coordinator.identity.public)
    with pytest.raises(IntegrityError, match="split view: at 4 entries") as error:
        compare(sites)
    assert error.value.code == "split-view"


def test_the_coordinators_own_export_betrays_a_split_view_at_any_size(tmp_path: Path) -> None:
    coordinator = party(tmp_path / "coordinator", COORDINATOR, entries=2)
    other = forked(coordinator, tmp_path / "fork")
    coordinator.add("train", "train", "train")
    sites = two_sites(tmp_path, coordinator.note(4), other.note(3), coordinator.identity.public)
    assert len(compare(sites).open) == 2  # sizes differ: two sites alone cannot tell
    with pytest.raises(IntegrityError, match="not the exported one") as error:
        compare([*sites, coordinator.read()])
    assert error.value.code == "split-view"
    honest = two_sites(tmp_path / "honest", coordinator.note(4), coordinator.note(3), coordinator.identity.public)
    agreed = compare([*honest, coordinator.read()])
    assert (len(agreed.contained), agreed.open) == (2, ())


def test_a_note_kept_elsewhere_must_be_the_logs_own(tmp_path: Path) -> None:
    one = party(tmp_path)
    assert compare([one.read()], [one.note(3)]).contained == (("a kept checkpoint", SITE, 3),)
    with pytest.raises(IntegrityError) as error:
        compare([one.read()], [sign_checkpoint(one.log.checkpoint(3), Identity.generate())])
    assert error.value.code == "bad-signature"
