"""The newest ledger head that the coordinator countersigned, kept beside the ledger and held against it.

Who puts back an older copy of the ledger and of its head file is found out by this file; who puts this one back too, by the
next request of the coordinator, which brings the countersigned head along. The node then refuses everything.
"""

from __future__ import annotations

import json

from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.ledger import Ledger
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.study.files import read_model, write_atomic
from fedward.study.witness import Witnessed


class Witness:
    """What was countersigned of one site's ledger."""

    def __init__(self, home: SiteHome, ledger: Ledger) -> None:
        """Reads what is kept; a false file is found by `require`, not here."""
        self._path = home.path / "witness.json"
        self._ledger = ledger
        self._site, self._key = home.site, home.identity().public
        self._coordinator = home.kit().coordinator_key
        self._held = False

    def require(self) -> None:
        """That the ledger contains what was countersigned.

        Raises:
            IntegrityError: `ledger-rolled-back` if it does not; `bad-signature` if the kept file was changed.
        """
        if self._held:  # what this process has seen, the ledger itself misses if it goes
            return
        kept = self._kept()
        if kept is not None:
            self._ledger.verify(kept.head.head)
        self._held = True

    def take(self, brought: Witnessed) -> None:
        """Check a head that the coordinator brings, keep it if it is the newest, and hold it against the ledger.

        Raises:
            ProtocolError: `malformed`: no such head was ever signed by this site and countersigned by the coordinator.
            IntegrityError: `ledger-rolled-back`.
        """
        try:
            brought.check(self._site, self._key, self._coordinator)
        except FedwardError as error:
            raise ProtocolError(
                "the coordinator brings a ledger head that was never signed here and countersigned",
                code="malformed",
                blamed=COORDINATOR,
                got=error.what,
            ) from None
        kept = self._kept()
        if kept is None or brought.head.sequence > kept.head.sequence:
            write_atomic(self._path, json.dumps(brought.model_dump(mode="json")).encode(), 0o600)
        self._held = False
        self._ledger.verify(brought.head.head)
        self.require()

    def _kept(self) -> Witnessed | None:
        if not self._path.is_file():
            return None
        kept = read_model(self._path, Witnessed, "countersigned head")
        try:
            kept.check(self._site, self._key, self._coordinator)
        except FedwardError as error:
            raise IntegrityError(
                "the kept countersigned head was changed",
                got=error.what,
                remedy="find out who changed it; delete the file only once the ledger was compared with a backup",
                code="ledger-rolled-back",
            ) from None
        return kept
