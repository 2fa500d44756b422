"""Approval reserves, refusing, revoking and a study's end give free: over files, processes and the real message path."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from federation import NOW, Federation, decide, heart_manifest
from hospital import SITE, Site, code

from fedward.client import approvals, budgets, datasets
from fedward.client.home import SiteHome
from fedward.privacy.entries import Release
from fedward.privacy.errors import RefusalError
from fedward.privacy.ledger import Budget, OpenReservation
from fedward.study.heart import heart_folder
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Ended, Result, Standing
from fedward.study.schedule import study_events

AT = int(NOW.timestamp())
SITES = ("cleveland", "hungarian", SITE)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two studies, planned side by side: each fits alone into what is left, both together do not."""
    federation = Federation(tmp_path_factory.mktemp("reserving"), sites=SITES, budget=Budget(4.0, 1e-3))
    for name in ("one", "two"):
        manifest = heart_manifest(study={"id": name}, training={"rounds": 2})
        federation.register(manifest)
        federation.propose(manifest)
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def studies(federation: Federation) -> list[SealedManifest]:
    return sorted(approvals.proposals(federation.sites[SITE]), key=lambda sealed: sealed.manifest.study.id)


def held(home: SiteHome) -> list[OpenReservation]:
    with home.ledger() as ledger:
        return ledger.reservations()


def ended(site: Site, reason: str) -> Standing:
    reply = site.ask(Ended(study=site.sealed.digest, nonce="0" * 64, reason=reason))  # type: ignore[arg-type]
    assert isinstance(reply, Standing)
    return reply


def test_approval_reserves_the_whole_schedule_for_these_patients(federation: Federation) -> None:
    home, (one, _) = federation.sites[SITE], studies(federation)
    for _ in range(2):  # approved again, nothing is reserved twice
        decide(home, one, "approved", AT)
        (reserved,) = held(home)
        assert reserved.remaining == study_events(one, SITE)
        assert reserved.reservation.cohort == datasets.find(home, "one").cohort
        assert reserved.reservation.expires_at == one.expires_at
        assert len(home.ledger().entries()) == 1


def _approve(path: Path, study: str, gate: object, results: object) -> None:
    home = SiteHome.open(path)
    sealed = approvals.proposal(home, study)
    gate.wait()  # type: ignore[attr-defined]
    try:
        decide(home, sealed, "approved", AT)
        results.put("approved")  # type: ignore[attr-defined]
    except RefusalError as error:
        results.put(error.code)  # type: ignore[attr-defined]


def test_two_studies_approved_by_two_processes_at_once_do_not_overrun_the_budget(federation: Federation) -> None:
    home, (one, two) = federation.sites[SITE], studies(federation)
    with home.ledger() as ledger:
        assert ledger.fits(study_events(one, SITE))
        assert ledger.fits(study_events(two, SITE))
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_approve, args=(home.path, sealed.digest, gate, results)) for sealed in (one, two)
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=120) for _ in processes) == ["approved", "budget-exhausted"]
    for process in processes:
        process.join(30)
    assert len(held(home)) == 1
    assert home.ledger().committed() <= 4.0
    decided = [approvals.standing_of(home, sealed.digest, AT) for sealed in (one, two)]
    assert sorted(standing.state for standing in decided) == ["approved", "pending"]  # who was refused has no approval


def test_revoking_gives_free_what_was_not_charged(federation: Federation) -> None:
    home, (one, two) = federation.sites[SITE], studies(federation)
    decide(home, one, "approved", AT)
    with pytest.raises(RefusalError):
        decide(home, two, "approved", AT)
    decide(home, one, "revoked", AT)
    assert held(home) == []
    decide(home, two, "approved", AT)
    assert len(held(home)) == 1


def test_a_stopped_study_is_held_again_when_it_goes_on_and_a_completed_one_is_not(federation: Federation) -> None:
    home = federation.sites[SITE]
    federation.approve(federation.sealed())  # the second study
    site = Site(federation)
    assert isinstance(site.work(), Result)
    rest = held(home)[0].remaining
    assert ended(site, "stopped").state == "approved"
    assert held(home) == []
    assert code(site.work(attempt=2)) == "not-reserved"
    assert isinstance(site.offer(site.sealed), Standing)  # its coordinator launches it again
    assert held(home)[0].remaining == rest
    assert isinstance(site.work(attempt=2), Result)
    ended(site, "completed")
    site.offer(site.sealed)
    assert held(home) == []
    assert code(site.work(attempt=3)) == "not-reserved"


def test_the_run_s_end_gives_the_rest_free_at_every_site(federation: Federation) -> None:
    federation.approve(federation.sealed())
    federation.transport.offline = {"cleveland"}
    manifest = federation.sealed().manifest
    assert manifest.least_sites <= 3
    federation.transport.offline = set()
    federation.run()
    for home in federation.sites.values():
        assert held(home) == []
        told = home.ledger().entries()[-1].what
        assert isinstance(told, Release)
        assert told.reason == "completed"
        assert home.ledger().committed() == home.ledger().spent() > 0


def test_weaker_noise_than_was_declared_is_not_approved(federation: Federation) -> None:
    sealed = federation.sealed()
    entry = sealed.entry(SITE)
    roster = [one if one != entry else one.model_copy(update={"noise_multiplier": entry.noise_multiplier / 2})
              for one in sealed.roster]  # fmt: skip
    weaker = sealed.model_copy(update={"roster": tuple(roster)})
    with pytest.raises(RefusalError, match="own promise") as caught:
        budgets.check_promise(weaker, SITE)
    assert caught.value.code == "budget-exhausted"
    budgets.check_promise(sealed, SITE)


@pytest.mark.parametrize(("patients", "refused"), [(999, False), (1000, True), (5000, True)])
def test_a_lifetime_delta_of_one_in_n_or_more_is_refused(federation: Federation, patients: int, refused: bool) -> None:
    with federation.sites[SITE].ledger() as ledger:
        if not refused:
            budgets.check_delta(ledger, patients)
            return
        with pytest.raises(RefusalError) as caught:
            budgets.check_delta(ledger, patients)
        assert caught.value.code == "policy-delta"


def test_a_delta_above_a_tenth_of_one_in_n_is_warned_about(federation: Federation) -> None:
    with federation.sites[SITE].ledger() as ledger:
        assert budgets.warnings(ledger, federation.sealed(), 100) == []
        said = budgets.warnings(ledger, federation.sealed(), 101)
    assert len(said) == 2  # the study's and the lifetime's
    assert all("1/(10 N)" in line for line in said)


def test_other_patients_need_another_review(federation: Federation, tmp_path: Path) -> None:
    home, sealed = federation.sites[SITE], federation.sealed()
    federation.approve(sealed)
    before = datasets.find(home, sealed.manifest.study.id)
    csv = tmp_path / "fewer.csv"
    csv.write_text("\n".join((heart_folder() / f"{SITE}.csv").read_text().splitlines()[:-1]))
    datasets.register(home, sealed.manifest, csv, heart_folder() / f"{SITE}.mapping.toml", AT)
    after = datasets.find(home, sealed.manifest.study.id)
    assert after.cohort != before.cohort
    site = Site(federation)
    assert code(site.work()) == "data-changed"
    site.decide("approved")
    assert held(home)[0].reservation.cohort == after.cohort
    assert isinstance(site.work(), Result)
