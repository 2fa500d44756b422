"""The coordinator's audit log: what it asked for, what came of it, and who changed what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedward.privacy.auditentries import LogEntry, Value
from fedward.privacy.log import AuditLog
from fedward.study.audit import coordinator_origin, home_log

if TYPE_CHECKING:
    from fedward.server.home import CoordinatorHome


def coordinator_log(home: CoordinatorHome) -> AuditLog:
    """The log of a federation; errors as `study.audit.home_log`."""
    return home_log(home.path, coordinator_origin(home.settings.federation_id), int(time.time()))


def record(home: CoordinatorHome, kind: str, at: int | None, fields: dict[str, Value | None]) -> LogEntry:
    """Add an entry (`privacy.auditentries.KINDS`); `at` is now, in Unix seconds. It is durable on return.

    Raises:
        UsageError: no such kind, or a field that is not of its form.
        IntegrityError: the log does not hold.
        UnreachableError: code `audit-unwritable`.
    """
    return home.audit.append(kind, fields, int(time.time()) if at is None else at)
