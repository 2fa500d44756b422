"""Against which version of a study a person reviews the proposed one: `study.changes` says what differs."""

from __future__ import annotations

from fedward.client import approvals
from fedward.client.decisions import load
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError
from fedward.study.kinds import AnySealed


def last_approved(home: SiteHome, sealed: AnySealed) -> AnySealed | None:
    """The version of the same study id that was approved here last, before this one; None if none was, or it is kept no more."""
    before = load(home).approved_before(sealed.digest, sealed.manifest.study.id, sealed.kind)
    if before is None:
        return None
    try:
        return approvals.proposal(home, before)
    except FedwardError:
        return None
