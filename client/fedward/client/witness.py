"""The newest ledger head that the coordinator countersigned, kept beside the ledger and held against it.

Who puts back an older copy of the ledger and of its head file is found out by this file; who puts this one back too, by the
next request of the coordinator, which brings the countersigned head along. The node then refuses everything.
"""

from __future__ import annotations

import contextlib

from fedward.client.home import SiteHome
from fedward.client.rotation import own_keys
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.ledger import Ledger
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.study.witness import Witnessed


class Witness:
    """What was countersigned of one site's ledger. It is kept as `SiteHome.countersigned_file`."""

    def __init__(self, home: SiteHome, ledger: Ledger) -> None:
        """Reads nothing yet: a false file is found by `require`."""
        self._home = home
        self._ledger = ledger
        self._held = False

    def require(self) -> None:
        """That the ledger contains what was countersigned.

        Raises:
            IntegrityError: `ledger-rolled-back` if it does not; `ledger-broken` if the kept file was changed.
        """
        if self._held:  # what this process has seen, the ledger itself misses if it goes
            return
        kept = self._home.countersigned_head()
        if kept is not None:
            self._ledger.verify(kept)
        self._held = True

    def take(self, brought: Witnessed) -> None:
        """Check a head that the coordinator brings, keep it if it is the newest, and hold it against the ledger.

        Raises:
            ProtocolError: `malformed`: no such head was ever signed by this site and countersigned by the coordinator.
            IntegrityError: `ledger-rolled-back`.
        """
        try:
            self._check(brought)
        except FedwardError as error:
            raise ProtocolError(
                "the coordinator brings a ledger head that was never signed here and countersigned",
                code="malformed",
                blamed=COORDINATOR,
                got=error.what,
            ) from None
        self._home.keep_countersigned(brought.countersigned.encode())
        self._held = False
        self._ledger.verify(brought.head.head)
        self.require()

    def _check(self, brought: Witnessed) -> None:
        """That this site said it, with the identity of now or with a former one.

        Raises:
            IntegrityError: as `Witnessed.check`.
        """
        kit = self._home.kit()
        for former in own_keys(self._home)[1:]:
            with contextlib.suppress(IntegrityError):
                return brought.check(kit.site, former, kit.coordinator_key)
        return brought.check(kit.site, kit.identity_key, kit.coordinator_key)
