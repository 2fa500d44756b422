"""A home in one file: a tar of a signed manifest and of files. What a site's backup and a coordinator's have in common.

manifest.json   what, when, of whom; every file's size and digest; the audit log as it stood; the signature
files/PATH      each file of the home
"""

from __future__ import annotations

import io
import itertools
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Final, Self, TypeVar

from pydantic import Field, ValidationError

from fedward.privacy.canonical import canonical_json
from fedward.privacy.durable import sync_folder
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, from_text, to_text, verify
from fedward.study.fields import Part
from fedward.study.manifest import HEX_KEY

MANIFEST: Final = "manifest.json"
FILES: Final = "files/"
_MOST_MANIFEST: Final = 64 * 2**20

M = TypeVar("M", bound="Manifest")


class File(Part):
    sha256: Annotated[str, Field(pattern=HEX_KEY)]
    size: Annotated[int, Field(ge=0)]


class Manifest(Part):
    """What a backup says of itself, whoever's it is."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    identity_key: Annotated[str, Field(pattern=HEX_KEY)]
    made_at: Annotated[int, Field(ge=0)]
    audit_size: Annotated[int, Field(ge=0)]
    audit_root: Annotated[str, Field(pattern=HEX_KEY)]
    files: dict[str, File]
    signature: Annotated[str, Field(max_length=100)] = ""

    def signed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"signature"}))

    def sign(self, identity: Identity) -> Self:
        return self.model_copy(update={"signature": to_text(identity.sign("backup", self.signed_bytes()))})

    def check_signature(self, whose: str) -> None:
        """By the key that it names; that this key is whom it should be of is for the caller to check.

        Raises:
            IntegrityError: `bad-signature`.
        """
        signature = from_text(self.signature, "the backup's signature")
        verify(self.identity_key, "backup", self.signed_bytes(), signature, f"the backup of {whose}")


def write_members(out: IO[bytes], manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    """Write the manifest and the files that it names, read one after the other."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        data = manifest.model_dump_json(indent=1).encode()
        tar.addfile(_info(MANIFEST, len(data), manifest), io.BytesIO(data))
        for name, file in sorted(files.items()):
            info = _info(FILES + name, manifest.files[name].size, manifest)
            if isinstance(file, bytes):
                tar.addfile(info, io.BytesIO(file))
            else:
                with file.open("rb") as content:
                    tar.addfile(info, content)


def members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """A backup's members as they follow one another, each to be read before the next. Raises: ValueError for one that is no plain
    file, stands there twice, or is none of a backup's; tarfile's own errors."""
    seen: set[str] = set()
    for info in tar:
        content = tar.extractfile(info) if info.isreg() else None
        if content is None or info.name in seen or not (info.name == MANIFEST or info.name.startswith(FILES)):
            raise ValueError("no member of a backup")
        if info.name == MANIFEST and info.size > _MOST_MANIFEST:
            raise ValueError("no manifest")
        seen.add(info.name)
        yield info.name, content


def parse_manifest(kind: type[M], path: Path, data: bytes) -> M:
    """
    Raises:
        InputError: it is none that this version can read.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        newer = re.search(rb'"format": ?([0-9]+)', data)
        got = (
            f"format {newer[1].decode()}"
            if newer and newer[1] != b"1"
            else f"{error.error_count()} faults in its manifest"
        )
        raise InputError(
            f"{path} is no backup that this version can read",
            expected="a backup of format 1",
            got=got,
            remedy="use the version that made it, or a newer one; docs/compatibility.md",
        ) from None


def unreadable(path: Path, command: str, error: Exception) -> InputError:
    """What is no tar of a backup."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return InputError(f"{path} cannot be read as a backup", expected=f"a file of `{command}`", got=why)


def check_file(manifest: Manifest, name: str, found: str | None) -> None:
    """Hold a file's SHA-256 against the manifest's; None where it is missing.

    Raises:
        IntegrityError: `bad-backup`.
    """
    known = manifest.files.get(name)
    if not _is_plain(name) or known is None or known.sha256 != found:
        raise IntegrityError(
            f"the backup's file {name} was changed, added or left out",
            expected="the files of its signed manifest",
            remedy="use another backup",
            code="bad-backup",
        )


def swap(draft: Path, path: Path) -> Path | None:
    """Put a folder in the place of another, which is moved aside, never removed; where it is now."""
    moved = _free_name(path) if path.exists() else None
    if moved is not None:
        path.rename(moved)
    draft.rename(path)
    sync_folder(path.resolve().parent)
    return moved


def _free_name(path: Path) -> Path:
    return next(
        name for number in itertools.count(1) if not (name := path.with_name(f"{path.name}.replaced-{number}")).exists()
    )


def _info(name: str, size: int, manifest: Manifest) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, manifest.made_at
    return info


def _is_plain(name: str) -> bool:
    """A path below the home and nowhere else."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and path.as_posix() == name and not {"..", "."} & set(path.parts)
