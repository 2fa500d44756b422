"""One member of a downloaded zip file, with a bound on what it may unfold to."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from fedward.privacy.errors import InputError

MOST_BYTES = 512_000_000
"""A member is read into memory whole; what claims to unfold to more is refused before it is opened."""


def member(archive: Path, name: str, most: int = MOST_BYTES) -> bytes:
    """A member's bytes, found by its file name in whatever folder of the archive it lies.

    Args:
        archive: the zip file.
        name: the member's file name.
        most: bytes that it may unfold to.

    Raises:
        InputError: the file is no zip file, is damaged or encrypted, has no such member or several, or the member is too large.
    """
    flaw, data = "", b""
    try:
        with zipfile.ZipFile(archive) as opened:
            found = _find(archive, opened, name)
            if found.file_size > most:
                raise InputError(
                    f"{name} in {archive.name} is too large",
                    expected=f"at most {most} bytes",
                    got=f"{found.file_size} bytes",
                )
            with opened.open(found) as unfolded:
                # Asked for no more than the stated size, zipfile unfolds no more; a size that lies then fails the checksum.
                data = unfolded.read(found.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        flaw = str(error) or "it ends too early"
    except RuntimeError:
        flaw = "it is encrypted"
    except (OSError, NotImplementedError, ValueError) as error:
        flaw = str(error)
    if flaw:
        raise InputError(
            f"{archive.name} cannot be read as a zip file",
            got=flaw,
            remedy="download it again, or unpack it and name the file in it",
        )
    return data


def _find(archive: Path, opened: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member, those aside that macOS adds."""
    files = [info for info in opened.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
    found = [info for info in files if Path(info.filename).name == name]
    if len(found) != 1:
        raise InputError(
            f"{archive.name} has {'several files' if found else 'no file'} {name}",
            expected="exactly one",
            got=", ".join(Path(info.filename).name for info in files[:10]) or "an empty archive",
        )
    return found[0]
