"""The kit's bill of materials: CycloneDX 1.6 by cyclonedx-bom, of exactly the kit's wheels, each with licence and hash.

cyclonedx-bom reads an environment. Installing torch for that would take minutes and gigabytes, so it gets an empty one that
holds the wheels' metadata alone: names, versions, licences and dependencies are the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedward.privacy.errors import InputError
from scripts.bundle.wheels import Wheel, normalised

# SPDX expressions of those whose metadata names no licence, or none by its SPDX name; read in the wheel or its repository.
LICENCES = {
    "dp-accounting": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "sqlcipher3": "Zlib AND BSD-3-Clause AND Apache-2.0",  # the module, and SQLCipher and OpenSSL within it
}


def of(wheels: Sequence[Wheel], pyproject: Path, epoch: int) -> bytes:
    """The bill as JSON, the same bytes for the same wheels. `epoch` is its time, in seconds.

    Raises:
        InputError: a component has no licence, or the bill is not of exactly these wheels.
    """
    with tempfile.TemporaryDirectory() as name:
        python = _environment(Path(name), wheels)
        command = [
            sys.executable,
            "-m",
            "cyclonedx_py",
            "environment",
            "--output-reproducible",
            "--spec-version",
            "1.6",
        ]
        command += ["--pyproject", str(pyproject), "--mc-type", "application", "--output-format", "JSON", str(python)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if done.returncode != 0:
        raise InputError("cyclonedx-py made no bill", got=done.stderr.strip()[-500:])
    bill = json.loads(done.stdout)
    _complete(bill, wheels)
    return (json.dumps(bill, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _environment(folder: Path, wheels: Iterable[Wheel]) -> Path:
    """An environment that holds the wheels' metadata and nothing else; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            for member in archive.namelist():
                if member.split("/")[0].endswith(".dist-info"):
                    archive.extract(member, site)
    return folder / "bin" / "python"


def _complete(bill: dict[str, Any], wheels: Sequence[Wheel]) -> None:
    """Put each wheel's hash, and the licence that its metadata does not tell, to its component."""
    components = {normalised(part["name"]): part for part in (*bill["components"], bill["metadata"]["component"])}
    if set(components) != {wheel.name for wheel in wheels}:
        got = ", ".join(sorted(set(components) ^ {wheel.name for wheel in wheels}))
        raise InputError("the bill is not of exactly the kit's wheels", got=got)
    for wheel in wheels:
        part = components[wheel.name]
        part["hashes"] = [{"alg": "SHA-256", "content": wheel.sha256}]
        if "licenses" not in part and wheel.name in LICENCES:
            part["licenses"] = [{"expression": LICENCES[wheel.name], "acknowledgement": "concluded"}]
    without = [name for name, part in components.items() if not part.get("licenses")]
    if without:
        raise InputError(
            "no licence is known", got=", ".join(without), remedy=f"read it, and add it to {__name__}.LICENCES"
        )
