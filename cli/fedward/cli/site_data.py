"""`fedward site register`, `data` and `exclude`: a hospital's data, what it holds, and who opted out. Nothing of it is sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.output import JsonOption, note, print_json, say, table
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.quality import QualityReport

_TOLD_S = 2.0

ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the data quality report as .md or .html too, be the data refused or not.",
    ),
]


def register(
    study: Annotated[Path, typer.Option("--study", help="The study's TOML file, as the coordinator circulated it.")],
    mapping: Annotated[
        Path, typer.Option("--mapping", help="TOML: where the data is, and local columns and codes to the study's.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--csv",
            help="This hospital's data: a CSV or Parquet file, or FHIR files; left out, what the mapping names.",
        ),
    ] = None,
    report: ReportOption = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Check this hospital's data against a study and register it. Nothing leaves but a rounded count."""
    from fedward.cli.eligibility import registered_lines
    from fedward.client import datasets
    from fedward.client.home import SiteHome
    from fedward.client.report_file import form_of
    from fedward.client.sources import DataRefusedError
    from fedward.study.kinds import load

    if report is not None:
        form_of(report)  # a wrong name is told before minutes of reading
    opened = SiteHome.open(home)
    manifest = load(study)
    try:
        done = datasets.register(opened, manifest, data, mapping, int(time.time()), progress=_Progress())
    except DataRefusedError as error:
        _write(error.report, report)
        raise
    _write(done.report, report)
    if as_json:
        print_json({"study": done.dataset.study_id, "patients": done.dataset.patients,
                    "declared_patients": done.dataset.declared_patients, "report": done.report.to_json(),
                    "eligible": None if done.unmet is None else not done.unmet})  # fmt: skip
        return
    for line in done.report.lines():
        say(line)
    if report is not None:
        say(f"Wrote {report}, for this hospital only.")
    say(f'Registered {done.dataset.patients} patients for study "{done.dataset.study_id}".')
    for line in registered_lines(getattr(manifest, "eligibility", None), done.unmet):
        say(line)
    say(f"What may leave of this, if your policy allows: the count, rounded to {done.dataset.declared_patients}.")


class _Progress:
    """Says every few seconds how many rows were read, to standard error."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, rows: int) -> None:
        if time.monotonic() - self._last >= _TOLD_S:
            self._last = time.monotonic()
            note(f"read {rows} rows …")


def _write(found: QualityReport, path: Path | None) -> None:
    if path is None:
        return
    from fedward.client.report_file import write_report_file

    write_report_file(found, path)


def data(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's id; without it, list them all.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Show what is registered, or the data quality report of a study's last registration or last try at one."""
    from fedward.client import datasets
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    if study is not None:
        kept, lines = datasets.kept_report(opened, study)
        if as_json:
            print_json(kept)
            return
        for line in lines:
            say(line)
        return
    found: list[dict[str, Any]] = []
    for name in datasets.registered(opened):
        dataset = datasets.find(opened, name)
        found.append(dataset.model_dump() | {"remaining": datasets.remaining(opened, dataset)})
    if as_json:
        print_json({"datasets": found})
    elif not found:
        say("No data is registered yet: fedward site register --study STUDY.toml --mapping FILE")
    else:
        rows = [
            (one["study_id"], one["kind"], one["source"], str(one["patients"]), str(one["remaining"])) for one in found
        ]
        table("Registered data", ("study", "kind", "source", "patients", "without opt-outs since"), rows)


exclude = typer.Typer(
    help=(
        "Patients who opted out. The list binds from the next request on, in every study, without a new approval; what was "
        "spent of the privacy budget stays spent. It keeps keyed hashes, never identifiers."
    ),
    no_args_is_help=True,
)

_Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--id", help="One identifier, as the data has it. It may stay in your shell's history: prefer a file."
    ),
]
_File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A text file with one identifier a line, as the data has them.")
]


@exclude.command("add")
def exclude_add(file: _File = None, ids: _Ids = None, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Put patients on the list. Their rows are read no more from the next request on."""
    from fedward.client import exclusions
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    wanted = _identifiers(file, ids)
    new = exclusions.add(opened, wanted)
    if as_json:
        print_json({"added": new, "listed": len(exclusions.listed(opened)), "registered": _registered(home)})
        return
    say(f"{new} of {len(set(wanted))} patients are new on the list, which holds {len(exclusions.listed(opened))}.")
    for name, (patients, remaining) in _registered(home).items():
        say(f"  {name}: {remaining} of {patients} registered patients remain")
    say("It binds from the next request on. What was spent stays spent; an update that has left cannot be called back.")


@exclude.command("list")
def exclude_list(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """How many patients are on the list, and how many of each study's registered patients remain. It names nobody."""
    from fedward.client import exclusions
    from fedward.client.home import SiteHome

    count = len(exclusions.listed(SiteHome.open(home)))
    if as_json:
        print_json({"listed": count, "registered": _registered(home)})
        return
    say(f"{count} patients are on the exclusion list.")
    for name, (patients, remaining) in _registered(home).items():
        say(f"  {name}: {remaining} of {patients} registered patients remain")


@exclude.command("remove")
def exclude_remove(file: _File = None, ids: _Ids = None, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Take patients off the list. They are read again only after a new registration and its approval."""
    from fedward.client import exclusions
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    gone = exclusions.remove(opened, _identifiers(file, ids))
    if as_json:
        print_json({"removed": gone, "listed": len(exclusions.listed(opened))})
        return
    say(f"{gone} patients were taken off the list, which holds {len(exclusions.listed(opened))}.")
    if gone:
        say("They stay out of every study until its data is registered again and the study is approved again.")


def _identifiers(file: Path | None, ids: list[str] | None) -> list[str]:
    from fedward.client.exclusions import read_ids
    from fedward.privacy.errors import UsageError

    given = [one.strip() for one in ids or () if one.strip()] + ([] if file is None else read_ids(file))
    if not given:
        raise UsageError("no patient is named", expected="a file with one identifier a line, or --id ID")
    return given


def _registered(home: Path) -> dict[str, tuple[int, int]]:
    """Study → (patients registered, those who remain)."""
    from fedward.client import datasets
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    found = [datasets.find(opened, name) for name in datasets.registered(opened)]
    return {dataset.study_id: (dataset.patients, datasets.remaining(opened, dataset)) for dataset in found}
