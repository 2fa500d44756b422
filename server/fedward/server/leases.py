"""Which service a store serves: one at a time, by a lease with a fencing token. (Kleppmann, "How to do distributed locking", 2016.)

1. A service takes the lease before it does anything else, and renews it while it runs. Its token is higher than any before.
2. A lease that another service holds is not taken before it has ended; one that the same home held, on the same machine since it
   was started, is taken at once: whoever takes it holds the home's own lock, so the process that had it is dead.
3. Every write of the service and of its runs carries the token, and is refused within its transaction once there is a newer one.
   So a service that was stopped, or cut off, for as long as it likes, changes nothing when it wakes: that does not rest on clocks.
   Its entries in the audit log are made within such a transaction too (`CoordinatorHome.under_lease`).
4. When a lease ends is told by the database's clock alone. One that has ended is its holder's still, until another takes it.
5. What people wish is written without a token: any machine may say it, and whichever service holds the lease carries it out.

A part of the store: these functions run within its transactions.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedward.privacy.errors import UnreachableError
from fedward.server.tables import LEASES

LEASE_S: Final = 15
"""How long a service may be silent before another may take its place."""
RENEW_S: Final = 4.0
_NAME: Final = "service"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """A service, as the lease names it: `home` is the same for every service of one home folder and for no other's.

    A machine's start is in it: a clone of the machine has the same names and files, and is another holder all the same.
    """

    home: str
    shown: str

    @classmethod
    def of(cls, lock: Path) -> Holder:
        """This process, which holds the home's lock file: a copy of the home has another file."""
        found, host = lock.stat(), socket.gethostname()
        home = f"{_start()}:{found.st_dev}:{found.st_ino}"
        return cls(home, f"process {os.getpid()} on {host}, home {lock.parent.resolve()}")


@dataclass(frozen=True)
class Lease:
    """Who holds a store; times are unix seconds of the database's clock."""

    token: int
    home: str
    shown: str
    taken_at: int
    until: int


def _start() -> str:
    """What names this start of this machine, and no other of any (Linux, random(4)); at random where that cannot be read."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return os.urandom(16).hex()


def held(connection: Connection) -> Lease | None:
    """The lease as it stands, ended or not; None if none was ever taken."""
    row = connection.execute(sa.select(LEASES).where(LEASES.c.name == _NAME)).first()
    return None if row is None else Lease(row.token, row.home, row.shown, row.taken_at, row.until)


def take(connection: Connection, holder: Holder, now: int) -> int:
    """Take the lease; its token.

    Raises:
        UnreachableError: `lease-held`: another service holds it.
    """
    known = held(connection)
    if known is not None:
        refuse_others(known, holder.home, now)
    token = 1 if known is None else known.token + 1
    values = {"token": token, "home": holder.home, "shown": holder.shown, "taken_at": now, "until": now + LEASE_S}
    if known is None:
        connection.execute(LEASES.insert().values(name=_NAME, **values))
    else:
        connection.execute(LEASES.update().values(**values))
    return token


def refuse_others(known: Lease, home: str, now: int) -> None:
    """
    Raises:
        UnreachableError: `lease-held`: not a usage error, so that a service manager tries again until the lease has ended.
    """
    if known.home != home and known.until > now:
        raise UnreachableError(
            "another service serves this store",
            expected="one service a store",
            got=f"{known.shown}, since {_told(known.taken_at)}",
            remedy=f"stop that one; if its machine is gone, start this one again in {known.until - now} s",
            code="lease-held",
        )


def renew(connection: Connection, token: int, now: int) -> None:
    """Hold it for longer. Raises: UnreachableError, as `require`."""
    require(connection, token)
    connection.execute(LEASES.update().values(until=now + LEASE_S))


def release(connection: Connection, token: int, now: int) -> None:
    """Let the next one take it at once. Raises: UnreachableError, as `require`."""
    require(connection, token)
    connection.execute(LEASES.update().values(until=now))


def require(connection: Connection, token: int) -> None:
    """
    Raises:
        UnreachableError: `lease-lost`: another service has taken the store over.
    """
    known = held(connection)
    if known is None or known.token != token:
        raise UnreachableError(
            "another service has taken this store over",
            got="nobody holds it" if known is None else f"{known.shown}, since {_told(known.taken_at)}",
            remedy="let that one work. This one was silent for too long, and stops; nothing was written",
            code="lease-lost",
        )


def _told(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
