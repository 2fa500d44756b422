"""`fedward report`: what the monitor shows, as one HTML file for whoever has no monitor."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.monitor import StoreOption
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.dashboard.report.contents import Report


def report(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="What to write, readable by you alone.")],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="The folder that `fedward simulate --out` made, or a coordinator's folder.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY",
            help="A study's id, or 6 or more digits of its digest. [default: the newest study]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Write the monitor's pages into one HTML file: the same figures, charts and tables, with every table as CSV within it.

    Of a federation it shows what its coordinator sees, every hospital's part included, and takes nothing out for other readers. The
    file runs no script and fetches nothing. The same record gives the same bytes.
    """
    from fedward.dashboard.report import pages
    from fedward.study.files import write_atomic, write_new

    _may_write(out, force)
    kind, named, made, digest = _made(run, store, study)
    data = pages.html(made).encode()
    if force:
        write_atomic(out, data, 0o600)
    else:
        write_new(out, data)
    if as_json:
        print_json(
            {"file": str(out), "sha256": sha256(data).hexdigest(), "bytes": len(data), kind: named}
            | {"title": made.title, "study_digest": digest, "sections": [one.anchor for one in made.sections]}
        )
        return
    say(f'{out}: the report of "{made.title}", {len(made.sections)} sections, {len(data) / 1e6:.1f} MB.')
    if kind == "store":
        say(
            "It shows what the coordinator sees, every hospital's part included: give it to nobody who may not see that."
        )


def _may_write(out: Path, force: bool) -> None:
    """
    Raises:
        UsageError: the file has another ending than .html, or is there already, or is a folder.
    """
    from fedward.privacy.errors import UsageError

    if out.suffix.lower() != ".html":
        raise UsageError("a report is one HTML file", expected="--out FILE.html", got=out.name)
    if out.is_dir():
        raise UsageError(f"{out} is a folder", expected="--out FILE.html")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", remedy="give another --out, or --force to write over it")


def _made(run: Path | None, store: str | None, study: str | None) -> tuple[str, str, Report, str | None]:
    """ "run" or "store", its place, the report, and the study's digest.

    Raises:
        UsageError: both are named, or a study of a run.
        FedwardError: it is neither, or cannot be read.
    """
    from fedward.dashboard.federation.place import place
    from fedward.dashboard.report import federation, svg
    from fedward.dashboard.report import run as of_run
    from fedward.privacy.errors import UsageError

    svg.installed()
    if run is not None and store is not None:
        raise UsageError(
            "a report shows one thing", expected="RUN or --store", got="both", remedy="leave one of them out"
        )
    if run is not None and not (run / "federation.json").is_file():
        if study is not None:
            raise UsageError("a run is of one study", got="--study beside RUN", remedy="leave --study out")
        return "run", str(run.absolute()), *of_run.report(run)
    found = place(store if run is None else str(run))
    named = found.shown if found.home is None else str(Path(found.shown).absolute())
    return "store", named, *federation.report(found, study)
