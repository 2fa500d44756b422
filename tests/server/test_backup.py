"""A coordinator in one file and back, between both kinds of store: whole or refused; no attempt's number is used again."""

from __future__ import annotations

import io
import shutil
import signal
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from command import fedward, good
from federation import Federation, heart_manifest
from histories import told
from mortal import Places, in_child
from observed import asked, charges, outcomes, run, state
from sampling import EVERYWHERE
from secured import known_as_approved
from stores import Place, place_of, server

from fedward.privacy import envelope
from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UsageError
from fedward.privacy.signing import Identity
from fedward.server import tables
from fedward.server.backup import Manifest, make_backup
from fedward.server.checkpoints import exchange_checkpoints
from fedward.server.explaining import explain
from fedward.server.home import CoordinatorHome
from fedward.server.restoring import Restored, restore
from fedward.server.store import RESTORED_JUMP
from fedward.server.storeplace import at_place
from fedward.study.backups import File, write_members
from fedward.study.heart import SITES

__all__ = ["server"]
PASSPHRASE = "four words are enough"  # noqa: S105
AT = 2_000_000_000
ROUNDS = 3


class DiedError(BaseException):
    """The coordinator's process died here."""


def lived_until(federation: Federation, attempt: int) -> None:
    def hear(text: str) -> None:
        if text.startswith(f"attempt {attempt}: committed"):
            raise DiedError

    with pytest.raises(DiedError):
        run(federation, heard=hear)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Whose coordinator died right after its first commit."""
    federation = Federation(tmp_path_factory.mktemp("backup"))
    federation.ready(heart_manifest(training={"rounds": ROUNDS, "server_momentum": 0.9}, privacy={"spare_attempts": 4}))
    known_as_approved(federation)
    lived_until(federation, 1)
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "federation")


@pytest.fixture
def saved(federation: Federation, tmp_path: Path) -> Path:
    made = tmp_path / "coordinator.fedward"
    make_backup(federation.home, made, AT, PASSPHRASE)
    return made


def back(file: Path, path: Path, **changes: object) -> Restored:
    given = {"passphrase": PASSPHRASE, "by": "A. Miller", "reason": "the disk died", "at": AT + 60} | changes
    return restore(file, path, **given)  # type: ignore[arg-type]


def contents(home: CoordinatorHome) -> dict[str, list[tuple[object, ...]]]:
    """Every row of its store, whichever it is, but of what a restore adds."""
    with closing(at_place(home.store_place)) as database, database.reading() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(sa.select(table)) if "restored" not in tuple(row)), key=repr
            )
            for table in tables.META.sorted_tables
        }


def files(home: Path) -> dict[str, bytes]:
    found = {path.relative_to(home).as_posix(): path for path in home.rglob("*") if path.is_file()}
    left_out = ("audit/", "store.sqlite", "federation.json", "log/", "flower/")
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not name.startswith(left_out) and not name.endswith(".lock")
    }


def reopened(federation: Federation) -> None:
    """The coordinator's next process."""
    federation.store.close()
    federation.home = CoordinatorHome.open(federation.home.path)
    federation.store = federation.home.open_store()


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_backup_holds_all_and_shows_nothing(federation: Federation, saved: Path, tmp_path: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    raw = saved.read_bytes()
    for name in ("coordinator.pem", "ca.pem", "server.pem"):
        assert federation.home.key(name).read_bytes()[40:80] not in raw
    assert b"SQLite format" not in raw
    before = files(federation.home.path)
    done = back(saved, tmp_path / "elsewhere")
    home = CoordinatorHome.open(tmp_path / "elsewhere")
    assert (done.moved, done.kept_log, done.studies) == (None, False, ("heart-4-hospitals",))
    assert files(home.path) == before
    models = {f"models/{path.name}" for path in federation.home.models_folder.iterdir()}
    assert {"keys/coordinator.pem", "ca.pem", "server.pem"} | models <= set(before)
    assert len(models) == 2
    assert contents(home) == contents(federation.home)
    home.check_keys()
    assert home.audit.verify() == done.manifest.audit_size + 1
    assert not list(federation.home.path.glob(".backup*"))
    assert federation.home.audit.entry(federation.home.audit.size - 1).kind == "backup"
    with pytest.raises(UsageError, match="exists already"):
        make_backup(federation.home, saved, AT, PASSPHRASE)
    with pytest.raises(InputError, match="too short"):
        make_backup(federation.home, tmp_path / "other", AT, "short")


def test_a_backup_is_consistent_while_a_study_runs(federation: Federation, tmp_path: Path) -> None:
    made: list[Path] = []
    ended = threading.Event()

    def save() -> None:
        while not ended.is_set() or not made:
            file = tmp_path / f"{len(made)}.fedward"
            make_backup(CoordinatorHome.open(federation.home.path), file, AT, PASSPHRASE)
            made.append(file)

    saving = threading.Thread(target=save)
    saving.start()
    try:
        run(federation)
    finally:
        ended.set()
        saving.join()
    assert state(federation) == "completed"
    for file in made[:: max(1, len(made) // 3)]:
        back(file, tmp_path / f"{file.stem}-back")
        home = CoordinatorHome.open(tmp_path / f"{file.stem}-back")
        with closing(home.open_store()) as store:
            checkpoint = store.checkpoint(federation.key)
            assert checkpoint is not None
            assert (home.models_folder / f"{checkpoint.model}.safetensors").is_file()
            rows = [row for row in store.attempts(federation.key) if row.outcome == "committed"]
            assert [row.round for row in rows][-1] in {checkpoint.version, ROUNDS + 1}


# --- damage ---------------------------------------------------------------------------------------------------------


def packed(files_: dict[str, bytes], manifest: Manifest, out: Path) -> None:
    """A backup of these files, as one who has the passphrase could make it."""
    with out.open("wb") as file, envelope.sealing(file, PASSPHRASE) as sealed:
        write_members(sealed, manifest, files_)  # type: ignore[arg-type]


def unpacked(saved: Path) -> tuple[dict[str, bytes], Manifest]:
    with saved.open("rb") as source, tarfile.open(fileobj=envelope.opening(source, PASSPHRASE), mode="r|") as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    manifest = Manifest.model_validate_json(found.pop("manifest.json"))
    return {name.removeprefix("files/"): data for name, data in found.items()}, manifest


def refused(file: Path, path: Path, **changes: object) -> FedwardError:
    """Why a restore is refused; nothing of the home is changed, and nothing is left beside it."""
    before, beside = files(path), sorted(path.parent.iterdir())
    with pytest.raises(FedwardError) as caught:
        back(file, path, **changes)
    assert files(path) == before
    assert sorted(path.parent.iterdir()) == beside
    return caught.value


def test_a_damaged_or_cut_backup_is_refused_by_name(federation: Federation, saved: Path, tmp_path: Path) -> None:
    raw, home = saved.read_bytes(), federation.home.path
    bad = tmp_path / "bad"
    for place in range(300, len(raw), len(raw) // 8):
        bad.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert refused(bad, home).code == "bad-backup"
    piece = envelope.PIECE + 16
    head = len(raw) % piece
    for size in (len(raw) - 1, len(raw) - head % 512 - 700, 400, 100, 7):
        bad.write_bytes(raw[:size])
        assert refused(bad, home).code == "bad-backup"
    bad.write_bytes(raw + b"more")
    assert refused(bad, home).code == "bad-backup"
    assert refused(saved, home, passphrase="four other words").code == "wrong-passphrase"  # noqa: S106
    for other in (b"", b"PK\3\4 an archive", (federation.home.path / "ca.pem").read_bytes()):
        bad.write_bytes(other)
        error = refused(bad, home)
        assert isinstance(error, InputError)
        assert "fedward coordinator backup" in str(error.expected)
    assert isinstance(refused(tmp_path / "none", home), InputError)


def test_pieces_cannot_be_left_out_or_exchanged() -> None:
    out = io.BytesIO()
    content = bytes(range(256)) * (3 * envelope.PIECE // 256) + b"end"
    with envelope.sealing(out, PASSPHRASE) as sealed:
        for start in range(0, len(content), 100_000):
            sealed.write(content[start : start + 100_000])
    raw, piece = out.getvalue(), envelope.PIECE + 16
    assert envelope.opening(io.BytesIO(raw), PASSPHRASE).read() == content
    head = len(raw) - 3 * piece - 16 - 3
    parts = [raw[head + n * piece : head + (n + 1) * piece] for n in range(4)]
    for wrong in (parts[:3], parts[1:], [parts[1], parts[0], *parts[2:]], [*parts, parts[3]], [*parts[:2], parts[3]]):
        with pytest.raises(IntegrityError) as caught:
            envelope.opening(io.BytesIO(raw[:head] + b"".join(wrong)), PASSPHRASE).read()
        assert caught.value.code == "bad-backup"


def test_whoever_knows_the_passphrase_can_still_change_nothing(
    federation: Federation, saved: Path, tmp_path: Path
) -> None:
    home, bad = federation.home.path, tmp_path / "bad"
    found, manifest = unpacked(saved)
    changed = found | {"operators.json": b"{}"}
    with_it = manifest.model_copy(
        update={"files": manifest.files | {"operators.json": File(sha256=digest(b"{}"), size=2)}}
    )
    packed(changed, with_it, bad)
    assert refused(bad, home).code == "bad-signature"
    packed({name: data for name, data in found.items() if name != "ca.pem"}, manifest, bad)
    assert refused(bad, home).code == "bad-backup"
    packed(found | {"ca.pem": found["ca.pem"][:-1] + b"#"}, manifest, bad)
    assert refused(bad, home).code == "bad-backup"
    mine = Identity.generate()
    packed(found, manifest.model_copy(update={"identity_key": mine.public}).sign(mine), bad)
    assert refused(bad, home).code == "bad-backup"  # its own key is not that of the home in it


def test_another_federations_backup_is_refused_by_name(federation: Federation, saved: Path, tmp_path: Path) -> None:
    other = CoordinatorHome.create(
        tmp_path / "other", name="Lungs", host="localhost", bind="127.0.0.1", port=9443, control_port=9444,
        now=datetime.fromtimestamp(federation.clock.unix(), UTC),
    )  # fmt: skip
    error = refused(saved, other.path)
    assert error.code == "bad-backup"
    assert "another federation" in error.what


def test_a_home_whose_service_runs_is_not_replaced(federation: Federation, saved: Path) -> None:
    with federation.home.serving(), pytest.raises(UsageError, match="runs already"):
        back(saved, federation.home.path)
    with pytest.raises(UsageError, match="says why"):
        back(saved, federation.home.path, by=" ")


# --- what a restored coordinator knows ------------------------------------------------------------------------------


def test_a_restored_coordinator_goes_on_and_uses_no_attempt_again(federation: Federation, saved: Path) -> None:
    lived_until(federation, 2)  # after the backup: charged at every site, and forgotten
    newer = federation.home.audit.size
    federation.store.close()
    done = back(saved, federation.home.path)
    assert done.moved is not None
    assert done.kept_log  # the disk still had it
    reopened(federation)
    assert federation.home.audit.size == newer + 1
    assert [row.attempt for row in federation.store.attempts(federation.key)] == [1]
    run(federation)
    assert state(federation) == "completed"
    numbers = [row.attempt for row in federation.store.attempts(federation.key)]
    assert numbers == [1, RESTORED_JUMP + 2, RESTORED_JUMP + 3, RESTORED_JUMP + 4]
    for site in SITES:
        made = charges(federation, site)
        assert made == [(1, 1), (2, 2), (2, RESTORED_JUMP + 2), (3, RESTORED_JUMP + 3)]
    sent = [(site, request.attempt) for site, request in asked(federation)]
    assert len(set(sent)) == len(sent)
    events = [event for event in explain(told(federation)).events if event.kind == "restored"]
    assert len(events) == 1
    assert "by A. Miller, from a backup of 2033-05-18" in events[0].words
    again = back(saved, federation.home.path.with_name("again"))
    assert again.studies == ("heart-4-hospitals",)


def test_two_restores_go_on_higher_still(federation: Federation, saved: Path, tmp_path: Path) -> None:
    back(saved, tmp_path / "one")
    once = CoordinatorHome.open(tmp_path / "one")
    make_backup(once, tmp_path / "second", AT, PASSPHRASE)
    back(tmp_path / "second", tmp_path / "two")
    with closing(CoordinatorHome.open(tmp_path / "two").open_store()) as store:
        assert store.next_attempt(federation.key) == 2 * RESTORED_JUMP + 2


def test_a_log_that_went_back_is_found_by_the_hospitals_and_the_entry_says_why(
    federation: Federation, saved: Path
) -> None:
    compare(federation)
    shutil.rmtree(federation.home.path)  # the machine is gone
    done = back(saved, federation.home.path)
    assert (done.moved, done.kept_log) == (None, False)
    reopened(federation)
    entry = federation.home.audit.entry(done.manifest.audit_size)
    assert (entry.kind, entry.fields["size"], entry.fields["root"], entry.fields["by"]) == (
        "restored", done.manifest.audit_size, done.manifest.audit_root, "A. Miller",
    )  # fmt: skip
    for _ in range(4):
        compare(federation)
    kinds = {site: [one.kind for one in home.audit.entries()] for site, home in federation.sites.items()}
    assert all("split-view" in found for found in kinds.values())


def compare(federation: Federation) -> None:
    exchange_checkpoints(
        federation.home, federation.store, federation.transport, federation.clock, federation.said.append
    )


# --- between the stores ---------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Place:
    return place_of("postgresql", request)


def test_from_a_file_into_postgresql_and_back_nothing_is_lost(
    federation: Federation, saved: Path, postgres: Place, tmp_path: Path
) -> None:
    url, moved = str(postgres.place), tmp_path / "moved"
    before = contents(federation.home)
    back(saved, moved, store=url)
    home = CoordinatorHome.open(moved)
    assert (home.settings.store, home.store_file.exists()) == (url, False)
    assert contents(home) == before
    federation.store.close()
    federation.home, federation.store = home, home.open_store()
    run(federation)  # what the database numbers goes on after what was copied
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "committed"), (2, "committed"), (3, "committed"), (4, "committed")]
    make_backup(home, tmp_path / "of-postgresql", AT, PASSPHRASE)
    after = contents(home)
    back(tmp_path / "of-postgresql", tmp_path / "filed", store="sqlite")
    filed = CoordinatorHome.open(tmp_path / "filed")
    assert filed.settings.store is None
    assert contents(filed) == after


def test_a_database_that_holds_another_record_is_not_touched(
    federation: Federation, saved: Path, postgres: Place, tmp_path: Path
) -> None:
    with closing(postgres.open()) as store:
        store.create_study("lungs", "{}", ("a",), 1)
    assert refused(saved, federation.home.path, store=str(postgres.place)).code == "store-taken"
    with closing(postgres.open()) as store:
        assert [study.study_id for study in store.studies()] == ["lungs"]
    assert not (tmp_path / "federation" / "coordinator.restoring").exists()


# --- death ----------------------------------------------------------------------------------------------------------


def killed_at(operation: Callable[[], int], folder: Path, at: int | None) -> tuple[int, int]:
    code, passed, said = in_child(operation, Places(folder, at))
    assert code in {0, -signal.SIGKILL}, said
    return code, len(passed)


def some(count: int) -> range:
    """A sample of as many places; all of them in `make prove`."""
    return range(0, count, 1 if EVERYWHERE else max(1, count // 7))


def test_a_backup_that_is_killed_anywhere_is_whole_or_not_there(federation: Federation, tmp_path: Path) -> None:
    federation.store.close()
    out = tmp_path / "out"
    out.mkdir()

    def save(name: str) -> Callable[[], int]:
        return lambda: make_backup(CoordinatorHome.open(federation.home.path), out / name, AT, PASSPHRASE) is None

    _, count = killed_at(save("dry"), tmp_path, None)
    assert count > 6
    for at in some(count):
        name = f"{at}"
        killed_at(save(name), tmp_path, at)
        if not (out / name).exists():
            assert killed_at(save(name), tmp_path, None)[0] == 0  # given again
        back(out / name, tmp_path / f"back-{at}")
        assert not list(out.glob("*.draft"))
    assert not (federation.home.path / ".backup").exists()


@pytest.mark.parametrize("into", ["file", "postgresql"])
def test_a_restore_that_is_killed_anywhere_is_given_again(
    federation: Federation, saved: Path, tmp_path: Path, into: str, request: pytest.FixtureRequest
) -> None:
    federation.store.close()
    before, rows = files(federation.home.path), contents(federation.home)
    count = killed_at(putting_back(federation, saved, tmp_path / "dry", None), tmp_path / "dry", None)[1]
    assert count > 20
    for at in some(count):
        folder = tmp_path / f"{at}"
        put_back = putting_back(
            federation, saved, folder, None if into == "file" else str(place_of("postgresql", request).place)
        )
        code, _ = killed_at(put_back, folder, at)
        home = folder / "coordinator"
        if home.exists() and code != 0:
            assert files(home) == before
        if code != 0:
            assert killed_at(put_back, folder, None)[0] == 0
        found = CoordinatorHome.open(home)
        assert contents(found) == rows
        assert not (folder / "coordinator.restoring").exists()


def putting_back(federation: Federation, saved: Path, folder: Path, store: str | None) -> Callable[[], int]:
    shutil.copytree(federation.home.path, folder / "coordinator")
    return lambda: back(saved, folder / "coordinator", store=store) is None


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did_and_end_with_the_codes_of_their_errors(
    federation: Federation, tmp_path: Path
) -> None:
    secret, out, home = tmp_path / "secret", tmp_path / "out", str(federation.home.path)
    secret.write_text(PASSPHRASE + "\n")
    secret.chmod(0o600)
    given = ["--home", home, "--passphrase-file", str(secret)]
    said = good("coordinator", "backup", out, *given)
    assert (said["federation"], said["file"], said["bytes"]) == ("test", str(out), out.stat().st_size)
    again = fedward("coordinator", "backup", out, *given, "--json")
    assert (again.code, again.json["error"]) == (UsageError("").exit_code, "usage")
    nobody = fedward("coordinator", "backup", tmp_path / "b", "--home", home, "--json")
    assert (nobody.code, nobody.json["error"]) == (InputError("").exit_code, "locked")
    federation.store.close()
    restored = ["coordinator", "restore", out, "--by", "A. Miller", "--reason", "the disk died", *given]
    done = good(*restored)
    assert (done["moved"], done["studies"]) == (f"{home}.replaced-1", ["heart-4-hospitals"])
    plain = fedward(*restored, "--yes")
    assert plain.code == 0
    assert "Do again what was done since" in plain.out
    out.write_bytes(out.read_bytes()[:-1])
    bad = fedward(*restored, "--json")
    assert (bad.code, bad.json["error"]) == (IntegrityError("").exit_code, "bad-backup")
