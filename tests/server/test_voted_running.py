"""A study whose held-out patients vote for features, from proposal to what is told: counted by hand, plain, secure and noised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from numpy.typing import NDArray
from voting import allow_votes, shares_by_hand

from fedward.client import datasets
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.client.split import held_out
from fedward.dashboard.federation.reading import Reader
from fedward.dashboard.federation.views.counts import sums
from fedward.privacy.draws import SecureDraws
from fedward.privacy.events import CountEvent
from fedward.server.control.wire import history_message, history_of
from fedward.server.models import load_model
from fedward.server.readings import history, view
from fedward.study.evaluation import count_deviation
from fedward.study.hospital_influence import HospitalInfluence
from fedward.study.manifest import Manifest
from fedward.study.messages import counts_from_bytes
from fedward.study.metrics import histogram_shape, slice_names
from fedward.study.votes import given_shape, parts

STUDY = "heart-4-hospitals"
VOTES = {"influence": True}
REFUSES = "switzerland"
"""The hospital whose policy does not let votes go."""


class Remembered(SecureDraws):
    """A node's own draws, whose uniforms can be read afterwards: nothing but votes asks for any."""

    def __init__(self) -> None:
        super().__init__()
        self.uniforms: list[NDArray[np.float64]] = []

    def uniform(self, n: int) -> NDArray[np.float64]:
        self.uniforms.append(super().uniform(n))
        return self.uniforms[-1]


def remembering(federation: Federation) -> dict[str, Remembered]:
    """Every hospital but one lets votes go, and each node's draws are kept."""
    made = {site: Remembered() for site in federation.sites}
    for site, home in federation.sites.items():
        if site != REFUSES:
            allow_votes(home)
        log = SiteLog(home.log_file, None)
        federation.transport.nodes[site] = SiteNode(home, log, made[site], clock=federation.clock.unix)
    return made


def by_hand(federation: Federation, manifest: Manifest, draws: dict[str, Remembered]) -> list[int]:
    """Every patient's vote, one after the other, from the model's own weights and the uniforms that were drawn."""
    seen = view(federation.store, federation.store.study(federation.key))
    vector = load_model(federation.home.models_folder, seen.model or "")
    votes = [0] * len(manifest.features)
    for site, home in federation.sites.items():
        if site == REFUSES:
            assert draws[site].uniforms == []
            continue
        data = datasets.load(home, datasets.find(home, manifest.study.id), manifest)
        unseen = data.select(held_out(data.patients, manifest.training.holdout, home.patient_key())).last_encounters()
        shares = shares_by_hand(manifest, vector, unseen.inputs)
        for row, mark in zip(shares, draws[site].uniforms[-1], strict=True):
            reached = 0.0
            for feature, share in enumerate(row):
                reached += share
                if mark <= reached:
                    votes[feature] += 1
                    break
    return votes


def stored(federation: Federation, manifest: Manifest, version: int) -> tuple[list[int], int]:
    """(votes, held-out patients) of the coordinator's record."""
    found = federation.store.evaluation(federation.key, version)
    assert found is not None
    total = counts_from_bytes(found.counts, given_shape(manifest), -(2**62))
    histogram, votes = parts(manifest, total)
    assert votes is not None
    return votes.tolist(), int(histogram[0].sum())


def nothing_else_is_told(told: HospitalInfluence, manifest: Manifest, votes: list[int]) -> None:
    """Every feature is told with its votes, or not, as one with fewer than 11 must."""
    by_name = {feature.column: count for feature, count in zip(manifest.features, votes, strict=True)}
    assert {one.feature for one in told.features} == set(by_name)
    for one in told.features:
        assert one.votes in {None, by_name[one.feature]}
        assert (one.votes is None) or by_name[one.feature] >= 11
    assert any(one.votes is not None for one in told.features)


@pytest.mark.parametrize("secure", [False, True])
def test_the_votes_are_those_of_every_hospital_that_lets_them_go(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    draws = remembering(federation)
    manifest = heart_manifest(secure=secure, training={"rounds": 2}, evaluation=VOTES)
    digest = federation.ready(manifest).digest
    review = fedward("site", "review", digest, "--home", federation.sites["va"].path).out
    assert "each test patient votes for one of the 13 features" in review
    assert "This site's policy lets them go (share_influence)" in review
    review = fedward("site", "review", digest, "--home", federation.sites[REFUSES].path).out
    assert "does NOT let them go (share_influence): zeros leave in their place" in review
    assert good("site", "review", digest, "--home", federation.sites[REFUSES].path)["votes"] is False
    federation.run()
    seen = view(federation.store, federation.store.study(federation.key))
    assert (seen.state, seen.version) == ("completed", 2)
    votes, patients = stored(federation, manifest, 2)
    assert votes == by_hand(federation, manifest, draws)
    assert 200 < sum(votes) < patients

    rows = {(row.slice, row.name): row for row in seen.measured()}  # and no metric took them for patients
    assert {slice_ for slice_, _ in rows} == {*slice_names(manifest), "sex", "age"}
    assert rows["everybody", "auroc"].positives + rows["everybody", "auroc"].negatives == patients

    told = history(federation.store, federation.store.study(federation.key)).votes
    assert told is not None
    assert (told.version, told.patients, told.voters, told.deviation) == (2, patients, sum(votes), 0)
    nothing_else_is_told(told, manifest, votes)

    reader = Reader(federation.store)  # nor does the monitor
    look = reader.look(federation.key)
    shown = sums(look, reader.evaluation(look, 2))
    assert shown is not None
    assert shown.counts.shape == histogram_shape(manifest)
    assert shown.counts[0].sum() == patients
    record = history(federation.store, federation.store.study(federation.key))
    assert history_of(history_message(record)).votes == told

    found = good("coordinator", "influence", STUDY, "--from", "hospitals", "--home", federation.home.path)
    assert found["version"] == 2
    assert found["release"] is None
    assert found["hospitals"] == json.loads(json.dumps(told.as_json()))
    assert sum(one["share"] for one in found["synthetic"]["features"]) == pytest.approx(1)
    ran = fedward("coordinator", "influence", STUDY, "--from", "hospitals", "--home", federation.home.path)
    assert ran.code == 0
    assert "on synthetic patients" in ran.out
    assert f"Of {sum(votes)} votes." in ran.out
    card = fedward("coordinator", "card", STUDY, "--home", federation.home.path).out
    assert "## What the model follows\n\nAt the hospitals, by votes." in card
    for one in told.features:
        if one.votes is None:
            words = "\\< 11" if one.shown == "small" else "not shown"
            assert f"| {one.feature} | {words} | {words} | {words} |" in card
        else:
            assert f"| {one.feature} | {one.votes} | {one.share:.3f} |" in card


@pytest.mark.parametrize("secure", [False, True])
def test_noised_votes_are_charged_as_one_attribute_more_everywhere(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    draws = remembering(federation)
    changes = {"training": {"rounds": 1}, "privacy": {"epsilon": 5.0}}
    manifest = heart_manifest(secure=secure, noised=True, evaluation=VOTES, **changes)
    sealed = federation.ready(manifest)
    assert sealed.count_deviation == count_deviation(manifest) > count_deviation(heart_manifest(noised=True, **changes))
    federation.run()
    votes, _ = stored(federation, manifest, 1)
    exact = by_hand(federation, manifest, draws)
    noise = np.array(votes) - exact
    deviation = 2 * sealed.count_deviation  # of four hospitals
    assert np.count_nonzero(noise) > 6
    assert (np.abs(noise) < 6 * deviation).all()
    assert np.abs(noise).max() > deviation / 4
    for home in federation.sites.values():  # also where zeros left
        with home.ledger(witnessed=False) as ledger:
            [charge] = [entry.charge for entry in ledger.charges() if entry.charge.purpose == "evaluate"]
            # Everybody's count, sex, age, and the vote.
            assert charge.event == CountEvent(sealed.count_deviation, 1, 4, 1, share=(0.0, manifest.training.holdout))
            assert ledger.spent() <= 5.0
    told = history(federation.store, federation.store.study(federation.key)).votes
    assert told is not None
    assert told.deviation == pytest.approx(deviation)
    if told.features:
        assert {one.feature: one.votes for one in told.features} == {
            feature.column: count for feature, count in zip(manifest.features, votes, strict=True)
        }


def test_where_no_hospital_allows_nothing_is_told_and_the_study_goes_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    manifest = heart_manifest(training={"rounds": 1}, evaluation=VOTES)
    federation.ready(manifest)
    federation.run()
    assert stored(federation, manifest, 1)[0] == [0] * 13
    told = history(federation.store, federation.store.study(federation.key)).votes
    assert told is not None
    assert (told.features, told.voters) == ((), None)
    ran = fedward("coordinator", "influence", STUDY, "--from", "hospitals", "--home", federation.home.path)
    assert "Nothing can be told: no votes: no hospital allows them (share_influence)" in ran.out
    assert "Nothing can be told" in fedward("coordinator", "card", STUDY, "--home", federation.home.path).out


def test_a_study_that_did_not_ask_has_no_votes(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    for home in federation.sites.values():
        allow_votes(home)
    federation.ready(heart_manifest(training={"rounds": 1}))
    federation.run()
    assert history(federation.store, federation.store.study(federation.key)).votes is None
    ran = fedward("coordinator", "influence", STUDY, "--from", "hospitals", "--home", federation.home.path)
    assert (ran.code, "no patients of study" in ran.err) == (3, True)
    assert "approved with evaluation.influence = true" in ran.err
    assert "by votes" not in fedward("coordinator", "card", STUDY, "--home", federation.home.path).out
    both = ("--from", "hospitals", "--data", tmp_path / "x.csv")
    assert fedward("coordinator", "influence", STUDY, *both, "--home", federation.home.path).code == 2
