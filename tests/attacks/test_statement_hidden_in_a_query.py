"""A mapping, perhaps sent by somebody else, whose query hides a second statement in a quoting that one database knows."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from fedward.client.mapping_sources import SqlSource
from fedward.client.sources.sql import _statement
from fedward.privacy.errors import InputError

URL = "postgresql+psycopg://reader@db.example/warehouse"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT $$'$$; COMMIT; DROP TABLE victims; SELECT $$'$$",
        "SELECT $a$'$a$; COMMIT; DROP TABLE victims; SELECT $a$'$a$",
        "SELECT a AS [']; COMMIT; DROP TABLE victims; SELECT a AS [']",
        "SELECT `'`; COMMIT; DROP TABLE victims; SELECT `'`",
        "SELECT '\\''; COMMIT; DROP TABLE victims; SELECT ''",
        "SELECT 1 # '\n; COMMIT; DROP TABLE victims # '",
        "SELECT 1; DROP TABLE victims",
    ],
)
def test_a_second_statement_is_refused(query: str) -> None:
    with pytest.raises(InputError, match="no single SELECT"):
        _statement(SqlSource(url=URL, query=query), ["a"], make_url(URL))


def test_a_semicolon_in_a_text_is_none() -> None:
    query = "SELECT a FROM b WHERE c = 'x; y' -- all; of them"
    assert _statement(SqlSource(url=URL, query=query), ["a"], make_url(URL)) == query
