"""`fedward monitor --store` as somebody uses it: a real process and browser over a record that real nodes made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import chromium
import monitored
import pytest
from federation import Federation
from looking import IDLE, PAGES, SAID, open_tables, ready, serious, serving

from fedward.dashboard import words
from fedward.server.lifecycle import Stop
from fedward.server.readings import view
from fedward.study.schedule import study_costs

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return monitored.monitored(tmp_path_factory.mktemp("monitored"))


@pytest.fixture(scope="module")
def address(federation: Federation) -> Iterator[str]:
    with serving(federation.home.path) as found:
        yield found


CLIPPED = """
[...document.querySelectorAll('[data-testid=stVegaLiteChart] svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const at = text.getBoundingClientRect();
    return at.width > 0 && (at.left < box.left - 3 || at.right > box.right + 3 || at.bottom > box.bottom + 3);
  }).map(text => text.textContent);
}).concat([...document.querySelectorAll('h2, h3, [data-testid=stMetricValue] div')]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent))
"""
"""Texts that stick out of their chart by more than the air around their glyphs, or that do not fit where they stand."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024])
def test_every_page_is_whole_in_light_and_dark_at_both_widths(
    address: str, tmp_path: Path, width: int, dark: bool
) -> None:
    """No error, nothing clipped, no sideways scroll, and nothing serious for who cannot see it well (axe-core)."""
    pictures = os.environ.get("FEDWARD_PICTURES")
    with chromium.page(tmp_path) as page:
        for path, charts in PAGES.items():
            page.open(f"{address}/{path}", width, 2600, dark)
            ready(page, charts)
            if pictures:
                page.picture(Path(pictures) / f"{path or 'study'}-{width}-{'dark' if dark else 'light'}.png")
            told = page.text()
            assert not any(bad in told for bad in ("Traceback", "Error", "undefined,", "nan", "NaN")), told
            assert page.value("document.querySelectorAll('[data-testid=stException]').length") == 0
            assert page.value("document.querySelector('[data-testid=stMain]').scrollWidth") <= width, path
            assert page.value(CLIPPED) == [], path
            assert serious(page) == [], path


def test_the_numbers_are_the_records_own(address: str, federation: Federation, tmp_path: Path) -> None:
    store = federation.store
    seen = view(store, store.find("heart-4-hospitals"))
    area = seen.auroc()
    assert area is not None
    assert area.value is not None
    assert area.low is not None
    assert area.high is not None
    told = words.estimate(area.value, area.low, area.high)
    sealed = federation.sealed()
    with chromium.page(tmp_path) as page:
        page.open(address, height=2600)
        ready(page, 2)
        assert told in page.text().partition("AUROC so far")[2][:40]
        assert "5 of 5 rounds committed" in page.text()
        for link in ("Accuracy", "Fairness", "Privacy", "Participation", "Models", "Audit"):
            page.value(f"[...document.querySelectorAll('a')].find(one => one.innerText.trim() === '{link}').click()")
            page.wait(f"location.pathname === '/{link.lower()}' && {SAID} && {IDLE}")
            page.wait(f"location.search === '?study={seen.key}'")
            if link == "Accuracy":
                assert f"AUROC {told} on patients held out at 4 hospitals, after round 5" in page.text()
            if link == "Privacy":
                promised = max(study_costs(sealed, site)["coordinator"] for site in federation.sites)
                assert f"of {promised:.2f} that its hospitals approved" in page.text()
            if link == "Participation":
                assert "cleveland was not there in round 4" in page.text()
            if link == "Audit":
                assert "countersigned by 4 of 4 hospitals" in page.text()


def test_a_table_opens_with_its_numbers_and_a_file(address: str, federation: Federation, tmp_path: Path) -> None:
    attempts = len(federation.store.attempts(federation.store.find(monitored.STUDY).key))
    with chromium.page(tmp_path) as page:
        page.open(address, height=2600)
        ready(page, 2)
        closed = page.value("document.querySelectorAll('[data-testid=stExpander] details').length")
        assert closed >= 4
        assert page.value("document.querySelectorAll('[data-testid=stDataFrame]').length") == 0
        open_tables(page)
        page.wait(f"document.querySelectorAll('[data-testid=stDataFrame] canvas').length >= {closed}")
        grids = "[...document.querySelectorAll('[data-testid=stDataFrame] [role=grid]')]"
        counts = page.value(f"{grids}.map(one => one.getAttribute('aria-rowcount'))")
        assert any(int(count) > attempts for count in counts), "a row for each round and hospital"


def test_the_audit_log_is_verified_before_ones_eyes(address: str, federation: Federation, tmp_path: Path) -> None:
    size = federation.home.audit.size
    with chromium.page(tmp_path) as page:
        page.open(f"{address}/audit", height=2000)
        ready(page, 0)
        assert f"{size} entries, countersigned by 4 of 4 hospitals; not verified" in page.text()
        button = "[...document.querySelectorAll('button')].find(one => one.innerText.includes('Verify the audit log'))"
        page.wait(button)  # Streamlit loads what draws it when it is first needed
        page.value(f"{button}.click()")
        page.wait("document.body.innerText.includes('Verified: ')")
        root = federation.home.audit.checkpoint().root.hex()
        assert f"Verified: {size} entries, root {root[:16]}" in page.text()
        page.wait("document.body.innerText.split('holds').length > 6")  # six checks, each with its word


def test_the_picker_and_a_link_choose_the_study(address: str, federation: Federation, tmp_path: Path) -> None:
    key = federation.store.find("heart-pilot").key
    with chromium.page(tmp_path) as page:
        page.open(f"{address}/accuracy?study={key}", height=2000)
        ready(page, 0)
        assert "Pilot: coronary disease in two rounds" in page.text()
        page.value("[...document.querySelectorAll('a')].find(one => one.innerText.trim() === 'Study').click()")
        page.wait(f"location.pathname === '/' && location.search === '?study={key}' && {SAID}")
        assert "Pilot: coronary disease in two rounds" in page.text()


def test_a_page_follows_the_record_and_stays_where_it_is(federation: Federation, tmp_path: Path) -> None:
    """A study that is proposed, and then stopped while somebody looks at it."""
    going = federation.copy(tmp_path / "going")
    going.ready(monitored.manifest("heart-third", "A third study", rounds=2))
    with serving(going.home.path) as address, chromium.page(tmp_path) as page:
        page.open(address, height=500)
        page.wait(f"{SAID} && document.body.innerText.includes('nobody has launched it')")
        page.value("document.querySelector('[data-testid=stMain]').scrollTo(0, 60)")
        before = page.value("document.querySelector('[data-testid=stMain]').scrollTop")
        assert before > 0
        going.store.happened(going.key, Stop(serving=False), going.clock.unix())
        page.wait("document.body.innerText.includes('Stopped.')", 20)
        assert page.value("document.querySelector('[data-testid=stMain]').scrollTop") == before


def test_a_store_that_goes_away_is_told_and_comes_back(federation: Federation, tmp_path: Path) -> None:
    going = federation.copy(tmp_path / "going")
    going.store.close()
    with serving(going.home.path) as address, chromium.page(tmp_path) as page:
        page.open(address)
        page.wait(SAID)
        going.home.store_file.rename(tmp_path / "away")
        page.open(f"{address}/privacy")
        page.wait("document.body.innerText.includes('has no record yet')")
        page.wait("document.body.innerText.includes('fedward coordinator serve')")
        (tmp_path / "away").rename(going.home.store_file)
        page.wait(SAID, 30)
