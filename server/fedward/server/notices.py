"""Telling hospitals that a study has ended, so that what it reserved there and never charged is free for others.

A notice is no condition of anything: a site that cannot be reached, or approves only after the end, is told when another
study of the federation runs, and a reservation that nobody ends expires with its study.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal

from fedward.privacy.errors import FedwardError
from fedward.privacy.signing import Identity
from fedward.server.heads import witnessed
from fedward.server.proposal import exchange
from fedward.server.records import StudyRow
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study import messages
from fedward.study.kinds import parse_sealed
from fedward.study.messages import Ended, Standing

NOTICE_S = 5.0
TOLD_OF = frozenset({"completed", "stopped", "budget-exhausted"})
"""A failed study may be launched again as soon as its sites are back, and a paused one goes on: both keep what is reserved."""
TOLD = "told-ended"
"""The kind of the journal's entries that say which site knows."""


def tell_ended(
    store: Store, transport: Transport, clock: Clock, identity: Identity, report: Callable[[str], None]
) -> None:
    """Tell every reachable site of each study that has ended, unless it knows. Never raises a FedwardError."""
    try:
        for study in store.studies():
            if study.state in TOLD_OF and study.sealed is not None:
                _tell(store, transport, clock, identity, study)
    except FedwardError as error:
        report(f"not every site was told of a study's end: {error.text()}")


def _tell(store: Store, transport: Transport, clock: Clock, identity: Identity, study: StudyRow) -> None:
    sealed = parse_sealed(study.sealed or b"")
    if sealed.expires_at <= clock.unix():
        return
    keys = {entry.site: entry.identity_key for entry in sealed.roster}
    ends = [entry.sequence for entry in store.journal(study.key, "state")]
    known = {entry.data["site"] for entry in store.journal(study.key, TOLD) if entry.sequence > max(ends, default=0)}
    untold = (set(keys) - known) & transport.online()
    reason: Literal["completed", "stopped"] = "completed" if study.state == "completed" else "stopped"
    heads = witnessed(store, identity, untold, clock.unix())
    requests = {
        site: messages.pack(
            Ended(
                study=sealed.digest,
                nonce=secrets.token_hex(32),
                reason=reason,
                witnessed=heads[site],
            ),
            b"",
            identity,
        )
        for site in untold
    }
    if not requests:
        return
    for site, answer in exchange(transport, clock, requests, keys, NOTICE_S).items():
        # Who has not approved holds nothing yet, but may still approve: a person decides without knowing of the end.
        reply = answer.reply
        if isinstance(reply, Standing) and reply.study == sealed.digest and reply.state == "approved":
            store.note(study.key, TOLD, {"site": site}, clock.unix())
