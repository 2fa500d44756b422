"""A model's card as data, from the record alone. Pure: a study's history, its gates' verdicts and its release, if any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from fedward.privacy.canonical import digest
from fedward.privacy.errors import InputError
from fedward.privacy.signing import fingerprint, to_text
from fedward.server.cards.limits import NOT_FOR, limits
from fedward.server.cards.performance import Performance, performance
from fedward.server.cards.promises import Privacy, privacy
from fedward.server.cards.training import Setting, inputs, settings
from fedward.server.cards.tripod import Item, items
from fedward.server.histories import History
from fedward.server.records import ReleaseRow
from fedward.server.verdicts import Verdict
from fedward.study.manifest import SealedManifest

if TYPE_CHECKING:
    from fedward.study.hospital_influence import HospitalInfluence
    from fedward.study.influence import Influence
    from fedward.study.metrics import CalibrationGroup


_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before a public key of this kind in DER (RFC 8410, section 4)."""


@dataclass(frozen=True)
class Site:
    """A hospital: its declared patients, as it rounded them, and the committed rounds of training that it is in."""

    site: str
    patients: int
    rounds: int
    standing: str


@dataclass(frozen=True)
class Released:
    """The release that the card is of. `statement` is what the coordinator signed, as JSON text."""

    number: int
    version: int
    released_at: int
    by: str
    statement: str
    statement_digest: str
    signature: str
    withdrawn_at: int | None
    withdrawn_by: str | None
    withdrawn_why: str | None


@dataclass(frozen=True)
class Card:
    """Everything that a card says; `pages` lays it out.

    Attributes:
        version: the committed rounds behind the model; `model` the digest of its parameters.
        began, ended: when its first and last attempt were opened, unix time; None before any.
        coordinator_pem: its public key as PEM has it, between the lines that begin and end it.
        calibration: groups of scores over everybody, of the newest evaluation; nothing where that was of another version.
        verdicts: of the gates; None where they were not evaluated.
        influence: what the model's output follows; None unless it was asked for.
        votes: what held-out patients voted for, of the version that was measured; None where none vote.
    """

    study_id: str
    title: str
    description: str
    state: str
    version: int
    rounds: int
    sealed_at: int
    began: int | None
    ended: int | None
    outcome: str
    outcome_description: str
    inputs: tuple[tuple[str, str, str], ...]
    not_for: tuple[str, ...]
    sites: tuple[Site, ...]
    eligibility: tuple[str, ...]
    attributes: tuple[str, ...]
    holdout: float
    performance: Performance | None
    calibration: tuple[CalibrationGroup, ...]
    verdicts: tuple[Verdict, ...] | None
    privacy: Privacy
    settings: tuple[Setting, ...]
    limits: tuple[str, ...]
    tripod: tuple[Item, ...]
    model: str
    study_digest: str
    manifest_digest: str
    coordinator_key: str
    coordinator_fingerprint: str
    coordinator_pem: str
    signature: str
    release: Released | None
    influence: Influence | None = None
    votes: HospitalInfluence | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def of_study(releases: Sequence[ReleaseRow], study: int) -> ReleaseRow | None:
    """The release of a study, by its key, that is to be used: the newest that was not rolled back, else the newest."""
    own = [row for row in releases if row.study == study]
    found = [row for row in own if row.withdrawn_at is None] or own
    return max(found, key=lambda row: row.number, default=None)


def card(
    history: History,
    verdicts: Sequence[Verdict] = (),
    release: ReleaseRow | None = None,
    influence: Influence | None = None,
) -> Card:
    """The card of a study's released model; of its newest one where none was released.

    Raises:
        InputError: `no-model`: the study trains no model, is not sealed, or has no committed round.
    """
    sealed, view, signature = history.sealed, history.view, history.study.signature
    if not isinstance(sealed, SealedManifest) or view.model is None or view.version == 0 or signature is None:
        explores = view.kind == "explore"
        raise InputError(
            f'study "{view.study_id}" has no model to describe',
            expected="a study that trains, with a committed round",
            got="an exploration" if explores else f"state {view.state}, {view.version} rounds committed",
            remedy=f"fedward coordinator answers {view.study_id}"
            if explores
            else f"fedward coordinator status {view.study_id}",
            code="no-model",
        )
    manifest = sealed.manifest
    version, model = (view.version, view.model) if release is None else (release.version, release.model)
    found = performance(manifest, view.metrics, _measured(history, version))
    promise = privacy(history, sealed)
    newest = max((row.version for row in view.metrics), default=0)
    return Card(
        study_id=view.study_id,
        title=manifest.study.title,
        description=manifest.study.description,
        state=view.state,
        version=version,
        rounds=manifest.training.rounds,
        sealed_at=sealed.sealed_at,
        began=min((row.opened_at for row in view.attempts), default=None),
        ended=max((row.opened_at for row in view.attempts), default=None),
        outcome=manifest.outcome.column,
        outcome_description=manifest.outcome.description,
        inputs=inputs(manifest),
        not_for=NOT_FOR,
        sites=_sites(history, sealed),
        eligibility=() if manifest.eligibility is None else manifest.eligibility.words,
        attributes=tuple(group.column for group in manifest.fairness.groups),
        holdout=manifest.training.holdout,
        performance=found,
        calibration=history.calibration if found is not None and found.shown and found.version == newest else (),
        verdicts=tuple(verdicts) or None,
        privacy=promise,
        settings=settings(manifest, version),
        limits=limits(manifest, found, promise, version),
        tripod=items(manifest, found),
        model=model,
        study_digest=sealed.digest,
        manifest_digest=digest(manifest.canonical),
        coordinator_key=sealed.coordinator_key,
        coordinator_fingerprint=fingerprint(sealed.coordinator_key),
        coordinator_pem=to_text(_ED25519 + bytes.fromhex(sealed.coordinator_key)),
        signature=to_text(signature),
        release=None if release is None else _released(release),
        influence=influence,
        votes=history.votes if found is not None and history.votes and history.votes.version == found.version else None,
    )


def _measured(history: History, version: int) -> int:
    """The version whose metrics are shown: the model's own, else the newest that was evaluated."""
    versions = {row.version for row in history.view.metrics}
    return version if version in versions else max(versions, default=0)


def _sites(history: History, sealed: SealedManifest) -> tuple[Site, ...]:
    rounds = history.view.contributions()
    standings = {row.site: row.state for row in history.view.standings}
    return tuple(
        Site(one.site, one.declared_patients, rounds.get(one.site, 0), standings.get(one.site, "unknown"))
        for one in sealed.roster
    )


def _released(row: ReleaseRow) -> Released:
    try:
        text = json.dumps(json.loads(row.statement), ensure_ascii=False, indent=1, sort_keys=True)
    except ValueError:
        text = row.statement.decode(errors="replace")
    return Released(
        row.number, row.version, row.released_at, row.by, text, digest(row.statement), row.signature,
        row.withdrawn_at, row.withdrawn_by, row.withdrawn_why,
    )  # fmt: skip
