"""Where a peer is installed: a virtual environment of its own, made once, kept in the git-ignored folder `.bench`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.peer_processes import NotMeasuredError, finish

HERE = Path(__file__).resolve().parents[1] / ".bench"
INSTALL_S = 20 * 60.0
LOOK_S = 30.0


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: its folder; empty for Fedward's own environment, in which nothing is installed.
        least: the oldest Python that will do.
    """

    name: str
    least: tuple[int, int] = (3, 11)

    def ready(self, peer: str, packages: tuple[str, ...], here: Path = HERE) -> Path:
        """The environment's Python, with a peer's packages installed beside the torch that Fedward has.

        Raises:
            NotMeasuredError: there is no such Python, or pip failed; its text is the last line of the error.
        """
        if not self.name:
            return Path(sys.executable)
        program, noted = here / self.name / "bin" / "python", here / self.name / f".ready-{peer}"
        # The version without "+cpu", which only some indexes have.
        wanted = (f"torch=={version('torch').partition('+')[0]}", *packages)
        if noted.exists() and noted.read_text() == "\n".join(wanted):
            return program
        print(f"peers.{peer}: installing {', '.join(packages)} in {here.name}/{self.name}", file=sys.stderr, flush=True)
        if not program.exists():
            finish([str(python(self.least)), "-m", "venv", str(here / self.name)], INSTALL_S, dict(os.environ))
        finish([str(program), "-m", "pip", "install", "--quiet", *wanted], INSTALL_S, _for_pip())
        noted.write_text("\n".join(wanted))
        return program


OURS = Environment("")
PYTHON_312 = Environment("python3.12", (3, 12))


def python(least: tuple[int, int]) -> Path:
    """A Python of at least this version: this one, FEDWARD_PYTHON312's, one on the PATH, or one of pyenv's.

    Raises:
        NotMeasuredError: there is none.
    """
    for found in _candidates():
        if _is_at_least(found, least):
            return found
    wanted = ".".join(map(str, least))
    raise NotMeasuredError(f"no Python {wanted} or newer here; name one in FEDWARD_PYTHON312")


def _candidates() -> list[Path]:
    named = [os.environ.get("FEDWARD_PYTHON312"), *(shutil.which(f"python3.{minor}") for minor in (12, 13))]
    return [Path(sys.executable), *(Path(name) for name in named if name), *_of_pyenv()]


def _of_pyenv() -> list[Path]:
    if not shutil.which("pyenv"):
        return []
    try:
        root = finish(["pyenv", "root"], LOOK_S, dict(os.environ)).strip()
    except NotMeasuredError:
        return []
    return sorted(Path(root).glob("versions/3.12.*/bin/python"))


def _is_at_least(program: Path, least: tuple[int, int]) -> bool:
    # pyenv puts a python3.12 on the PATH that only says that it is not chosen.
    asked = [str(program), "-c", f"import sys; sys.exit(sys.version_info[:2] < {least})"]
    try:
        return subprocess.run(asked, capture_output=True, timeout=LOOK_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _for_pip() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return own | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
