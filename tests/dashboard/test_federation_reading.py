"""The reader of a coordinator's record: what it says is what the store's own readings say, and it asks for what is new alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import histories
import pytest
from federation import Federation
from monitored import STUDY

from fedward.dashboard.federation.pages.frame import reader_of
from fedward.dashboard.federation.place import place
from fedward.dashboard.federation.reading import EVERYBODY, Reader
from fedward.dashboard.serve import _read_ahead
from fedward.privacy.errors import InputError
from fedward.server.chronicle import attempts
from fedward.server.readings import history, view
from fedward.server.records import SharedMetrics
from fedward.server.spending import spending
from fedward.server.store import Store


class Watched:
    """A store that counts the rows that it gave."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*given: Any, **named: Any) -> Any:
            made = found(*given, **named)
            self.rows[name] = self.rows.get(name, 0) + (len(made) if isinstance(made, list) else 1)
            return made

        return call


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return histories.template(tmp_path_factory.mktemp("template"))


def test_the_reader_says_what_the_stores_own_readings_say(record: Federation) -> None:
    reader = Reader(record.store)
    for study in record.store.studies():
        look, own = reader.look(study.key), history(record.store, study)
        made = reader.history(look)
        assert made.view.contributions() == own.view.contributions()
        for name in ("state", "version", "model", "attempts", "statuses", "standings", "not_releasable", "epsilon"):
            assert getattr(made.view, name) == getattr(own.view, name), name
        assert made.view.measured() == own.view.measured()
        assert attempts(made) == attempts(own)
        assert reader.metrics(look, EVERYBODY) == [row for row in own.view.metrics if row.slice == "everybody"]
        assert {site: one.committed for site, one in reader.tallies(look).items()} == own.view.contributions()
        assert sum(sum(one.statuses.values()) for one in reader.tallies(look).values()) == len(own.view.statuses)


def test_a_refresh_asks_for_what_is_new_alone(template: Federation, tmp_path: Path) -> None:
    """Attempt by attempt, as a run goes on, what is kept stays equal to a fresh reading."""
    federation = template.copy(tmp_path / "copy")
    store = Watched(federation.store)
    reader = Reader(store)  # type: ignore[arg-type]
    read: list[int] = []

    def look(text: str) -> None:
        if not text.startswith("attempt "):
            return
        store.rows.clear()
        seen = reader.look(federation.key)
        reader.tallies(seen)
        read.append(store.rows.get("statuses", 0))
        fresh = view(federation.store, federation.store.study(federation.key))
        assert seen.attempts == fresh.attempts
        assert {site: one.committed for site, one in reader.tallies(seen).items()} == fresh.contributions()
        store.rows.clear()
        assert reader.look(federation.key) is seen  # nothing new: nothing is read
        assert set(store.rows) == {"stamp"}

    histories.lived(federation, look)
    assert len(read) == histories.ROUNDS + 1
    assert max(read) <= len(federation.sites)


def test_a_history_is_made_once_until_the_record_changes(template: Federation, tmp_path: Path) -> None:
    federation = template.copy(tmp_path / "copy")
    histories.completed(federation)
    store = Watched(federation.store)
    reader = Reader(store)  # type: ignore[arg-type]
    look = reader.look(federation.key)
    whole, newest = reader.history(look), reader.history(look, 2)
    assert (len(whole.by_attempt), len(newest.by_attempt)) == (len(look.attempts), 2)
    store.rows.clear()
    assert reader.history(look) is whole
    assert reader.history(look, 2) is newest
    assert store.rows == {}
    federation.store.share(federation.key, SharedMetrics("va", 3, 0.8, None), "ab" * 32)
    assert [one.site for one in reader.history(reader.look(federation.key)).shared] == ["va"]


def test_tallies_are_those_by_which_cards_tell_what_a_study_cost(record: Federation) -> None:
    reader = Reader(record.store)
    for study in record.store.studies():
        found = reader.tallies(reader.look(study.key))
        assert {site: (one.trained, one.evaluated) for site, one in found.items()} == {
            one.site: (one.trainings, one.evaluations) for one in spending(history(record.store, study))
        }


def test_the_monitor_reads_ahead_into_the_reader_of_its_pages(record: Federation) -> None:
    _read_ahead(str(record.home.path))
    reader = reader_of(place(str(record.home.path)))
    store = Watched(reader._store)
    reader._store = store  # type: ignore[assignment]
    look = reader.look(record.key)
    assert {site: one.committed for site, one in reader.tallies(look).items()} == reader.history(
        look
    ).view.contributions()
    assert set(store.rows) == {"stamp"}  # all the rest is there
    reader._store = store._store


def test_what_cannot_be_read_ahead_is_left_to_the_pages(tmp_path: Path) -> None:
    _read_ahead(str(tmp_path / "none"))


def test_what_was_lost_is_read_anew(template: Federation, tmp_path: Path) -> None:
    from fedward.server.records import LostModel

    federation = template.copy(tmp_path / "copy")
    histories.completed(federation)
    reader = Reader(federation.store)
    reader.tallies(reader.look(federation.key))
    federation.store.lose(federation.key, 1, [LostModel(3, "ab", "damaged")], federation.clock.unix())
    look = reader.look(federation.key)
    assert [row.outcome for row in look.attempts if row.round > 1] == ["lost"] * 3
    assert {one.committed for one in reader.tallies(look).values()} == {1}


def test_places(record: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = record.home.path
    assert place(str(home)).store == home / "store.sqlite"
    assert place(str(home / "store.sqlite")).home is not None
    assert place("postgresql://u@h/d").shown == "postgresql://u@h/d"
    with pytest.raises(InputError, match="no coordinator lives in"):
        place(str(tmp_path))
    monkeypatch.setattr("fedward.dashboard.federation.place.DEFAULT_HOME", tmp_path / "none")
    with pytest.raises(InputError, match=r"nothing to look at.*fedward monitor RUN"):
        place(None)
    (tmp_path / "federation.json").write_bytes(record.home.settings_file.read_bytes())
    with pytest.raises(InputError, match="no record yet"):
        place(str(tmp_path))


def test_it_is_opened_to_read_alone(record: Federation) -> None:
    store = place(str(record.home.path)).open()
    try:
        study = store.find(STUDY)
        with pytest.raises(Exception, match=r"cannot be used now|readonly"):
            store.note(study.key, "wish", {}, 0)
    finally:
        store.close()
