"""A round's question, answered by a person's command on another machine, over the service."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from loopback import free_ports

from fedward.server.consulting import question
from fedward.server.control.server import ControlServer
from fedward.server.lifecycle import Began, Launch
from fedward.server.operators import Operators
from fedward.server.records import ASKED
from fedward.study.access import request_access
from fedward.study.heart import SITES


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Served to operators; its study runs, and its first attempt has asked whether to wait for va."""
    made = Federation(tmp_path / "federation")
    (port,) = free_ports(1)
    file = made.home.settings_file
    file.write_text(made.home.settings.model_copy(update={"operators_port": port}).model_dump_json())
    made.ready(heart_manifest(federation={"stragglers": "ask"}))
    for event in (Launch(), Began()):
        made.store.happened(made.key, event, 0)
    made.store.open_attempt(made.key, 1, 1, "0" * 64, SITES, 0)
    made.store.note(made.key, ASKED, {"round": 1, "attempt": 1, "sites": ["va"], "until": 2_000_000_000}, 0)
    server = ControlServer(made.home, made.store, logging.getLogger("test-deciding"))
    server.start()
    try:
        yield made
    finally:
        server.stop(1.0)


@pytest.mark.parametrize("command", ["wait", "carry-on"])
def test_who_may_answers_the_question_and_the_record_says_who(
    federation: Federation, tmp_path: Path, command: str
) -> None:
    study = federation.store.study(federation.key).study_id
    refused = fedward("coordinator", command, study, "--home", access(federation, tmp_path, "vera", "viewer"))
    assert refused.code == 4
    assert asked(federation) is None
    carla = access(federation, tmp_path, "carla", "coordinator")
    assert "va" in fedward("coordinator", "status", study, "--home", carla).out
    good("coordinator", command, study, "--home", carla)
    assert asked(federation) == command
    logged = list(federation.home.audit.entries(0))[-1]
    assert (logged.fields["outcome"], logged.fields["by"]) == (command, "carla")


def test_nobody_answers_what_nobody_asked(federation: Federation, tmp_path: Path) -> None:
    federation.store.open_attempt(federation.key, 1, 2, "0" * 64, SITES, 0)  # it has asked nothing
    study = federation.store.study(federation.key).study_id
    refused = fedward("coordinator", "carry-on", study, "--home", access(federation, tmp_path, "carla", "coordinator"))
    assert (refused.code, "does not ask" in refused.err) == (4, True)


def access(federation: Federation, folder: Path, name: str, role: str) -> Path:
    request = request_access(name, folder)
    path = folder / f"{name}.access.json"
    path.write_text(Operators(federation.home).add(request.read_bytes(), role, datetime.now(UTC)).model_dump_json())
    return path


def asked(federation: Federation) -> str | None:
    found = question(federation.store.attempts(federation.key), federation.store.journal(federation.key))
    assert found is not None
    return found.choice
