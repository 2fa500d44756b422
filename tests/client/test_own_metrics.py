"""A hospital's own metrics: kept at every evaluation, shown as they may leave, given away once and only by its policy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import fedward, good
from federation import Federation, heart_manifest
from hospital import SITE, Site
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedward.client import datasets
from fedward.client.alone import PENALTY
from fedward.client.home import SiteHome
from fedward.client.own_metrics import PURPOSE, OwnMetrics
from fedward.client.policy import Policy
from fedward.client.split import held_out
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError
from fedward.privacy.ledger import Budget, Ledger
from fedward.server.coordinator import LocalCoordinator
from fedward.study.messages import Result
from fedward.study.metrics import bin_edges, histogram_shape, slice_names
from fedward.study.site_metrics import site_metrics

STUDY = "heart-4-hospitals"
MANIFEST = heart_manifest()
SEALED: Any = SimpleNamespace(digest="5" * 64, manifest=MANIFEST)
SHARES, KEEPS = Policy(share_metrics=True), Policy()


def some_counts(more: int = 0) -> np.ndarray:
    counts = np.full(histogram_shape(MANIFEST), 2, dtype=np.int64)
    counts[0] = 4
    counts[0, 0, 0] += more
    return counts


@pytest.fixture
def ledger(home: SiteHome) -> Ledger:
    return home.ledger()


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome.create(tmp_path, "va", Budget(10.0, 1e-3))


@pytest.fixture
def own(home: SiteHome) -> OwnMetrics:
    kept = OwnMetrics(home)
    kept.keep(SEALED, 3, some_counts())
    return kept


def test_what_is_shown_is_what_may_leave_of_the_last_evaluation(own: OwnMetrics) -> None:
    assert own.shown(SEALED) == (3, site_metrics(MANIFEST, some_counts()))
    own.keep(SEALED, 5, some_counts(1))
    assert own.shown(SEALED) == (5, site_metrics(MANIFEST, some_counts(1)))


def test_the_counts_are_the_hospital_s_alone(own: OwnMetrics, tmp_path: Path) -> None:
    folder = tmp_path / "own-metrics"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_without_an_evaluation_there_is_nothing(home: SiteHome) -> None:
    with pytest.raises(InputError) as caught:
        OwnMetrics(home).shown(SEALED)
    assert caught.value.code == "no-metrics"


def test_damaged_counts_are_refused(own: OwnMetrics, home: SiteHome) -> None:
    path = home.metrics_folder / f"{SEALED.digest}.json"
    data = json.loads(home.read(path, "counts"))
    for change in ({"counts": [1, 2]}, {"study": "6" * 64}, {"counts": [-1] * len(data["counts"])}, {"round": 0}):
        home.write(path, json.dumps(data | change).encode())
        with pytest.raises(FedwardError):
            own.shown(SEALED)
    home.write(path, json.dumps(data | {"counts": [1, 2]}).encode())
    with pytest.raises(IntegrityError):
        own.shown(SEALED)


def test_nothing_is_given_away_without_the_policy(own: OwnMetrics, ledger: Ledger, tmp_path: Path) -> None:
    assert KEEPS.share_metrics is False
    with pytest.raises(RefusalError) as caught:
        own.release(SEALED, KEEPS, ledger, at=1)
    assert caught.value.code == "policy-metrics"
    assert ledger.charges() == []
    assert not list((tmp_path / "own-metrics").glob("*.released.json"))


def test_they_leave_once_are_charged_once_and_then_are_the_same_or_refused(own: OwnMetrics, ledger: Ledger) -> None:
    first = own.release(SEALED, SHARES, ledger, at=1)
    assert own.release(SEALED, SHARES, ledger, at=2) == first
    (entry,) = ledger.charges()
    assert (entry.charge.purpose, entry.charge.event, entry.charge.round) == (PURPOSE, None, 3)
    assert ledger.unprotected == 1
    own.keep(SEALED, 3, some_counts(1))  # one patient more
    with pytest.raises(RefusalError) as caught:
        own.release(SEALED, SHARES, ledger, at=3)
    assert caught.value.code == "differencing"
    own.keep(SEALED, 3, some_counts())
    assert own.release(SEALED, SHARES, ledger, at=4) == first


def test_a_crash_after_the_charge_costs_nothing_more(
    own: OwnMetrics, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedward.client.home.SiteHome.write", die)
        with pytest.raises(KeyboardInterrupt):
            own.release(SEALED, SHARES, ledger, at=1)
    assert len(ledger.charges()) == 1
    own.release(SEALED, SHARES, ledger, at=2)
    assert len(ledger.charges()) == 1


def test_a_node_keeps_them_and_people_see_and_give_them_away(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "all", sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3, "holdout": 0.5}, evaluation={"every": 2}))  # 11 by any split
    site = Site(federation)
    home, digest = site.home.path, site.sealed.digest
    missing = fedward("site", "metrics", digest, "--home", home)
    assert missing.code == 3
    assert "no metrics" in missing.err
    assert isinstance(site.work(round=3, evaluate=True), Result)

    shown = good("site", "metrics", digest[:12], "--home", home)
    assert list(shown["slices"]) == list(slice_names(site.sealed.manifest))
    assert (shown["round"], shown["share_metrics"]) == (3, False)
    assert "no ε covers them" in shown["privacy"]
    female = shown["slices"]["sex=female"]
    assert female is None  # VA Long Beach's cohort has six women
    assert shown["slices"]["sex=male"] is None  # and they would be known by subtraction
    assert shown["slices"]["everybody"]["negatives"] >= 11
    assert 0 <= shown["slices"]["everybody"]["auroc"] <= 1
    text = fedward("site", "metrics", digest, "--home", home)
    assert text.out.count("suppressed") > 4
    assert "does not allow" in text.out

    out = tmp_path / "given.json"
    refused = fedward("site", "metrics", digest, "--release", out, "--home", home)
    assert refused.code == 4
    assert not out.exists()
    policy = site.home.policy_file.read_text()
    site.policy(policy.replace("share_metrics = false", "share_metrics = true"))
    good("site", "metrics", digest, "--release", out, "--home", home)
    given = json.loads(out.read_text())
    assert given["slices"] == shown["slices"]
    assert site.charges(PURPOSE) == [(3, 1)]
    again = fedward("site", "metrics", digest, "--release", out, "--home", home)
    assert again.code == 2  # never overwritten


# --- the hospital's own model beside the study's, and what a coordinator takes in -------------------------------------------


def test_own_models_are_compared_given_away_and_hold_the_study_s_gate(tmp_path: Path) -> None:
    """Four hospitals train alone, release, and the coordinator's gate is judged by what they signed."""
    federation = Federation(tmp_path)
    gates = {"min_auroc": None, "max_equalized_odds_gap": None, "max_site_drop": 0.5}
    sealed = federation.ready(heart_manifest(training={"rounds": 2}, gates=gates))
    federation.run()
    coordinator = LocalCoordinator(federation.home.path)
    assert [one.gate for one in coordinator.gates(STUDY).verdicts if not one.holds] == ["max_site_drop"]
    drops = {}
    for site, home in federation.sites.items():
        home.policy_file.write_text(
            home.policy_file.read_text().replace("share_metrics = false", "share_metrics = true")
        )
        shown = good("site", "metrics", sealed.digest, "--alone", "--home", home.path)
        file = tmp_path / f"{site}.metrics.json"
        given = good("site", "metrics", sealed.digest, "--release", file, "--home", home.path)
        assert given["alone"] == shown["alone"] == own_auroc(home, sealed)
        taken = good("coordinator", "share", STUDY, file, "--home", federation.home.path)
        everybody = shown["slices"]["everybody"]
        if everybody is None:
            assert (taken["auroc"], taken["alone"], taken["drop"]) == (None, None, None)
            continue
        assert taken["drop"] == pytest.approx(shown["alone"] - everybody["auroc"])
        drops[site] = taken["drop"]
    (verdict,) = [one for one in coordinator.gates(STUDY).verdicts if one.gate == "max_site_drop"]
    silent = sorted(set(federation.sites) - set(drops))
    if silent:  # a hospital of few patients suppresses even everybody's, and then may be the one that loses
        assert (verdict.holds, verdict.why.endswith(f"not shared by {', '.join(silent)}")) == (False, True)
    else:
        assert verdict.value == pytest.approx(max(drops.values()))
    assert drops
    coordinator.close()


def own_auroc(home: SiteHome, sealed: Any) -> float | None:
    """The same by another way: scikit-learn's AUROC of scikit-learn's logistic regression, of the hospital's own rows."""
    data = datasets.load(home, datasets.find(home, STUDY), sealed.manifest)
    mask = held_out(data.patients, sealed.manifest.training.holdout, home.patient_key())
    train, test = data.select(~mask), data.select(mask)
    if min(np.bincount(test.outcomes.astype(int), minlength=2)) < 11:
        return None
    fitted = LogisticRegression(C=1 / PENALTY, tol=1e-8, max_iter=5000).fit(train.inputs, train.outcomes)
    scores = fitted.predict_proba(test.inputs)[:, 1]
    counting = sealed.manifest.counting
    binned = np.searchsorted(bin_edges(counting.bins, counting.temper), scores, side="right")
    return round(float(roc_auc_score(test.outcomes, binned)), 2)


def test_an_own_model_s_figure_may_be_added_to_what_left_and_never_changed(own: OwnMetrics, home: SiteHome) -> None:
    ledger, path = home.ledger(), home.metrics_folder / f"{SEALED.digest}.alone.json"
    first = own.release(SEALED, SHARES, ledger, at=1)
    assert first.alone is None
    kept = {"study": SEALED.digest, "round": 3, "auroc": 71, "exclusions": 0}
    home.write(path, json.dumps(kept).encode())
    added = own.release(SEALED, SHARES, ledger, at=2)
    assert (added.values, added.alone, added.auroc_alone) == (first.values, 71, 0.71)
    for change in (
        {"auroc": 72},
        {"round": 2},
        {"exclusions": 1},
    ):  # another figure; one of another evaluation, or patients
        home.write(path, json.dumps(kept | change).encode())
        with pytest.raises(RefusalError) as caught:
            own.release(SEALED, SHARES, ledger, at=3)
        assert caught.value.code == "differencing"


def test_an_own_model_of_patients_who_opted_out_since_is_not_shown(own: OwnMetrics, home: SiteHome) -> None:
    kept = {"study": SEALED.digest, "round": 3, "auroc": 71, "exclusions": 0}
    path = home.metrics_folder / f"{SEALED.digest}.alone.json"
    for change, shown in (({}, 71), ({"round": 4}, None), ({"exclusions": 1}, None), ({"study": "6" * 64}, None)):
        home.write(path, json.dumps(kept | change).encode())
        assert own.alone(SEALED) == shown
