"""Which kind of study a file, a stored text, a draft or sealed bytes hold; and that one is never taken for the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from exploring import heart_exploration
from federation import heart_manifest

from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError, IntegrityError
from fedward.study import manifest as training
from fedward.study.exploration import Exploration, SealedExploration, load_exploration
from fedward.study.heart import heart_folder
from fedward.study.kinds import AnyManifest, load, parse_draft, parse_sealed, parse_stored
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest

BOTH = [heart_manifest(secure=True), heart_exploration()]


def seal(manifest: AnyManifest, noise: float = 4.0) -> SealedManifest | SealedExploration:
    kind = SealedExploration if isinstance(manifest, Exploration) else SealedManifest
    roster = [
        RosterEntry(site=f"s{i}", identity_key=f"{i:064x}", declared_patients=100, noise_multiplier=noise)
        for i in range(4)
    ]
    return kind(
        manifest=manifest,
        federation_id="0" * 32,
        coordinator_key="0" * 64,
        roster=tuple(roster),
        sealed_at=0,
        expires_at=1,
    )  # type: ignore[arg-type]


def test_a_file_says_its_kind() -> None:
    assert isinstance(load(heart_folder() / "study.toml"), Manifest)
    assert isinstance(load(heart_folder() / "explore.toml"), Exploration)


def test_a_study_is_no_exploration_and_the_other_way_round(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a valid exploration"):
        load_exploration(heart_folder() / "study.toml")
    with pytest.raises(InputError, match="not a valid study"):
        training.load(heart_folder() / "explore.toml")
    mixed = tmp_path / "mixed.toml"
    mixed.write_text((heart_folder() / "study.toml").read_text() + '\n[[queries]]\nkind = "count"\nname = "all"\n')
    with pytest.raises(InputError, match="not a valid exploration"):
        load(mixed)


@pytest.mark.parametrize("manifest", BOTH, ids=["train", "explore"])
def test_what_is_stored_drafted_or_sealed_comes_back_as_it_was(manifest: AnyManifest) -> None:
    assert parse_stored(manifest.model_dump_json()) == manifest
    assert parse_draft(manifest.canonical) == manifest
    sealed = seal(manifest)
    assert parse_sealed(sealed.canonical) == sealed
    with pytest.raises(InputError, match="canonical"):
        parse_draft(manifest.canonical + b" ")
    with pytest.raises(IntegrityError, match="canonical"):
        parse_sealed(sealed.canonical + b" ")


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"queries": []}', '{"study": {}}', '"queries"'])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_stored(text)
    with pytest.raises(InputError):
        parse_sealed(text.encode())


@pytest.mark.parametrize("manifest", BOTH, ids=["train", "explore"])
def test_a_sealed_kind_must_fit_what_is_sealed(manifest: AnyManifest) -> None:
    data = seal(manifest).model_dump(mode="json")
    data["kind"] = "train" if data["kind"] == "explore" else "explore"
    with pytest.raises(InputError, match="not a sealed manifest"):
        parse_sealed(canonical_json(data))
    data["kind"] = "publish"
    with pytest.raises(InputError, match="not a sealed manifest"):
        parse_sealed(canonical_json(data))


def test_no_exploration_is_sealed_without_noise() -> None:
    with pytest.raises(ValueError, match="answered with noise alone"):
        seal(heart_exploration(), noise=0.0)
