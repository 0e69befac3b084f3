"""`simpipe lookup` and `match` with `--server`: the same tables and the same JSON, from a server."""

from __future__ import annotations

import argparse
import json
from typing import Any

from simpipe.errors import ConfigError

_OF_NEIGHBORS = ("probability", "within")  # what a server adds to neighbors, and a searcher does not
_LOCAL = {
    "root": "--root",
    "encoder": "--encoder",
    "queries": "--queries",
    "out": "--out",
    "overrides": "--set",
    "runner": "--runner",
    "run_id": "--run-id",
}


def query(options: argparse.Namespace) -> int:
    """Asks the server at `options.server`, prints its answer; returns the exit code.

    Raises:
      ConfigError: an option that says how a release is opened here. SimpipeError: see `Client.lookup`.
    """
    check_options(options)
    from simpipe.client import Client
    from simpipe.index.filters import read_filter
    from simpipe.queries import read_vectors

    if options.filter is not None:
        read_filter(options.filter)  # refused here as without a server
    vectors = None if options.vectors is None else read_vectors(options.vectors)
    with Client(options.server) as client:
        answers = client.answers(options.verb, _asked(options), vectors=vectors, ids=options.ids, images=options.images)
    results = [_as_here(record) for answer in answers for record in answer["results"]]
    about = {"release": answers[0]["release"], "distance": answers[0]["distance"]}
    how = [answer["filter"] for answer in answers if answer.get("filter") is not None]
    if options.json:
        said = {} if not how else {"filter": how[0] if len(how) == 1 else how}
        print(json.dumps({**about, "results": results, **said}, indent=2, ensure_ascii=False))
        return 0
    from simpipe.tables import print_answers, print_filter

    print_answers(results, about["release"], about["distance"], getattr(options, "cutpoint", None))
    for one in how:
        print_filter(one)
    return 0


def _as_here(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a release that is opened here gives it: the same keys in the same order."""
    neighbors = [{name: value for name, value in one.items() if name not in _OF_NEIGHBORS} for one in record["neighbors"]]
    return {**{name: record[name] for name in ("query", "label", "match") if name in record}, "neighbors": neighbors}


def check_options(options: argparse.Namespace) -> None:
    """Refuses what does not go with a server.

    Raises:
      ConfigError: names the option.
    """
    given = [text for name, text in _LOCAL.items() if getattr(options, name, None)]
    if given:
        raise ConfigError(f"{given[0]}: does not go with --server", f"leave out {given[0]}, or --server")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options as the server names them."""
    names = ("target_recall", "exact", "where", "cutpoint", "matcher", "group", "by_label")
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    wanted = None if options.filter is None else json.loads(options.filter)
    return {**given, "k": options.k, "filter": wanted, "metadata": True, "release": options.release}
