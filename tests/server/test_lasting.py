"""Committed models that are damaged, gone or exchanged: the study goes back to the newest good one, says so, and still ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from histories import told
from observed import asked, charges, outcomes, run, state
from secured import KilledError, Mortal, known_as_approved

from fedward.privacy.errors import IntegrityError, RefusalError, UnreachableError
from fedward.server import models as model_files
from fedward.server.explaining import explain
from fedward.server.lasting import Good, Lasting
from fedward.server.records import Checkpoint
from fedward.study.heart import SITES
from fedward.study.manifest import SealedManifest
from fedward.study.models import build, to_vector
from fedward.study.vectors import vector_digest

ROUNDS = 3
WITHOUT: dict[str, object] = {"mechanism": "none", "epsilon": None, "delta": None}


def template(folder: Path, **privacy: object) -> Federation:
    federation = Federation(folder)
    if privacy:
        for home in federation.sites.values():
            text = home.policy_file.read_text()
            home.policy_file.write_text(text.replace("require_dp = true", "require_dp = false"))
    training = {"rounds": ROUNDS, "server_momentum": 0.9}
    federation.ready(heart_manifest(training=training, privacy={"spare_attempts": 2} | privacy))
    known_as_approved(federation)
    return federation


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return template(tmp_path_factory.mktemp("noised"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study whose numbers carry no noise, so that the same contributors give the same models."""
    return template(tmp_path_factory.mktemp("bare"), **WITHOUT)


@pytest.fixture(scope="module")
def twice(noised: Federation, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Whose coordinator died right after its second commit."""
    federation = noised.copy(tmp_path_factory.mktemp("twice"))
    lived_until(federation, 2)
    return federation


@pytest.fixture
def federation(twice: Federation, tmp_path: Path) -> Federation:
    return twice.copy(tmp_path / "copy")


class DiedError(BaseException):
    """The coordinator's process died here."""


def die_after(attempt: int) -> Callable[[str], None]:
    def hear(text: str) -> None:
        if text.startswith(f"attempt {attempt}: committed"):
            raise DiedError

    return hear


def lived_until(federation: Federation, attempt: int) -> None:
    with pytest.raises(DiedError):
        run(federation, heard=die_after(attempt))


def file_of(federation: Federation, version: int) -> Path:
    found = federation.store.checkpoint(federation.key, version)
    assert found is not None
    return federation.home.models_folder / f"{found.model}.safetensors"


def truncated(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def deleted(path: Path, _other: Path) -> None:
    path.unlink()


def replaced(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def headed(path: Path, _other: Path) -> None:
    """A header that promises more than any memory holds."""
    path.write_bytes((2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:])


DAMAGES = [truncated, emptied, flipped, deleted, replaced, headed]


def lost(federation: Federation) -> list[dict[str, object]]:
    return [entry.data for entry in federation.store.journal(federation.key, "lost")]


def numbers(federation: Federation) -> list[int]:
    return [row.attempt for row in federation.store.attempts(federation.key)]


def check_ended(federation: Federation, *, charged: bool = True) -> None:
    """Every round is committed once, each on the model before it; no number is used twice, no charge is lost or doubled."""
    assert state(federation) == "completed"
    rows = federation.store.attempts(federation.key)
    assert numbers(federation) == list(range(1, len(rows) + 1))
    good = [row for row in rows if row.outcome == "committed"]
    assert [row.round for row in good] == list(range(1, ROUNDS + 2))
    assert [row.base for row in good][1:] == [row.model for row in good][:-1]
    assert (federation.home.models_folder / f"{good[-1].base}.safetensors").is_file()
    for site in SITES:
        made = charges(federation, site)
        assert len(set(made)) == len(made) == charged * sum(row.round <= ROUNDS for row in rows)


def lasting(federation: Federation) -> Lasting:
    study, sealed = federation.store.study(federation.key), federation.sealed()
    assert isinstance(sealed, SealedManifest)
    initial = lambda: to_vector(build(sealed.manifest))  # noqa: E731
    return Lasting(federation.home, federation.store, study, initial, federation.clock.unix, federation.said.append)


def whole(good: Good) -> Checkpoint:
    """The checkpoint that it is of, from the state that it holds."""
    return replace(good.checkpoint, optimiser=model_files.pack_optimiser(good.state))


def checkpoint(federation: Federation, version: int | None = None) -> Checkpoint:
    found = federation.store.checkpoint(federation.key, version)
    assert found is not None
    return found


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_of_the_newest_is_found_and_named(
    federation: Federation, damage: Callable[[Path, Path], None]
) -> None:
    newest, before = checkpoint(federation), checkpoint(federation, 1)
    assert whole(lasting(federation).newest(newest)) == newest
    damage(file_of(federation, 2), file_of(federation, 1))
    good = lasting(federation).newest(newest)
    assert whole(good) == before
    assert vector_digest(good.vector) == before.model
    assert federation.store.checkpoint(federation.key) == before
    assert outcomes(federation) == [(1, "committed"), (2, "lost")]
    why = {deleted: "is gone", replaced: "holds another model", flipped: "holds another model"}.get(
        damage, "is damaged"
    )
    assert str(lost(federation)[0]["lost"][0]["why"]).endswith(why)  # type: ignore[index]
    assert whole(lasting(federation).newest(before)) == before  # and that is all
    assert len(lost(federation)) == 1


@pytest.mark.parametrize("damage", [flipped, deleted], ids=lambda damage: damage.__name__)
def test_a_damaged_newest_model_costs_its_round_says_so_and_the_study_ends(
    federation: Federation, damage: Callable[[Path, Path], None]
) -> None:
    newest = file_of(federation, 2)
    damage(newest, file_of(federation, 1))
    run(federation)
    check_ended(federation)
    assert outcomes(federation) == [(1, "committed"), (2, "lost"), (2, "committed"), (3, "committed"), (4, "committed")]
    assert [(entry["kept"], [one["version"] for one in entry["lost"]]) for entry in lost(federation)] == [(1, [2])]  # type: ignore[union-attr]
    assert newest.with_name(f"{newest.name}.damaged").exists() == (damage is not deleted)
    entries = [entry.fields for entry in federation.home.audit.entries() if entry.kind == "rounds-lost"]
    assert [(entry["round"], entry["count"], entry["model"]) for entry in entries] == [(1, 1, newest.stem)]
    assert any(text.startswith("ALARM: the file of the model") for text in federation.said)
    explained = explain(told(federation))
    assert [event.kind for event in explained.events if "ALARM" in event.words] == ["alarm"]
    assert any("find out what damaged" in step.do for step in explained.steps)
    view = told(federation).view
    assert view.contributions() == dict.fromkeys(SITES, ROUNDS)  # the lost round is no contribution
    assert {
        one.site: one.rounds for one in federation.store.contributions(federation.key, ROUNDS)
    } == view.contributions()


def test_it_goes_back_over_every_damaged_one_to_the_newest_good_one(federation: Federation) -> None:
    lived_until(federation, 3)
    for version in (3, 2):
        flipped(file_of(federation, version), Path())
    run(federation)
    check_ended(federation)
    assert outcomes(federation)[:3] == [(1, "committed"), (2, "lost"), (3, "lost")]
    assert federation.store.attempts(federation.key)[3].base == federation.store.attempts(federation.key)[0].model
    assert [one["version"] for one in lost(federation)[0]["lost"]] == [3, 2]  # type: ignore[attr-defined]


def test_a_model_that_is_damaged_while_the_run_lives_is_found_before_the_next_round(federation: Federation) -> None:
    done: list[str] = []

    def hear(text: str) -> None:
        if text.startswith("attempt 3: committed") and not done:
            done.append(text)
            truncated(file_of(federation, 3), Path())

    run(federation, heard=hear)
    check_ended(federation)
    assert outcomes(federation)[2:4] == [(3, "lost"), (3, "committed")]


def test_the_last_model_is_found_damaged_before_it_is_tested(federation: Federation) -> None:
    lived_until(federation, 4)  # the test of the last model
    deleted(file_of(federation, 3), Path())
    run(federation)
    check_ended(federation)
    assert outcomes(federation)[2:] == [(3, "lost"), (4, "lost"), (3, "committed"), (4, "committed")]


def test_the_initial_model_is_made_again(federation: Federation) -> None:
    for version in (2, 1):
        deleted(file_of(federation, version), Path())
    file_of(federation, 0).write_bytes(b"no model")
    good = lasting(federation).newest(checkpoint(federation))
    assert whole(good) == checkpoint(federation, 0)
    assert vector_digest(good.vector) == good.checkpoint.model
    assert [one["version"] for one in lost(federation)[0]["lost"]] == [2, 1]  # type: ignore[attr-defined]
    file_of(federation, 0).write_bytes(b"no model")
    assert whole(lasting(federation).newest(whole(good))) == whole(good)
    assert len(lost(federation)) == 1  # the second time nothing was lost


def test_without_any_good_model_the_study_fails_by_name_and_goes_on_when_the_files_are_back(
    federation: Federation, tmp_path: Path
) -> None:
    models = federation.home.models_folder
    models.rename(tmp_path / "kept")
    with pytest.raises(IntegrityError) as caught:
        run(federation)
    assert caught.value.code == "no-good-model"
    assert str(models) in (caught.value.remedy or "")
    assert (state(federation), lost(federation)) == ("failed", [])
    assert explain(told(federation)).failure == "no-good-model"
    (tmp_path / "kept").rename(models)
    run(federation)
    check_ended(federation)
    assert {outcome for _, outcome in outcomes(federation)} == {"committed"}  # nothing was lost


def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, held = Path.read_bytes, file_of(federation, 2)

    def read(path: Path) -> bytes:
        if path == held:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(UnreachableError, match="cannot be read now"):
        run(federation)
    assert (state(federation), lost(federation)) == ("running", [])  # another run tries again
    monkeypatch.undo()
    assert lasting(federation).newest(checkpoint(federation)).checkpoint.version == 2


def test_planned_attempts_that_lost_rounds_used_up_are_named(noised: Federation, tmp_path: Path) -> None:
    federation = noised.copy(tmp_path / "copy")
    planned = federation.sealed().manifest.planned_attempts
    for attempt in range(2, planned + 1):
        lived_until(federation, attempt)
        deleted(file_of(federation, 2), Path())
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "plan-used-up"
    assert caught.value.got == f"{planned}, {planned - 1} of them in rounds whose models were lost"
    assert all(len(charges(federation, site)) == planned for site in SITES)  # what was charged stays charged


def test_un_noised_rounds_that_are_done_again_give_the_same_models(bare: Federation, tmp_path: Path) -> None:
    undisturbed = bare.copy(tmp_path / "undisturbed")
    run(undisturbed)
    models = [row.model for row in undisturbed.store.attempts(undisturbed.key)]
    federation = bare.copy(tmp_path / "disturbed")
    lived_until(federation, 2)
    flipped(file_of(federation, 2), Path())
    run(federation)
    check_ended(federation, charged=False)
    rows = federation.store.attempts(federation.key)
    assert [row.model for row in rows if row.outcome == "committed"] == models
    assert rows[1].model == rows[2].model  # written anew under the name that the damaged file had


@pytest.mark.parametrize(("call", "after"), [("lose", False), ("lose", True), ("open_attempt", False)])
def test_killed_while_it_goes_back_it_goes_back_all_the_same(federation: Federation, call: str, after: bool) -> None:
    flipped(file_of(federation, 2), Path())
    with pytest.raises(KilledError):
        run(federation, store=Mortal(federation.store, frozenset({call}), 1, after=after))
    run(federation)
    check_ended(federation)
    assert len(lost(federation)) == 1
    told_twice = (call, after) == ("lose", False)
    assert [entry.kind for entry in federation.home.audit.entries()].count("rounds-lost") == 1 + told_twice


# --- what the journal tells --------------------------------------------------------------------------------------------


def test_the_journal_names_run_round_attempt_base_updates_and_optimiser(federation: Federation) -> None:
    run(federation)
    journal = federation.store.journal(federation.key)
    opened = [entry.data for entry in journal if entry.kind == "opened"]
    assert [entry["run"] for entry in opened] == [1, 1, 2, 2]
    closed = {entry.data["attempt"]: entry.data for entry in journal if entry.kind == "closed"}
    every = [one for data in closed.values() for one in data["updates"].values()]
    assert len(set(every)) == len(every) == len(SITES) * (ROUNDS + 1)  # no reply is in two sums
    assert all(set(data["updates"]) == set(SITES) and len(data["optimiser"]) == 64 for data in closed.values())
    assert {request.attempt for _, request in asked(federation)} == {3, 4}
