"""Approvals are known before a launch: who is asked, how often, and what a taken-back or outdated approval does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from federation import Federation, decide, heart_manifest

from fedward.server.approvals import LEAST_S, MOST_S, ask_approvals, ask_every
from fedward.server.lifecycle import Stop
from fedward.study.heart import SITES

DAY_S = 86_400


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("template"))
    manifest = heart_manifest(training={"rounds": 1})
    federation.register(manifest)
    federation.propose(manifest)
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def heard(federation: Federation) -> str:
    """The study's state after its sites were asked."""
    ask_approvals(
        federation.store, federation.transport, federation.clock, federation.home.identity(), federation.said.append
    )
    return federation.store.study(federation.key).state


def test_a_study_is_ready_once_enough_sites_approved_and_not_before(federation: Federation) -> None:
    assert heard(federation) == "proposed"
    federation.approve(federation.sealed(), SITES[:2])
    assert heard(federation) == "proposed"
    federation.approve(federation.sealed(), SITES[2:3])
    assert heard(federation) == "ready"
    decide(federation.sites[SITES[0]], federation.sealed(), "revoked", federation.clock.unix())
    assert heard(federation) == "proposed"


def test_an_approval_of_a_site_that_was_revoked_counts_no_more(federation: Federation) -> None:
    federation.approve(federation.sealed(), SITES[:3])
    assert heard(federation) == "ready"
    federation.store.revoke(SITES[1], "stolen", 1)
    assert heard(federation) == "proposed"


def test_a_site_that_was_away_gets_the_proposal_when_it_is_back(federation: Federation) -> None:
    federation.transport.offline.add("va")
    heard(federation)
    sent = len(federation.transport.sent)
    federation.transport.offline.clear()
    heard(federation)
    assert {site for site, _ in federation.transport.sent[sent:]} == set(SITES)


def test_nobody_is_asked_about_what_is_launched_or_ended(federation: Federation) -> None:
    federation.launch()
    sent = len(federation.transport.sent)
    assert heard(federation) == "proposed"
    federation.store.happened(federation.key, Stop(serving=False), 1)
    assert heard(federation) == "stopped"
    assert len(federation.transport.sent) == sent


def test_questions_are_rarer_as_a_proposal_ages(federation: Federation) -> None:
    study, now = federation.store.study(federation.key), federation.clock.unix()
    study = replace(study, created_at=now, changed_at=now)
    assert [ask_every([study], now + age) for age in (0, 300, 1600, 7200, 90 * DAY_S)] == [
        LEAST_S, LEAST_S, 200.0, MOST_S, MOST_S,
    ]  # fmt: skip
    assert ask_every([study], now + 181 * DAY_S) is None
    older = replace(study, changed_at=now - 7200)
    assert ask_every([older, study], now) == LEAST_S
    assert ask_every([], now) is None
    assert ask_every([replace(study, wish="run")], now) is None
