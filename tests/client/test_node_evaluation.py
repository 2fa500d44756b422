"""A node's noised counts: charged once as what they are, fresh noise of the right size each time, and no more than planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code
from numpy.typing import NDArray

from fedward.client import datasets
from fedward.client.split import held_out
from fedward.privacy.accounting import epsilon
from fedward.privacy.events import CountEvent, DpEvent
from fedward.study import messages, models
from fedward.study.evaluation import count_event, most_noise, training_share
from fedward.study.messages import Result
from fedward.study.metrics import histogram, histogram_shape
from fedward.study.vectors import vector_digest

ROUNDS, EVALUATIONS = 2, 40


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("counts"), sites=("cleveland", "hungarian", SITE))
    federation.ready(
        heart_manifest(noised=True, training={"rounds": ROUNDS}, evaluation={"spare_attempts": EVALUATIONS - 1})
    )
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def evaluated(site: Site, attempt: int) -> NDArray[np.int64]:
    reply = site.work(round=ROUNDS + 1, attempt=attempt, train=False, evaluate=True)
    assert isinstance(reply, Result), code(reply)
    shape = histogram_shape(site.sealed.manifest)
    return messages.counts_from_bytes(site.body, shape, -most_noise(site.sealed))


def exact_counts(site: Site) -> NDArray[np.int64]:
    """What no one outside may see: the counts without noise."""
    manifest = site.sealed.manifest
    data = datasets.load(site.home, datasets.find(site.home, manifest.study.id), manifest)
    unseen = data.select(held_out(data.patients, manifest.training.holdout, site.home.patient_key()))
    model = models.build(manifest)
    models.load_vector(model, site.base)
    plan = manifest.counting
    return histogram(models.scores(model, unseen.inputs), unseen.outcomes, unseen.membership, plan.bins, plan.temper)


def test_an_evaluation_is_charged_as_the_noisy_counts_that_it_is(site: Site) -> None:
    evaluated(site, 1)
    with site.home.ledger(witnessed=False) as ledger:
        [charge] = [entry.charge for entry in ledger.charges()]
        assert ledger.unprotected == 0
    assert charge.purpose == "evaluate"
    # Sex and age are compared: a patient changes three counts by one; held-out patients alone are touched.
    assert charge.event == CountEvent(site.sealed.count_deviation, 1, 3, 1, share=(0.0, 0.33))


def test_training_and_evaluation_cost_no_patient_both(site: Site) -> None:
    site.work(round=1, attempt=1)
    evaluated(site, 2)
    with site.home.ledger(witnessed=False) as ledger:
        trained, counted = [entry.charge.event for entry in ledger.charges()]
        spent, delta = ledger.spent(), ledger.budget.delta
    assert isinstance(trained, DpEvent)
    assert isinstance(counted, CountEvent)
    assert trained.share == training_share(site.sealed.manifest)
    assert spent == max(epsilon([trained], delta), epsilon([counted], delta))
    assert spent < epsilon([replace(event, share=(0.0, 1.0)) for event in (trained, counted)], delta)


def test_the_noise_that_leaves_has_the_sealed_variance_and_is_fresh_each_time(site: Site) -> None:
    """χ² of what leaves less what is true: 20 evaluations of 120 counts, every one with noise of its own."""
    exact, deviation, released = exact_counts(site), site.sealed.count_deviation, []
    for attempt in range(1, 21):
        if attempt % 5 == 0:
            site.federation.restart(SITE)
        released.append(evaluated(site, attempt))
    noise = np.stack(released) - exact
    count = noise.size
    chi_square = float((noise / deviation).astype(float).__pow__(2).sum())
    assert abs(chi_square - count) < 4 * (2 * count) ** 0.5
    assert abs(noise.mean()) < 4 * deviation / count**0.5
    flat = noise.reshape(20, -1).astype(float)
    assert len({row.tobytes() for row in flat}) == 20
    correlations = np.corrcoef(flat)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / flat.shape[1] ** 0.5
    empty = noise[:, exact == 0]  # an empty cell without noise would say that nobody is there
    assert (empty != 0).mean() > 0.5


def test_sites_and_bins_have_noise_of_their_own(template: Federation, tmp_path: Path) -> None:
    federation = template.copy(tmp_path / "copy")
    noises = []
    for name in ("hungarian", SITE):
        one = Site(federation)
        one.home, one.key = federation.sites[name], federation.sites[name].identity().public
        request = messages.Work.model_validate(
            {"study": one.sealed.digest, "round": ROUNDS + 1, "attempt": 1, "base": vector_digest(one.base),
             "dimension": len(one.base), "train": False, "evaluate": True}
        )  # fmt: skip
        sent = messages.pack(request, messages.floats_to_bytes(one.base), one.coordinator)
        _, body = messages.open_reply(federation.transport.nodes[name](sent), one.key)
        shape = histogram_shape(one.sealed.manifest)
        noises.append((messages.counts_from_bytes(body, shape, -most_noise(one.sealed)) - exact_counts(one)).ravel())
    assert abs(np.corrcoef(noises)[0, 1]) < 5 / len(noises[0]) ** 0.5


def test_no_more_evaluations_leave_than_were_planned(site: Site) -> None:
    for attempt in range(1, EVALUATIONS + 1):
        evaluated(site, attempt)
    late = site.work(round=ROUNDS + 1, attempt=EVALUATIONS + 1, train=False, evaluate=True)
    assert code(late) == "evaluations-used-up"
    with site.home.ledger(witnessed=False) as ledger:
        plan = site.sealed.manifest.counting
        assert plan.epsilon is not None
        assert ledger.spent() <= plan.epsilon
        planned = count_event(site.sealed.manifest, site.sealed.count_deviation, EVALUATIONS)
        assert ledger.spent() == epsilon([planned], ledger.budget.delta)
