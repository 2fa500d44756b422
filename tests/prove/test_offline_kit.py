"""The whole offline kit: made from this tree, installed where no network is, and a federation trains with it there.

`unshare --net` gives a process a network of its own, in which there is nothing. The federation gets the loopback back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

pytestmark = [pytest.mark.prove, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]


def run(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment or bare, capture_output=True, text=True, check=False)


def test_it_is_made_and_installs_and_trains_without_a_network(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or run([*ALONE, "true"], tmp_path).returncode != 0:
        pytest.skip("no network of one's own here (unshare --net)")
    made = run(
        [sys.executable, "-m", "scripts.bundle", "--key", str(tmp_path / "key.pem"), "--out", str(tmp_path)],
        ROOT, os.environ,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    fingerprint = re.search(r"fingerprint, .*: ([0-9a-f-]{39})$", made.stdout, re.MULTILINE)
    archive = re.search(r"^tar: +(\S+\.tar)", made.stdout, re.MULTILINE)
    assert fingerprint
    assert archive

    hospital = tmp_path / "hospital"
    hospital.mkdir()
    assert run(["tar", "-xf", archive[1]], hospital).returncode == 0
    kit = hospital / Path(archive[1]).stem
    bill = (kit / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    components = len(json.loads(bill)["components"]) + 1
    assert components == len(list((kit / "wheels").iterdir())) == (kit / "requirements.lock").read_text().count("\n")

    there = hospital / "there"
    command = [
        "sh",
        str(kit / "install.sh"),
        "--fingerprint",
        fingerprint[1],
        "--prefix",
        str(there),
        "--python",
        sys.executable,
    ]
    installed = run([*ALONE, *command], hospital)
    assert (installed.returncode, installed.stderr) == (0, ""), installed.stderr

    program = str(there / "bin" / "fedward")
    outside = "import socket; socket.create_connection(('1.1.1.1', 443), 5)"
    assert run([*ALONE, str(there / "bin/python"), "-c", outside], hospital).returncode != 0
    assert run([*ALONE, program, "--version"], hospital).stdout.startswith("fedward ")
    assert "data-changed" in run([*ALONE, program, "explain", "data-changed"], hospital).stdout
    site = run([*ALONE, program, "site", "init", "cleveland", "--home", str(hospital / "site"), "--json"], hospital)
    assert json.loads(site.stdout)["site"] == "cleveland", site.stderr
    # One coordinator, four nodes, TLS, secure aggregation, DP-SGD: everything that a hospital runs, from the kit alone.
    script = 'ip link set lo up && exec "$0" demo --rounds 3 --json'
    demo = run([*ALONE, "sh", "-c", script, program], hospital)
    assert demo.returncode == 0, demo.stderr[-3000:]
    assert json.loads(demo.stdout)["auroc"]["federated"] > 0.6
