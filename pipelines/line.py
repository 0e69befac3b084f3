"""The line: runs the steps of a configuration, each unless its result is there already (see `pipelines.line_keys`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.line_keys import LineKeys, dump
from simpipe import files, recording, releases
from simpipe.config import Config
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.data.examples import DatasetInfo, verify_dataset
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ContractError, ReleaseError
from simpipe.groups import GroupsInfo
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.training.encoder import EncoderInfo
from simpipe.verdict import Verdict

Say = Callable[[str], None]
_TRAIN_JSON = "train.json"  # see `simpipe.training.record`, which loads TensorFlow


class Line(LineKeys):
    """One configuration's steps. Each method runs its step, or says that it is unchanged, and returns its result."""

    def __init__(self, config: Config, beam_args: Sequence[str] = (), say: Say = print) -> None:
        if beam_args or config.runner.kind != "local":  # refused at once, also where every step is done already
            from simpipe.beam.options import check_options

            check_options(job_of(config, "build", beam_args))
        super().__init__(config)
        self._beam_args = beam_args
        self._say = say
        self._verdicts: dict[
            tuple[str, str | None], Verdict
        ] = {}  # of published releases and what was live: those are not written into

    # --- steps -----------------------------------------------------------------------------------------------------

    def _step(self, step: str, lock: str, *, done: Callable[[], bool], run: Callable[[], Any], tell: Callable[[], str]) -> None:
        """Runs a step unless its result is there. Two runs of one step take turns; the second finds it done."""

        def waiting() -> None:
            self._say(f"{step:<10} waiting: another process works on it")

        started = time.monotonic()
        with recording.step(step) as noted:
            with files.locked(self.root / ".locks" / lock, waiting):
                skipped = done()
                if not skipped:
                    run()
            noted.state, noted.detail = "skipped" if skipped else "done", tell()
        how = "skipped, unchanged" if skipped else f"done in {time.monotonic() - started:.1f} s"
        self._say(f"{step:<10} {how}: {noted.detail}")

    def _release_step(self, step: str, *, done: Callable[[], bool], run: Callable[[], Any], tell: Callable[[], str]) -> None:
        self._step(step, f"release-{self.steps['build'][:12]}", done=done, run=run, tell=tell)
        recording.note_release(self.release()[1])

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

        with recording.step("train") as noted:
            self._step("train", f"encoder-{folder.name}", done=lambda: _whole(check), run=run, tell=tell)
            info, record = EncoderInfo.load(folder), folder / _TRAIN_JSON
            steps = {"steps": files.read_json(record)["steps"]} if record.exists() else {}
            noted.numbers = {"epochs": len(info.history["loss"]), **steps, **info.metrics}
        return info

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
        settings = {**dump(config.dedupe), "distance": cutoff}
        key = self._key("dedupe", build=self.steps["build"], config=settings, search=dump(config.search))
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

    def gate(self) -> Verdict | None:
        """Judges the release against the limits and against what is live. A failed gate is told here, and refused by `publish`.

        Returns:
          The verdict; None for the live release itself, which was judged before.
        """
        from pipelines import gate

        self._require("calibrate", "evaluate", "report")
        found: Verdict | None = None

        def done() -> bool:
            nonlocal found
            found = self._judged()
            return self._is_live() or found is not None

        def run() -> None:
            nonlocal found
            folder, _, found = gate.judged(self.config, self.root, *self.release())
            if (folder / releases.PUBLISHED).exists():
                self._verdicts[found.release, found.against] = found

        def tell() -> str:
            return f"{self.release()[1].release} is live" if found is None else told(found)

        self._release_step("gate", done=done, run=run, tell=tell)
        if found is not None:
            recording.note_gate(found)
        return found

    def _judged(self) -> Verdict | None:
        """The verdict on the release as it is, against what is live now, if there is one."""
        from pipelines import gate

        folder, manifest = self.release()
        live, _ = gate.live_beside(self.root, manifest.release)
        key = gate.gate_key(self.config, manifest, live[1] if live else None)
        against = live[1].release if live else None
        return self._verdicts.get((manifest.release, against)) or gate.verdict_of(folder, manifest, key)

    def _is_live(self) -> bool:
        pointer = releases.read_pointer(self.root)
        if pointer is None or pointer.release != self.release()[1].release:
            return False
        releases.open_live(self.root)  # refuses a manifest that was altered since
        return True

    def publish(self, *, force: bool = False) -> releases.Pointer:
        """Makes this configuration's release live, once it was judged.

        Args:
          force: although a gate failed.

        Raises:
          GateFailedError: a gate failed; what is live stays.
        """
        from pipelines import gate

        verdict, was_live = None, self._is_live()
        if not was_live:
            self._require("calibrate", "evaluate", "report")
            verdict = self._judged() or self.gate()
            if verdict is not None:
                recording.note_gate(verdict)

        def run() -> None:
            assert verdict is not None
            gate.publish(self.root, *self.release(), verdict, force=force)

        def tell() -> str:
            forced = f", although gates failed: {', '.join(verdict.failed)}" if verdict is not None and verdict.failed else ""
            return f"{self.release()[1].release} is live{forced}"

        self._release_step("publish", done=self._is_live, run=run, tell=tell)
        recording.note(outcome="unchanged" if was_live else "published", message=tell())
        found = releases.read_pointer(self.root)
        assert found is not None
        return found

    def run(self) -> releases.Pointer:
        """All steps in order."""
        if self.config.gates.canaries is not None:
            from simpipe.canaries import load_canaries

            load_canaries(files.located(self.config.gates.canaries.path))  # a mistake in it is told at once
        if self.has_encoder:
            self.shard()
            self.train()
        self.embed()
        self.build()
        self.calibrate()
        self.evaluate()
        self.gate()
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


def told(verdict: Verdict) -> str:
    """A verdict in one line."""
    against = f"against {verdict.against}" if verdict.against else "with no live release to compare with"
    judged = sum(check.judged for check in verdict.checks)
    if verdict.passed:
        return f"{judged} gates passed, {against}"
    return f"{len(verdict.failed)} of {judged} gates FAILED, {against}: {', '.join(verdict.failed)}"


def headline(metrics: dict[str, float]) -> str:
    """The metrics that matter first, in one line."""
    first = [name for name in metrics if name.startswith(("ann_recall", "one_shot")) or name == "label_precision_at_1"]
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in first)
