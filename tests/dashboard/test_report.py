"""The static report: the record's own figures, nothing that a hostile name could do, and the same bytes each time."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import monitored
import pandas as pd
import pytest
import vl_convert
from federation import Federation
from runs import broken_off, written
from streamlit.testing.v1 import AppTest

from fedward.dashboard import app as dashboard_app
from fedward.dashboard.federation.pages import FEDERATION
from fedward.dashboard.federation.place import Place, place
from fedward.dashboard.federation.reading import Reader
from fedward.dashboard.report import federation as of_record
from fedward.dashboard.report import pages, svg
from fedward.dashboard.report import run as of_run
from fedward.dashboard.report.contents import Report, Section
from fedward.dashboard.report.paper import Paper
from fedward.privacy.errors import InputError
from fedward.study.schedule import study_costs

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&lt;b&gt; {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def html(record: Federation) -> str:
    return pages.html(of_record.report(place(str(record.home.path)))[0])


@pytest.fixture(scope="module")
def sections(html: str) -> dict[str, Element]:
    return found(html)


def found(html: str) -> dict[str, Element]:
    """Sections by their anchors. They are well-formed XML: a text that broke out of its place would show here."""
    text = html[html.index("<main>") : html.index("</main>") + len("</main>")]
    main = ElementTree.fromstring(text)  # noqa: S314 - our own text
    return {str(one.get("aria-labelledby")): one for one in main.findall("section")}


def told(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def lead(section: Element) -> str:
    return next(told(one) for one in section.iter("p") if one.get("class") == "lead")


def table(section: Element, title: str) -> list[dict[str, str]]:
    """The rows of the table of that title."""
    region = next(one for one in section.iter("div") if one.get("role") == "region" and one.get("aria-label") == title)
    names = [told(one) for one in region.findall(".//thead//th")]
    return [dict(zip(names, map(told, row), strict=True)) for row in region.findall(".//tbody/tr")]


def downloads(section: Element) -> dict[str, bytes]:
    return {
        str(one.get("download")): base64.b64decode(str(one.get("href")).partition("base64,")[2])
        for one in section.iter("a")
        if one.get("download")
    }


def test_every_page_of_the_monitor_is_a_section_with_its_sentence(
    record: Federation, html: str, sections: dict[str, Element]
) -> None:
    assert list(sections) == [name for _, name, _ in FEDERATION]
    assert re.findall(r'<li><a href="#(\w+)">', html) == list(sections)
    assert lead(sections["study"]) == "Completed: 5 of 5 rounds committed. 4 of 4 hospitals contributed."
    assert "cleveland was not there in round 4" in lead(sections["participation"])
    assert re.fullmatch(
        r"Verified: \d+ entries, root \w{16}…, countersigned by 4 of 4 hospitals\.", lead(sections["audit"])
    )
    assert told(sections["audit"]).count("✓ holds") == 6
    head = html[: html.index("<main>")]
    assert str(record.store.find(monitored.STUDY).digest) in head
    assert "ε at most 3 at δ = 0.001: unit: patient" in head
    assert "nothing is taken out for other readers" in head


@pytest.mark.parametrize("name", [name for _, name, _ in FEDERATION if name != "audit"])
def test_it_says_what_the_page_says(record: Federation, sections: dict[str, Element], name: str) -> None:
    """The same sentence, and of every chart the same words."""
    app = AppTest.from_function(_page, kwargs={"name": name, "named": str(record.home.path)}, default_timeout=120).run()
    assert not app.exception, app.exception
    assert _plain(app.subheader[0].value) == lead(sections[name])
    drawn = {one.get("aria-label") for one in sections[name].iter("svg")}
    shown = {" ".join(chart.proto.alt.split()) for chart in app.get("vega_lite_chart")}
    assert shown <= drawn
    assert name in {"models"} or shown


def _page(name: str, named: str) -> None:
    from fedward.dashboard.federation.pages import FEDERATION

    next(page for _, one, page in FEDERATION if one == name)(named)


def _plain(text: object) -> str:
    return str(text).replace("\\", "").replace("\u2060", "")


NAMES = {
    "AUROC": "auroc", "AUPRC": "auprc", "Brier score": "brier", "sensitivity": "sensitivity", "specificity": "specificity",
    "precision": "precision", "share called positive": "selection_rate", "calibration error (ECE)": "calibration_error",
    "calibration in the large": "calibration_gap",
}  # fmt: skip


def test_the_numbers_are_the_stores(record: Federation, sections: dict[str, Element]) -> None:
    key = record.store.find(monitored.STUDY).key
    rows = {(row.slice, row.name): row for row in record.store.metrics(key, newest=True)}
    shown = table(sections["accuracy"], "Metrics")
    assert {one["metric"] for one in shown} == set(NAMES)
    for one in shown:
        row = rows["everybody", NAMES[one["metric"]]]
        assert (one["value"], one["low"], one["high"]) == tuple(
            f"{value:.3f}" for value in (row.value, row.low, row.high)
        )
    groups = {"sex: female": "sex=female", "sex: male": "sex=male"}
    compared = 0
    for one in table(sections["fairness"], "Metrics by group"):
        if one["group"] in groups and one["shown"] == "estimate":
            assert one["value"] == f"{rows[groups[one['group']], NAMES[one['metric']]].value:.3f}"
            compared += 1
    assert compared or any(one["shown"] == "suppressed" for one in table(sections["fairness"], "Metrics by group"))
    attempts = record.store.attempts(key)
    assert [int(one["attempt"]) for one in table(sections["study"], "Rounds")] == [row.attempt for row in attempts]
    sealed = record.sealed()
    for one in table(sections["privacy"], "ε by hospital"):
        promised = study_costs(sealed, one["hospital"])["coordinator"]
        assert f"{promised:.3f}" in one.values()


def test_each_table_lies_in_the_file_as_csv(record: Federation, sections: dict[str, Element]) -> None:
    rows = list(csv.DictReader(io.StringIO(downloads(sections["accuracy"])["metrics.csv"].decode())))
    area = next(
        row for row in record.store.metrics(record.store.find(monitored.STUDY).key, newest=True)
        if (row.slice, row.name) == ("everybody", "auroc")
    )  # fmt: skip
    assert next(float(one["value"]) for one in rows if one["metric"] == "AUROC") == pytest.approx(area.value, abs=1e-9)
    assert downloads(sections["models"])["card.html"].startswith(b"<!doctype html>")
    for section in sections.values():
        tables = [one for one in section.iter("div") if one.get("role") == "region"]
        assert len([name for name in downloads(section) if name.endswith(".csv")]) == len(tables)


def test_a_choice_is_laid_out_whole(sections: dict[str, Element]) -> None:
    shown = [told(one) for one in sections["fairness"].iter("h4")]
    assert shown[:6] == [
        "AUROC",
        "Sensitivity",
        "Specificity",
        "Brier score",
        "Calibration in the large",
        "Share called positive",
    ]
    parts = [one.tag for one in sections["fairness"].iter() if one.tag in {"h4", "figure"}]
    assert parts[:13] == ["figure", *["h4", "figure"] * 6]


def test_a_file_has_the_most_of_the_newest_and_a_command_s_every_line() -> None:
    paper = Paper("study")
    assert paper.window("Newest attempts", (25, 50, 100), "window") == 100
    paper.warn("It waits for <va>.", "fedward coordinator wait x\nfedward coordinator carry-on x")
    made = pages.html(Report("t", "s", (), "p", (), (Section("Study", "study", "q", "a", paper.parts),)))
    assert "It waits for &lt;va&gt;." in made
    assert ">fedward coordinator wait x\nfedward coordinator carry-on x</pre>" in made


def test_suppressed_groups_are_never_zero(record: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group is too small, and its complement would give it away."""
    whole = Reader.measured

    def measured(self: Reader, look: object) -> tuple[object, ...]:
        return tuple(monitored.sized(whole(self, look), {"sex=female": 5, "sex=male": 295}))  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "measured", measured)
    section = found(pages.html(of_record.report(place(str(record.home.path)))[0]))["fairness"]
    hidden = [one for one in table(section, "Metrics by group") if one["group"].startswith("sex")]
    assert len(hidden) == 16
    assert {(one["value"], one["low"], one["high"], one["told"]) for one in hidden} == {("suppressed",) * 3 + ("< 11",)}
    heat = next(iter(section.iter("svg")))
    assert "sex: female: < 11" in str(heat.get("aria-label"))
    assert [told(one) for one in heat.iter("text")].count("< 11") == 16
    distances = [one for one in table(section, "AUROC: the group less everybody") if one["group"].startswith("sex")]
    assert {(one["value"], one["patients"]) for one in distances} == {("suppressed", "suppressed")}


def test_it_runs_nothing_and_fetches_nothing(html: str) -> None:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert_inert(html)


LIVE = {
    "script",
    "link",
    "img",
    "iframe",
    "object",
    "embed",
    "form",
    "base",
    "image",
    "use",
    "foreignobject",
    "video",
    "animate",
}
HELD = ("#", "data:text/csv;", "data:text/html;", "data:text/plain;", "data:application/json;")


class _Read(HTMLParser):
    """What a browser makes of it: elements, and attributes with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def assert_inert(html: str) -> None:
    read = _Read()
    read.feed(html)
    assert {"html", "svg", "table", "a"} <= read.elements
    assert not read.elements & LIVE
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    addresses = [value for name, value in read.attributes if re.search("href|src|action|cite|ping|background", name)]
    assert addresses
    assert all(one.startswith(HELD) for one in addresses)
    for name, value in read.attributes:
        assert name == "aria-label" or all(one.startswith("#") for one in re.findall(r"url\(\s*['\"]?(.)", value))
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL)) + "".join(
        v for n, v in read.attributes if n == "style"
    )
    assert "@import" not in styles
    assert "url(" not in styles


def test_each_chart_has_words_and_its_own_names(html: str, sections: dict[str, Element]) -> None:
    figures = [one for section in sections.values() for one in section.iter("figure")]
    assert len(figures) >= 15
    for one in figures:
        drawings = one.findall("svg")
        assert [drawing.get("class") for drawing in drawings] == ["light", "dark"]
        assert {drawing.get("role") for drawing in drawings} == {"img"}
        assert all(len(str(drawing.get("aria-label"))) > 20 for drawing in drawings)
        assert not any("nan" in str(drawing.get("aria-label")) for drawing in drawings)
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)
    assert set(re.findall(r'href="#([^"]*)"', html)) <= set(ids)


def test_the_colours_are_the_themes(sections: dict[str, Element]) -> None:
    said = tomllib.loads(
        (Path(dashboard_app.__file__).parent / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    )
    light, dark = next(iter(sections["study"].iter("figure"))).findall("svg")
    for drawing, scheme in ((light, "light"), (dark, "dark")):
        drawn = {one.get("fill") for one in drawing.iter()} | {one.get("stroke") for one in drawing.iter()}
        colours = said["theme"][scheme]["chartCategoricalColors"]
        assert {colours[2], colours[1]} <= drawn  # a committed round's, and one's with too few hospitals


def test_the_same_record_gives_the_same_bytes_in_another_process(record: Federation, html: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    command = [sys.executable, "-m", "fedward.cli.main", "report", record.home.path, "--out", out, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert out.read_text(encoding="utf-8") == html
    assert json.loads(done.stdout)["study_digest"] == record.store.find(monitored.STUDY).digest
    assert "streamlit" not in done.stderr.lower()


def test_a_study_by_its_name_and_one_that_has_not_begun(record: Federation, begun: Federation) -> None:
    pilot, digest = of_record.report(place(str(record.home.path)), "heart-pilot")
    assert pilot.title == "Pilot: coronary disease in two rounds"
    assert digest == record.store.find("heart-pilot").digest
    assert_inert(pages.html(pilot))
    waiting = found(pages.html(of_record.report(place(str(begun.home.path)))[0]))
    assert "nobody has launched it" in lead(waiting["study"])
    assert "No model has been evaluated yet" in told(waiting["accuracy"])


def test_what_cannot_be_reported(record: Federation, tmp_path: Path) -> None:
    empty = Federation(tmp_path / "empty", sites=("va",))
    with pytest.raises(InputError) as raised:
        of_record.report(place(str(empty.home.path)))
    assert raised.value.code == "no-study"
    with pytest.raises(InputError, match="no single study is meant"):
        of_record.report(place(str(record.home.path)), "heart-9")


def test_a_database_alone_has_no_audit_log(record: Federation) -> None:
    made, _ = of_record.report(Place(record.home.store_file, None))
    assert [one.anchor for one in made.sections][-1] == "audit"
    assert "its database alone" in made.sections[-1].sentence


def test_names_of_manifests_and_hospitals_are_text(tmp_path: Path) -> None:
    """In the head, in tables, and in what Vega draws: a hospital's name and a group's are of the run's files."""
    scores = {
        ("federated", "everybody"): 0.8, ("federated", f"site={HOSTILE}"): 0.7, (f"alone:{HOSTILE}", f"site={HOSTILE}"): 0.6,
        ("federated", f"sex={HOSTILE}"): 0.75,
    }  # fmt: skip
    run = written(tmp_path / "run", [scores, scores], study={"title": HOSTILE, "description": HOSTILE})
    html = pages.html(of_run.report(run)[0])
    assert_inert(html)
    sections = found(html)
    assert any(one["hospital"] == HOSTILE for one in table(sections["accuracy"], "Hospitals: AUROC"))
    assert any("<script>alert(1)" in told(one) for one in sections["accuracy"].iter("text"))
    assert any("<script>alert(1)" in told(one) for one in sections["fairness"].iter("text"))
    title = re.search(r"<h1>(.*?)</h1>", html)
    assert title
    assert "&lt;script&gt;" in title[1]
    assert "{{ 7 * 7 }}" in title[1]


def test_what_does_not_draw_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="a()" width="9" height="9">'
        '<script>b()</script><style>@import "http://e.example"</style><a xlink:href="javascript:c()"><text>link</text></a>'
        '<image href="http://e.example/x"/><foreignObject><body/></foreignObject><use href="#x"/>'
        '<g id="x" onclick="d()" style="background:url(http://e.example)"><rect fill="url(#x)" width="1"/></g></svg>'
    )
    monkeypatch.setattr(vl_convert, "vegalite_to_svg", lambda *_, **__: evil)
    made = svg.drawn({}, 100, "light", "c", HOSTILE)
    root = ElementTree.fromstring(made)  # noqa: S314 - our own text
    assert [one.tag for one in root.iter()] == ["svg", "g", "rect"]
    assert root.get("aria-label") == HOSTILE
    assert (root[0].attrib, root[0][0].attrib) == ({"id": "c-0"}, {"fill": "url(#c-0)", "width": "1"})


def test_a_run_s_figures_are_its_scores_means(run: Path) -> None:
    html = pages.html(of_run.report(run)[0])
    assert_inert(html)
    sections = found(html)
    assert list(sections) == ["accuracy", "fairness", "run"]
    scores = pd.read_parquet(run / "scores.parquet")
    ours = scores[scores["model"] == "federated"]
    shown = {one["model"]: one for one in table(sections["accuracy"], "All models, on everybody's held-out patients")}
    assert shown["federated"]["mean"] == f"{ours[ours['slice'] == 'everybody']['auroc'].mean():.3f}"
    for one in table(sections["accuracy"], "Hospitals: AUROC"):
        if one["model"] == "federated":
            part = ours[ours["slice"] == f"site={one['hospital']}"]
            assert one["mean"] == f"{part['auroc'].mean():.3f}"
    assert downloads(sections["run"])["study.json"] == (run / "study.json").read_bytes()
    assert len(list(sections["accuracy"].iter("figure"))) == 3
    assert pages.html(of_run.report(run)[0]) == html


@pytest.mark.parametrize("seeds", [(), (0,)], ids=str)
def test_a_run_that_is_not_finished(run: Path, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    html = pages.html(of_run.report(broken_off(run, tmp_path / "run", seeds))[0])
    assert "The run was not finished when this was made." in html
    assert (len(found(html)["accuracy"].findall(".//figure")) > 0) == bool(seeds)


def test_without_vl_convert_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[str], None] = lambda _name: None  # noqa: E731
    monkeypatch.setattr(svg, "find_spec", absent)
    with pytest.raises(InputError) as raised:
        svg.installed()
    assert raised.value.code == "no-vl-convert"
