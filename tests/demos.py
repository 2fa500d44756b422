"""What a demo must have shown, and left in its folder, whoever ran it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processes
from command import fedward

from fedward.server.home import CoordinatorHome
from fedward.server.models import load_model
from fedward.study.heart import SITES


def check(shown: dict[str, Any], folder: Path, rounds: int) -> None:
    """`shown`: its `--json`, of the heart study at all four hospitals."""
    assert shown["study"]["rounds"] == rounds
    assert 0.0 < shown["auroc"]["federated"] < 1.0
    assert shown["auroc"].keys() >= {"federated_interval", "local_mean", "pooled", "patients"}
    assert [row["site"] for row in shown["hospitals"]] == list(SITES)
    assert all(row.keys() >= {"patients", "federated", "pooled", "local"} for row in shown["hospitals"])
    groups = {row["group"] for row in shown["groups"]}
    assert any("sex" in name for name in groups)
    assert any("age" in name for name in groups)
    for site in SITES:
        assert 0 < shown["privacy"]["sites"][site]["spent"] <= shown["privacy"]["study_epsilon"]
        assert shown["contributions"][site] == rounds
    assert set(shown["seconds"]) == {"set_up", "federation", "all"}
    assert processes.of_folder(folder) == {}

    home = CoordinatorHome.open(folder / "coordinator")
    status = fedward("coordinator", "status", shown["study"]["digest"], "--home", home.path, "--json").json
    assert (status["state"], status["serving"]) == ("completed", False)
    assert len(load_model(home.models_folder, status["model"])) > 10
    assert len(fedward("site", "ledger", "--home", folder / "sites" / "va", "--json").json["charges"]) >= rounds
