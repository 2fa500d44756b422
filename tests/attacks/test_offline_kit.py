"""Somebody between the maker of an offline kit and the hospital changes it. install.sh refuses by name, and writes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from miniature import FINGERPRINT, KEY, install, miniature, wheel

from scripts.bundle import kit, release_key

EVIL = Ed25519PrivateKey.from_private_bytes(b"e" * 32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("kits") / "whole")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "kit")


def sums_without_a_line(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(lines[1:]))


def a_changed_wheel_with_its_new_sum(folder: Path) -> None:
    """As one does who knows about checksums, but has no key."""
    wheel(folder / "wheels", "dependency", "1.0", code="import os")
    signature = (folder / kit.SIGNATURE).read_bytes()
    kit.sign(folder, KEY)
    (folder / kit.SIGNATURE).write_bytes(signature)


def another_key(folder: Path) -> None:
    kit.sign(folder, EVIL)


def another_key_behind_the_true_one(folder: Path) -> None:
    kit.sign(folder, EVIL)
    (folder / kit.PUBLIC_KEY).write_bytes(release_key.public_pem(KEY) + release_key.public_pem(EVIL))


def an_empty_sum(folder: Path) -> None:
    for name in (kit.SUMS, kit.SIGNATURE):
        (folder / name).write_bytes(b"")


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed wheel": (lambda f: wheel(f / "wheels", "dependency", "1.0", code="import os"), "changed: wheels/dependency-1.0"),
    "a changed wheel with its new sum": (a_changed_wheel_with_its_new_sum, "signature of SHA256SUMS does not hold"),
    "a changed lock": (lambda f: (f / "requirements.lock").write_text("evil==1\n"), "changed: requirements.lock"),
    "one more byte": (lambda f: (f / "KIT").open("a").write("\n"), "changed: KIT"),
    "a wheel too many": (lambda f: wheel(f / "wheels", "fedward", "99"), "not of the kit: wheels/fedward-99-py3-none-any.whl"),
    "a hidden file": (lambda f: (f / "wheels" / ".pth").write_text("import os"), "not of the kit: wheels/.pth"),
    "a file with an odd name": (lambda f: (f / "wheels" / "a\nKIT").write_text("x"), "not of the kit: wheels/a"),
    "a wheel missing": (lambda f: next((f / "wheels").glob("dep*")).unlink(), "missing: wheels/dependency-1.0"),
    "a link": (lambda f: ((f / "KIT").unlink(), (f / "KIT").symlink_to("/etc/hostname")), "no plain file: KIT"),
    "no signature": (lambda f: (f / kit.SIGNATURE).unlink(), "SHA256SUMS.sig is missing: the kit is unsigned"),
    "an empty signature": (lambda f: (f / kit.SIGNATURE).write_bytes(b""), "signature of SHA256SUMS does not hold"),
    "no sums": (lambda f: (f / kit.SUMS).unlink(), "SHA256SUMS is missing"),
    "empty sums": (an_empty_sum, "signature of SHA256SUMS does not hold"),
    "sums without a line": (sums_without_a_line, "signature of SHA256SUMS does not hold"),
    "another key": (another_key, "signed by another key"),
    "another key behind the true one": (another_key_behind_the_true_one, "signature of SHA256SUMS does not hold"),
    "no key": (lambda f: (f / kit.PUBLIC_KEY).unlink(), "release-key.pem is missing"),
    "a key that is none": (lambda f: (f / kit.PUBLIC_KEY).write_text("key"), "release-key.pem is no public key"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_by_name_and_nothing_is_written(name: str, copy: Path, tmp_path: Path) -> None:
    change, told = ATTACKS[name]
    change(copy)
    ran = install(copy, "--fingerprint", FINGERPRINT, "--prefix", tmp_path / "there", "--python", sys.executable)
    assert ran.code == 5, ran
    assert told in ran.err
    assert "the kit holds" not in ran.out
    assert not (tmp_path / "there").exists()


def test_the_whole_kit_holds(copy: Path, tmp_path: Path) -> None:
    ran = install(copy, "--fingerprint", FINGERPRINT.upper().replace("-", " "), "--check")
    assert (ran.code, ran.err) == (0, "")
    assert f"signed by {FINGERPRINT}" in ran.out


def a_curve_of_another_use(raw: bytes, _: Path) -> bytes:
    key = X25519PublicKey.from_public_bytes(raw)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def an_rsa_key_with_these_bytes_as_exponent(raw: bytes, folder: Path) -> bytes:
    """Whoever chooses the exponent can compute the private key. Only openssl's ASN.1 writer makes one so large."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    (folder / "form").write_text(
        "asn1=SEQUENCE:spki\n[spki]\na=SEQUENCE:rsa\nb=BITWRAP,SEQUENCE:key\n[rsa]\na=OID:rsaEncryption\nb=NULL\n"
        f"[key]\nn=INTEGER:0x{modulus:x}\ne=INTEGER:0x{raw.hex()}\n"
    )
    subprocess.run(["openssl", "asn1parse", "-genconf", "form", "-noout", "-out", "der"], cwd=folder, check=True)
    return (folder / "der").read_bytes()


@pytest.mark.parametrize("forge", [a_curve_of_another_use, an_rsa_key_with_these_bytes_as_exponent])
def test_a_key_of_another_kind_that_ends_like_the_true_one(
    forge: Callable[[bytes, Path], bytes], copy: Path, tmp_path: Path
) -> None:
    """The fingerprint is of 32 bytes, the last of an Ed25519 key's encoding; other kinds of keys can end in them too."""
    raw = bytes.fromhex(release_key.public(KEY))
    der = forge(raw, tmp_path)
    assert der.endswith(raw)
    command = ["openssl", "pkey", "-pubin", "-inform", "DER", "-out", str(copy / kit.PUBLIC_KEY)]
    subprocess.run(command, input=der, check=True, timeout=30)
    ran = install(copy, "--fingerprint", FINGERPRINT, "--check")
    assert ran.code == 5
    assert "release-key.pem is no Ed25519 key" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no fingerprint was given"),
        (["--fingerprint"], "usage"),
        (["--fingerprint", ""], "no fingerprint was given"),
        (["--force"], "usage"),
    ],
    ids=str,
)
def test_nobody_can_leave_the_fingerprint_out(arguments: list[str], told: str, copy: Path) -> None:
    ran = install(copy, *arguments)
    assert ran.code == 2
    assert told in ran.err


def test_a_fingerprint_cut_short_is_refused(copy: Path) -> None:
    assert install(copy, "--fingerprint", FINGERPRINT[:4], "--check").code == 5
