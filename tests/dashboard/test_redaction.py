"""What a hospital or a viewer gets of a record: no other site's name, reason, time or number, and the sums of all."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import histories
import pytest
from federation import Federation
from visitors import run_of_three

from fedward.dashboard.access import LOCAL, Granted
from fedward.dashboard.record import read
from fedward.dashboard.redaction import OTHER, WITHHELD, redacted, redacted_run, redacted_text, redacted_verdicts
from fedward.dashboard.views import view
from fedward.server.histories import History
from fedward.server.records import AlarmRow, Question
from fedward.server.verdicts import Verdict

SITES = ("cleveland", "hungarian", "switzerland", "va")
STORIES = {
    one.__name__: one
    for one in (
        histories.completed, histories.dropped_out, histories.refused, histories.quorum_missed, histories.restarted,
        histories.alarmed, histories.stopped,
    )
}  # fmt: skip


@pytest.fixture(scope="module", params=STORIES)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    federation = Federation(tmp_path_factory.mktemp("story") / "federation")
    federation.ready(histories.heart_manifest(training={"rounds": histories.ROUNDS}, privacy={"spare_attempts": 4}))
    STORIES[request.param](federation)
    return histories.told(federation)


def hospital(site: str) -> Granted:
    return Granted("hospital", site, 1e9)


def everything(history: History) -> str:
    """All that a page could say of a history, but the manifest, which every hospital signed."""
    study = replace(history.study, manifest="")
    view = history.view.as_json()
    rest = [history.journal, history.alarms, sorted(history.evidence), history.sites, history.asked, history.by_attempt]
    return "\n".join([repr(study), json.dumps(view, default=repr), repr(history.view), *map(repr, rest)])


def named(text: str, site: str) -> bool:
    return re.search(rf"(?<![a-z]){site}(?![a-z])", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("own", SITES)
def test_no_other_site_is_named_anywhere(history: History, own: str) -> None:
    said = everything(redacted(history, hospital(own)))
    assert [site for site in SITES if named(said, site)] == [own]
    assert all(named(everything(history), site) for site in SITES)  # the same look finds them in the whole


def test_a_viewer_gets_no_site_s_name(history: History) -> None:
    said = everything(redacted(history, Granted("viewer", None, 1e9)))
    assert [site for site in SITES if named(said, site)] == []


def test_whoever_sees_everything_gets_the_record_itself(history: History) -> None:
    assert redacted(history, LOCAL) is history
    assert redacted(history, Granted("auditor", None, 1e9)) is history


@pytest.mark.parametrize("own", ["va", "hungarian"])
def test_sums_stay_as_they_are(history: History, own: str) -> None:
    part = redacted(history, hospital(own))
    for name in ("attempt", "round", "outcome", "seconds", "model", "opened_at"):
        assert [getattr(a, name) for a in part.view.attempts] == [getattr(a, name) for a in history.view.attempts]
    for attempt, rows in history.by_attempt.items():
        assert Counter(row.status for row in part.by_attempt[attempt]) == Counter(row.status for row in rows)
    assert part.view.metrics == history.view.metrics
    assert sum(part.view.contributions().values()) == sum(history.view.contributions().values())
    assert part.view.contributions()[own] == history.view.contributions()[own]
    assert [row for row in part.view.statuses if row.site == own] == [r for r in history.view.statuses if r.site == own]
    assert part.manifest == history.manifest
    assert len(part.sites) == len(history.sites)
    assert {k: len(v) for k, v in part.asked.items()} == {k: len(v) for k, v in history.asked.items()}
    assert set(part.evidence) <= {own}


def test_others_rows_have_no_reason_time_or_order_of_their_own(history: History) -> None:
    part = redacted(history, hospital("cleveland"))
    others = [row for row in part.view.statuses if row.site == OTHER]
    assert others
    assert {(row.reason, row.seconds) for row in others} == {("", None)}
    assert {(row.reason, row.at) for row in part.view.standings if row.site == OTHER} == {("", 0)}
    for rows in part.by_attempt.values():
        of_others = [row.status for row in rows if row.site == OTHER]
        assert of_others == sorted(of_others)
    assert part.study.sealed is None
    assert part.study.signature is None


def test_own_alarms_questions_and_unmasking(history: History) -> None:
    ours, theirs = AlarmRow("va", "its ledger went back", 5), AlarmRow("hungarian", "its ledger forked", 6)
    asked = Question(2, 3, ("hungarian", "va"), 7, 8)
    whole = replace(history, alarms=(ours, theirs), view=replace(history.view, questions=(asked,)))
    part = redacted(whole, hospital("va"))
    assert part.alarms == (ours,)
    assert part.view.questions[0].sites == ("va", OTHER)
    assert not {"batch", "unmasking"} & {entry.kind for entry in part.journal}


def test_gates_and_texts(history: History) -> None:
    of_site = Verdict("max_site_drop", "most", 0.05, False, 0.2, 0.1, 0.3, "hungarian", "drop at hungarian is .2")
    of_group = Verdict("max_equalized_odds_gap", "most", 0.2, False, 0.4, 0.3, 0.5, "sex", "sex: 0.4")
    part = redacted_verdicts([of_site, of_group], history, hospital("va"))
    assert part == (replace(of_site, value=None, low=None, high=None, of=OTHER, why=WITHHELD), of_group)
    assert redacted_verdicts([of_site], history, hospital("hungarian")) == (of_site,)
    assert redacted_verdicts([of_site], history, LOCAL) == (of_site,)
    assert redacted_text("Hungarian's disk is full", history, hospital("va")) == WITHHELD
    assert redacted_text("va: disk is full; values lost", history, hospital("va")) == "va: disk is full; values lost"


def test_a_name_within_one_s_own_name_is_no_other_s(history: History) -> None:
    whole = replace(history, study=replace(history.study, reason="va-north answered late"))
    assert redacted(whole, hospital("va-north")).study.reason == "va-north answered late"
    assert redacted(whole, hospital("cleveland")).study.reason == WITHHELD


def test_a_run_s_figures_of_other_hospitals_are_taken_out(tmp_path: Path) -> None:
    record = read(run_of_three(tmp_path / "run"))
    whole = view(record)
    kept, shown = redacted_run(record, whole, hospital("hungarian"))
    assert set(shown.hospitals["hospital"]) == set(shown.gains["hospital"]) == {"hungarian"}
    assert shown.hidden == 2
    said = repr(
        [kept.scores.to_json(), kept.options, kept.summary, *(f.to_json() for f in (shown.models, shown.hospitals))]
    )
    assert not named(said, "cleveland")
    assert not named(said, "switzerland")
    assert named(said, "hungarian")
    assert shown.lead.equals(whole.lead)
    assert shown.curve.equals(whole.curve)
    assert shown.groups.equals(whole.groups)
    assert redacted_run(record, whole, LOCAL) == (record, whole)
    assert redacted_run(record, whole, Granted("viewer", None, 1e9))[1].hospitals.empty
