"""The manifest: what is unknown, incoherent or not a number is refused by name, and equal studies have equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.secagg.contexts import least_threshold
from fedward.study import manifest as module
from fedward.study import models
from fedward.study.heart import heart_folder
from fedward.study.kinds import parse_stored
from fedward.study.manifest import Manifest, SealedManifest, load, parse, parse_sealed, seconds

MINIMAL = """
[study]
id = "tiny"
title = "A tiny study"
[outcome]
column = "ill"
[[features]]
column = "age"
type = "numeric"
bounds = [0, 100]
[[features]]
column = "sex"
type = "categorical"
levels = ["female", "male"]
[model]
name = "logistic-regression"
[training]
algorithm = "fedsgd"
rounds = 2
[federation]
quorum = 2
[privacy]
mechanism = "dp-sgd"
epsilon = 3.0
delta = 1e-3
secure_aggregation = false
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """The heart study's data with one value replaced or added."""
    data: dict[str, Any] = load(heart_folder() / "study.toml").model_dump(mode="json")
    where: Any = data
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = to
    return data


def sealed_data(**changes: object) -> dict[str, Any]:
    base: dict[str, Any] = {
        "format": 1,
        "kind": "train",
        "manifest": heart_manifest(federation={"quorum": 2}).model_dump(mode="json"),
        "federation_id": "ab" * 16,
        "coordinator_key": "01" * 32,
        "roster": [
            {"site": "a", "identity_key": "02" * 32, "declared_patients": 100, "noise_multiplier": 4.5},
            {"site": "b", "identity_key": "03" * 32, "declared_patients": 200, "noise_multiplier": 6.5},
        ],
        "count_deviation": 0.0,
        "sealed_at": 1_900_000_000,
        "expires_at": 1_900_086_400,
    }
    return base | changes


def test_a_minimal_study_loads_with_its_defaults(tmp_path: Path) -> None:
    study = load(write(tmp_path, MINIMAL))
    assert (study.training.holdout, study.federation.deadline, study.counting.noised) == (0.33, "10min", True)
    assert study.planned_attempts == 2 + 2


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("training", "learning_rat"), 0.1, ("training.learning_rat", "misspelt")),
        (("privacy", "epsilon"), 0, ("privacy.epsilon", "greater than 0")),
        (("privacy", "epsilon"), -1.0, ("privacy.epsilon", "greater than 0")),
        (("privacy", "epsilon"), "3", ("privacy.epsilon", "valid number")),
        (("privacy", "epsilon"), True, ("privacy.epsilon", "valid number")),
        (("privacy", "epsilon"), None, ("needs epsilon and delta",)),
        (("privacy", "delta"), 1, ("privacy.delta", "less than 1")),
        (("privacy", "clipping_norm"), 0.0, ("privacy.clipping_norm", "greater than 0")),
        (("privacy", "noise"), "split", ("privacy.noise", "local")),
        (("privacy", "spare_attempts"), -1, ("privacy.spare_attempts",)),
        (("training", "algorithm"), "fedmagic", ("training.algorithm", "fedsgd")),
        (("training", "server_momentum"), 1, ("training.server_momentum", "less than 1")),
        (("training", "sampling_rate"), 0.5, ("fedsgd takes one full-batch step",)),
        (("training", "local_steps"), 2, ("fedsgd takes one full-batch step",)),
        (("training", "proximal"), 0.1, ("proximal belongs to fedprox",)),
        (("training", "rounds"), 0, ("training.rounds",)),
        (("training", "rounds"), 2.0, ("training.rounds",)),
        (("federation", "quorum"), 0, ("federation.quorum",)),
        (("federation", "deadline"), "soon", ("federation.deadline", "duration", "soon")),
        (("federation", "deadline"), "0s", ("federation.deadline", "duration")),
        (("federation", "deadline"), "9" * 400 + "d", ("federation.deadline", "366d")),
        (("features", 0, "bounds"), [100, 18], ("features.0", "rise")),
        (("features", 0, "bounds"), [18, 18], ("features.0", "rise")),
        (("features", 0, "bounds"), [18], ("features.0", "bounds")),
        (("features", 1, "levels"), ["male", "male"], ("features.1", "differ")),
        (("features", 1, "levels"), ["male"], ("features.1", "levels")),
        (("features", 1, "type"), "text", ("features.1", "numeric")),
        (("features", 1, "column"), "age", ("column twice", "age")),
        (("features", 1, "column"), "a b", ("features.1", "column")),
        (("outcome", "column"), "age", ("also a feature",)),
        (("study", "id"), "../etc", ("study.id",)),
        (("study", "id"), "heart\n", ("study.id",)),
        (("fairness", "groups"), [{"column": "race"}], ("race", "no feature")),
        (("fairness", "groups"), [{"column": "age"}], ("age", "cut")),
        (("fairness", "groups"), [{"column": "sex", "cut": [0, 1]}], ("sex", "leave out cut")),
        (("fairness", "groups"), [{"column": "age", "cut": [50, 50]}], ("rise",)),
        (("fairness", "groups"), [{"column": "sex"}, {"column": "sex"}], ("column twice",)),
        (("gates", "min_auroc"), 1.1, ("gates.min_auroc",)),
        (("surprise",), {}, ("surprise", "misspelt")),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_field(
    path: tuple[str, ...], value: object, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        parse(changed(*path, to=value))
    for word in words:
        assert word in caught.value.text()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("field", ["epsilon", "delta", "clipping_norm"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, field: str, value: str) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(field)]
    with pytest.raises(InputError, match=f"{field} is not a finite number"):
        load(write(tmp_path, "\n".join([*lines, f"{field} = {value}"])))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bounds_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="not a finite number"):
        parse(changed("features", 0, "bounds", to=[0, value]))


def test_negative_bounds_are_numbers_like_others() -> None:
    feature = parse(changed("features", 0, "bounds", to=[-5, -1])).features[0]
    assert feature.bounds == (-5.0, -1.0)


def test_secure_aggregation_left_out_is_on(tmp_path: Path) -> None:
    manifest = load(write(tmp_path, MINIMAL.replace("secure_aggregation = false\n", "")))
    assert manifest.privacy.secure_aggregation
    assert (manifest.privacy.colluders, manifest.privacy.ring_bits, manifest.privacy.update_bound) == (1, 32, None)


@pytest.mark.parametrize(
    ("sites", "colluders", "word"), [(2, 1, "3 to 200 sites"), (4, 3, "cannot withstand"), (3, 2, "cannot")]
)
def test_a_roster_that_cannot_keep_the_promise_is_refused(sites: int, colluders: int, word: str) -> None:
    """t − 2 honest shares at the least: with t = n, n sites withstand n − 2 that collude."""
    data = sealed_data()
    data["manifest"]["privacy"] |= {"secure_aggregation": True, "colluders": colluders}
    data["manifest"]["federation"]["quorum"] = 2
    data["roster"] = [
        {"site": f"site-{i}", "identity_key": f"{i:064x}", "declared_patients": 100, "noise_multiplier": 4.5}
        for i in range(sites)
    ]
    with pytest.raises(InputError, match=word):
        parse_sealed(canonical_json(data))


def test_no_mechanism_promises_no_epsilon() -> None:
    with pytest.raises(InputError, match="promises no epsilon"):
        parse(changed("privacy", "mechanism", to="none"))


def test_a_model_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError) as caught:
        models.build(heart_manifest(model={"name": "resnet-9000"}))
    assert "logistic-regression" in caught.value.text()


def test_a_column_that_is_also_a_pixel_is_refused() -> None:
    image = {"type": "image", "column": "scan", "shape": [1, 2, 2]}
    for name in ("scan_0", "scan_3"):
        data = changed("features", 0, "column", to=name)
        data["features"].append(image)
        data["fairness"]["groups"] = []
        with pytest.raises(InputError, match="pixel of the image"):
            parse(data)
    data["features"][0]["column"] = "scan_4"  # the image has pixels 0 to 3
    assert parse(data).features[0].column == "scan_4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[study", "is not TOML"),
        ("a = " + "[" * 20_000, "is not TOML"),
        ("a = " + "9" * 5_000, "is not TOML"),
        (MINIMAL.replace("rounds = 2", "rounds = 2020-01-01"), "rounds cannot be written canonically"),
    ],
    ids=["cut", "deep", "huge-number", "date"],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, text))
    assert words in caught.value.text()


@pytest.mark.parametrize("value", ["\ud800", [[["x"]]]], ids=["surrogate", "nested"])
def test_data_that_is_no_study_is_an_input_error(value: object) -> None:
    with pytest.raises(InputError):
        parse(changed("study", "title", to=value))


def test_data_nested_without_end_is_an_input_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError):
        parse(changed("study", "title", to=deep))


def test_a_file_over_the_size_bound_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL)
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", len(MINIMAL))
    assert load(path).study.id == "tiny"
    write(tmp_path, MINIMAL + "#")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match="too large"):
        load(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(MINIMAL.encode().replace(b"tiny study", b"t\xefny study"))
    with pytest.raises(InputError, match="not UTF-8"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest at"):
        load(tmp_path / "nothing.toml")


def test_the_stored_form_gives_the_same_study_back() -> None:
    study = heart_manifest()
    assert parse_stored(study.model_dump_json()) == study
    with pytest.raises(InputError, match="not a valid study"):
        parse_stored('{"study": 1}')


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("1.5 min", 90), ("2h", 7200), ("7d", 604_800)])
def test_durations_are_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


# --- sealed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roster": sealed_data()["roster"][:1]}, "quorum 2 exceeds the roster of 1"),
        ({"roster": sealed_data()["roster"][::-1]}, "alphabetical order"),
        ({"roster": [sealed_data()["roster"][0]] * 2}, "each site once"),
        ({"roster": [r | {"identity_key": "02" * 32} for r in sealed_data()["roster"]]}, "share one identity key"),
        ({"roster": [r | {"declared_patients": 0} for r in sealed_data()["roster"]]}, "declared_patients"),
        (
            {"roster": [r | {"noise_multiplier": 0.0} for r in sealed_data()["roster"]]},
            "noise_multiplier must be above 0",
        ),
        ({"roster": [r | {"noise_multiplier": -1.0} for r in sealed_data()["roster"]]}, "noise_multiplier"),
        ({"noise_multiplier": 4.5}, "noise_multiplier"),
        ({"expires_at": 1_900_000_000}, "after sealed_at"),
        ({"kind": "explore"}, "kind"),
        ({"format": 2}, "format"),
        ({"coordinator_key": "AB" * 32}, "coordinator_key"),
        ({"federation_id": "ab"}, "federation_id"),
        ({"note": "x"}, "note"),
    ],
)
def test_an_incoherent_seal_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_sealed(canonical_json(sealed_data(**change)))
    assert words in caught.value.text()


def test_the_study_digest_of_a_known_study_never_changes() -> None:
    """A golden value: an upgrade that digests the same study otherwise would void every approval."""
    small = parse(json.loads(GOLDEN_STUDY))
    sealed = parse_sealed(canonical_json(sealed_data(manifest=small.model_dump(mode="json"), count_deviation=3.5)))
    assert sealed.digest == digest(sealed.canonical) == GOLDEN_DIGEST


GOLDEN_STUDY = json.dumps(
    {
        "study": {"id": "golden", "title": "Größe und ε"},
        "outcome": {"column": "ill"},
        "features": [
            {"column": "age", "type": "numeric", "bounds": [18, 100.5], "unit": "years"},
            {"column": "sex", "type": "categorical", "levels": ["f", "m"]},
        ],
        "fairness": {"groups": [{"column": "sex"}, {"column": "age", "cut": [0, 50, 120]}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"algorithm": "fedprox", "rounds": 3, "proximal": 0.1, "local_steps": 2, "sampling_rate": 0.25},
        "federation": {"quorum": 2},
        "privacy": {"mechanism": "dp-sgd", "epsilon": 1, "delta": 1e-5, "secure_aggregation": False},
        "gates": {"min_auroc": 0.7},
    }
)
GOLDEN_DIGEST = "79ee01be5eeb4b5b8ea45458c93ba40aa0d244fc992673fd7ff29dec70a9c42f"


def test_equal_studies_have_equal_bytes_whatever_order_they_were_written_in() -> None:
    data = sealed_data()
    turned = dict(reversed(data.items()))
    assert canonical_json(data) == canonical_json(turned)
    assert SealedManifest.model_validate_json(json.dumps(turned)).digest == parse_sealed(canonical_json(data)).digest


@pytest.mark.parametrize(
    "edit", [lambda b: b + b" ", lambda b: b.replace(b'"kind"', b' "kind"'), lambda b: b.replace(b"4.5", b"4.50")]
)
def test_another_spelling_of_the_same_seal_is_refused(edit: Any) -> None:
    with pytest.raises(IntegrityError, match="canonical form"):
        parse_sealed(edit(canonical_json(sealed_data())))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_every_changed_byte_of_a_seal_is_refused_or_another_study(place: int, byte: int) -> None:
    data = bytearray(canonical_json(sealed_data()))
    place %= len(data)
    before, data[place] = data[place], byte
    try:
        sealed = parse_sealed(bytes(data))
    except FedwardError:
        return
    assert (sealed.digest == parse_sealed(canonical_json(sealed_data())).digest) == (before == byte)


def test_a_changed_copy_of_a_seal_is_another_study() -> None:
    sealed = parse_sealed(canonical_json(sealed_data()))
    before = sealed.digest
    later = sealed.model_copy(update={"sealed_at": sealed.sealed_at + 1})
    assert later.digest == digest(later.canonical) != before
    assert (sealed.digest, sealed.model_copy().digest) == (before, before)
    assert sealed == parse_sealed(sealed.canonical)  # what was computed is no part of it


def test_a_site_outside_the_roster_has_no_entry() -> None:
    sealed = parse_sealed(canonical_json(sealed_data()))
    assert sealed.entry("b").declared_patients == 200
    with pytest.raises(InputError, match="not in the roster"):
        sealed.entry("c")


def test_a_manifest_cannot_be_changed_once_made() -> None:
    study: Manifest = heart_manifest()
    with pytest.raises(ValueError, match="frozen"):
        study.privacy.epsilon = 100.0  # type: ignore[misc]


# --- shared noise -------------------------------------------------------------------------------------------------------

SHARED = {"noise": "shared", "secure_aggregation": True}


def test_a_study_may_choose_shared_noise() -> None:
    manifest = heart_manifest(privacy=SHARED)
    assert manifest.honest_sites == 2
    assert heart_manifest(privacy=SHARED | {"colluders": 2}, federation={"quorum": 5}).honest_sites == 3
    stepwise = {"algorithm": "fedavg", "local_steps": 1, "sampling_rate": 1.0}
    assert heart_manifest(privacy=SHARED, training=stepwise).privacy.noise == "shared"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": SHARED | {"secure_aggregation": False}}, "needs secure_aggregation"),
        ({"privacy": SHARED | {"mechanism": "none", "epsilon": None, "delta": None}}, "mechanism"),
        ({"privacy": SHARED | {"update_bound": 3.0}}, "update_bound"),
        ({"privacy": SHARED, "training": {"algorithm": "fedavg", "local_steps": 2}}, "one clipped sum a round"),
        ({"privacy": SHARED, "training": {"algorithm": "fedavg", "sampling_rate": 0.5}}, "one clipped sum a round"),
        ({"privacy": SHARED, "training": {"algorithm": "fedprox", "proximal": 0.1}}, "one clipped sum a round"),
    ],
)
def test_shared_noise_is_refused_where_it_has_no_meaning(changes: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        heart_manifest(**changes)


@given(st.integers(3, 200), st.integers(1, 60), st.integers(1, 200))
def test_every_sum_that_can_be_opened_has_the_honest_sites_that_noise_is_sized_for(
    members: int, colluders: int, quorum: int
) -> None:
    manifest = heart_manifest(privacy=SHARED | {"colluders": colluders}, federation={"quorum": quorum})
    threshold = least_threshold(members, colluders)
    if threshold <= members and quorum <= members:
        assert max(threshold, quorum) - colluders >= manifest.honest_sites >= 2
