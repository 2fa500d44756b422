"""Both kinds of study, where either may come: which of the two a file, a stored text or sealed bytes hold.

An exploration has `queries`, a study that trains has none; once sealed, `kind` says which. One signature, one digest, one roster
and one approval serve both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from fedward.privacy.errors import InputError
from fedward.study import manifest as training
from fedward.study.exploration import Exploration, SealedExploration, parse_exploration
from fedward.study.manifest import Manifest, SealedManifest, explain, read_toml

AnyManifest: TypeAlias = Manifest | Exploration
AnySealed: TypeAlias = SealedManifest | SealedExploration

_SEALED: TypeAdapter[AnySealed] = TypeAdapter(Annotated[AnySealed, Field(discriminator="kind")])


def load(path: Path) -> AnyManifest:
    """Read a study's TOML file, of either kind.

    Raises:
        InputError: the file is missing, too large, not TOML, or no manifest.
    """
    data = read_toml(path, "manifest")
    return parse_exploration(data, path.name) if "queries" in data else training.parse(data, path.name)


def parse_stored(text: str) -> AnyManifest:
    """A manifest from the JSON of `model_dump_json`.

    Raises:
        InputError: it is no valid manifest.
    """
    try:
        data = json.loads(text)
        explores = isinstance(data, dict) and "queries" in data
        return (Exploration if explores else Manifest).model_validate_json(text)
    except ValidationError as error:
        raise InputError("not a valid study", got=explain(error)) from None
    except (ValueError, RecursionError):
        raise InputError("not a valid study", got="no JSON") from None


def parse_draft(data: bytes) -> AnyManifest:
    """A manifest from its canonical bytes, before it is sealed.

    Raises:
        InputError: it is no valid manifest, or not in canonical form.
    """
    manifest = parse_stored(data.decode(errors="replace"))
    if manifest.canonical != data:
        raise InputError("the drafted study is not in canonical form")
    return manifest


def parse_sealed(data: bytes) -> AnySealed:
    """A sealed manifest of either kind, from its canonical bytes; errors as `manifest.parse_canonical`."""
    return training.parse_canonical(_SEALED, data)
