"""What a hospital's node gives where a study asks for votes: its policy alone decides, never a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site
from voting import allow_votes

from fedward.client import datasets
from fedward.client.own_metrics import OwnMetrics
from fedward.client.policy import Policy
from fedward.client.split import held_out
from fedward.privacy.events import CountEvent
from fedward.study.manifest import Manifest
from fedward.study.messages import Result, counts_from_bytes
from fedward.study.metrics import Counts
from fedward.study.votes import given_shape, parts

VOTES = {"influence": True, "every": 1}


def hospital(folder: Path, *, noised: bool) -> Site:
    federation = Federation(folder, sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(noised=noised, training={"rounds": 4}, evaluation=VOTES))
    return Site(federation)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return hospital(tmp_path_factory.mktemp("votes"), noised=False).federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def evaluate(site: Site, attempt: int = 1, least: int = 0) -> tuple[Counts, Counts]:
    """(histogram, votes) as the node gives them, of random parameters."""
    site.base = np.random.default_rng(3).normal(size=len(site.base)).astype(np.float32)
    reply = site.work(round=5, attempt=attempt, train=False, evaluate=True)
    assert isinstance(reply, Result), reply
    manifest = site.sealed.manifest
    histogram, votes = parts(manifest, counts_from_bytes(site.body, given_shape(manifest), least))
    assert votes is not None
    return histogram, votes


def unseen(site: Site) -> int:
    manifest: Manifest = site.sealed.manifest
    data = datasets.load(site.home, datasets.find(site.home, manifest.study.id), manifest)
    return len(data.select(held_out(data.patients, manifest.training.holdout, site.home.patient_key())))


def test_a_hospital_lets_no_votes_go_unless_it_says_so(site: Site) -> None:
    assert Policy().share_influence is False
    histogram, votes = evaluate(site)
    assert histogram[0].sum() == unseen(site)
    assert votes.tolist() == [0] * 13
    allow_votes(site.home)
    histogram, votes = evaluate(site, 2)
    assert votes.sum() == histogram[0].sum() == unseen(site)
    assert (votes >= 0).all()
    assert np.count_nonzero(votes) > 3
    site.policy(site.home.policy_file.read_text().replace("share_influence = true", "share_influence = false"))
    assert evaluate(site, 3)[1].tolist() == [0] * 13


def test_votes_are_no_part_of_the_hospital_s_own_metrics(site: Site) -> None:
    allow_votes(site.home)
    histogram, _ = evaluate(site)
    _, values = OwnMetrics(site.home).shown(site.sealed)
    assert len(values) == len(histogram)
    assert values[0][0] == histogram[0, :, 0].sum()


def test_a_model_that_gives_no_numbers_gets_no_votes_and_no_error(site: Site) -> None:
    """An error that depends on a patient would tell of one."""
    allow_votes(site.home)
    site.base = np.full(len(site.base), 3e38, dtype=np.float32)
    reply = site.work(round=5, train=False, evaluate=True)
    assert isinstance(reply, Result)
    manifest = site.sealed.manifest
    _, votes = parts(manifest, counts_from_bytes(site.body, given_shape(manifest)))
    assert votes is not None
    assert votes.sum() in {0, unseen(site)}


def test_zeros_are_noised_and_charged_like_votes(tmp_path: Path) -> None:
    site = hospital(tmp_path, noised=True)
    deviation = site.sealed.count_deviation
    _, votes = evaluate(site, least=-1000)
    assert np.count_nonzero(votes) > 6
    assert np.abs(votes).max() < 8 * deviation
    with site.home.ledger(witnessed=False) as ledger:
        [charge] = [entry.charge for entry in ledger.charges() if entry.charge.purpose == "evaluate"]
    # √4 in L2: everybody, sex, age and a vote, whether it went or not.
    assert charge.event == CountEvent(deviation, 1, 4, 1, share=(0.0, site.sealed.manifest.training.holdout))
