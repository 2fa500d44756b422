"""A page of a federation as Streamlit lays it out, without a browser."""

from __future__ import annotations

from opened import all_tables
from streamlit.testing.v1 import AppTest


def script(name: str, named: str) -> None:
    from fedward.dashboard.federation.pages import FEDERATION

    next(page for _, one, page in FEDERATION if one == name)(named)


def page(name: str, named: str, **query: str) -> AppTest:
    """`named`: the record's place, as `fedward monitor --store` takes it."""
    app = AppTest.from_function(script, kwargs={"name": name, "named": named}, default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    with all_tables():
        app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    """Everything that is said, without the signs that keep it plain."""
    parts = [*app.header, *app.subheader, *app.markdown, *app.info, *app.warning, *app.error, *app.code]
    return " ".join(str(part.value) for part in parts).replace("\\", "").replace("\u2060", "")
