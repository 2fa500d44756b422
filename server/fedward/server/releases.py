"""Releasing a model, and taking the release back: who may, what is signed, and what the audit log says before it is done.

1. Only the newest model of a study that has ended is released, and only if it holds every gate (`gates`).
2. If it missed one, two persons sign an override that names what was missed and why it is released all the same. One person's
   signature waits as a request, and whoever seconds it signs the very same text.
3. The statement is signed with the coordinator's key. The audit log has it before the record does.
4. A release that is rolled back stays listed. The newest of a study's id that was not is in force.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedward.privacy.errors import IntegrityError, RefusalError, UsageError
from fedward.server.authority import certificate_digest
from fedward.server.gates import verdicts
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import ENDED
from fedward.server.operators import Operators, role_of
from fedward.server.readings import history
from fedward.server.records import ReleaseRow, StudyRow, in_force
from fedward.server.seconding import OVERRIDE, Asker, Request
from fedward.server.store import Store
from fedward.server.twopersons import TwoPersons
from fedward.server.verdicts import Judgement, Verdict, failing
from fedward.study.releases import Judged, Override, Signed, Statement, check_signed, reason_of, sign_statement


@dataclass(frozen=True)
class _Ready:
    """A model that could be released, if its gates allow."""

    study: StudyRow
    digest: str
    model: str
    version: int
    title: str
    verdicts: tuple[Verdict, ...]

    @property
    def gates(self) -> tuple[Judged, ...]:
        return tuple(Judged(**asdict(one)) for one in self.verdicts)


@dataclass(frozen=True)
class Releases:
    """The releases of one coordinator's home, for somebody who asks."""

    home: CoordinatorHome
    store: Store
    asker: Asker

    def judgement(self, reference: str, now: int) -> Judgement:
        """
        Raises:
            InputError: no such study; a file of the home is damaged.
        """
        study = self.store.find(reference)
        found = verdicts(history(self.store, study, whole=False))
        return Judgement(study.study_id, study.state in ENDED, found, self._waiting(study.digest, now))

    def override(self, reference: str, reason: str, now: int) -> Override:
        """What is to be signed to release a study's newest model although it missed gates: what waits for a second, or new.

        Args:
            reason: why; may be empty where an override waits.

        Raises:
            UsageError: no gate is missed; another reason than that which waits.
            InputError: `bad-reason`.
            RefusalError: `not-ended`, `nothing-trained`.
        """
        return self._override(self._ready(reference), reason, now)

    def release(self, reference: str, reason: str, signed: Signed | None, now: int) -> ReleaseRow:
        """Release a study's newest model.

        Args:
            reason: why; may be empty where an override waits.
            signed: who asks signed `override`, if a gate was missed.

        Raises:
            RefusalError: `not-ended`, `nothing-trained`, `already-released`; `gates-missed`, without a signature;
                `second-person-needed`, `second-too-new`.
            IntegrityError: `bad-signature`: not by who asks.
            UsageError, InputError: as `override`.
        """
        ready = self._ready(reference)
        self._require_new(ready)
        if signed is None:
            reason = reason_of(reason)
            self._require_held(ready)
            first = TwoPersons(self.home).demand("release", ready.model, ready.study.study_id, self.asker, now)
            return self._release(ready, reason, None if first is None else first.by, now)
        override = self._override(ready, reason, now)
        self._require_own(override, signed)
        self.home.record(
            "override-signed", study=ready.digest, study_id=ready.study.study_id, model=ready.model, by=self.asker.name,
            key=_fingerprint(override, signed, self._ca()), words=override.reason, digest=override.digest,
            signature=signed.signature,
        )  # fmt: skip
        first = TwoPersons(self.home).demand(
            OVERRIDE, override.digest, ready.study.study_id, self.asker, now, (override, signed)
        )
        if first is None or first.signed is None:
            raise IntegrityError(
                "the first person's signature is gone", remedy="ask for the override anew", code="bad-signature"
            )
        check_signed(override, first.signed, self._ca())
        return self._release(ready, override.reason, first.by, now, override, (first.signed, signed))

    def rollback(self, study_id: str, reason: str, now: int) -> tuple[ReleaseRow, ReleaseRow | None]:
        """End the release of a study's id that is in force; it, and the one that is in force now.

        Raises:
            RefusalError: `nothing-released`.
            InputError: `bad-reason`.
        """
        reason = reason_of(reason)
        current = in_force(self.store.releases(study_id))
        if current is not None:
            of = self.store.study(current.study)
            self.home.record(
                "rolled-back", study=of.digest, study_id=study_id, model=current.model, by=self.asker.name, words=reason
            )
        return self.store.withdraw_release(study_id, self.asker.name, reason, now)

    def _ready(self, reference: str) -> _Ready:
        study = self.store.find(reference)
        if study.state not in ENDED:
            raise RefusalError(
                f'study "{study.study_id}" has not ended', expected="a study that has", got=study.state,
                remedy="wait for its end, or stop it", code="not-ended",
            )  # fmt: skip
        told = history(self.store, study, whole=False)
        if told.view.model is None or told.view.version == 0 or study.digest is None:
            raise RefusalError(f'study "{study.study_id}" has trained no model', code="nothing-trained")
        return _Ready(study, study.digest, told.view.model, told.view.version, told.view.title, verdicts(told))

    def _require_new(self, ready: _Ready) -> None:
        current = in_force(self.store.releases(ready.study.study_id))
        if current is not None and current.model == ready.model:
            raise RefusalError(
                f'this model of "{ready.study.study_id}" is released already', got=f"release {current.number}",
                code="already-released",
            )  # fmt: skip

    @staticmethod
    def _require_held(ready: _Ready) -> None:
        missed = failing(ready.verdicts)
        if missed:
            raise RefusalError(
                f'the model of "{ready.study.study_id}" may not become a release', expected="every gate holds",
                got="; ".join(missed), code="gates-missed",
                remedy=f"see `fedward coordinator gates {ready.study.study_id}`; two persons can override, and say why",
            )  # fmt: skip

    def _override(self, ready: _Ready, reason: str, now: int) -> Override:
        missed = tuple(one for one in ready.gates if not one.holds)
        if not missed:
            raise UsageError(
                "every gate holds, so there is nothing to override", remedy="release it without --override"
            )
        waits = self._waiting(ready.digest, now)
        if waits is not None and waits.override is not None and waits.override.missed == missed:
            if reason not in {"", waits.override.reason}:
                raise UsageError(
                    f"{waits.by} asks to override for another reason", expected=waits.override.reason, got=reason,
                    remedy=f"second it without --reason, or withdraw {waits.reference} first",
                )  # fmt: skip
            return waits.override
        return Override(
            federation_id=self.home.settings.federation_id, study=ready.digest, model=ready.model, version=ready.version,
            missed=missed, reason=reason_of(reason),
        )  # fmt: skip

    def _waiting(self, study: str | None, now: int) -> Request | None:
        requests = TwoPersons(self.home).requests(now)
        return next((one for one in requests if one.override is not None and one.override.study == study), None)

    def _require_own(self, override: Override, signed: Signed) -> None:
        """The signature is by a certificate that the list holds for who asks, as a coordinator."""
        made = check_signed(override, signed, self._ca())
        found = [one for one in Operators(self.home).all() if one.fingerprint == certificate_digest(made)]
        living = [one.name for one in found if not one.removed_at and one.role == role_of(made) == "coordinator"]
        if living != [self.asker.name] or signed.by != self.asker.name:
            raise IntegrityError(
                "the override is signed by another person than the one who asks", expected=self.asker.name, got=signed.by,
                remedy="sign it with the access that you ask with", code="bad-signature",
            )  # fmt: skip

    def _ca(self) -> str:
        return self.home.operators_ca_file.read_text()

    def _release(
        self, ready: _Ready, reason: str, other: str | None, now: int, override: Override | None = None,
        signatures: tuple[Signed, ...] = (),
    ) -> ReleaseRow:  # fmt: skip
        identity, settings = self.home.identity(), self.home.settings

        def made(number: int) -> ReleaseRow:
            statement = Statement(
                federation_id=settings.federation_id, federation=settings.name, coordinator_key=identity.public,
                study=ready.digest, study_id=ready.study.study_id, title=ready.title, number=number, model=ready.model,
                version=ready.version, gates=ready.gates, reason=reason, by=self.asker.name, other=other, at=now,
                override=override, signatures=signatures, operators_ca=self._ca() if override else None,
            )  # fmt: skip
            return ReleaseRow(
                statement.study_id, number, ready.study.key, ready.model, ready.version, statement.canonical,
                sign_statement(statement, identity), now, self.asker.name,
            )  # fmt: skip

        self.home.record(
            "release", study=ready.digest, study_id=ready.study.study_id, model=ready.model, round=ready.version,
            by=self.asker.name, other=other, words=reason,
        )  # fmt: skip
        return self.store.add_release(ready.study.study_id, made, now)


def _fingerprint(override: Override, signed: Signed, ca: str) -> str:
    return certificate_digest(check_signed(override, signed, ca))
