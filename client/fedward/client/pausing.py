"""Pausing a node: it keeps its connection and works on nothing, at once, also in the middle of a round, and across restarts.

Anyone on the machine may pause, since it is the safe direction. Who may resume, the policy says: anyone, or approvers alone.
"""

from __future__ import annotations

from fedward.client.approvals import require_approver
from fedward.client.decisions import append, deciding, load
from fedward.client.home import SiteHome
from fedward.client.policy import load_policy
from fedward.client.statements import Link, Pause, Resume
from fedward.privacy.errors import RefusalError, UsageError
from fedward.privacy.signing import Identity


def pause(home: SiteHome, *, by: str, at: int, reason: str = "") -> Link:
    """Let the node refuse all work (`paused`). What was charged for a round that runs counts, and its answer stays here.

    Raises:
        UsageError: it is paused already.
    """
    with deciding(home):
        if (paused := load(home).paused) is not None:
            raise UsageError(f"the node is paused already, by {paused.by}", remedy="run `fedward site resume` to go on")
        return append(home, Pause(reason=reason), by=by, at=at, signer=None)


def resume(home: SiteHome, *, by: str, signer: Identity | None, at: int) -> Link:
    """Let the node work again.

    Args:
        home: the site.
        by: who decides.
        signer: the approver's own key; None for anybody else, where the policy allows it.
        at: now, in Unix seconds.

    Raises:
        UsageError: it is not paused.
        RefusalError: `not-an-approver`: the policy wants an approver (resume_needs_approver), or the key is none's.
    """
    with deciding(home):
        decisions = load(home)
        if decisions.paused is None:
            raise UsageError("the node is not paused", remedy="`fedward site status` shows its state")
        if signer is not None:
            require_approver(decisions, by, signer)
        elif load_policy(home.policy_file).resume_needs_approver:
            raise RefusalError(
                "only an approver may resume this node (resume_needs_approver in the policy)",
                remedy="run `fedward site resume --as NAME`",
                code="not-an-approver",
            )
        return append(home, Resume(), by=by, at=at, signer=signer)
