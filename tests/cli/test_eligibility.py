"""What people read of a study's demands: at registration, in a review, when they approve; and a simulation's notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from command import fedward, good
from demanding import FAILING, JUST_MET, demanding
from federation import Federation

from fedward.client import exclusions
from fedward.study.heart import heart_folder

DATA = heart_folder()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("demands"), sites=("cleveland", "hungarian", "va"))
    federation.register(demanding(None))
    return federation


@pytest.fixture
def fed(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def proposed(fed: Federation, demand: dict[str, Any] | None) -> str:
    return fed.propose(demanding(demand)).digest


def study_file(folder: Path, demand: dict[str, Any] | None) -> Path:
    data = demanding(demand).model_dump(mode="json", exclude_none=True)
    path = folder / "study.toml"
    path.write_bytes(tomli_w.dumps(data).encode())
    return path


def test_a_demand_that_is_not_met_stands_in_the_review_and_the_approval_is_refused(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, proposed(fed, FAILING["negative"])
    review = fedward("site", "review", digest, "--home", home).out
    assert "demands      at least 60 patients without the outcome" in review
    assert "NOT MET      patients without the outcome: 51 here, and the study asks for at least 60" in review
    assert "cannot be approved here" in review
    data = good("site", "review", digest, "--home", home)
    assert data["eligibility"] == {
        "demands": ["at least 60 patients without the outcome"],
        "met": False,
        "unmet": [{"what": "patients without the outcome", "needed": 60, "found": 51}],
        "unknown": "",
    }
    assert [one["code"] for one in data["objections"]] == ["not-eligible"]
    ran = fedward("site", "approve", digest, "--yes", "--home", home)
    assert ran.code == 4
    assert "does not meet what the study demands of its patients" in ran.err
    assert "51 here" in ran.err
    assert fedward("site", "approve", digest, "--home", home, "--json").json["error"] == "not-eligible"
    assert good("site", "review", digest, "--home", home)["state"] == "pending"
    checked = fedward("site", "policy", "check", "--home", home).out
    assert "not-eligible: patients without the outcome: 51 here" in checked


def test_a_demand_that_is_met_is_said_to_be_and_what_a_yes_tells(fed: Federation) -> None:
    home, digest = fed.sites["va"].path, proposed(fed, JUST_MET)
    review = fedward("site", "review", digest, "--home", home).out
    assert "at least 200 patients; at least 140 patients with the outcome; at least 50 patients without" in review
    assert "this hospital meets it; approving tells the coordinator so: a yes, and no number" in review
    assert "NOT MET" not in review
    data = good("site", "review", digest, "--home", home)
    assert (data["eligibility"]["met"], data["objections"]) == (True, [])
    assert good("site", "approve", digest, "--yes", "--home", home)["state"] == "approved"
    rows = (DATA / "va.csv").read_text().splitlines()[1:]
    exclusions.add(fed.sites["va"], [row.split(",")[0] for row in rows[:5]])
    assert (
        "patients: 195 here, and the study asks for at least 200"
        in fedward("site", "review", digest, "--home", home).out
    )


def test_a_study_without_demands_has_no_line_of_them(fed: Federation) -> None:
    digest = proposed(fed, None)
    assert "demands" not in fedward("site", "review", digest, "--home", fed.sites["va"].path).out
    assert good("site", "review", digest, "--home", fed.sites["va"].path)["eligibility"] is None


def test_a_demand_that_cannot_be_checked_is_no_yes(fed: Federation, tmp_path: Path) -> None:
    digest = proposed(fed, JUST_MET)
    home = fed.sites["va"].path
    own = tmp_path / "own.csv"
    own.write_bytes((DATA / "va.csv").read_bytes())
    good("site", "register", "--study", study_file(tmp_path, JUST_MET), "--csv", own, "--mapping", DATA / "va.mapping.toml",
         "--home", home)  # fmt: skip
    own.write_text(own.read_text() + "\n")
    review = fedward("site", "review", digest, "--home", home)
    assert review.code == 0, review
    assert "whether this hospital meets it cannot be told: own.csv is not what was registered" in review.out
    assert good("site", "review", digest, "--home", home)["eligibility"]["met"] is None
    assert fedward("site", "approve", digest, "--yes", "--home", home, "--json").json["error"] == "data-changed"
    (home / "datasets" / "heart-4-hospitals.json").unlink()
    review = fedward("site", "review", digest, "--home", home).out
    assert "cannot be told: no data is registered" in review


@pytest.mark.parametrize(
    ("demand", "eligible", "words"),
    [
        (JUST_MET, True, ("The study demands of a hospital: at least 200 patients;", "This hospital meets it.")),
        (
            FAILING["patients"],
            False,
            (
                "does NOT meet it",
                "  patients: 200 here, and the study asks for at least 210",
                "Warning: not eligible: ",
            ),
        ),
    ],
)
def test_registration_says_it_too(
    fed: Federation, tmp_path: Path, demand: dict[str, Any], eligible: bool, words: tuple[str, ...]
) -> None:
    asked = ("site", "register", "--study", study_file(tmp_path, demand), "--csv", DATA / "va.csv",
             "--mapping", DATA / "va.mapping.toml", "--home", fed.sites["va"].path)  # fmt: skip
    assert good(*asked)["eligible"] is eligible
    said = fedward(*asked).out
    assert all(word in said for word in words), said


def test_a_simulation_leaves_out_and_names_the_hospitals_that_are_not_eligible(tmp_path: Path) -> None:
    study = study_file(tmp_path, {"min_negative": 50})
    ran = fedward("simulate", study, "--seeds", 1, "--json")
    assert ran.json["not_eligible"] == ["switzerland"]
    assert {one["slice"] for one in ran.json["gain_over_own_model"]} == {"site=cleveland", "site=hungarian", "site=va"}
    assert (
        "switzerland is left out: it does not meet the study's eligibility (patients without the outcome: 8 here"
        in ran.err
    )
    nobody = fedward("simulate", study_file(tmp_path, {"min_patients": 1000}), "--seeds", 1, "--json")
    assert (nobody.code, nobody.json["error"]) == (3, "bad-input")
    varied = fedward("sweep", study, "--vary", "eligibility.min_patients=100,200", "--seeds", 1, "--json")
    assert varied.json["error"] == "usage"
