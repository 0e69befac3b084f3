"""What the server answers, for the OpenAPI document; bodies are made by the process of a release, as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorText(BaseModel):
    code: str = Field(description="one word for programs")
    message: str
    cure: str = Field(description="what to do about it; may be empty")


class ErrorAnswer(BaseModel):
    """Every answer that is not 200."""

    error: ErrorText
    request_id: str


class Neighbor(_Answer):
    """A neighbor; metadata columns stand beside these."""

    rank: int = Field(description="from 1")
    id: str
    label: str | None
    distance: float = Field(description="smaller is nearer")
    probability: float | None = Field(None, description="that it is of the query's label, where a cutpoint was named")
    within: bool | None = Field(None, description="the cutpoint, where one was named")


class Match(_Answer):
    """`label` is null where nothing lies within the cutpoint."""

    label: str | None
    distance: float | None
    cutpoint: str
    cutpoint_distance: float
    probability: float | None = None
    matcher: str


class Result(_Answer):
    query: str
    label: str | None
    match: Match | None = None
    neighbors: list[Neighbor]


class QueryAnswer(_Answer):
    """Results in the order of the queries, all from one release."""

    release: str
    distance: str = Field(description="cosine, euclidean or inner_product")
    results: list[Result]
    filter: dict[str, Any] | None = Field(None, description="how a filter was answered")


class Item(_Answer):
    """An indexed item; metadata columns stand in `metadata`."""

    id: str
    label: str | None
    partition: int | None = None
    metadata: dict[str, Any] | None = None


class ItemAnswer(Item):
    release: str


class ItemsAnswer(_Answer):
    release: str
    items: list[Item]


class ReleaseAnswer(_Answer):
    """Facts of a release, its cutpoints, thresholds and metrics."""

    release: str
    items: int
    dim: int
    distance: str
    metadata: list[str] = Field(description="columns")
    pictures: bool = Field(description="whether its items have pictures")


class ReleaseLine(_Answer):
    release: str
    created_at: str
    items: int
    live: bool
    previous: bool
    tags: list[str]


class ReleasesAnswer(_Answer):
    """Newest first."""

    releases: list[ReleaseLine]


class MapAnswer(_Answer):
    """A sample of the items in two dimensions."""


class Health(BaseModel):
    status: str


class Ready(_Answer):
    ready: bool
    release: str | None
