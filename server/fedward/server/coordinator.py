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
from fedward.server.home import CoordinatorHome
from fedward.server.records import AlarmRow, SiteRow, StudyRow
from fedward.server.store import Store
from fedward.server.transcripts import transcript_of
from fedward.server.views import StudyView, view
from fedward.study.enrolment import JoinKit, JoinRequest, check_request, sign
from fedward.study.kinds import AnyManifest
from fedward.study.manifest import Manifest
from fedward.study.transcript import Transcript


class Coordinator(Protocol):
    """What a coordinator can be asked."""

    def enroll(self, request: JoinRequest) -> JoinKit:
        """Enrol a site and return its signed kit."""

    def sites(self) -> list[SiteRow]:
        """Every enrolled site."""

    def propose(self, manifest: AnyManifest, sites: tuple[str, ...]) -> StudyView:
        """Draft a study for these sites (all when empty); the service seals and offers it."""

    def launch(self, reference: str) -> StudyView:
        """Start a proposed study, or continue one that failed or was stopped."""

    def stop(self, reference: str) -> StudyView:
        """Stop a study; what is committed stays."""

    def status(self, reference: str) -> StudyView:
        """One study as it stands."""

    def studies(self) -> list[StudyView]:
        """Every study, newest first."""

    def transcript(self, reference: str) -> Transcript:
        """What anyone can check of a study's secure sums."""

    def alarms(self) -> list[AlarmRow]:
        """Sites whose privacy ledger was seen to go backwards or to fork; they are not asked."""

    def clear_alarm(self, site: str, by: str, why: str) -> None:
        """A named person has looked into a site's alarm: it is asked again."""

    def serving(self) -> bool:
        """Whether the service runs."""


class LocalCoordinator:
    """The `Coordinator` on the machine where it lives."""

    def __init__(self, path: Path) -> None:
        self._home = CoordinatorHome.open(path)
        self._store = Store.open(self._home.store_file)

    def close(self) -> None:
        self._store.close()

    def enroll(self, request: JoinRequest) -> JoinKit:
        """
        Raises:
            IntegrityError: the request was changed.
            UsageError: the site's name is enrolled with other keys.
        """
        check_request(request)
        settings, authority = self._home.settings, self._home.authority()
        certificate = authority.issue_site(request, datetime.now(UTC))
        self._store.add_site(request.site, request.identity_key, request.node_key, int(time.time()))
        identity = self._home.identity()
        kit = JoinKit(
            federation_id=settings.federation_id,
            federation_name=settings.name,
            site=request.site,
            identity_key=request.identity_key,
            coordinator_key=identity.public,
            host=settings.host,
            port=settings.port,
            ca=authority.pem().decode(),
            certificate=certificate.decode(),
        )
        return sign(kit, identity)

    def sites(self) -> list[SiteRow]:
        return self._store.sites()

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
        least_noise(manifest)
        known = [site.site for site in self._store.sites()]
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
        active = [
            s for s in self._store.studies() if s.study_id == manifest.study.id and s.state in {"draft", "running"}
        ]
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
            RefusalError: the study is not proposed yet, or completed.
            UnreachableError: the service does not run.
        """
        study = self._store.find(reference)
        if study.state == "completed":
            raise RefusalError(f'study "{study.study_id}" is completed', remedy="propose a new study to train again")
        if study.sealed is None:
            raise RefusalError(
                f'study "{study.study_id}" is not sealed: {study.reason or study.state}', remedy="propose it again"
            )
        self._require_service()
        self._store.wish(study.key, "run", int(time.time()))
        return view(self._store, self._store.study(study.key))

    def stop(self, reference: str) -> StudyView:
        """
        Raises:
            RefusalError: the study has ended already.
        """
        study = self._store.find(reference)
        if study.state in {"completed", "failed", "stopped"} and study.wish in {"none", "stop"}:
            raise RefusalError(f'study "{study.study_id}" is not under way', got=study.state)
        if self.serving() and study.wish == "run":
            self._store.wish(study.key, "stop", int(time.time()))
        else:
            self._store.set_state(study.key, "stopped", "a person stopped it", int(time.time()))
        return view(self._store, self._store.study(study.key))

    def status(self, reference: str) -> StudyView:
        return view(self._store, self._store.find(reference))

    def studies(self) -> list[StudyView]:
        return [view(self._store, study) for study in self._store.studies()]

    def transcript(self, reference: str) -> Transcript:
        """
        Raises:
            InputError: no such study, or it has not run under secure aggregation.
        """
        return transcript_of(self._store, self._store.find(reference))

    def alarms(self) -> list[AlarmRow]:
        return self._store.alarms()

    def clear_alarm(self, site: str, by: str, why: str) -> None:
        """
        Raises:
            InputError: the site has no alarm.
        """
        self._store.clear_alarm(site, by, why, int(time.time()))

    def serving(self) -> bool:
        return self._home.service() is not None

    def _require_service(self) -> None:
        if not self.serving():
            raise UnreachableError(
                "the coordinator's service does not run", remedy="run `fedward coordinator start` in another terminal"
            )


def under_way(study: StudyRow) -> bool:
    """Whether the service has something to do for a study."""
    return study.wish in {"propose", "run", "stop"}
