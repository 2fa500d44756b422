"""What the tables of a manifest are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
COLUMN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of every table of the manifest: immutable, strict, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
