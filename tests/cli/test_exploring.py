"""`fedward coordinator explore` and `answers`, and a hospital's review of an exploration, as people call them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import fedward, good
from exploring import NoNoise, allow, set_policy
from federation import Federation, heart_manifest
from secured import draw_with

from fedward.server.home import ServiceFile
from fedward.server.lifecycle import Offered
from fedward.study.files import write_atomic
from fedward.study.heart import heart_folder

EXAMPLE = heart_folder() / "explore.toml"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("explore"))
    allow(federation)
    for site, home in federation.sites.items():
        folder = heart_folder()
        good("site", "register", "--study", EXAMPLE, "--csv", folder / f"{site}.csv",
             "--mapping", folder / f"{site}.mapping.toml", "--home", home.path)  # fmt: skip
    return federation


@pytest.fixture
def fed(registered: Federation, tmp_path: Path) -> Federation:
    federation = registered.copy(tmp_path / "federation")
    draw_with(federation, lambda _: NoNoise())  # type: ignore[arg-type,return-value]
    return federation


@contextmanager
def service(federation: Federation, *, approving: bool = True) -> Iterator[None]:
    """A coordinator's service whose network is a dictionary, and hospitals where somebody approves at once."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.05):
            for row in federation.store.studies():
                federation.key = row.key
                if row.wish == "propose":
                    from fedward.server.proposal import propose

                    home = federation.home
                    sealed = propose(federation.store, federation.transport, federation.clock, row, home.identity(),
                                     home.settings.federation_id, federation.said.append)  # fmt: skip
                    federation.store.happened(row.key, Offered(), federation.clock.unix())
                    if approving:
                        federation.approve(sealed)
                elif row.wish == "run" and approving:
                    federation.run()

    with federation.home.serving():
        pid = ServiceFile(pid=os.getpid(), started_at=0).model_dump_json().encode()
        write_atomic(federation.home.service_file, pid)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            federation.home.service_file.unlink()


def test_explore_proposes_launches_waits_and_shows(fed: Federation) -> None:
    with service(fed):
        ran = fedward("coordinator", "explore", EXAMPLE, "--follow", "--home", fed.home.path)
    assert ran.code == 0, ran
    for shown in (
        "The number of all patients:",
        "920   852 to 988 patients",
        "under 11",
        "unit: patient",
        "0.5",
        "all registered patients",
    ):
        assert shown in ran.out, ran.out
    told = good("coordinator", "answers", "heart-explore", "--home", fed.home.path)
    assert (told["kind"], told["state"]) == ("explore", "completed")
    everybody = told["answers"][0]
    assert everybody["estimates"][0]["value"] == 920
    assert everybody["estimates"][0]["low"] < 920 < everybody["estimates"][0]["high"]
    assert "adversary: everyone outside that hospital" in told["privacy"]
    again = fedward("coordinator", "status", "heart-explore", "--home", fed.home.path)
    assert "The 25%, 50%, 75% quantiles of age" in again.out
    assert "AUROC" not in again.out


def test_explore_says_who_has_to_decide_next(fed: Federation) -> None:
    with service(fed, approving=False):
        ran = fedward("coordinator", "explore", EXAMPLE, "--home", fed.home.path)
        assert ran.code == 0, ran
        assert "fedward site review" in ran.out
        assert "fedward coordinator answers heart-explore" in ran.out
        told = fedward("coordinator", "answers", "heart-explore", "--home", fed.home.path)
    assert told.code == 0
    assert "No answers yet" in told.out
    home = fed.sites["va"].path
    review = fedward("site", "review", fed.sealed().digest[:12], "--home", home).out
    for said in ("nothing: it asks, once", "the mean thalach of all patients", "sex, disease, cp, age, thalach",
                 "a standard deviation of", "has no objection", "learns sums only", "costs each patient at most ε = 0.5",
                 "covers all registered patients"):  # fmt: skip
        assert said in review, review
    data = good("site", "review", fed.sealed().digest[:12], "--home", home)
    assert (data["kind"], data["objections"]) == ("explore", [])
    set_policy(fed.sites["va"], "allow_explore", "false")
    assert "POLICY       refuses: this hospital answers no explorations" in fedward(
        "site", "review", fed.sealed().digest[:12], "--home", home
    ).out  # fmt: skip
    refused = fedward("site", "approve", fed.sealed().digest[:12], "--yes", "--json", "--home", home)
    assert (refused.code, refused.json["error"]) == (4, "policy-explore")


def test_a_study_that_trains_is_not_explored(fed: Federation) -> None:
    ran = fedward("coordinator", "explore", heart_folder() / "study.toml", "--json", "--home", fed.home.path)
    assert (ran.code, ran.json["error"]) == (3, "bad-input")
    assert fed.store.studies() == []
    fed.register(heart_manifest(secure=True))
    fed.propose(heart_manifest(secure=True))
    ran = fedward("coordinator", "answers", "heart-4-hospitals", "--json", "--home", fed.home.path)
    assert (ran.code, ran.json["error"]) == (3, "bad-input")


def test_a_site_lists_and_charges_it_like_any_study(fed: Federation) -> None:
    with service(fed):
        assert fedward("coordinator", "explore", EXAMPLE, "--follow", "--json", "--home", fed.home.path).code == 0
    home = fed.sites["va"].path
    charges = good("site", "ledger", "--home", home)["charges"]
    assert [one["purpose"] for one in charges] == ["explore-counts", "explore-sums"]
    assert "heart-explore" in fedward("site", "review", "--home", home).out
    transcript = home.parent / "transcript.json"
    good("coordinator", "transcript", "heart-explore", "--out", transcript, "--home", fed.home.path)
    audited = fedward("audit", "transcript", transcript)
    assert audited.code == 0, audited
