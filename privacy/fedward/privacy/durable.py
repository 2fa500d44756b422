"""Files that a crash leaves old or new, never in part: the one way in which Fedward replaces a file."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from fedward.privacy.errors import UnreachableError

_NO_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""What the kernel says of a disk that takes nothing more: full, over its quota, read-only, broken."""


def disk_error(error: OSError, what: str) -> UnreachableError:
    """The error `disk`: that something cannot be written. What the system says of it is in it, no content."""
    return UnreachableError(
        what,
        got=os.strerror(error.errno or 0),
        remedy="free disk space or correct the permissions, then try again; what was recorded before is whole",
        code="disk",
    )


def is_disk_error(error: BaseException) -> bool:
    """Whether an error that nobody translated says that the disk takes nothing more."""
    return isinstance(error, OSError) and error.errno in _NO_DISK


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Replaces a file's content in one step, with the permissions `mode`; durable on return.

    Raises:
        OSError: as the file system says; the old file stands, unless it was the folder that could not be synced.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: what was created, renamed or removed there."""
    if os.name != "posix":
        return  # Windows has no handle of a folder to sync; its rename is journalled
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_folder(source: Path, target: Path) -> None:
    """A folder with all that is in it, dates and permissions too. Not synced.

    Raises:
        OSError: the first failure, as the file system says it; `shutil.copytree` goes on, and tells them all without their `errno`.
            What was copied so far is left.
    """
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            copy_folder(entry, target / entry.name)
        else:
            shutil.copy2(entry, target / entry.name)
    shutil.copystat(source, target)
