"""The doctor's judgements on facts, at and around every bound."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedward.client import checkup, doctor
from fedward.client.doctor import MB, Finding
from fedward.client.exposure import exposed, foreign
from fedward.client.home import SiteHome
from fedward.privacy.ledger import Budget
from fedward.study.versions import TESTED, Known

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("offset", "state"),
    [(0.0, "ok"), (-2.0, "ok"), (2.1, "warning"), (-299.0, "warning"), (4.9, "warning"), (5.0, "failed"),
     (-300.0, "failed"), (600.0, "failed"), (float("nan"), "failed"), (None, "unchecked")],
)  # fmt: skip
def test_clock(offset: float | None, state: str) -> None:
    assert doctor.clock(offset).state == state


@pytest.mark.parametrize(
    ("days", "state", "code"),
    [(365, "ok", ""), (30, "ok", ""), (29, "warning", ""), (0, "failed", "certificate-expired"),
     (-1, "failed", "certificate-expired")],
)  # fmt: skip
def test_certificate(days: int, state: str, code: str) -> None:
    found = doctor.certificate(NOW - timedelta(days=10), NOW + timedelta(days=days), NOW)
    assert (found.state, found.code) == (state, code)


def test_a_certificate_of_the_future_fails() -> None:
    found = doctor.certificate(NOW + timedelta(days=1), NOW + timedelta(days=100), NOW)
    assert found.code == "certificate-expired"


@pytest.mark.parametrize(("free", "state"), [(99, "failed"), (100, "warning"), (1023, "warning"), (1024, "ok")])
def test_disk(free: int, state: str) -> None:
    assert doctor.disk(free * MB).state == state


@pytest.mark.parametrize(
    ("available", "runs", "state"),
    [(599, False, "failed"), (600, False, "warning"), (1024, False, "ok"), (1, True, "ok"), (None, False, "unchecked")],
)
def test_memory(available: int | None, runs: bool, state: str) -> None:
    assert doctor.memory(None if available is None else available * MB, node_runs=runs).state == state


def test_only_tls_1_3_will_do() -> None:
    assert [doctor.tls(version).state for version in ("TLSv1.3", "TLSv1.2", None)] == ["ok", "failed", "unchecked"]


TABLE = {"flwr": Known("1.42.0", (1, 42), (1, 43)), "torch": Known("2.13.0", (2, 6))}


@pytest.mark.parametrize(
    ("found", "state"),
    [({"flwr": "1.42.0", "torch": "2.13.0"}, "ok"), ({"flwr": "1.42.7", "torch": "2.13.0"}, "warning"),
     ({"flwr": "1.43.0", "torch": "2.13.0"}, "failed"), ({"flwr": "1.42.0", "torch": "2.5.1"}, "failed"),
     ({"flwr": "1.42.0", "torch": None}, "failed"), ({"flwr": "1.42.0"}, "failed"),
     ({"flwr": "1.42rc1", "torch": "2.13.0"}, "failed"), ({"flwr": "1.42.0", "torch": "10.0.0"}, "warning")],
)  # fmt: skip
def test_versions(found: dict[str, str | None], state: str) -> None:
    assert doctor.versions(found, TABLE).state == state


def test_this_environment_is_the_tested_set() -> None:
    from fedward.study.versions import installed

    found = doctor.versions({name: installed(name) for name in TESTED})
    assert found.state == "ok", found


@pytest.mark.parametrize(
    ("under", "inside", "state"),
    [(None, False, "failed"), ("file", True, "warning"), ("file", False, "ok"), ("passphrase", False, "ok")],
)
def test_encryption(under: str | None, inside: bool, state: str) -> None:
    assert doctor.encryption(under, key_inside=inside).state == state  # type: ignore[arg-type]


def test_the_verdict_is_the_worst_of_all() -> None:
    ok, warned, failed, open_ = (Finding("x", state, "") for state in ("ok", "warning", "failed", "unchecked"))
    assert [doctor.verdict(found) for found in ([ok, open_], [ok, warned, open_], [failed, warned], [])] == [
        "ok", "warning", "failed", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "state"),
    [({}, "warning"), ({"LoadState": "not-found"}, "warning"),
     ({"LoadState": "loaded", "ActiveState": "failed", "UnitFileState": "enabled"}, "failed"),
     ({"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled"}, "warning"),
     ({"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}, "ok")],
)  # fmt: skip
def test_what_systemd_says(shown: dict[str, str], state: str) -> None:
    assert checkup.service(shown).state == state


# --- permissions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome.create(tmp_path / "site", "va", Budget(10.0, 1e-3))


def test_a_new_home_is_its_owners_alone(home: SiteHome) -> None:
    home.path.chmod(0o755)
    assert exposed(home.path) == []


@pytest.mark.parametrize(
    ("name", "mode"),
    [("keys/tls.pem", 0o640), ("keys", 0o755), ("ledger.sqlite", 0o644), ("policy.toml", 0o666), ("site.json", 0o664)],
)
def test_what_others_can_reach_is_named(home: SiteHome, name: str, mode: int) -> None:
    home.path.chmod(0o755)
    (home.path / name).chmod(mode)
    assert [found.rstrip("/") for found in exposed(home.path)] == [name]


def test_a_file_behind_a_closed_folder_is_not_reached_unless_it_is_a_key(home: SiteHome) -> None:
    home.path.chmod(0o700)
    for name in ("ledger.sqlite", "policy.toml", "keys/node.pem"):
        (home.path / name).chmod(0o666)
    assert exposed(home.path) == ["keys/node.pem"]


def test_another_users_files_are_named(home: SiteHome) -> None:
    if os.geteuid() != 0:
        assert foreign(home.path) == []
        return
    os.chown(home.policy_file, 12345, 12345)
    assert foreign(home.path) == ["policy.toml"]
