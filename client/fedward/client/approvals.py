"""What a coordinator proposed, and what a person at this hospital decided about it.

A proposal is kept only when its manifest is signed by the coordinator of the kit and names this site with this site's
key. A decision binds one digest: another manifest, however alike, needs another decision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedward.client import budgets, datasets
from fedward.client.datasets import Dataset
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.policy import Objection, load_policy, objections
from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.signing import from_text, to_text, verify
from fedward.study.exploration import SealedExploration
from fedward.study.fields import Part
from fedward.study.files import read_json, read_model, write_atomic
from fedward.study.kinds import AnySealed, parse_sealed
from fedward.study.manifest import HEX_KEY

State = Literal["pending", "approved", "rejected"]


class Decision(Part):
    """A person's decision, signed by the site's identity so that the coordinator cannot invent one."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    study: Annotated[str, Field(pattern=HEX_KEY)]
    state: Literal["approved", "rejected"]
    by: Annotated[str, Field(min_length=1, max_length=200)]
    at: Annotated[int, Field(ge=0)]
    data: Annotated[str, Field(pattern=HEX_KEY)] | None = None
    """What was registered when it was approved (`Dataset.digest`); None where nothing was."""
    signature: Annotated[str, Field(max_length=100)] = ""

    def signed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"signature"}))


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
        data = {"sealed": sealed_bytes.decode(), "signature": to_text(signature)}
        write_atomic(path, json.dumps(data).encode())
    return sealed


def proposals(home: SiteHome) -> list[AnySealed]:
    """Every proposal received, oldest seal first."""
    folder = home.path / "proposals"
    found = [proposal(home, path.stem) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(found, key=lambda sealed: (sealed.sealed_at, sealed.digest))


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
    data = read_json(matches[0], "proposal")
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


def objections_here(home: SiteHome, sealed: AnySealed, dataset: Dataset) -> list[Objection]:
    """Why this hospital's policy, read afresh, refuses a study on its registered data; empty when it does not.

    Raises:
        InputError: the policy, or the mapping that an exploration's columns are looked up in, cannot be read.
    """
    policy = load_policy(home.policy_file)
    if isinstance(sealed, SealedExploration):
        return objections(policy, sealed, dataset.patients, load_mapping(Path(dataset.mapping)).origin)
    return objections(policy, sealed, dataset.patients)


def decide(home: SiteHome, sealed: AnySealed, state: Literal["approved", "rejected"], by: str, at: int) -> Decision:
    """Record and sign a decision. An approval can be withdrawn by rejecting; a rejected study can be approved later.

    An approval reserves what the study may cost before it is written; a rejection gives free what was not charged.

    Raises:
        InputError: nothing is registered for the study that is approved.
        RefusalError: the privacy budget does not allow it, or δ promises nothing for so many patients; nothing is decided.
    """
    data = None
    if state == "approved":
        dataset = datasets.find(home, sealed.manifest.study.id)
        data = dataset.digest
        if sealed.manifest.privacy.epsilon is not None:
            with home.ledger() as ledger:
                budgets.check_delta(ledger, dataset.patients)
            budgets.reserve(home, sealed, dataset.cohort, at=at)
    unsigned = Decision(study=sealed.digest, state=state, by=by, at=at, data=data)
    signature = to_text(home.identity().sign("approval", unsigned.signed_bytes()))
    decision = unsigned.model_copy(update={"signature": signature})
    path = home.path / "approvals" / f"{sealed.digest}.json"
    write_atomic(path, json.dumps(decision.model_dump(mode="json")).encode(), 0o600)
    if state == "rejected":
        with home.ledger() as ledger:
            ledger.release(sealed.digest, "rejected", at=at)
    return decision


def decision_on(home: SiteHome, study: str) -> Decision | None:
    """The decision on a study, its signature checked; None while nobody decided.

    Raises:
        IntegrityError: the file was changed by someone without the site's key.
    """
    path = home.path / "approvals" / f"{study}.json"
    if not path.is_file():
        return None
    decision = read_model(path, Decision, "decision")
    signature = from_text(decision.signature, "the decision's signature")
    verify(home.identity().public, "approval", decision.signed_bytes(), signature, "the approval")
    if decision.study != study:
        raise IntegrityError("an approval file names another study", code="bad-approval")
    return decision


def require_approved(home: SiteHome, study: str) -> AnySealed:
    """The approved manifest.

    Raises:
        RefusalError: nobody approved it, somebody rejected it, or other data was registered since.
        InputError: no data is registered any more.
    """
    decision = decision_on(home, study)
    if decision is None or decision.state != "approved":
        raise RefusalError(
            "this hospital has not approved the study",
            remedy=f"run `fedward site review {study[:12]}`, then approve or reject it",
            code="not-approved" if decision is None else "rejected",
        )
    sealed = proposal(home, study)
    if decision.data != datasets.find(home, sealed.manifest.study.id).digest:
        raise RefusalError(
            "other data is registered than when the study was approved",
            remedy=f"run `fedward site review {study[:12]}`, then approve it again",
            code="data-changed",
        )
    return sealed
