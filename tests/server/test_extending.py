"""A version that goes on from an earlier one's model: approved and paid anew, and held to the model that was approved."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from observed import charges, outcomes, run, state

from fedward.privacy.errors import InputError, RefusalError
from fedward.server import models as model_files
from fedward.server.coordinator import LocalCoordinator
from fedward.study.drafts import continued
from fedward.study.heart import SITES
from fedward.study.manifest import Manifest, load
from fedward.study.terms import privacy_words


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study whose only round is committed."""
    federation = Federation(tmp_path_factory.mktemp("done"))
    federation.ready(heart_manifest(training={"rounds": 1}))
    run(federation)
    assert state(federation) == "completed"
    return federation


@pytest.fixture
def federation(done: Federation, tmp_path: Path) -> Federation:
    return done.copy(tmp_path / "copy")


def extended(federation: Federation, out: Path, *more: object) -> Manifest:
    good("coordinator", "extend", "heart-4-hospitals", "--out", out, *more, "--home", federation.home.path)
    return load(out)


def test_a_version_goes_on_from_the_last_model_and_is_paid_beside_it(federation: Federation, tmp_path: Path) -> None:
    first, last = federation.key, federation.store.checkpoint(federation.key)
    assert last is not None
    spent = {site: home.ledger().spent() for site, home in federation.sites.items()}
    before = {site: charges(federation, site) for site in SITES}
    manifest = extended(federation, tmp_path / "more.toml", "--rounds", 2, "--spare-attempts", 5)
    assert (manifest.model.start, manifest.training.rounds, manifest.privacy.spare_attempts) == (last.model, 2, 5)
    assert "beside this one" in privacy_words(manifest)
    federation.transport.sent.clear()
    sealed = federation.propose(manifest)
    assert sealed.digest != federation.store.study(first).digest
    assert federation.store.study(first).state == "completed"  # what was approved is as it was
    federation.approve(sealed)
    run(federation)
    assert (state(federation), outcomes(federation)) == (
        "completed",
        [(1, "committed"), (2, "committed"), (3, "committed")],
    )
    assert federation.store.attempts(federation.key)[0].base == last.model
    for site, home in federation.sites.items():
        assert home.ledger().spent() > spent[site]
        assert len(charges(federation, site)) == len(before[site]) + 2


def test_a_node_takes_no_other_model_for_the_first_round_than_was_approved(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.approve(federation.propose(extended(federation, tmp_path / "more.toml", "--rounds", 1)))
    monkeypatch.setattr(
        "fedward.server.running.load_start",
        lambda folder, _manifest, start: model_files.load_model(folder, start) + 1,
    )
    with pytest.raises(RefusalError, match="no quorum"):
        run(federation)
    said = federation.store.statuses(federation.key)
    assert {row.status for row in said} <= {"refused", "dropped"}  # the others' answers were not waited for any more
    assert {row.reason for row in said if row.status == "refused" and "wrong-base" not in row.reason} == set()
    assert sum(row.status == "refused" for row in said) >= 2
    assert len(charges(federation, "va")) == 1  # of the version before


def test_what_is_not_to_be_extended_is_refused_by_name(federation: Federation, tmp_path: Path) -> None:
    out, home = tmp_path / "more.toml", federation.home.path
    refused = fedward("coordinator", "extend", "heart-4-hospitals", "--out", out, "--home", home)
    assert refused.code == 2
    assert "--rounds" in refused.err  # none is left
    federation.store.create_study("new", heart_manifest(study={"id": "new"}).model_dump_json(), SITES, 0)
    assert "under way" in fedward("coordinator", "extend", "new", "--out", out, "--home", home).err
    assert not out.exists()


@pytest.mark.parametrize("start", ["0" * 64, "other"])
def test_a_start_that_is_no_model_of_this_study_is_refused_before_anybody_is_asked(
    federation: Federation, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if start == "other":
        last = federation.store.checkpoint(federation.key)
        assert last is not None
        vector = model_files.load_model(federation.home.models_folder, last.model)
        start = model_files.save_model(federation.home.models_folder, vector[1:], "0" * 64, 1)
    coordinator = LocalCoordinator(federation.home.path)
    monkeypatch.setattr(LocalCoordinator, "serving", lambda _: True)
    with pytest.raises(InputError) as error:
        coordinator.propose(continued(heart_manifest(study={"id": "a"}), start, 1), ())
    coordinator.close()
    assert error.value.code == "start-unusable"


def test_a_study_without_a_start_keeps_its_digest() -> None:
    assert b"start" not in heart_manifest().canonical
    assert b"start" in continued(heart_manifest(), "0" * 64, 3).canonical
