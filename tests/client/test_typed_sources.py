"""Parquet and SQL: the same table as from CSV, what was registered is what is read, a database is only read and says nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from federation import heart_manifest

from fedward.client import datasets
from fedward.client.exclusions import add
from fedward.client.home import SiteHome
from fedward.client.mapping import Mapping, load_mapping
from fedward.client.sources import DataRefusedError, read_site_table
from fedward.client.sources.sheet import text_of
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.ledger import Budget
from fedward.study.heart import heart_folder

CANARY = "Zyxwv-Quarantine"
SITE = "va"
MAPPING = (heart_folder() / f"{SITE}.mapping.toml").read_text()


def heart_frame() -> pd.DataFrame:
    """VA's export, with numbers as numbers."""
    return pd.read_csv(heart_folder() / f"{SITE}.csv", dtype={"PSEUDO_ID": str})


def mapping_for(folder: Path, source: str) -> Path:
    """VA's mapping with another [source]."""
    rest = MAPPING.partition("[columns.age]")[2]
    path = folder / "mapping.toml"
    path.write_text(f'[source]\npatient_id = "PSEUDO_ID"\nmissing = ["-9"]\n{source}\n[columns.age]{rest}')
    return path


def to_sqlite(frame: pd.DataFrame, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        frame.to_sql("export", connection, index=False, if_exists="replace")


def sqlite_source(extra: str = 'table = "export"') -> str:
    return f'kind = "sql"\n[source.sql]\nurl = "sqlite:///export.db"\n{extra}\n'


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome.create(tmp_path / "home", SITE, Budget(10.0, 1e-3))


def _silent(error: BaseException, *secrets: str) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = f"{error} {error!r} {error.args}"
    for secret in (CANARY, *secrets):
        assert secret not in shown


# ---- the same table -------------------------------------------------------------------------------------------------


def test_parquet_and_sql_give_the_table_that_csv_gives(tmp_path: Path) -> None:
    manifest, frame = heart_manifest(), heart_frame()
    frame.to_parquet(tmp_path / "export.parquet")
    to_sqlite(frame, tmp_path / "export.db")
    wanted = read_site_table(
        heart_folder() / f"{SITE}.csv", load_mapping(heart_folder() / f"{SITE}.mapping.toml"), manifest
    )
    parquet = load_mapping(mapping_for(tmp_path, 'kind = "parquet"\npath = "export.parquet"'))
    pd.testing.assert_frame_equal(read_site_table(tmp_path / "export.parquet", parquet, manifest).frame, wanted.frame)
    by_table = read_site_table(tmp_path, load_mapping(mapping_for(tmp_path, sqlite_source())), manifest)
    pd.testing.assert_frame_equal(by_table.frame, wanted.frame.sort_index())
    query = 'query = "SELECT * FROM export WHERE AGE > 0 ORDER BY AGE; "'
    by_query = read_site_table(tmp_path, load_mapping(mapping_for(tmp_path, sqlite_source(query))), manifest)
    pd.testing.assert_frame_equal(by_query.frame, by_table.frame)
    assert by_query.digest == by_table.digest  # the order of patients means nothing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (float("nan"), ""), (Decimal("NaN"), ""), (np.nan, ""), ("  a b ", "a b"), (True, "1"), (False, "0"),
        (np.bool_(True), "1"), (7, "7"), (-0.0, "0"), (7.0, "7"), (0.1, "0.1"), (np.float32(0.1), "0.1"), (2.0**70, str(2**70)),
        (float("inf"), "inf"), (Decimal("7.00"), "7"), (Decimal("0.10"), "0.10"), (date(2024, 2, 3), "2024-02-03"),
        (b"ab", "b'ab'"),
    ],
)  # fmt: skip
def test_a_typed_value_is_written_as_a_person_would(value: object, text: str) -> None:
    assert text_of(value) == text


# ---- Parquet --------------------------------------------------------------------------------------------------------


def _parquet(folder: Path, table: pa.Table | bytes, **changes: Any) -> FedwardError:
    path = folder / "export.parquet"
    path.write_bytes(table) if isinstance(table, bytes) else pq.write_table(table, path)
    mapping = load_mapping(mapping_for(folder, 'kind = "parquet"'))
    with pytest.raises(FedwardError) as caught:
        read_site_table(path, mapping, heart_manifest())
    _silent(caught.value)
    return caught.value


def test_what_is_no_such_parquet_is_refused(tmp_path: Path) -> None:
    whole = pa.Table.from_pandas(heart_frame(), preserve_index=False)
    assert "no Parquet file" in str(_parquet(tmp_path, b""))
    assert "no Parquet file" in str(_parquet(tmp_path, b"PAR1" + CANARY.encode() * 50 + b"PAR1"))
    assert "no rows" in str(_parquet(tmp_path, whole.slice(0, 0)))
    assert 'Expected "CHOL" (for chol' in str(_parquet(tmp_path, whole.drop_columns(["CHOL"])))
    nested = whole.drop_columns(["CHOL"]).append_column("CHOL", pa.array([[1.0]] * whole.num_rows))
    assert "lists or structures in a column. Got CHOL" in str(_parquet(tmp_path, nested))
    twice = whole.append_column("CHOL", whole["CHOL"])
    assert "several columns of one name" in str(_parquet(tmp_path, twice))


def test_a_parquet_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.client.sources.sheet.MAX_CELLS", 100)
    assert "200 rows of" in str(_parquet(tmp_path, pa.Table.from_pandas(heart_frame(), preserve_index=False)))


def test_a_wrong_cell_of_a_parquet_is_found_by_its_record(tmp_path: Path) -> None:
    frame = heart_frame()
    frame["CHOL"] = frame["CHOL"].astype(object)
    frame.loc[4, "CHOL"] = CANARY
    frame["CHOL"] = frame["CHOL"].astype(str)
    error = _parquet(tmp_path, pa.Table.from_pandas(frame, preserve_index=False))
    assert "1 × not a number, row 5" in str(error)
    assert isinstance(error, DataRefusedError)
    assert error.report.problems[0].found == CANARY
    assert "row 1 is the first record" in "\n".join(error.report.lines())


# ---- SQL ------------------------------------------------------------------------------------------------------------


def _sql(folder: Path, extra: str) -> FedwardError:
    to_sqlite(heart_frame(), folder / "export.db")
    before = (folder / "export.db").read_bytes()
    with pytest.raises(FedwardError) as caught:
        read_site_table(folder, load_mapping(mapping_for(folder, sqlite_source(extra))), heart_manifest())
    _silent(caught.value)
    assert (folder / "export.db").read_bytes() == before
    return caught.value


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM export", "no single SELECT"),
        ("UPDATE export SET AGE = 1", "no single SELECT"),
        ("SELECT 1; DROP TABLE export", "no single SELECT"),
        ("PRAGMA user_version = 7", "no single SELECT"),
        ("/* SELECT */ DROP TABLE export", "no single SELECT"),
        ("ATTACH 'other.db' AS other", "no single SELECT"),
        ("WITH gone AS (SELECT 1) DELETE FROM export", "refused the query. Got OperationalError"),
        ("WITH x AS (SELECT 1) INSERT INTO export (AGE) SELECT 1", "refused the query. Got OperationalError"),
        ("SELECT 'Zyxwv-Quarantine' / nonsense FROM export", "refused the query. Got OperationalError"),
        ("SELECT * FROM export WHERE AGE < 0", "gave no rows"),
        ("SELECT AGE FROM export", "lacks 14 of 15 columns"),
        ("SELECT * FROM export e JOIN export f ON e.PSEUDO_ID = f.PSEUDO_ID", "several columns of one name"),
    ],
)
def test_a_database_is_only_read(tmp_path: Path, query: str, said: str) -> None:
    assert said in str(_sql(tmp_path, f'query = """{query}"""'))


def test_a_statement_behind_the_first_check_cannot_write_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction itself is read-only: the refusal of the text is not all that there is."""
    monkeypatch.setattr("fedward.client.sources.sql._statement", lambda *_: "DELETE FROM export")
    assert "refused the query. Got OperationalError" in str(_sql(tmp_path, 'table = "export"'))


def test_colons_percents_and_quoted_semicolons_of_a_query_are_its_own(tmp_path: Path) -> None:
    to_sqlite(heart_frame(), tmp_path / "export.db")
    query = "SELECT * FROM export WHERE ':x;%s' <> '%(y)s' AND PSEUDO_ID LIKE '%' -- a comment; of mine"
    path = mapping_for(tmp_path, sqlite_source(f'query = """{query}"""'))
    assert len(read_site_table(tmp_path, load_mapping(path), heart_manifest()).frame) == 200


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no database file"):
        read_site_table(tmp_path, load_mapping(mapping_for(tmp_path, sqlite_source())), heart_manifest())
    assert not (tmp_path / "export.db").exists()


def test_encounters_of_a_database_need_an_order() -> None:
    sql = {"url": "sqlite:///x.db", "query": "SELECT * FROM t"}
    source = {"kind": "sql", "patient_id": "id", "rows": "encounters"}
    with pytest.raises(ValueError, match="ORDER BY"):
        Mapping.model_validate({"source": source | {"sql": sql}})
    Mapping.model_validate({"source": source | {"sql": sql | {"query": "SELECT * FROM t Order  By day"}}})


@pytest.mark.parametrize(
    "sql",
    [
        f'url = "postgresql://reader:{CANARY}@db/x"\ntable = "t"',
        f'url = "postgresql+psycopg://db/x?password={CANARY}"\ntable = "t"',
        f'url = "postgresql://db/x"\ntable = "t"\npassword = "{CANARY}"',
        f'url = "postgresql://db/x"\ntable = "t"\npasword_env = "{CANARY}"',
        f'url = "postgresql://db/x"\ntable = "t"\n[source.sql.{CANARY}_x]\n',
    ],
)
def test_a_password_in_a_mapping_is_refused_unshown(tmp_path: Path, sql: str) -> None:
    path = mapping_for(tmp_path, f'kind = "sql"\n[source.sql]\n{sql}\n')
    with pytest.raises(InputError) as caught:
        load_mapping(path)
    assert "password" in str(caught.value) or "no such fields" in str(caught.value)
    if "_x" not in sql:  # names of fields are shown, what they say is not
        _silent(caught.value)


def test_a_password_comes_from_the_environment_or_a_file_of_its_owner_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = 'url = "postgresql://reader@127.0.0.1:9/x?connect_timeout=2"\ntable = "t"\n'
    reading: Callable[[str], FedwardError] = lambda given: _unreached(tmp_path, url + given)  # noqa: E731
    assert "environment variable FEDWARD_DB" in str(reading('password_env = "FEDWARD_DB"'))
    monkeypatch.setenv("FEDWARD_DB", CANARY)
    assert reading('password_env = "FEDWARD_DB"').code == "unreachable"
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "secret").chmod(0o644)
    assert "may be read by others" in str(reading('password_file = "secret"'))
    (tmp_path / "secret").chmod(0o600)
    assert reading('password_file = "secret"').code == "unreachable"


def _unreached(folder: Path, sql: str) -> FedwardError:
    mapping = load_mapping(mapping_for(folder, f'kind = "sql"\n[source.sql]\n{sql}\n'))
    with pytest.raises(FedwardError) as caught:
        read_site_table(folder, mapping, heart_manifest())
    _silent(caught.value)
    return caught.value


# ---- what was registered is what trains -----------------------------------------------------------------------------


def test_rows_of_a_query_that_change_are_refused(home: SiteHome, tmp_path: Path) -> None:
    manifest, frame = heart_manifest(), heart_frame()
    to_sqlite(frame, tmp_path / "export.db")
    done = datasets.register(home, manifest, None, mapping_for(tmp_path, sqlite_source()), 1)
    assert (done.dataset.kind, done.dataset.source, done.dataset.patients) == ("sql", "sqlite database export.db", 200)
    first = datasets.load(home, done.dataset, manifest)
    to_sqlite(frame.sample(frac=1.0, random_state=1).assign(OTHER=1), tmp_path / "export.db")
    again = datasets.load(home, done.dataset, manifest)  # other order, and a column that is not read
    np.testing.assert_array_equal(first.inputs, again.inputs)
    for changed in (frame.iloc[1:], frame.assign(AGE=frame["AGE"] + 1), pd.concat([frame, frame.iloc[:1]])):
        to_sqlite(changed, tmp_path / "export.db")
        with pytest.raises(IntegrityError) as caught:
            datasets.load(home, done.dataset, manifest)
        assert caught.value.code == "data-changed"


@pytest.mark.parametrize("change", ["other bytes", "gone", "no parquet"])
def test_a_parquet_that_changes_is_refused(home: SiteHome, tmp_path: Path, change: str) -> None:
    manifest, path = heart_manifest(), tmp_path / "export.parquet"
    heart_frame().to_parquet(path)
    done = datasets.register(home, manifest, path, mapping_for(tmp_path, 'kind = "parquet"'), 1)
    datasets.load(home, done.dataset, manifest)
    datasets.unchanged(done.dataset)
    if change == "gone":
        path.unlink()
    elif change == "no parquet":
        path.write_bytes(b"PAR1")
    else:
        heart_frame().iloc[1:].to_parquet(path)
    for read in (lambda: datasets.load(home, done.dataset, manifest), lambda: datasets.unchanged(done.dataset)):
        with pytest.raises(IntegrityError) as caught:
            read()
        assert caught.value.code == "data-changed"


def test_an_excluded_patient_of_a_database_is_left_out(home: SiteHome, tmp_path: Path) -> None:
    manifest, frame = heart_manifest(), heart_frame()
    to_sqlite(frame, tmp_path / "export.db")
    done = datasets.register(home, manifest, None, mapping_for(tmp_path, sqlite_source()), 1)
    add(home, [frame["PSEUDO_ID"][3]])
    assert frame["PSEUDO_ID"][3] not in datasets.load(home, done.dataset, manifest).patients
