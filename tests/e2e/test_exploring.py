"""An exploration over Flower, end to end: real SuperLink, real TLS, real commands, warm nodes, real noise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import fedward, good
from exploring import set_policy
from loopback import Loopback

from fedward.client.home import SiteHome
from fedward.study.heart import SITES, heart_folder

pytestmark = [pytest.mark.federation, pytest.mark.timeout(480)]


def explored(loopback: Loopback, name: str) -> tuple[Path, str]:
    """An exploration's file, for which every hospital has registered its data, and its digest once it was proposed and launched."""
    data = heart_folder()
    text = re.sub(r'^id = ".*"$', f'id = "{name}"', (data / "explore.toml").read_text(), count=1, flags=re.MULTILINE)
    file = loopback.folder / f"{name}.toml"
    file.write_text(text.replace('deadline = "2min"', 'deadline = "20s"'))
    for site, home in loopback.sites.items():
        set_policy(SiteHome.open(home), "allow_explore", "true")
        good("site", "register", "--study", file, "--csv", data / f"{site}.csv",
             "--mapping", data / f"{site}.mapping.toml", "--home", home)  # fmt: skip
    return file, str(good("coordinator", "explore", file, "--home", loopback.home)["digest"])


def test_it_is_answered_once_enough_hospitals_approved(loopback: Loopback) -> None:
    _, digest = explored(loopback, "e2e-explore")
    told = good("coordinator", "answers", "e2e-explore", "--home", loopback.home)
    assert told["answers"] is None
    loopback.approve(digest, SITES[:3])  # the quorum; nobody at the fourth decides
    view = loopback.wait_ended(digest)
    assert view.state == "completed", view.reason

    told = good("coordinator", "answers", "e2e-explore", "--home", loopback.home)
    (everybody,) = told["answers"][0]["estimates"]
    registered = sum(
        good("site", "review", digest, "--home", loopback.sites[site])["data"]["patients"] for site in SITES[:3]
    )
    half = everybody["high"] - everybody["value"]
    assert 0 < half < 150
    assert abs(everybody["value"] - registered) < 3 * half  # by chance beyond it once in some 10^8 runs
    assert "unit: patient" in told["privacy"]
    shown = fedward("coordinator", "answers", "e2e-explore", "--home", loopback.home).out
    assert "The number of all patients:" in shown

    for site in SITES:
        charges = [c for c in good("site", "ledger", "--home", loopback.sites[site])["charges"]
                   if c["study_digest"] == digest]  # fmt: skip
        assert [c["purpose"] for c in charges] == (["explore-counts", "explore-sums"] if site in SITES[:3] else [])
    file = loopback.folder / "explored.json"
    good("coordinator", "transcript", "e2e-explore", "--out", file, "--home", loopback.home)
    audited = good("audit", "transcript", file, "--digest", digest)
    assert [(one["outcome"], one["survivors"]) for one in audited["sums"]] == [("committed", list(SITES[:3]))]


def test_a_hospital_that_answers_none_is_not_even_asked_for_its_size(loopback: Loopback) -> None:
    for home in loopback.sites.values():
        set_policy(SiteHome.open(home), "allow_explore", "false")
    file = loopback.folder / "e2e-refused.toml"
    text = (heart_folder() / "explore.toml").read_text()
    file.write_text(text.replace('id = "heart-explore"', 'id = "e2e-refused"'))
    data = heart_folder()
    for site, home in loopback.sites.items():
        good("site", "register", "--study", file, "--csv", data / f"{site}.csv",
             "--mapping", data / f"{site}.mapping.toml", "--home", home)  # fmt: skip
    ran = fedward("coordinator", "explore", file, "--json", "--home", loopback.home)
    assert ran.code != 0
    assert "policy-explore" in ran.out + ran.err
