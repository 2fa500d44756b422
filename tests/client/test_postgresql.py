"""A hospital's data in a real PostgreSQL: read, never written, and its password and errors shown nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import postgres
import pytest
from federation import heart_manifest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Engine

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.sources import read_site_table
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.ledger import Budget
from fedward.study.heart import heart_folder

CANARY = "Zyxwv-Quarantine"
MANIFEST = heart_manifest()
REST = (heart_folder() / "va.mapping.toml").read_text().partition("[columns.age]")[2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres.running() as found:
        yield found


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    found = create_engine(make_url(url).set(password=postgres.PASSWORD))
    frame = pd.read_csv(heart_folder() / "va.csv", dtype={"PSEUDO_ID": str})
    frame.to_sql("export", found, index=False, if_exists="replace")
    yield found
    found.dispose()


def mapping(folder: Path, url: str, query: str = 'table = "export"', access: str = 'password_file = "secret"') -> Path:
    (folder / "secret").write_text(f"{postgres.PASSWORD}\n")
    (folder / "secret").chmod(0o600)
    path = folder / "mapping.toml"
    head = '[source]\nkind = "sql"\npatient_id = "PSEUDO_ID"\nmissing = ["-9"]\n'
    source = f'{head}[source.sql]\nurl = "{url}"\n{query}\n{access}\n'
    path.write_text(f"{source}[columns.age]{REST}")
    return path


def refused(folder: Path, path: Path, caplog: pytest.LogCaptureFixture, *secrets: str) -> FedwardError:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(FedwardError) as caught:
        read_site_table(folder, load_mapping(path), MANIFEST)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    for secret in (CANARY, postgres.PASSWORD, *secrets):
        assert secret not in f"{error} {error!r} {error.args} {caplog.text}"
    return error


def test_a_table_and_a_query_are_registered_and_load(
    engine: Engine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = SiteHome.create(tmp_path / "home", "va", Budget(10.0, 1e-3))
    monkeypatch.setenv("FEDWARD_DB", postgres.PASSWORD)
    own = load_mapping(heart_folder() / "va.mapping.toml")
    wanted = read_site_table(heart_folder() / "va.csv", own, MANIFEST).frame.sort_index()
    query = """query = "SELECT e.*, 'a:b%c' AS note FROM public.export e WHERE \\"AGE\\"::text <> ':x' ORDER BY random()" """
    for given, password in (
        ('table = "public.export"', 'password_env = "FEDWARD_DB"'),
        (query, 'password_file = "secret"'),
    ):
        path = mapping(tmp_path, url.replace("+psycopg", ""), given, password)
        done = datasets.register(home, MANIFEST, None, path, 1)
        assert (done.dataset.source, done.dataset.patients) == ("postgresql database postgres", 200)
        pd.testing.assert_frame_equal(datasets.read(home, done.dataset, MANIFEST), wanted)
    assert (
        postgres.PASSWORD not in (home.read(home.path / "datasets" / f"{MANIFEST.study.id}.json", "dataset")).decode()
    )
    with engine.begin() as connection:
        connection.execute(text('UPDATE export SET "CHOL" = "CHOL" + 1 WHERE "CHOL" > 200'))
    with pytest.raises(IntegrityError) as caught:
        datasets.read(home, done.dataset, MANIFEST)
    assert caught.value.code == "data-changed"


def test_types_of_a_database_become_the_cells_of_a_csv(engine: Engine, url: str, tmp_path: Path) -> None:
    query = (
        """query = 'SELECT "PSEUDO_ID", "AGE"::numeric(10,2), "SEX_CD" = 1 AS "SEX_CD", "CP_CD"::bigint, "BP_SYS"::real, """
        """"CHOL"::double precision, "FBS_CD"::smallint, "RESTECG_CD", "HR_MAX", "EXANG_CD", "OLDPEAK", "SLOPE_CD", "CA", """
        """"THAL_CD", "DX_CD" FROM export' """
    )
    found = read_site_table(tmp_path, load_mapping(mapping(tmp_path, url, query)), MANIFEST)
    table = read_site_table(tmp_path, load_mapping(mapping(tmp_path, url)), MANIFEST)
    pd.testing.assert_frame_equal(found.frame, table.frame)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM export",
        "WITH gone AS (DELETE FROM export RETURNING *) SELECT * FROM gone",
        "SELECT * INTO stolen FROM export",
        "SELECT *, set_config('transaction_read_only', 'off', false) FROM export; DELETE FROM export",
        "SELECT *, lo_create(7) FROM export",
        "SELECT *, nextval('counter') FROM export",
        "SELECT * FROM export; COMMIT; DROP TABLE export",
        "CREATE TABLE stolen (a int)",
    ],
)
def test_a_database_is_never_written(
    engine: Engine,
    url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    """Even where nothing looked at the statement, for an account that may do everything."""
    with engine.begin() as connection:
        connection.execute(text("CREATE SEQUENCE IF NOT EXISTS counter"))
    monkeypatch.setattr("fedward.client.sources.sql._statement", lambda *_: statement)
    error = refused(tmp_path, mapping(tmp_path, url), caplog)
    assert "refused the query" in str(error)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM export")).scalar() == 200
        assert connection.execute(text("SELECT to_regclass('stolen')")).scalar() is None


def test_what_a_database_says_of_a_value_is_not_passed_on(
    engine: Engine, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.execute(text('ALTER TABLE export ALTER "CHOL" TYPE text'))
        connection.execute(text(f"""UPDATE export SET "CHOL" = '{CANARY}' WHERE "PSEUDO_ID" = '751396BF1E'"""))  # noqa: S608
    error = refused(tmp_path, mapping(tmp_path, url, """query = 'SELECT *, "CHOL"::int AS c FROM export' """), caplog)
    assert "refused the query. Got InvalidTextRepresentation, SQLSTATE 22P02" in str(error)


def test_a_wrong_password_or_a_server_that_is_gone_is_unreachable(
    engine: Engine, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDWARD_DB", CANARY)
    error = refused(tmp_path, mapping(tmp_path, url, access='password_env = "FEDWARD_DB"'), caplog)
    assert (error.code, error.exit_code) == ("unreachable", 6)
    gone = url.replace(f":{make_url(url).port}", ":9")
    assert refused(tmp_path, mapping(tmp_path, gone), caplog).code == "unreachable"
