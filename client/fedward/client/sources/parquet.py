"""Rows from a Parquet file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedward.client.mapping import Source
from fedward.client.sources.sheet import Progress, Sheet, check_cells, check_header, file_bytes, hold, texts
from fedward.privacy.errors import InputError

NUMBERING = "row 1 is the first record"


def read_parquet(
    path: Path, _source: Source, wanted: dict[str, str], expected: str | None, progress: Progress
) -> Sheet:
    """The wanted columns, nothing else of the file; its types become texts (`sheet.text_of`).

    Raises:
        InputError: the file is missing, too large, no Parquet, has no rows, lacks or repeats a column, or one is nested.
        IntegrityError: code `data-changed`: it is not the file of that digest.
    """
    import pyarrow as pa  # noqa: PLC0415 - a site with CSV files need not wait for it
    import pyarrow.parquet as pq  # noqa: PLC0415

    data = file_bytes(path, expected)
    digest = hashlib.sha256(data).hexdigest()
    hold(path.name, digest, expected)
    flaw, rows = "", 0
    columns: dict[str, list[str]] = {}
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows = file.metadata.num_rows
        check_header(path.name, file.schema_arrow.names, wanted)
        check_cells(path.name, rows, len(wanted))
        nested = [name for name in wanted if pa.types.is_nested(file.schema_arrow.field(name).type)]
        if nested:
            raise InputError(f"{path.name} has lists or structures in a column", got=", ".join(nested))
        # By record batch: a dictionary or a run of one value unpacks to far more than the file's size.
        columns = {name: [] for name in wanted}
        read = 0
        for batch in file.iter_batches(columns=list(wanted), batch_size=50_000):
            for name in wanted:
                columns[name] += texts(_values(batch.column(name)))
            read += batch.num_rows
            progress(read)
    except (pa.ArrowException, OSError, ValueError) as error:
        flaw = type(error).__name__  # its text may quote a value
    if flaw:
        raise InputError(f"{path.name} is no Parquet file that can be read", got=flaw, remedy="export it again")
    if rows == 0:
        raise InputError(f"{path.name} has columns and no rows", expected="one row per patient")
    return Sheet(path.name, columns, list(range(1, rows + 1)), digest, numbering=NUMBERING)


def _values(column: "pa.Array") -> list[object]:  # type: ignore[name-defined]  # noqa: F821, UP037
    """Python values; a number of single precision stays one, so that 0.1 is written as 0.1."""
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        return list(numbers)
    values: list[object] = column.to_pylist()
    return values
