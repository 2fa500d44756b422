"""A card in a real browser: readable by everybody in light and dark, at any width and on paper, and it fetches and runs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import axe_core_python
import chromium
import histories
import numpy as np
import pytest
from federation import heart_manifest

from fedward.server.cards import pages
from fedward.server.cards.facts import Card, card
from fedward.server.carried_noise import carried_noise
from fedward.server.verdicts import Verdict
from fedward.study.hospital_influence import hospital_influence
from fedward.study.influence import influence, synthetic
from fedward.study.models import build, load_vector

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """With everything that a card can have."""
    from fedward.server.models import load_model

    federation = histories.template(tmp_path_factory.mktemp("federation"))
    histories.completed(federation)
    history = histories.told(federation)
    manifest = heart_manifest(training={"rounds": 3})
    model = build(manifest)
    load_vector(model, load_model(federation.home.models_folder, history.view.model or ""))
    noise = carried_noise(history, 3)
    verdicts = [
        Verdict("min_auroc", "least", 0.8, True, 0.9, 0.85, 0.94),
        Verdict("max_site_drop", "most", 0.05, False, why="no hospital shares it"),
    ]
    counts = np.array(
        [40, 3, *[20] * (len(manifest.features) - 2)]
    )  # one that must not be told, and what would give it away
    names, sites = tuple(feature.column for feature in manifest.features), ("cleveland", "va")
    votes = hospital_influence(names, counts, int(counts.sum()) + 30, 0.0, 3, sites)
    found = influence(manifest, model, synthetic(manifest), noise.deviation, noise.words)
    return replace(card(history, verdicts, None, found), votes=votes)


@pytest.fixture(scope="module")
def file(made: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "card.html"
    path.write_text(pages.html(made), encoding="utf-8")
    return path


def violations(page: chromium.Page) -> list[dict[str, Any]]:
    """What axe-core finds, of any weight."""
    page.call("Runtime.evaluate", expression=AXE)
    asked = "axe.run().then(found => JSON.stringify(found.violations.map(one => [one.id, one.nodes.map(node => node.target)])))"
    found = page.call("Runtime.evaluate", expression=asked, awaitPromise=True, returnByValue=True)
    value: list[dict[str, Any]] = json.loads(found["result"]["value"])
    return value


def test_it_is_readable_by_everybody_and_fits(file: Path, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        for width in (1440, 1024, 390):
            for dark in (False, True):
                page.open(file.as_uri(), width, 900, dark)
                page.wait("document.readyState == 'complete' && document.querySelector('h1')")
                assert violations(page) == [], (width, dark)
                assert page.value("document.documentElement.scrollWidth") <= width
                ground = page.value("getComputedStyle(document.body).backgroundColor")
                assert (ground == "rgb(255, 255, 255)") != dark
        assert "voted once, for a feature drawn" in page.text()
        assert page.value("document.querySelectorAll('script, link, img, iframe').length") == 0
        assert page.value("performance.getEntriesByType('resource').length") == 0
        assert page.value("document.querySelector('svg.plot circle').getBoundingClientRect().width") > 0


def test_axe_would_find_what_is_wrong(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        file.read_text().replace('<html lang="en">', "<html>").replace("--soft: #52606d", "--soft: #d0d0d0")
    )
    with chromium.page(tmp_path) as page:
        page.open(broken.as_uri())
        page.wait("document.readyState == 'complete' && document.querySelector('h1')")
        assert {"html-has-lang", "color-contrast"} <= {one[0] for one in violations(page)}  # type: ignore[index]


def test_on_paper_it_is_black_on_white_whatever_the_screen(file: Path, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        page.open(file.as_uri(), dark=True)
        page.wait("document.readyState == 'complete' && document.querySelector('h1')")
        page.call(
            "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
        )
        assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.value("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert page.value("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_plot_tells_its_numbers_to_who_does_not_see_it(made: Card, file: Path, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        page.open(file.as_uri())
        page.wait("document.querySelector('svg desc')")
        told = page.value("document.querySelector('svg desc').textContent")
        dots = page.value("document.querySelectorAll('svg .point').length")
    assert dots == len(made.calibration) > 0
    assert all(
        f"observed {one.observed:.2f}" in told and f"{one.patients} patients" in told for one in made.calibration
    )
