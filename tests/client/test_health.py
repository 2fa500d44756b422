"""Metrics and health on loopback: what they say, read by Prometheus's own parser, and all that they refuse."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedward.client import health
from fedward.client.exposition import CONTENT_TYPE, Stock, exposition
from fedward.client.flower import CONNECTED, DISCONNECTED, HANDLED, RETRYING
from fedward.client.health import ADDRESS, HealthServer
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.stock import KEPT_S, StockTaker
from fedward.client.vitals import QUIET_S, Signs, Vitals
from fedward.privacy.errors import UnreachableError
from fedward.privacy.ledger import Budget

WHOLE = Stock(1.25, 2.5, 10.0, 7, 11, 2, 123_456_789, 86_400 * 300.5)


def parsed(text: str) -> dict[tuple[str, str], float]:
    """(name, code) → value, as Prometheus reads it."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("code", "")): sample.value for sample in samples}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


# --- vitals ---------------------------------------------------------------------------------------------------------


def test_what_happens_is_counted_by_events_and_codes_alone(tmp_path: Path) -> None:
    clock = Clock()
    vitals, log = Vitals(clock), SiteLog(tmp_path / "log" / "site.log", None)
    log.watch(vitals.logged)
    for code in (CONNECTED, HANDLED, HANDLED):
        vitals.told(code)
    log.write("worked", "Mrs. Smith", study="x")
    log.error(ValueError("Mrs. Smith"), code="no-data", raised="no-data")
    log.error(ValueError("Mrs. Smith"), code="Mrs. Smith", raised="Mrs. Smith")
    log.error(ValueError("of a thread"), code="thread-failed")
    clock.now += 12
    signs = vitals.signs()
    assert (signs.state, signs.connected, signs.answered, signs.trained) == (CONNECTED, True, 2, 1)
    assert signs.refused == {"no-data": 1, "internal-error": 1}
    assert "Smith" not in repr(signs)
    assert clock.now - (signs.heard_at or 0) == 12
    vitals.told(RETRYING)
    assert not vitals.signs().connected


def test_a_loop_that_says_nothing_hangs_unless_it_works() -> None:
    clock = Clock()
    vitals = Vitals(clock)
    vitals.told(DISCONNECTED)
    clock.now += QUIET_S
    assert vitals.signs().alive(clock.now)
    clock.now += 1
    assert not vitals.signs().alive(clock.now)
    seen: list[Signs] = []
    handler = vitals.timed(lambda request: (seen.append(vitals.signs()), request)[1])  # type: ignore[arg-type, return-value]
    assert handler(b"request") == b"request"
    assert seen[0].alive(clock.now)
    assert not vitals.signs().alive(clock.now)
    vitals.heard()
    assert vitals.signs().alive(clock.now)


# --- the text -------------------------------------------------------------------------------------------------------


def test_prometheus_reads_every_metric() -> None:
    signs = Signs(CONNECTED, True, 100.0, 950.0, 990.0, 3.5, 12, 4, 1, {"no-data": 2, "not-approved": 3})
    text = exposition(signs, WHOLE, version="1.2.3", protocol=1, now=1000.0)
    found = parsed(text)
    assert {name.removeprefix("fedward_"): value for (name, code), value in found.items() if not code} == {
        "up": 1, "build_info": 1, "start_time_seconds": 100, "connected": 1, "last_contact_age_seconds": 50,
        "request_running_seconds": 3.5, "requests_answered_total": 12, "rounds_worked_total": 4, "incidents_total": 1,
        "proposals_pending": 2, "epsilon_spent": 1.25, "epsilon_committed": 2.5, "epsilon_remaining": 7.5,
        "epsilon_budget": 10, "ledger_entries": 7, "audit_entries": 11, "disk_free_bytes": 123_456_789,
        "certificate_days_left": 300.5,
    }  # fmt: skip
    assert {
        code: value for (name, code), value in found.items() if name == "fedward_requests_refused_total" and code
    } == {
        "no-data": 2,
        "not-approved": 3,
    }
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation and family.type in {"gauge", "counter"} for family in families.values())
    assert families["fedward_build_info"].samples[0].labels == {"version": "1.2.3", "protocol": "1"}


def test_what_is_not_known_is_left_out_and_infinity_is_said() -> None:
    found = parsed(exposition(Signs(), Stock(spent=float("inf")), version='a"\\\n', protocol=1, now=0.0))
    assert found["fedward_epsilon_spent", ""] == float("inf")
    assert not {"fedward_epsilon_remaining", "fedward_last_contact_age_seconds"} & {name for name, _ in found}


def test_stock_is_taken_of_a_real_home_and_kept_for_a_while(tmp_path: Path) -> None:
    home, clock = SiteHome.create(tmp_path / "site", "va", Budget(10.0, 1e-3)), Clock()
    take = StockTaker(home, clock)
    first = take()
    assert (first.spent, first.budget, first.ledger_entries, first.certificate_s) == (0.0, 10.0, 0, None)
    assert first.audit_entries is not None
    home.record("node-stopped")
    clock.now += KEPT_S - 1
    assert take() is first
    clock.now += 1
    assert take().audit_entries == first.audit_entries + 1
    home.ledger_file.unlink()
    clock.now += KEPT_S
    assert (take().spent, take().budget) == (None, None)


# --- the socket -----------------------------------------------------------------------------------------------------


@pytest.fixture
def signs() -> list[Signs]:
    return [Signs(CONNECTED, True, time.time(), time.time(), time.time())]


@pytest.fixture
def server(signs: list[Signs]) -> Iterator[HealthServer]:
    made = HealthServer(0, lambda: signs[-1], lambda: WHOLE)
    made.start()
    yield made
    made.close()


def ask(
    server: HealthServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(ADDRESS, server.port, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    return response.status, response.read().decode(), dict(response.getheaders())


def test_it_answers_the_three_paths(server: HealthServer, signs: list[Signs]) -> None:
    status, text, headers = ask(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert parsed(text)["fedward_connected", ""] == 1
    assert ask(server, "/healthz")[:2] == (200, '{"status": "ok", "state": "connected"}\n')
    assert ask(server, "/readyz")[0] == 200
    assert "Python" not in headers["Server"]
    signs.append(Signs(RETRYING, False, time.time(), None, time.time()))
    assert ask(server, "/healthz")[0] == 200
    assert ask(server, "/readyz")[:2] == (503, '{"status": "not-ready", "state": "retrying"}\n')
    signs.append(Signs(RETRYING, False, 0.0, None, 0.0))
    status, text, _ = ask(server, "/healthz")
    assert (status, json.loads(text)["status"]) == (503, "hangs")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_it_takes_nothing_but_get(server: HealthServer, method: str) -> None:
    status, _, headers = ask(server, "/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics?x=1", "/../metrics", "/log", "/metrics.txt"])
def test_it_has_no_other_path(server: HealthServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:9464", "127.0.0.1.evil.org", "[::1]", ""])
def test_a_page_in_a_browser_cannot_ask_it_under_another_name(server: HealthServer, host: str) -> None:
    assert ask(server, "/metrics", host=host)[0] == 403
    assert ask(server, "/metrics", host=f"localhost:{server.port}")[0] == 200


def test_it_listens_on_loopback_alone(server: HealthServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        if not address.startswith("127."):
            with pytest.raises(OSError):  # noqa: PT011 - refused, or no such network
                socket.create_connection((address, server.port), timeout=2).close()


def test_connections_that_stay_open_do_not_shut_the_others_out(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight at once that say nothing are dropped in the end; the ninth waits for that."""
    monkeypatch.setattr(health._Handler, "timeout", 0.5)
    held = [socket.create_connection((ADDRESS, server.port)) for _ in range(8)]
    try:
        began = time.monotonic()
        assert ask(server, "/healthz")[0] == 200
        assert time.monotonic() - began < 9
    finally:
        for one in held:
            one.close()


def test_garbage_and_a_port_in_use_are_told(server: HealthServer, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection((ADDRESS, server.port)) as raw:
        raw.sendall(b"\x16\x03\x01\x00\xff" * 100)
    assert ask(server, "/healthz")[0] == 200
    with pytest.raises(UnreachableError) as taken:
        HealthServer(server.port, Signs, Stock)
    assert taken.value.code == "metrics-port"
    assert capfd.readouterr() == ("", "")
