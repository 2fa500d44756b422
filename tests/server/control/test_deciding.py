"""A round's question, answered by a person's command on another machine, over the service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from serving import Served, served

from fedward.server.consulting import question
from fedward.server.lifecycle import Began, Launch
from fedward.server.records import ASKED
from fedward.study.heart import SITES


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Its study runs, and its first attempt has asked whether to wait for va."""
    made = Federation(tmp_path / "federation")
    made.ready(heart_manifest(federation={"stragglers": "ask"}))
    for event in (Launch(), Began()):
        made.store.happened(made.key, event, 0)
    made.store.open_attempt(made.key, 1, 1, "0" * 64, SITES, 0)
    made.store.note(made.key, ASKED, {"round": 1, "attempt": 1, "sites": ["va"], "until": 2_000_000_000}, 0)
    return made


@pytest.fixture
def there(federation: Federation, tmp_path: Path) -> Iterator[Served]:
    with served(federation.home, tmp_path) as made:
        yield made


@pytest.mark.parametrize("command", ["wait", "carry-on"])
def test_who_may_answers_the_question_and_the_record_says_who(
    federation: Federation, there: Served, command: str
) -> None:
    study = federation.store.study(federation.key).study_id
    refused = fedward("coordinator", command, study, "--home", there.give("vera", "viewer"))
    assert refused.code == 4
    assert asked(federation) is None
    carla = there.give("carla", "coordinator")
    assert "va" in fedward("coordinator", "status", study, "--home", carla).out
    good("coordinator", command, study, "--home", carla)
    assert asked(federation) == command
    logged = list(federation.home.audit.entries(0))[-1]
    assert (logged.fields["outcome"], logged.fields["by"]) == (command, "carla")


def test_nobody_answers_what_nobody_asked(federation: Federation, there: Served) -> None:
    federation.store.open_attempt(federation.key, 1, 2, "0" * 64, SITES, 0)  # it has asked nothing
    study = federation.store.study(federation.key).study_id
    refused = fedward("coordinator", "carry-on", study, "--home", there.give("carla", "coordinator"))
    assert (refused.code, "does not ask" in refused.err) == (4, True)


def asked(federation: Federation) -> str | None:
    found = question(federation.store.attempts(federation.key), federation.store.journal(federation.key))
    assert found is not None
    return found.choice
