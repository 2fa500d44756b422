"""The pages, laid out by Streamlit without a browser: what they say, and that they never show a traceback."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from opened import all_tables
from runs import broken_off, written
from streamlit.testing.v1 import AppTest

from fedward.dashboard import layouts, pages
from fedward.dashboard.record import stamp
from fedward.privacy.errors import InputError

NAMES = ("accuracy", "fairness", "provenance")


def _script(name: str, folder: str) -> None:
    from pathlib import Path

    from fedward.dashboard import pages

    getattr(pages, name)(Path(folder))


def page(name: str, folder: Path) -> AppTest:
    app = AppTest.from_function(_script, kwargs={"name": name, "folder": str(folder)}, default_timeout=60)
    with all_tables():
        app.run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    """Everything that is said, without the signs that keep it plain."""
    parts = [*app.header, *app.subheader, *app.markdown, *app.caption, *app.info, *app.error, *app.code]
    return " ".join(str(part.value) for part in parts).replace("\\", "").replace("\u2060", "")


def test_closed_tables_are_not_sent(run: Path) -> None:
    """What draws them is a third of all that a browser loads."""
    closed = AppTest.from_function(_script, kwargs={"name": "accuracy", "folder": str(run)}, default_timeout=60).run()
    assert not closed.exception
    assert not closed.dataframe
    names = {one.label for one in closed.expander}
    assert names == {one.label for one in page("accuracy", run).expander}
    assert len(names) == 4


def test_accuracy_says_first_whether_it_works(run: Path) -> None:
    app = page("accuracy", run)
    assert "Federated AUROC" in words(app).split("At each hospital")[0]
    assert "over 3 seeds" in words(app)
    assert [metric.label for metric in app.metric] == [
        "Federated",
        "Average hospital alone",
        "Pooled, which privacy forbids",
    ]
    assert "ε at most 3 at δ = 0.001" in words(app)
    assert "unit: patient" in words(app)
    assert not app.info  # it is finished
    assert {next(iter(table.value.columns)) for table in app.dataframe} == {"model", "hospital", "round"}


@pytest.mark.parametrize("name", NAMES[:2])
def test_every_chart_has_words_for_those_who_do_not_see_it(run: Path, name: str) -> None:
    found = [chart.proto.alt for chart in page(name, run).get("vega_lite_chart")]
    assert len(found) == 3
    assert all("AUROC" in told and "nan" not in told for told in found), found


def test_fairness_and_what_was_run(run: Path) -> None:
    fairness = words(page("fairness", run))
    assert "Lowest AUROC beside everybody's" in fairness
    assert "a patient may be in several" in fairness
    app = page("provenance", run)
    assert "3 seeds are done with the stacked engine" in words(app)
    facts = dict(app.dataframe[0].value.itertuples(index=False))
    assert facts["study"] == "heart-4-hospitals"
    assert "fedward simulate STUDY --engine stacked --seeds 3" in words(app)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seeds", [(), (0,), (0, 2)], ids=str)
def test_an_unfinished_run_is_shown_and_says_so(run: Path, tmp_path: Path, name: str, seeds: tuple[int, ...]) -> None:
    app = page(name, broken_off(run, tmp_path / "run", seeds))
    assert "Not finished" in words(app)
    assert f"{len(seeds)} seed" in words(app)


def test_a_page_follows_its_run(run: Path, tmp_path: Path) -> None:
    folder = broken_off(run, tmp_path / "run", [0])
    app = page("accuracy", folder)
    assert "over 1 seed" in words(app)
    shutil.copy(run / "seeds" / "1.json", folder / "seeds" / "1.json")
    assert "over 2 seeds" in words(app.run())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read_is_a_sentence_and_a_command(run: Path, tmp_path: Path, name: str) -> None:
    folder = broken_off(run, tmp_path / "run", [0])
    (folder / "seeds" / "0.json").write_text("{")
    said = words(page(name, folder))
    assert "seeds/0.json cannot be read" in said
    assert "fedward simulate" in said
    assert "fedward simulate STUDY --out" in words(page(name, tmp_path / "none"))


def test_text_of_files_is_never_markup(tmp_path: Path) -> None:
    title = "**bold** [link](http://example.org) :red[x] <b>"
    app = page("accuracy", written(tmp_path / "run", [], study={"title": title}))
    assert "[link](" not in app.header[0].value
    assert "**" not in app.header[0].value
    assert "<b>" not in app.header[0].value
    assert title in words(app)


def test_many_hospitals_are_the_least_gaining_in_the_order_of_their_names(tmp_path: Path) -> None:
    scores: dict[tuple[str, str], float | None] = {("federated", "everybody"): 0.8}
    for number in range(30):
        scores |= {
            ("federated", f"site=h{number:02}"): 0.8,
            (f"alone:h{number:02}", f"site=h{number:02}"): 0.5 + number / 100,
        }
    app = page("accuracy", written(tmp_path / "run", [scores, scores]))
    assert f"{layouts.MOST} of 30 hospitals that gain least" in words(app)
    assert len(next(table.value for table in app.dataframe if "hospital" in table.value)) == 60


def test_the_stamp_of_what_is_no_folder_is_no_error(tmp_path: Path) -> None:
    assert set(stamp(tmp_path / "none")) == {0}
    with pytest.raises(InputError):
        pages.read(tmp_path / "none")


def test_the_main_module_is_the_tests_own_again() -> None:
    """Last: pages were run by the tests above, and in files before."""
    assert not str(getattr(sys.modules["__main__"], "__file__", "")).startswith(tempfile.gettempdir())
