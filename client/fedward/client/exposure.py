"""Which files of a site's home others than its owner can reach, as the file system's permissions say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_KEYS = ("keys", "rotation", "rotation.previous", "approvers")
_OPEN = ("incidents", "opened")
"""Folders of what the coordinator sent or was told, signed and without a secret."""


def exposed(home: Path) -> list[str]:
    """Files that others can read although they are private, or write whichever they are, by their path in the home.

    A key counts as exposed by its own permissions alone; anything else only if its folders let others in as well.
    """
    found = []
    for path, mode, inside in _walk(home):
        name = path.relative_to(home).as_posix()
        is_key = path.relative_to(home).parts[0] in _KEYS
        reads = mode & 0o077 if stat.S_ISDIR(mode) is False else 0
        if stat.S_ISDIR(mode):
            if (is_key and mode & 0o077) or (inside and mode & 0o022):
                found.append(f"{name}/")
        elif (is_key and reads) or (inside and (mode & 0o022 or (mode & 0o044 and not _public(path, home)))):
            found.append(name)
    return sorted(found)


def foreign(home: Path) -> list[str]:
    """Files that belong to another user than this process's; empty for root, who may read them all."""
    me = os.geteuid()
    return sorted(path.relative_to(home).as_posix() for path, _, _ in _walk(home) if path.lstat().st_uid != me)


def _public(path: Path, home: Path) -> bool:
    """What a person hands on or edits lies in the home itself: requests, kits, the policy. The ledger does too."""
    if path.parent == home:
        return not path.name.startswith("ledger")
    return path.relative_to(home).parts[0] in _OPEN


def _walk(home: Path) -> Iterator[tuple[Path, int, bool]]:
    """Every file and folder below the home with its mode, and whether others get to it through the folders above."""
    root = home.stat().st_mode
    yield from _below(home, bool(root & 0o011))


def _below(folder: Path, inside: bool) -> Iterator[tuple[Path, int, bool]]:
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        yield path, mode, inside
        if stat.S_ISDIR(mode):
            yield from _below(path, inside and bool(mode & 0o011))
