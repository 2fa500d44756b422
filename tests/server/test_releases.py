"""Models become releases by their gates or by two persons' signatures, are rolled back, and can be checked by anyone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from serving import Served, code_of, served

from fedward.privacy.errors import FedwardError
from fedward.server.control.roles import Role
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.readings import history
from fedward.server.records import in_force
from fedward.server.seconding import Policy
from fedward.server.store import Store
from fedward.server.verdicts import failing
from fedward.study.releases import check_release

STUDY = "heart-4-hospitals"
WHY = "The gates were held in all four hospitals."
OVERRIDE = "Used for research alone, in a trial that looks for this very gap."
HELD: dict[str, object] = {"min_auroc": 0.5, "max_site_drop": None, "max_equalized_odds_gap": None}


def trained(folder: Path, gates: dict[str, object]) -> Federation:
    """A completed study of two rounds, its counts without noise."""
    made = Federation(folder)
    made.ready(heart_manifest(training={"rounds": 2}, gates=gates))
    made.run()
    return made


@pytest.fixture(scope="module")
def held_(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return trained(tmp_path_factory.mktemp("held"), HELD)


@pytest.fixture(scope="module")
def missed_(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return trained(tmp_path_factory.mktemp("missed"), HELD | {"min_auroc": 0.999})


@pytest.fixture
def held(held_: Federation, tmp_path: Path) -> Iterator[Served]:
    copy = held_.copy(tmp_path / "home")
    (tmp_path / "people").mkdir()
    with served(copy.home, tmp_path / "people") as made:
        yield made
    copy.store.close()


@pytest.fixture
def missed(missed_: Federation, tmp_path: Path) -> Iterator[Served]:
    copy = missed_.copy(tmp_path / "home")
    (tmp_path / "people").mkdir()
    with served(copy.home, tmp_path / "people") as made:
        yield made
    copy.store.close()


def told(home: CoordinatorHome, *kinds: str) -> list[dict[str, object]]:
    return [{"kind": one.kind, **one.fields} for one in home.audit.entries() if one.kind in kinds]


def test_the_last_model_is_judged_at_the_end_and_both_records_say_so(held_: Federation, missed_: Federation) -> None:
    for federation, outcome, count in ((held_, "held", 0), (missed_, "missed", 1)):
        (entry,) = told(federation.home, "gates-judged")
        assert (entry["outcome"], entry["count"], entry["study"]) == (outcome, count, federation.sealed().digest)
        (judged,) = federation.store.journal(federation.key, "gates")
        view = history(federation.store, federation.store.study(federation.key)).view
        assert [why for _, why in judged.data["missed"]] == list(view.not_releasable)
        assert bool(view.not_releasable) is (outcome == "missed")


def test_a_model_that_held_its_gates_is_released_signed_and_listed(held: Served) -> None:
    anna = held.as_("anna", "coordinator")
    made = anna.release(STUDY, WHY)
    said = check_release(made.statement, made.signature, [held.home.identity().public])
    view = anna.status(STUDY)
    assert (made.number, made.model, made.version) == (1, view.model, 2)
    assert (said.by, said.other, said.reason, said.study, said.model) == ("anna", None, WHY, view.digest, view.model)
    assert [gate.gate for gate in said.gates] == ["min_auroc", "participation"]
    area = view.auroc(2)
    assert area is not None
    assert said.gates[0].value == area.value
    assert anna.releases() == anna.releases(STUDY) == [made]
    (entry,) = told(held.home, "release")
    assert (entry["model"], entry["by"], entry["words"], entry["round"]) == (made.model, "anna", WHY, 2)
    assert code_of(lambda: anna.release(STUDY, WHY)) == "already-released"
    assert len(told(held.home, "release")) == 1


def test_a_model_that_missed_a_gate_is_kept_with_the_gate_named(missed: Served) -> None:
    anna = missed.as_("anna", "coordinator")
    assert failing(anna.gates(STUDY).verdicts) == anna.gates(STUDY).missed
    with pytest.raises(FedwardError) as refused:
        anna.release(STUDY, WHY)
    assert refused.value.code == "gates-missed"
    assert "AUROC is" in (refused.value.got or "")
    assert "must be at least 0.999" in (refused.value.got or "")
    assert anna.releases() == []
    assert anna.status(STUDY).model is not None


def test_two_persons_override_a_gate_and_sign_why(missed: Served) -> None:
    anna, ben = missed.as_("anna", "coordinator"), missed.as_("ben", "coordinator")
    asked = anna.override(STUDY, OVERRIDE)
    assert code_of(lambda: anna.release(STUDY, OVERRIDE, anna.sign(asked))) == "second-person-needed"
    assert anna.releases() == []
    (waits,) = ben.waiting()
    assert (waits.action, waits.by, waits.override) == ("override", "anna", asked)
    assert ben.gates(STUDY).waiting == waits
    second = ben.override(STUDY, "")
    assert second == asked
    made = ben.release(STUDY, "", ben.sign(second))
    said = check_release(made.statement, made.signature)
    assert said.override == asked
    assert [one.by for one in said.signatures] == ["anna", "ben"]
    assert (said.by, said.other, said.reason) == ("ben", "anna", OVERRIDE)
    signed = told(missed.home, "override-signed")
    assert [(one["by"], one["words"], one["digest"]) for one in signed] == [
        ("anna", OVERRIDE, asked.digest),
        ("ben", OVERRIDE, asked.digest),
    ]
    assert [one["signature"] for one in signed] == [one.signature for one in said.signatures]
    (entry,) = told(missed.home, "release")
    assert (entry["by"], entry["other"], entry["words"]) == ("ben", "anna", OVERRIDE)
    assert ben.waiting() == []


def test_where_the_policy_asks_for_two_a_release_takes_two(held: Served) -> None:
    held.home.policy_file.write_text(Policy(two_persons=("release",), hours=24).model_dump_json())
    anna, ben = held.as_("anna", "coordinator"), held.as_("ben", "coordinator")
    assert code_of(lambda: anna.release(STUDY, WHY)) == "second-person-needed"
    made = ben.release(STUDY, WHY)
    assert (made.by, check_release(made.statement, made.signature).other) == ("ben", "anna")


def test_a_rollback_restores_the_release_before_it(held: Served, held_: Federation) -> None:
    anna = held.as_("anna", "coordinator")
    assert code_of(lambda: anna.rollback(STUDY, WHY)) == "nothing-released"
    first = anna.release(STUDY, WHY)
    store = held.home.open_store()
    # A later version of the study: another model under the same id.
    store.add_release(STUDY, lambda number: replace(first, number=number, model="e" * 64), 5)
    store.close()
    ended, current = anna.rollback(STUDY, "The second one was made of damaged data.")
    assert (ended.number, ended.withdrawn_by, ended.withdrawn_why) == (
        2,
        "anna",
        "The second one was made of damaged data.",
    )
    assert current == first
    assert in_force(anna.releases(STUDY)) == first
    ended, current = anna.rollback(STUDY, "This one is no better than that.")
    assert (ended.number, current) == (1, None)
    entries = told(held.home, "rolled-back")
    assert [one["words"] for one in entries] == [
        "The second one was made of damaged data.",
        "This one is no better than that.",
    ]
    assert [one.number for one in anna.releases(STUDY)] == [1, 2]
    again = anna.release(STUDY, WHY)
    assert (again.number, in_force(anna.releases(STUDY))) == (3, again)


def test_a_study_that_has_not_ended_or_trained_nothing_releases_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(training={"rounds": 2}, gates=HELD))
    local = LocalCoordinator(federation.home.path)
    assert code_of(lambda: local.release(STUDY, WHY)) == "not-ended"
    local.stop(STUDY)
    assert code_of(lambda: local.release(STUDY, WHY)) == "nothing-trained"
    assert not local.gates(STUDY).verdicts[-1].holds
    local.close()


@pytest.mark.parametrize("reason", ["", "too short", "x" * 501, "two lines\nof a reason", " spaces around it "])
def test_a_release_says_why_in_a_line(held: Served, reason: str) -> None:
    local = LocalCoordinator(held.home.path)
    assert code_of(lambda: local.release(STUDY, reason)) == "bad-reason"
    assert local.releases() == []
    local.close()


def test_nothing_to_override_where_every_gate_holds(held: Served) -> None:
    anna = held.as_("anna", "coordinator")
    assert code_of(lambda: anna.override(STUDY, OVERRIDE)) == "usage"


def test_a_crash_between_the_audit_log_and_the_record_releases_nothing(
    held: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalCoordinator(held.home.path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_release", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            local.release(STUDY, WHY)
    assert local.releases() == []
    assert local.release(STUDY, WHY).number == 1
    local.close()


def test_the_commands(missed: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two persons type them, where they work."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    anna, ben = (missed.give(name, "coordinator") for name in ("anna", "ben"))
    judged = fedward("coordinator", "gates", STUDY, "--home", anna, "--json")
    assert judged.code == 4
    assert [(one["gate"], one["holds"]) for one in judged.json["gates"]] == [
        ("min_auroc", False),
        ("participation", True),
    ]
    shown = fedward("coordinator", "gates", STUDY, "--home", anna)
    assert shown.code == 4
    assert "missed: AUROC is" in shown.out
    release = ("coordinator", "release", STUDY, "--override")
    first = fedward(*release, "--reason", OVERRIDE, "--yes", "--home", anna)
    assert first.code == 4
    assert "waits for a second operator" in first.err
    unsure = fedward(*release, "--home", ben)
    assert unsure.code == 2
    assert OVERRIDE in unsure.out
    assert "MISSED" not in unsure.out
    made = good(*release, "--yes", "--home", ben)
    assert (made["number"], made["signed_by"], made["reason"]) == (1, ["anna", "ben"], OVERRIDE)
    file = tmp_path / "release.json"
    listed = good("coordinator", "releases", STUDY, "--save", file, "--home", anna)
    assert [one["number"] for one in listed["releases"]] == [1]
    table = fedward("coordinator", "releases", "--home", anna)
    assert "overridden by anna and ben" in table.out
    fingerprint = good("audit", "release", file)["coordinator_fingerprint"]
    checked = good("audit", "release", file, "--fingerprint", fingerprint)
    assert (checked["holds"], checked["fingerprint_compared"], checked["model"]) == (True, True, made["model"])
    model = missed.home.models_folder / f"{made['model']}.safetensors"
    assert good("audit", "release", file, "--model", model)["model_compared"]
    other = next(one for one in missed.home.models_folder.glob("*.safetensors") if one != model)
    assert fedward("audit", "release", file, "--model", other).code == 5
    assert fedward("audit", "release", file, "--fingerprint", "0" * 64).code == 5
    said = fedward("audit", "release", file)
    assert "anna and ben signed the reason" in said.out
    back = good("coordinator", "rollback", STUDY, "--reason", "Withdrawn after the trial.", "--home", ben)
    assert (back["ended"]["number"], back["current"]) == (1, None)
    again = fedward("coordinator", "releases", STUDY, "--save", tmp_path / "none.json", "--home", anna)
    assert again.code == 2
    assert json.loads(file.read_text())["signature"] == made["signature"]


def test_roles_that_only_look_see_releases_and_make_none(held: Served) -> None:
    made = held.as_("anna", "coordinator").release(STUDY, WHY)
    roles: tuple[Role, ...] = ("viewer", "auditor")
    for who in [held.as_(role, role) for role in roles]:
        assert who.releases(STUDY) == [made]
        assert who.gates(STUDY).missed == ()
        assert code_of(partial(who.rollback, STUDY, WHY)) == "role-may-not"
        assert code_of(partial(who.release, STUDY, WHY)) == "role-may-not"
