"""Small durable files: written whole or not at all, secrets with checked permissions, JSON with bounds."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fedward.privacy.durable import disk_error, replace_file, sync_folder
from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.study.fields import Part
from fedward.study.manifest import explain, read_text

P = TypeVar("P", bound=Part)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file so that a crash leaves the old or the new one, never a part; durable on return.

    Raises:
        UnreachableError: code `disk`: the disk is full or the folder cannot be written.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, mode)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, f"cannot write {path}") from None


def write_new(path: Path, data: bytes) -> None:
    """A file (0600) that was not there before, durable on return.

    Raises:
        UsageError: something is there already.
        UnreachableError: the disk is full or the folder cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
        sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists already", remedy="give a file that does not exist") from None
    except OSError as error:
        raise disk_error(error, f"cannot write {path}") from None


def write_secret(path: Path, data: bytes) -> None:
    """A file that only its owner reads (0600), in a folder that only its owner enters (0700)."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
    write_atomic(path, data, 0o600)


def read_secret(path: Path, what: str) -> bytes:
    """A secret's bytes.

    Raises:
        InputError: there is none.
        IntegrityError: others than its owner may read it.
    """
    if not path.is_file():
        raise InputError(f"no {what} at {path}", remedy="run the init command first")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IntegrityError(
            f"{what} may be read by others",
            expected="mode 0600",
            got=oct(stat.S_IMODE(path.stat().st_mode)),
            remedy=f"chmod 600 {path}, and make new keys, or a new passphrase, if others had access",
        )
    return path.read_bytes()


def read_json(path: Path, what: str) -> Any:
    """Parsed JSON of a bounded file.

    Raises:
        InputError: missing, too large, or not JSON.
    """
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise InputError(f"{path.name} is not JSON", expected=what, got=f"line {error.lineno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number with thousands of digits
        raise InputError(f"{path.name} is not JSON", expected=what, got=type(error).__name__) from None


def read_model(path: Path, kind: type[P], what: str) -> P:
    """A strict model from a JSON file.

    Raises:
        InputError: missing, not JSON, or not what it must be.
    """
    try:
        return kind.model_validate_json(read_text(path, what))
    except ValidationError as error:
        raise InputError(
            f"{path.name} is no {what}", got=explain(error), remedy="ask its sender for a fresh copy"
        ) from None
