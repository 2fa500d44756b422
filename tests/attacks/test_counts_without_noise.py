"""Attack: a coordinator that wants a hospital's counts of held-out patients without their noise, or with less of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation, decide, heart_manifest
from hospital import SITE, Site, code

from fedward.client.policy import DEFAULT_POLICY
from fedward.privacy.errors import RefusalError
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Result

ROUNDS = 3
PLAIN = DEFAULT_POLICY.replace("require_secure_aggregation = true", "require_secure_aggregation = false")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("without-noise"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(noised=True, training={"rounds": ROUNDS}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def resealed(site: Site, **changes: object) -> SealedManifest:
    """Another study of the same coordinator, offered and, by a careless person, approved."""
    sealed = SealedManifest.model_validate(site.sealed.model_dump() | changes)
    site.offer(sealed)
    decide(site.home, sealed, "approved", site.federation.clock.unix(), unchecked=True)
    return sealed


def spent(site: Site) -> tuple[float, int]:
    with site.home.ledger(witnessed=False) as ledger:
        return ledger.spent(), len(ledger.charges())


def evaluate(site: Site, attempt: int = 1, **changes: object) -> object:
    return site.work(**({"round": ROUNDS + 1, "attempt": attempt, "train": False, "evaluate": True} | changes))


@pytest.mark.parametrize("round_", range(1, ROUNDS + 1))
@pytest.mark.parametrize("train", [True, False])
def test_an_evaluation_in_a_round_that_plans_none_is_refused_and_costs_nothing(
    site: Site, round_: int, train: bool
) -> None:
    assert code(evaluate(site, round=round_, train=train)) == "unplanned-work"  # type: ignore[arg-type]
    assert spent(site) == (0.0, 0)
    assert site.body == b""


def test_noise_cannot_be_averaged_away_by_asking_again(site: Site) -> None:
    """The same request gets the same noise; the same attempt asked otherwise gets none; and attempts are few."""
    first = evaluate(site)
    counts = site.body
    assert isinstance(first, Result)
    assert isinstance(evaluate(site), Result)
    assert site.body == counts  # the same bytes: nothing new is learnt, nothing is charged
    site.federation.restart(SITE)  # what was answered is forgotten, what was charged is not
    assert code(evaluate(site)) == "already-charged"  # type: ignore[arg-type]
    answers = [evaluate(site, attempt) for attempt in range(2, 12)]
    planned = site.sealed.manifest.planned_evaluations
    assert sum(isinstance(answer, Result) for answer in answers) == planned - 1 == 1
    assert {code(answer) for answer in answers if not isinstance(answer, Result)} == {"evaluations-used-up"}  # type: ignore[arg-type]
    assert len(site.charges("evaluate")) == planned


def quieter(site: Site) -> dict[str, object]:
    return {"count_deviation": site.sealed.count_deviation / 4}


def without(site: Site) -> dict[str, object]:
    manifest = site.sealed.manifest.model_dump()
    manifest["evaluation"] |= {"noise": "none"}
    return {"manifest": manifest, "count_deviation": 0.0}


def test_a_study_that_seals_too_little_noise_cannot_be_approved(site: Site) -> None:
    with pytest.raises(RefusalError) as refused:
        resealed(site, **quieter(site))
    assert refused.value.code == "policy-count-noise"


def test_a_study_without_noise_is_refused_by_policy_whoever_approved_it(site: Site) -> None:
    site.policy(PLAIN)
    sealed = resealed(site, **without(site))
    assert code(evaluate(site, study=sealed.digest)) == "policy-evaluation-noise"  # type: ignore[arg-type]
    assert site.body == b""
    assert spent(site) == (0.0, 0)


def test_noise_that_the_manifest_plans_cannot_be_left_out_of_the_seal(site: Site) -> None:
    with pytest.raises(ValueError, match="count_deviation"):
        resealed(site, count_deviation=0.0)


def test_a_hospital_that_allows_exact_counts_has_them_in_its_ledger_as_unprotected(site: Site) -> None:
    site.policy(PLAIN.replace("require_evaluation_noise = true", "require_evaluation_noise = false"))
    sealed = resealed(site, **without(site))
    assert isinstance(evaluate(site, study=sealed.digest), Result)
    assert site.charges("evaluate-without-dp") == [(ROUNDS + 1, 1)]
    with site.home.ledger(witnessed=False) as ledger:
        assert (ledger.unprotected, ledger.promised()) == (1, float("inf"))
