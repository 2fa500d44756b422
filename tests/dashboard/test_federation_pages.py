"""The pages of a federation, laid out by Streamlit without a browser: what they say, and that they never show a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation
from laidout import page, said, script
from streamlit.testing.v1 import AppTest

from fedward.dashboard import gatekeeper
from fedward.dashboard.access import Denied, Granted, Role
from fedward.dashboard.federation.pages import FEDERATION, frame

PAGES = [name for _, name, _ in FEDERATION]


@pytest.mark.parametrize("name", PAGES)
def test_each_page_says_its_sentence_and_the_promise(record: Federation, name: str) -> None:
    app = page(name, str(record.home.path))
    told = said(app)
    assert {
        "study": "Completed: 5 of 5 rounds",
        "accuracy": "AUROC .",
        "fairness": "",  # which patients are held out differs, and so what is said of groups: see the views' own tests
        "privacy": "has cost each patient ε at most",
        "participation": "contributed to the newest attempt",
        "models": "none may be used yet",
        "audit": "countersigned by 4 of 4 hospitals",
    }[name] in str(app.subheader[0].value).replace("\\", "")
    assert "ε at most 3 at δ = 0.001" in told
    assert "unit: patient" in told
    assert app.query_params["study"] == str(record.key)
    for chart in app.get("vega_lite_chart"):
        assert chart.proto.alt
        assert "nan" not in chart.proto.alt


@pytest.mark.parametrize("name", PAGES)
def test_every_page_of_a_study_that_has_not_begun(begun: Federation, name: str) -> None:
    assert "Coronary disease" in said(page(name, str(begun.home.path)))


@pytest.mark.parametrize("name", PAGES)
def test_what_cannot_be_read_is_a_sentence_and_a_command(tmp_path: Path, name: str) -> None:
    told = said(page(name, str(tmp_path / "none")))
    assert "no coordinator lives in" in told
    assert "fedward monitor --store DIR" in told


def test_a_link_chooses_the_study_and_a_wrong_one_falls_back(record: Federation) -> None:
    key = str(record.store.find("heart-pilot").key)
    assert "Pilot: coronary disease" in said(page("study", str(record.home.path), study=key))
    assert "Coronary disease from" in said(page("study", str(record.home.path), study="999"))


def test_verifying_shows_each_check(record: Federation) -> None:
    app = page("audit", str(record.home.path))
    next(one for one in app.button if "Verify" in one.label).click().run()
    assert not app.exception
    assert str(app.subheader[0].value).startswith("Verified")
    assert said(app).count("check_circle: holds") == 6


def test_two_studies_are_compared(record: Federation) -> None:
    app = page("models", str(record.home.path))
    app.selectbox(key="beside").select_index(0).run()
    assert not app.exception
    assert any("AUROC of two studies" in chart.proto.alt for chart in app.get("vega_lite_chart"))


def test_a_coordinator_without_a_study_says_how_one_is_proposed(tmp_path: Path) -> None:
    empty = Federation(tmp_path / "empty", sites=("va",))
    told = said(page("study", str(empty.home.path)))
    assert "proposed no study" in told
    assert "fedward coordinator propose" in told


@pytest.mark.parametrize(
    ("role", "site", "few"), [("viewer", None, {"privacy", "participation", "audit"}), ("hospital", "va", set())]
)
def test_a_page_that_a_role_has_not_reads_nothing(
    record: Federation, monkeypatch: pytest.MonkeyPatch, role: Role, site: str | None, few: set[str]
) -> None:
    """Whatever the address: the page itself asks, before it reads anything."""

    def read(*_: object) -> None:
        raise RuntimeError("the record was read")

    monkeypatch.setattr(gatekeeper, "judged", lambda: Granted(role, site, None))
    monkeypatch.setattr(frame, "find", read)
    for name in few:
        told = said(page(name, str(record.home.path)))
        assert "This page is not for your role" in told
        assert "AUROC" not in told
    for name in set(PAGES) - few:
        with pytest.raises(AssertionError, match="the record was read"):
            page(name, str(record.home.path))


@pytest.mark.parametrize("name", PAGES)
def test_who_is_not_let_in_sees_no_page_of_a_record(
    record: Federation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(gatekeeper, "judged", lambda: Denied("This account is not on the list.", "not-on-the-list"))
    monkeypatch.setattr(gatekeeper, "_refuse", lambda found: (_ for _ in ()).throw(PermissionError(found.code)))
    app = AppTest.from_function(script, kwargs={"name": name, "named": str(record.home.path)}, default_timeout=120)
    app.run()
    assert [one.message for one in app.exception] == ["not-on-the-list"]
    assert not any(site in said(app) for site in record.sites)
