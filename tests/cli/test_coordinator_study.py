"""`fedward coordinator explain | compare | clone | export` on the record of a real study of the in-memory federation."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import histories
import pytest
from command import Ran, fedward, good
from exploring import allow, heart_exploration
from federation import Federation, heart_manifest
from serving import served

from fedward.privacy.canonical import digest
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Failed
from fedward.study.heart import SITES
from fedward.study.kinds import load

STUDY = "heart-4-hospitals"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One study that lost VA after its first round, and one that is only a draft."""
    made = histories.template(tmp_path_factory.mktemp("federation"))
    histories.dropped_out(made)
    other = heart_manifest(
        training={"rounds": 5}, study={"id": "draft", "title": "Another title"}, privacy={"spare_attempts": 4}
    )
    made.store.create_study("draft", other.model_dump_json(), ("cleveland", "hungarian"), made.clock.unix())
    return made


@pytest.fixture(scope="module")
def home(federation: Federation) -> Path:
    return federation.home.path


def said(home: Path, *arguments: object) -> str:
    ran = fedward("coordinator", *arguments, "--home", home)
    assert ran.code == 0, ran
    return ran.out


def fails(code: int, home: Path, *arguments: object) -> Ran:
    ran = fedward("coordinator", *arguments, "--home", home)
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    return ran


def test_explain_tells_a_person_the_whole_story(home: Path) -> None:
    told = said(home, "explain", STUDY)
    assert "COMPLETED: it ran to its end: 3 of 3 rounds are committed." in told
    assert (
        "rounds 2–3: committed by 3 of 4; va absent: not reachable when the attempt began, so not asked [not-there]"
        in told
    )
    [va] = [line for line in told.splitlines() if line.strip().startswith("va: ")]
    assert "va: approved the study; in 1 of 3 committed rounds; " in va
    assert "; last heard of 2030-01-01 00:00:00; " in va
    assert "longest absence: 3 attempts, round 2 to the test of the last model" in va
    assert "see that the node runs and reaches the coordinator" in told
    assert f"fedward coordinator export {STUDY}" in told


def test_explain_gives_a_script_the_same(home: Path) -> None:
    found = good("coordinator", "explain", STUDY, "--home", home)
    assert (found["state"], found["committed"]) == ("completed", 3)
    assert {site["site"]: site["contributed"] for site in found["sites"]} == dict.fromkeys(SITES, 3) | {"va": 1}
    assert found["remedies"]["not-there"]["who"] == "the hospital"


def test_explain_of_a_draft_says_that_it_waits(home: Path) -> None:
    told = said(home, "explain", "draft")
    assert "DRAFT: it is not sealed yet" in told
    assert "fedward coordinator start" in told  # the service of this test does not run


def test_a_site_s_code_comes_with_its_remedy(federation: Federation, tmp_path: Path) -> None:
    made = federation.copy(tmp_path / "copy")
    key = made.store.create_study("b", heart_manifest(study={"id": "b"}).model_dump_json(), SITES, 0)
    made.store.set_standing(key, "va", "absent", "refused: no-data (reference 0123456789ab in its log)", None, 0)
    made.store.happened(
        key, Failed("too few sites take part. Expected at least the quorum of 3. Got 0.", "too-few-sites"), 0
    )
    told = said(made.home.path, "explain", "b")
    assert "no data is registered at the site for this study" in told
    assert "fedward site register" in told
    assert "fedward coordinator clone b --out b-again.toml" in told


def test_compare_sets_two_studies_side_by_side(home: Path) -> None:
    told = said(home, "compare", STUDY, "draft")
    assert "rounds: 3 in A, 5 in B" in told
    assert "title: Coronary disease from routine admission data in A, Another title in B" in told
    assert "hospitals: switzerland, va only in A" in told
    assert "AUROC" in told
    assert "Privacy of B: ε at most" in told
    found = good("coordinator", "compare", STUDY, "draft", "--home", home)
    assert found["a"]["losses"] == {"not-there": 3}
    assert found["only_a"] == ["switzerland", "va"]
    everybody = next(one for one in found["metrics"] if (one["slice"], one["name"]) == ("everybody", "auroc"))
    assert everybody["a"]["low"] < everybody["a"]["value"] < everybody["a"]["high"]
    assert everybody["b"] is None


def test_compare_of_a_study_with_itself(home: Path) -> None:
    assert "one and the same study" in said(home, "compare", STUDY, STUDY)


def test_clone_writes_a_draft_of_an_equal_manifest(federation: Federation, tmp_path: Path) -> None:
    out, home = tmp_path / "again.toml", federation.home.path
    told = said(home, "clone", STUDY, "--out", out)
    assert f"fedward coordinator propose {out}" in told
    assert load(out) == federation.sealed().manifest
    kept = out.read_bytes()
    assert "exists already" in fails(2, home, "clone", STUDY, "--out", out, "--id", "new").err
    assert out.read_bytes() == kept
    other = good("coordinator", "clone", STUDY, "--out", tmp_path / "new.toml", "--id", "new", "--home", home)
    assert other["study_id"] == load(tmp_path / "new.toml").study.id == "new"


def test_clone_under_an_id_that_is_none_writes_nothing(home: Path, tmp_path: Path) -> None:
    fails(3, home, "clone", STUDY, "--out", tmp_path / "new.toml", "--id", "No Id")
    assert list(tmp_path.iterdir()) == []


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_export_holds_the_record_and_the_same_bytes_each_time(federation: Federation, tmp_path: Path) -> None:
    home = federation.home.path
    for name in ("a", "b", "a.zip", "b.zip"):
        good("coordinator", "export", STUDY, "--out", tmp_path / name, "--home", home)
    made = files(tmp_path / "a")
    assert files(tmp_path / "b") == made
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == made
    assert digest(made["manifest.json"]) == federation.sealed().digest
    sums = {path: summed for summed, path in (line.split("  ") for line in made["SHA256SUMS"].decode().splitlines())}
    assert sums == {path: hashlib.sha256(data).hexdigest() for path, data in made.items() if path != "SHA256SUMS"}
    models = json.loads(made["models.json"])
    assert [model["version"] for model in models] == [0, 1, 2, 3]
    assert {model["file"] for model in models} == {path for path in made if path.startswith("models/")}
    assert len(made["journal.jsonl"].splitlines()) == len(federation.store.journal(federation.key))
    assert all(row["evidence"] for row in json.loads(made["standings.json"]))
    readme = made["README.txt"].decode()
    assert all(path in readme for path in made if "/" not in path and path != "README.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.zip", "b", "b.zip"]


def test_a_secure_exploration_is_explained_and_exported_with_answers_and_transcript(tmp_path: Path) -> None:
    made = Federation(tmp_path / "federation")
    allow(made)
    study = made.ready(heart_exploration(federation={"deadline": "20s", "grace": "5s"})).manifest.study.id
    made.run()
    told = said(made.home.path, "explain", study)
    assert "COMPLETED: it ran to its end: its questions are answered." in told
    assert "the questions: committed by all 4" in told
    out = tmp_path / "out"
    good("coordinator", "export", study, "--out", out, "--home", made.home.path)
    assert json.loads((out / "answers.json").read_bytes())
    assert good("audit", "transcript", out / "transcript.json", "--digest", made.sealed().digest)
    assert said(made.home.path, "clone", study, "--out", tmp_path / "again.toml")
    assert load(tmp_path / "again.toml") == made.sealed().manifest
    assert "one and the same" in said(made.home.path, "compare", study, study)


def test_export_replaces_nothing(home: Path, tmp_path: Path) -> None:
    for name in ("folder", "file.zip"):
        out = tmp_path / name
        out.mkdir() if name == "folder" else out.write_text("mine")
        assert "exists already" in fails(2, home, "export", STUDY, "--out", out).err
    assert (tmp_path / "file.zip").read_text() == "mine"


def test_export_holds_no_key_of_the_home(home: Path, tmp_path: Path) -> None:
    good("coordinator", "export", STUDY, "--out", tmp_path / "out", "--home", home)
    keys = [path.read_bytes() for path in (home / "keys").iterdir()]
    secrets = {line for key in keys for line in key.splitlines() if b"-----" not in line and len(line) > 20}
    assert secrets
    assert not any(secret in data for data in files(tmp_path / "out").values() for secret in secrets)


def test_a_damaged_model_ends_an_export_that_leaves_nothing(federation: Federation, tmp_path: Path) -> None:
    made = federation.copy(tmp_path / "copy")
    model = sorted(made.home.models_folder.iterdir())[-1]
    model.write_bytes(model.read_bytes()[:-4] + b"abcd")
    for name in ("out", "out.zip"):
        assert "model" in fails(5, made.home.path, "export", STUDY, "--out", tmp_path / name).err
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_the_record_is_read_from_another_machine(home: Path, tmp_path: Path) -> None:
    """A viewer's explanation, comparison and draft, and an auditor's archive, are those of the coordinator's machine."""
    with served(CoordinatorHome.open(home), tmp_path) as there:
        viewer, auditor = there.give("vera", "viewer"), there.give("aron", "auditor")
        here = good("coordinator", "explain", STUDY, "--home", home)
        told = good("coordinator", "explain", STUDY, "--home", viewer)
        assert {**told, "steps": []} == {**here, "steps": []}  # a step says whether the service runs
        assert said(viewer, "compare", STUDY, "draft") == said(home, "compare", STUDY, "draft")
        for where, name in ((viewer, "far.toml"), (home, "near.toml")):
            good("coordinator", "clone", STUDY, "--out", tmp_path / name, "--home", where)
        assert (tmp_path / "far.toml").read_bytes() == (tmp_path / "near.toml").read_bytes()
        fails(4, viewer, "export", STUDY, "--out", tmp_path / "out.zip")
        for where, name in ((auditor, "far.zip"), (home, "near.zip")):
            good("coordinator", "export", STUDY, "--out", tmp_path / name, "--home", where)
        assert (tmp_path / "far.zip").read_bytes() == (tmp_path / "near.zip").read_bytes()


@pytest.mark.parametrize(
    "command", [("explain",), ("compare", STUDY), ("clone", "--out", "x"), ("export", "--out", "x")], ids=str
)
def test_a_study_that_is_none_is_named_with_those_that_are(home: Path, command: tuple[str, ...]) -> None:
    told = fails(3, home, *command, "nothing")
    assert STUDY in told.err
    assert "fedward coordinator status" in told.err
