"""`make bundle`: everything that a hospital without a registry needs to install Fedward, in one signed folder and tar.

`python -m scripts.bundle [--key FILE] [--out FOLDER]`. What is in the kit and how a hospital checks it: docs/offline-kit.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedward.privacy.errors import FedwardError
from fedward.privacy.signing import fingerprint
from scripts.bundle import kit, release_key, sbom, wheels
from scripts.bundle.kit import About

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1_000_000


def main(arguments: list[str] | None = None) -> int:
    """Make the kit; 0, or the exit code of what went wrong."""
    parsed = _parsed(arguments)
    try:
        _make(parsed.key, parsed.out)
    except FedwardError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bundle", description="Make the offline kit: wheels, SBOM, checksums, signature."
    )
    key = f"the release key, a PKCS#8 PEM of Ed25519; made on first use. Default: {release_key.DEFAULT}"
    parser.add_argument("--key", type=Path, default=release_key.DEFAULT, metavar="FILE", help=key)
    where = "where the kit goes. Default: dist"
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help=where)
    return parser.parse_args(arguments)


def _make(key_file: Path, out: Path) -> None:
    began = time.monotonic()
    key, is_new = release_key.load_or_make(key_file)
    if is_new:
        _say(f"made a release key of your own: {key_file} (keep it; later kits must be signed by the same)")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or kit.EARLIEST)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as name:
        draft = Path(name)
        _say("[1/4] wheels: Fedward's own and the tested set of constraints.txt …")
        found = wheels.collect(ROOT, draft / "wheels", epoch)
        about = About.of(
            found, commit=_git("describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*") or "unknown"
        )
        _say(f"[2/4] SBOM of {len(found)} components …")
        (draft / "sbom.cdx.json").write_bytes(sbom.of(found, ROOT / "pyproject.toml", epoch))
        _say("[3/4] lock, checksums, signature …")
        kit.complete(draft, found, about, ROOT)
        kit.sign(draft, key)
        folder = out / about.name
        shutil.rmtree(folder, ignore_errors=True)
        draft.chmod(0o755)
        draft.rename(folder)
        draft.mkdir()  # for the context to remove
    _say("[4/4] tar …")
    archive = kit.pack(folder, epoch)
    _report(folder, archive, release_key.public(key), time.monotonic() - began)


def _report(folder: Path, archive: Path, public: str, took: float) -> None:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    largest = sorted((path for path in sizes if path.suffix == ".whl"), key=lambda path: -sizes[path])[:3]
    _say(f"\n{folder.name}: {len(sizes)} files, {sum(sizes.values()) / MEGABYTE:.0f} MB; made in {took:.0f} s")
    _say("largest: " + ", ".join(f"{path.name.split('-')[0]} {sizes[path] / MEGABYTE:.0f} MB" for path in largest))
    _say(f"folder:  {folder}\ntar:     {archive} ({archive.stat().st_size / MEGABYTE:.0f} MB)")
    _say(f"release key's fingerprint, to be read out by telephone: {fingerprint(public)}")
    _say(f"at the hospital: tar -xf {archive.name} && sh {folder.name}/install.sh --fingerprint FINGERPRINT")


def _git(*arguments: str) -> str:
    """What git prints, or nothing where this is no clone."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607 - git of the PATH
    return done.stdout.strip() if done.returncode == 0 else ""


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
