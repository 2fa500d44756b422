"""Rows from FHIR R4 resources: a patient a row, made of Patient, Observation and Condition as the mapping says.

Resources come as Bundles, as single resources or as NDJSON (a resource a line, FHIR Bulk Data); other types are
passed over. The three are held to `fhir.resources`' R4B models: R4B (4.3.0) left these three resources as R4
(4.0.1) has them, which a test proves for every element that is read here. What a model says of a resource quotes
it, so it never gets further than this module.

A patient without an observation has an empty cell; a patient without the condition has not got it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedward.client.mapping import Source
from fedward.client.mapping_sources import FhirSource
from fedward.client.sources.digests import fhir_files, files_digest
from fedward.client.sources.fhir_columns import Record, cell_of
from fedward.client.sources.sheet import (
    TOLD_EVERY,
    Flaw,
    Progress,
    Sheet,
    check_cells,
    check_header,
    file_bytes,
    hold,
    some,
)
from fedward.privacy.errors import InputError

if TYPE_CHECKING:
    from fhir.resources.R4B.patient import Patient

NUMBERING = "row 1 is the first patient by identifier"
_BY_REFERENCE = "id"
Kind = Literal["Patient", "Observation", "Condition"]


def read_fhir(path: Path, source: Source, wanted: dict[str, str], expected: str | None, progress: Progress) -> Sheet:
    """The wanted columns, a row a patient, in the order of their identifiers.

    Args:
        path: a file, or a folder whose `.json` and `.ndjson` files are read, those of its folders too.

    Raises:
        InputError: no file, no JSON, a resource that FHIR does not allow, a subject or a code that cannot be told, no patient.
        IntegrityError: code `data-changed`: the files are not those of that digest.
    """
    fhir = source.fhir
    if fhir is None:
        raise InputError("the mapping says nothing of FHIR", expected="[source.fhir]")
    files = fhir_files(path)
    if not files:
        hold(path.name, "", expected)
        raise InputError(f"no FHIR files at {path}", expected="a .json or .ndjson file, or a folder of them")
    read = [(file, file_bytes(file, expected)) for file in files]
    digest = files_digest(path, read)
    hold(path.name, digest, expected)
    check_header(path.name, [source.patient_id, *fhir.columns], wanted)
    records = _gathered(read, source.patient_id, progress)
    if not records:
        raise InputError(f"{path.name} holds no patient", expected="resources of the type Patient")
    check_cells(path.name, len(records), len(wanted))
    return _sheet(path.name, digest, records, source.patient_id, fhir, wanted)


def _sheet(
    name: str, digest: str, records: list[Record], patient: str, fhir: FhirSource, wanted: dict[str, str]
) -> Sheet:
    columns: dict[str, list[str]] = {patient: [record.identifier for record in records]}
    flaws: list[Flaw] = []
    for column in wanted:
        if column == patient:
            continue
        cells = [cell_of(record, fhir.columns[column], fhir.as_of) for record in records]
        columns[column] = [cell.text for cell in cells]
        flaws += [Flaw(column, place, "other-unit", cell.flaw) for place, cell in enumerate(cells) if cell.flaw]
    return Sheet(name, columns, list(range(1, len(records) + 1)), digest, numbering=NUMBERING, flaws=tuple(flaws))


def _gathered(files: list[tuple[Path, bytes]], patient_id: str, progress: Progress) -> list[Record]:
    """Every patient with their observations and conditions, by identifier."""
    from fhir.resources.R4B.condition import Condition  # noqa: PLC0415 - only a site with FHIR data need wait for it
    from fhir.resources.R4B.observation import Observation  # noqa: PLC0415
    from fhir.resources.R4B.patient import Patient  # noqa: PLC0415

    models: dict[str, Any] = {"Patient": Patient, "Observation": Observation, "Condition": Condition}
    known: dict[str, Record] = {}
    others: list[tuple[str, Any]] = []
    for count, (where, url, resource) in enumerate(_resources(files), start=1):
        kind = str(resource.get("resourceType"))
        if count % TOLD_EVERY == 0:
            progress(count)
        if kind not in models:
            continue
        parsed = _parsed(models[kind], resource, where)
        if kind != "Patient":
            others.append((where, parsed))
            continue
        record = Record(_identifier(parsed, patient_id, where), parsed)
        names = {f"Patient/{parsed.id}"} if parsed.id else set()
        for name in names | ({url} if url else set()):
            if name in known:
                raise InputError("a patient resource comes twice", got=where, remedy="export each patient once")
            known[name] = record
    for where, parsed in others:
        about = _subject(parsed, known, where)
        if about is not None:
            (about.observations if isinstance(parsed, Observation) else about.conditions).append(parsed)
    return sorted(set(known.values()), key=lambda record: record.identifier)


def _resources(files: list[tuple[Path, bytes]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where it stands, its full URL or nothing, the resource) of every resource of every file."""
    for path, data in files:
        if path.suffix == ".ndjson":
            for number, line in enumerate(data.splitlines(), start=1):
                if line.strip():
                    yield from _of(_json(line, f"{path.name}, line {number}"), f"{path.name}, line {number}")
        else:
            yield from _of(_json(data, path.name), path.name)


def _of(value: Any, where: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        raise InputError(f"{where} is no FHIR resource", expected="an object with a resourceType")
    if value["resourceType"] != "Bundle":
        yield where, "", value
        return
    entries = value.get("entry", [])
    if not isinstance(entries, list):
        raise InputError(f"{where} is no Bundle", expected="entry to be a list")
    for number, entry in enumerate(entries, start=1):
        place = f"{where}, entry {number}"
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise InputError(f"{place} holds no resource", remedy="export a Bundle of resources, of type collection")
        url = entry.get("fullUrl")
        yield place, url if isinstance(url, str) else "", resource


def _json(data: bytes, where: str) -> Any:
    flaw = ""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        flaw = f"line {error.lineno}: {error.msg}"  # of the format only
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        flaw = type(error).__name__
    raise InputError(
        f"{where} is not JSON", got=flaw, remedy="export it as FHIR JSON, or NDJSON with the suffix .ndjson"
    )


def _parsed(model: Any, resource: dict[str, Any], where: str) -> Any:
    flaw = ""
    try:
        return model.model_validate(resource)
    except ValueError as error:  # pydantic's: it quotes the resource, so only the elements' names are kept
        errors = error.errors(include_url=False, include_input=False) if hasattr(error, "errors") else []
        names = {".".join(str(part) for part in item["loc"] if isinstance(part, str)) for item in errors}
        flaw = some(sorted(name for name in names if name and len(name) < 80 and name.replace(".", "").isalnum()), 5)
    except (TypeError, RecursionError, AttributeError) as error:
        flaw = type(error).__name__
    kind = resource.get("resourceType")
    raise InputError(
        f"a resource of the type {kind} is not what FHIR R4 allows",
        got=f"{where}{': ' if flaw else ''}{flaw}",
        remedy="correct the export",
    )


def _identifier(patient: Patient, wanted: str, where: str) -> str:
    """The patient's id, or their identifier of a system. An empty text is a missing identifier, which the checks refuse."""
    if wanted == _BY_REFERENCE:
        return patient.id or ""
    found = {one.value for one in patient.identifier or () if one.system == wanted and one.value and one.use != "old"}
    if len(found) > 1:
        raise InputError("a patient has several identifiers of one system", got=where, remedy="export the one in use")
    return str(found.pop()).strip() if found else ""


def _subject(resource: Any, known: dict[str, Record], where: str) -> Record | None:
    """The record of a resource's patient; None where it is about something that is no patient.

    Raises:
        InputError: it is about a patient who is not there.
    """
    reference = resource.subject.reference if resource.subject is not None else None
    if not reference:
        return None
    plain = str(reference).split("/_history/")[0]
    record = known.get(plain)
    if record is None and "/" in plain:
        kind, name = plain.split("/")[-2:]
        if kind != "Patient":
            return None
        record = known.get(f"Patient/{name}")
    if record is None:
        raise InputError(
            "a resource is about a patient who is not in the files", got=where, remedy="export the patients too"
        )
    return record
