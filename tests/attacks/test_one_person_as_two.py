"""Attacks on the two-person rule: one person who would launch a study alone, or under words that another agreed to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from serving import Served, code_of, served

from fedward.server import twopersons
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.coordinator import LocalCoordinator
from fedward.server.lifecycle import Stop
from fedward.server.operators import LOCAL, Operators
from fedward.server.seconding import Policy

STUDY = "heart-4-hospitals"
LAUNCH = Policy(two_persons=("launch",), hours=24)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation(tmp_path_factory.mktemp("federation"))
    made.ready(heart_manifest())
    return made


@pytest.fixture
def there(federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A proposed study, whose launch takes two persons; the service is said to run."""
    home = federation.home
    monkeypatch.setattr(LocalCoordinator, "serving", lambda _: True)
    for one in Operators(home).all():
        if not one.removed_at and one.name != LOCAL:
            Operators(home).remove(one.name, 1)
    home.requests_file.unlink(missing_ok=True)
    home.policy_file.write_text(LAUNCH.model_dump_json())
    if federation.store.study(federation.key).wish != "none":
        federation.store.happened(federation.key, Stop(serving=False), 0)
    with served(home, tmp_path) as made:
        yield made


def wish(federation: Federation) -> str:
    return federation.store.study(federation.key).wish


def test_two_persons_launch_a_study(there: Served, federation: Federation) -> None:
    """No attack: the rule lets through what it asks for, once, and the audit log tells of both."""
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    since = federation.home.audit.size
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    assert wish(federation) == "none"
    (waits,) = there.as_("vera", "viewer").waiting()
    assert (waits.action, waits.about, waits.by) == ("launch", STUDY, "anna")
    assert waits.target == federation.sealed().digest
    assert ben.launch(STUDY).wish == "run"
    assert ben.waiting() == []
    told = [(e.kind, e.fields.get("by"), e.fields.get("other")) for e in federation.home.audit.entries(since)]
    assert ("requested", "anna", None) in told
    assert ("request-seconded", "ben", "anna") in told
    assert ("launched", "ben", "anna") in told


def test_the_same_person_asks_twice(there: Served, federation: Federation) -> None:
    anna = there.as_("anna", "coordinator")
    for _ in range(3):
        assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    assert len(anna.waiting()) == 1
    assert wish(federation) == "none"


def test_the_same_person_with_two_certificates(there: Served, federation: Federation) -> None:
    assert code_of(lambda: there.as_("anna", "coordinator").launch(STUDY)) == "second-person-needed"
    assert code_of(lambda: there.again("anna", "coordinator").launch(STUDY)) == "second-person-needed"
    assert wish(federation) == "none"


def test_a_second_person_who_is_made_on_the_spot(there: Served, federation: Federation) -> None:
    """Who may give access gives it to somebody who does not exist, after asking."""
    assert code_of(lambda: there.as_("anna", "coordinator").launch(STUDY)) == "second-person-needed"
    there.give("puppet", "coordinator", datetime.now(UTC) + timedelta(seconds=60))
    assert code_of(lambda: there.as_("puppet", "coordinator").launch(STUDY)) == "second-too-new"
    assert wish(federation) == "none"
    added = [e for e in federation.home.audit.entries() if e.kind == "operator-added" and e.fields["other"] == "puppet"]
    assert str(added[-1].fields["by"]).startswith("local/")


def test_a_person_whose_access_ended_since(there: Served, federation: Federation) -> None:
    """A request of somebody who was shut out is nobody's: whoever asks next is the first."""
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    Operators(there.home).remove("anna", 1)
    assert code_of(lambda: ben.launch(STUDY)) == "second-person-needed"
    assert [one.by for one in ben.waiting()] == ["ben"]
    assert wish(federation) == "none"


@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_a_second_person_who_may_only_look(there: Served, federation: Federation, role: str) -> None:
    assert code_of(lambda: there.as_("anna", "coordinator").launch(STUDY)) == "second-person-needed"
    looker = there.as_("lena", role)  # type: ignore[arg-type]
    assert code_of(lambda: looker.launch(STUDY)) == "role-may-not"
    assert code_of(lambda: looker.withdraw(looker.waiting()[0].reference)) == "role-may-not"
    assert wish(federation) == "none"


def test_a_study_that_was_changed_between_the_two(there: Served, federation: Federation) -> None:
    """Anna agreed to one study. Another version under the same id is another request."""
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    old, first = federation.key, federation.sealed().digest
    try:
        federation.propose(heart_manifest(training={"rounds": 3}))
        assert code_of(lambda: ben.launch(STUDY)) == "second-person-needed"
        assert {one.target for one in ben.waiting()} == {first, federation.sealed().digest}
        assert wish(federation) == "none"
    finally:
        federation.store.happened(federation.key, Stop(serving=False), 0)
        federation.key = old


def test_another_action_is_not_what_was_agreed_to(there: Served, federation: Federation) -> None:
    """A request to launch does not second a release of the same digest."""
    from fedward.server.seconding import Asker

    there.home.policy_file.write_text(Policy(two_persons=("launch", "release")).model_dump_json())
    rule, digest = twopersons.TwoPersons(there.home), federation.sealed().digest
    now = int(time.time())
    for name in ("anna", "ben"):
        there.as_(name, "coordinator")
    assert code_of(lambda: rule.demand("launch", digest, STUDY, Asker("anna", 0), now)) == "second-person-needed"
    assert code_of(lambda: rule.demand("release", digest, STUDY, Asker("ben", 0), now)) == "second-person-needed"
    first = rule.demand("launch", digest, STUDY, Asker("ben", 0), now)
    assert first is not None
    assert first.by == "anna"


def test_an_old_request_is_used_later(there: Served, federation: Federation) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    (waits,) = ben.waiting()
    assert waits.expires_at - waits.at == LAUNCH.hours * 3600
    aged = waits.model_copy(update={"at": waits.at - 24 * 3600, "expires_at": waits.expires_at - 24 * 3600})
    there.home.requests_file.write_text(json.dumps({"requests": [aged.model_dump()]}))
    assert ben.waiting() == []
    assert code_of(lambda: ben.launch(STUDY)) == "second-person-needed"
    assert [one.by for one in ben.waiting()] == ["ben"]
    assert wish(federation) == "none"


def test_a_withdrawn_request_is_used(there: Served, federation: Federation) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    (waits,) = anna.waiting()
    anna.withdraw(waits.reference)
    assert code_of(lambda: anna.withdraw(waits.reference)) == "bad-input"
    assert code_of(lambda: ben.launch(STUDY)) == "second-person-needed"
    assert wish(federation) == "none"


def test_one_agreement_launches_twice(there: Served, federation: Federation) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    assert code_of(lambda: anna.launch(STUDY)) == "second-person-needed"
    ben.launch(STUDY)
    ben.stop(STUDY)
    assert federation.store.study(federation.key).state == "stopped"  # at once: no service runs
    assert code_of(lambda: ben.launch(STUDY)) == "second-person-needed"
    assert wish(federation) == "none"


def test_the_rule_is_taken_away_by_one(there: Served, federation: Federation) -> None:
    anna, ben = there.as_("anna", "coordinator"), there.as_("ben", "coordinator")
    for weaker in (Policy(), Policy(two_persons=("release",)), Policy(two_persons=("launch",), hours=720)):
        assert code_of(lambda weaker=weaker: anna.change_policy(weaker)) == "second-person-needed"
        assert anna.policy() == LAUNCH
    since = federation.home.audit.size
    assert code_of(lambda: ben.change_policy(Policy(hours=5))) == "second-person-needed"  # not what Anna asked for
    ben.change_policy(Policy())
    assert anna.policy() == Policy()
    changed = [e.fields for e in federation.home.audit.entries(since) if e.kind == "policy-changed"]
    assert [(fields["by"], fields["other"]) for fields in changed] == [("ben", "anna")]


def test_a_policy_that_cannot_be_read_lets_nobody_launch(there: Served, federation: Federation) -> None:
    there.home.policy_file.write_text('{"two_persons": [')
    assert code_of(lambda: there.as_("anna", "coordinator").launch(STUDY)) == "bad-input"
    there.home.policy_file.write_text(LAUNCH.model_dump_json())
    there.home.requests_file.write_text("{")
    assert code_of(lambda: there.as_("anna", "coordinator").launch(STUDY)) == "bad-input"
    assert wish(federation) == "none"


@pytest.mark.parametrize(
    "policy",
    [pb.TwoPersonPolicy(two_persons=["fly"], hours=1), pb.TwoPersonPolicy(hours=0), pb.TwoPersonPolicy(hours=1 << 40)],
    ids=str,
)
def test_a_policy_that_is_none_is_refused(there: Served, policy: pb.TwoPersonPolicy) -> None:
    anna = there.as_("anna", "coordinator")
    assert code_of(lambda: anna._ask(anna._stub.ChangePolicy, policy)) == "bad-input"
    assert anna.policy() == LAUNCH


def test_the_person_at_the_machine_is_one(there: Served, federation: Federation) -> None:
    """By commands on the home, and one from another machine; what waits stands in `status` and `requests`."""
    home, access = there.home.path, there.give("anna", "coordinator")
    first = fedward("coordinator", "launch", STUDY, "--home", home)
    assert first.code == 4
    assert "waits for a second operator" in first.err
    assert fedward("coordinator", "launch", STUDY, "--home", home).code == 4
    shown = fedward("coordinator", "status", "--home", home).out
    (waits,) = good("coordinator", "requests", "--home", home)["requests"]
    assert "local asked; waiting for a second operator" in shown.replace("\n", " ")
    assert waits["reference"] in shown
    assert good("coordinator", "launch", STUDY, "--home", access)["wish"] == "run"
    assert good("coordinator", "requests", "--home", home) == {"requests": []}


def test_the_policy_by_commands(there: Served, federation: Federation) -> None:
    there.home.policy_file.unlink()
    home = there.home.path
    assert good("coordinator", "policy", "--home", home) == {"two_persons": [], "hours": 72}
    assert fedward("coordinator", "policy", "--two-persons", "fly", "--home", home).code == 3
    good("coordinator", "policy", "--two-persons", "release,launch", "--hours", 9, "--home", home)
    assert json.loads(there.home.policy_file.read_text())["two_persons"] == ["launch", "release"]
    assert fedward("coordinator", "policy", "--two-persons", "none", "--home", home).code == 4
    (waits,) = good("coordinator", "requests", "--home", home)["requests"]
    good("coordinator", "withdraw", waits["reference"], "--home", home)
    assert good("coordinator", "requests", "--home", home) == {"requests": []}
