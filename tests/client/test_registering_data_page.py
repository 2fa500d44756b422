"""docs/registering-data.md: each mapping that it shows reads the same patients, and it names every field that there is."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import heart_fhir
import pandas as pd
import pytest
from federation import heart_manifest

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.client.mapping import ColumnMapping, Source, load_mapping
from fedward.client.mapping_sources import FhirColumn, FhirSource, SqlSource
from fedward.client.sources import read_site_table
from fedward.privacy.ledger import Budget
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, parse

PAGE = (Path(__file__).parents[2] / "docs" / "registering-data.md").read_text()
EXAMPLES = re.findall(r"<!-- mapping: (\w+) -->\n```toml\n(.*?)```", PAGE, re.DOTALL)


def small_study() -> Manifest:
    """The heart study with four of its columns."""
    data = heart_manifest().model_dump(mode="json")
    data["features"] = [one for one in data["features"] if one["column"] in ("age", "sex", "trestbps", "chol")]
    return parse(data)


def prepare(folder: Path) -> None:
    """VA's patients in each of the forms that the page's examples read."""
    frame = pd.read_csv(heart_folder() / "va.csv", dtype={"PSEUDO_ID": str})
    frame.to_csv(folder / "va.csv", index=False)
    frame.to_parquet(folder / "va.parquet")
    with closing(sqlite3.connect(folder / "warehouse.db")) as connection:
        frame.to_sql("export", connection, index=False)
    (folder / "export").mkdir()
    (folder / "export" / "bundle.json").write_text(json.dumps(heart_fhir.heart_bundle()))


def test_every_example_registers_the_same_patients(tmp_path: Path) -> None:
    prepare(tmp_path)
    manifest, home = small_study(), SiteHome.create(tmp_path / "home", "va", Budget(10.0, 1e-3))
    own = load_mapping(heart_folder() / "va.mapping.toml")
    own = own.model_copy(
        update={"columns": {name: own.columns[name] for name in ("age", "sex", "trestbps", "chol", "disease")}}
    )
    wanted = read_site_table(heart_folder() / "va.csv", own, manifest).frame.sort_index()
    ran = []
    for kind, text in EXAMPLES:
        path = tmp_path / f"{kind}.toml"
        path.write_text(text)
        if kind == "parsed":
            load_mapping(path)
            continue
        done = datasets.register(home, manifest, None, path, 1)
        pd.testing.assert_frame_equal(datasets.read(home, done.dataset, manifest).sort_index(), wanted)
        ran.append(done.dataset.kind)
    assert ran == ["csv", "parquet", "sql", "fhir"]


@pytest.mark.parametrize("model", [Source, ColumnMapping, SqlSource, FhirSource, FhirColumn])
def test_every_field_of_a_mapping_is_named(model: type) -> None:
    names = [info.alias or name for name, info in model.model_fields.items()]  # type: ignore[attr-defined]
    assert [
        name for name in names if f"`{name}" not in PAGE and f"{name}`" not in PAGE and f"{name}]" not in PAGE
    ] == []
