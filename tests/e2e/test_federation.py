"""Studies over Flower, end to end: real SuperLink, real TLS, real commands, four warm nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from command import fedward, good
from loopback import Loopback, wait_for

from fedward.client.home import SiteHome
from fedward.server import models as model_files
from fedward.server.home import CoordinatorHome
from fedward.server.store import Store
from fedward.server.views import StudyView
from fedward.study.heart import SITES
from fedward.study.vectors import vector_digest

pytestmark = [pytest.mark.federation, pytest.mark.timeout(480)]


@pytest.fixture(autouse=True)
def _every_node_runs(loopback: Loopback) -> Iterator[None]:
    """A test that failed half-way must not take the others with it."""
    yield
    for site in set(loopback.sites) - set(loopback.nodes):
        loopback.start_node(site)
    loopback.await_connected()


def ready(loopback: Loopback, study_id: str, **changes: dict[str, object]) -> str:
    """A study that every site approved; its digest."""
    digest = loopback.propose(loopback.study(study_id, **changes))
    loopback.approve(digest)
    return digest


def committed(view: StudyView) -> list[int]:
    """The rounds that were committed, in order."""
    return [attempt.round for attempt in view.attempts if attempt.outcome == "committed"]


def assert_fairly_charged(loopback: Loopback, view: StudyView) -> None:
    """No (round, attempt) twice, none that the coordinator did not open, none past the plan."""
    opened = {(attempt.round, attempt.attempt) for attempt in view.attempts}
    for site in SITES:
        charges = loopback.charges(site, view.digest or "")
        assert len(charges) == len(set(charges)), site
        assert set(charges) <= opened, site
        assert len(charges) <= view.rounds + 2, site


def test_study_end_to_end(loopback: Loopback) -> None:
    digest = ready(loopback, "end-to-end")
    loopback.launch(digest)
    view = loopback.wait_ended(digest)

    assert (view.state, view.version) == ("completed", 2), view.reason
    # Rounds 1 and 2 train; the last evaluates the final model.
    assert committed(view) == [1, 2, 3]
    assert view.contributions() == dict.fromkeys(SITES, 2)
    assert {status.status for status in view.statuses} == {"contributed"}
    assert view.model is not None
    model = model_files.load_model(CoordinatorHome.open(loopback.home).models_folder, view.model)
    assert vector_digest(model) == view.model
    assert view.model != view.attempts[0].base
    auroc = view.auroc(version=2)
    assert auroc is not None
    assert auroc.value is not None
    assert 0.5 < auroc.value < 1
    assert {metric.slice for metric in view.metrics} > {"everybody"}
    for site, home in loopback.sites.items():
        assert loopback.charges(site, digest) == [(1, 1), (2, 2)], site
        spent = {study.study_id: study.epsilon for study in SiteHome.open(home).ledger().spent_by_study()}
        assert 0 < spent["end-to-end"] <= 3.0
        assert math.isfinite(spent["end-to-end"])

    shown = fedward("coordinator", "status", "end-to-end", "--home", loopback.home)
    assert shown.code == 0
    assert "completed, round 2 of 2" in shown.out
    again = fedward("coordinator", "launch", "end-to-end", "--home", loopback.home)
    assert again.code == 4
    assert "completed" in again.err


def test_refused_study_fails_by_name_and_goes_on_once_approved(loopback: Loopback) -> None:
    digest = loopback.propose(loopback.study("refused"))
    loopback.approve(digest, ["cleveland", "hungarian"])
    for site in ("switzerland", "va"):
        good("site", "refuse", digest, "--home", loopback.sites[site])
    loopback.launch(digest)
    view = loopback.wait_ended(digest)
    assert view.state == "failed"
    assert "refused by switzerland; refused by va" in view.reason
    assert view.attempts == ()

    loopback.approve(digest, ["switzerland"])
    loopback.launch(digest)
    view = loopback.wait_ended(digest)
    assert (view.state, view.version) == ("completed", 2), view.reason
    assert {(s.status, s.reason) for s in view.statuses if s.site == "va"} == {
        ("absent", "not reachable, or it refused the study")
    }
    assert loopback.charges("va", digest) == []


def test_a_short_study_does_not_wait_for_a_long_one_which_rests_and_goes_on(loopback: Loopback) -> None:
    """Both share the four sites. The long one is then paused, and nobody is asked for it; and resumed."""
    rounds = 150
    long, short = (ready(loopback, name, training={"rounds": n}) for name, n in (("long", rounds), ("short", 2)))
    loopback.launch(long)
    begun = loopback.wait(long, "commits a round", lambda view: view.version >= 1).version
    loopback.launch(short)
    view = loopback.wait_ended(short)
    assert (view.state, view.version) == ("completed", 2), view.reason
    now = loopback.view(long)
    assert now.state == "running", "the long study ended before the short one"
    assert begun < now.version < rounds, "the short study held the long one up"
    good("coordinator", "pause", "long", "--home", loopback.home)
    paused = loopback.wait(long, "rests", lambda view: (view.state, view.wish) == ("paused", "none"))
    assert all(attempt.outcome == "committed" for attempt in paused.attempts)  # none was cut off
    spent = {site: loopback.charges(site, long) for site in SITES}
    assert fedward("coordinator", "launch", "long", "--home", loopback.home).code == 4
    assert loopback.view(long).attempts == paused.attempts
    assert {site: loopback.charges(site, long) for site in SITES} == spent
    good("coordinator", "resume", "long", "--home", loopback.home)
    loopback.wait(long, "goes on", lambda view: view.version > paused.version)
    good("coordinator", "stop", "long", "--home", loopback.home)
    ended = loopback.wait_ended(long)
    assert ended.state == "stopped"
    assert_fairly_charged(loopback, ended)


def test_stopped_study_keeps_its_rounds_and_launch_continues(loopback: Loopback) -> None:
    digest = ready(loopback, "stopped", training={"rounds": 150})
    loopback.launch(digest)
    loopback.wait(digest, "commits a round", lambda view: view.version >= 1)
    good("coordinator", "stop", "stopped", "--home", loopback.home)
    first = loopback.wait_ended(digest)
    assert first.state == "stopped"
    assert 1 <= first.version < 150

    refused = fedward("coordinator", "stop", "stopped", "--home", loopback.home)
    assert refused.code == 4
    assert loopback.view(digest).version == first.version

    loopback.launch(digest)
    loopback.wait(digest, "goes on", lambda view: view.version > first.version)
    good("coordinator", "stop", digest[:12], "--home", loopback.home)
    second = loopback.wait_ended(digest)
    assert second.state == "stopped"
    assert committed(second) == list(range(1, second.version + 1))
    assert [a.attempt for a in second.attempts] == list(range(1, len(second.attempts) + 1))
    assert all(attempt.outcome is not None for attempt in second.attempts)
    assert_fairly_charged(loopback, second)


def test_two_studies_at_once_wait_for_approvals_and_an_unapproved_site_refuses(loopback: Loopback) -> None:
    """Va never decides on the second one: the others go on, and va's refusal is named."""
    rounds = 3
    names, others = ("twin-a", "twin-b"), ("cleveland", "hungarian", "switzerland")
    a, b = (loopback.propose(loopback.study(name, training={"rounds": rounds})) for name in names)
    for digest in (a, b):
        loopback.approve(digest, others[:2])
        loopback.launch(digest)
    for digest in (a, b):  # approved only once both wait, so that their rounds fall into the same seconds
        view = loopback.wait(
            digest,
            "waits",
            lambda v: v.state == "running" and sum(s.state == "approved" for s in v.standings) == 2,
        )
        assert view.attempts == ()
        assert loopback.charges("cleveland", digest) == []
    loopback.approve(a, ["switzerland", "va"])
    loopback.approve(b, ["switzerland"])
    views = [loopback.wait_ended(digest) for digest in (a, b)]

    for view in views:
        assert (view.state, view.version) == ("completed", rounds), view.reason
    assert views[0].contributions() == dict.fromkeys(SITES, rounds)
    assert views[1].contributions() == dict.fromkeys(others, rounds) | {"va": 0}
    assert {site: len(loopback.charges(site, a)) for site in SITES} == dict.fromkeys(SITES, rounds)
    assert {site: len(loopback.charges(site, b)) for site in SITES} == dict.fromkeys(others, rounds) | {"va": 0}
    refusals = [status for status in views[1].statuses if status.site == "va"]
    assert {status.status for status in refusals} == {"refused"}
    assert all("not-approved" in status.reason for status in refusals), refusals
    assert views[0].model != views[1].model
    began = [view.attempts[0].opened_at for view in views]
    ended = [view.attempts[-1].opened_at for view in views]
    assert max(began) <= min(ended), "one study waited for the other to end"


def test_failed_study_names_the_missing_sites_and_launch_continues(loopback: Loopback) -> None:
    rounds = 5
    digest = ready(
        loopback, "relaunched", training={"rounds": rounds}, federation={"deadline": "10s", "max_attempts": 1}
    )
    loopback.launch(digest)
    loopback.wait(digest, "commits a round", lambda view: view.version >= 1)
    for site in ("hungarian", "va"):
        loopback.stop_node(site)
    failed = loopback.wait_ended(digest)
    assert failed.state == "failed", "the study ended before the sites left"
    assert 1 <= failed.version < rounds
    assert "no quorum" in failed.reason
    last = {s.site: s for s in failed.statuses if s.attempt == failed.attempts[-1].attempt}
    for site in ("hungarian", "va"):  # it left before its answer, or after it, and then could not help to open the sum
        status, reason = last[site].status, last[site].reason
        assert status in {"absent", "dropped"} or reason.startswith("in the sum; then no answer at "), last[site]

    for site in ("hungarian", "va"):
        loopback.start_node(site)
    loopback.await_connected()
    loopback.launch(digest)
    view = loopback.wait_ended(digest)
    assert (view.state, view.version) == ("completed", rounds), view.reason
    assert committed(view) == list(range(1, rounds + 2))
    assert [a.attempt for a in view.attempts] == list(range(1, len(view.attempts) + 1))
    # What was committed before stands as it was.
    assert view.attempts[: len(failed.attempts)] == failed.attempts
    assert_fairly_charged(loopback, view)
    store = Store.open(loopback.home / "store.sqlite", read_only=True)
    opened = [entry.data["attempt"] for entry in store.journal(view.key) if entry.kind == "opened"]
    store.close()
    assert opened == sorted(set(opened))


def test_stopping_a_draft_holds_although_its_proposal_is_under_way(loopback: Loopback) -> None:
    from fedward.study.manifest import load

    draft = loopback.coordinator.propose(load(loopback.study("stopped-draft")), ())
    log = loopback.home / "log" / f"study-{draft.key}.log"
    wait_for("its run asks the sites", lambda: log.is_file() and "asking" in log.read_text())
    assert loopback.coordinator.stop("stopped-draft").state == "stopped"
    told = [f"study stopped-draft: {state}" for state in ("stopped", "proposed", "failed")]
    wait_for("its run ends", lambda: any(line.startswith(tuple(told)) for line in loopback.said))
    found = next(view for view in loopback.coordinator.studies() if view.key == draft.key)
    assert (found.state, found.wish) == ("stopped", "none")


def test_the_coordinators_logs_tell_of_no_fault(loopback: Loopback) -> None:
    """After the studies above: no run was taken for dead, no ServerApp's process aborted, nothing was traced back."""
    digest = ready(loopback, "logged")
    loopback.launch(digest)
    loopback.wait_ended(digest)
    logs = {path.name: path.read_text() for path in (loopback.home / "log").iterdir() if path.suffix == ".log"}
    assert "to run" in logs["coordinator.log"]
    for name, text in logs.items():
        for fault in ("Traceback", "Fatal Python error", "ended before its work did", "ended with code"):
            assert fault not in text, f"{name}: {fault}"
