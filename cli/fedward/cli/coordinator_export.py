"""`fedward coordinator export STUDY --out FOLDER|ZIP`: a study's whole record, without secrets, for an archive or an auditor."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, note, print_json, say

SAY_EVERY_S = 2.0
Files = Iterable[tuple[str, Callable[[], bytes]]]


def export(
    study: Reference,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER|ZIP",
            help="What to write; must not exist. A name that ends in .zip makes a ZIP file.",
        ),
    ],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Write a study's whole record, without secrets: sealed manifest, journal, attempts, metrics, models, checksums.

    Its README.txt explains the files. The same record gives the same bytes.
    """
    from fedward.privacy.errors import UsageError
    from fedward.server.archives import archive, models

    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    coordinator = open_coordinator(home)
    found = coordinator.record(study)
    secure = any(entry.kind == "batch" for entry in found.journal)
    transcript = coordinator.transcript(found.view.digest or study) if secure else None
    kept = models(found)
    files = _with_progress(archive(found, transcript, coordinator.model), len(kept), quiet=as_json)
    is_zip = out.suffix.lower() == ".zip"
    names = (_write_zip if is_zip else _write_folder)(out, files)
    if as_json:
        print_json(
            {
                "study_id": found.view.study_id,
                "digest": found.view.digest,
                "out": str(out),
                "files": names,
                "models": len(kept),
            }
        )
        return
    say(
        f'{out}: the record of "{found.view.title}" in {len(names)} files, {len(kept)} of them models. README.txt explains them.'
    )
    if not is_zip:
        say(f"Check it: cd {out} && sha256sum --check SHA256SUMS")


def _with_progress(files: Files, models: int, *, quiet: bool) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The files, and from time to time a word on how far it is."""
    said, done = time.monotonic(), 0
    for path, give in files:
        yield path, give
        done += path.startswith("models/")
        if not quiet and time.monotonic() >= said + SAY_EVERY_S:
            said = time.monotonic()
            note(f"{done} of {models} models written …")


def _write_folder(out: Path, files: Files) -> list[str]:
    """Written beside, then moved: a folder of that name is whole. Its path names."""
    from fedward.privacy.durable import disk_error
    from fedward.study.files import write_atomic

    made = _beside(out)
    try:
        names = []
        for path, give in files:
            write_atomic(made / path, give(), 0o600)
            names.append(path)
        made.rename(out)
    except OSError as error:
        raise disk_error(error, f"cannot write {out}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return names


def _write_zip(out: Path, files: Files) -> list[str]:
    """Stored, not deflated, and without times: what a compressor or a clock does would change the bytes."""
    from fedward.privacy.durable import disk_error

    made = _beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        names = []
        with zipfile.ZipFile(made, "x", zipfile.ZIP_STORED) as archive:
            made.chmod(0o600)
            for path, give in files:
                entry = zipfile.ZipInfo(path)
                entry.create_system, entry.external_attr = 3, 0o600 << 16
                archive.writestr(entry, give())
                names.append(path)
        os.link(made, out)  # unlike a rename, it replaces nothing
    except OSError as error:
        raise disk_error(error, f"cannot write {out}") from None
    finally:
        with contextlib.suppress(OSError):
            made.unlink()
    return names


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.{os.getpid()}.part")
