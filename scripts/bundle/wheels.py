"""The wheels of a kit: pip's own resolution of Fedward under constraints.txt, each read for its name, version and hash."""

from __future__ import annotations

import email.parser
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.errors import InputError, UnreachableError

ACCELERATORS = re.compile(r"(nvidia|triton|cuda)")  # gigabytes that a node never uses
_FILE_NAME = re.compile(r"[A-Za-z0-9_.+!-]+\.whl")
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class Wheel:
    """One wheel: its project's normalised name (PEP 503), version, and the SHA-256 of the file."""

    path: Path
    name: str
    version: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Raises: InputError if the file is no wheel."""
        try:
            with zipfile.ZipFile(path) as archive:
                place = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
                metadata = email.parser.BytesParser().parsebytes(archive.read(place))
        except (zipfile.BadZipFile, StopIteration):
            raise InputError(f"{path.name} is no wheel") from None
        if not _FILE_NAME.fullmatch(path.name):
            raise InputError(f"a wheel's file name is odd: {path.name!r}", expected="letters, digits and _ . + ! -")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, normalised(metadata["Name"]), metadata["Version"], sha256)

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that it runs on (PEP 600), (0, 0) if it does not matter."""
        platform = self.path.stem.rsplit("-", 1)[-1]
        needs = [(int(major), int(minor)) for major, minor in _GLIBC.findall(platform)]
        needs += [version for old, version in _OLD_GLIBC.items() if f"{old}_" in platform]
        return min(needs, default=(0, 0))


def normalised(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def collect(root: Path, folder: Path, epoch: int) -> list[Wheel]:
    """Fedward's wheel, everything it needs, and pip to install it with, by name.

    What has no wheel is built into one here, as the hospital has no compiler's worth of build tools.

    Raises:
        UnreachableError: pip cannot get or build a wheel.
        InputError: a wheel is not of the tested set, or is for an accelerator.
    """
    constraints = root / "constraints.txt"
    pins = dict(line.split("==", 1) for line in constraints.read_text(encoding="utf-8").split())
    torch = f"torch=={pins['torch']}"  # spelled as the Makefile does: it finds the CPU build where one is offered
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--disable-pip-version-check",
        "--wheel-dir",
        str(folder),
    ]
    command += ["--constraint", str(constraints), torch, "pip", str(root)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - our own pip
    if done.returncode != 0:
        remedy = "see what it says above; a kit is made where there is a registry"
        raise UnreachableError("pip could not collect the wheels", remedy=remedy)
    found = sorted((Wheel.read(path) for path in folder.iterdir()), key=lambda wheel: wheel.name)
    _check(found, {normalised(name): version for name, version in pins.items()})
    return found


def _check(found: list[Wheel], pins: dict[str, str]) -> None:
    """Raises: InputError for what nobody tested, and for an accelerator's gigabytes."""
    accelerators = [wheel.name for wheel in found if ACCELERATORS.match(wheel.name)]
    if accelerators:
        raise InputError(
            "torch came with an accelerator's libraries",
            expected="torch's CPU build",
            got=", ".join(accelerators),
            remedy="PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make bundle",
        )
    untested = [
        f"{w.name} {w.version}"
        for w in found
        if w.name != "fedward" and w.version.partition("+")[0] != pins.get(w.name)
    ]
    if untested:
        raise InputError("not of the tested set", got=", ".join(untested), remedy="pin and test it in constraints.txt")
