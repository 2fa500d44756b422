"""A study with shared noise, end to end in memory: what is released, what is charged, what a dropout does, who is shown what."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, decide, heart_manifest
from numpy.typing import NDArray
from observed import committed, outcomes, run, state
from scipy import stats
from secured import Hand, Truth, Wire, check_sums, draw_with, leaving, make_quick, ready

from fedward.cli.output import shown
from fedward.cli.review import as_data, print_review
from fedward.client.budgets import against_all_others
from fedward.privacy.accounting import epsilon
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import RefusalError
from fedward.privacy.events import SharedEvent
from fedward.server.aggregation import OptimiserState, step
from fedward.server.readings import view
from fedward.study.heart import SITES
from fedward.study.manifest import Manifest
from fedward.study.messages import Refusal, Work
from fedward.study.models import build, to_vector
from fedward.study.schedule import study_costs
from fedward.study.secure import secure_terms
from fedward.study.terms import study_noise, training_cohort
from fedward.study.vectors import vector_digest

EPSILON, ROUNDS, SPARE = 2.0, 2, 1


def study(**privacy: object) -> Manifest:
    return heart_manifest(
        secure=True,
        training={"rounds": ROUNDS},
        federation={"quorum": 3, "deadline": "20s", "grace": "5s"},
        privacy={"noise": "shared", "epsilon": EPSILON, "delta": 1e-3, "spare_attempts": SPARE} | privacy,
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("shared"))
    ready(federation, study())
    return federation


@pytest.fixture(autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        make_quick(context)
        yield context


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


class Known(SecureDraws):
    """Real noise, remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[NDArray[np.int64]] = []

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        self.given.append(super().discrete_gaussian(n, deviation))
        return self.given[-1]


def shared_events(federation: Federation, site: str) -> list[SharedEvent]:
    with federation.sites[site].ledger(witnessed=False) as ledger:
        return [e.charge.event for e in ledger.charges() if isinstance(e.charge.event, SharedEvent)]


def test_a_round_releases_the_noised_sum_over_the_declared_total(
    federation: Federation, patch: pytest.MonkeyPatch
) -> None:
    truth, noises = Truth(patch), {site: Known() for site in SITES}
    draw_with(federation, noises.__getitem__)
    run(federation)
    assert state(federation) == "completed"
    sealed = federation.sealed()
    start = to_vector(build(sealed.manifest))
    terms = secure_terms(sealed, len(SITES), dimension=len(start), train=True, evaluate=False)
    assert terms.noise is not None
    integers = sum(truth.updates[site, 1].astype(object) for site in SITES)  # Python's own: they never wrap
    delta = -terms.noise.step * np.array([float(x) for x in integers]) / sum(training_cohort(sealed, s) for s in SITES)
    wanted, _ = step(start, delta, OptimiserState.zeros(len(start)), sealed.manifest.training)
    np.testing.assert_allclose(committed(federation, 1), wanted, rtol=1e-6, atol=1e-7)
    for site in SITES:  # each site's integers are a bare sum, of whole patients' gradients, and its own fresh noise
        bare = (truth.updates[site, 1] - noises[site].given[0]) * terms.noise.step
        assert np.linalg.norm(bare) <= training_cohort(sealed, site) * 1.2
        assert len(noises[site].given) == ROUNDS
    drawn = np.concatenate([given for known in noises.values() for given in known.given]) / terms.noise.deviation
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], drawn.size)
    assert low <= float(np.sum(drawn**2)) <= high
    check_sums(federation)


def test_every_attempt_is_charged_as_a_part_of_the_pool(federation: Federation) -> None:
    run(federation)
    sealed = federation.sealed()
    pool = study_noise(sealed, "va")
    assert pool == max(entry.noise_multiplier for entry in sealed.roster)
    for site in SITES:
        made = shared_events(federation, site)
        assert made == [SharedEvent(pool / math.sqrt(2), 2, 1, share=made[0].share)] * ROUNDS
    costs = study_costs(sealed, "va")
    assert costs["coordinator"] <= EPSILON < costs["everyone"]
    assert costs["everyone"] == epsilon([*made, *made[:SPARE]], 1e-3, "everyone")


def test_a_dropout_leaves_the_others_sum_with_its_noise(federation: Federation) -> None:
    wire = Wire(federation)
    wire.fault = leaving(federation, "masked", ["va"])
    run(federation)
    assert outcomes(federation)[0] == (1, "committed")
    assert "va" not in federation.store.journal(federation.key, "unmasking")[0].data["survivors"]


def test_below_the_quorum_nothing_is_opened(federation: Federation) -> None:
    wire = Wire(federation)
    wire.fault = leaving(federation, "masked", ["va", "cleveland"])
    with pytest.raises(RefusalError):
        run(federation)
    assert {outcome for _, outcome in outcomes(federation)} == {"quorum-missed"}
    assert federation.store.journal(federation.key, "unmasking") == []
    assert wire.of("unmask") == []


def test_a_site_never_gives_its_part_unmasked(federation: Federation) -> None:
    hand = Hand(federation)
    base = vector_digest(hand.base)
    said = hand.ask(
        "va",
        Work(
            study=hand.sealed.digest,
            round=1,
            attempt=1,
            base=base,
            dimension=len(hand.base),
            train=True,
            evaluate=False,
        ),
        hand.base.astype("<f4").tobytes(),
    )
    assert isinstance(said.reply, Refusal)
    assert said.code == "not-masked"
    assert shared_events(federation, "va") == []


# --- both adversaries ---------------------------------------------------------------------------------------------------


def test_the_view_of_a_study_names_both_adversaries(federation: Federation) -> None:
    shown = view(federation.store, federation.store.study(federation.key))
    assert shown.epsilon == EPSILON
    assert shown.epsilon_all_others == study_costs(federation.sealed(), "va")["everyone"]
    assert "at most 1 other hospital colluding" in shown.meaning
    assert "adversary: everyone outside" not in shown.meaning


def test_the_ledger_tells_what_is_left_if_everyone_else_colludes(federation: Federation) -> None:
    with federation.sites["va"].ledger() as ledger:
        found = against_all_others(ledger)
        assert found is not None
        spent, held = found
        assert spent == 0.0
        assert held > ledger.committed()


def test_the_policy_bounds_it_over_all_studies(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "one")
    manifest = study()
    for home in federation.sites.values():
        text = home.policy_file.read_text()
        home.policy_file.write_text(text.replace("max_epsilon_all_others = 10.0", "max_epsilon_all_others = 1.5"))
    federation.register(manifest)
    sealed = federation.propose(manifest)
    assert study_costs(sealed, "va")["everyone"] > 1.5
    with pytest.raises(RefusalError) as caught:
        decide(federation.sites["va"], sealed, "approved", federation.clock.unix())
    assert caught.value.code == "policy-epsilon-all-others"
    with federation.sites["va"].ledger() as ledger:
        assert ledger.reservations(at=federation.clock.unix()) == []


def test_a_review_shows_both_promises_side_by_side(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    home, sealed = federation.sites["va"], federation.sealed()
    print_review(home, sealed)
    text = " ".join(capsys.readouterr().out.split())
    costs = study_costs(sealed, "va")
    assert f"at most 1 other hospital colluding: {shown(costs['coordinator'])}" in text
    assert f"all other hospitals colluding: {shown(costs['everyone'])}" in text
    assert as_data(home, sealed)["privacy"]["against"] == costs
