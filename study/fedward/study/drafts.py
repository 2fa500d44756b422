"""A study's TOML draft out of its manifest: ready to edit and to propose again."""

from __future__ import annotations

import tomllib

import tomli_w

from fedward.privacy.errors import IntegrityError
from fedward.study.exploration import Exploration, parse_exploration
from fedward.study.kinds import AnyManifest
from fedward.study.manifest import Manifest, parse


def renamed(manifest: AnyManifest, new_id: str | None) -> AnyManifest:
    """The manifest under another id, or as it is without one.

    Raises:
        InputError: no study may have that id.
    """
    data = manifest.model_dump(mode="json")
    if new_id is not None:
        data["study"]["id"] = new_id
    return _parsed(manifest, data)


def continued(manifest: Manifest, start: str, rounds: int, spare_attempts: int | None = None) -> Manifest:
    """A version of a study that goes on from a committed model, with so many rounds of its own, all to be approved and paid anew.

    Raises:
        InputError: no study may be so.
    """
    data = manifest.model_dump(mode="json")
    data["model"]["start"] = start
    data["training"]["rounds"] = rounds
    if spare_attempts is not None:
        data["privacy"]["spare_attempts"] = spare_attempts
    return parse(data, "the draft")


def draft(manifest: AnyManifest, comment: str = "") -> bytes:
    """TOML that parses to an equal manifest, with comment lines before it.

    Raises:
        IntegrityError: it would parse to another one.
    """
    text = tomli_w.dumps(manifest.model_dump(mode="json", exclude_none=True))
    if _parsed(manifest, tomllib.loads(text)) != manifest:
        raise IntegrityError(
            f'study "{manifest.study.id}" cannot be written as TOML', remedy="write the draft from the study's own file"
        )
    # TOML's comments hold no control characters.
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in comment.splitlines()]
    lead = "".join(f"# {line}\n" for line in lines)
    return f"{lead}\n{text}".encode() if lead else text.encode()


def _parsed(like: AnyManifest, data: dict[str, object]) -> AnyManifest:
    if isinstance(like, Exploration):
        return parse_exploration(data, "the draft")
    return parse(data, "the draft")
