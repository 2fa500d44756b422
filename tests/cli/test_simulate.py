"""`fedward simulate`, as a researcher calls it."""

from __future__ import annotations

from pathlib import Path

from command import fedward, good

from fedward.study.heart import SITES, heart_folder


def test_the_table_has_every_model_and_the_folder_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = fedward("simulate", "heart", "--seeds", 2, "--out", out)
    assert ran.code == 0, ran
    for words in (
        "federated",
        "pooled",
        "alone:va",
        "alone, mean",
        "site=va",
        "sex=female",
        "ε at most 3",
        "unit: patient",
    ):
        assert words in ran.out, ran.out
    assert "seed 2 of 2" in ran.err
    first = (out / "seeds" / "0.json").stat().st_mtime_ns
    found = good("simulate", "heart", "--seeds", 3, "--out", out)
    assert (out / "seeds" / "0.json").stat().st_mtime_ns == first
    assert found["seeds"] == [0, 1, 2]
    assert (found["study"], found["diverged"]) == ("heart-4-hospitals", [])
    assert {one["slice"] for one in found["gain_over_own_model"]} == {f"site={site}" for site in SITES}
    federated = next(one for one in found["auroc"] if (one["model"], one["slice"]) == ("federated", "everybody"))
    assert 0.8 < federated["low"] < federated["mean"] < federated["high"] < 1
    alone = good("simulate", "heart", "--seeds", 3)
    assert alone["auroc"] == found["auroc"]


def test_one_seed_has_no_interval_and_says_so_in_json() -> None:
    found = good("simulate", "heart", "--seeds", 1, "--engine", "loop", "--sites", heart_folder())
    assert {one["low"] for one in found["auroc"]} == {None}
    assert "(" not in fedward("simulate", "heart", "--seeds", 1).out.split("By hospital")[0].split("one study")[1]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    assert fedward("simulate", tmp_path / "none.toml", "--json").json["error"] == "bad-input"
    assert fedward("simulate", "heart", "--sites", tmp_path, "--json").json["error"] == "bad-input"
    assert fedward("simulate", "heart", "--engine", "warp").code == 2
    for wrong in (("--workers", 2), ("--engine", "flower", "--workers", 2, "--ray-address", "auto")):
        assert fedward("simulate", "heart", *wrong, "--json").json["error"] == "usage"
    (tmp_path / "a").write_text("")
    refused = fedward("simulate", "heart", "--out", tmp_path, "--json")
    assert (refused.code, refused.json["error"]) == (3, "bad-input")


def test_hospitals_are_cut_anew_or_made_up() -> None:
    cut = good("simulate", "heart", "--seeds", 2, "--partition", "labels:5:0.7")
    assert {one["slice"] for one in cut["gain_over_own_model"]} <= {f"site=site-{number}" for number in range(1, 6)}
    ran = fedward("simulate", "heart", "--seeds", 1, "--sites", "synthetic:25:60:0.5")
    assert ran.code == 0, ran
    assert "the best possible AUROC" in ran.err
    assert "The 20 of 25 hospitals that gain least." in " ".join(ran.out.split())
    assert "alone:site-01" not in ran.out


def test_hospitals_that_cannot_be_are_refused() -> None:
    for sites in ("synthetic:", "synthetic:3", "synthetic:a:4", "synthetic:3:4:5:6"):
        assert fedward("simulate", "heart", "--sites", sites, "--json").json["error"] == "usage"
    assert fedward("simulate", "heart", "--partition", "warp:3", "--json").json["error"] == "bad-input"
    both = fedward("simulate", "heart", "--partition", "iid:3", "--sites", "synthetic:5:50", "--json")
    assert (both.code, both.json["error"]) == (2, "usage")
