"""The report in a real browser: whole at both widths, in light and dark and on paper, and it runs and fetches nothing."""

from __future__ import annotations

import os
from pathlib import Path

import chromium
import monitored
import pytest
from command import good
from looking import serious
from runs import simulated

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium"),
]
LOADED = "document.readyState == 'complete' && document.querySelector('h1')"
OUTSIDE = """
[...document.querySelectorAll('figure svg text')].filter(one => {
  const at = one.getBoundingClientRect(), box = one.closest('figure').getBoundingClientRect();
  return at.width > 0 && (at.left < box.left - 20 || at.right > box.right + 20);
}).map(one => one.textContent)
"""
"""Texts of charts that stick out of their figure by more than the page's margin has room for."""


@pytest.fixture(scope="module", params=["record", "run"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    shown = monitored.monitored(folder / "fed").home.path if request.param == "record" else simulated(folder / "run")
    good("report", shown, "--out", folder / f"{request.param}.html")
    return folder / f"{request.param}.html"


def test_it_is_whole_and_readable_by_everybody(file: Path, tmp_path: Path) -> None:
    pictures = os.environ.get("FEDWARD_PICTURES")
    with chromium.page(tmp_path) as page:
        for width in (1440, 1024):
            for dark in (False, True):
                page.open(file.as_uri(), width, 2600, dark)
                page.wait(LOADED)
                if pictures:
                    page.picture(Path(pictures) / f"report-{file.stem}-{width}-{'dark' if dark else 'light'}.png")
                assert page.value("document.documentElement.scrollWidth") <= width
                assert page.value(OUTSIDE) == []
                assert serious(page) == [], (width, dark)
                shown, hidden = ("dark", "light") if dark else ("light", "dark")
                assert page.value(f"document.querySelector('svg.{shown}').getBoundingClientRect().height") > 50
                assert page.value(f"document.querySelector('svg.{hidden}').getBoundingClientRect().height") == 0
        assert page.value("document.querySelectorAll('script, link, img, iframe').length") == 0
        assert page.value("performance.getEntriesByType('resource').length") == 0
        assert "nan" not in page.text().lower().split()
        page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.value("document.documentElement.scrollWidth") <= 1024
        assert serious(page) == []


def test_a_table_is_taken_away_as_csv(file: Path, tmp_path: Path) -> None:
    name = "metrics.csv" if file.stem == "record" else "models.csv"
    with chromium.page(tmp_path) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "taken"))
        page.open(file.as_uri())
        page.wait(LOADED)
        page.value(f"document.querySelector('a[download=\"{name}\"]').click()")
        for _ in range(100):
            if (tmp_path / "taken" / name).exists():
                break
            page.call("Runtime.evaluate", expression="new Promise(d => setTimeout(d, 100))", awaitPromise=True)
        assert (tmp_path / "taken" / name).read_text().startswith("metric," if file.stem == "record" else "model,")


def test_on_paper_it_is_light_whatever_the_screen(file: Path, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        page.open(file.as_uri(), dark=True)
        page.wait(LOADED)
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.call("Emulation.setEmulatedMedia", media="print", features=features)
        assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.value("getComputedStyle(document.querySelector('svg.dark')).display") == "none"
        assert page.value("getComputedStyle(document.querySelector('svg.light')).display") == "block"


def test_a_script_that_got_in_would_not_run(file: Path, tmp_path: Path) -> None:
    """The file's own policy stands behind what is escaped."""
    broken = tmp_path / "broken.html"
    evil = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\"></body>"
    broken.write_text(file.read_text(encoding="utf-8").replace("</body>", evil), encoding="utf-8")
    with chromium.page(tmp_path) as page:
        page.open(broken.as_uri())
        page.wait(f"{LOADED} && document.querySelector('script')")
        assert str(page.value("document.title")).startswith("Report:")
