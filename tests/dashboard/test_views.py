"""The monitor's frames and sentences: the simulator's own figures, and hand-made runs with what is undefined."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import Scores, broken_off, written

from fedward.dashboard import views
from fedward.dashboard.record import Record, read
from fedward.dashboard.views import View, view

FIGURES = ["mean", "low", "high", "deviation", "seeds"]


def shown(folder: Path) -> tuple[Record, View]:
    record = read(folder)
    return record, view(record)


def two(gap: float = 0.1) -> list[Scores]:
    """Two seeds, two hospitals, two groups: north's own model is better by half of the gap, south's worse by the gap."""
    return [
        {
            ("federated", "everybody"): 0.8 + shift, ("pooled", "everybody"): 0.9 + shift,
            ("alone:north", "everybody"): 0.7 + shift, ("alone:south", "everybody"): 0.6 + shift,
            ("federated", "site=north"): 0.8 + shift, ("alone:north", "site=north"): 0.8 + gap / 2 + shift,
            ("alone:south", "site=north"): 0.1,
            ("federated", "site=south"): 0.8 + shift, ("alone:south", "site=south"): 0.8 - gap + shift,
            ("alone:north", "site=south"): 0.1,
            ("federated", "sex=female"): 0.75 + shift, ("alone:north", "sex=female"): 0.5, ("alone:south", "sex=female"): None,
            ("federated", "age in [0, 50)"): 0.85 + shift,
        }
        for shift in (-0.02, 0.02)
    ]  # fmt: skip


def test_the_frames_are_the_simulators_own_summary(run: Path, tmp_path: Path) -> None:
    """Read from the tables or from the seeds, every figure is the one that `fedward simulate` wrote."""
    summary = json.loads((run / "summary.json").read_text())
    told = {(one["model"], one["slice"]): [one[name] for name in FIGURES] for one in summary["auroc"]}
    gains = {one["slice"]: [one[name] for name in FIGURES] for one in summary["gain_over_own_model"]}
    for folder in (run, broken_off(run, tmp_path / "open", [0, 1, 2])):
        _, found = shown(folder)
        for row in found.models.to_dict("records"):
            assert [row[name] for name in FIGURES] == pytest.approx(told[row["model"], "everybody"])
        for row in found.hospitals.to_dict("records"):
            name = row["model"] if row["model"] != "own model" else f"alone:{row['hospital']}"
            assert [row[name] for name in FIGURES] == pytest.approx(told[name, f"site={row['hospital']}"])
        for row in found.gains.to_dict("records"):
            assert [row[name] for name in FIGURES] == pytest.approx(gains[f"site={row['hospital']}"])
        assert list(found.gains["mean"]) == sorted(found.gains["mean"])
        groups = found.groups[found.groups["group"] == "sex: female"].set_index("model")
        for model in ("federated", "alone, mean", "pooled"):
            assert list(groups.loc[model, FIGURES]) == pytest.approx(told[model, "sex=female"])
    rounds = pd.read_parquet(run / "rounds.parquet").groupby("round")["auroc"].mean()
    assert list(found.curve["mean"]) == pytest.approx(list(rounds))


def test_gaps_of_a_finished_run_are_the_summarys(run: Path, tmp_path: Path) -> None:
    _, found = shown(run)
    summary = json.loads((run / "summary.json").read_text())["fairness_gap"]
    assert list(found.spreads["mean"]) == pytest.approx([one["mean"] for one in summary])
    assert "sex: equalized odds" in set(found.spreads["gap"])
    assert shown(broken_off(run, tmp_path / "open", [0]))[1].spreads.empty


def test_pairs_by_hand(tmp_path: Path) -> None:
    record, found = shown(written(tmp_path / "run", two()))
    gains = found.gains.set_index("hospital")
    assert list(gains.index) == ["north", "south"]
    assert list(gains["mean"]) == pytest.approx([-0.05, 0.1])
    assert list(gains["low"]) == pytest.approx([-0.05, 0.1])  # paired: what the seeds share is no uncertainty
    lead = found.lead.set_index("model")["mean"]
    assert [lead["alone, mean"], lead["pooled"]] == pytest.approx([0.15, -0.1])
    gaps = found.gaps.set_index("group")["mean"]
    assert gaps.to_dict() == pytest.approx({"sex: female": -0.05, "age 0 to under 50": 0.05})
    assert views.accuracy_sentence(record, found) == (
        "Federated AUROC .800 (.780–.820) over 2 seeds; +.150 (+.150 to +.150) over the average hospital alone; "
        "−.100 (−.100 to −.100) against the pool that privacy forbids."
    )
    assert "1 of 2 hospitals gain over their own model, 1 lose; for 0" in views.gain_sentence(found)
    assert (
        views.fairness_sentence(record, found)
        == "Lowest AUROC beside everybody's: sex: female, −.050 (−.050 to −.050)."
    )
    alone = found.groups[(found.groups["group"] == "sex: female") & (found.groups["model"] == "alone, mean")]
    assert alone["mean"].item() == 0.5  # over the hospitals that have a figure


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    record, found = shown(written(tmp_path / "run", two()[:1]))
    assert found.models["low"].isna().all()
    assert views.accuracy_sentence(record, found).startswith("Federated AUROC .780 over 1 seed; +.150 over")
    assert "One seed gives no interval" in views.gain_sentence(found)
    assert "one seed gives no interval" in views.fairness_sentence(record, found)


def test_undefined_stays_undefined(tmp_path: Path) -> None:
    """A hospital whose held-out patients have one outcome: no figure, no zero, no crash."""
    studies = [dict(one) | {("federated", "site=north"): None, ("federated", "everybody"): None} for one in two()]
    record, found = shown(written(tmp_path / "run", studies))
    north = found.gains[found.gains["hospital"] == "north"].iloc[0]
    assert math.isnan(north["mean"])
    assert north["seeds"] == 0
    assert views.accuracy_sentence(record, found) == "The federated AUROC is undefined."


def test_a_diverged_study_is_told_and_not_averaged(tmp_path: Path) -> None:
    broken = {key: value for key, value in two()[0].items() if key[0] != "federated"}
    record, found = shown(written(tmp_path / "run", [*two(), broken]))
    assert record.diverged == (2,)
    federated = found.models[found.models["model"] == "federated"].iloc[0]
    assert (federated["mean"], federated["seeds"]) == (pytest.approx(0.8), 2)
    assert list(found.curve["seeds"]) == [2, 2]
    said = views.accuracy_sentence(record, found)
    assert "over 2 seeds" in said
    assert "1 study did not stay finite (seeds 2)" in said
    record, found = shown(written(tmp_path / "all", [broken]))
    assert views.accuracy_sentence(record, found).startswith("No federated AUROC: 1 study")


def test_a_run_without_a_seed(tmp_path: Path) -> None:
    record, found = shown(written(tmp_path / "run", []))
    assert views.accuracy_sentence(record, found) == "No seed is done yet."
    assert views.gain_sentence(found) == ""
    assert "no seed is done yet" in views.fairness_sentence(record, found)
    assert all(
        frame.empty for frame in (found.models, found.curve, found.hospitals, found.gains, found.groups, found.gaps)
    )


def test_epsilon_never_stands_alone(tmp_path: Path) -> None:
    said = views.privacy_sentence(read(written(tmp_path / "run", [])))
    for part in ("ε at most 3 at δ = 0.001", "unit: patient", "add or remove one patient", "covers"):
        assert part in said
    (tmp_path / "run" / "study.json").write_text("{}")
    assert "ε" not in views.privacy_sentence(read(tmp_path / "run"))


def test_adversaries_are_named_with_the_result(tmp_path: Path) -> None:
    options = {"threshold": 0.5, "adversaries": [{"site": "south", "attack": "sign-flip"}]}
    record, found = shown(written(tmp_path / "run", two(), simulation=options))
    assert "over 2 seeds while south attacks (sign-flip);" in views.accuracy_sentence(record, found)


def test_other_tables_of_the_summary_are_shown_as_they_are() -> None:
    found = views.extras(
        {
            "seeds": [0],
            "auroc": [{"a": 1}],
            "attacks": [{"who": "va", "mean": 0.5}],
            "by_site": {"va": {"x": 1}},
            "seconds": 3.5,
            "none": [],
        }
    )
    assert list(found) == ["attacks", "by site", "other figures"]
    assert found["attacks"].to_dict("records") == [{"who": "va", "mean": 0.5}]
    assert found["by site"].to_dict("records") == [{"name": "va", "x": 1}]
    assert found["other figures"].to_dict("records") == [{"figure": "seconds", "value": "3.5"}]


def test_facts_say_what_was_run(run: Path) -> None:
    facts = dict(views.facts(read(run)).itertuples(index=False))
    assert facts["study"] == "heart-4-hospitals"
    assert facts["engine"] == "stacked"
    assert facts["seeds done"] == "3: 0, 1, 2"
    assert facts["numpy"] == np.__version__
    assert facts["adversaries"] == "none"


def test_a_spreadsheet_computes_nothing_of_a_table() -> None:
    frame = pd.DataFrame({"hospital": ["=cmd()", "va"], "mean": [-0.1, 0.2]})
    assert views.csv(frame).decode() == "hospital,mean\n'=cmd(),-0.1\nva,0.2\n"
