"""One service a store: the lease, what a stale service may still do (nothing), and that no clock but the database's counts."""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import KINDS, Place, place_of, server

from fedward.privacy.errors import FedwardError, UnreachableError
from fedward.server import leases
from fedward.server.home import CoordinatorHome
from fedward.server.leases import LEASE_S, Holder
from fedward.server.lifecycle import Failed, Stop
from fedward.server.round import Outcome
from fedward.server.store import Store
from fedward.server.tables import LEASES

__all__ = ["server"]
HERE, THERE = Holder("here:1:1", "process 1 on here"), Holder("there:1:1", "process 2 on there")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


@pytest.fixture
def two(place: Place) -> Iterator[tuple[Store, Store]]:
    first, second = place.open(), place.open()
    yield first, second
    first.close()
    second.close()


def end_lease(place: Place) -> None:
    """As if its holder had been silent for long enough."""
    place.sql("UPDATE leases SET until = taken_at - 1")


def refused(action: Callable[[], object], code: str) -> FedwardError:
    with pytest.raises(FedwardError) as raised:
        action()
    assert raised.value.code == code
    return raised.value


def test_a_second_service_is_refused_by_name(two: tuple[Store, Store]) -> None:
    first, second = two
    first.take_lease(HERE)
    error = refused(lambda: second.take_lease(THERE), "lease-held")
    assert error.exit_code == 6  # which the systemd unit tries again
    assert "process 1 on here" in error.text()
    assert "UTC" in error.text()
    key = first.create_study("heart", "{}", (), 1)  # the first is not disturbed
    assert first.study(key).study_id == "heart"


def test_after_its_end_another_takes_over_and_the_stale_one_writes_nothing(
    two: tuple[Store, Store], place: Place
) -> None:
    stale, fresh = two
    stale.take_lease(HERE)
    key = stale.create_study("heart", "{}", ("va",), 1)
    stale.open_attempt(key, 1, 1, "m", ("va",), 2)
    end_lease(place)
    fresh.take_lease(THERE)
    before = [entry.kind for entry in fresh.journal(key)]
    for action in (
        lambda: stale.create_study("other", "{}", (), 3),
        lambda: stale.happened(key, Failed("late", "error"), 3),
        lambda: stale.happened(key, Stop(), 3),
        lambda: stale.open_attempt(key, 1, 2, "m", ("va",), 3),
        lambda: stale.close_attempt(key, 1, Outcome.COMMITTED, "", {}, 1.0, 3),
        lambda: stale.note(key, "batch", {}, 3),
        lambda: stale.set_node("va", 7),
        lambda: stale.raise_alarm("va", "what", 3),
        stale.renew_lease,
        stale.release_lease,
    ):
        error = refused(action, "lease-lost")
        assert isinstance(error, UnreachableError)
        assert "process 2 on there" in error.text()
    assert [entry.kind for entry in fresh.journal(key)] == before
    assert [study.study_id for study in fresh.studies()] == ["heart"]
    assert stale.study(key).study_id == "heart"  # it may look
    fresh.close_attempt(key, 1, Outcome.INTERRUPTED, "", {}, None, 4)


def test_a_run_writes_under_the_token_that_it_was_started_with(two: tuple[Store, Store], place: Place) -> None:
    service, run = two
    token = service.take_lease(HERE)
    run.write_under(token)
    key = run.create_study("heart", "{}", (), 1)
    end_lease(place)
    other = place.open()
    other.take_lease(THERE)
    refused(lambda: run.note(key, "batch", {}, 3), "lease-lost")
    other.close()


def test_a_lease_that_ended_is_still_its_holder_s_until_another_takes_it(
    two: tuple[Store, Store], place: Place
) -> None:
    first, second = two
    first.take_lease(HERE)
    end_lease(place)
    first.create_study("heart", "{}", (), 1)
    first.renew_lease()
    refused(lambda: second.take_lease(THERE), "lease-held")


def test_a_service_that_ended_in_order_is_replaced_at_once(two: tuple[Store, Store]) -> None:
    first, second = two
    one = first.take_lease(HERE)
    first.release_lease()
    refused(lambda: first.create_study("heart", "{}", (), 1), "lease-lost")  # it writes no more, were it to try
    assert second.take_lease(THERE) > one


def test_the_same_home_takes_over_from_its_dead_process_at_once(two: tuple[Store, Store]) -> None:
    dead, restarted = two
    one = dead.take_lease(HERE)
    assert restarted.take_lease(HERE) == one + 1
    refused(lambda: dead.create_study("heart", "{}", (), 1), "lease-lost")


def test_people_wish_without_a_lease(two: tuple[Store, Store]) -> None:
    service, person = two
    service.take_lease(HERE)
    key = person.create_study("heart", "{}", (), 1)
    person.happened(key, Stop(), 2)
    assert service.study(key).state == "stopped"


def test_a_wrong_clock_of_a_coordinator_takes_no_lease_away(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    first.take_lease(HERE)
    actual = time.time()
    monkeypatch.setattr(time, "time", lambda: actual + 3600)
    refused(lambda: second.take_lease(THERE), "lease-held")


def test_a_copy_of_a_home_is_another_holder(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    (home / "service.lock").touch()
    shutil.copytree(home, copy)
    assert Holder.of(home / "service.lock") == Holder.of(home / "service.lock")
    assert Holder.of(home / "service.lock").home != Holder.of(copy / "service.lock").home
    assert str(copy) in Holder.of(copy / "service.lock").shown


def test_a_clone_of_the_machine_is_another_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same name, device and inode, but was started for itself."""
    (tmp_path / "service.lock").touch()
    here = Holder.of(tmp_path / "service.lock")
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(leases, "_BOOT", tmp_path / "boot")
    there = Holder.of(tmp_path / "service.lock")
    assert (there.home != here.home, there.shown) == (True, here.shown)
    monkeypatch.setattr(leases, "_BOOT", tmp_path / "none")
    assert Holder.of(tmp_path / "service.lock").home != Holder.of(tmp_path / "service.lock").home


def test_a_stale_service_enters_nothing_in_the_audit_log(tmp_path: Path) -> None:
    new = {"name": "T", "host": "localhost", "bind": "127.0.0.1", "port": 9443, "control_port": 9444}
    plain = CoordinatorHome.create(tmp_path / "c", now=datetime.now(UTC), **new)  # type: ignore[arg-type]
    first, second = plain.open_store(), plain.open_store()
    first.take_lease(HERE)
    stale = plain.under_lease(first)
    stale.record("service-started")
    first.release_lease()
    second.take_lease(THERE)
    before = plain.audit.checkpoint()
    refused(lambda: stale.record("service-stopped"), "lease-lost")
    assert plain.audit.checkpoint() == before
    plain.under_lease(second).record("service-started")
    plain.record("called", by="a person", key="0" * 64, stage="whoami")
    assert plain.audit.checkpoint().size == before.size + 2
    first.close()
    second.close()


def test_every_writer_passes_the_door(two: tuple[Store, Store], place: Place) -> None:
    """Every method of the store that changes a table, found by calling what the class has: none goes past the lease."""
    source = inspect.getsource(Store)
    assert source.count("_database.writing()") == 4  # the door, and what takes, renews and gives back the lease
    first, second = two
    first.take_lease(HERE)
    end_lease(place)
    second.take_lease(THERE)
    names = [
        name
        for name, method in vars(Store).items()
        if callable(method) and "self._write()" in inspect.getsource(method)
    ]
    assert len(names) > 12
    for name in names:
        refused(partial(_called, getattr(first, name)), "lease-lost")


def _called(method: Callable[..., Any]) -> None:
    """With anything for what it needs; the lease is asked for first of all."""
    needed = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
    made = method(*[0] * len(needed))
    if isinstance(made, AbstractContextManager):
        made.__enter__()


_STEP = st.tuples(
    st.sampled_from(["take", "renew", "release", "write"]), st.integers(0, 2), st.integers(0, 2 * LEASE_S)
)


@given(st.lists(_STEP, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_all_holders_one_at_most_can_write(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens in whatever order: tokens only grow, and only the newest one writes."""
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    holders = [Holder(str(number), str(number)) for number in range(3)]
    tokens: dict[int, int] = {}
    now, newest, until = 0, 0, 0
    with engine.connect() as connection:
        LEASES.create(connection)
        for action, who, later in steps:
            now += later
            token = tokens.get(who, 0)
            if action == "take":
                owner = next((name for name, held in tokens.items() if held == newest), None)
                if newest and until > now and owner != who:
                    with pytest.raises(UnreachableError):
                        leases.take(connection, holders[who], now)
                else:
                    tokens[who] = leases.take(connection, holders[who], now)
                    assert tokens[who] == newest + 1
                    newest, until = tokens[who], now + LEASE_S
            elif token != newest or not newest:
                with pytest.raises(UnreachableError):
                    leases.require(connection, token)
                with pytest.raises(UnreachableError):
                    leases.renew(connection, token, now)
            elif action == "renew":
                leases.renew(connection, token, now)
                until = now + LEASE_S
            elif action == "release":
                leases.release(connection, token, now)
                until = now
            else:
                leases.require(connection, token)
