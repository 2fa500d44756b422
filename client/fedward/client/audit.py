"""A hospital's audit log: what happened here, for an auditor, without a patient's value.

Nothing happens unlogged: where an entry cannot be written, whoever asked for it does not go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedward.privacy.auditentries import LogEntry, Value
from fedward.privacy.canonical import digest
from fedward.privacy.log import AuditLog
from fedward.study.audit import FOLDER, home_log, site_origin

if TYPE_CHECKING:
    from fedward.client.home import SiteHome


@dataclass(frozen=True)
class _Sealer:
    seal: Callable[[bytes], bytes]
    unseal: Callable[[bytes], bytes]


def site_log(home: SiteHome) -> AuditLog:
    """The log of a site, its entries encrypted at rest; errors as `study.audit.home_log`, or as `unlock.open_vault`."""
    entries = home.path / FOLDER / "entries"
    sealer = _Sealer(home.sealer(entries), home.unsealer(entries))
    return home_log(home.path, site_origin(home.site), int(time.time()), sealer)


def policy_digest(home: SiteHome) -> str | None:
    """SHA-256 of the policy file as it is now; None where it cannot be read."""
    try:
        return digest(home.policy_file.read_bytes())
    except OSError:
        return None


def record(home: SiteHome, kind: str, at: int | None, fields: dict[str, Value | None]) -> LogEntry:
    """Add an entry (`privacy.auditentries.KINDS`); `at` is now, in Unix seconds. It is durable on return.

    Raises:
        UsageError: no such kind, or a field that is not of its form.
        IntegrityError: the log does not hold.
        UnreachableError: code `audit-unwritable`.
    """
    return home.audit.append(kind, fields, int(time.time()) if at is None else at)
