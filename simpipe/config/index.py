"""Configuration of an index: how items are split, what each partition is searched with, how it is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simpipe.config.base import Fraction, Model, Positive

Storage = Literal["float32", "float16", "int8"]


class RejectLimit(Model):
    max_share: Fraction = 0.0


# --- routers -----------------------------------------------------------------------------------------------------


class HashRouter(Model):
    """By the hash of the id: any partition may hold the nearest item, so every query asks all."""

    kind: Literal["hash"]
    partitions: Positive = 1


class _Centroids(Model):
    """What the routers that go by nearness share.

    `balance`: the largest partition's items over the mean. `sample`: vectors that the router learns from. `spill`: items near
    a border are also put into a second partition until there are `spill_factor` times as many rows as items: into
    the nearest other one, or by SOAR into the one whose residual is most orthogonal to the first.
    """

    partitions: Positive = 4
    sample: Positive = 100_000
    balance: Annotated[float, Field(ge=1.02)] = 1.2
    spill: Literal["none", "nearest", "soar"] = "none"
    spill_factor: Annotated[float, Field(ge=1.0, le=2.0)] = 1.3


class KMeansRouter(_Centroids):
    """Balanced k-means: compact partitions, each with up to 16 centroids of its own."""

    kind: Literal["kmeans"]


class PackedRouter(_Centroids):
    """Many fine clusters, packed along their neighbor graph into balanced partitions; queries are routed by the fine ones.

    `clusters`: how many fine ones (null: 64 a partition, at least 4096, where the sample has 15 vectors for each).
    """

    kind: Literal["packed"]
    clusters: Positive | None = None


class ColumnRouter(Model):
    """A partition for each value of a metadata column (large values take several); a query may name the value it asks for."""

    kind: Literal["column"]
    column: str
    max_values: Positive = 1024


class AutoRouter(Model):
    """The planner picks router and number of partitions by the routing recall measured on a sample.

    `partitions`: as many, whatever the planner measures; the router is still its choice.
    """

    kind: Literal["auto"]
    partitions: Positive | None = None
    sample: Positive = 100_000
    balance: Annotated[float, Field(ge=1.02)] = 1.2


FittedRouter = KMeansRouter | PackedRouter | HashRouter
Router = Annotated[
    AutoRouter | HashRouter | KMeansRouter | PackedRouter | ColumnRouter,
    Field(discriminator="kind"),
]


# --- backends ----------------------------------------------------------------------------------------------------


class ExactBackend(Model):
    """Scans every row by matrix products."""

    kind: Literal["exact"]


class NmslibBackend(Model):
    """HNSW by NMSLIB on one partition; `ef` is the width of the search where no recall profile says another."""

    kind: Literal["nmslib"]
    m: Positive = 16
    ef_construction: Positive = 200
    ef: Positive = 200
    exact_below: Positive = 1000


class ScannBackend(Model):
    """ScaNN's tree, whose leaves are scored exactly or by asymmetric hashing and reordering; all rows below `exact_below` items.

    What is null is derived from the number of items and the dim: `scoring` is `hash` above dim 256, and hashing goes with
    `soar`, which puts each item into a second leaf.
    """

    kind: Literal["scann"]
    scoring: Literal["exact", "hash"] | None = None
    soar: bool | None = None
    leaves: Positive | None = None
    leaves_to_search: Positive | None = None
    reorder: Positive | None = None
    exact_below: Positive = 1000


class FaissBackend(Model):
    """FAISS (`pip install simpipe[faiss]`): `hnsw` or `ivf`. `effort` is efSearch or the lists probed (null: derived)."""

    kind: Literal["faiss"]
    index: Literal["hnsw", "ivf"] = "hnsw"
    m: Positive = 16
    ef_construction: Positive = 200
    lists: Positive | None = None
    effort: Positive | None = None
    exact_below: Positive = 1000


Backend = Annotated[ExactBackend | NmslibBackend | ScannBackend | FaissBackend, Field(discriminator="kind")]


# --- build and search --------------------------------------------------------------------------------------------


class ProfileConfig(Model):
    """The search profile: for each target recall@`k` the cheapest way to ask, measured on `queries` sampled queries.

    Held-out queries where the data set has enough of them, else items, each of which does not find itself.
    """

    queries: Annotated[int, Field(ge=0, description="0: no profile")] = 1000
    k: Positive = 10
    targets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.90, 0.95, 0.98, 0.99)


class BuildConfig(Model):
    """How a release is built.

    `partition_memory_mib`: what building one partition may take; sets the least number of partitions that the planner
    considers. `workers`: partitions wanted at least, so that so many workers have something to do. `storage`: how vectors
    are stored in partitions (and in ScaNN's reordering); distances are computed from what is stored. `representatives`: a
    folder that `simpipe dedupe` wrote; of each group only the representative is indexed.
    """

    router: Router = AutoRouter(kind="auto")
    backend: Backend = ScannBackend(kind="scann")
    storage: Storage = "float32"
    partition_memory_mib: Positive = 2048
    workers: Positive = 1
    profile: ProfileConfig = ProfileConfig()
    store_files: Positive = 4
    representatives: str | None = None
    rejects: RejectLimit = RejectLimit()


class SearchConfig(Model):
    """How a release is asked by default.

    `target_recall`: the setting of the release's profile that was measured to reach it. `probes` partitions a query,
    nearest first, take its place where set. Where neither is set (or there is no profile) all partitions are asked.
    """

    target_recall: Annotated[float, Field(gt=0, lt=1)] | None = 0.99
    probes: Positive | None = None
    block: Positive = 1024

    @model_validator(mode="after")
    def _one(self) -> SearchConfig:
        if self.probes is not None and "target_recall" in self.model_fields_set and self.target_recall is not None:
            raise ValueError("`probes` and `target_recall` exclude each other: set one to null")
        return self
