"""`fedward site doctor`: on a whole site, before it joined, and with one thing broken at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation
from hospital import spend
from loopback import Loopback

from fedward.client import checkup, doctor
from fedward.client.home import SiteHome
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget
from fedward.study.audit import FOLDER

OFFLINE = {"coordinator", "tls", "clock"}
"""What a federation without a network cannot answer."""
MAY_WARN = {"node", "service", "encryption", "memory"}
"""What depends on the machine, or is a warning by default."""


def found(home: Path) -> dict[str, dict[str, str]]:
    ran = fedward("site", "doctor", "--home", home, "--json")
    return {finding["check"]: finding for finding in ran.json["findings"]}


def states(home: Path, *leave_out: str) -> dict[str, str]:
    return {name: one["state"] for name, one in found(home).items() if name not in {*leave_out}}


def test_before_it_joined_a_site_is_told_what_cannot_be_checked_yet(tmp_path: Path) -> None:
    home = tmp_path / "site"
    good("site", "init", "va", "--home", home)
    ran = fedward("site", "doctor", "--home", home)
    assert ran.code == 0, ran
    assert "not yet  coordinator: the site has not joined a federation yet" in ran.out
    assert "to do: fedward site enroll KIT" in ran.out
    assert not {"failed"} & set(states(home).values())


def test_on_a_federation_that_is_whole_all_is_well(loopback: Loopback) -> None:
    """A real coordinator over TLS; the node runs in this process, without the lock of `site start`."""
    loopback.study("doctor")
    home = loopback.sites["va"]
    ran = fedward("site", "doctor", "--home", home)
    assert ran.code == 0, ran.out
    seen = found(home)
    assert {name for name, one in seen.items() if one["state"] != "ok"} <= MAY_WARN, seen
    assert seen["tls"]["text"].startswith("TLS 1.3")
    assert "registered" in seen["data"]["text"]


def test_an_unreachable_coordinator_is_named_with_what_to_do(fed: Federation) -> None:
    ran = fedward("site", "doctor", "--home", fed.sites["va"].path)
    assert ran.code == 1
    assert "FAILED   coordinator: localhost:9443: ConnectError [retrying]" in ran.out
    assert "firewall, proxy, DNS" in ran.out
    names = (
        "versions",
        "disk",
        "permissions",
        "keys",
        "policy",
        "certificate",
        "chain",
        "proxy",
        "data",
        "ledger",
        "audit",
    )
    assert states(fed.sites["va"].path, *OFFLINE, *MAY_WARN) == dict.fromkeys(names, "ok")


def test_the_proxy_is_shown_without_its_password(fed: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://nurse:secretword@127.0.0.1:9")
    assert found(fed.sites["va"].path)["proxy"]["text"] == "by way of 127.0.0.1:9"
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    assert found(fed.sites["va"].path)["proxy"]["text"] == "none; the connection is direct"


def _other_ledger(fed: Federation) -> None:
    home = fed.sites["va"]
    fed.transport.nodes["va"]._ledger.close()  # type: ignore[attr-defined]
    before = home.ledger_file.read_bytes()
    with home.ledger() as ledger:
        spend(ledger, DpEvent(10.0, 1.0, 1))
    home.ledger_file.write_bytes(before)


def _other_data(fed: Federation) -> None:
    home = fed.sites["va"]
    from fedward.client import datasets

    name = datasets.registered(home)[0]
    kept = datasets.find(home, name)
    path = home.path / "datasets" / f"{name}.json"
    home.write(path, kept.model_copy(update={"source_sha256": "0" * 64}).model_dump_json().encode())


def _other_certificate(fed: Federation) -> None:
    fed.sites["va"].certificate_file.write_bytes(fed.sites["hungarian"].certificate_file.read_bytes())


def _changed_audit(fed: Federation) -> None:
    entries = max((fed.sites["va"].path / FOLDER / "entries").glob("*.log"))
    data = bytearray(entries.read_bytes())
    data[len(data) // 2] ^= 1
    entries.write_bytes(data)


def _gone_audit(fed: Federation) -> None:
    shutil.rmtree(fed.sites["va"].path / FOLDER)


def _on_va(change: Callable[[SiteHome], object]) -> Callable[[Federation], object]:
    return lambda fed: change(fed.sites["va"])


BROKEN: dict[str, tuple[str, str, Callable[[Federation], object]]] = {
    "a policy that is none": (
        "policy",
        "bad-input",
        _on_va(lambda home: home.policy_file.write_text("[policy]\nx = 1\n")),
    ),
    "a key that others read": ("permissions", "permissions", _on_va(lambda home: home.key("node.pem").chmod(0o644))),
    "a key that is gone": ("keys", "bad-input", _on_va(lambda home: home.key("patients.key").unlink())),
    "another site's certificate": ("chain", "integrity", _other_certificate),
    "an older ledger": ("ledger", "ledger-rolled-back", _other_ledger),
    "an audit log that was changed": ("audit", "audit-changed", _changed_audit),
    "an audit log that is gone": ("audit", "audit-truncated", _gone_audit),
    "another file than was registered": ("data", "data-changed", _other_data),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_one_thing_that_is_broken_is_found(fed: Federation, broken: str) -> None:
    check, code, breaks = BROKEN[broken]
    home = fed.sites["va"]
    breaks(fed)
    seen = [finding for finding in checkup.examine(home) if finding.state == "failed" and finding.check not in OFFLINE]
    assert (check, code) in {(finding.check, finding.code) for finding in seen}, seen
    assert all(finding.remedy for finding in seen)
    follows = {"keys", "data"} if check == "audit" else {"keys"}  # without the log nobody knows the exclusion list
    assert {finding.check for finding in seen} <= {check, *follows}


def test_a_home_is_encrypted_and_where_its_key_lies_is_told(fed: Federation, tmp_path: Path) -> None:
    inside = found(fed.sites["va"].path)["encryption"]
    assert (inside["state"], "lies in the home itself" in inside["text"]) == ("warning", True)
    SiteHome.create(tmp_path / "other", "other", Budget(1.0, 1e-3), key_file=tmp_path / "unlock.key")
    assert found(tmp_path / "other")["encryption"]["state"] == "ok"
    fed.sites["va"].key("home.json").unlink()
    assert found(fed.sites["va"].path)["encryption"]["code"] == "not-encrypted"


def test_an_expired_certificate_is_found(fed: Federation) -> None:
    seen = checkup.examine(fed.sites["va"], datetime(2099, 1, 1, tzinfo=UTC))
    assert [f.code for f in seen if f.check == "certificate"] == ["certificate-expired"]


def test_a_check_that_itself_fails_is_a_finding_without_the_errors_text(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("Mrs. Smith")

    monkeypatch.setattr(doctor, "disk", broken)
    seen = {finding.check: finding for finding in checkup.examine(fed.sites["va"])}
    assert (seen["disk"].state, seen["disk"].code) == ("failed", "internal-error")
    assert "Smith" not in str(seen)
    assert seen["ledger"].state == "ok"


def test_nothing_is_changed(fed: Federation) -> None:
    home = fed.sites["va"].path
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in home.rglob("*") if path.is_file()}
    checkup.examine(fed.sites["va"])
    after = {path: (path.read_bytes(), path.stat().st_mode) for path in home.rglob("*") if path.is_file()}
    grown = {path.name for path in set(after) - set(before)}
    assert {path: after[path] for path in before} == before
    assert grown <= {"node.lock", "ledger.sqlite-wal", "ledger.sqlite-shm"}
