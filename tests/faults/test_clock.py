"""A site whose clock is minutes off: it says so, is let in by itself when the clock is right, and is charged nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import pytest
from flwr.supernode import node_auth_http_interceptor
from joining import Running, Served, served

from fedward.client.flower import CLOCK_SKEW, CONNECTED, KEY_REFUSED, diagnosis

pytestmark = pytest.mark.federation

Shift = Callable[[float], None]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("clock"), ("early", "late", "near")) as made:
        yield made


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Sets the node's clock off by so many seconds: what it signs with, and what it compares. The coordinator's stays."""
    right = node_auth_http_interceptor.now

    def by(seconds: float) -> None:
        moved = lambda: right() + datetime.timedelta(seconds=seconds)  # noqa: E731
        monkeypatch.setattr(node_auth_http_interceptor, "now", moved)
        monkeypatch.setattr(diagnosis, "_now", moved)

    return by


@pytest.mark.parametrize(("site", "minutes", "side"), [("early", 10, "ahead of"), ("late", -10, "behind")])
def test_a_clock_ten_minutes_off_is_named_with_how_far_and_the_node_goes_on_when_it_is_right(
    there: Served, shift: Shift, site: str, minutes: int, side: str
) -> None:
    home = there.sites[site]
    with home.ledger() as ledger:
        before = ledger.head
    shift(60.0 * minutes)
    node = Running(home)
    try:
        text = node.wait(CLOCK_SKEW)
        seconds = float(text.split("clock is ")[1].split(" s ")[0])
        assert abs(seconds - 600) <= 2, text
        assert side in text
        shift(0.0)
        node.wait(CONNECTED)
    finally:
        node.end()
    assert KEY_REFUSED not in {code for code, _ in node.told}
    with home.ledger() as ledger:
        assert ledger.head == before


@pytest.mark.parametrize("seconds", [-290.0, 3.5])
def test_a_clock_within_what_flower_takes_is_let_in(there: Served, shift: Shift, seconds: float) -> None:
    shift(seconds)
    node = Running(there.sites["near"])
    node.wait(CONNECTED)
    node.end()


@pytest.mark.prove
def test_a_clock_that_jumps_under_a_connected_node_is_named_and_outlived(there: Served, shift: Shift) -> None:
    node = Running(there.sites["near"])
    try:
        node.wait(CONNECTED)
        since = len(node.told)
        shift(600.0)
        node.wait(CLOCK_SKEW, since)
        since = len(node.told)
        shift(0.0)
        node.wait(CONNECTED, since)
    finally:
        node.end()
