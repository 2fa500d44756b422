"""The kit's folder: a lock, an installer, the documentation, SHA256SUMS over every file, and a signature over that."""

from __future__ import annotations

import hashlib
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward.privacy.errors import InputError
from scripts.bundle import release_key
from scripts.bundle.wheels import Wheel

EARLIEST = 315_532_800  # 1980-01-01, the earliest time that a zip can hold
SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "release-key.pem"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class About:
    """What install.sh must know before it installs: the file KIT, one `name=value` a line."""

    version: str
    python: str
    platform: str
    glibc: str
    commit: str

    @classmethod
    def of(cls, wheels: Sequence[Wheel], *, commit: str) -> About:
        """Of wheels that were collected by this very Python."""
        version = next((wheel.version for wheel in wheels if wheel.name == "fedward"), None)
        if version is None:
            raise InputError("a kit without Fedward", expected="its wheel")
        glibc = max((wheel.glibc for wheel in wheels), default=(0, 0))
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return cls(version, python, sysconfig.get_platform(), f"{glibc[0]}.{glibc[1]}", commit)

    @property
    def name(self) -> str:
        """The kit's folder."""
        return f"fedward-{self.version}-offline-cp{self.python.replace('.', '')}-{self.platform}"

    def text(self) -> str:
        return "".join(f"{name}={value}\n" for name, value in vars(self).items())


def complete(folder: Path, wheels: Sequence[Wheel], about: About, root: Path) -> None:
    """Everything beside wheels and bill: the lock, KIT, installer, README, licence and documentation."""
    lock = "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
    (folder / "requirements.lock").write_text(lock, encoding="utf-8")
    (folder / "KIT").write_text(about.text(), encoding="utf-8")
    for name in ("install.sh", "README.txt"):
        shutil.copyfile(_HERE / name, folder / name)
    shutil.copyfile(root / "LICENSE", folder / "LICENSE")
    for path in (root / "docs").rglob("*"):
        if path.suffix in {".md", ".svg"}:
            target = folder / "docs" / path.relative_to(root / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the public key, the sums over every file, and the signature over the sums' bytes.

    The form is RFC 8032's plain Ed25519, 64 raw bytes: `openssl pkeyutl -verify -rawin` of OpenSSL 3 verifies it.
    """
    (folder / PUBLIC_KEY).write_bytes(release_key.public_pem(key))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in names if name not in {SUMS, SIGNATURE})
    (folder / SUMS).write_text(sums, encoding="utf-8")
    (folder / SIGNATURE).write_bytes(key.sign(sums.encode()))


def pack(folder: Path, epoch: int) -> Path:
    """The folder as a tar, the same bytes for the same files: sorted, of nobody, of one time."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        entry.mode = 0o755 if entry.isdir() or entry.name.endswith(".sh") else 0o644
        return entry

    archive = folder.with_name(folder.name + ".tar")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, folder.name, recursive=False, filter=plain)
        for path in sorted(folder.rglob("*")):
            tar.add(path, f"{folder.name}/{path.relative_to(folder).as_posix()}", recursive=False, filter=plain)
    return archive


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
