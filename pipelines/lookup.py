"""Answers files of queries: nearest items (`lookup`) or labels (`match`), as Parquet.

simpipe lookup --root runs/digits --queries queries.parquet --out neighbors.parquet -k 10
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.queries import partitions_of, run_planned, scratch
from simpipe import files
from simpipe.config import Config
from simpipe.data.sources.listing import matching
from simpipe.errors import ConfigError, ContractError, IncompatibleError, QueryError, RejectedError
from simpipe.index.query import QuerySpec, plan_job
from simpipe.index.searcher import Searcher, open_release
from simpipe.job import job_of
from simpipe.query_answers import AnswerTable, join_answers, move_answers
from simpipe.types import Counts

_BLOCK = 1024


@dataclass(frozen=True)
class FileAnswers:
    """What a job over files of queries wrote. `rejects`: the file that lists rejected queries, where there are any."""

    release: str
    counts: Counts
    out: Path
    rejects: Path | None


def query_files(where: str) -> tuple[str, ...]:
    """Parquet files of a path: itself, all of a folder, or what a pattern matches; in the order of their names.

    Raises:
      ConfigError: there are none.
    """
    path = files.located(where)
    if path.is_dir():
        found = sorted(str(each) for each in path.rglob("*.parquet") if not each.name.startswith((".", "_")))
    else:
        found = [str(path)] if path.exists() else [str(each) for each in matching(path)]
    if not found:
        raise ConfigError(f"--queries {where}: no Parquet files", "name a file, a folder or a pattern such as 'q/*.parquet'")
    return tuple(found)


def run(
    root: str,
    queries: str,
    out: str,
    *,
    release: str | None = None,
    k: int = 5,
    table: AnswerTable,
    target_recall: float | None = None,
    exact: bool = False,
    max_rejected: float = 1.0,
    config: Config | None = None,
    beam_args: Sequence[str] = (),
) -> FileAnswers:
    """Answers all queries of files.

    Args:
      root: of releases, or a release's folder. release: its id; None: the live one.
      queries: see `query_files`. out: a `.parquet` file, or a folder for numbered files and `_answers.json`.
      k: neighbors a query; matches are searched as deep as in calibration.
      table: what is written. target_recall, exact: see `BaseSearcher.lookup`.
      max_rejected: the largest share of queries that may be rejected.
      config: says where the job runs; None: in this process. beam_args: Beam's own options.

    Raises:
      ConfigError: no files, or a bad `out`. QueryError: bad files, or no query could be answered.
      RejectedError: more were rejected than allowed. IncompatibleError: embeddings of another encoder.
    """
    from pipelines import graphs
    from simpipe.beam.options import check_options

    verb = "lookup" if table.kind == "neighbors" else "match"
    job = job_of(config, verb, beam_args, name=release)
    check_options(job)
    target, single = files.located(out.rstrip("/")), out.endswith(".parquet")
    paths = query_files(queries)
    _check_out(target, single, paths)
    if k < 1:
        raise QueryError(f"k is {k}", "ask for at least one neighbor")
    searcher = open_release(root, release)
    _check_encoder(searcher, paths)
    setting = None if exact else searcher.setting_for(target_recall=target_recall)
    if table.kind == "matches":
        searcher.rules.rule(table.matcher).limit(table.cutpoint)  # before the search
        k = searcher.rules.depth
    work = scratch(target, "queries")
    spec = QuerySpec(str(searcher.folder), paths, k, exact=exact, block=_BLOCK, setting=setting, work=str(work))
    partitions = partitions_of(searcher.manifest)
    rejects = files.located(f"{target}.rejects.jsonl") if single else target / "_rejects.jsonl"
    try:
        plan = plan_job(spec, partitions, dim=searcher.dim)
        if not plan.rows:
            raise QueryError(f"--queries {queries}: no rows", "give files with queries")
        graph = graphs.answer(spec, partitions, plan, table)
        prepared = run_planned(plan, graph, job, work=work)
        _join_rejects(work / "rejects", rejects)
        counts = prepared.counts
        if counts.rejected > max_rejected * counts.read or not counts.written:
            first = "\n".join(f"  {each.source}: {each.reason} (id {each.id!r}, {each.code})" for each in prepared.rejects[:5])
            share = math.ceil(1000 * counts.rejected / counts.read) / 1000
            message = f"{counts.rejected:,} of {counts.read:,} queries rejected, listed in {rejects}\n{first}"
            if not counts.written:
                raise RejectedError(f"no query could be answered: {message}", "mend these queries")
            raise RejectedError(message, f"mend these queries, or allow such a share with --max-rejected {share:g}")
        if single:
            join_answers(work, plan.chunks, table, target)
        else:
            about = {"release": searcher.manifest.release, "distance": searcher.distance}
            about |= {"queries": counts.read, "answered": counts.written, "rejected": counts.rejected}
            move_answers(work, plan.chunks, table, target, about)
    finally:
        files.remove_folder(work)
    return FileAnswers(searcher.manifest.release, counts, target, rejects if counts.rejected else None)


def _check_out(target: Path, single: bool, paths: Sequence[str]) -> None:
    if single and target.is_dir():
        raise ConfigError(f"--out {target}: is a folder", "name a file, or a folder without `.parquet` at its end")
    if single and str(target.resolve()) in {str(files.located(path).resolve()) for path in paths}:
        raise ConfigError(f"--out {target}: is one of the query files", "name another file")
    if not single and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ContractError(f"--out {target}: is there already, and no empty folder", "name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)


def _check_encoder(searcher: Searcher, paths: Sequence[str]) -> None:
    """Embeddings data sets say which encoder made them; other files are taken at their word."""
    for path in paths:
        try:
            about = (pq.read_schema(files.located(path)).metadata or {}).get(b"simpipe")
        except (pa.ArrowException, OSError):  # named when the job is planned
            continue
        try:
            encoder = json.loads(about)["encoder"] if about else searcher.encoder
        except (ValueError, KeyError, TypeError):
            continue
        try:
            searcher.check_encoder(encoder)
        except IncompatibleError as error:
            raise IncompatibleError(f"{path}: {error.message}", error.cure) from None


def _join_rejects(parts: Path, out: Path) -> None:
    """One file of all rejected queries, in the order of the files; none where none was rejected."""
    found = sorted(parts.glob("*.jsonl"))
    if not found:
        out.unlink(missing_ok=True)
        return
    with files.replacing(out) as temporary, open(temporary, "wb") as sink:
        for path in found:
            with open(path, "rb") as source:
                shutil.copyfileobj(source, sink)


def report(done: FileAnswers, *, verb: str, as_json: bool) -> None:
    """Says how it ended: on stderr, or as JSON on stdout."""
    counts = done.counts
    if as_json:
        about = {"release": done.release, "queries": counts.read, "answered": counts.written, "rejected": counts.rejected}
        where = {"out": str(done.out), "rejects": None if done.rejects is None else str(done.rejects)}
        print(json.dumps({**about, **where}, indent=2, ensure_ascii=False))
    rejected = f"; {counts.rejected:,} rejected, see {done.rejects}" if done.rejects is not None else ""
    print(f"{verb:<10} {counts.written:,} of {counts.read:,} queries answered{rejected}: {done.out}", file=sys.stderr)


def run_options(root: str, options: Any, beam_args: Sequence[str], *, config: Config | None = None) -> int:
    """`simpipe lookup --queries` and `simpipe match --queries`.

    Raises:
      ConfigError: options that do not go together.
    """
    if options.out is None:
        raise ConfigError(f"--queries: the answers of `{options.verb}` need a place", "add --out FILE.parquet, or a folder")
    if getattr(options, "where", None) is not None:
        raise ConfigError("--where does not go with --queries", "leave out --where")
    how: dict[str, Any] = {}
    if options.verb == "match":
        by_group = options.by_label or options.group is not None
        table = AnswerTable("matches", options.cutpoint, options.matcher, by_group, options.group)
    else:
        table = AnswerTable()
        how = {"target_recall": options.target_recall, "exact": options.exact}
    done = run(
        root,
        options.queries,
        options.out,
        release=options.release,
        k=options.k,
        table=table,
        max_rejected=options.max_rejected,
        config=config,
        beam_args=beam_args,
        **how,
    )
    report(done, verb=options.verb, as_json=options.json)
    return 0


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["lookup", *sys.argv[1:]]))
