"""The offline kit: installs from itself alone, its bill of materials is CycloneDX, and the same wheels make the same bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_supported_id
from cyclonedx.validation.json import JsonStrictValidator
from miniature import EPOCH, FINGERPRINT, KEY, ROOT, VERSION, install, miniature, unsigned, wheel
from packaging.requirements import Requirement

from fedward.privacy.errors import InputError
from scripts.bundle import kit, release_key, sbom, wheels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("kits") / "a whole")


def test_it_installs_where_no_registry_answers(folder: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "/nowhere", "PYTHONPATH": "/nowhere"}
    there = tmp_path / "a place" / "there"
    arguments = ("--fingerprint", FINGERPRINT, "--prefix", there, "--python", sys.executable)
    ran = install(folder, *arguments, **nowhere)
    assert (ran.code, ran.err) == (0, "")
    assert f"next: {there}/bin/fedward site init NAME" in ran.out
    program = subprocess.run([there / "bin/fedward", "--version"], capture_output=True, text=True, check=True)
    assert program.stdout == f"fedward {VERSION}\n"
    again = install(folder, *arguments)
    assert (again.code, "is there already" in again.err) == (3, True)


@pytest.mark.parametrize(("pattern", "told"), [(r"dependency==.*\n", "dependency"), (r" --hash=\S+", "hash")])
def test_a_lock_without_a_dependency_or_hashes_installs_nothing(pattern: str, told: str, tmp_path: Path) -> None:
    """pip checks the lock for itself; what was begun is taken away."""
    poor = tmp_path / "kit"
    unsigned(poor)
    lock = poor / "requirements.lock"
    lock.write_text(re.sub(pattern, "", lock.read_text()))
    kit.sign(poor, KEY)
    ran = install(poor, "--fingerprint", FINGERPRINT, "--prefix", tmp_path / "there", "--python", sys.executable)
    assert ran.code == 1
    assert told in ran.err
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [("python=2.7", "for Python 2.7"), ("platform=win32", "on win32"), ("glibc=99.0", "needs glibc 99.0 or newer")],
)
def test_a_kit_for_another_machine_is_refused(line: str, told: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "kit"
    unsigned(other)
    name = line.partition("=")[0]
    lines = (other / "KIT").read_text().splitlines()
    (other / "KIT").write_text("\n".join(line if old.startswith(name) else old for old in lines) + "\n")
    kit.sign(other, KEY)
    ran = install(other, "--fingerprint", FINGERPRINT, "--prefix", tmp_path / "there", "--python", sys.executable)
    assert (ran.code, told in ran.err) == (3, True), ran
    assert not (tmp_path / "there").exists()


def test_openssl_and_sha256sum_verify_it_by_hand(folder: Path) -> None:
    """The commands of the kit's README, as a hospital types them before anything in the kit runs."""
    text = (folder / "README.txt").read_text()
    commands = [line.strip() for line in text.splitlines() if line.startswith("     ") and "install.sh" not in line]
    assert len(commands) == 3
    told = [subprocess.check_output(["sh", "-c", line], cwd=folder, text=True) for line in commands]
    assert told == [FINGERPRINT.replace("-", "") + "\n", "Signature Verified Successfully\n", ""]


def test_the_bill_is_cyclonedx_of_exactly_the_wheels(folder: Path) -> None:
    found = [wheels.Wheel.read(path) for path in (folder / "wheels").iterdir()]
    bill = sbom.of(found, ROOT / "pyproject.toml", EPOCH)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
    read = json.loads(bill)
    parts = [*read["components"], read["metadata"]["component"]]
    hashes = {part["name"]: part["hashes"][0]["content"] for part in parts}
    assert hashes == {one.name: one.sha256 for one in found}
    assert all(part["licenses"] for part in parts)
    assert read["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    assert not any("serialNumber" in one for one in (read, read["metadata"]))  # what would differ from time to time


def test_a_component_without_a_known_licence_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel(tmp_path, "fedward", "1")
    path.write_bytes(path.read_bytes().replace(b"License: MIT\n", b"Keyword: MIT\n"))
    bill = {"components": [{"name": "Odd_Name"}], "metadata": {"component": {"name": "fedward", "licenses": [1]}}}
    found = [wheels.Wheel(path, "fedward", "1", "00"), wheels.Wheel(path, "odd-name", "1", "00")]
    with pytest.raises(InputError, match="odd-name"):
        sbom._complete(bill, found)
    with pytest.raises(InputError, match="not of exactly"):
        sbom._complete(bill, found[:1])


def needed() -> Iterator[metadata.Distribution]:
    """What Fedward's pyproject.toml asks for, and what that needs, as installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, seen = [Requirement(line) for line in project["dependencies"]], set[str]()
    for requirement in waiting:
        extras = requirement.extras or {""}
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        name = wheels.normalised(requirement.name)
        if not applies or name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        for line in found.requires or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                inner.marker = None
                waiting.append(inner)
        yield found


def test_every_dependency_is_of_the_tested_set_and_names_its_licence() -> None:
    """What would stop `make bundle` is found here, where it is added."""
    pins = {wheels.normalised(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    names = {wheels.normalised(found.name): found.metadata for found in needed()}
    assert len(names) > 60
    assert names.keys() - pins == set()
    unknown = [
        name for name, told in names.items()
        if name not in sbom.LICENCES and "License-Expression" not in told and not is_supported_id(told.get("License", ""))
        and not any(line.startswith("License ::") for line in told.get_all("Classifier", ()))
    ]  # fmt: skip
    assert unknown == []


def test_the_same_wheels_make_the_same_tar(tmp_path: Path) -> None:
    made = [kit.pack(miniature(tmp_path / name / "kit"), EPOCH).read_bytes() for name in "ab"]
    assert made[0] == made[1]


def test_untested_and_accelerator_wheels_are_refused(tmp_path: Path) -> None:
    found = [wheels.Wheel.read(wheel(tmp_path, name, "2.0")) for name in ("nvidia_cublas", "torch", "fedward")]
    with pytest.raises(InputError, match="nvidia-cublas"):
        wheels._check(found, {"torch": "2.0"})
    wheels._check(found[1:], {"torch": "2.0"})
    with pytest.raises(InputError, match=r"torch 2\.0"):
        wheels._check(found[1:], {"torch": "2.1"})
    local = wheels.Wheel(tmp_path / "torch-2.0+cpu-py3-none-any.whl", "torch", "2.0+cpu", "00")
    wheels._check([local], {"torch": "2.0"})


@pytest.mark.parametrize(
    ("tag", "glibc"),
    [
        ("cp311-abi3-manylinux_2_34_x86_64", (2, 34)),
        ("cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64", (2, 17)),
        ("cp311-cp311-manylinux1_x86_64.manylinux_2_28_x86_64", (2, 5)),
        ("py3-none-any", (0, 0)),
    ],
)
def test_the_oldest_glibc_of_a_wheel(tag: str, glibc: tuple[int, int], tmp_path: Path) -> None:
    assert wheels.Wheel(tmp_path / f"a-1-{tag}.whl", "a", "1", "00").glibc == glibc


def test_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_text("a")
    with pytest.raises(InputError, match="no wheel"):
        wheels.Wheel.read(tmp_path / "a.whl")
    with pytest.raises(InputError, match="odd"):
        wheels.Wheel.read(wheel(tmp_path, "a", "1").rename(tmp_path / "a b.whl"))


def test_the_release_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "release.pem"
    first, is_new = release_key.load_or_make(path)
    assert (is_new, path.stat().st_mode & 0o777) == (True, 0o600)
    second, is_new = release_key.load_or_make(path)
    assert (is_new, release_key.public(second)) == (False, release_key.public(first))
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        release_key.load_or_make(path)


def test_the_release_key_may_have_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = Ed25519PrivateKey.generate()
    path = tmp_path / "release.pem"
    path.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"open sesame"))
    )
    path.chmod(0o600)
    monkeypatch.setattr("getpass.getpass", lambda _: "open sesame")
    assert release_key.public(release_key.load_or_make(path)[0]) == release_key.public(key)
    monkeypatch.setattr("getpass.getpass", lambda _: "shut")
    with pytest.raises(InputError, match="cannot be read"):
        release_key.load_or_make(path)
