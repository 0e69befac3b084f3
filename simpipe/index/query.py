"""Jobs over all queries of many files: what a job asks, and the job without Beam.

Three stages hand on files in a work folder: queries are prepared and routed chunk by chunk, partitions search what asks them,
and chunks merge what partitions found. Memory is bounded by block x k x partitions, whatever the number of queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from simpipe import files
from simpipe.index.answers import Answer
from simpipe.index.searcher import Searcher, open_release
from simpipe.index.setting import ALL, SearchSetting
from simpipe.query_files import Source, plan_sources

__all__ = ["Answer", "Part", "QueryPlan", "QuerySpec", "Search", "answer_all", "cut_job", "open_for", "plan_job"]

_PARTS = 16  # searches that a job has at least, where there are so many chunks
_MOST_ROWS = 1 << 22  # queries of a search


@dataclass(frozen=True)
class Part:
    """One of the searches of a job. `wanted`: neighbors a query, its own item among them."""

    name: str
    wanted: int
    exact: bool


@dataclass(frozen=True)
class QuerySpec:
    """A job over all queries.

    Attributes:
      release: the release's folder. files: Parquet files of queries, see `simpipe.query_files`.
      k: neighbors a query. exact: found by scanning all partitions instead of their indexes.
      exact_k: neighbors of the exact search beside it; 0: none. exact_share: of the queries that it takes, by hash of the id.
      deep: neighbors of one more search with the same setting; 0: none.
      block: queries of an answer, at most. columns: metadata columns of the queries that answers carry.
      names: what is named of neighbors: `ids`, `labels`, both or nothing.
      setting: how partitions are asked, or `probes`; neither: the release's default, as `lookup` asks.
      share: of the queries that are asked at all, by hash of the id. work: folder of the job's files.
      groups: folder of groups of near duplicates whose representatives alone the release holds; the items that they represent
        are not asked.
    """

    release: str
    files: tuple[str, ...]
    k: int
    exact: bool = False
    exact_k: int = 0
    exact_share: float = 1.0
    deep: int = 0
    block: int = 1024
    columns: tuple[str, ...] = ()
    names: frozenset[str] = frozenset({"ids", "labels"})
    setting: SearchSetting | None = None
    probes: int | None = None
    share: float = 1.0
    work: str = ""
    groups: str | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """`found`, and `deep` and `exact` where asked for."""
        parts = [Part("found", self.k + 1, self.exact)]
        if self.deep:
            parts.append(Part("deep", self.deep + 1, self.exact))
        if self.exact_k:
            parts.append(Part("exact", self.exact_k + 1, True))
        return tuple(parts)

    def setting_for(self, searcher: Searcher) -> SearchSetting:
        """How this job asks partitions."""
        return ALL if self.exact else searcher.setting_for(probes=self.probes, setting=self.setting)


@dataclass(frozen=True)
class Search:
    """The work of one search: a partition, and chunks whose queries may ask it."""

    partition: int
    chunks: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"search-{self.partition:05d}-{self.chunks[0]:05d}"


@dataclass(frozen=True)
class QueryPlan:
    """All work of a job, from the files' footers and the manifest."""

    sources: tuple[Source, ...]
    searches: tuple[Search, ...]
    chunks: int

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def pieces(self) -> int:
        """How many marks a finished job has left."""
        return len(self.sources) + len(self.searches) + self.chunks


def open_for(spec: QuerySpec) -> Searcher:
    """The release of a job; one partition at a time stays loaded, so that a worker's memory is that of the one it works on."""
    return open_release(spec.release, cache_bytes=1)


def plan_job(spec: QuerySpec, partitions: tuple[int, ...], *, dim: int) -> QueryPlan:
    """Cuts a job into work items.

    Args:
      partitions: that hold items. dim: of the release.

    Raises:
      QueryError, ConfigError: see `plan_sources`.
    """
    return cut_job(plan_sources(spec.files, spec.columns, dim=dim, block=spec.block), partitions)


def cut_job(sources: Sequence[Source], partitions: tuple[int, ...]) -> QueryPlan:
    """Cuts a job into work items. `partitions`: that hold items."""
    chunks = sum(len(source.chunks) for source in sources)
    # A partition is loaded once for many chunks; where there are few partitions their chunks are shared out.
    rows = sum(source.rows for source in sources)
    groups = min(chunks, max(-(-_PARTS // max(len(partitions), 1)), -(-rows // _MOST_ROWS)))
    searches = [
        Search(partition, tuple(range(chunks * group // groups, chunks * (group + 1) // groups)))
        for partition in partitions
        for group in range(groups)
    ]
    return QueryPlan(tuple(sources), tuple(searches), chunks)


def answer_all(spec: QuerySpec) -> Iterator[Answer]:
    """The job without Beam: all blocks, in the order of the files. Rejected queries are left out."""
    from simpipe.index.query_merge import merge_chunk
    from simpipe.index.query_prepare import prepare_source
    from simpipe.index.query_search import search_partition

    searcher = open_for(spec)
    partitions = tuple(about.partition for about in searcher.manifest.partitions if about.live)
    plan = plan_job(spec, partitions, dim=searcher.dim)
    with tempfile.TemporaryDirectory(prefix="queries-", dir=spec.work or None) as work:
        spec = replace(spec, work=work)
        for source in plan.sources:
            prepare_source(searcher, spec, source)
        for search in plan.searches:
            search_partition(searcher, spec, search)
        for chunk in range(plan.chunks):
            yield from merge_chunk(searcher, spec, chunk)


def mark(spec: QuerySpec, name: str) -> None:
    """Leaves a mark of a finished piece of work, for progress."""
    files.write_bytes(files.located(spec.work) / f"{name}.done", b"")
