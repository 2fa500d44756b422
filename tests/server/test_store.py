"""The coordinator's record: append-only, whole across failures, and honest about damage."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UnreachableError, UsageError
from fedward.server.records import Checkpoint, Evaluation, MetricRow
from fedward.server.round import Outcome, SiteState, Status
from fedward.server.store import Store

METRIC = MetricRow(3, "everybody", "auroc", 0.8, 0.7, 0.9, 20, 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Store:
    return Store.open(path)


def draft(store: Store, study_id: str = "heart") -> int:
    return store.create_study(study_id, "{}", ("a", "b"), 1)


def attempt(store: Store, key: int, number: int = 1, **changes: object) -> None:
    store.open_attempt(key, 1, number, "base", ("a", "b"), 5)
    sites = {"a": SiteState(Status.CONTRIBUTED), "b": SiteState(Status.DROPPED, "no answer")}
    store.close_attempt(key, number, Outcome.COMMITTED, "2 of 2", sites, 1.5, 6, **changes)  # type: ignore[arg-type]


def whole(store: Store, key: int) -> tuple[object, ...]:
    return (
        store.studies(),
        store.sites(),
        store.attempts(key),
        store.statuses(key),
        store.metrics(key),
        store.standings(key),
        store.checkpoint(key),
        store.journal(key),
    )


def filled(store: Store) -> int:
    key = draft(store)
    store.add_site("a", "k1", "n1", 1)
    store.set_node("a", 2**64 - 1)
    store.seal(key, b"sealed", b"signature", "d" * 64, 2)
    store.set_standing(key, "a", "approved", "", b"evidence", 3)
    store.start(key, Checkpoint(0, "m0", b"state"), 4)
    attempt(store, key, commit=Checkpoint(1, "m1", b"next"), evaluation=Evaluation(3, b"counts", ("a", "b"), (METRIC,)))
    store.wish(key, "run", 7)
    return key


def test_everything_is_there_after_reopening(store: Store, path: Path) -> None:
    key = filled(store)
    before = whole(store, key)
    store.close()
    again = Store.open(path)
    assert whole(again, key) == before
    assert again.sites()[0].node_id == 2**64 - 1
    assert again.checkpoint(key) == Checkpoint(1, "m1", b"next")
    assert again.metrics(key) == [METRIC]
    assert again.attempts_made(key) == 1


def test_every_step_stands_in_the_journal_in_order(store: Store) -> None:
    key = filled(store)
    kinds = [entry.kind for entry in store.journal(key)]
    assert kinds == ["drafted", "sealed", "standing", "started", "opened", "closed", "wish"]
    sequences = [entry.sequence for entry in store.journal(key)]
    assert sequences == sorted(set(sequences))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET kind = 'forged'",
        "DELETE FROM journal",
        "DELETE FROM journal WHERE sequence = 1",
        "INSERT OR REPLACE INTO journal SELECT sequence, study, at, 'forged', data FROM journal WHERE sequence = 1",
        "REPLACE INTO journal VALUES (1, 1, 1, 'forged', '{}')",
    ],
)
def test_the_journal_cannot_be_changed_even_by_sql(store: Store, path: Path, statement: str) -> None:
    key = filled(store)
    before = store.journal(key)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert store.journal(key) == before


def test_a_commit_is_whole_or_not_at_all(store: Store, path: Path) -> None:
    """A status that cannot be written must take the outcome, the model and the journal entry with it."""
    key = draft(store)
    store.start(key, Checkpoint(0, "m0", b"state"), 4)
    store.open_attempt(key, 1, 1, "base", ("a",), 5)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO statuses VALUES (?, 1, 'a', 'forged', '')", (key,))
    connection.commit()
    connection.close()
    before = whole(store, key)
    with pytest.raises(FedwardError):
        store.close_attempt(
            key,
            1,
            Outcome.COMMITTED,
            "",
            {"a": SiteState(Status.CONTRIBUTED)},
            None,
            6,
            commit=Checkpoint(1, "m1", b""),
            evaluation=Evaluation(1, b"", (), (METRIC,)),
        )
    assert whole(store, key) == before


def test_an_attempt_s_number_is_used_once(store: Store) -> None:
    key = draft(store)
    store.open_attempt(key, 1, 1, "base", ("a",), 5)
    with pytest.raises(FedwardError):
        store.open_attempt(key, 1, 1, "other", ("b",), 6)
    assert [row.base for row in store.attempts(key)] == ["base"]
    assert len([entry for entry in store.journal(key) if entry.kind == "opened"]) == 1


def test_attempts_that_asked_nobody_are_not_charged(store: Store) -> None:
    key = draft(store)
    store.open_attempt(key, 1, 1, "base", (), 5)
    store.open_attempt(key, 1, 2, "base", ("a", "b"), 5)
    store.open_attempt(key, 3, 3, "base", ("a", "b"), 5)
    assert store.attempts_made(key) == 3
    assert store.attempts_asked(key, 2) == 1
    assert store.attempts_asked(key, 3) == 2
    assert store.attempts_asked(draft(store, "other"), 3) == 0


def test_a_newer_evaluation_of_a_version_replaces_the_older(store: Store) -> None:
    key = draft(store)
    newer = MetricRow(3, "everybody", "auroc", None, None, None, 0, 0)
    attempt(store, key, 1, evaluation=Evaluation(3, b"old", ("a",), (METRIC,)))
    attempt(store, key, 2, evaluation=Evaluation(3, b"new", ("a",), (newer,)))
    assert store.metrics(key) == [newer]


def test_studies_do_not_mix(store: Store) -> None:
    one, two = filled(store), draft(store, "lungs")
    assert store.attempts(two) == []
    assert store.checkpoint(two) is None
    assert [entry.kind for entry in store.journal(two)] == ["drafted"]
    assert [study.key for study in store.studies()] == [two, one]


def test_a_standing_said_again_is_no_news(store: Store) -> None:
    key = draft(store)
    for at in (1, 2):
        store.set_standing(key, "a", "approved", "", b"x", at)
    store.set_standing(key, "a", "rejected", "", b"y", 3)
    assert [(row.state, row.at) for row in store.standings(key)] == [("rejected", 3)]
    assert [entry.data["state"] for entry in store.journal(key) if entry.kind == "standing"] == ["approved", "rejected"]


def test_a_state_that_is_reached_fulfils_the_wish(store: Store) -> None:
    key = draft(store)
    assert store.study(key).wish == "propose"
    store.wish(key, "run", 1)
    store.set_state(key, "running", "", 2)
    assert (store.study(key).state, store.study(key).wish) == ("running", "run")
    store.set_state(key, "completed", "", 3)
    assert (store.study(key).state, store.study(key).wish) == ("completed", "none")


# --- sites ----------------------------------------------------------------------------------------------------------------------


def test_enrolling_the_same_keys_again_changes_nothing(store: Store) -> None:
    store.add_site("va", "k", "n", 1)
    store.set_node("va", 7)
    store.add_site("va", "k", "n", 2)
    assert [(site.site, site.node_id) for site in store.sites()] == [("va", 7)]


@pytest.mark.parametrize(("site", "identity", "node"), [("va", "k2", "n"), ("va", "k", "n2"), ("va2", "k", "n")])
def test_a_name_or_key_of_another_is_refused(store: Store, site: str, identity: str, node: str) -> None:
    store.add_site("va", "k", "n", 1)
    with pytest.raises(UsageError, match="enrolled already"):
        store.add_site(site, identity, node, 2)
    assert len(store.sites()) == 1


# --- finding a study ------------------------------------------------------------------------------------------------------------


def test_a_study_is_found_by_its_id_or_six_digits_of_its_digest(store: Store) -> None:
    first, second = draft(store), draft(store)
    store.seal(first, b"", b"", "abcdef" + "0" * 58, 1)
    store.seal(second, b"", b"", "abcdee" + "0" * 58, 1)
    assert store.find("heart").key == second  # the newest of that id
    assert store.find("abcdef").key == first
    for reference in ("", "abcde", "abcdef1", "nothing", "%"):
        with pytest.raises(InputError, match="no single study"):
            store.find(reference)
    with pytest.raises(InputError, match="no study number"):
        store.study(99)


# --- the file -------------------------------------------------------------------------------------------------------------------


def test_the_file_is_its_owner_s(store: Store, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b=c", "a%41b", "größe"])
def test_a_folder_of_any_name_holds_the_store(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    store = Store.open(folder / "store.sqlite")
    draft(store)
    store.close()
    assert (folder / "store.sqlite").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert len(Store.open(folder / "store.sqlite", read_only=True).studies()) == 1


def test_a_reader_sees_what_is_written_and_can_change_nothing(store: Store, path: Path) -> None:
    key = filled(store)
    reader = Store.open(path, read_only=True)
    store.wish(key, "stop", 8)
    assert reader.study(key).wish == "stop"
    for write in (
        lambda: reader.wish(key, "run", 9),
        lambda: reader.note(key, "x", {}, 9),
        lambda: draft(reader),
        lambda: reader.add_site("z", "z", "z", 9),
    ):
        with pytest.raises(UnreachableError):
            write()
    assert store.study(key).wish == "stop"


def test_a_reader_makes_no_store(path: Path) -> None:
    with pytest.raises(InputError, match="no store"):
        Store.open(path, read_only=True)
    assert not path.exists()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("data", [b"no database" * 100, b"SQLite format 3\0" + bytes(84) + b"x" * 5000])
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(path: Path, data: bytes, read_only: bool) -> None:
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged"):
        Store.open(path, read_only=read_only)
    assert path.read_bytes() == data


def test_damage_that_comes_later_is_an_integrity_error_for_reads_and_writes(store: Store, path: Path) -> None:
    key = filled(store)
    for number in range(2, 300):
        attempt(store, key, number)
    store.close()
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for page in range(2, len(data) // size):  # all but the first two pages: the schema stays readable
        data[page * size : (page + 1) * size] = b"\xa5" * size
    path.write_bytes(data)
    for use in (store.journal, store.attempts, store.metrics, lambda key: store.wish(key, "stop", 9)):
        with pytest.raises(IntegrityError, match="damaged"):
            use(key)
    with pytest.raises(IntegrityError, match="damaged"):
        Store.open(path).journal(key)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be used"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")


def test_a_writer_that_is_held_off_says_so(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, real = draft(store), sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, **(kwargs | {"timeout": 0.05})))
    hurried = Store.open(path)
    other = real(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnreachableError, match="locked"):
        hurried.wish(key, "run", 2)
    other.execute("ROLLBACK")
    hurried.wish(key, "run", 3)
    assert store.study(key).wish == "run"
