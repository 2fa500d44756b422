"""A study explained: on real histories, each with its own misfortune, the words say what happened, at whom, and what is next."""

from __future__ import annotations

from pathlib import Path

import histories
import pytest
from federation import Federation, undecide
from histories import ROUNDS, told
from hypothesis import given
from hypothesis import strategies as st

from fedward.cli.explanations import explanations
from fedward.cli.runbook import sections
from fedward.server import explaining
from fedward.server.causes import OWN, of_reason
from fedward.server.explaining import Explained
from fedward.server.histories import History
from fedward.server.lifecycle import PLAN_USED_UP, Failed
from fedward.study.codes import CODES
from fedward.study.heart import SITES


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return histories.template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def explain(history: History, *, serving: bool | None = None) -> Explained:
    """A study explained; the runbook has a section for whatever it names."""
    found = explaining.explain(history, serving=serving)
    assert [title for title in found.runbook if title not in sections() and title not in explanations()] == []
    return found


def words(found: Explained) -> list[str]:
    return [event.words for event in found.events]


def named(found: Explained, site: str) -> dict[str, int]:
    """By cause: how often it kept a site out."""
    story = next(story for story in found.sites if story.site == site)
    return {counted.cause.name: counted.times for counted in story.causes}


def test_equal_rounds_of_a_study_without_trouble_are_one_line(federation: Federation) -> None:
    histories.completed(federation)
    found = explain(told(federation))
    assert (found.state, found.failure, found.committed) == ("completed", None, ROUNDS)
    assert found.runbook == ("state completed",)
    lines = words(found)
    assert [one.partition(" (")[0] for one in (*lines[-4:-2], lines[-1])] == [
        "rounds 1–3: committed by all 4", "test of the last model: committed by all 4", "completed: 3 rounds committed",
    ]  # fmt: skip
    assert lines[-2] == f"the last model missed its gates: {'; '.join(found.not_releasable)}"
    assert found.steps[0].run[-1] == "fedward coordinator gates heart-4-hospitals"
    assert all(
        (story.contributed, story.committed, story.longest, story.now) == (3, 3, None, None) for story in found.sites
    )
    assert [step.who for step in found.steps] == ["nobody"]


def test_a_site_that_left_is_named_with_its_reason_and_its_absence(federation: Federation) -> None:
    histories.dropped_out(federation)
    found = explain(told(federation))
    lines = words(found)
    assert any(line.startswith("round 1: committed by all 4") for line in lines)
    assert any(
        line.startswith("rounds 2–3: committed by 3 of 4; va absent: not reachable when the attempt began")
        for line in lines
    )
    story = next(story for story in found.sites if story.site == "va")
    assert (story.contributed, story.committed) == (1, 3)
    assert story.longest is not None
    assert (story.longest.attempts, story.longest.first_round, story.longest.last_round) == (3, 2, 4)
    assert story.last_seen is not None
    assert story.last_seen < story.longest.since
    assert named(found, "va") == {"not-there": 3}
    assert named(found, "hungarian") == {}


def test_two_short_absences_are_no_long_one(federation: Federation) -> None:
    histories.rejoined(federation)
    found = explain(told(federation))
    story = next(story for story in found.sites if story.site == "va")
    assert (story.contributed, named(found, "va")) == (2, {"not-there": 2})
    assert story.longest is not None
    assert (story.longest.attempts, story.longest.first_round, story.longest.last_round) == (1, 2, 2)


def test_refusals_of_a_node_and_of_people_are_told_apart(federation: Federation) -> None:
    histories.refused(federation)
    found = explain(told(federation))
    assert (found.state, found.failure) == ("failed", "quorum-missed")
    assert named(found, "va") == {"policy-epsilon": 3}
    assert found.runbook[-3:] == ("reason said-no", "policy-epsilon", "standing refused")
    assert named(found, "cleveland") == {"said-no": 3}
    line = next(
        line
        for line in words(found)
        if line.startswith("round 1: 3 attempts failed: 2 hospitals answered, and it needs 3")
    )
    assert "va refused: the study's ε is above what the site's policy allows [policy-epsilon]" in line
    assert [(step.who, step.sites) for step in found.steps] == [
        ("the hospital", ("cleveland",)), ("the hospital", ("va",)), ("the coordinator", ()),
    ]  # fmt: skip


def test_a_missed_quorum_blames_who_was_away_and_not_who_was_there(federation: Federation) -> None:
    histories.quorum_missed(federation)
    found = explain(told(federation))
    assert found.failure == "quorum-missed"
    assert found.runbook == (
        "state failed", "failure quorum-missed", "outcome quorum-missed", "status absent", "reason not-there", "reason not-asked",
    )  # fmt: skip
    assert found.why.startswith("in each of 3 attempts too few hospitals took part in round 2")
    assert named(found, "va") == named(found, "cleveland") == {"not-there": 3}
    assert named(found, "hungarian") == named(found, "switzerland") == {"not-asked": 3}
    assert next(story for story in found.sites if story.site == "hungarian").longest is None
    assert found.steps[0].sites == ("cleveland", "va")
    assert found.steps[-1].run == ("fedward coordinator launch heart-4-hospitals",)
    assert "goes on with round 2 (1 of 3 rounds are kept)" in found.steps[-1].do


def test_a_restart_is_told_and_nobody_is_blamed_for_it(federation: Federation) -> None:
    histories.restarted(federation)
    found = explain(told(federation))
    lines = words(found)
    cut = lines.index("round 2: cut off: the coordinator stopped during this attempt")
    assert lines[cut + 1].startswith("the coordinator's program began anew")
    assert lines[cut + 2].startswith("rounds 2–3: committed by all 4")
    assert all(named(found, site) == {"interrupted": 1} for site in SITES)
    assert all(story.longest is None and story.now is None for story in found.sites)


def test_an_alarm_is_told_where_it_came_and_who_must_act(federation: Federation) -> None:
    histories.alarmed(federation)
    found = explain(told(federation))
    at = next(n for n, line in enumerate(words(found)) if line.startswith("ALARM about va: its ledger went back"))
    assert words(found)[at - 1].startswith("round 1: ")
    assert named(found, "va") == {"records-alarm": 3}
    assert found.runbook[-1] == "alarm ledger-went-back"
    assert found.steps[0].run == ("fedward coordinator clear-alarm va --by NAME --reason TEXT",)


def test_a_stopped_study_says_what_is_kept_and_how_it_goes_on(federation: Federation) -> None:
    histories.stopped(federation)
    found = explain(told(federation))
    assert words(found)[-2:] == ["a person asked to stop it", "stopped"]
    assert found.why == "a person stopped it; 1 of 3 rounds are committed"
    assert "round 2" in found.steps[-1].do


def test_approvals_that_are_missing_are_asked_for_by_name(federation: Federation) -> None:
    found = explain(told(federation))
    assert found.steps[0].sites == SITES
    assert found.steps[0].run[1] == f"fedward site approve {(found.digest or '')[:12]}"
    for site in ("va", "cleveland"):
        undecide(federation.sites[site])
    federation.clock.sleep = lambda _: setattr(federation.clock, "elapsed", federation.clock.elapsed + 300_000)  # type: ignore[method-assign]
    histories.lived(federation)
    found = explain(told(federation))
    assert found.failure == "not-approved"
    assert found.steps[0].sites == ("cleveland", "va")


def test_attempts_that_are_used_up_lead_to_a_clone(federation: Federation) -> None:
    federation.launch()
    words = "the planned attempts are used up. Expected 7 with the spare ones."
    federation.store.happened(federation.key, Failed(words, PLAN_USED_UP), 0)
    found = explain(told(federation))
    assert (found.state, found.failure) == ("budget-exhausted", PLAN_USED_UP)
    assert found.steps[-1].run[0].startswith("fedward coordinator clone heart-4-hospitals")


def test_a_launched_study_is_not_asked_to_be_launched_before_the_service_has_begun(federation: Federation) -> None:
    federation.launch()
    found = explain(told(federation), serving=True)
    assert found.why.startswith("it is launched, and the service is about to begin")
    assert [command for step in found.steps for command in step.run if " launch " in command] == []


def test_a_service_that_does_not_run_is_the_first_thing_to_mend(federation: Federation) -> None:
    federation.launch()
    assert explain(told(federation), serving=False).steps[0].run == ("fedward coordinator start",)
    assert all("start" not in step.run for step in explain(told(federation), serving=True).steps)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("va refused: policy-epsilon (ask va about 0123456789ab)", "policy-epsilon"),
        ("left out of the batch: va refused: no-data (ask va about 0123456789ab)", "no-data"),
        ("va refused: false-share, blaming hungarian (ask va about 0123456789ab)", "false-share"),
        ("refused: no-data (reference 0123456789ab in its log)", "no-data"),
        ("unreachable: offline", "lost"),
        ("left out of the batch: unreachable: offline", "lost"),
        ("unreachable: ledger alarm: its ledger went back", "records-alarm"),
        ("no answer: deadline passed", "no-answer"),
        ("no answer: others were waiting", "too-slow"),
        ("not-finite: the update is not finite", "answer-refused"),
        ("too few patients: it declares 10, the study asks for at least 20", "too-few-patients"),
        ("the site's shares were false", "other"),
    ],
)
def test_the_record_s_words_lead_to_a_cause(reason: str, name: str) -> None:
    assert of_reason(reason).name == name


@given(
    reason=st.one_of(
        st.text(max_size=80), st.sampled_from(sorted(CODES)).map(lambda code: f"va refused: {code} (ask va)")
    )
)
def test_every_reason_has_a_cause_with_words(reason: str) -> None:
    cause = of_reason(reason)
    assert cause.name in OWN or (cause.is_code and cause.name in CODES)
    assert cause.means
