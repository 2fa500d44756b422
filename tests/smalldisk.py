"""A small tmpfs that is really filled and freed: a full disk as a hospital meets it, every write after that instant failing."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of its own at an empty or filled folder, whose files it then holds; leaving the `with` block unmounts it."""

    def __init__(self, folder: Path, size: int = 16) -> None:
        """`size`: of the file system, in MiB."""
        self.folder, self.size = folder, size
        self._umount = shutil.which("umount")

    def __enter__(self) -> SmallDisk:
        mount = shutil.which("mount")
        if mount is None or self._umount is None or os.geteuid() != 0:
            pytest.skip("only root may mount a tmpfs; elsewhere every write is made to fail without one")
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder.with_name(f"{self.folder.name}.aside")
        self.folder.rename(aside)
        self.folder.mkdir(0o700)
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={self.size}m,mode=700", "tmpfs", str(self.folder)], check=False
        )
        if done.returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        shutil.copytree(aside, self.folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()  # a command that ran in this process may have left a connection in a cycle
        subprocess.run([str(self._umount), str(self.folder)], check=True)

    def fill(self, _place: str = "", _database: bool = False) -> None:
        """Somebody else's file takes all that is left. A `mortal.Blow`."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """And somebody makes room again."""
        self._filler.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        return self._filler.exists()

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"
