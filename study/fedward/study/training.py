"""How a study trains: the manifest's `[training]` table. `docs/algorithms.md` says which of it works with what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedward.study.fields import Part, Positive

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Training(Part):
    """How a round trains. FedSGD is one full-batch step of clipped gradients per site and round."""

    algorithm: Literal["fedsgd", "fedavg", "fedprox", "scaffold", "qfedavg", "fedadam", "fedyogi", "fedadagrad"]
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    server_beta2: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.99
    server_epsilon: Positive = 1e-3
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    local_learning_rate: Positive = 0.1
    sampling_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    proximal: Rate = 0.0
    q: Rate = 0.0
    """q-FedAvg's: how much more a site with a larger loss counts."""
    aggregation: Literal["mean", "median", "trimmed-mean", "krum"] = "mean"
    byzantine: Annotated[int, Field(ge=0, le=1000)] = 0
    """Sites that may send anything, which a trimmed mean or Krum withstands."""
    kept: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=50)] = ()
    """Parameters, by how their names begin, that each site keeps for itself."""
    fine_tuning_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Local steps after the last round, of a model that stays at its site."""
    holdout: Annotated[float, Field(ge=0.05, le=0.9, allow_inf_nan=False)] = 0.33
    missing: Literal["midpoint", "refuse"] = "midpoint"
    weights: Literal["declared"] = "declared"

    @model_validator(mode="after")
    def _coherent(self) -> Training:
        if self.algorithm == "fedsgd" and (self.local_steps != 1 or self.sampling_rate != 1.0):
            raise ValueError("fedsgd takes one full-batch step: leave out local_steps and sampling_rate")
        for field, algorithm in (("proximal", "fedprox"), ("q", "qfedavg")):
            value: float = getattr(self, field)
            if self.algorithm == algorithm and value == 0:
                raise ValueError(f"{algorithm} needs {field} above 0")
            if self.algorithm != algorithm and value > 0:
                raise ValueError(f"{field} belongs to {algorithm}, not {self.algorithm}")
        if self.algorithm in {"scaffold", "qfedavg"} and (self.aggregation != "mean" or self.server_momentum > 0):
            raise ValueError(
                f"{self.algorithm} has a server step of its own: leave out aggregation and server_momentum"
            )
        if self.algorithm == "qfedavg" and self.kept:
            raise ValueError("qfedavg measures whole updates: leave out kept")
        return self

    @model_validator(mode="after")
    def _robust(self) -> Training:
        counts = self.aggregation in {"trimmed-mean", "krum"}
        if counts and self.byzantine == 0:
            raise ValueError(f'aggregation "{self.aggregation}" needs byzantine, the number of sites to withstand')
        if not counts and self.byzantine > 0:
            raise ValueError(f'byzantine belongs to aggregation "trimmed-mean" or "krum", not "{self.aggregation}"')
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was added later and is not used: a study keeps the digest under which it was approved."""
        added = {
            name: Training.model_fields[name].default
            for name in ("q", "aggregation", "byzantine", "kept", "fine_tuning_steps")
        }
        return {
            name: value
            for name, value in plain(self).items()
            if name not in added or getattr(self, name) != added[name]
        }

    @property
    def adaptive(self) -> bool:
        """Whether the server's steps are normalised by their own second moment."""
        return self.algorithm in {"fedadam", "fedyogi", "fedadagrad"}

    @property
    def least_sites(self) -> int:
        """The fewest sites that the aggregation is defined for."""
        return {"mean": 1, "median": 3, "trimmed-mean": 2 * self.byzantine + 1, "krum": 2 * self.byzantine + 3}[
            self.aggregation
        ]

    @property
    def simulated_only(self) -> str:
        """What of it `fedward simulate` runs and no federation does; empty where every node can take part."""
        found: list[str] = [self.algorithm] if self.algorithm in {"scaffold", "qfedavg"} else []
        found += ["kept"] if self.kept else []
        found += ["fine_tuning_steps"] if self.fine_tuning_steps else []
        return ", ".join(found)
