"""From a hospital's rows to the table a study trains on: everything is checked, nothing is dropped silently.

The rules:

1. Structure comes first. A source that is no readable table, or lacks a column, is refused whatever `on_invalid` says.
2. So is a row without a patient, a patient with two rows where rows are patients, a value missing where the study
   allows none (an image's pixel among them), and a column most of whose values are invalid: that is a wrong mapping or
   unit, not bad data.
3. With `on_invalid = "refuse"` any other invalid value refuses the table. With `"clip"` a number is clipped to its
   bounds, an unreadable one or an unknown code becomes missing, a row without a known outcome is excluded; each is
   listed in the report.
4. A message names columns, rows and counts, never what a cell says: messages may travel further than data may. What
   cells say is in the `QualityReport`, which stays here. Nor is an exception that holds cells ever chained.

The source's reader yields texts (`sheet`), the parser makes values of them by the mapping (`cells`), the study's schema checks
the values (`schema`), and here is decided what becomes of what they found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedward.client.cohort import identifier
from fedward.client.mapping import Mapping, Source, check_fits, parse_number
from fedward.client.quality import REMEDY, WHAT, ProblemCount, QualityReport
from fedward.client.sources.cells import translate, wanted
from fedward.client.sources.csv_file import read_csv
from fedward.client.sources.findings import INVALID, Findings
from fedward.client.sources.parquet import read_parquet
from fedward.client.sources.schema import PATIENT, failures, schema_of
from fedward.client.sources.sheet import SHOWN_NAMES, Progress, Sheet, row_words, silent
from fedward.client.summaries import summarise
from fedward.client.units import unit_hint
from fedward.privacy.errors import InputError, RefusalError
from fedward.study.encoding import feature_columns
from fedward.study.manifest import BaseManifest, CategoricalFeature, ImageFeature, NumericFeature


@dataclass(frozen=True)
class SiteTable:
    """A hospital's table in the study's columns.

    `frame` has one row per patient, or per encounter if the mapping says so, in the source's order. Its index "patient"
    holds the identifiers as str; numbers and an image's pixels (`<column>_0` …) are float64 with NaN for missing, levels
    are objects, str or None, and the outcome is int64, 0 or 1. Columns are the manifest's features in order, then the
    outcome. `digest` names what was read; `medians` are those of the numeric columns before anything was clipped.
    """

    frame: pd.DataFrame = field(repr=False)
    report: QualityReport
    digest: str = ""
    medians: dict[str, float] = field(default_factory=dict, repr=False)


class DataRefusedError(InputError):
    """A table holds values that cannot be used. `report`, for this hospital's eyes only, lists each of them."""

    default_code = "data-refused"

    def __init__(self, what: str, report: QualityReport, *, expected: str | None = None, got: str, remedy: str) -> None:
        super().__init__(what, expected=expected, got=got, remedy=remedy)
        self.report = report


def read_site_table(
    path: Path,
    mapping: Mapping,
    manifest: BaseManifest,
    *,
    expected: str | None = None,
    excluded: Callable[[str], bool] | None = None,
    progress: Progress = silent,
) -> SiteTable:
    """Read, translate and check a hospital's data.

    Args:
        path: the file, at most `MAX_TABLE_BYTES`; for FHIR also a folder of such files; for a database the folder that
            relative names of the mapping are seen from.
        mapping: how its columns and codes become the study's.
        manifest: the study.
        expected: the digest that was registered; None at registration.
        excluded: whether a patient's rows are left out, before anything of them is checked.
        progress: told how many rows were read so far.

    Raises:
        InputError: the mapping does not fit the study, or the source is missing, empty, too large, unreadable, or lacks or
            repeats a column.
        UnreachableError: the database cannot be reached.
        IntegrityError: code `data-changed`: it is not what was registered.
        DataRefusedError: values cannot be used; the message counts them by column, its `report` lists them.
    """
    check_fits(mapping, manifest)
    whole = read_sheet(path, mapping.source, wanted(mapping, manifest), expected, progress)
    sheet = _named(whole if excluded is None else _without(whole, mapping.source.patient_id, excluded), mapping)
    findings = Findings(sheet.rows)
    loose = translate(sheet, mapping, manifest, findings)
    frame = _checked(loose, sheet, mapping, manifest, findings)
    numbers = [feature for feature in manifest.features if isinstance(feature, NumericFeature)]
    hints = {f.column: hint for f in numbers if (hint := unit_hint(f, loose[f.column].to_numpy(dtype=np.float64)))}
    refused = findings.refused(clip=mapping.source.on_invalid == "clip") or frame.empty
    report = summarise(
        frame,
        manifest,
        refused=refused,
        rows=len(whole.rows),
        blank_rows=sheet.blank,
        counts=findings.counts(),
        problems=findings.problems(refused=refused),
        opted_out=len(whole.rows) - len(sheet.rows),
        hints=list(hints.values()),
        source=sheet.name,
        numbering=sheet.numbering,
    )
    if refused:
        raise _refusal(sheet, mapping, hints, report, findings)
    medians = {f.column: float(loose[f.column].median()) for f in numbers if loose[f.column].notna().any()}
    return SiteTable(frame, report, sheet.digest, medians)


def _without(sheet: Sheet, patient: str, excluded: Callable[[str], bool]) -> Sheet:
    """The sheet without the rows of patients who opted out."""
    ids = sheet.columns[patient]
    out = {name for name in set(ids) if excluded(name)}
    kept = [place for place, name in enumerate(ids) if name not in out]
    if len(kept) == len(ids):
        return sheet
    if not kept:
        raise RefusalError("every patient of the data is on the exclusion list", code="policy-patients")
    places = {old: new for new, old in enumerate(kept)}
    return replace(
        sheet,
        columns={name: [cells[place] for place in kept] for name, cells in sheet.columns.items()},
        rows=[sheet.rows[place] for place in kept],
        flaws=tuple(flaw._replace(place=places[flaw.place]) for flaw in sheet.flaws if flaw.place in places),
    )


def _named(sheet: Sheet, mapping: Mapping) -> Sheet:
    """The sheet with each patient under one name; its digest stays that of the source."""
    column = mapping.source.patient_id
    return replace(sheet, columns=sheet.columns | {column: [identifier(cell) for cell in sheet.columns[column]]})


def read_sheet(
    path: Path, source: Source, columns: dict[str, str], expected: str | None, progress: Progress = silent
) -> Sheet:
    """The wanted columns of any source as texts; errors as `read_site_table`, short of what cells say."""
    if source.kind == "csv":
        return read_csv(path, source, columns, expected, progress)
    if source.kind == "parquet":
        return read_parquet(path, source, columns, expected, progress)
    if source.kind == "sql":
        from fedward.client.sources.sql import read_sql  # noqa: PLC0415 - SQLAlchemy only where there is a database

        return read_sql(path, source, columns, expected, progress)
    from fedward.client.sources.fhir import read_fhir  # noqa: PLC0415

    return read_fhir(path, source, columns, expected, progress)


def _checked(
    loose: pd.DataFrame, sheet: Sheet, mapping: Mapping, manifest: BaseManifest, findings: Findings
) -> pd.DataFrame:
    """The frame that `SiteTable` describes, invalid cells as "clip" makes them, rows without an outcome left out."""
    schema = schema_of(manifest, one_row_a_patient=mapping.source.rows == "patients")
    origins = {column: origin for origin, column in wanted(mapping, manifest).items()}
    origins[PATIENT] = mapping.source.patient_id
    for column, kind, place in failures(loose, schema, manifest):
        shown = mapping.source.patient_id if column == PATIENT else column
        findings.add(shown, kind, place, sheet.columns[origins[column]][place])
    for feature in manifest.features:
        may_miss = manifest.may_miss and not isinstance(feature, ImageFeature)
        for column in feature_columns(feature):
            findings.judge(column, _present(loose, column, findings), may_miss=may_miss)
    outcome = manifest.outcome.column
    findings.judge(outcome, _present(loose, outcome, findings), may_miss=True)
    return _mended(loose, manifest, findings)


def _present(loose: pd.DataFrame, column: str, findings: Findings) -> int:
    """Cells of a column that say something, be it invalid."""
    absent = loose[column].isna().to_numpy(copy=True)
    absent[findings.places(column, *INVALID)] = False
    return int(len(absent) - absent.sum())


def _mended(loose: pd.DataFrame, manifest: BaseManifest, findings: Findings) -> pd.DataFrame:
    data: dict[str, pd.Series] = {}
    for feature in manifest.features:
        for column in feature_columns(feature):
            values = loose[column].copy()
            if isinstance(feature, CategoricalFeature):
                values.iloc[findings.places(column, "unknown-level")] = None
            elif places := findings.places(column, "out-of-bounds"):
                values.iloc[places] = values.iloc[places].clip(*feature.bounds)
            data[column] = values
    outcome = manifest.outcome.column
    known = np.ones(len(loose), dtype=np.bool_)
    known[findings.places(outcome, "missing-outcome", "unknown-outcome")] = False
    frame = pd.DataFrame(data).loc[known]
    frame[outcome] = loose[outcome].loc[known].astype("int64")
    frame.index = pd.Index(loose[PATIENT].loc[known], dtype=object, name="patient")
    return frame


# ---- the refusal ----------------------------------------------------------------------------------------------------


def _refusal(
    sheet: Sheet, mapping: Mapping, hints: dict[str, str], report: QualityReport, findings: Findings
) -> DataRefusedError:
    """What is wrong, by column and row. With "clip", only what even clipping could not mend."""
    clip = mapping.source.on_invalid == "clip"
    counts = [c for c in report.counts if not clip or not findings.fatal or (c.column, c.kind) in findings.fatal]
    kinds = list(dict.fromkeys(count.kind for count in counts))
    remedies = [REMEDY[kind] for kind in kinds]
    remedies += [hint for count in counts if (hint := _decimal_hint(count, mapping, report))]
    remedies += [hints[count.column] for count in counts if count.kind == "out-of-bounds" and count.column in hints]
    if not clip and not findings.fatal:
        remedies.append('or set [source] on_invalid = "clip", which corrects and lists them')
    shown = [f"{c.column}: {c.count} × {WHAT[c.kind]}, {row_words(c.rows, c.count)}" for c in counts[:SHOWN_NAMES]]
    if len(counts) > SHOWN_NAMES:
        shown.append(f"and {len(counts) - SHOWN_NAMES} more")
    return DataRefusedError(
        f"{sheet.name} holds {sum(c.count for c in counts)} values that cannot be used",
        report,
        expected="none, and at least one row with a known outcome" if report.patients == 0 else None,
        got="; ".join(shown),
        remedy="; ".join(remedies)
        + f". Each value is listed in the report, for this hospital only: `fedward site data {report.study}`",
    )


def _decimal_hint(count: ProblemCount, mapping: Mapping, report: QualityReport) -> str:
    """A hint where all unreadable numbers of a column would be numbers with the other decimal mark."""
    if count.kind != "not-a-number" or mapping.source.kind != "csv":
        return ""
    other = "." if mapping.source.decimal == "," else ","
    found = [p.found for p in report.problems if p.column == count.column and p.kind == count.kind]
    if any(parse_number(text, other) is None for text in found):
        return ""
    return f'{count.column} looks like numbers with another decimal mark: try [source] decimal = "{other}"'
