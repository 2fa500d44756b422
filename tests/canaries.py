"""Canaries: marks that stand nowhere but in a hospital, and a scanner that knows them in every encoding.

A canary is a text or a number. The scanner is given bytes that left and finds each canary in each of its forms: texts in
UTF-8, -16 and -32, Latin-1, JSON's and URLs' escapes, hexadecimal and base64 of all three alignments, in whatever case; numbers
as decimals (in all of those), as float32 and float64, int32 and int64, of either byte order, and scaled to [0, 1] as a model
sees them. Four bytes may be there by chance (`Hit.short`): whoever reads a hit must see it in a second, independent run.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedward.study.heart import heart_folder

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Canary:
    """Where it was planted, and what. `bounds` are those of a feature that the value stands for."""

    where: str
    value: str | int | float
    bounds: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else repr(self.value)


@dataclass(frozen=True)
class Hit:
    canary: Canary
    form: str
    short: bool


class Nest:
    """Makes canaries, no two alike; the same ones for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - names, no secrets
        self.all: list[Canary] = []

    def text(self, where: str, *, foreign: bool = False) -> str:
        """12 letters or more: a name, a code, a path. `foreign` has a letter outside ASCII."""
        word = "".join(self._random.choice(LETTERS) for _ in range(12))
        return str(self._keep(where, f"Zq{word[:5]}{'ü' if foreign else 'Q'}{word[5:]}").value)

    def slug(self, where: str) -> str:
        """Only what a site's name or a code may be made of."""
        return str(self._keep(where, "zq" + "".join(self._random.choice(LETTERS) for _ in range(14))).value)

    def whole(self, where: str) -> int:
        """Nine digits, as a record number."""
        return int(self._keep(where, self._random.randrange(10**8, 10**9) | 1).value)

    def decimal(self, where: str, low: float, high: float) -> float:
        """A value within bounds with six decimals, none of them round."""
        value = round(self._random.uniform(low, high), 5) + 0.000003
        return float(self._keep(where, round(value, 6), (low, high)).value)

    def _keep(self, where: str, value: str | float, bounds: tuple[float, float] | None = None) -> Canary:
        canary = Canary(where, value, bounds)
        assert value not in {other.value for other in self.all[-50:]}
        self.all.append(canary)
        return canary


def base64_cores(data: bytes) -> Iterator[bytes]:
    """What base64 makes of the bytes wherever they stand: one core per alignment, without the characters on its edges."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        core = encoded[first:last]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")


def folded_forms(text: str) -> Iterator[tuple[str, bytes]]:
    """Forms that are looked for in lower case."""
    low = text.lower()
    yield "utf-8", low.encode()
    yield "latin-1", low.encode("latin-1")
    yield "utf-16-le", low.encode("utf-16-le")
    yield "utf-16-be", low.encode("utf-16-be")
    yield "utf-32-le", low.encode("utf-32-le")
    yield "json", json.dumps(low)[1:-1].encode()
    yield "url", urllib.parse.quote(low).lower().encode()
    for name, variant in (("hex", low), ("hex", text), ("hex", text.upper())):
        yield name, variant.encode().hex().encode()
        yield f"{name}-utf-16", variant.encode("utf-16-le").hex().encode()
        yield "url-all", "".join(f"%{byte:02x}" for byte in variant.encode()).encode()


def exact_forms(text: str) -> Iterator[tuple[str, bytes]]:
    """Forms whose case matters."""
    for variant in (text, text.lower(), text.upper()):
        for core in base64_cores(variant.encode()):
            yield "base64", core
    if not text.isascii():  # bytes know no case beyond ASCII's
        for variant in (text.upper(), text.swapcase()):
            yield from (("utf-8", variant.encode()), ("utf-16-le", variant.encode("utf-16-le")))


def binary_forms(canary: Canary) -> Iterator[tuple[str, bytes]]:
    value = canary.value
    if isinstance(value, str):
        return
    scaled = [] if canary.bounds is None else [(value - canary.bounds[0]) / (canary.bounds[1] - canary.bounds[0])]
    for name, number in (("", value), *(("scaled ", one) for one in scaled)):
        for order in "<>":
            yield f"{name}float32{order}", struct.pack(order + "f", number)
            yield f"{name}float64{order}", struct.pack(order + "d", number)
    if isinstance(value, int):
        for order in "<>":
            yield f"int32{order}", struct.pack(order + "i", value)
            yield f"int64{order}", struct.pack(order + "q", value)


class _Needles:
    """Byte strings of at least four bytes, found by their first four, which hundreds may share, and then by their length."""

    def __init__(self, needles: Iterable[tuple[bytes, Canary, str]]) -> None:
        self._by_prefix: dict[bytes, dict[int, dict[bytes, list[tuple[Canary, str]]]]] = {}
        for needle, canary, form in needles:
            assert len(needle) >= 4, needle
            of_length = self._by_prefix.setdefault(needle[:4], {}).setdefault(len(needle), {})
            of_length.setdefault(needle, []).append((canary, form))
        self._prefixes = np.frombuffer(b"".join(sorted(self._by_prefix)), dtype="<u4")

    def find(self, data: bytes) -> Iterator[Hit]:
        if len(data) < 4 or not len(self._prefixes):
            return
        raw = np.frombuffer(data, dtype=np.uint8).astype(np.uint32)
        windows = raw[:-3] | raw[1:-2] << 8 | raw[2:-1] << 16 | raw[3:] << 24
        for at in np.flatnonzero(np.isin(windows, self._prefixes)):
            for length, needles in self._by_prefix[data[at : at + 4]].items():
                for canary, form in needles.get(data[at : at + length], ()):
                    yield Hit(canary, form, length < 6)


class Scanner:
    def __init__(self, canaries: Iterable[Canary]) -> None:
        known = list(canaries)
        self._folded = _Needles((data, one, form) for one in known for form, data in folded_forms(one.text))
        exact = [(data, one, form) for one in known for form, data in exact_forms(one.text)]
        self._exact = _Needles(exact + [(data, one, form) for one in known for form, data in binary_forms(one)])

    def find(self, data: bytes) -> set[Hit]:
        """Every canary in the bytes, in every form in which it stands there."""
        return {*self._folded.find(data.lower()), *self._exact.find(data)}


CODED = ("SEX_CD", "CP_CD", "FBS_CD", "RESTECG_CD", "EXANG_CD", "SLOPE_CD", "THAL_CD", "DX_CD")
VALUED = {"BP_SYS": (60.0, 250.0), "CHOL": (60.0, 650.0)}


def plant(nest: Nest, folder: Path, site: str = "va") -> tuple[Path, Path]:
    """VA's data and mapping with canaries for every identifier, value, column, code and name; (CSV, mapping)."""
    rows = [line.split(",") for line in (heart_folder() / f"{site}.csv").read_text().splitlines()]
    header, rows = rows[0], rows[1:]
    mapping = (heart_folder() / f"{site}.mapping.toml").read_text()
    for name in CODED:
        at = header.index(name)
        start = mapping.index(f'from = "{name}"')
        end = (mapping.find("\n[", start) + 1) or len(mapping)
        block = mapping[start:end]
        for code in sorted({row[at] for row in rows} | {"0", "1", "2", "3", "4", "6", "7"} - {"-9"}):
            if f"{code} = " not in block or code == "-9":
                continue
            mark = nest.text("a level's code")
            block = block.replace(f" {code} = ", f' "{mark}" = ')
            for row in rows:
                row[at] = mark if row[at] == code else row[at]
        mapping = mapping[:start] + block + mapping[end:]
    for row in rows:
        row[0] = nest.text("a patient's identifier")
        for name, (low, high) in VALUED.items():
            row[header.index(name)] = repr(nest.decimal(f"a value of {name}", low, high))
        row.append(str(nest.whole("a record number")))
        row.append(nest.text("a note", foreign=len(nest.all) % 3 == 0))
    header = [*header, "MRN", "NOTE"]
    named = {name: f"{nest.text('a column')} {name}" for name in header}
    for name, mark in named.items():
        mapping = mapping.replace(f'"{name}"', f'"{mark}"')
    place = folder / nest.text("a folder")
    place.mkdir(parents=True)
    csv, toml = place / f"{nest.text('a file')}.csv", place / f"{nest.text('a mapping')}.toml"
    csv.write_text("\n".join(",".join(row) for row in [[named[name] for name in header], *rows]), encoding="utf-8")
    toml.write_text(f"# {nest.text('a comment')}\n{mapping}".replace('path = "va.csv"', f'path = "{csv.name}"'))
    return csv, toml
