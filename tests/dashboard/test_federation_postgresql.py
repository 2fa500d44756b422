"""The monitor over a record in PostgreSQL: each page says what it says of the same record in a file, and reads it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import postgres
import pytest
from federation import Federation
from laidout import page, said

from fedward.dashboard.federation.pages import FEDERATION
from fedward.dashboard.federation.place import place
from fedward.dashboard.federation.reading import EVERYBODY, Reader
from fedward.privacy.errors import FedwardError
from fedward.server import storecopy
from fedward.server.postgresql import PASSWORD_VARIABLE
from fedward.server.storeplace import at_place


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.serving(durable=True) as found:
        yield found


@pytest.fixture
def url(server: postgres.Server, record: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The record's copy in a database of its own."""
    monkeypatch.setenv(PASSWORD_VARIABLE, postgres.PASSWORD)
    made = server.make(f"monitored_{abs(hash(tmp_path))}")
    copy = tmp_path / "copy.sqlite"
    with closing(at_place(record.home.store_file)) as file, closing(at_place(made)) as database:
        storecopy.snapshot(file, copy)
        storecopy.load(copy, database, "of the monitor's test")
    return made


@pytest.mark.parametrize("name", [name for _, name, _ in FEDERATION if name != "audit"])
def test_each_page_says_the_same_of_it(record: Federation, url: str, name: str) -> None:
    of_file = said(page(name, str(record.home.path)))
    of_database = said(page(name, url))
    assert "ε at most 3" in of_file
    assert of_database == of_file


def test_the_audit_page_says_where_the_log_lies(url: str) -> None:
    assert "and this is its database alone" in said(page("audit", url))


def test_the_reader_reads_the_same_and_only_reads(record: Federation, url: str) -> None:
    with closing(place(url).open()) as opened, closing(record.home.open_store()) as filed:
        mine, theirs = Reader(opened), Reader(filed)
        for row in theirs.studies():
            look, same = mine.look(row.key), theirs.look(row.key)
            assert (look.attempts, look.journal, look.standings) == (same.attempts, same.journal, same.standings)
            assert mine.statuses(look) == theirs.statuses(same)
            assert mine.metrics(look, EVERYBODY) == theirs.metrics(same, EVERYBODY)
            assert mine.measured(look) == theirs.measured(same)
        with pytest.raises(FedwardError):
            opened.note(theirs.studies()[0].key, "wish", {}, 0)


def test_a_database_that_has_gone_is_a_sentence(server: postgres.Server, url: str) -> None:
    assert "Completed" in said(page("study", url))
    server.stop()
    try:
        told = said(page("accuracy", url))
    finally:
        server.start()
    assert postgres.PASSWORD not in told
    assert "What helps" in told or "cannot be" in told
    assert "Completed" in said(page("study", url))
