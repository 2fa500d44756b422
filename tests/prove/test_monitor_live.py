"""The monitor over a federation that is at work: real SuperLink, real nodes, real browser; every page while rounds are run."""

from __future__ import annotations

import re
from pathlib import Path

import chromium
import pytest
from looking import IDLE, PAGES, SAID, ready, serious, serving
from loopback import Loopback

from fedward.dashboard import words

pytestmark = [
    pytest.mark.prove,
    pytest.mark.federation,
    pytest.mark.timeout(480),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium"),
]
ROUNDS = 40
TELLS = re.compile(rf"Round (\d+) of {ROUNDS}")


def _round(page: chromium.Page) -> int:
    """Which round the page's own sentence tells."""
    found = TELLS.search(page.text())
    assert found, page.text()[:400]
    return int(found[1])


def test_every_page_of_a_federation_at_work(loopback: Loopback, tmp_path: Path) -> None:
    """Nobody reloads: the page follows the rounds, says when the study ends, and then has the record's own numbers."""
    digest = loopback.propose(loopback.study("watched", training={"rounds": ROUNDS}, evaluation={"every": 5}))
    loopback.approve(digest)
    with serving(loopback.home) as address, chromium.page(tmp_path) as page:
        key = loopback.view(digest).key
        page.open(f"{address}/?study={key}", height=2600)
        page.wait(f"{SAID} && document.body.innerText.includes('nobody has launched it')")
        loopback.launch(digest)
        page.wait(f"document.body.innerText.includes('of {ROUNDS}. ') && {TELLS_ONE}", 60)
        first = _round(page)
        page.wait(f"Number({TELLS_ONE}[1]) > {first + 2}", 60)
        assert _round(page) <= loopback.view(digest).version + 1
        for number, path in enumerate(PAGES):
            width = (1440, 1024)[number % 2]
            page.open(f"{address}/{path}?study={key}", width, 2600)
            page.wait(f"{SAID} && {IDLE}", 60)
            assert page.value("document.querySelectorAll('[data-testid=stException]').length") == 0, path
            assert page.value("document.querySelector('[data-testid=stMain]').scrollWidth") <= width, path
            assert "Traceback" not in page.text(), path
        assert loopback.view(digest).state == "running", "it ended before every page was looked at"
        assert serious(page) == []
        page.open(f"{address}/?study={key}", height=2600)
        view = loopback.wait_ended(digest)
        assert (view.state, view.version) == ("completed", ROUNDS), view.reason
        page.wait(f"document.body.innerText.includes('Completed: {ROUNDS} of {ROUNDS} rounds')", 20)
        ready(page, 2)
        area = view.auroc(version=ROUNDS)
        assert area is not None
        assert None not in (area.value, area.low, area.high)
        told = words.estimate(area.value or 0.0, area.low or 0.0, area.high or 0.0)
        assert told in page.text().partition("AUROC so far")[2][:40]


TELLS_ONE = rf"document.body.innerText.match(/Round (\d+) of {ROUNDS}/)"
