"""A miniature offline kit: a program called fedward that does nothing, one dependency, and pip."""

from __future__ import annotations

import ensurepip
import shutil
import subprocess
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward.privacy.signing import fingerprint
from scripts.bundle import kit, release_key
from scripts.bundle.wheels import Wheel

ROOT = Path(__file__).parents[1]
VERSION = "9.8.7"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
FINGERPRINT = fingerprint(release_key.public(KEY))
EPOCH = 1_700_000_000


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def wheel(folder: Path, name: str, version: str, *, needs: str = "", code: str = "", tag: str = "py3-none-any") -> Path:
    """A wheel of one module; `code` is its text, and its `main` the console script of the wheel's name."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n"
    members = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n" if code else "",
    }
    members[f"{info}/RECORD"] = "".join(f"{place},,\n" for place in (*members, f"{info}/RECORD"))
    path = folder / f"{name}-{version}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in members.items():
            archive.writestr(zipfile.ZipInfo(place), text)
    return path


def pip_wheel() -> Path:
    """The wheel of pip that this Python carries to make environments."""
    folders = [
        Path(ensurepip.__file__).parent / "_bundled",
        Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/nowhere"),
    ]
    found = [path for folder in folders for path in folder.glob("pip-*.whl")]
    if not found:
        pytest.skip("this Python carries no wheel of pip")
    return found[0]


def unsigned(folder: Path) -> list[Wheel]:
    """The kit's files, without sums and signature; its wheels."""
    program = f"import dependency\ndef main():\n    print('fedward', dependency.__name__ and '{VERSION}')\n"
    wheel(folder / "wheels", "fedward", VERSION, needs="dependency", code=program)
    wheel(folder / "wheels", "dependency", "1.0")
    shutil.copyfile(pip_wheel(), folder / "wheels" / pip_wheel().name)
    wheels = sorted((Wheel.read(path) for path in (folder / "wheels").iterdir()), key=lambda one: one.name)
    kit.complete(folder, wheels, kit.About.of(wheels, commit="abc"), ROOT)
    (folder / "sbom.cdx.json").write_text("{}")
    return wheels


def miniature(folder: Path) -> Path:
    """A whole kit, signed by KEY."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here, with which install.sh verifies")
    unsigned(folder)
    kit.sign(folder, KEY)
    return folder


def install(folder: Path, *arguments: object, **environment: str) -> Ran:
    """Run the kit's install.sh."""
    command = ["sh", str(folder / "install.sh"), *map(str, arguments)]
    where = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=where)
    return Ran(done.returncode, done.stdout, done.stderr)
