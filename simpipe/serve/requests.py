"""What a request of the server may say. Vectors are checked by `parse`, which is faster."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(max_length=256)]
LONGEST_ID = 2048  # characters: an id's hash takes a step a character
Id = Annotated[str, Field(max_length=LONGEST_ID)]
_FILTER = (
    'only items whose columns all fit: `{"country": "de"}`, `{"price": {"gte": 10, "lt": 20}}`, `{"brand": {"in": ["a"]}}`, '
    '`{"name": {"prefix": "ab"}}`'
)
_VECTORS = {"vectors": [[0.12, -0.5, 0.31], [0.9, 0.02, -0.4]], "k": 5}
_IDS = {"ids": ["digits-00053"], "k": 3, "cutpoint": "optimal", "metadata": True}
_MATCH = {"ids": ["digits-00053"], "cutpoint": "precision>=0.99", "k": 5}


class QueryRequest(BaseModel):
    """Exactly one of `vectors`, `ids` and `images` asks."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    vectors: list[list[float]] | None = Field(None, description="n vectors of the release's dim; finite numbers", min_length=1)
    ids: list[Id] | None = Field(None, description="indexed items", min_length=1)
    images: list[str] | None = Field(
        None, description="PNG or JPEG files as base64; they go through the release's encoder", min_length=1
    )
    names: list[str] | None = Field(None, description="of vectors or images, for the answer; else `row 0`, `row 1` and so on")
    k: int = Field(5, description="neighbors a query", ge=1)
    filter: dict[str, Any] | None = Field(None, description=_FILTER)
    target_recall: float | None = Field(
        None, description="the cheapest search that was measured to reach this recall; else as the server is set", gt=0, lt=1
    )
    exact: bool = Field(False, description="compare with every item")
    where: Name | None = Field(None, description="only items with this value of the column that routes")
    matcher: Name | None = Field(None, description="another calibrated matcher, such as `match_majority_vote@5`")
    group: Name | None = Field(None, description="use the cutpoint of this value of the column `calibrate.by`")
    metadata: bool | list[Name] = Field(False, description="metadata of neighbors: all columns, or these")
    release: Name | None = Field(None, description="a release's id, a tag, or `previous`; else the live one", min_length=1)
    timeout: float | None = Field(
        None, description="seconds to wait at most; never more than the server allows", gt=0, allow_inf_nan=False
    )


class LookupRequest(QueryRequest):
    """Nearest items of each query."""

    model_config = ConfigDict(json_schema_extra={"examples": [_VECTORS, _IDS]})

    cutpoint: Name | None = Field(None, description="a calibrated cutpoint: each neighbor then says whether it is within it")


class MatchRequest(QueryRequest):
    """The label of each query, or none where nothing lies within the cutpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MATCH]})

    cutpoint: Name = Field("optimal", description="a calibrated cutpoint")
    by_label: bool = Field(False, description="use the cutpoint of the label that was derived, where it has one of its own")
