"""The hospital holds a study's demands against its registered patients: at registration, before an approval, at each request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from demanding import FAILING, JUST_MET, demanding, proposal
from federation import Federation, decide, heart_manifest
from hospital import SITE, Site, code

from fedward.client import approvals, datasets, exclusions
from fedward.client.eligibility import counting, objections
from fedward.client.findings import Finder
from fedward.privacy.errors import FedwardError, RefusalError
from fedward.study.heart import heart_folder
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Result

STUDY = "heart-4-hospitals"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("eligibility"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def now(site: Site) -> int:
    return site.federation.clock.unix()


def approved(site: Site, demand: dict[str, Any], seconds: int = 60) -> SealedManifest:
    sealed = proposal(site, demand, seconds)
    site.offer(sealed)
    decide(site.home, sealed, "approved", now(site))
    return sealed


def women(site: Site) -> list[str]:
    """Identifiers of the hospital's six women; SEX_CD 0 in its export."""
    rows = [line.split(",") for line in Path(datasets.find(site.home, STUDY).path).read_text().splitlines()[1:]]
    return [row[0] for row in rows if row[2] == "0"]


@pytest.mark.parametrize("name", FAILING)
def test_a_study_whose_demands_are_not_met_cannot_be_approved(site: Site, name: str) -> None:
    sealed = proposal(site, FAILING[name])
    site.offer(sealed)
    before = site.home.audit.size
    with pytest.raises(RefusalError) as refused:
        decide(site.home, sealed, "approved", now(site))
    assert refused.value.code == "not-eligible"
    assert "does not meet what the study demands" in refused.value.text()
    assert approvals.standing_of(site.home, sealed.digest, now(site)).state == "pending"
    assert site.home.audit.size == before  # its size leaves, so nothing is entered
    assert approvals.standing_of(site.home, site.sealed.digest, now(site)).state == "approved"  # the older one goes on


def test_a_study_whose_demands_are_just_met_runs(site: Site) -> None:
    sealed = approved(site, JUST_MET)
    assert isinstance(site.work(study=sealed.digest), Result)
    assert site.charges() == [(1, 1)]


def test_patients_who_opt_out_are_counted_no_more_and_the_site_answers_no(site: Site) -> None:
    sealed = approved(site, {"min_patients": 190, "groups": [{"column": "sex", "min_patients": 190, "min_levels": 1}]})
    assert isinstance(site.work(study=sealed.digest), Result)
    exclusions.add(site.home, women(site))  # 194 are left, all of them men
    assert isinstance(site.work(study=sealed.digest, round=2, attempt=2), Result)
    exclusions.add(site.home, everybody(site)[:20])
    reply = site.work(study=sealed.digest, round=3, attempt=3)
    assert code(reply) == "not-eligible"
    assert site.charges() == [(1, 1), (2, 2)]
    with pytest.raises(RefusalError, match="does not meet"):
        approvals.check_approvable(site.home, sealed, now(site))


def everybody(site: Site) -> list[str]:
    path = Path(datasets.find(site.home, STUDY).path)
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]


def test_what_the_policy_refuses_is_not_counted_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own code leaves, and says nothing of the patients."""
    sealed = proposal(site, FAILING["patients"])
    site.offer(sealed)
    decide(site.home, sealed, "approved", now(site), unchecked=True)
    monkeypatch.setattr(datasets, "read_site_table", lambda *_, **__: pytest.fail("the data was read"))
    site.policy("[policy]\nmax_epsilon = 1.0\nrequire_secure_aggregation = false\nrequire_evaluation_noise = false")
    assert code(site.work(study=sealed.digest)) == "policy-epsilon"


def test_a_study_without_demands_is_charged_before_a_row_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "read_site_table", lambda *_, **__: pytest.fail("the data was read"))
    assert objections(site.sealed, lambda _: pytest.fail("patients were counted")) == []
    approvals.check_approvable(site.home, site.sealed, now(site))
    monkeypatch.setattr(Finder, "find", lambda *_: 1 / 0)
    assert code(site.work()) == "internal-error"
    assert site.charges() == [(1, 1)]


def test_data_that_cannot_be_read_is_no_yes(site: Site) -> None:
    sealed = proposal(site, {"min_patients": 10})
    site.offer(sealed)
    mapping = Path(datasets.find(site.home, STUDY).mapping)
    text = mapping.read_text()
    moved = site.home.path / "map.toml"
    moved.write_text(text)
    datasets.register(site.home, sealed.manifest, heart_folder() / "va.csv", moved, 1)
    moved.write_text(text + "\n# changed\n")
    with pytest.raises(FedwardError) as refused:
        decide(site.home, sealed, "approved", now(site))
    assert refused.value.code == "data-changed"
    assert approvals.standing_of(site.home, sealed.digest, now(site)).state == "pending"


def test_the_node_counts_as_the_approval_does(site: Site) -> None:
    sealed = proposal(site, JUST_MET)
    found = counting(site.home, datasets.find(site.home, STUDY))(sealed)
    assert (found.patients, found.positive, found.negative) == (200, 149, 51)
    assert [list(sizes.values()) for sizes in found.groups.values()] == [[6, 194], [19, 139, 42]]
    node = site.federation.transport.nodes[SITE]
    assert node._finder.tally(sealed) == found  # type: ignore[attr-defined]


@pytest.mark.parametrize(("demand", "met"), [(None, None), (JUST_MET, True), (FAILING["negative"], False)])
def test_registration_says_whether_the_study_s_demands_are_met(
    site: Site, demand: dict[str, Any] | None, met: bool | None
) -> None:
    folder = heart_folder()
    done = datasets.register(site.home, demanding(demand), folder / "va.csv", folder / "va.mapping.toml", 1)
    assert (None if done.unmet is None else not done.unmet) == met
    warned = [line for line in done.report.warnings if line.startswith("not eligible")]
    short = "not eligible: patients without the outcome: 51 here, and the study asks for at least 60"
    assert warned == ([short] if met is False else [])
    assert (f"Warning: {short}" in datasets.kept_report(site.home, STUDY)[1]) == (met is False)
