"""Who was let in and who was refused gets into the audit log, however often somebody knocks."""

from __future__ import annotations

import logging

import pytest
from federation import Federation

from fedward.privacy.errors import UnreachableError
from fedward.privacy.log import AuditLog
from fedward.server.logins import Logins, record_logins

LOG = logging.getLogger("test")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"), sites=("va",))


def told(federation: Federation, since: int) -> list[tuple[str, object, object]]:
    return [(e.kind, e.fields.get("site"), e.fields.get("count")) for e in federation.home.audit.entries(since)]


def test_logins_come_at_once_and_refusals_once_a_minute(federation: Federation) -> None:
    now = [0.0]
    logins, since = Logins(lambda: now[0]), federation.home.audit.size
    certificate = federation.store.credentials()[0].fingerprint
    logins.heard(certificate, "")
    for _ in range(500):
        logins.heard("f" * 64, "certificate-unknown")
    logins.heard("", "unknown-node")
    record_logins(federation.home, federation.store, logins, LOG)
    assert sorted(told(federation, since), key=str) == [("login", "va", None), ("login-refused", None, 500)]
    for _ in range(3):
        logins.heard("f" * 64, "certificate-unknown")
    logins.heard(certificate, "")
    record_logins(federation.home, federation.store, logins, LOG)
    assert told(federation, since + 2) == [("login", "va", None)]
    now[0] = 61.0
    record_logins(federation.home, federation.store, logins, LOG)
    assert told(federation, since + 3) == [("login-refused", None, 3)]


def test_a_crowd_of_certificates_is_one_entry_and_no_memory(federation: Federation) -> None:
    logins, since = Logins(), federation.home.audit.size
    for number in range(3000):
        logins.heard(f"{number:064x}", "certificate-unknown")
    assert len(logins.due()) <= 1025
    record_logins(federation.home, federation.store, logins, LOG)
    assert told(federation, since) == []


def test_what_cannot_be_entered_is_not_lost(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    logins, since = Logins(), federation.home.audit.size
    logins.heard("e" * 64, "revoked")

    def full(*_: object) -> None:
        raise UnreachableError("full", code="audit-unwritable")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "append", full)
        with pytest.raises(UnreachableError):
            record_logins(federation.home, federation.store, logins, LOG)
    record_logins(federation.home, federation.store, logins, LOG)
    assert told(federation, since) == [("login-refused", None, 1)]
