"""Withdrawal: the data of a study id are used no more, for good, and a signed certificate says so.

The word comes first, in the chain of decisions: from then on the node refuses (`withdrawn`). Then what was reserved is given free
and the registration is removed; were its file put back, it would still be refused, since it is older than the withdrawal.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedward.client import approvals, budgets, datasets
from fedward.client.approvals import require_approver
from fedward.client.decisions import append, deciding, load
from fedward.client.home import SiteHome
from fedward.client.statements import Withdraw
from fedward.privacy.errors import InputError
from fedward.privacy.ledger import Charge, Ledger
from fedward.privacy.signing import Identity
from fedward.study.kinds import AnySealed
from fedward.study.withdrawal import AffectedModel, Certificate, sign_certificate

FOLDER = "withdrawals"


def study_ids(home: SiteHome) -> list[str]:
    """Every study id that data are registered for, or that was proposed here."""
    proposed = {sealed.manifest.study.id for sealed in approvals.proposals(home)}
    return sorted(proposed | set(datasets.registered(home)))


def named(home: SiteHome, text: str) -> str:
    """The study id that a person means by an id or by the first digits of a digest.

    Raises:
        InputError: nothing, or several, are meant.
    """
    if text in study_ids(home):
        return text
    return approvals.proposal(home, text).manifest.study.id


def withdraw(home: SiteHome, study_id: str, *, by: str, signer: Identity, at: int, reason: str = "") -> Certificate:
    """Withdraw the data of one study id; the signed certificate, of which the home keeps a copy.

    Raises:
        RefusalError: `not-an-approver`.
        InputError: nothing of that name is registered or proposed.
    """
    with deciding(home):
        require_approver(load(home), by, signer)
        sealed = [one for one in approvals.proposals(home) if one.manifest.study.id == study_id]
        if not sealed and study_id not in datasets.registered(home):
            raise InputError(
                f'nothing is registered or proposed for study "{study_id}"',
                expected=", ".join(study_ids(home)) or "a study",
                remedy="run `fedward site status` to see the studies",
            )
        digests = tuple(one.digest for one in sealed)
        what = Withdraw(study_id=study_id, studies=digests, reason=reason)
        link = append(home, what, by=by, at=at, signer=signer)
        with home.ledger() as ledger:
            for digest in digests:
                budgets.release(home, ledger, digest, "withdrawn", at=at)
            affected = tuple(_affected(home, ledger, sealed))
        datasets.forget(home, study_id)
        kit = home.kit()
        bare = Certificate(
            site=home.site,
            site_key=home.identity().public,
            federation=kit.federation_name,
            coordinator_key=kit.coordinator_key,
            study_id=study_id,
            studies=digests,
            at=at,
            by=by,
            approver_key=signer.public,
            reason=reason,
            decision=link.digest,
            affected=affected,
        )
        certificate = sign_certificate(bare, signer, home.identity())
        kept = home.path / FOLDER / f"{study_id}-{link.sequence}.json"
        home.write(kept, certificate.model_dump_json(indent=1).encode())
        return certificate


def _affected(home: SiteHome, ledger: Ledger, sealed: list[AnySealed]) -> Iterator[AffectedModel]:
    """The studies that patients here were charged for: their models may contain a contribution."""
    spent = {one.study_digest: one for one in ledger.spent_by_study()}
    made = [entry.what for entry in ledger.entries() if isinstance(entry.what, Charge)]
    answers, bases = _answered(home)
    for one in sealed:
        charges = [charge for charge in made if charge.study_digest == one.digest]
        if not charges:
            continue
        trained = [charge.round for charge in charges if not charge.purpose.startswith("evaluate")]
        bare = any(charge.event is None for charge in charges)
        yield AffectedModel(
            study=one.digest,
            title=one.manifest.study.title,
            rounds=(min(trained, default=0), max(trained, default=0)),
            charges=len(charges),
            answers=answers.get(one.digest, 0),
            last_base=bases.get(one.digest, ""),
            epsilon=None if bare else spent[one.digest].epsilon,
            delta=ledger.budget.delta,
        )


def _answered(home: SiteHome) -> tuple[dict[str, int], dict[str, str]]:
    """By study: how many attempts were answered, and the newest base model of them, as the audit log holds it."""
    counts: dict[str, int] = {}
    bases: dict[str, str] = {}
    for entry in home.audit.entries(home.audit.oldest()):
        study = entry.fields.get("study")
        if entry.kind == "round-answered" and isinstance(study, str) and "round" in entry.fields:
            counts[study] = counts.get(study, 0) + 1
            bases[study] = str(entry.fields.get("model", ""))
    return counts, bases
