"""The one interface between a person's commands and a federation: the CLI knows nothing else of the server.

`LocalCoordinator` works on the coordinator's home folder. It only records what a person wants; the running service acts
on it. So a command is as durable as its record: it survives a restart of the service, and of the machine.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from fedward.privacy.errors import InputError, RefusalError, UnreachableError, UsageError
from fedward.server.checkpoints import forget_site
from fedward.server.consulting import pending
from fedward.server.enrolment import Enrolled, enrol, outdated
from fedward.server.histories import History
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Event, Launch, Pause, Resume, Stop, after, is_busy
from fedward.server.mitigating import Mitigated, mitigated
from fedward.server.operators import LOCAL, Operators
from fedward.server.readings import head, history, newest_evaluation, view
from fedward.server.records import ANSWERED, AlarmRow, Membership, ReleaseRow, SharedMetrics, StudyRow
from fedward.server.releases import Releases
from fedward.server.seconding import Asker, Policy, Request
from fedward.server.sharing import take_in
from fedward.server.store import Store
from fedward.server.transcripts import transcript_of
from fedward.server.twopersons import TwoPersons
from fedward.server.verdicts import Judgement
from fedward.server.views import StudyHead, StudyView
from fedward.study.enrolment import JoinRequest, RotationRequest
from fedward.study.kinds import AnyManifest, parse_sealed
from fedward.study.manifest import Manifest
from fedward.study.metrics.mitigation import Criterion
from fedward.study.releases import Override, Signed, sign_override
from fedward.study.transcript import Transcript


class Coordinator(Protocol):
    """What a coordinator can be asked."""

    def enroll(
        self, request: JoinRequest | RotationRequest, *, confirmed: bool = False, end_studies: bool = False
    ) -> Enrolled:
        """Answer a request to join, to renew or to rotate keys with a signed kit."""

    def sites(self) -> list[Membership]:
        """Every site that ever was enrolled, with the state of its certificate."""

    def revoke(self, site: str, reason: str) -> None:
        """End a site's membership at once: no key of it is ever accepted again."""

    def propose(self, manifest: AnyManifest, sites: tuple[str, ...]) -> StudyView:
        """Draft a study for these sites (all when empty); the service seals and offers it."""

    def launch(self, reference: str) -> StudyView:
        """Start a proposed study, or continue one that failed or was stopped."""

    def pause(self, reference: str, *, now: bool = False) -> StudyView:
        """Let a launched study rest: after the attempt under way, or at once."""

    def resume(self, reference: str) -> StudyView:
        """Go on with a paused study."""

    def stop(self, reference: str) -> StudyView:
        """Stop a study; what is committed stays."""

    def decide(self, reference: str, *, wait: bool) -> StudyView:
        """Answer a round that asks whether to wait for hospitals: it waits, or carries on without them."""

    def status(self, reference: str, recent: int | None = None) -> StudyView:
        """One study as it stands; with the details of so many attempts, the newest, or of all."""

    def studies(self) -> list[StudyHead]:
        """Every study, newest first."""

    def history(self, reference: str) -> History:
        """What happened to a study, without what `record` adds."""

    def record(self, reference: str) -> History:
        """All that the record holds of a study, with what hospitals signed and the messages of secure sums."""

    def model(self, digest: str) -> bytes:
        """A committed model's file, whose parameters are checked against their digest."""

    def transcript(self, reference: str) -> Transcript:
        """What anyone can check of a study's secure sums."""

    def waiting(self) -> list[Request]:
        """What one person asked for, and waits for a second."""

    def withdraw(self, reference: str) -> Request:
        """Take a waiting request back, whoever asked."""

    def policy(self) -> Policy:
        """What two persons are asked for."""

    def change_policy(self, policy: Policy) -> None:
        """Ask two persons for other actions; takes two itself, while they are asked for any."""

    def share(self, reference: str, file: bytes) -> SharedMetrics:
        """Take in what a hospital gave of its own metrics."""

    def gates(self, reference: str) -> Judgement:
        """Whether a study's newest model holds the manifest's gates."""

    def mitigation(self, reference: str, attribute: str | None, bound: float, criterion: Criterion) -> Mitigated:
        """What a threshold for each group would do to a study's newest model that was evaluated; nothing is changed."""

    def override(self, reference: str, reason: str) -> Override:
        """What two persons sign to release a model that missed a gate."""

    def sign(self, override: Override) -> Signed:
        """The signature of who asks, by the key of their access."""

    def release(self, reference: str, reason: str, signed: Signed | None = None) -> ReleaseRow:
        """Release a study's newest model; with a signature of `override`, although it missed a gate."""

    def rollback(self, study_id: str, reason: str) -> tuple[ReleaseRow, ReleaseRow | None]:
        """End the release in force; it, and the earlier one that is in force again."""

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        """Every release, of a study's id or of all, oldest first."""

    def alarms(self) -> list[AlarmRow]:
        """Sites whose privacy ledger was seen to go backwards or to fork; they are not asked."""

    def clear_alarm(self, site: str, by: str, why: str) -> None:
        """A named person has looked into a site's alarm: it is asked again."""

    def serving(self) -> bool:
        """Whether the service runs."""


class LocalCoordinator:
    """The `Coordinator` on the machine where it lives. Who asks is `local`, unless another is named."""

    def __init__(self, path: Path) -> None:
        home = CoordinatorHome.open(path)
        self._home = home
        self._store = home.open_store()
        self._asker = Asker(LOCAL, 0)

    @classmethod
    def asked(cls, home: CoordinatorHome, store: Store, asker: Asker) -> LocalCoordinator:
        """The same, over a record that is open, for somebody whose name is known."""
        made = cls.__new__(cls)
        made._home, made._store, made._asker = home, store, asker
        return made

    def close(self) -> None:
        self._store.close()

    def enroll(
        self, request: JoinRequest | RotationRequest, *, confirmed: bool = False, end_studies: bool = False
    ) -> Enrolled:
        """
        Raises:
            FedwardError: as `enrolment.enrol`.
        """
        done = enrol(self._home, self._store, request, datetime.now(UTC), confirmed=confirmed, end_studies=end_studies)
        if done.what == "rejoined":  # with a home of its own, and so with an audit log of its own
            forget_site(self._home, done.kit.site)
        return done

    def sites(self) -> list[Membership]:
        return self._store.memberships()

    def revoke(self, site: str, reason: str) -> None:
        """
        Raises:
            InputError: no such site, or it is revoked already.
        """
        self._store.revoke(site, reason, int(time.time()))
        key = next(row.identity_key for row in self._store.sites() if row.site == site)
        self._home.record("key-revoked", site=site, key=key, by=self._asker.name)

    def propose(self, manifest: AnyManifest, sites: tuple[str, ...]) -> StudyView:
        """
        Raises:
            InputError: a named site is not enrolled, the model is unknown, or ε is out of reach.
            UsageError: fewer sites than the quorum, or a study of that id is under way.
            UnreachableError: the service does not run.
        """
        from fedward.study.schedule import least_noise  # noqa: PLC0415

        if isinstance(manifest, Manifest) and (only := manifest.training.simulated_only):
            raise InputError(
                f"no hospital's node runs {only} yet",
                expected="a study of the algorithms that docs/algorithms.md marks for federations",
                remedy="try it with `fedward simulate`, and propose another",
                code="simulated-only",
            )
        self._require_service()
        if isinstance(manifest, Manifest):
            from fedward.study.models import build  # noqa: PLC0415 - torch takes seconds, and only a model needs it

            build(manifest)
            if manifest.model.start is not None:
                from fedward.server.running import load_start  # noqa: PLC0415

                load_start(self._home.models_folder, manifest, manifest.model.start)
        least_noise(manifest)
        known = [site.site for site in self._store.sites() if not site.revoked]
        unknown = sorted(set(sites) - set(known))
        if unknown:
            raise InputError(
                f"not enrolled: {', '.join(unknown)}", expected=f"some of {', '.join(known) or 'none yet'}"
            )
        invited = sites or tuple(known)
        if len(invited) < manifest.least_sites:
            secure = manifest.least_sites > manifest.federation.quorum
            raise UsageError(
                "fewer sites than a secure sum needs" if secure else "fewer sites than the study's quorum",
                expected=f"at least {manifest.least_sites}",
                got=str(len(invited)),
                remedy="enroll more sites, or lower " + ("privacy.colluders" if secure else "federation.quorum"),
            )
        active = [s for s in self._store.studies() if s.study_id == manifest.study.id and is_busy(s.life)]
        if active:
            raise UsageError(
                f'study "{manifest.study.id}" is under way ({active[0].state})',
                remedy=f"wait, or run `fedward coordinator stop {manifest.study.id}`",
            )
        key = self._store.create_study(manifest.study.id, manifest.model_dump_json(), invited, int(time.time()))
        return view(self._store, self._store.study(key))

    def launch(self, reference: str) -> StudyView:
        """
        Raises:
            RefusalError: `not-to-launch`, as `lifecycle`; `roster-outdated`; `second-person-needed`, `second-too-new`.
            UnreachableError: the service does not run.
        """
        study = self._store.find(reference)
        after(study.life, Launch())
        self._require_roster(study)
        self._require_service()
        first = self._persons.demand("launch", study.digest or "", study.study_id, self._asker, int(time.time()))
        other = None if first is None else first.by
        self._home.record("launched", study=study.digest, study_id=study.study_id, by=self._asker.name, other=other)
        return self._happened(study, Launch())

    def pause(self, reference: str, *, now: bool = False) -> StudyView:
        """
        Raises:
            RefusalError: `not-to-pause`, as `lifecycle`.
        """
        study, event = self._store.find(reference), Pause(now, self.serving())
        after(study.life, event)
        self._home.record("study-paused", study=study.digest, study_id=study.study_id, by=self._asker.name)
        return self._happened(study, event)

    def resume(self, reference: str) -> StudyView:
        """
        Raises:
            RefusalError: `not-to-resume`, as `lifecycle`; `roster-outdated`.
            UnreachableError: the service does not run.
        """
        study = self._store.find(reference)
        after(study.life, Resume())
        self._require_roster(study)
        self._require_service()
        self._home.record("study-resumed", study=study.digest, study_id=study.study_id, by=self._asker.name)
        return self._happened(study, Resume())

    def _happened(self, study: StudyRow, event: Event) -> StudyView:
        self._store.happened(study.key, event, int(time.time()))
        return view(self._store, self._store.study(study.key))

    def _require_roster(self, study: StudyRow) -> None:
        gone, sealed = outdated(self._store, study), parse_sealed(study.sealed or b"")
        if len(sealed.roster) - len(gone) < sealed.manifest.least_sites:
            raise RefusalError(
                f'too few sites of study "{study.study_id}" are still who they were when it was sealed',
                expected=f"at least {sealed.manifest.least_sites}",
                got=f"revoked or with a new identity: {', '.join(gone)}",
                remedy="propose it again",
                code="roster-outdated",
            )

    def stop(self, reference: str) -> StudyView:
        """
        Raises:
            RefusalError: `not-under-way`: it has ended already.
        """
        study, event = self._store.find(reference), Stop(self.serving())
        after(study.life, event)
        self._home.record("stopped", study=study.digest, study_id=study.study_id, by=self._asker.name)
        return self._happened(study, event)

    def decide(self, reference: str, *, wait: bool) -> StudyView:
        """
        Raises:
            RefusalError: `nothing-asked`.
        """
        study = self._store.find(reference)
        asked, choice = pending(self._store, study), "wait" if wait else "carry-on"
        self._home.record(
            ANSWERED, study=study.digest, round=asked.round, attempt=asked.attempt, outcome=choice, by=self._asker.name
        )
        self._store.note(
            study.key, ANSWERED, {"round": asked.round, "choice": choice, "by": self._asker.name}, int(time.time())
        )
        return view(self._store, self._store.study(study.key))

    def status(self, reference: str, recent: int | None = None) -> StudyView:
        return view(self._store, self._store.find(reference), recent)

    def studies(self) -> list[StudyHead]:
        return [head(self._store, study) for study in self._store.studies()]

    def transcript(self, reference: str) -> Transcript:
        """
        Raises:
            InputError: no such study, or it has not run under secure aggregation.
        """
        return transcript_of(self._store, self._store.find(reference))

    def history(self, reference: str) -> History:
        return history(self._store, self._store.find(reference), whole=False)

    def record(self, reference: str) -> History:
        return history(self._store, self._store.find(reference))

    def model(self, digest: str) -> bytes:
        """
        Raises:
            InputError: it is no digest.
            IntegrityError: the file is missing, damaged, or another model.
        """
        from fedward.server.models import read_model_file  # noqa: PLC0415 - torch takes seconds

        return read_model_file(self._home.models_folder, digest)

    @property
    def _persons(self) -> TwoPersons:
        return TwoPersons(self._home)

    def waiting(self) -> list[Request]:
        return list(self._persons.requests(int(time.time())))

    def withdraw(self, reference: str) -> Request:
        """
        Raises:
            InputError: no such request waits.
        """
        return self._persons.withdraw(reference, self._asker.name, int(time.time()))

    def policy(self) -> Policy:
        return self._persons.policy()

    def change_policy(self, policy: Policy) -> None:
        """
        Raises:
            RefusalError: `second-person-needed`, `second-too-new`.
        """
        self._persons.change(policy, self._asker, int(time.time()))

    def share(self, reference: str, file: bytes) -> SharedMetrics:
        """Errors as `sharing.take_in`."""
        return take_in(self._home, self._store, reference, file, self._asker.name, int(time.time()))

    def gates(self, reference: str) -> Judgement:
        return self._releases.judgement(reference, int(time.time()))

    def mitigation(self, reference: str, attribute: str | None, bound: float, criterion: Criterion) -> Mitigated:
        """Errors as `mitigating.mitigated`."""
        study = self._store.find(reference)
        sealed = None if study.sealed is None else parse_sealed(study.sealed)
        return mitigated(sealed, newest_evaluation(self._store, study), attribute, bound, criterion)

    def override(self, reference: str, reason: str) -> Override:
        return self._releases.override(reference, reason, int(time.time()))

    def sign(self, override: Override) -> Signed:
        """
        Raises:
            InputError, IntegrityError: there is no such key, or others may read it.
        """
        access, key = Operators(self._home).local_access(1)
        return sign_override(override, access.name, access.certificate, key)

    def release(self, reference: str, reason: str, signed: Signed | None = None) -> ReleaseRow:
        """Errors as `Releases.release`."""
        return self._releases.release(reference, reason, signed, int(time.time()))

    def rollback(self, study_id: str, reason: str) -> tuple[ReleaseRow, ReleaseRow | None]:
        """Errors as `Releases.rollback`."""
        return self._releases.rollback(study_id, reason, int(time.time()))

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        return self._store.releases(study_id)

    @property
    def _releases(self) -> Releases:
        return Releases(self._home, self._store, self._asker)

    def alarms(self) -> list[AlarmRow]:
        return self._store.alarms()

    def clear_alarm(self, site: str, by: str, why: str) -> None:
        """
        Raises:
            InputError: the site has no alarm.
        """
        self._store.clear_alarm(site, by, why, int(time.time()))
        self._home.record("alarm-cleared", site=site, by=by)
        forget_site(self._home, site)

    def serving(self) -> bool:
        return self._home.service() is not None

    def _require_service(self) -> None:
        if not self.serving():
            raise UnreachableError(
                "the coordinator's service does not run", remedy="run `fedward coordinator start` in another terminal"
            )
