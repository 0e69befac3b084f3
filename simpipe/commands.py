"""What each subcommand does, once its options are parsed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from simpipe import files, recording
from simpipe.config import Config, load_config
from simpipe.errors import ConfigError, ContractError
from simpipe.job import check_places
from simpipe.run_summary import root_of
from simpipe.verbs.options import RECORDED, VERBS

_WITHOUT_JOB = ("train", "publish", "inspect", "gate", "releases", "diff", "tag", "rollback", "prune", "fsck", "runs", "serve")


def execute(options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb in `options`; returns the exit code.

    Raises:
      SimpipeError: anything that is the user's to mend.
    """
    if options.verb == "doctor":
        return _doctor(options, beam_args)
    if options.verb in ("lookup", "match"):
        if options.root is not None or options.server is not None:
            return _query(options.root or "", None, options, beam_args)
        config = _config(options)
        return _query(config.root, config, options, beam_args)
    if options.verb == "serve" and options.root is not None:
        if beam_args:
            raise _no_job("`serve`")
        from simpipe.verbs import serve

        return serve.serve_root(options.root, options)
    if options.verb == "export" and options.root is not None:
        from simpipe.verbs import export

        return _recorded(options.root, None, options, lambda: export.export_root(options.root, None, options, beam_args))
    if options.verb in ("shard", "inspect") and options.folder is not None:
        if options.verb == "shard" and not options.verify:
            raise ConfigError("--folder: `shard` writes to the configuration's root", "add --verify, or set root")
        return _examples(options.folder, options, beam_args)
    config = _config(options)
    if options.verb == "inspect" or (options.verb == "shard" and options.verify):
        return _examples(_examples_of(config, options.verb), options, beam_args)
    if options.verb not in (*_WITHOUT_JOB, "plan") and not getattr(options, "dry_run", False):
        check_places(config)
    if beam_args and options.verb in _WITHOUT_JOB:
        raise _no_job(f"`{options.verb}`")
    return _recorded(config.root, config, options, lambda: _verb(config, options, beam_args))


def _verb(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    if options.verb in VERBS:
        module = importlib.import_module(f"simpipe.verbs.{options.verb}")
        return module.execute(config, options, beam_args)
    return _step(config, options, beam_args)


def _recorded(root: str, config: Config | None, options: argparse.Namespace, work: Callable[[], int]) -> int:
    """Does the work; the summary of the run goes under the root, unless the verb changes nothing."""
    asked = options.verb in RECORDED and not getattr(options, "dry_run", False)
    where = root_of(files.located(root)) if asked else None
    if where is None:
        return work()
    name, runner = (options.config, config.runner.kind) if config else ("", "local")
    return recording.record(recording.Run(options.verb, where, name, runner, options.run_id), work)


def _config(options: argparse.Namespace) -> Config:
    chosen = [f"runner.kind={options.runner}"] if options.runner else []
    return load_config(options.config, [*chosen, *options.overrides])


def _no_job(what: str) -> ConfigError:
    return ConfigError(f"{what} runs no Beam job: it takes nothing after `--`", "leave out what stands after --")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _step(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    from pipelines.line import Line

    verb = options.verb
    if verb == "run" and options.dry_run:
        from pipelines import dry_run

        return dry_run.execute(config, items=options.items, beam_args=beam_args)
    if verb == "dedupe":
        config = _near(config, options)
    line = Line(config, beam_args, say=_say)
    if verb in ("shard", "train", "embed") and not line.has_encoder:
        raise ConfigError(f"source.kind: ready-made vectors have nothing to {verb}", "use `simpipe import`, or `simpipe run`")
    if verb == "import" and line.has_encoder:
        raise ConfigError(
            f"source.kind: {config.source.kind} holds examples, not vectors", "use `simpipe shard`, `train` and `embed`"
        )
    if verb == "publish":
        if options.release is None:
            line.publish(force=options.force)
            return 0
        from pipelines import gate

        pointer = gate.publish_by_name(config, line.root, options.release, force=options.force)
        said = f"{pointer.release} is live (before: {pointer.previous})"
        recording.note(outcome="published", release=pointer.release, message=said)
        _say(f"publish    {said}")
        return 0
    if verb == "run":
        line.run()
        from simpipe.tables import print_summary

        print_summary(line)
        return 0
    getattr(line, "embed" if verb == "import" else verb)()
    return 0


def _near(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with `--distance` or `--cutpoint` in the place of what it says."""
    if options.distance is None and options.cutpoint is None:
        return config
    if options.distance is not None and not 0 < options.distance < float("inf"):
        raise ConfigError(f"--distance {options.distance:g}: not above 0", "give a distance above 0")
    changed = config.dedupe.model_copy(update={"distance": options.distance, "cutpoint": options.cutpoint})
    return config.model_copy(update={"dedupe": changed})


def _examples_of(config: Config, verb: str) -> str:
    """The folder of the configuration's examples."""
    from pipelines.line import Line
    from simpipe.data.examples import DATASET_JSON

    line = Line(config, say=_say)
    if not line.has_encoder:
        raise ConfigError(f"source.kind: ready-made vectors have no examples to {verb}", "give --folder PATH")
    folder = line.examples[0]
    if not (folder / DATASET_JSON).exists():
        raise ContractError(
            f"{folder}: no {DATASET_JSON}: `shard` has not run with this configuration", "run `simpipe shard` first"
        )
    return str(folder)


def _examples(folder: str, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    from simpipe import inspect_tables
    from simpipe.data.examples import DatasetInfo
    from simpipe.storage import open_folder

    if beam_args:
        raise ConfigError("no Beam job runs here: nothing is taken after `--`", "leave out what stands after --")
    opened = open_folder(folder)
    info = DatasetInfo.load(opened)
    if options.verb == "shard":
        from simpipe.data.verify import verify_examples
        from simpipe.progress import progress

        with progress("verify", sum(split.num_examples for split in info.splits.values()), "examples") as update:
            report = verify_examples(opened, update=update)
        inspect_tables.print_verification(report)
        return 0 if report.ok else ContractError.exit_code
    from simpipe.data.inspect import read_grid, summarize

    summary = summarize(info, opened.where)
    if options.grid is not None:
        from simpipe.visualization.example_grid import draw_grid

        seed = info.seed if options.seed is None else options.seed
        grid = read_grid(opened, info, classes=options.classes, examples=options.examples, seed=seed)
        shown = f"{len(grid.names):,}" + (f" of {grid.classes:,}" if grid.classes > len(grid.names) else "")
        title = f"{info.name}: {shown} classes"
        files.write_bytes(files.local(options.grid), draw_grid(grid.names, grid.inputs, title))
    if options.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        inspect_tables.print_inspection(summary)
    if options.grid is not None:
        _say(f"grid       {options.grid}")
    return 0


def _doctor(options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    from simpipe import doctor

    if beam_args:
        raise ConfigError("`doctor` runs no Beam job: it takes nothing after `--`", "leave out what stands after --")
    findings = doctor.examine()
    about = doctor.to_json(findings)
    if options.json:
        print(json.dumps(about, indent=2))
    else:
        doctor.print_findings(findings)
    return 0 if about["ok"] else 1


def _query(root: str, config: Config | None, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    if options.server is not None:
        from simpipe import client_commands

        if beam_args:
            raise _no_job(f"`{options.verb}` with --server")
        return client_commands.query(options)
    if options.queries is not None:
        if options.filter is not None:
            raise ConfigError("--filter does not go with --queries", "leave out --filter, or ask with --id, --image or --vectors")
        from pipelines import lookup

        return _recorded(root, config, options, lambda: lookup.run_options(root, options, beam_args, config=config))
    if options.out is not None:
        raise ConfigError("--out goes with --queries", "add --queries FILE.parquet, or leave out --out")
    if beam_args:
        raise _no_job(f"`{options.verb}` without --queries")
    from simpipe.index.filters import read_filter
    from simpipe.index.searcher import open_release
    from simpipe.queries import answers, load_queries

    asked = None if options.filter is None else read_filter(options.filter)
    searcher = open_release(root, options.release)
    queries = load_queries(
        files.located(root), searcher, ids=options.ids, images=options.images, vectors=options.vectors, encoder=options.encoder
    )
    cutpoint = options.cutpoint if options.verb == "match" else None
    how = {name: getattr(options, name) for name in ("target_recall", "exact", "where") if options.verb == "lookup"}
    if options.verb == "match":
        how = {"matcher": options.matcher, "by_group": options.by_label, "group": options.group}
    given = answers(searcher, queries, k=options.k, cutpoint=cutpoint, filter=asked, **how)
    found: dict[str, Any] = {} if given.filter is None else {"filter": given.filter.to_json()}
    if options.json:
        about = {"release": searcher.manifest.release, "distance": searcher.manifest.distance, "results": given.results}
        print(json.dumps({**about, **found}, indent=2, ensure_ascii=False))
    else:
        from simpipe.tables import print_answers, print_filter

        print_answers(given.results, searcher.manifest.release, searcher.manifest.distance, cutpoint)
        if given.filter is not None:
            print_filter(found["filter"])
    return 0
