"""The coordinator's record: append-only, whole across failures, and honest about damage.

The first half is the contract of every place that a store can be in; the second is the SQLite file's own. PostgreSQL's own is in
`test_store_postgresql`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from enrolled import enrol
from stores import KINDS, Place, place_of, server

from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError, UnreachableError, UsageError
from fedward.server.lifecycle import Began, Completed, Failed, Launch, Offered, Stop
from fedward.server.records import Checkpoint, CredentialRow, Evaluation, LostModel, MetricRow
from fedward.server.round import Outcome, SiteState, Status
from fedward.server.store import Store

__all__ = ["server"]
METRIC = MetricRow(3, "everybody", "auroc", 0.8, 0.7, 0.9, 20, 30)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = place.open()
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def filed(path: Path) -> Store:
    """The store of the tests of the file."""
    return Store.open(path)


def draft(store: Store, study_id: str = "heart") -> int:
    return store.create_study(study_id, "{}", ("a", "b"), 1)


def attempt(store: Store, key: int, number: int = 1, **changes: object) -> None:
    store.open_attempt(key, 1, number, "base", ("a", "b"), 5)
    sites = {"a": SiteState(Status.CONTRIBUTED, took=1.25), "b": SiteState(Status.DROPPED, "no answer")}
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


def test_a_lost_model_takes_its_round_and_what_was_measured_of_it_along_and_nothing_else(store: Store) -> None:
    one, two = draft(store), draft(store, "lungs")
    for key in (one, two):
        store.start(key, Checkpoint(0, "m0", b"s0"), 4)
        for version in (1, 2, 3):
            store.open_attempt(key, version, version, f"m{version - 1}", ("a",), 5)
            measured = Evaluation(version, b"c", ("a",), (replace(METRIC, version=version),))
            store.close_attempt(
                key, version, Outcome.COMMITTED, "1 of 1", {"a": SiteState(Status.CONTRIBUTED)}, 1.0, 6,
                commit=Checkpoint(version, f"m{version}", b"s%d" % version), evaluation=measured, updates={"a": "d" * 64},
            )  # fmt: skip
    other = whole(store, two)
    assert store.kept_versions(one) == [3, 2, 1, 0]
    store.lose(one, 1, [LostModel(3, "m3", "its file is gone"), LostModel(2, "m2", "its file is damaged")], 7)
    assert store.checkpoint(one) == store.checkpoint(one, 1) == Checkpoint(1, "m1", b"s1")
    assert store.checkpoint(one, 2) is None
    assert [row.outcome for row in store.attempts(one)] == ["committed", "lost", "lost"]
    assert store.attempts(one)[1].reason == "committed, and lost: its file is gone"
    assert [row.version for row in store.metrics(one)] == [1]
    assert [row.status for row in store.statuses(one)] == ["contributed"] * 3
    lost = store.journal(one, "lost")[0].data
    assert (lost["kept"], lost["lost"][1]) == (1, {"version": 2, "model": "m2", "why": "its file is damaged"})
    assert store.journal(one, "closed")[0].data["updates"] == {"a": "d" * 64}
    assert whole(store, two)[2:-1] == other[2:-1]
    assert store.journal(two) == other[-1]


def test_optimiser_states_are_kept_of_as_many_models_as_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.server.store.KEPT_BYTES", 35)
    key = draft(store)
    for version in range(6):
        store.start(key, Checkpoint(version, f"m{version}", b"s" * 10), 4)
    assert store.kept_versions(key) == [5, 4, 3]
    store.start(key, Checkpoint(6, "m6", b"s" * 1000), 4)
    assert store.kept_versions(key) == [6, 5]  # two at least, however large


def filled(store: Store) -> int:
    key = draft(store)
    enrol(store, "a", "k1", "n1", 1)
    store.set_node("a", 2**64 - 1)
    store.seal(key, b"sealed", b"signature", "d" * 64, 2)
    store.set_standing(key, "a", "approved", "", b"evidence", 3)
    store.start(key, Checkpoint(0, "m0", b"state"), 4)
    attempt(store, key, commit=Checkpoint(1, "m1", b"next"), evaluation=Evaluation(3, b"counts", ("a", "b"), (METRIC,)))
    for event in (Offered(), Launch()):
        store.happened(key, event, 7)
    return key


def test_everything_is_there_after_reopening(store: Store, place: Place) -> None:
    key = filled(store)
    before = whole(store, key)
    store.close()
    again = place.open()
    assert whole(again, key) == before
    assert again.sites()[0].node_id == 2**64 - 1
    assert again.checkpoint(key) == Checkpoint(1, "m1", b"next")
    assert again.newest_model(key) == (1, "m1")
    assert again.newest_model(key + 1) is None
    assert again.metrics(key) == [METRIC]
    assert again.attempts_made(key) == 1
    again.close()


def test_every_step_stands_in_the_journal_in_order(store: Store) -> None:
    key = filled(store)
    kinds = [entry.kind for entry in store.journal(key)]
    assert kinds == ["drafted", "sealed", "standing", "started", "opened", "closed", "state", "wish"]
    sequences = [entry.sequence for entry in store.journal(key)]
    assert sequences == sorted(set(sequences))


FORGERIES = {
    "sqlite": [
        "INSERT OR REPLACE INTO journal SELECT sequence, study, at, 'forged', data FROM journal WHERE sequence = 1",
        "REPLACE INTO journal VALUES (1, 1, 1, 'forged', '{}')",
    ],
    "postgresql": [
        "INSERT INTO journal VALUES (1, 1, 1, 'forged', '{}') ON CONFLICT (sequence) DO UPDATE SET kind = 'forged'",
        "TRUNCATE journal",
        "MERGE INTO journal USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ],
}


def test_the_journal_cannot_be_changed_even_by_sql(store: Store, place: Place) -> None:
    key = filled(store)
    before = store.journal(key)
    common = ["UPDATE journal SET kind = 'forged'", "DELETE FROM journal", "DELETE FROM journal WHERE sequence = 1"]
    for statement in common + FORGERIES[place.kind]:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            place.sql(statement)
    assert store.journal(key) == before


def test_what_answers_took_is_kept_and_can_be_read_from_an_attempt_on(store: Store) -> None:
    key = draft(store)
    attempt(store, key)
    attempt(store, key, 2)
    assert [(row.attempt, row.site, row.seconds) for row in store.statuses(key)] == [
        (1, "a", 1.25), (1, "b", None), (2, "a", 1.25), (2, "b", None),
    ]  # fmt: skip
    assert [row.attempt for row in store.statuses(key, since=2)] == [2, 2]


def test_a_commit_is_whole_or_not_at_all(store: Store, place: Place) -> None:
    """A status that cannot be written must take the outcome, the model and the journal entry with it."""
    key = draft(store)
    store.start(key, Checkpoint(0, "m0", b"state"), 4)
    store.open_attempt(key, 1, 1, "base", ("a",), 5)
    place.sql(f"INSERT INTO statuses VALUES ({key}, 1, 'a', 'forged', '', NULL)")  # noqa: S608 - a number
    before = whole(store, key)
    contributed = {"a": SiteState(Status.CONTRIBUTED)}
    commit, evaluation = Checkpoint(1, "m1", b""), Evaluation(1, b"", (), (METRIC,))
    with pytest.raises(FedwardError):
        store.close_attempt(key, 1, Outcome.COMMITTED, "", contributed, None, 6, commit=commit, evaluation=evaluation)
    assert whole(store, key) == before


def test_no_update_of_two_processes_is_lost(store: Store, place: Place) -> None:
    """Each reads what stands there and writes what follows from it: numbers of credentials, and an alarm that is raised once."""
    failed: list[BaseException] = []

    def work(who: str) -> None:
        try:
            other = place.open()
            for number in range(15):
                name = f"{who}-{number}"
                made = CredentialRow(name, name, f"identity-{name}", f"node-{name}", f"tls-{name}", 1, 2)
                other.enrol(made)
                other.raise_alarm(f"site-{number}", who, 1)
                other.note(1, "x", {}, 1)
            other.close()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    workers = [threading.Thread(target=work, args=(who,)) for who in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert len(store.journal(1)) == 45
    assert place.rows("SELECT count(*), count(DISTINCT number), max(number) FROM credentials") == [(45, 45, 45)]
    assert place.rows("SELECT count(*), count(DISTINCT site) FROM alarms") == [(15, 15)]


def test_names_are_ordered_by_their_bytes(store: Store) -> None:
    for name in ("b", "B", "a", "a-b", "ab", "_"):
        enrol(store, name, f"k{name}", f"n{name}")
    assert [site.site for site in store.sites()] == ["B", "_", "a", "a-b", "ab", "b"]


def test_credentials_of_one_second_stand_as_they_were_issued(store: Store) -> None:
    for name in ("z", "a", "m"):
        enrol(store, name, f"k{name}", f"n{name}", 7)
    assert [row.site for row in store.credentials()] == ["z", "a", "m"]


def test_times_beyond_2038_are_kept(store: Store) -> None:
    key = store.create_study("far", "{}", (), 2**40)
    assert store.study(key).created_at == 2**40


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
    store.set_standing(key, "a", "refused", "", b"y", 3)
    assert [(row.state, row.at) for row in store.standings(key)] == [("refused", 3)]
    assert [entry.data["state"] for entry in store.journal(key) if entry.kind == "standing"] == ["approved", "refused"]


def test_a_state_that_is_reached_fulfils_the_wish(store: Store) -> None:
    key = draft(store)
    assert store.study(key).wish == "propose"
    store.seal(key, b"sealed", b"signature", "d" * 64, 1)
    told = [store.happened(key, event, 2) for event in (Offered(), Launch(), Began(), Completed("all done"))]
    assert [(life.state, life.wish) for life in told] == [
        ("proposed", "none"), ("proposed", "run"), ("running", "run"), ("completed", "none"),
    ]  # fmt: skip
    assert store.study(key).life == told[-1]
    entries = [(entry.kind, entry.data) for entry in store.journal(key, "state", "wish")]
    assert entries == [
        ("state", {"state": "proposed", "reason": ""}),
        ("wish", {"wish": "run"}),
        ("state", {"state": "running", "reason": ""}),
        ("state", {"state": "completed", "reason": "all done"}),
    ]


def test_a_failure_is_kept_by_its_code(store: Store) -> None:
    key = draft(store)
    store.happened(key, Failed("too few sites take part", "too-few-sites"), 1)
    found = store.study(key)
    assert (found.state, found.reason, found.code) == ("failed", "too few sites take part", "too-few-sites")
    assert store.journal(key, "state")[-1].data["code"] == "too-few-sites"


def test_what_changes_nothing_leaves_no_trace_and_what_is_refused_neither(store: Store) -> None:
    key = draft(store)
    before = whole(store, key)
    store.happened(key, Began(), 1)
    store.happened(key, Completed("never begun"), 1)
    with pytest.raises(RefusalError) as refused:
        store.happened(key, Launch(), 1)
    assert refused.value.code == "not-to-launch"
    assert whole(store, key) == before
    with pytest.raises(InputError):
        store.happened(key + 1, Launch(), 1)


# --- sites ----------------------------------------------------------------------------------------------------------------------


def test_enrolling_the_same_keys_again_changes_nothing(store: Store) -> None:
    enrol(store, "va", "k", "n", 1)
    store.set_node("va", 7)
    enrol(store, "va", "k", "n", 2)
    assert [(site.site, site.node_id) for site in store.sites()] == [("va", 7)]


@pytest.mark.parametrize(("site", "identity", "node"), [("va", "k2", "n"), ("va", "k", "n2"), ("va2", "k", "n")])
def test_a_name_or_key_of_another_is_refused(store: Store, site: str, identity: str, node: str) -> None:
    enrol(store, "va", "k", "n", 1)
    with pytest.raises((UsageError, RefusalError), match=r"enrolled already|another site's"):
        enrol(store, site, identity, node, 2)
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


# --- readers --------------------------------------------------


def test_a_reader_sees_what_is_written_and_can_change_nothing(store: Store, place: Place) -> None:
    key = filled(store)
    reader = place.open(read_only=True)
    store.happened(key, Stop(), 8)
    assert reader.study(key).wish == "stop"
    for write in (
        lambda: reader.happened(key, Launch(), 9),
        lambda: reader.note(key, "x", {}, 9),
        lambda: draft(reader),
        lambda: enrol(reader, "z", "z", "z", 9),
    ):
        with pytest.raises(UnreachableError):
            write()
    assert store.study(key).wish == "stop"
    reader.close()


def test_a_reader_makes_no_store(place: Place) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="no store"):
            place.open(read_only=True)


# --- the guard's look at the credentials ---------------------------------------------------------------------------------


def test_the_guard_sees_every_change_at_once(store: Store, place: Place) -> None:
    prints = [enrol(store, f"s{i}", f"k{i}", f"n{i}") for i in range(100)]
    live, other = store.live_credentials(), place.open()  # another process writes
    assert live.find(prints[-1]) is not None
    assert live.find("unknown") is None
    for number in range(200):
        other.note(1, "x", {}, number)  # a commit, so that everything is read anew
        row = live.find(prints[number % 100])
        assert row is not None
        assert row.state == "issued"
    other.revoke("s99", "stolen", 9)
    revoked = live.find(prints[-1])
    assert revoked is not None
    assert (revoked.state, revoked.reason) == ("revoked", "stolen")
    live.close()
    other.close()


# --- the file -------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("filed")
def test_the_file_is_its_owner_s(path: Path) -> None:
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


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("data", [b"no database" * 100, b"SQLite format 3\0" + bytes(84) + b"x" * 5000])
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(path: Path, data: bytes, read_only: bool) -> None:
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged"):
        Store.open(path, read_only=read_only)
    assert path.read_bytes() == data


def test_damage_that_comes_later_is_an_integrity_error_for_reads_and_writes(filed: Store, path: Path) -> None:
    key = filled(filed)
    for number in range(2, 300):
        attempt(filed, key, number)
    filed.close()
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for page in range(2, len(data) // size):  # all but the first two pages: the schema stays readable
        data[page * size : (page + 1) * size] = b"\xa5" * size
    path.write_bytes(data)
    for use in (filed.journal, filed.attempts, filed.metrics, lambda key: filed.happened(key, Stop(), 9)):
        with pytest.raises(IntegrityError, match="damaged"):
            use(key)
    with pytest.raises(IntegrityError, match="damaged"):
        Store.open(path).journal(key)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be used"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")


def test_a_writer_that_is_held_off_says_so(filed: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, real = draft(filed), sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, **(kwargs | {"timeout": 0.05})))
    hurried = Store.open(path)
    other = real(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnreachableError, match="locked"):
        hurried.happened(key, Stop(), 2)
    other.execute("ROLLBACK")
    hurried.happened(key, Stop(), 3)
    assert filed.study(key).state == "stopped"
