"""What names a source without reading its rows: the digest of its files, and what people see of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fedward.client.mapping import Source
from fedward.client.mapping_sources import SqlSource
from fedward.privacy.canonical import digest_of


def data_digest(path: Path, source: Source) -> str | None:
    """The digest that reading the source would find; None for a database, where only its rows tell. Empty if it is gone."""
    if source.kind == "sql":
        return None
    if source.kind == "fhir":
        files = fhir_files(path)
        return files_digest(path, ((file, file.read_bytes()) for file in files)) if files else ""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def fhir_files(path: Path) -> list[Path]:
    """The file, or the JSON files of a folder and its folders, by name."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in (".json", ".ndjson") and file.is_file())
    return [path] if path.is_file() else []


def files_digest(path: Path, files: Iterable[tuple[Path, bytes]]) -> str:
    """SHA-256 over every file's name within the folder and its bytes."""
    named = [[file.relative_to(path).as_posix() if file != path else "", hashlib.sha256(data).hexdigest()]
             for file, data in files]  # fmt: skip
    return digest_of(named)


def database_name(sql: SqlSource) -> str:
    """The database as people see it. It cannot hold a password, for a mapping cannot."""
    from fedward.client.sources.sql import shown  # noqa: PLC0415 - SQLAlchemy only where there is a database

    return shown(sql)
