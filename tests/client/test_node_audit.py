"""Nothing happens at a node unlogged: what it charges, answers and refuses stands in the audit log, or it does not happen."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code

from fedward.client import datasets
from fedward.client.running import _Logins
from fedward.privacy.errors import UnreachableError
from fedward.privacy.log import AuditLog
from fedward.study.messages import Refusal, Result


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("node"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 2}, privacy={"spare_attempts": 12}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def kinds(site: Site) -> list[str]:
    return [entry.kind for entry in site.home.audit.entries()]


def full_disk(monkeypatch: pytest.MonkeyPatch, *refused: str) -> None:
    real = AuditLog.append

    def append(log: AuditLog, kind: str, *args: object) -> object:
        if not refused or kind in refused:
            raise UnreachableError("the audit log cannot be written", code="audit-unwritable")
        return real(log, kind, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditLog, "append", append)


def test_a_charge_is_logged_before_data_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real_load = datasets.load

    def load(*args: object, **more: object) -> object:
        seen.append(kinds(site))
        return real_load(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(datasets, "load", load)
    before = kinds(site)
    assert isinstance(site.work(), Result)
    assert seen == [[*before, "charged"]]
    assert kinds(site) == [*before, "charged", "round-answered"]
    charged = site.home.audit.entry(len(before))
    assert (charged.fields["study"], charged.fields["round"], charged.fields["attempt"]) == (site.sealed.digest, 1, 1)


def test_a_charge_that_cannot_be_logged_reads_no_data(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(datasets, "load", load)
    full_disk(monkeypatch, "charged")
    assert code(site.work()) == "audit-unwritable"
    assert site.charges() == [(1, 1)]  # over-counted, never under-counted


def test_an_answer_that_cannot_be_logged_does_not_leave(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, "round-answered")
    assert code(site.work()) == "audit-unwritable"


def test_a_refusal_that_cannot_be_logged_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.policy("require_dp = 1")
    full_disk(monkeypatch)
    assert code(site.work()) == "audit-unwritable"
    assert code(site.declare()) == "audit-unwritable"


def test_a_log_that_was_tampered_with_stops_the_node(site: Site) -> None:
    entries = site.home.audit.segments.all()[-1].path
    lines = entries.read_bytes().splitlines(keepends=True)
    entries.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    restarted = site.federation.copy(site.home.path.parent / "restarted")
    assert code(Site(restarted).work()) == "audit-changed"


def test_a_log_that_is_gone_is_not_begun_anew(site: Site) -> None:
    import shutil

    shutil.rmtree(site.home.path / "audit")
    twin = site.federation.copy(site.home.path.parent / "twin")
    assert code(Site(twin).work()) == "audit-truncated"


def test_refusals_and_lies_are_logged_with_code_and_reference(site: Site) -> None:
    reply = site.work(round=99)
    assert isinstance(reply, Refusal)
    refused, incident = list(site.home.audit.entries())[-2:]
    assert (refused.kind, refused.fields["code"], refused.fields["stage"]) == ("round-refused", "unknown-round", "work")
    assert refused.fields["reference"] == reply.reference
    assert (incident.kind, incident.fields["other"]) == ("incident", "coordinator")
    site.declare("no-such-study")
    assert list(site.home.audit.entries())[-1].kind == "request-refused"


def test_a_changed_policy_is_logged_before_it_decides(site: Site) -> None:
    before = kinds(site).count("policy-changed")
    site.policy(site.home.policy_file.read_text() + "\n# stricter soon\n")
    site.work()
    told = kinds(site)
    assert told[-3:] == ["policy-changed", "charged", "round-answered"]
    site.work(attempt=2)
    assert kinds(site).count("policy-changed") == before + 1


def test_logins_and_refused_ones_are_logged_once_each(site: Site) -> None:
    from fedward.client.log import SiteLog

    log = SiteLog(site.home.log_file, seal=site.home.sealer(site.home.log_file))
    logins = _Logins(site.home, log)
    for told in ("connected", "retrying", "key-refused", "key-refused", "handled", "key-refused", "connected"):
        logins.told(told)
    assert kinds(site)[-3:] == ["login", "login-refused", "login"]
