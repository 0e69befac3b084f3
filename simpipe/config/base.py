"""What all parts of the configuration are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Distance = Literal["cosine", "euclidean", "inner_product"]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
