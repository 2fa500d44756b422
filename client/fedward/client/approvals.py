"""What a coordinator proposed, and what the approvers of this hospital decided about it. Off is impossible: no setting skips this.

A proposal is kept only when its manifest is signed by the coordinator of the kit and names this site with this site's
key. A decision binds one digest: another manifest, however alike, needs another decision. Decisions are signed statements in a
chain (`statements`); what follows from it, `standing` says, afresh for every request.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fedward.client import budgets, datasets, eligibility
from fedward.client.datasets import Dataset
from fedward.client.decisions import append, deciding, load
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.policy import Objection, Policy, load_policy, objections
from fedward.client.standing import DAY_S, Decisions, Standing
from fedward.client.statements import Approve, Refuse, Revoke
from fedward.privacy.entries import Release
from fedward.privacy.errors import InputError, IntegrityError, RefusalError, UsageError
from fedward.privacy.signing import Identity, from_text, to_text, verify
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed, parse_sealed

CODES: Final = MappingProxyType(
    {
        "pending": "not-approved",
        "refused": "refused-here",
        "revoked": "revoked-here",
        "expired": "approval-expired",
        "superseded": "superseded",
        "withdrawn": "withdrawn",
    }
)
"""State of a study that may not run → the code under which the node refuses."""
_WHY: Final = MappingProxyType(
    {
        "pending": "this hospital has not approved the study",
        "refused": "this hospital refused the study",
        "revoked": "this hospital revoked its approval of the study",
        "expired": "this hospital's approval of the study has run out",
        "superseded": "a newer version of this study was approved here, so this one is superseded",
        "withdrawn": "this hospital has withdrawn its data from the study",
    }
)


def receive(home: SiteHome, sealed_bytes: bytes, signature: bytes) -> AnySealed:
    """Check a proposal and keep it for review; receiving it twice changes nothing.

    Raises:
        IntegrityError: not signed by this federation's coordinator, or not meant for this site and key.
        InputError: no valid manifest.
    """
    kit = home.kit()
    verify(kit.coordinator_key, "manifest", sealed_bytes, signature, "the proposed study")
    sealed = parse_sealed(sealed_bytes)
    if sealed.federation_id != kit.federation_id or sealed.coordinator_key != kit.coordinator_key:
        raise IntegrityError("the proposed study belongs to another federation", code="foreign-study")
    if sealed.entry(kit.site).identity_key != home.identity().public:
        raise IntegrityError("the proposed study names another key for this site", code="foreign-key")
    path = home.path / "proposals" / f"{sealed.digest}.json"
    if not path.exists():
        home.record("proposed", study=sealed.digest, study_id=sealed.manifest.study.id, until=sealed.expires_at)
        data = {"sealed": sealed_bytes.decode(), "signature": to_text(signature)}
        home.write(path, json.dumps(data).encode())
    return sealed


def proposals(home: SiteHome) -> list[AnySealed]:
    """Every proposal received, oldest seal first."""
    folder = home.path / "proposals"
    found = [proposal(home, path.stem) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(found, key=lambda sealed: (sealed.sealed_at, sealed.digest))


def naming_identity(home: SiteHome, at: int) -> list[str]:
    """The ids of the studies, neither expired nor told completed, that name the identity that this site has now."""
    identity, site = home.identity().public, home.kit().site
    with home.ledger() as ledger:
        ended = {
            e.what.study_digest
            for e in ledger.entries()
            if isinstance(e.what, Release) and e.what.reason == "completed"
        }
    return sorted(
        sealed.manifest.study.id
        for sealed in proposals(home)
        if sealed.digest not in ended and at < sealed.expires_at and sealed.entry(site).identity_key == identity
    )


def proposal(home: SiteHome, prefix: str) -> AnySealed:
    """The proposal whose digest begins so, its signature checked again.

    Raises:
        InputError: none, or several.
        IntegrityError: the file was changed.
    """
    folder = home.path / "proposals"
    matches = sorted(folder.glob("*.json")) if folder.is_dir() else []
    matches = [path for path in matches if path.stem.startswith(prefix)]
    if len(matches) != 1:
        raise InputError(
            f'{len(matches) or "no"} proposals begin with "{prefix}"',
            expected="one",
            remedy="run `fedward site review` to list them",
        )
    data = _parsed(home.read(matches[0], "proposal"))
    if not isinstance(data, dict) or not {"sealed", "signature"} <= data.keys():
        raise IntegrityError("a kept proposal is damaged", remedy=f"delete {matches[0]} and ask for it again")
    sealed_bytes = str(data["sealed"]).encode()
    verify(
        home.kit().coordinator_key,
        "manifest",
        sealed_bytes,
        from_text(str(data["signature"]), "proposal"),
        "the proposal",
    )
    sealed = parse_sealed(sealed_bytes)
    if sealed.digest != matches[0].stem:
        raise IntegrityError("a kept proposal is not the one its name says", remedy="delete it and ask for it again")
    return sealed


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def objections_here(
    home: SiteHome, sealed: AnySealed, dataset: Dataset, count: eligibility.Count | None = None
) -> list[Objection]:
    """Why this hospital refuses a study on its registered data: its policy, read afresh; then the study's own demands that its
    patients do not meet. Empty when it does not.

    Args:
        home: the site.
        sealed: the study.
        dataset: its registered data.
        count: counts the patients of a study that demands some; left out, the data is read for it.

    Raises:
        InputError: the policy, or the mapping that an exploration's columns are looked up in, cannot be read.
        FedwardError: the study demands something of the patients, and they cannot be counted; as `datasets.read`.
    """
    found = policy_objections(home, sealed, dataset)
    # A study that is refused anyway is not counted for: its refusal then tells nothing of the patients.
    return found or eligibility.objections(sealed, count or eligibility.counting(home, dataset))


def policy_objections(home: SiteHome, sealed: AnySealed, dataset: Dataset) -> list[Objection]:
    """Why this hospital's policy refuses a study, whatever the study demands; errors as `objections_here`."""
    policy, patients = load_policy(home.policy_file), datasets.remaining(home, dataset)
    if isinstance(sealed, SealedExploration) or policy.denied_columns:
        return objections(policy, sealed, patients, load_mapping(Path(dataset.mapping)).origin)
    return objections(policy, sealed, patients)


def standing_of(home: SiteHome, study: str, at: int) -> Standing:
    """Where a study stands here, the chain compared with the audit log anew; errors as `decisions.load`."""
    return load(home, anew=True).standing(study, at)


def approve(
    home: SiteHome, sealed: AnySealed, *, by: str, signer: Identity, at: int, expires_at: int | None = None
) -> Standing:
    """One approver's yes to a study; with as many as the policy asks for, the study is approved and reserves what it may cost.

    Args:
        home: the site.
        sealed: the study.
        by: the approver.
        signer: the approver's own key.
        at: now, in Unix seconds.
        expires_at: until when it holds; by default as long as study and policy allow.

    Returns:
        Where the study stands with it.

    Raises:
        RefusalError: no such approver (`not-an-approver`), or the policy names fewer of them than they signed for
            (`approvals-lowered`); the policy refuses the study; the hospital's patients do not meet its demands (`not-eligible`);
            the budget does not allow it; or the study expired, was withdrawn, or a newer version was approved. Nothing is decided.
        InputError: nothing is registered for the study.
    """
    with deciding(home):
        decisions, policy = load(home), load_policy(home.policy_file)
        require_approver(decisions, by, signer)
        dataset = check_approvable(home, sealed, at)
        what = Approve(
            study=sealed.digest,
            study_id=sealed.manifest.study.id,
            study_kind=sealed.kind,
            sealed_at=sealed.sealed_at,
            data=dataset.digest,
            policy=policy.digest,
            expires_at=_expiry(policy, sealed, at, expires_at),
            needed=decisions.required,
        )
        signed = {link.by for link in decisions.standing(sealed.digest, at, dataset.digest).signed}
        if len(signed | {by}) >= decisions.required and sealed.manifest.privacy.epsilon is not None:
            with home.ledger() as ledger:
                budgets.check_delta(ledger, dataset.patients)
            budgets.reserve(home, sealed, dataset.cohort, at=at)
        append(home, what, by=by, at=at, signer=signer)
        after = load(home)
        _end_superseded(home, decisions, after, sealed, at)
        return after.standing(sealed.digest, at, dataset.digest)


def check_approvable(home: SiteHome, sealed: AnySealed, at: int) -> Dataset:
    """That nothing but an approver's word is missing to approve a study; the data that it would use. Errors as `approve`."""
    decisions = load(home)
    require_not_lowered(decisions)
    _require_current(decisions, sealed, at)
    dataset = datasets.find(home, sealed.manifest.study.id)
    require_registered(decisions, sealed.manifest.study.id, dataset)
    if found := objections_here(home, sealed, dataset):
        _require_eligible(found)
        raise RefusalError(
            "this hospital's policy refuses the study",
            got="; ".join(objection.text for objection in found),
            remedy=f"refuse it, or change {home.policy_file}",
            code=found[0].code,
        )
    budgets.check_promise(sealed, home.site)
    budgets.require_room(home, sealed)
    return dataset


def _require_eligible(found: list[Objection]) -> None:
    """Raises: RefusalError `not-eligible`, where what is found are demands of the study that are not met."""
    if all(objection.code == eligibility.CODE for objection in found):
        raise RefusalError(
            "this hospital does not meet what the study demands of its patients",
            got="; ".join(objection.text for objection in found),
            remedy="refuse it, which tells no reason, or leave it: the coordinator hears nothing of this",
            code=eligibility.CODE,
        )


def refuse(home: SiteHome, sealed: AnySealed, *, by: str, signer: Identity, at: int, reason: str = "") -> Standing:
    """One approver's no: it is enough, binds from the next request on, and gives free what was reserved.

    Raises:
        RefusalError: `not-an-approver`.
    """
    return _end(home, sealed, Refuse(study=sealed.digest, reason=reason), by, signer, at)


def revoke(home: SiteHome, sealed: AnySealed, *, by: str, signer: Identity, at: int, reason: str = "") -> Standing:
    """Take back what was approved, by any approver; a running round's answer is withheld.

    Raises:
        RefusalError: `not-an-approver`.
        UsageError: nobody has approved it.
    """
    standing = standing_of(home, sealed.digest, at)
    if standing.state != "approved" and not standing.signed:
        if standing.state == "revoked":  # a crash may have come before the ledger learnt of it
            with deciding(home), home.ledger() as ledger:
                budgets.release(home, ledger, sealed.digest, "revoked", at=at)
        raise UsageError("there is no approval to revoke", got=standing.state, remedy="refuse the study instead")
    return _end(home, sealed, Revoke(study=sealed.digest, reason=reason), by, signer, at)


def _end(home: SiteHome, sealed: AnySealed, what: Refuse | Revoke, by: str, signer: Identity, at: int) -> Standing:
    with deciding(home):
        require_approver(load(home), by, signer)
        # The word first: whatever becomes of the ledger, nothing runs any more.
        append(home, what, by=by, at=at, signer=signer)
        with home.ledger() as ledger:
            budgets.release(home, ledger, sealed.digest, what.kind, at=at)
        return standing_of(home, sealed.digest, at)


def require_approver(decisions: Decisions, by: str, signer: Identity) -> None:
    """
    Raises:
        RefusalError: `not-an-approver`: nobody of that name is registered with that key.
    """
    if not decisions.is_approver(by, signer.public):
        raise RefusalError(
            f"{by} is no approver of this hospital with that key",
            expected=", ".join(sorted(decisions.approvers)) or "somebody: nobody is registered yet",
            remedy="run `fedward site approver list`; an approver is added with `fedward site approver add NAME`",
            code="not-an-approver",
        )


def require_not_lowered(decisions: Decisions) -> None:
    """
    Raises:
        RefusalError: `approvals-lowered`: the policy alone asks for fewer approvers than the approvers signed for.
    """
    if decisions.lowered:
        needed = decisions.signed_for
        raise RefusalError(
            "the policy asks for fewer approvers than have signed that so many are needed; nobody lowers it alone",
            expected=f"approvals_required = {needed}",
            remedy=f"set it back to {needed}, or let {needed} approvers sign: fedward site approver require N --as NAME",
            code="approvals-lowered",
        )


def require_running(home: SiteHome) -> Decisions:
    """
    Raises:
        RefusalError: `paused`: a person paused this node.
        IntegrityError: the decisions do not hold.
    """
    decisions = load(home)
    if decisions.paused is not None:
        raise RefusalError("this node is paused", remedy="run `fedward site resume`", code="paused")
    return decisions


def require_in_force(home: SiteHome, study: str, at: int) -> Decisions:
    """That the node may work on a study at this moment, as far as people decided it.

    Raises:
        RefusalError: the node is paused, or the study is not approved, or not any more; the code says which.
        IntegrityError: the decisions do not hold.
    """
    decisions = require_running(home)
    state = decisions.standing(study, at).state
    if state != "approved":
        raise RefusalError(
            _WHY[state],
            remedy=f"run `fedward site review {study[:12]}`, then approve or refuse it",
            code=CODES[state],
        )
    return decisions


def require_approved(home: SiteHome, study: str, at: int) -> AnySealed:
    """The approved manifest.

    Raises:
        RefusalError: as `require_in_force`; or other data was registered since (`data-changed`), or the study expired.
        IntegrityError: the decisions or the manifest do not hold, or the manifest names another key for this site.
        InputError: no data is registered any more.
    """
    if require_running(home).standing(study, at).state == "expired":
        _require_unexpired(proposal(home, study), at)  # a study's own end is told as such
    decisions = require_in_force(home, study, at)
    sealed = proposal(home, study)
    _require_unexpired(sealed, at)
    if sealed.entry(home.site).identity_key != home.identity().public:
        raise IntegrityError("the approved study names another key for this site", code="foreign-key")
    dataset = datasets.find(home, sealed.manifest.study.id)
    require_registered(decisions, sealed.manifest.study.id, dataset)
    if decisions.standing(study, at, dataset.digest).state != "approved":
        raise RefusalError(
            "other data is registered than when the study was approved",
            remedy=f"run `fedward site review {study[:12]}`, then approve it again",
            code="data-changed",
        )
    return sealed


def _require_unexpired(sealed: AnySealed, at: int) -> None:
    if at >= sealed.expires_at:
        raise RefusalError("the study has expired", remedy="ask for a new proposal", code="expired")


def _require_current(decisions: Decisions, sealed: AnySealed, at: int) -> None:
    """That a study may still be approved."""
    _require_unexpired(sealed, at)
    state = decisions.standing(sealed.digest, at).state
    newest = decisions.newest(sealed.manifest.study.id, sealed.kind)
    if state == "withdrawn":
        raise RefusalError(_WHY[state], remedy="register the data anew and ask for a new proposal", code=CODES[state])
    if state == "superseded" or (newest is not None and newest[0] > sealed.sealed_at):
        raise RefusalError(
            "a newer version of this study was approved here; going back to an older one is refused",
            remedy="if the older one is meant, ask the coordinator to propose it again",
            code="superseded",
        )


def require_registered(decisions: Decisions, study_id: str, dataset: Dataset) -> None:
    """That the data of a study id were registered after they were last withdrawn, if they were.

    Raises:
        RefusalError: `withdrawn`: they were not.
    """
    withdrawn = decisions.withdrawn_at(study_id)
    if withdrawn is not None and dataset.registered_at <= withdrawn:
        raise RefusalError(
            "these data were withdrawn after they were registered",
            remedy="register them anew, so that a person has decided it",
            code="withdrawn",
        )


def _expiry(policy: Policy, sealed: AnySealed, at: int, wished: int | None) -> int:
    most = min(sealed.expires_at, at + policy.expiry_days * DAY_S)
    if wished is None:
        return most
    if not at < wished:
        raise InputError("the approval would have run out before it begins", expected="a time to come")
    if wished > most:
        raise RefusalError(
            "the approval would hold longer than is allowed",
            expected=f"at most until the study's expiry, and {policy.expiry_days} days (expiry_days of the policy)",
            remedy="give an earlier --expires, or none",
            code="policy-expiry",
        )
    return wished


def _end_superseded(home: SiteHome, before: Decisions, after: Decisions, newer: AnySealed, at: int) -> None:
    """Tell the log of the versions that this one superseded, and give free what they had reserved."""
    for study in after.ever_approved():
        states = [decisions.standing(study, at).state for decisions in (before, after)]
        if states[1] == "superseded" and states[0] != "superseded":
            home.record("superseded", at=at, study=study, previous=newer.digest)
            with home.ledger() as ledger:
                budgets.release(home, ledger, study, "superseded", at=at)
