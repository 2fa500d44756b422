"""Who may decide at this hospital: the registry of approvers, and how it changes.

The home keeps public keys only, in the chain of decisions, so an edit of them shows. The first approver enters himself; every
later change is signed by approvers, as many as are required. Nobody changes the registry alone where two must approve, nor makes
one enough: by the policy alone the number rises, and only signatures lower it.
"""

from __future__ import annotations

from fedward.client import budgets
from fedward.client.approvals import require_approver, require_not_lowered
from fedward.client.approvers import check_name
from fedward.client.decisions import append, deciding, load
from fedward.client.home import SiteHome
from fedward.client.policy import load_policy
from fedward.client.standing import Decisions
from fedward.client.statements import AddApprover, RemoveApprover, RequireApprovals, StartOver
from fedward.privacy.errors import RefusalError, UsageError
from fedward.privacy.signing import Identity


def add_approver(home: SiteHome, name: str, key: str, *, by: str, signer: Identity, at: int) -> Decisions:
    """One signature for a new approver. The first of a site signs for himself.

    Args:
        home: the site.
        name: the new approver.
        key: the new approver's public key.
        by: who signs: an approver, or the new one if there is none yet.
        signer: that person's own key.
        at: now, in Unix seconds.

    Returns:
        All decisions with it; `waiting` says whether more signatures are needed.

    Raises:
        RefusalError: `not-an-approver`; the key is registered already, under whatever name (`approver-key-in-use`); or the
            policy names fewer approvers than they signed for (`approvals-lowered`).
        UsageError: an approver has that name.
    """
    check_name(name)
    with deciding(home):
        decisions = load(home)
        if name in decisions.approvers:
            raise UsageError(f"{name} is an approver already", remedy="remove them first, or choose another name")
        taken = {known.key: known.name for known in decisions.approvers.values()} | {home.identity().public: "the site"}
        if key in taken:
            raise RefusalError(
                f"that key is already the one of {taken[key]}",
                remedy="every approver has a key of their own: make a fresh one",
                code="approver-key-in-use",
            )
        if decisions.approvers or (by, signer.public) != (name, key):
            require_approver(decisions, by, signer)
        require_not_lowered(decisions)
        append(home, AddApprover(name=name, key=key, needed=decisions.required), by=by, at=at, signer=signer)
        return load(home)


def remove_approver(home: SiteHome, name: str, *, by: str, signer: Identity, at: int) -> Decisions:
    """One signature for an approver to be one no more; one who leaves of their own will needs no other. Their approvals end.

    Raises:
        RefusalError: `not-an-approver`; `approvals-lowered` as in `add_approver`; or nobody, or fewer than are required, would
            be left (`too-few-approvers`).
        UsageError: nobody has that name.
    """
    with deciding(home):
        decisions = load(home)
        needed = decisions.required
        if name not in decisions.approvers:
            raise UsageError(f"{name} is no approver", remedy="run `fedward site approver list`")
        require_approver(decisions, by, signer)
        require_not_lowered(decisions)
        if len(decisions.approvers) - 1 < needed:
            raise RefusalError(
                "too few approvers would be left",
                expected=f"at least {needed}, as many as must sign",
                remedy="add another approver first",
                code="too-few-approvers",
            )
        append(home, RemoveApprover(name=name, needed=needed), by=by, at=at, signer=signer)
        return load(home)


def require_approvals(home: SiteHome, needed: int, *, by: str, signer: Identity, at: int) -> Decisions:
    """One signature that so many approvers must sign, 1 to 3. More binds at once; fewer once as many signed as are needed before.

    Raises:
        RefusalError: `not-an-approver`; or fewer approvers are registered (`too-few-approvers`).
        UsageError: so many are needed already, and nobody has asked for fewer.
    """
    with deciding(home):
        decisions = load(home)
        require_approver(decisions, by, signer)
        if needed > max(1, len(decisions.approvers)):
            raise RefusalError(
                "more approvers would be needed than there are",
                expected=f"at most {len(decisions.approvers)}",
                got=str(needed),
                remedy="add another approver first",
                code="too-few-approvers",
            )
        if needed == decisions.signed_for and not any(one.what == "require" for one in decisions.waiting()):
            raise UsageError(f"{needed} must sign already", remedy="run `fedward site approver list`")
        append(home, RequireApprovals(needed=needed), by=by, at=at, signer=signer)
        return load(home)


def start_over(home: SiteHome, *, by: str, reason: str, at: int) -> Decisions:
    """Begin the registry anew, when so many keys are lost that it cannot change any more. Every approval ends; it shows for ever.

    Raises:
        RefusalError: `policy-start-over`: the policy does not allow it.
    """
    with deciding(home):
        if not load_policy(home.policy_file).approvers_may_start_over:
            raise RefusalError(
                "the policy does not let the registry of approvers begin anew",
                remedy=f"set approvers_may_start_over = true in {home.policy_file}, and back when it is done",
                code="policy-start-over",
            )
        append(home, StartOver(reason=reason), by=by, at=at, signer=None)
        after = load(home)
        with home.ledger() as ledger:
            for study in after.ever_approved():
                budgets.release(home, ledger, study, "revoked", at=at)
        return after
