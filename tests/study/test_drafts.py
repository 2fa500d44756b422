"""A draft in TOML is the manifest that it was made from, whatever an author wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exploring import heart_exploration
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.study.drafts import draft, renamed
from fedward.study.kinds import AnyManifest, load
from fedward.study.manifest import parse

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
NUMBER = st.floats(min_value=1e-12, max_value=1e12, allow_nan=False)


@st.composite
def manifests(draw: st.DrawFn) -> AnyManifest:
    """Studies whose texts and numbers are anything that a manifest may hold."""
    data: dict[str, Any] = heart_manifest().model_dump(mode="json")
    data["study"] |= {"title": draw(TEXT.map(lambda text: f"abc{text}")), "description": draw(TEXT)}
    data["outcome"]["description"] = draw(TEXT)
    data["features"] = data["features"][: draw(st.integers(4, len(data["features"])))]
    data["features"][0]["unit"] = draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
    data["features"][0]["bounds"] = sorted(draw(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2, unique=True)))
    data["fairness"] = {
        "groups": draw(st.sampled_from([[], [{"column": data["features"][0]["column"], "cut": [0.0, 1e-3, 5.0]}]]))
    }
    data["privacy"] |= {"clipping_norm": draw(NUMBER), "spare_attempts": draw(st.integers(0, 1000))}
    data["privacy"]["update_bound"] = draw(st.none() | NUMBER)
    data["training"] |= {"server_learning_rate": draw(NUMBER), "rounds": draw(st.integers(1, 10_000))}
    data["federation"]["deadline"] = draw(st.sampled_from(["1s", "2.5 min", "3h", "366d"]))
    data["gates"] = {"min_auroc": draw(st.none() | st.floats(0, 1))}
    return parse(data)


@settings(max_examples=30)
@given(manifest=manifests(), comment=TEXT)
def test_a_draft_reads_back_as_the_same_manifest(
    manifest: AnyManifest, comment: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "draft.toml"
    file.write_bytes(draft(manifest, comment))
    assert load(file) == manifest
    assert load(file).canonical == manifest.canonical


@pytest.mark.parametrize(
    "manifest", [heart_manifest(secure=True, noised=True), heart_exploration()], ids=["study", "exploration"]
)
def test_a_renamed_draft_differs_in_the_id_alone(manifest: AnyManifest, tmp_path: Path) -> None:
    file = tmp_path / "draft.toml"
    file.write_bytes(draft(renamed(manifest, "another-id"), "a comment"))
    read = load(file)
    assert read.study.id == "another-id"
    assert renamed(read, manifest.study.id) == manifest
    assert renamed(manifest, None) == manifest


def test_an_id_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="study"):
        renamed(heart_manifest(), "No Id!")
