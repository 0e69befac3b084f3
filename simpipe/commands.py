"""What each subcommand does, once its options are parsed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from simpipe import files, releases
from simpipe.config import Config, load_config
from simpipe.errors import ConfigError

_WITHOUT_JOB = ("train", "publish", "releases", "rollback", "lookup", "match")


def execute(options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb in `options`; returns the exit code.

    Raises:
      SimpipeError: anything that is the user's to mend.
    """
    if options.verb in ("lookup", "match") and options.root is not None:
        return _query(options.root, options)
    config = load_config(options.config, options.overrides)
    if beam_args and options.verb in _WITHOUT_JOB:
        raise ConfigError(f"`{options.verb}` runs no Beam job: it takes nothing after `--`", "leave out what stands after --")
    if options.verb in ("lookup", "match"):
        return _query(config.root, options)
    if options.verb == "releases":
        return _releases(config, options)
    if options.verb == "rollback":
        pointer = releases.rollback(files.local(config.root))
        _say(f"rollback   {pointer.release} is live (before: {pointer.previous})")
        return 0
    return _step(config, options, beam_args)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _step(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    from pipelines.line import Line

    line = Line(config, beam_args, say=_say)
    verb = options.verb
    if verb in ("shard", "train", "embed") and not line.has_encoder:
        raise ConfigError(f"source.kind: ready-made vectors have nothing to {verb}", "use `simpipe import`, or `simpipe run`")
    if verb == "import" and line.has_encoder:
        raise ConfigError(
            f"source.kind: {config.source.kind} holds examples, not vectors", "use `simpipe shard`, `train` and `embed`"
        )
    if verb == "publish" and options.release is not None:
        pointer = releases.publish(line.root, options.release)
        _say(f"publish    {pointer.release} is live (before: {pointer.previous})")
        return 0
    if verb == "run":
        line.run()
        from simpipe.tables import print_summary

        print_summary(line)
        return 0
    getattr(line, "embed" if verb == "import" else verb)()
    return 0


def _releases(config: Config, options: argparse.Namespace) -> int:
    rows = releases.overview(files.local(config.root))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        from simpipe.tables import print_releases

        print_releases(rows, config.root)
    return 0


def _query(root: str, options: argparse.Namespace) -> int:
    from simpipe.index.searcher import open_release
    from simpipe.queries import answer, load_queries

    searcher = open_release(root, options.release)
    queries = load_queries(
        files.local(root), searcher, ids=options.ids, images=options.images, vectors=options.vectors, encoder=options.encoder
    )
    cutpoint = options.cutpoint if options.verb == "match" else None
    results: list[dict[str, Any]] = answer(searcher, queries, k=options.k, cutpoint=cutpoint)
    if options.json:
        about = {"release": searcher.manifest.release, "distance": searcher.manifest.distance, "results": results}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        from simpipe.tables import print_answers

        print_answers(results, searcher.manifest.release, searcher.manifest.distance, cutpoint)
    return 0
