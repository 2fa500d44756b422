"""An exploration: statistics that a coordinator asks for before a study. A manifest of its own kind, and data like every manifest.

It has the schema of a study (columns with public bounds and levels), so that a hospital's mapping serves both, and a list of
queries. Each asks for counts or bounded integer sums over patients, one row a patient (the last encounter), so that what one
patient can change is known from the manifest alone (`fedward.study.answers`). Nothing else can be asked.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedward.privacy.errors import InputError
from fedward.study.fields import COLUMN, NAME, Finite, Part, Positive
from fedward.study.manifest import (
    Ascending,
    BaseManifest,
    BaseSealed,
    CategoricalFeature,
    Level,
    NumericFeature,
    PrivacyTerms,
    parse_data,
    read_toml,
)

MAX_COORDINATES = 5_000
"""Of all answers together: each is a draw of noise, and none is of use when there are so many."""
OUTCOME_LEVELS = ("0", "1")
"""The outcome's levels, for conditions and histograms."""

Bins = Annotated[int, Field(ge=2, le=200)] | Annotated[Ascending, Field(min_length=2, max_length=201)]
"""So many equal bins of the column's bounds, or the bins' edges [e_i, e_{i+1}), the last one closed."""
Column = Annotated[str, Field(pattern=COLUMN)]


class Condition(Part):
    """Patients whose column has this level, or lies in [at_least, below). A missing value meets no condition."""

    column: Column
    level: Level | None = None
    at_least: Finite | None = None
    below: Finite | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Condition:
        band = self.at_least is not None or self.below is not None
        if (self.level is not None) == band:
            raise ValueError("a condition has either a level or a band (at_least, below)")
        if self.at_least is not None and self.below is not None and not self.at_least < self.below:
            raise ValueError(f"the band is empty: at_least {self.at_least:g}, below {self.below:g}")
        return self

    @property
    def words(self) -> str:
        if self.level is not None:
            return f"{self.column} = {self.level}"
        low = f"{self.at_least:g} <= " if self.at_least is not None else ""
        high = f" < {self.below:g}" if self.below is not None else ""
        return f"{low}{self.column}{high}"


class _Query(Part):
    name: Annotated[str, Field(pattern=NAME)]
    where: Annotated[tuple[Condition, ...], Field(max_length=3)] = ()
    """Conditions that a patient must meet, all of them."""

    @property
    def _patients(self) -> str:
        return f"patients with {' and '.join(c.words for c in self.where)}" if self.where else "all patients"


class CountQuery(_Query):
    """How many patients meet the conditions."""

    kind: Literal["count"]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(condition.column for condition in self.where)

    @property
    def words(self) -> str:
        return f"the number of {self._patients}"


class _ColumnQuery(_Query):
    column: Column

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, *(condition.column for condition in self.where))


class HistogramQuery(_ColumnQuery):
    """How many patients have each level of a column, or a number in each bin; and how many have none or another."""

    kind: Literal["histogram"]
    bins: Bins | None = None

    @property
    def words(self) -> str:
        return f"the number of {self._patients}, by {self.column}"


class MeanQuery(_ColumnQuery):
    """The mean of a number over the patients who have one, each clipped to the column's bounds."""

    kind: Literal["mean"]

    @property
    def words(self) -> str:
        return f"the mean {self.column} of {self._patients}"


class QuantileQuery(_ColumnQuery):
    """Quantiles of a number over the patients who have one, found between the edges of public bins."""

    kind: Literal["quantile"]
    q: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)], ...], Field(min_length=1, max_length=20)
    ]
    bins: Bins = 20

    @property
    def words(self) -> str:
        shares = ", ".join(f"{100 * q:g}%" for q in self.q)
        return f"the {shares} quantile{'s' if len(self.q) > 1 else ''} of {self.column} of {self._patients}"


Query: TypeAlias = CountQuery | HistogramQuery | MeanQuery | QuantileQuery


class ExplorePrivacy(PrivacyTerms):
    """What all queries together, spare attempts included, may cost a patient of a hospital."""

    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    spare_attempts: Annotated[int, Field(ge=0, le=20)] = 1


class Exploration(BaseManifest):
    """What the author of an exploration writes."""

    queries: Annotated[tuple[Annotated[Query, Field(discriminator="kind")], ...], Field(min_length=1, max_length=100)]
    privacy: ExplorePrivacy

    @model_validator(mode="after")
    def _everybody_is_asked(self) -> Exploration:
        if self.federation.cohort is not None:
            raise ValueError("an exploration asks every hospital that is there, once: leave out federation.cohort")
        return self

    @model_validator(mode="after")
    def _queries_coherent(self) -> Exploration:
        names = [query.name for query in self.queries]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"queries share a name: {doubles}")
        for query in self.queries:
            for condition in query.where:
                self._check_condition(query, condition)
            if not isinstance(query, CountQuery):
                self._check_column(query)
        size = sum(self._coordinates(query) for query in self.queries)
        if size > MAX_COORDINATES:
            raise ValueError(f"the queries have {size} answers, at most {MAX_COORDINATES} are allowed")
        return self

    def _check_condition(self, query: Query, condition: Condition) -> None:
        levels = self.levels(condition.column)
        if levels is None and self.bounds(condition.column) is None:
            raise ValueError(f'query "{query.name}": "{condition.column}" is no column of the schema')
        if (condition.level is not None) != (levels is not None):
            has = "has levels: give it a level" if levels is not None else "is a number: give it at_least or below"
            raise ValueError(f'query "{query.name}": "{condition.column}" {has}')
        if levels is not None and condition.level not in levels:
            raise ValueError(f'query "{query.name}": "{condition.level}" is none of {", ".join(levels)}')

    def _check_column(self, query: HistogramQuery | MeanQuery | QuantileQuery) -> None:
        bounds = self.bounds(query.column)
        where = f'query "{query.name}": "{query.column}"'
        if bounds is None and self.levels(query.column) is None:
            raise ValueError(f"{where} is no column of the schema")
        if bounds is None and not isinstance(query, HistogramQuery):
            raise ValueError(f"{where} has levels, a {query.kind} needs a number")
        bins = None if isinstance(query, MeanQuery) else query.bins
        if bounds is None:
            if bins is not None:
                raise ValueError(f"{where} has levels: leave out bins")
        elif bins is None and not isinstance(query, MeanQuery):
            raise ValueError(f"{where} is a number: give it bins")
        elif isinstance(bins, tuple) and not (bounds[0] <= bins[0] and bins[-1] <= bounds[1]):
            raise ValueError(f"{where}: bins must lie within the bounds {list(bounds)}")

    def _coordinates(self, query: Query) -> int:
        if isinstance(query, HistogramQuery):
            return len(self.labels(query))
        return len(self.edges(query)) - 1 if isinstance(query, QuantileQuery) else 1

    def bounds(self, column: str) -> tuple[float, float] | None:
        """The public bounds of a numeric column; None for any other."""
        for feature in self.features:
            if feature.column == column and isinstance(feature, NumericFeature):
                return feature.bounds[0], feature.bounds[1]
        return None

    def levels(self, column: str) -> tuple[str, ...] | None:
        """The levels of a categorical column or of the outcome; None for any other."""
        if column == self.outcome.column:
            return OUTCOME_LEVELS
        for feature in self.features:
            if feature.column == column and isinstance(feature, CategoricalFeature):
                return feature.levels
        return None

    def unit(self, column: str) -> str:
        return next((f.unit for f in self.features if isinstance(f, NumericFeature) and f.column == column), "")

    def edges(self, query: HistogramQuery | QuantileQuery) -> NDArray[np.float64]:
        """The edges of a numeric query's bins, shape (bins + 1,).

        Raises:
            InputError: the query's column has no bins.
        """
        bounds = self.bounds(query.column)
        if bounds is None or query.bins is None:
            raise InputError(f'query "{query.name}" has no bins', expected="a numeric column with bins")
        if isinstance(query.bins, tuple):
            return np.array(query.bins)
        return np.linspace(bounds[0], bounds[1], query.bins + 1)

    def labels(self, query: HistogramQuery) -> tuple[str, ...]:
        """The names of a histogram's counts: levels or bins, and last what is in none of them."""
        levels = self.levels(query.column)
        if levels is not None:
            return (*levels, "missing")
        pairs = list(itertools.pairwise(f"{edge:g}" for edge in self.edges(query)))
        closing = [f"[{low}, {high})" for low, high in pairs[:-1]] + [f"[{pairs[-1][0]}, {pairs[-1][1]}]"]
        return (*closing, "missing or outside")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the queries touch, each once, in order."""
        return tuple(dict.fromkeys(column for query in self.queries for column in query.columns))


class SealedExploration(BaseSealed):
    """An exploration, sealed: each site's noise multiplier is the noise of all its answers together."""

    kind: Literal["explore"] = "explore"
    manifest: Exploration

    @model_validator(mode="after")
    def _noise_coherent(self) -> SealedExploration:
        if any(not entry.noise_multiplier > 0 for entry in self.roster):
            raise ValueError(
                "every site's noise_multiplier must be above 0: an exploration is answered with noise alone"
            )
        return self


def parse_exploration(data: dict[str, Any], source: str = "manifest") -> Exploration:
    """An exploration from parsed TOML or JSON data; errors as `parse_data`."""
    return parse_data(Exploration, data, source, "exploration")


def load_exploration(path: Path) -> Exploration:
    """Read an exploration's TOML file.

    Raises:
        InputError: the file is missing, too large, not TOML, or not an exploration.
    """
    return parse_exploration(read_toml(path, "manifest"), path.name)
