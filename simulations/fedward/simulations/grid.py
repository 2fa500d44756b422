"""The settings of a sweep: a study with some of its fields changed, in every combination."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedward.privacy.errors import InputError, UsageError
from fedward.study.manifest import Manifest, parse

MOST_SETTINGS = 1000


@dataclass(frozen=True)
class Vary:
    """A field of the manifest and the values that it takes: "privacy.epsilon", or a table such as "training"."""

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """A study of a sweep.

    Attributes:
        values: each varied field's value, as text.
        manifest: the study with these values.
    """

    values: Mapping[str, str]
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its values, for people."""
        return self.without("")

    def without(self, left_out: str) -> str:
        """Its values but for one field's."""
        named = {field: value for field, value in self.values.items() if field != left_out}
        return ", ".join(f"{field.split('.')[-1]} {value}" for field, value in named.items())


def parse_vary(text: str) -> Vary:
    """From `FIELD=VALUE,VALUE,…`: values as TOML writes them, words without quotes too; a table takes inline tables.

    Raises:
        UsageError: it is no such text.
    """
    field, equals, values = text.partition("=")
    if not equals or not field.strip() or not values.strip():
        raise UsageError("this varies nothing", expected="FIELD=VALUE,VALUE,…, such as privacy.epsilon=1,3,8", got=text)
    try:
        found = tuple(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        found = tuple(_scalar(value.strip()) for value in values.split(","))
    return Vary(field.strip(), found)


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def settings(manifest: Manifest, varied: Sequence[Vary]) -> list[Setting]:
    """Every combination of values, in the order given.

    Raises:
        UsageError: nothing is varied, a field twice, or there are more combinations than `MOST_SETTINGS`.
        InputError: a combination is no valid study, or not of the same patients; the message names it.
    """
    fields = [one.field for one in varied]
    if not varied or len(set(fields)) != len(fields):
        raise UsageError("a sweep varies at least one field, each once", got=", ".join(fields) or "none")
    number = 1
    for one in varied:
        number *= len(one.values)
    if number > MOST_SETTINGS:
        raise UsageError("the sweep has too many settings", expected=f"at most {MOST_SETTINGS}", got=str(number))
    found = []
    for values in itertools.product(*(one.values for one in varied)):
        data = manifest.model_dump(mode="json")
        for field, value in zip(fields, values, strict=True):
            _set(data, field, value)
        texts = dict(zip(fields, map(shown, values), strict=True))
        named = ", ".join(f"{field} = {text}" for field, text in texts.items())
        setting = Setting(texts, parse(data, named))
        if _patients(setting.manifest) != _patients(manifest):
            raise InputError(
                f"{named} is no setting of the same patients",
                expected="other fields than features, outcome, fairness, training.missing and training.holdout",
                remedy="write a study for each, and simulate them one by one",
            )
        found.append(setting)
    return found


def _patients(manifest: Manifest) -> tuple[object, ...]:
    """What hospitals' tables and their split are made of. Settings are compared on the same table, and where one held out more
    than another, the one's validation patients would be the other's test."""
    training = manifest.training
    return manifest.features, manifest.outcome, manifest.fairness, training.missing, training.holdout


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, dict):
        return " ".join(f"{name}={shown(part)}" for name, part in value.items())
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _set(data: dict[str, Any], field: str, value: Any) -> None:
    """Set a field by its path; a table given for a table joins it."""
    *path, last = field.split(".")
    place: Any = data
    for name in path:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (not path and last not in place):
        raise InputError(f'the study has no field "{field}"', expected="a path such as training.local_steps")
    if isinstance(value, dict) and isinstance(place.get(last), dict):
        place[last] = place[last] | value
    else:
        place[last] = value
