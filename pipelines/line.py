"""The line: which data set each step reads and writes, and whether it is there already.

A step's folder is named by a key: the digest of its inputs, its configuration and its code. A finished folder of the
same key is the result; an unfinished one is continued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from simpipe import files, releases
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.data.examples import DATASET_JSON, DatasetInfo, verify_dataset
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo
from simpipe.errors import ContractError, ReleaseError
from simpipe.groups import DEDUPE_JSON, GroupsInfo
from simpipe.manifest import Manifest
from simpipe.training.encoder import ENCODER_JSON, EncoderInfo

Say = Callable[[str], None]


class Line:
    """One configuration's steps. Each method runs its step, or says that it is unchanged, and returns its result."""

    def __init__(self, config: Config, beam_args: Sequence[str] = (), say: Say = print) -> None:
        if beam_args:  # refused at once, also where every step is done already
            from simpipe.beam.options import check_options

            check_options(beam_args)
        self.config = config
        self.root = files.local(config.root)
        self._beam_args = beam_args
        self._say = say

    @property
    def has_encoder(self) -> bool:
        """Ready-made vectors have none: their line begins at import."""
        return not isinstance(self.config.source, VectorsSource)

    # --- keys and folders ------------------------------------------------------------------------------------------

    def _key(self, step: str, **inputs: Any) -> str:
        return files.digest({"step": step, "code": code_version(step), **inputs})

    @cached_property
    def examples(self) -> tuple[Path, str]:
        from simpipe.data.sources import source_fingerprint

        config = self.config
        key = self._key(
            "shard",
            source=source_fingerprint(config.source),
            config=[_dump(part) for part in (config.source, config.classes, config.queries, config.shard)],
            rejects=_dump(config.rejects),
            seed=config.seed,
        )
        return self.root / "examples" / key[:12], key

    @cached_property
    def encoder(self) -> tuple[Path, str]:
        folder, _ = self.examples
        info = self._need(DatasetInfo.load, folder, DATASET_JSON, "shard")
        # Only what the encoder sees: classes that are merely indexed may come and go without retraining.
        seen = [[shard.sha256 for shard in info.splits["train"].shards], info.train_classes, info.input.model_dump(mode="json")]
        config = _dump(self.config.train)
        if config["start_from"] is not None:  # which encoder it is, not where it lies
            config["start_from"] = EncoderInfo.load(files.local(config["start_from"])).fingerprint
        key = self._key("train", examples=seen, config=config, seed=self.config.seed)
        return self.root / "encoders" / key[:12], key

    @cached_property
    def embeddings(self) -> tuple[Path, str]:
        config = self.config
        if not self.has_encoder:
            from simpipe.data.sources import source_fingerprint

            inputs = [_dump(config.source), _dump(config.classes), _dump(config.queries), _dump(config.rejects), config.seed]
            key = self._key("import", source=source_fingerprint(config.source), config=inputs)
        else:
            examples, encoder = self.examples[0], self.encoder[0]
            about = self._need(EncoderInfo.load, encoder, ENCODER_JSON, "train")
            info = DatasetInfo.load(examples)
            shards = [[shard.sha256 for shard in info.splits[split].shards] for split in info.splits]
            key = self._key("embed", examples=[shards, info.class_names], encoder=about.fingerprint, config=_dump(config.embed))
        return self.root / "embeddings" / key[:12], key

    @cached_property
    def steps(self) -> dict[str, str]:
        """Keys of the steps that write into the release."""
        config, folder = self.config, self.embeddings[0]
        info = self._need(EmbeddingsInfo.load, folder, EMBEDDINGS_JSON, "embed" if self.has_encoder else "import")
        inputs = [[file.path, file.sha256] for file in info.files]
        settings = _dump(config.build)
        if settings["representatives"] is not None:  # which groups they are, not where they lie
            path = files.local(settings["representatives"]) / DEDUPE_JSON
            settings["representatives"] = files.digest(files.read_json(path))
        build = self._key("build", embeddings=inputs, config=settings, seed=config.seed)
        settings = _dump(config.calibrate)
        calibrate = self._key("calibrate", build=build, config=settings, search=_dump(config.search), seed=config.seed)
        evaluate = self._key("evaluate", calibrate=calibrate, config=_dump(config.evaluate), seed=config.seed)
        report = self._key("report", evaluate=evaluate, config=_dump(config.report), seed=config.seed)
        return {"build": build, "calibrate": calibrate, "evaluate": evaluate, "report": report}

    def _need(self, load: Callable[[Path], Any], folder: Path, name: str, step: str) -> Any:
        if not (folder / name).exists():
            raise ContractError(
                f"{folder}: no {name}: `{step}` has not run with this configuration", f"run `simpipe {step}` first"
            )
        return load(folder)

    def release(self) -> tuple[Path, Manifest]:
        """The release of this configuration.

        Raises:
          ReleaseError: it is not built.
        """
        found = releases.find_by_steps(self.root, self.steps)
        if found is None:
            raise ReleaseError(f"{self.root}: no release of this configuration", "run `simpipe build` first")
        return found

    # --- steps -----------------------------------------------------------------------------------------------------

    def _step(self, step: str, lock: str, *, done: Callable[[], bool], run: Callable[[], Any], tell: Callable[[], str]) -> None:
        """Runs a step unless its result is there. Two runs of one step take turns; the second finds it done."""

        def waiting() -> None:
            self._say(f"{step:<10} waiting: another process works on it")

        started = time.monotonic()
        with files.locked(self.root / ".locks" / lock, waiting):
            if done():
                self._say(f"{step:<10} skipped, unchanged: {tell()}")
                return
            run()
        self._say(f"{step:<10} done in {time.monotonic() - started:.1f} s: {tell()}")

    def _release_step(self, step: str, *, done: Callable[[], bool], run: Callable[[], Any], tell: Callable[[], str]) -> None:
        self._step(step, f"release-{self.steps['build'][:12]}", done=done, run=run, tell=tell)

    def shard(self) -> DatasetInfo:
        """Source to TFRecord shards."""
        folder, key = self.examples

        def run() -> None:
            from pipelines import shard

            shard.run(self.config, folder=folder, key=key, beam_args=self._beam_args)

        def tell() -> str:
            info = DatasetInfo.load(folder)
            parts = ", ".join(f"{split.num_examples:,} {name}" for name, split in info.splits.items())
            return f"{parts} examples of {len(info.class_names):,} classes in {info.num_shards} shards a split"

        def check() -> None:
            verify_dataset(folder, DatasetInfo.load(folder), checksums=False)

        self._step("shard", f"examples-{folder.name}", done=lambda: _whole(check), run=run, tell=tell)
        return DatasetInfo.load(folder)

    def train(self) -> EncoderInfo:
        """Shards to an encoder."""
        folder, key = self.encoder

        def run() -> None:
            from pipelines import train

            train.run(self.config, examples=self.examples[0], folder=folder, key=key)

        def tell() -> str:
            info = EncoderInfo.load(folder)
            return f"encoder {info.fingerprint[:12]}, dim {info.dim}, {len(info.train_classes)} classes"

        def check() -> None:
            info = EncoderInfo.load(folder)
            _check_size(folder, info.model_file, info.size)

        self._step("train", f"encoder-{folder.name}", done=lambda: _whole(check), run=run, tell=tell)
        return EncoderInfo.load(folder)

    def embed(self) -> EmbeddingsInfo:
        """Shards through the encoder to embeddings; or the import of ready-made vectors."""
        folder, key = self.embeddings

        def run() -> None:
            if self.has_encoder:
                from pipelines import embed

                encoder = self.encoder[0]
                embed.run(
                    self.config, examples=self.examples[0], encoder=encoder, folder=folder, key=key, beam_args=self._beam_args
                )
            else:
                from pipelines import import_vectors

                import_vectors.run(self.config, folder=folder, key=key, beam_args=self._beam_args)

        def tell() -> str:
            info = EmbeddingsInfo.load(folder)
            queries = sum(file.rows for file in info.of_splits("query"))
            return f"{info.counts['written']:,} embeddings of dim {info.dim}, {queries:,} of them queries"

        step = "embed" if self.has_encoder else "import"

        def check() -> None:
            for file in EmbeddingsInfo.load(folder).files:
                _check_size(folder, file.path, file.size)

        self._step(step, f"embeddings-{folder.name}", done=lambda: _whole(check), run=run, tell=tell)
        return EmbeddingsInfo.load(folder)

    def build(self) -> tuple[Path, Manifest]:
        """Embeddings to a release."""

        def run() -> None:
            from pipelines import build

            encoder = self.encoder[0] if self.has_encoder else None
            embeddings = self.embeddings[0]
            build.run(
                self.config,
                root=self.root,
                embeddings=embeddings,
                encoder=encoder,
                key=self.steps["build"],
                beam_args=self._beam_args,
            )

        def tell() -> str:
            _, manifest = self.release()
            kinds = ", ".join(sorted({part.backend for part in manifest.partitions if part.rows}))
            about = manifest.provenance.get("representatives")
            left_out = f", {about['excluded']:,} near duplicates left out" if about else ""
            where = f"in {len(manifest.partitions)} partitions ({kinds})"
            return f"release {manifest.release}, {manifest.items:,} items {where}{left_out}"

        def done() -> bool:
            return releases.find_by_steps(self.root, self.steps) is not None

        self._release_step("build", done=done, run=run, tell=tell)
        return self.release()

    def _require(self, *steps: str) -> None:
        """Refuses to go on from a release whose earlier steps ran with another configuration.

        Raises:
          ReleaseError: names the step to run.
        """
        _, manifest = self.release()
        for step in steps:
            if manifest.steps.get(step) != self.steps[step]:
                raise ReleaseError(
                    f"release {manifest.release}: `{step}` has not run with this configuration",
                    f"run `simpipe {'evaluate' if step == 'report' else step}` first",
                )

    def _done(self, step: str) -> Callable[[], bool]:
        return lambda: self.release()[1].steps.get(step) == self.steps[step]

    def calibrate(self) -> None:
        """Held-out queries to cutpoints."""

        def run() -> None:
            from pipelines import calibrate

            folder = self.release()[0]
            calibrate.run(
                self.config, release=folder, embeddings=self.embeddings[0], key=self.steps["calibrate"], beam_args=self._beam_args
            )

        def tell() -> str:
            folder, manifest = self.release()
            record = files.read_json(releases.resolve(folder, manifest.file(CUTPOINTS_JSON)))
            cutpoints, missed = record["cutpoints"], record.get("unreached")
            if "optimal" not in cutpoints:
                return "queries carry no labels: no cutpoints"
            best = cutpoints["optimal"]
            return (
                f"{len(cutpoints)} cutpoints, optimal at distance {best['distance']:.4f} ({best['metric']} {best['value']:.4f})"
                + (f"; reached at no distance: {', '.join(missed)}" if missed else "")
            )

        self._release_step("calibrate", done=self._done("calibrate"), run=run, tell=tell)

    def evaluate(self) -> None:
        """Held-out queries to metrics, and the report."""

        def run() -> None:
            from pipelines import evaluate

            self._require("calibrate")
            folder = self.release()[0]
            evaluate.run(
                self.config, release=folder, embeddings=self.embeddings[0], key=self.steps["evaluate"], beam_args=self._beam_args
            )

        self._release_step("evaluate", done=self._done("evaluate"), run=run, tell=lambda: headline(self.metrics()))

        def report() -> None:
            from pipelines import report

            report.run(self.config, line=self, key=self.steps["report"])

        self._release_step("report", done=self._done("report"), run=report, tell=lambda: str(self.release()[0] / "report.html"))

    def dedupe(self) -> tuple[Path, GroupsInfo]:
        """Groups of near duplicates among the items of the release."""
        from pipelines import dedupe

        config, (release, manifest) = self.config, self.release()
        cutoff = dedupe.cutoff_of(config, release, manifest, calibrated=self._done("calibrate")())
        settings = {**_dump(config.dedupe), "distance": cutoff}
        key = self._key("dedupe", build=self.steps["build"], config=settings, search=_dump(config.search))
        folder = self.root / "dedupe" / key[:12]

        def run() -> None:
            embeddings, beam_args = self.embeddings[0], self._beam_args
            dedupe.run(config, release=release, embeddings=embeddings, folder=folder, key=key, cutoff=cutoff, beam_args=beam_args)

        def check() -> None:
            for file in GroupsInfo.load(folder).files:
                _check_size(folder, file.path, file.size)

        def tell() -> str:
            return f"{dedupe.told(GroupsInfo.load(folder))}; {folder}"

        self._release_step("dedupe", done=lambda: _whole(check), run=run, tell=tell)
        return folder, GroupsInfo.load(folder)

    def metrics(self) -> dict[str, float]:
        folder, manifest = self.release()
        return files.read_json(releases.resolve(folder, manifest.file("metrics.json")))["metrics"]

    def publish(self) -> releases.Pointer:
        """Makes this configuration's release live."""
        _, manifest = self.release()

        def done() -> bool:
            pointer = releases.read_pointer(self.root)
            if pointer is None or pointer.release != manifest.release:
                return False
            releases.open_live(self.root)  # refuses a manifest that was altered since
            return True

        def run() -> None:
            self._require("calibrate", "evaluate", "report")
            releases.publish(self.root, manifest.release)

        self._release_step("publish", done=done, run=run, tell=lambda: f"{manifest.release} is live")
        found = releases.read_pointer(self.root)
        assert found is not None
        return found

    def run(self) -> releases.Pointer:
        """All steps in order."""
        if self.has_encoder:
            self.shard()
            self.train()
        self.embed()
        self.build()
        self.calibrate()
        self.evaluate()
        return self.publish()


def _whole(check: Callable[[], None]) -> bool:
    """Whether a data set is there and its files have their sizes; a damaged one is made anew."""
    try:
        check()
    except ContractError:
        return False
    return True


def _check_size(folder: Path, name: str, size: int) -> None:
    path = files.inside(folder, name)
    if not path.exists() or path.stat().st_size != size:
        raise ContractError(f"{path}: missing, or not of {size} bytes", "run the step again")


def _dump(part: Any) -> Any:
    return part.model_dump(mode="json")


def headline(metrics: dict[str, float]) -> str:
    """The metrics that matter first, in one line."""
    first = [name for name in metrics if name.startswith(("ann_recall", "one_shot")) or name == "label_precision_at_1"]
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in first)
